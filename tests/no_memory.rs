//! A heap that refuses a buffer: no memory is not damage, and no block is lost by it.
//!
//! A binary of its own, since it replaces the global allocator. Only buffers of bytes are refused: those for checksums,
//! bits, pieces of the bitmap and windows.

#![allow(
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    clippy::cast_possible_truncation,
    reason = "tests run with std on hosts, and a panic is how they fail"
)]

use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use gibblox_cache::{CacheConfig, CacheOps, CachedBlockReader, MemoryCacheOps, OfflinePolicy};
use gibblox_cache_harness::{Device, RefusingAllocator, refuse};
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[global_allocator]
static ALLOCATOR: RefusingAllocator = RefusingAllocator;

const BLOCK: usize = 512;
const BLOCKS: u64 = 64;
/// From here on a buffer is refused. What is shorter are messages and the like.
const SHORTEST: usize = 128;

/// A device that may be out of reach.
#[derive(Clone)]
struct Remote(Device, Arc<AtomicBool>);

impl Remote {
    fn new() -> Self {
        let device = Device::new(BLOCK, BLOCKS, BLOCKS as usize * BLOCK);
        Self(device, Arc::new(AtomicBool::new(true)))
    }

    fn set_reachable(&self, is_reachable: bool) {
        self.1.store(is_reachable, Ordering::SeqCst);
    }

    fn ask(&self) -> GibbloxResult<()> {
        if self.1.load(Ordering::SeqCst) {
            Ok(())
        } else {
            Err(GibbloxError::new(GibbloxErrorKind::Unsupported))
        }
    }
}

#[async_trait::async_trait]
impl BlockReader for Remote {
    fn block_size(&self) -> u32 {
        self.0.block_size()
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        self.ask()?;
        self.0.total_blocks().await
    }

    fn write_identity(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        self.0.write_identity(out)
    }

    async fn read_blocks(
        &self,
        lba: u64,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<usize> {
        self.ask()?;
        self.0.read_blocks(lba, buf, ctx).await
    }
}

type Reader = CachedBlockReader<Remote, Arc<MemoryCacheOps>>;

/// Polls until it is done: it may give others their turn.
fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..1_000_000 {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("stuck");
}

fn open(remote: &Remote, backend: &Arc<MemoryCacheOps>) -> GibbloxResult<Reader> {
    let config = CacheConfig::new().with_offline(OfflinePolicy::ServeCached);
    finish(CachedBlockReader::open(
        remote.clone(),
        Arc::clone(backend),
        config,
    ))
}

/// A file that an earlier process filled.
fn full() -> (Remote, Arc<MemoryCacheOps>) {
    let (remote, backend) = (Remote::new(), Arc::new(MemoryCacheOps::new()));
    let reader = open(&remote, &backend).expect("a well source");
    finish(reader.ensure_cached(0, BLOCKS, ReadContext::BACKGROUND)).expect("a well source");
    drop(reader);
    let _ = remote.0.take_counts();
    (remote, backend)
}

fn read(reader: &Reader, lba: u64, buf: &mut [u8]) -> GibbloxResult<usize> {
    finish(reader.read_blocks(lba, buf, ReadContext::FOREGROUND))
}

/// How many blocks are served, with the right bytes.
fn served(remote: &Remote, reader: &Reader) -> u64 {
    let mut buf = [0; BLOCK];
    let mut served = 0;
    for lba in 0..BLOCKS {
        if read(reader, lba, &mut buf).is_ok() {
            remote.0.check(lba, &buf);
            served += 1;
        }
    }
    served
}

/// How many blocks the next process over the file has.
fn in_file(remote: &Remote, backend: &Arc<MemoryCacheOps>) -> u64 {
    remote.set_reachable(false);
    let reader = open(remote, backend).expect("there is a file");
    let served = served(remote, &reader);
    remote.set_reachable(true);
    served
}

fn cached(reader: &Reader) -> u64 {
    finish(reader.get_stats()).cached_blocks
}

/// All buffers of so many bytes, then each one for itself while there are any.
fn sweep(mut case: impl FnMut(core::ops::RangeInclusive<usize>, Option<u64>) -> u64) {
    let sums = 8 * BLOCKS as usize;
    case(sums..=sums, None);
    case(SHORTEST..=usize::MAX, None);
    for number in 0.. {
        if case(SHORTEST..=usize::MAX, Some(number)) <= number {
            break;
        }
    }
}

/// Gathers what is wrong, so that a failure tells of all.
#[derive(Default)]
struct Findings(Vec<String>, usize);

impl Findings {
    fn check(&mut self, is_right: bool, what: String) {
        self.1 += 1;
        if !is_right {
            self.0.push(what);
        }
    }

    #[track_caller]
    fn end(self) {
        let Self(wrong, cases) = self;
        let count = wrong.len();
        assert!(wrong.is_empty(), "{count} of {cases} are wrong: {wrong:#?}");
    }
}

#[test]
fn a_scrub_without_memory_for_checksums_drops_nothing_and_says_so() {
    let mut findings = Findings::default();
    sweep(|sizes, number| {
        let (remote, backend) = full();
        let reader = open(&remote, &backend).expect("a well source");
        let (scrubbed, asked) = refuse(sizes.clone(), number, || finish(reader.scrub()));
        let is_refused = number.is_none_or(|number| number < asked);
        let kind = scrubbed.as_ref().err().map(GibbloxError::kind);
        // Or it has managed with less.
        let intact = scrubbed.as_ref().map_or(0, |report| report.intact_blocks);
        let told = !is_refused || kind == Some(GibbloxErrorKind::Other) || intact == BLOCKS;
        let valid = cached(&reader);
        drop(reader);
        let there = in_file(&remote, &backend);
        findings.check(
            told && valid == BLOCKS && there == BLOCKS,
            format!(
                "{sizes:?} {number:?} of {asked}: {kind:?}, {valid} valid, {there} in the file"
            ),
        );
        asked
    });
    findings.end();
}

#[test]
fn an_offline_read_without_memory_for_checksums_loses_nothing() {
    let mut findings = Findings::default();
    sweep(|sizes, number| {
        let (remote, backend) = full();
        remote.set_reachable(false);
        let reader = open(&remote, &backend).expect("there is a file");
        let mut buf = vec![0; BLOCKS as usize * BLOCK];
        let (_, asked) = refuse(sizes.clone(), number, || read(&reader, 0, &mut buf));
        let now = served(&remote, &reader);
        drop(reader);
        let there = in_file(&remote, &backend);
        findings.check(
            now == BLOCKS && there == BLOCKS,
            format!("{sizes:?} {number:?} of {asked}: {now} served, {there} in the file"),
        );
        asked
    });
    findings.end();
}

#[test]
fn an_online_read_without_memory_for_checksums_goes_past_the_cache_and_loses_nothing() {
    let mut findings = Findings::default();
    sweep(|sizes, number| {
        let (remote, backend) = full();
        let reader = open(&remote, &backend).expect("a well source");
        let mut buf = vec![0; BLOCKS as usize * BLOCK];
        let (answer, asked) = refuse(sizes.clone(), number, || read(&reader, 0, &mut buf));
        answer.expect("a well source");
        remote.0.check(0, &buf);
        let valid = cached(&reader);
        let _ = remote.0.take_counts();
        served(&remote, &reader);
        let (_, fetched) = remote.0.take_counts();
        drop(reader);
        let there = in_file(&remote, &backend);
        findings.check(
            valid == BLOCKS && fetched == 0 && there == BLOCKS,
            format!(
                "{sizes:?} {number:?} of {asked}: {valid} valid, {fetched} fetched later, {there} in the file"
            ),
        );
        asked
    });
    findings.end();
}

#[test]
fn opening_without_memory_loses_nothing() {
    let mut findings = Findings::default();
    for offline in [false, true] {
        for number in 0.. {
            let (remote, backend) = full();
            remote.set_reachable(!offline);
            // Also what is short: the header.
            let (opened, asked) = refuse(72..=usize::MAX, Some(number), || open(&remote, &backend));
            let reader = opened
                .or_else(|_| open(&remote, &backend))
                .expect("it opens");
            let now = served(&remote, &reader);
            let (_, fetched) = remote.0.take_counts();
            drop(reader);
            let there = in_file(&remote, &backend);
            findings.check(
                now == BLOCKS && fetched <= 1 && there == BLOCKS,
                format!(
                    "offline {offline}, {number} of {asked}: {now} served, {fetched} fetched, {there} in the file"
                ),
            );
            if asked <= number {
                break;
            }
        }
    }
    findings.end();
}

#[test]
fn storing_without_memory_serves_the_bytes_and_keeps_what_was_cached() {
    let mut findings = Findings::default();
    sweep(|sizes, number| {
        let (remote, backend) = (Remote::new(), Arc::new(MemoryCacheOps::new()));
        let reader = open(&remote, &backend).expect("a well source");
        let mut block = [0; BLOCK];
        read(&reader, BLOCKS - 1, &mut block).expect("a well source");
        let mut buf = vec![0; (BLOCKS as usize - 1) * BLOCK];
        // Not what the memory of the backend is made of.
        let sizes = *sizes.start()..=(*sizes.end()).min(1 << 10);
        let (answer, asked) = refuse(sizes.clone(), number, || read(&reader, 0, &mut buf));
        answer.expect("a well source");
        remote.0.check(0, &buf);
        let kept = reader.is_cached(BLOCKS - 1, 1).expect("on the device");
        let now = served(&remote, &reader);
        drop(reader);
        let there = in_file(&remote, &backend);
        findings.check(
            kept && now == BLOCKS && there == BLOCKS,
            format!(
                "{sizes:?} {number:?} of {asked}: kept {kept}, {now} served, {there} in the file"
            ),
        );
        asked
    });
    findings.end();
}

#[test]
fn the_heap_refuses_what_it_is_told_to() {
    let ask = || {
        let mut bytes: Vec<u8> = Vec::new();
        bytes.try_reserve_exact(1000).is_ok()
    };
    assert!(ask());
    assert_eq!(refuse(1000..=1000, None, ask), (false, 1));
    assert_eq!(refuse(1001..=2000, None, ask), (true, 0));
    assert_eq!(refuse(1000..=1000, Some(0), ask), (false, 1));
    assert_eq!(refuse(1000..=1000, Some(1), ask), (true, 1));
    let backend: &dyn CacheOps = &MemoryCacheOps::new();
    finish(backend.write_at(0, &[1; 4096])).expect("memory");
}
