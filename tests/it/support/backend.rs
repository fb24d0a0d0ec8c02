//! A backend over plain bytes, which records its calls, waits at a gate and fails as it is told.

use super::gate::Gate;
use super::lock;
use async_trait::async_trait;
use core::fmt;
use core::ops::Range;
use gibblox_cache::CacheOps;
use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult};
use std::sync::{Arc, Mutex, MutexGuard};

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Read,
    Write,
    SetLen,
    Flush,
}

/// One call, numbered from 0 in the order of arrival. A `set_len` has its length as offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) index: usize,
    pub(crate) op: Op,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    /// The address of the buffer that is to be filled or written.
    pub(crate) place: usize,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// With an error, and nothing happened.
    Error,
    /// With an error, after half of the bytes were written. What is no write just fails.
    Torn,
    /// With an error, after half of the bytes were written and the other half became garbage. What is no write just
    /// fails.
    Garbage,
    /// With `Ok` and half of the bytes. What is no read fails as [`Torn`](Self::Torn).
    Short,
    /// With `Ok` and no byte, as if the end were here. What is no read fails as [`Torn`](Self::Torn).
    Empty,
    /// With a panic, after half of the work.
    Panic,
}

/// What `set_len` does, and what a write past the end does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// Grows up to this many bytes.
    UpTo(u64),
    /// Stays as it is, as a partition does: `set_len` changes nothing.
    Fixed,
}

type FaultOf = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

struct State {
    bytes: Vec<u8>,
    size: Size,
    calls: Vec<Call>,
    fault_of: FaultOf,
    /// The bytes that writes under way touch.
    writing: Vec<(usize, Range<u64>)>,
}

impl State {
    fn grow(&mut self, end: u64) -> GibbloxResult<()> {
        match self.size {
            _ if end <= self.bytes.len() as u64 => Ok(()),
            Size::UpTo(most) if end <= most => {
                self.bytes.resize(end as usize, 0);
                Ok(())
            }
            Size::UpTo(_) | Size::Fixed => Err(error("no space left")),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.grow(offset.saturating_add(data.len() as u64))?;
        let start = offset as usize;
        self.bytes[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    /// Copies what is there, and says how much that was.
    fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        let start = self.bytes.len().min(offset as usize);
        let count = out.len().min(self.bytes.len() - start);
        out[..count].copy_from_slice(&self.bytes[start..start + count]);
        count
    }
}

/// The error of a backend; its message starts with `backend:`.
pub(crate) fn error(what: &str) -> GibbloxError {
    GibbloxError::with_message(GibbloxErrorKind::Io, format!("backend: {what}"))
}

/// A backend over a vector. Reads and writes act in two halves, one before the gate and one behind it.
pub(crate) struct Backend {
    /// Every call passes here.
    pub(crate) gate: Gate<Call>,
    state: Mutex<State>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}

impl Backend {
    /// An empty backend that grows.
    pub(crate) fn new() -> Arc<Self> {
        Self::with_bytes(Vec::new())
    }

    /// A backend that an earlier one left behind.
    pub(crate) fn with_bytes(bytes: Vec<u8>) -> Arc<Self> {
        Self::with_size(bytes, Size::UpTo(u64::MAX))
    }

    /// An empty backend that refuses to grow beyond `most` bytes.
    pub(crate) fn capped(most: u64) -> Arc<Self> {
        Self::with_size(Vec::new(), Size::UpTo(most))
    }

    /// A backend that keeps its size, and holds `bytes` to begin with.
    pub(crate) fn partition(bytes: Vec<u8>) -> Arc<Self> {
        Self::with_size(bytes, Size::Fixed)
    }

    fn with_size(bytes: Vec<u8>, size: Size) -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::new(),
            state: Mutex::new(State {
                bytes,
                size,
                calls: Vec::new(),
                fault_of: Box::new(|_| None),
                writing: Vec::new(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What it holds now.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// Changes what it holds, behind everybody's back.
    pub(crate) fn edit(&self, edit: impl FnOnce(&mut Vec<u8>)) {
        edit(&mut self.state().bytes);
    }

    /// Where it holds these bytes.
    #[track_caller]
    pub(crate) fn find(&self, wanted: &[u8]) -> usize {
        let bytes = self.bytes();
        let mut windows = bytes.windows(wanted.len());
        let found = windows.position(|window| window == wanted);
        found.expect("the bytes are stored")
    }

    /// Changes a bit of these bytes, behind everybody's back.
    #[track_caller]
    pub(crate) fn damage(&self, bytes: &[u8]) {
        let at = self.find(bytes);
        self.edit(|bytes| bytes[at] ^= 1);
    }

    /// From now on each call fails as `fault_of` says of it.
    pub(crate) fn fail(&self, fault_of: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        self.state().fault_of = Box::new(fault_of);
    }

    /// Fails every call of this kind from now on.
    pub(crate) fn fail_all(&self, op: Op) {
        self.fail(move |call| (call.op == op).then_some(Fault::Error));
    }

    /// Fails every call from now on.
    pub(crate) fn die(&self) {
        self.fail(|_| Some(Fault::Error));
    }

    /// No call fails from now on.
    pub(crate) fn heal(&self) {
        self.fail(|_| None);
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// How many calls of this kind there were.
    pub(crate) fn count(&self, op: Op) -> usize {
        self.state()
            .calls
            .iter()
            .filter(|call| call.op == op)
            .count()
    }

    /// Forgets the calls so far; numbers start again at 0.
    pub(crate) fn forget(&self) {
        self.state().calls.clear();
    }

    fn begin(&self, op: Op, offset: u64, buf: &[u8]) -> (Call, Option<Fault>) {
        let mut state = self.state();
        let call = Call {
            index: state.calls.len(),
            op,
            offset,
            len: buf.len(),
            place: buf.as_ptr().addr(),
        };
        state.calls.push(call);
        let fault = (state.fault_of)(&call);
        (call, fault)
    }

    /// Notes a write as under way until the guard goes.
    fn begin_write(&self, call: Call) -> Writing<'_> {
        let range = call.offset..call.offset.saturating_add(call.len as u64);
        let mut state = self.state();
        let clash = state
            .writing
            .iter()
            .find(|(_, other)| other.start < range.end && range.start < other.end);
        assert!(
            clash.is_none(),
            "two writes under way touch the same bytes: {clash:?} and {call:?}"
        );
        state.writing.push((call.index, range));
        let index = call.index;
        Writing {
            backend: self,
            index,
        }
    }

    fn read_half(&self, offset: u64, out: &mut [u8]) -> usize {
        self.state().read(offset, out)
    }
}

struct Writing<'a> {
    backend: &'a Backend,
    index: usize,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut state = self.backend.state();
        let mut writing = state.writing.iter();
        let place = writing.position(|(index, _)| *index == self.index);
        state
            .writing
            .swap_remove(place.expect("noted when it began"));
    }
}

/// What a failing read leaves in the buffer: not zeros, not what was there.
fn scribble(out: &mut [u8]) {
    out.fill(0xA5);
}

#[async_trait]
impl CacheOps for Backend {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        let (call, fault) = self.begin(Op::Read, offset, out);
        let (first, second) = out.split_at_mut(call.len / 2);
        let behind = offset.saturating_add(first.len() as u64);
        let mut count = self.read_half(offset, first);
        self.gate.pass(call).await;
        count += self.read_half(behind, second);
        match fault {
            None => scribble(&mut out[count..]),
            Some(Fault::Panic) => panic!("the backend panics in call {}", call.index),
            Some(Fault::Short) => {
                count /= 2;
                scribble(&mut out[count..]);
            }
            Some(Fault::Empty) => {
                count = 0;
                scribble(out);
            }
            Some(Fault::Error | Fault::Torn | Fault::Garbage) => {
                scribble(out);
                return Err(error("cannot read"));
            }
        }
        Ok(count)
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        let (call, fault) = self.begin(Op::Write, offset, data);
        let _writing = self.begin_write(call);
        let (first, second) = data.split_at(data.len() / 2);
        let behind = offset.saturating_add(first.len() as u64);
        if fault != Some(Fault::Error) {
            self.state().write(offset, first)?;
        }
        self.gate.pass(call).await;
        match fault {
            None => self.state().write(behind, second),
            Some(Fault::Panic) => panic!("the backend panics in call {}", call.index),
            Some(fault) => {
                if fault == Fault::Garbage {
                    self.state().write(behind, &vec![0xB6; second.len()])?;
                }
                Err(error("cannot write"))
            }
        }
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        let (call, fault) = self.begin(Op::SetLen, len, &[]);
        self.gate.pass(call).await;
        match fault {
            None => {}
            Some(Fault::Panic) => panic!("the backend panics in call {}", call.index),
            Some(_) => return Err(error("cannot change the length")),
        }
        let mut state = self.state();
        if state.size != Size::Fixed {
            state.grow(len)?;
            state.bytes.truncate(len as usize);
        }
        Ok(())
    }

    async fn flush(&self) -> GibbloxResult<()> {
        let (call, fault) = self.begin(Op::Flush, 0, &[]);
        self.gate.pass(call).await;
        match fault {
            None => Ok(()),
            Some(Fault::Panic) => panic!("the backend panics in call {}", call.index),
            Some(_) => Err(error("cannot flush")),
        }
    }
}

/// The same backend for a reader that asks for answers without waiting. Its gate holds only what waits.
#[derive(Clone, Debug)]
pub(crate) struct Immediate(pub(crate) Arc<Backend>);

#[async_trait]
impl CacheOps for Immediate {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.0.read_at(offset, out).await
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.0.write_at(offset, data).await
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.0.set_len(len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.0.flush().await
    }

    fn read_now(&self, offset: u64, out: &mut [u8]) -> Option<GibbloxResult<usize>> {
        let (call, fault) = self.0.begin(Op::Read, offset, out);
        let count = self.0.read_half(offset, out);
        match fault {
            None => {
                scribble(&mut out[count..]);
                Some(Ok(count))
            }
            Some(Fault::Short) => {
                scribble(&mut out[count / 2..]);
                Some(Ok(count / 2))
            }
            Some(Fault::Empty) => {
                scribble(out);
                Some(Ok(0))
            }
            Some(Fault::Error | Fault::Torn | Fault::Garbage) => {
                scribble(out);
                Some(Err(error("cannot read")))
            }
            Some(Fault::Panic) => panic!("the backend panics in call {}", call.index),
        }
    }

    fn write_now(&self, offset: u64, data: &[u8]) -> Option<GibbloxResult<()>> {
        let (call, fault) = self.0.begin(Op::Write, offset, data);
        let _writing = self.0.begin_write(call);
        let half = data.len() / 2;
        let kept = match fault {
            None => data.to_vec(),
            Some(Fault::Error) => Vec::new(),
            Some(Fault::Torn | Fault::Short | Fault::Empty | Fault::Panic) => data[..half].to_vec(),
            Some(Fault::Garbage) => [&data[..half], &vec![0xB6; data.len() - half]].concat(),
        };
        let written = self.0.state().write(offset, &kept);
        Some(match fault {
            None => written,
            Some(Fault::Panic) => panic!("the backend panics in call {}", call.index),
            Some(_) => Err(error("cannot write")),
        })
    }
}
