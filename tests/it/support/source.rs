//! A source whose bytes follow from a seed, which counts its calls, waits at a gate and fails as it is told.

use super::gate::Gate;
use super::lock;
use super::rng::mix;
use async_trait::async_trait;
use core::fmt;
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// `total_blocks`
    Size,
    /// `read_blocks`
    Read,
}

/// One call, numbered from 0 in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) index: usize,
    pub(crate) op: Op,
    pub(crate) lba: u64,
    pub(crate) blocks: u64,
    pub(crate) ctx: ReadContext,
    /// The address of the buffer that is to be filled.
    pub(crate) place: usize,
}

impl Call {
    /// Does the call want this block?
    pub(crate) fn touches(&self, lba: u64) -> bool {
        self.op == Op::Read && (self.lba..self.lba + self.blocks).contains(&lba)
    }
}

/// How a call fails.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// With this error, after half of the buffer was scribbled on.
    Error(GibbloxError),
    /// With `Ok` and this many bytes too few.
    Short(usize),
    /// With a panic.
    Panic,
}

impl Fault {
    /// An error that no one else makes.
    pub(crate) fn io(message: &str) -> Self {
        Self::Error(GibbloxError::with_message(GibbloxErrorKind::Io, message))
    }
}

type FaultOf = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

struct State {
    calls: Vec<Call>,
    fault_of: FaultOf,
    running: usize,
    peak: usize,
}

/// A block device that exists only as a function.
pub(crate) struct Source {
    seed: u64,
    /// How often the content was replaced by another one, under the same identity.
    generation: AtomicU64,
    block_size: u32,
    total_blocks: u64,
    identity: String,
    /// Every call passes here, after it filled the first half of its buffer.
    pub(crate) gate: Gate<Call>,
    state: Mutex<State>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

/// The bytes of one block.
fn fill_block(seed: u64, lba: u64, out: &mut [u8]) {
    let mut word = mix(seed) ^ mix(!lba);
    for chunk in out.chunks_mut(8) {
        word = mix(word);
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}

impl Source {
    pub(crate) fn new(seed: u64, block_size: u32, total_blocks: u64) -> Arc<Self> {
        Self::with_identity(seed, block_size, total_blocks, &format!("source-{seed}"))
    }

    pub(crate) fn with_identity(
        seed: u64,
        block_size: u32,
        total_blocks: u64,
        identity: &str,
    ) -> Arc<Self> {
        Arc::new(Self {
            seed,
            generation: AtomicU64::new(0),
            block_size,
            total_blocks,
            identity: identity.to_owned(),
            gate: Gate::new(),
            state: Mutex::new(State {
                calls: Vec::new(),
                fault_of: Box::new(|_| None),
                running: 0,
                peak: 0,
            }),
        })
    }

    /// The device's length in blocks, without asking it.
    pub(crate) fn blocks(&self) -> u64 {
        self.total_blocks
    }

    /// Replaces the content of every block; gives back which one it is now.
    pub(crate) fn renew(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// How often the content was replaced.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// What these blocks hold.
    pub(crate) fn bytes(&self, lba: u64, blocks: u64) -> Vec<u8> {
        self.bytes_of(self.generation(), lba, blocks)
    }

    /// What these blocks held when the content had been replaced so often.
    pub(crate) fn bytes_of(&self, generation: u64, lba: u64, blocks: u64) -> Vec<u8> {
        let seed = self.seed ^ generation << 32;
        let block_size = self.block_size as usize;
        let mut bytes = vec![0; blocks as usize * block_size];
        for (block, lba) in bytes.chunks_mut(block_size).zip(lba..) {
            fill_block(seed, lba, block);
        }
        bytes
    }

    /// Compares `bytes` with what the source holds from `lba` on, and names the first block that differs.
    #[track_caller]
    pub(crate) fn assert_bytes(&self, lba: u64, bytes: &[u8]) {
        let block_size = self.block_size as usize;
        let expected = self.bytes(lba, (bytes.len() / block_size) as u64);
        let blocks = bytes.chunks(block_size).zip(expected.chunks(block_size));
        for ((got, want), lba) in blocks.zip(lba..) {
            assert!(got == want, "wrong bytes in block {lba}: {got:02x?}");
        }
    }

    /// The generation of each block in `bytes`, the newest where several have the same bytes.
    #[track_caller]
    pub(crate) fn generations(&self, lba: u64, bytes: &[u8]) -> Vec<u64> {
        let blocks = bytes.chunks(self.block_size as usize).zip(lba..);
        let generation = |(block, lba): (&[u8], u64)| {
            let mut all = (0..=self.generation()).rev();
            all.find(|generation| self.bytes_of(*generation, lba, 1) == block)
                .unwrap_or_else(|| panic!("block {lba} never held {block:02x?}"))
        };
        blocks.map(generation).collect()
    }

    /// From now on each call fails as `fault_of` says of it.
    pub(crate) fn fail(&self, fault_of: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        lock(&self.state).fault_of = Box::new(fault_of);
    }

    /// Fails each read of this block with this message.
    pub(crate) fn fail_block(&self, lba: u64, message: &str) {
        let fault = Fault::io(message);
        self.fail(move |call| call.touches(lba).then(|| fault.clone()));
    }

    /// No call fails from now on.
    pub(crate) fn heal(&self) {
        self.fail(|_| None);
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        lock(&self.state).calls.clone()
    }

    /// First block and length of each read so far, in the order of arrival.
    pub(crate) fn reads(&self) -> Vec<(u64, u64)> {
        let state = lock(&self.state);
        let reads = state.calls.iter().filter(|call| call.op == Op::Read);
        reads.map(|call| (call.lba, call.blocks)).collect()
    }

    /// How often each block was asked for.
    pub(crate) fn fetches(&self) -> Vec<usize> {
        let mut fetches = vec![0; self.total_blocks as usize];
        for (lba, blocks) in self.reads() {
            for block in lba..lba + blocks {
                fetches[block as usize] += 1;
            }
        }
        fetches
    }

    /// The most calls that were under way at once.
    pub(crate) fn peak(&self) -> usize {
        lock(&self.state).peak
    }

    /// Forgets the calls so far; numbers start again at 0.
    pub(crate) fn forget(&self) {
        let mut state = lock(&self.state);
        state.calls.clear();
        state.peak = state.running;
    }

    fn begin(&self, op: Op, (lba, blocks): (u64, u64), ctx: ReadContext, place: usize) -> Call {
        let mut state = lock(&self.state);
        let call = Call {
            index: state.calls.len(),
            op,
            lba,
            blocks,
            ctx,
            place,
        };
        state.calls.push(call);
        state.running += 1;
        state.peak = state.peak.max(state.running);
        call
    }

    /// Whether the call fails is settled when it is let go: an error is never older than its arrival.
    fn fault(&self, call: &Call) -> Option<Fault> {
        (lock(&self.state).fault_of)(call)
    }
}

/// Counts a call as over, however it ends.
struct Running<'a>(&'a Source);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).running -= 1;
    }
}

#[async_trait]
impl BlockReader for Source {
    fn block_size(&self) -> u32 {
        self.block_size
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        let call = self.begin(Op::Size, (0, 0), ReadContext::default(), 0);
        let _running = Running(self);
        self.gate.pass(call).await;
        match self.fault(&call) {
            Some(Fault::Error(error)) => Err(error),
            Some(Fault::Panic) => panic!("the source panics in call {}", call.index),
            Some(Fault::Short(_)) | None => Ok(self.total_blocks),
        }
    }

    fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str(&self.identity)
    }

    async fn read_blocks(
        &self,
        lba: u64,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<usize> {
        let blocks = buf.len() as u64 / u64::from(self.block_size);
        assert!(blocks > 0, "the cache asks for something");
        assert_eq!(buf.len() % self.block_size as usize, 0, "whole blocks");
        assert!(lba + blocks <= self.total_blocks, "inside the device");
        let call = self.begin(Op::Read, (lba, blocks), ctx, buf.as_ptr().addr());
        let _running = Running(self);
        let bytes = self.bytes(lba, blocks);
        let half = buf.len() / 2;
        buf[..half].copy_from_slice(&bytes[..half]);
        self.gate.pass(call).await;
        match self.fault(&call) {
            None => {
                buf[half..].copy_from_slice(&bytes[half..]);
                Ok(buf.len())
            }
            Some(Fault::Error(error)) => {
                buf[..half].fill(0xE7);
                Err(error)
            }
            Some(Fault::Short(missing)) => {
                let kept = buf.len().saturating_sub(missing);
                buf.copy_from_slice(&bytes);
                buf[kept..].fill(0xE7);
                Ok(kept)
            }
            Some(Fault::Panic) => panic!("the source panics in call {}", call.index),
        }
    }
}
