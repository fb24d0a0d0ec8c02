//! Nothing runs for long in one poll because everything is ready: the next task of the same thread gets its turn.
//!
//! Work is counted in windows or in calls of the backend, not in time.

use super::{cached_blocks, today};
use crate::support::{Backend, Poller, Source, finish, open, open_with, read};
use async_trait::async_trait;
use core::future::Future;
use core::sync::atomic::{AtomicU64, Ordering};
use gibblox_cache::{CacheConfig, CacheOps, CachedBlockReader, MemoryCacheOps};
use gibblox_cache_harness::Device;
use gibblox_core::{GibbloxResult, ReadContext};
use std::sync::Arc;

const BLOCK: u32 = 16;
/// Each of them a window.
const WINDOWS: u64 = 4096;
/// Some tens, beside what was begun at once.
const MOST: u64 = 128;

/// Drives `future` to its end; the most that `work` grew in one poll.
fn most_in_one_poll<T>(future: impl Future<Output = T>, work: impl Fn() -> u64) -> (T, u64) {
    let mut poller = Poller::new();
    let task = poller.spawn(future);
    let mut most = 0;
    while !poller.is_done(task) {
        assert_eq!(poller.woken(), [task], "it is ready, and waits for nothing");
        let before = work();
        poller.poll(task);
        most = most.max(work() - before);
    }
    (poller.take(task), most)
}

type MemoryReader = CachedBlockReader<Arc<Source>, MemoryCacheOps>;

fn windowed(window: u32) -> CacheConfig {
    CacheConfig::new()
        .with_window_bytes(window)
        .with_flush_every_blocks(u32::MAX)
}

fn in_memory(blocks: u64) -> (Arc<Source>, MemoryReader) {
    let source = Source::new(6, BLOCK, blocks);
    let cache = MemoryCacheOps::new();
    let opening = CachedBlockReader::open(Arc::clone(&source), cache, windowed(BLOCK));
    (source, finish(opening).expect("it opens"))
}

#[test]
fn a_warming_lets_others_have_their_turn_after_some_windows() {
    for windows_at_once in [1, 4, 64] {
        let (_source, reader) = in_memory(WINDOWS);
        let fetched = AtomicU64::new(0);
        let switch = today::Switch::new();
        let warming = today::warm_device(&reader, windows_at_once, &switch, |progress| {
            fetched.store(progress.fetched_blocks, Ordering::SeqCst);
        });
        let (warmed, most) = most_in_one_poll(warming, || fetched.load(Ordering::SeqCst));
        assert_eq!(warmed.expect("a well source").done_blocks, WINDOWS);
        let room = MOST + u64::from(windows_at_once);
        assert!(
            most <= room,
            "{most} windows of {windows_at_once} at once in one poll"
        );
    }
}

#[test]
fn ensuring_a_range_lets_others_have_their_turn_after_some_windows() {
    let (source, reader) = in_memory(WINDOWS);
    let ensuring = reader.ensure_cached(0, WINDOWS, ReadContext::BACKGROUND);
    let (ensured, most) = most_in_one_poll(ensuring, || source.reads().len() as u64);
    ensured.expect("a well source");
    assert!(most <= MOST, "{most} windows in one poll");
}

#[test]
fn a_reader_on_the_same_thread_is_served_while_a_device_is_warmed() {
    for windows_at_once in [1, 4, 64] {
        let (source, reader) = in_memory(WINDOWS);
        let fetched = AtomicU64::new(0);
        let when_served = AtomicU64::new(u64::MAX);
        let switch = today::Switch::new();
        let mut poller = Poller::new();
        poller.spawn(async {
            let count = |progress: &gibblox_cache::WarmProgress| {
                fetched.store(progress.fetched_blocks, Ordering::SeqCst);
            };
            let warming = today::warm_device(&reader, windows_at_once, &switch, count);
            warming.await.expect("a well source");
        });
        poller.spawn(async {
            let bytes = read(&reader, WINDOWS - 1, 1).await.expect("a well source");
            source.assert_bytes(WINDOWS - 1, &bytes);
            when_served.store(fetched.load(Ordering::SeqCst), Ordering::SeqCst);
        });
        poller.run_to_end();
        let after = when_served.load(Ordering::SeqCst);
        let room = MOST + u64::from(windows_at_once);
        assert!(
            after <= room,
            "served after {after} windows, {windows_at_once} at once"
        );
    }
}

#[test]
fn a_pause_from_the_same_thread_holds_a_warming_after_some_windows() {
    for windows_at_once in [1, 4, 64] {
        let (_source, reader) = in_memory(WINDOWS);
        let switch = today::Switch::new();
        let mut poller = Poller::new();
        poller.spawn(async {
            let warming = today::warm_device(&reader, windows_at_once, &switch, |_| ());
            warming.await.expect("a well source");
        });
        poller.spawn(async { switch.pause() });
        poller.run();
        let fetched = cached_blocks(&reader);
        let room = MOST + 2 * u64::from(windows_at_once);
        assert!(
            fetched <= room,
            "held after {fetched} windows, {windows_at_once} at once"
        );
        switch.resume();
        poller.run_to_end();
        assert_eq!(cached_blocks(&reader), WINDOWS);
    }
}

#[test]
fn a_scrub_lets_others_have_their_turn_after_some_windows() {
    let (_source, reader) = in_memory(WINDOWS);
    let bytes = finish(read(&reader, 0, WINDOWS));
    assert!(bytes.is_ok(), "a well source");
    let scanned = AtomicU64::new(0);
    let scrubbing = today::scrub(&reader, |report| {
        scanned.store(report.scanned_blocks, Ordering::SeqCst);
    });
    let (scrubbed, most) = most_in_one_poll(scrubbing, || scanned.load(Ordering::SeqCst));
    assert_eq!(scrubbed.expect("a well backend").intact_blocks, WINDOWS);
    assert!(most <= MOST, "{most} windows in one poll");
}

#[test]
fn clearing_lets_others_have_their_turn_after_some_calls() {
    const BLOCKS: u64 = 1 << 18;
    let (source, backend) = (Source::new(6, BLOCK, BLOCKS), Backend::new());
    let reader = open_with(&source, &backend, windowed(1 << 20));
    finish(reader.ensure_cached(0, BLOCKS, ReadContext::BACKGROUND)).expect("a well source");
    for all in [false, true] {
        backend.forget();
        let calls = || backend.calls().len() as u64;
        let (dropped, most) = if all {
            most_in_one_poll(reader.clear(), calls)
        } else {
            most_in_one_poll(reader.invalidate(7, BLOCKS - 9), calls)
        };
        dropped.expect("a well backend");
        assert!(most <= 4 * MOST, "{most} calls in one poll, all {all}");
    }
}

#[test]
fn clearing_a_device_writes_little() {
    const BLOCKS: u64 = 1 << 18;
    let (source, backend) = (Source::new(6, BLOCK, BLOCKS), Backend::new());
    let reader = open_with(&source, &backend, windowed(1 << 20));
    finish(reader.ensure_cached(0, BLOCKS, ReadContext::BACKGROUND)).expect("a well source");
    backend.forget();
    finish(reader.clear()).expect("a well backend");
    let writes = backend.calls().into_iter();
    let written: usize = writes
        .filter(|call| call.op == crate::support::backend::Op::Write)
        .map(|call| call.len)
        .sum();
    assert!(written <= 64 << 10, "{written} bytes for {BLOCKS} blocks");
}

/// Counts what is read, in bytes.
struct Counted<'a>(&'a MemoryCacheOps, &'a AtomicU64);

#[async_trait]
impl CacheOps for Counted<'_> {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.1.fetch_add(out.len() as u64, Ordering::SeqCst);
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
}

#[test]
fn opening_a_large_file_lets_others_have_their_turn_after_some_megabytes() {
    const BLOCKS: u64 = 1 << 28;
    let (memory, read_bytes) = (MemoryCacheOps::new(), AtomicU64::new(0));
    let device = Device::new(512, BLOCKS, 512);
    // Made first, and found then.
    for found in [false, true] {
        let cache = Counted(&memory, &read_bytes);
        let opening = CachedBlockReader::new(device.clone(), cache);
        let (opened, most) = most_in_one_poll(opening, || read_bytes.load(Ordering::SeqCst));
        assert!(opened.is_ok(), "a well source");
        assert!(most <= 8 << 20, "{most} bytes in one poll, found {found}");
    }
}

#[test]
fn looking_for_what_is_missing_on_a_large_device_lets_others_have_their_turn() {
    // All of it is valid, so there is nothing to do but to look.
    const BLOCKS: u64 = 1 << 26;
    let memory = MemoryCacheOps::new();
    let device = Device::new(512, BLOCKS, 512);
    drop(finish(CachedBlockReader::new(device.clone(), Shared(&memory))).expect("it opens"));
    let mut header = [0; 28];
    finish(memory.read_at(0, &mut header)).expect("memory");
    let identity = u32::from_le_bytes(header[24..].try_into().expect("four bytes"));
    let ones = vec![0xFF; (BLOCKS / 8) as usize];
    finish(memory.write_at(28 + u64::from(identity), &ones)).expect("memory");
    let reader = finish(CachedBlockReader::new(device, Shared(&memory))).expect("it opens");
    let reader = &reader;
    let switch = today::Switch::new();
    for warm in [false, true] {
        let polls = AtomicU64::new(0);
        let looking = async {
            if warm {
                let warming = today::warm_device(reader, 4, &switch, |_| ());
                warming.await.map(|_| ())
            } else {
                let ensuring = reader.ensure_cached(0, BLOCKS, ReadContext::BACKGROUND);
                ensuring.await
            }
        };
        let mut poller = Poller::new();
        let task = poller.spawn(looking);
        while !poller.is_done(task) {
            polls.fetch_add(1, Ordering::SeqCst);
            poller.poll(task);
        }
        poller.take(task).expect("it is all there");
        let polls = polls.load(Ordering::SeqCst);
        assert!(polls >= 4, "{BLOCKS} blocks in {polls} polls, warm {warm}");
    }
}

/// A backend that is lent.
struct Shared<'a>(&'a MemoryCacheOps);

#[async_trait]
impl CacheOps for Shared<'_> {
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
}

#[test]
fn a_read_with_many_holes_lets_others_have_their_turn() {
    const BLOCKS: u64 = 1 << 13;
    let (source, backend) = (Source::new(6, BLOCK, BLOCKS), Backend::new());
    let reader = open(&source, &backend);
    for lba in (0..BLOCKS).step_by(2) {
        finish(read(&reader, lba, 1)).expect("a well source");
    }
    source.forget();
    let reading = read(&reader, 0, BLOCKS);
    let (bytes, most) = most_in_one_poll(reading, || source.reads().len() as u64);
    source.assert_bytes(0, &bytes.expect("a well source"));
    assert!(most <= 4 * MOST, "{most} fetches in one poll");
}
