//! A Cortex-M4 without an operating system reads a slow device through the cache.
//!
//! Runs under `qemu-system-arm -machine mps2-an386`. Reports through semihosting, and its exit code is 0 when every
//! claim held.

#![no_std]
#![no_main]

extern crate alloc;

mod device;
mod executor;
mod heap;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use core::cell::Cell;
use core::sync::atomic::Ordering;

// Brings the critical section that the allocator takes.
use cortex_m as _;
use cortex_m_rt::{ExceptionFrame, entry, exception};
use gibblox_cache::{CacheConfig, CachedBlockReader, MemoryCacheOps};
use gibblox_core::{BlockReader, GibbloxErrorKind, ReadContext};
use semihosting::{println, process};

use device::{BLOCK_BYTES, SlowDevice, fill};
use executor::{Task, finish, poll_once};

type Reader = CachedBlockReader<Arc<SlowDevice>, Arc<MemoryCacheOps>>;
type Claim = Result<(), &'static str>;

fn expect(holds: bool, claim: &'static str) -> Claim {
    if holds { Ok(()) } else { Err(claim) }
}

/// Reads `blocks` blocks and compares them. `None` is an error or a read that waits for ever.
fn right(reader: &Reader, lba: u64, blocks: usize) -> Option<bool> {
    let mut read = vec![0; blocks * BLOCK_BYTES];
    finish(reader.read_blocks(lba, &mut read, ReadContext::FOREGROUND))?.ok()?;
    let mut expected = vec![0; read.len()];
    fill(lba, &mut expected);
    Some(read == expected)
}

fn open(device: &Arc<SlowDevice>, cache: &Arc<MemoryCacheOps>) -> Result<Reader, &'static str> {
    // Small windows, because their memory is taken from a small heap.
    let config = CacheConfig::new()
        .with_window_bytes(4096)
        .with_windows_at_once(2);
    finish(CachedBlockReader::open(
        Arc::clone(device),
        Arc::clone(cache),
        config,
    ))
    .and_then(Result::ok)
    .ok_or("the cache opens")
}

fn overlapping_readers(device: &SlowDevice, reader: &Reader) -> Claim {
    let correct = Cell::new(0);
    let task = |lba: u64| -> Task<'_> {
        let correct = &correct;
        Box::pin(async move {
            let mut read = [0; 8 * BLOCK_BYTES];
            let answer = reader
                .read_blocks(lba, &mut read, ReadContext::FOREGROUND)
                .await;
            let mut expected = [0; 8 * BLOCK_BYTES];
            fill(lba, &mut expected);
            if matches!(answer, Ok(count) if count == read.len()) && read == expected {
                correct.set(correct.get() + 1);
            }
        })
    };
    let ended = executor::run(vec![task(0), task(4), task(8), task(2)]);
    expect(ended.is_ok(), "no overlapping reader waits for ever")?;
    expect(
        correct.get() == 4,
        "overlapping readers get the right bytes",
    )?;
    expect(
        device.fetched_blocks.load(Ordering::Relaxed) == 16,
        "each block is fetched once",
    )
}

fn dropped_leader(reader: &Reader) -> Claim {
    let mut abandoned = [0; 4 * BLOCK_BYTES];
    let mut leader = reader.read_blocks(32, &mut abandoned, ReadContext::FOREGROUND);
    let mut followed = [0; 4 * BLOCK_BYTES];
    let mut follower = reader.read_blocks(32, &mut followed, ReadContext::FOREGROUND);
    expect(
        poll_once(leader.as_mut()).is_pending(),
        "a cold read waits for the device",
    )?;
    expect(
        poll_once(follower.as_mut()).is_pending(),
        "a follower waits for its leader",
    )?;
    drop(leader);
    expect(
        matches!(finish(follower), Some(Ok(_))),
        "a follower takes over from a dropped leader",
    )?;
    let mut expected = [0; 4 * BLOCK_BYTES];
    fill(32, &mut expected);
    expect(followed == expected, "what it took over is right")
}

fn sick_device(device: &SlowDevice, reader: &Reader) -> Claim {
    device.sick.store(true, Ordering::Relaxed);
    let mut read = [0; 4 * BLOCK_BYTES];
    let answer = finish(reader.read_blocks(64, &mut read, ReadContext::FOREGROUND));
    let as_itself = matches!(&answer, Some(Err(error))
        if error.kind() == GibbloxErrorKind::Io && error.message() == Some("the cable is out"));
    expect(as_itself, "the device's error arrives as itself")?;
    expect(
        right(reader, 0, 16) == Some(true),
        "cached blocks stay readable beside a sick device",
    )?;
    let prefetch = finish(reader.ensure_cached(60, 8, ReadContext::BACKGROUND));
    expect(
        matches!(prefetch, Some(Err(_))),
        "a prefetch from a sick device says so",
    )?;
    device.sick.store(false, Ordering::Relaxed);
    expect(
        right(reader, 64, 4) == Some(true),
        "the failed blocks can be read again",
    )
}

fn prefetch_and_flush(device: &SlowDevice, reader: &Reader) -> Claim {
    let prefetch = finish(reader.ensure_cached(96, 32, ReadContext::BACKGROUND));
    expect(matches!(prefetch, Some(Ok(()))), "a prefetch ends")?;
    let before = device.fetched_blocks.load(Ordering::Relaxed);
    expect(
        right(reader, 96, 32) == Some(true),
        "prefetched blocks are right",
    )?;
    expect(
        device.fetched_blocks.load(Ordering::Relaxed) == before,
        "and are not fetched again",
    )?;
    expect(
        matches!(finish(reader.flush_cache()), Some(Ok(()))),
        "a flush ends",
    )
}

fn script() -> Claim {
    let device = Arc::new(SlowDevice::default());
    let cache = Arc::new(MemoryCacheOps::new());
    let reader = open(&device, &cache)?;
    overlapping_readers(&device, &reader)?;
    dropped_leader(&reader)?;
    sick_device(&device, &reader)?;
    prefetch_and_flush(&device, &reader)?;
    let cached = finish(reader.get_stats())
        .ok_or("statistics end")?
        .cached_blocks;
    drop(reader);

    let reader = open(&device, &cache)?;
    let again = finish(reader.get_stats()).ok_or("statistics end")?;
    expect(
        again.cached_blocks == cached,
        "a reopened cache has what it had",
    )?;
    let before = device.fetched_blocks.load(Ordering::Relaxed);
    expect(right(&reader, 32, 4) == Some(true), "and serves it")?;
    expect(
        device.fetched_blocks.load(Ordering::Relaxed) == before,
        "without the device",
    )?;
    let end = finish(reader.read_blocks(
        device::BLOCKS,
        &mut [0; BLOCK_BYTES],
        ReadContext::FOREGROUND,
    ));
    expect(
        matches!(end, Some(Err(error)) if error.kind() == GibbloxErrorKind::OutOfRange),
        "past the end is out of range",
    )?;
    println!(
        "blocks cached: {cached}, fetched: {}",
        device.fetched_blocks.load(Ordering::Relaxed)
    );
    Ok(())
}

#[entry]
fn main() -> ! {
    // SAFETY: the first thing that happens, and it happens once.
    unsafe { heap::init() };
    let result = script();
    println!(
        "peak heap: {} of {} bytes",
        heap::peak_bytes(),
        heap::HEAP_BYTES
    );
    let result = result.and_then(|()| expect(heap::used_bytes() == 0, "all memory is given back"));
    match result {
        Ok(()) => {
            println!("firmware: passed");
            process::exit(0)
        }
        Err(claim) => {
            println!("firmware: failed: {claim}");
            process::exit(1)
        }
    }
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    println!("firmware: hard fault: {frame:?}");
    process::exit(1)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("firmware: {info}");
    process::exit(1)
}
