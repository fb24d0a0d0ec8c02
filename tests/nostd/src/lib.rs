//! Reads through a [`CachedBlockReader`] with nothing but `core` and `alloc`.
//!
//! The crate brings its own panic handler and its own allocator. A program has one panic handler, and std brings one
//! too, so this crate does not build as soon as any dependency links std. That is its first purpose; the second is
//! that [`run`] passes.

#![no_std]

extern crate alloc;

mod bump;

use alloc::boxed::Box;
use core::fmt;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use async_trait::async_trait;
use gibblox_cache::contract::Suite;
use gibblox_cache::{CachedBlockReader, MemoryCacheOps};
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext};

const BLOCK_BYTES: usize = 512;
const BLOCKS: u64 = 16;
const PENDINGS_PER_READ: u32 = 3;

/// Little, since the allocator takes nothing back.
const BACKEND_BYTES: u64 = 100;

/// A device whose every byte follows from its position, and whose every read waits a few times first.
struct SlowDevice;

fn fill(lba: u64, out: &mut [u8]) {
    for (block, bytes) in (lba..).zip(out.chunks_mut(BLOCK_BYTES)) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            // The low byte of a product is all that is wanted.
            *byte = (block as u8).wrapping_mul(31).wrapping_add(index as u8);
        }
    }
}

/// Waits `left` times, and asks to be polled again each time.
async fn pend(mut left: u32) {
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[async_trait]
impl BlockReader for SlowDevice {
    fn block_size(&self) -> u32 {
        BLOCK_BYTES as u32
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        Ok(BLOCKS)
    }

    fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str("slow-device")
    }

    async fn read_blocks(&self, lba: u64, buf: &mut [u8], _: ReadContext) -> GibbloxResult<usize> {
        pend(PENDINGS_PER_READ).await;
        let blocks = (buf.len() / BLOCK_BYTES) as u64;
        if lba.checked_add(blocks).is_none_or(|end| end > BLOCKS) {
            return Err(GibbloxError::new(GibbloxErrorKind::OutOfRange));
        }
        fill(lba, buf);
        Ok(buf.len())
    }
}

fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls to the end. `None` after more polls than anything here needs: then something is stuck.
fn finish<F: Future + ?Sized>(mut future: Pin<Box<F>>) -> Option<F::Output> {
    (0..10_000).find_map(|_| match poll_once(future.as_mut()) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    })
}

fn expect(holds: bool, claim: u8) -> Result<(), u8> {
    if holds { Ok(()) } else { Err(claim) }
}

/// Opens a cache, reads, drops a read half way, reads again, and looks at the bytes and the counting; then checks a
/// backend.
///
/// # Errors
///
/// The number of the first claim that does not hold.
pub fn run() -> Result<(), u8> {
    let reader = finish(Box::pin(CachedBlockReader::new(
        SlowDevice,
        MemoryCacheOps::new(),
    )))
    .and_then(Result::ok)
    .ok_or(1)?;

    let mut right = [0; 4 * BLOCK_BYTES];
    fill(2, &mut right);

    let mut cold = [0; 4 * BLOCK_BYTES];
    let read = finish(reader.read_blocks(2, &mut cold, ReadContext::FOREGROUND));
    expect(matches!(read, Some(Ok(n)) if n == cold.len()), 2)?;
    expect(cold == right, 3)?;

    // Blocks 4 to 7, of which 4 and 5 are cached: dropped while 6 and 7 are on their way.
    fill(4, &mut right);
    let mut dropped = [0; 4 * BLOCK_BYTES];
    let mut future = reader.read_blocks(4, &mut dropped, ReadContext::FOREGROUND);
    expect(poll_once(future.as_mut()).is_pending(), 4)?;
    drop(future);

    let mut second = [0; 4 * BLOCK_BYTES];
    let read = finish(reader.read_blocks(4, &mut second, ReadContext::FOREGROUND));
    expect(matches!(read, Some(Ok(n)) if n == second.len()), 5)?;
    expect(second == right, 6)?;

    // What is cached needs no waiting: one poll is enough.
    let mut warm = [0; 4 * BLOCK_BYTES];
    let mut future = reader.read_blocks(4, &mut warm, ReadContext::FOREGROUND);
    expect(matches!(poll_once(future.as_mut()), Poll::Ready(Ok(_))), 7)?;
    drop(future);
    expect(warm == right, 8)?;

    expect(
        matches!(
            finish(Box::pin(reader.ensure_cached(
                0,
                BLOCKS,
                ReadContext::BACKGROUND
            ))),
            Some(Ok(()))
        ),
        9,
    )?;
    expect(
        matches!(finish(Box::pin(reader.flush_cache())), Some(Ok(()))),
        10,
    )?;
    let stats = finish(Box::pin(reader.get_stats())).ok_or(11)?;
    expect(
        stats.cached_blocks == BLOCKS && stats.total_blocks == BLOCKS,
        12,
    )?;
    expect(stats.total_hits + stats.total_misses == 16, 13)?;

    // The suite for backends needs no more than this either.
    let suite = Suite::new().with_max_len(BACKEND_BYTES);
    let checked = finish(Box::pin(suite.check(async || MemoryCacheOps::new())));
    expect(matches!(checked, Some(Ok(()))), 14)
}

/// A browser hands the statistics of 0.0.1 to its page.
#[cfg(target_arch = "wasm32")]
const _: fn() = || {
    fn serialised<T: serde::Serialize>() {}
    serialised::<gibblox_cache::CacheStats>();
};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    #[cfg(target_os = "linux")]
    {
        unsafe extern "C" {
            fn abort() -> !;
        }
        // SAFETY: it takes nothing and does not return.
        unsafe { abort() }
    }
    #[cfg(not(target_os = "linux"))]
    loop {
        core::hint::spin_loop();
    }
}
