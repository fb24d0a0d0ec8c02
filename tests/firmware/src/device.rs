//! A slow device that can be told to fail: every byte follows from its position.

use alloc::boxed::Box;
use core::fmt;
use core::future::poll_fn;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::task::Poll;

use async_trait::async_trait;
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext};

pub(crate) const BLOCK_BYTES: usize = 512;
pub(crate) const BLOCKS: u64 = 256;
const PENDINGS_PER_READ: u32 = 5;

#[derive(Default)]
pub(crate) struct SlowDevice {
    /// Blocks that were handed out.
    pub(crate) fetched_blocks: AtomicU32,
    /// Whether reads fail.
    pub(crate) sick: AtomicBool,
}

/// What the device holds from `lba` on.
pub(crate) fn fill(lba: u64, out: &mut [u8]) {
    for (block, bytes) in (lba..).zip(out.chunks_mut(BLOCK_BYTES)) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            // The low byte of each is all that is wanted.
            *byte = (block as u8)
                .wrapping_mul(197)
                .wrapping_add((index as u8).wrapping_mul(7));
        }
    }
}

/// Waits, and asks to be polled again each time.
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
        pend(1).await;
        Ok(BLOCKS)
    }

    fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str("slow-device")
    }

    async fn read_blocks(&self, lba: u64, buf: &mut [u8], _: ReadContext) -> GibbloxResult<usize> {
        pend(PENDINGS_PER_READ).await;
        if self.sick.load(Ordering::Relaxed) {
            return Err(GibbloxError::with_message(
                GibbloxErrorKind::Io,
                "the cable is out",
            ));
        }
        let blocks = (buf.len() / BLOCK_BYTES) as u32;
        if lba
            .checked_add(u64::from(blocks))
            .is_none_or(|end| end > BLOCKS)
        {
            return Err(GibbloxError::new(GibbloxErrorKind::OutOfRange));
        }
        fill(lba, buf);
        self.fetched_blocks.fetch_add(blocks, Ordering::Relaxed);
        Ok(buf.len())
    }
}
