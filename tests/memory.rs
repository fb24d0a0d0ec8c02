//! How much memory things take, counted by the allocator: what is cached, and never the device or the request.
//!
//! A binary of its own, since it replaces the global allocator, and counts one test at a time.

use async_trait::async_trait;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Waker};
use gibblox_cache::{
    CacheConfig, CacheOps, CachedBlockReader, MemoryCacheOps, PauseSwitch, WarmPlan,
};
use gibblox_cache_harness::{CountingAllocator, Device, count_allocations, ready};
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext};
use std::sync::{Mutex, PoisonError};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The counts are the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// What the test harness and the bookkeeping of a few runs may take beside what is measured.
const SLACK: u64 = 64 * KIB;

/// A backend that keeps nothing, so that only the reader's own memory is counted.
struct Forgetful;

#[async_trait]
impl CacheOps for Forgetful {
    async fn read_at(&self, _offset: u64, _out: &mut [u8]) -> GibbloxResult<usize> {
        Ok(0)
    }

    async fn write_at(&self, _offset: u64, _data: &[u8]) -> GibbloxResult<()> {
        Ok(())
    }

    async fn set_len(&self, _len: u64) -> GibbloxResult<()> {
        Ok(())
    }

    async fn flush(&self) -> GibbloxResult<()> {
        Ok(())
    }
}

/// A device whose every block cannot be read.
struct Broken(u64);

#[async_trait]
impl BlockReader for Broken {
    fn block_size(&self) -> u32 {
        64 << 10
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        Ok(self.0)
    }

    fn write_identity(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        out.write_str("broken")
    }

    async fn read_blocks(&self, _: u64, _: &mut [u8], _: ReadContext) -> GibbloxResult<usize> {
        Err(GibbloxError::new(GibbloxErrorKind::Io))
    }
}

fn open<S: BlockReader, C: CacheOps>(source: S, cache: C) -> CachedBlockReader<S, C> {
    ready(CachedBlockReader::new(source, cache)).expect("it opens")
}

#[test]
fn wrapping_four_terabytes_and_reading_a_block_costs_kilobytes_beside_the_bitmap() {
    const BLOCK: usize = 16 << 10;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::new(BLOCK, 4 * TIB / BLOCK as u64, BLOCK);
    let bitmap = device.blocks() / 8;
    let mut buf = vec![0; BLOCK];
    let (_reader, counted) = count_allocations(|| {
        let reader = open(device.clone(), MemoryCacheOps::new());
        let middle = device.blocks() / 2;
        let read = reader.read_blocks(middle, &mut buf, ReadContext::FOREGROUND);
        ready(read).expect("it reads");
        device.check(middle, &buf);
        reader
    });
    assert!(counted.peak_bytes <= bitmap + 256 * KIB, "{counted:?}");
    // And most of the bitmap is not there either, as long as there is nothing in it.
    assert!(counted.peak_bytes <= MIB, "{counted:?}");
}

#[test]
fn memory_grows_with_what_is_cached() {
    const BLOCK: usize = 4096;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::new(BLOCK, TIB / BLOCK as u64, 16 * BLOCK);
    let reader = open(device.clone(), MemoryCacheOps::new());
    let mut buf = vec![0; BLOCK];
    for count in [10, 100, 1000] {
        let ((), counted) = count_allocations(|| {
            for index in 0..count {
                let lba = (count * 10 + index) * 1000;
                ready(reader.read_blocks(lba, &mut buf, ReadContext::FOREGROUND))
                    .expect("it reads");
                device.check(lba, &buf);
            }
        });
        // A block far from all others takes a page of data, one of checksums and one of the bitmap, of up to 64 KiB.
        let most = i64::try_from(count * 200 * KIB + SLACK).unwrap_or(i64::MAX);
        assert!(counted.kept_bytes <= most, "{count} blocks: {counted:?}");
    }
}

#[test]
fn caching_a_whole_device_ahead_costs_a_few_windows_whatever_its_size() {
    const BLOCK: usize = 4096;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let windows = CacheConfig::new().windows_at_once();
    let window_bytes = 64 * KIB;
    for size in [MIB, 8 * MIB, 64 * MIB] {
        let device = Device::new(BLOCK, size / BLOCK as u64, 16 * BLOCK);
        let config = CacheConfig::new().with_window_bytes(64 << 10);
        let opening = CachedBlockReader::open(device.clone(), Forgetful, config);
        let reader = ready(opening).expect("it opens");
        let ((), counted) = count_allocations(|| {
            let all = reader.ensure_cached(0, device.blocks(), ReadContext::BACKGROUND);
            ready(all).expect("everything is cached");
        });
        assert_eq!(ready(reader.get_stats()).cached_blocks, device.blocks());
        let most = u64::from(windows) * window_bytes + SLACK;
        assert!(counted.peak_bytes <= most, "{size} bytes: {counted:?}");
    }
}

#[test]
fn warming_a_device_costs_the_windows_that_were_asked_for_whatever_its_size() {
    const BLOCK: usize = 4096;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let window_bytes = 64 * KIB;
    for (size, windows) in [(MIB, 8), (8 * MIB, 1), (64 * MIB, 8)] {
        let device = Device::new(BLOCK, size / BLOCK as u64, 16 * BLOCK);
        let config = CacheConfig::new().with_window_bytes(64 << 10);
        let opening = CachedBlockReader::open(device.clone(), Forgetful, config);
        let reader = ready(opening).expect("it opens");
        let mut told = 0;
        let (done, counted) = count_allocations(|| {
            let all = WarmPlan::device().with_windows_at_once(windows);
            ready(reader.warm_with_progress(all, |_| told += 1))
        });
        let done = done.expect("everything is cached");
        assert_eq!(done.fetched_blocks, device.blocks());
        assert_eq!(told, 1 + size / window_bytes);
        let most = u64::from(windows) * window_bytes + SLACK;
        assert!(counted.peak_bytes <= most, "{size} bytes: {counted:?}");
    }
}

#[test]
fn what_is_dropped_while_it_is_paused_leaves_nothing_behind() {
    const BLOCK: usize = 4096;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::new(BLOCK, 1 << 10, 16 * BLOCK);
    let reader = open(device, MemoryCacheOps::new());
    let pause = PauseSwitch::new();
    pause.pause();
    let mut context = Context::from_waker(Waker::noop());
    let ((), counted) = count_allocations(|| {
        for _ in 0..10_000 {
            let ahead = WarmPlan::device().with_pause(&pause);
            let warming = pin!(reader.warm(ahead));
            assert!(warming.poll(&mut context).is_pending());
        }
    });
    assert!(counted.kept_bytes <= 4096, "{counted:?}");
}

/// A file of the published crate's in which all blocks are valid and zero but the `missing` ones.
fn almost_full(identity: &str, block_size: u32, blocks: u64, missing: &[u64]) -> MemoryCacheOps {
    let memory = MemoryCacheOps::new();
    let mut header = b"GIBBLX!\x02\0\0\0\0".to_vec();
    header.extend(block_size.to_le_bytes());
    header.extend(blocks.to_le_bytes());
    header.extend(u32::try_from(identity.len()).unwrap_or(0).to_le_bytes());
    header.extend(identity.bytes());
    let mut bitmap = vec![0xFF; usize::try_from(blocks / 8).unwrap_or(0)];
    for lba in missing {
        bitmap[usize::try_from(lba / 8).unwrap_or(0)] &= !(1 << (lba % 8));
    }
    let bits_at = header.len() as u64;
    let data_at = bits_at + bitmap.len() as u64;
    ready(memory.write_at(0, &header)).expect("it writes");
    ready(memory.write_at(bits_at, &bitmap)).expect("it writes");
    ready(memory.set_len(data_at + blocks * u64::from(block_size))).expect("it grows");
    memory
}

#[test]
fn a_terabyte_that_is_almost_all_cached_costs_what_is_missing() {
    const BLOCK: usize = 64 << 10;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::new(BLOCK, TIB / BLOCK as u64, BLOCK);
    let missing = [0, 1, 77, device.blocks() / 2, device.blocks() - 1];
    let identity = gibblox_cache::cached_reader_identity_string(&device);
    let file = almost_full(&identity, 64 << 10, device.blocks(), &missing);
    let reader = open(device.clone(), file);
    let valid = device.blocks() - missing.len() as u64;
    assert_eq!(ready(reader.get_stats()).cached_blocks, valid);
    let (_, _) = device.take_counts();
    let ((), counted) = count_allocations(|| {
        let all = reader.ensure_cached(0, device.blocks(), ReadContext::BACKGROUND);
        ready(all).expect("everything is cached");
    });
    let blocks_read = device.take_counts().1;
    assert_eq!(blocks_read, missing.len() as u64);
    // What is fetched passes through up to four windows and stays in the backend.
    assert!(counted.peak_bytes <= 4 * MIB + 512 * KIB, "{counted:?}");
    assert_eq!(ready(reader.get_stats()).cached_blocks, device.blocks());
    let mut buf = vec![0; BLOCK];
    for lba in missing {
        ready(reader.read_blocks(lba, &mut buf, ReadContext::FOREGROUND)).expect("it reads");
        device.check(lba, &buf);
    }
}

#[test]
fn a_terabyte_whose_first_window_fails_costs_a_few_windows() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let reader = open(Broken(TIB / (64 * KIB)), Forgetful);
    let ((), counted) = count_allocations(|| {
        let all = reader.ensure_cached(0, TIB / (64 * KIB), ReadContext::BACKGROUND);
        ready(all).expect_err("the source fails");
    });
    assert!(counted.peak_bytes <= 4 * MIB + SLACK, "{counted:?}");
}

#[test]
fn a_scrub_costs_a_window_whatever_is_cached() {
    const BLOCK: usize = 4096;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for size in [MIB, 16 * MIB] {
        let device = Device::new(BLOCK, size / BLOCK as u64, 16 * BLOCK);
        let config = CacheConfig::new().with_window_bytes(128 << 10);
        let opening = CachedBlockReader::open(device.clone(), MemoryCacheOps::new(), config);
        let reader = ready(opening).expect("it opens");
        let all = reader.ensure_cached(0, device.blocks(), ReadContext::BACKGROUND);
        ready(all).expect("everything is cached");
        let (report, counted) = count_allocations(|| ready(reader.scrub()));
        assert_eq!(report.expect("it scrubs").intact_blocks, device.blocks());
        assert!(counted.peak_bytes <= 128 * KIB + SLACK, "{counted:?}");
    }
}

#[test]
fn what_is_overwritten_and_cut_off_again_and_again_takes_three_times_its_room_at_most() {
    const LEN: usize = 1 << 20;
    const UNIT: usize = 4096;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut data = vec![0; LEN];
    let (_memory, counted) = count_allocations(|| {
        let memory = MemoryCacheOps::new();
        for round in 0..39_u8 {
            data.fill(round);
            // In pieces that lie differently each time.
            let (at, piece) = [(10, LEN), (0, UNIT), (0, UNIT), (2000, 3 * UNIT), (7, 1000)]
                [usize::from(round) % 5];
            for at in (at..LEN).step_by(piece) {
                let bytes = &data[at..LEN.min(at + piece)];
                ready(memory.write_at(at as u64, bytes)).expect("it writes");
            }
            if round % 3 == 0 {
                ready(memory.set_len(0)).expect("it shrinks");
            }
        }
        memory
    });
    let kept = u64::try_from(counted.kept_bytes).unwrap_or(0);
    assert!(kept <= 3 * MIB + MIB / 4, "{counted:?}");
    assert!(
        kept > 5 * MIB / 2,
        "else the documentation says too much: {counted:?}"
    );
}

#[test]
fn a_piece_of_memory_far_from_all_others_costs_two_kib_beside_its_own() {
    const PIECES: u64 = 1000;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_memory, counted) = count_allocations(|| {
        let memory = MemoryCacheOps::new();
        for index in 0..PIECES {
            ready(memory.write_at(index * 17 * MIB, &[1; 4096])).expect("it writes");
        }
        memory
    });
    let most = i64::try_from(PIECES * 6600 + SLACK).unwrap_or(i64::MAX);
    assert!(counted.kept_bytes <= most, "{counted:?}");
}

/// The fewest calls of the allocator in a few attempts. What runs beside a test, the harness itself, only adds some.
fn fewest_calls(mut work: impl FnMut() -> u64) -> u64 {
    (0..5).map(|_| work()).min().unwrap_or(u64::MAX)
}

#[test]
fn bookkeeping_is_for_each_run_and_not_for_each_block() {
    const BLOCK: usize = 512;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let calls_for = |blocks: usize| {
        let device = Device::new(BLOCK, 1 << 20, 16 * BLOCK);
        let config = CacheConfig::new().with_flush_every_blocks(u32::MAX);
        let opening = CachedBlockReader::open(device.clone(), Forgetful, config);
        let reader = ready(opening).expect("it opens");
        let mut buf = vec![0; blocks * BLOCK];
        let ((), cold) = count_allocations(|| {
            let read = reader.read_blocks(0, &mut buf, ReadContext::FOREGROUND);
            ready(read).expect("it reads");
        });
        device.check(0, &buf);
        cold.calls
    };
    let few = fewest_calls(|| calls_for(100));
    let many = fewest_calls(|| calls_for(10_000));
    assert!(many <= few + 2, "{few} allocations, then {many}");
}

#[test]
fn a_warm_read_allocates_its_future_and_nothing_else() {
    const BLOCK: usize = 512;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::new(BLOCK, 1 << 16, 16 * BLOCK);
    let reader = open(device.clone(), MemoryCacheOps::new());
    let mut buf = vec![0; 1000 * BLOCK];
    ready(reader.read_blocks(500, &mut buf, ReadContext::FOREGROUND)).expect("it reads");
    for blocks in [1, 10, 1000] {
        let buf = &mut buf[..blocks * BLOCK];
        let calls = fewest_calls(|| {
            let ((), warm) = count_allocations(|| {
                let read = reader.read_blocks(500, buf, ReadContext::FOREGROUND);
                ready(read).expect("it reads");
            });
            warm.calls
        });
        device.check(500, buf);
        assert_eq!(calls, 1, "{blocks} blocks");
    }
}
