//! Storing: data, then checksums, then the bits in the file, then the bits in memory.
//!
//! So a block is never served that was not written (I1). Data is never overwritten while the block's bit is set in
//! memory. Without checksums its bit in the file is cleared first as well.
//!
//! A byte of the bitmap belongs to eight blocks, hence to several writers. A writer claims the bytes that it writes and
//! composes them then, so a late write never takes back an earlier one (I4: this wait has no other purpose than to order
//! writes). A future that is dropped in the middle leaves a bit in the file at most where its bytes were written.

use gibblox_core::GibbloxResult;

use crate::backend::CacheOps;
use crate::bitmap::{Filling, Published};
use crate::config::VerifyPolicy;
use crate::error::{not_durable, not_open};
use crate::format::checksum::{Checksums, SUM_BYTES};
use crate::format::layout::Layout;
use crate::place::pieces;
use crate::run::Run;
use crate::sync::Lock;

use super::{CacheFile, zeroed};

/// How many bits are mended by one write.
const MENDED_BLOCKS: u64 = 1 << 15;

impl<C: CacheOps> CacheFile<C> {
    /// Stores the bytes of `run` and makes it valid; returns how many of its blocks were not valid before. `asked` is the
    /// part of it that a reader asked for.
    ///
    /// An error leaves the run not valid. Cancellation is strict: a run that was left in the middle is not valid, and
    /// storing it again writes all of it.
    ///
    /// Cost: one write of data and one of checksums a piece, one of the bitmap. Two of the bitmap where there are no
    /// checksums.
    pub(crate) async fn store(&self, run: Run, asked: Run, data: &[u8]) -> GibbloxResult<u64> {
        let checksums = self.stores_as().ok_or_else(not_open)?;
        // Before anything is taken back that is only out of sight.
        self.check_used()?;
        // The file may have been opened after this fetch had begun, and hold what is about to be overwritten.
        let filling = self.validity.fill(run)?;
        match checksums {
            Checksums::Absent => self.write_bits(run).await?,
            Checksums::Xxh3 => {}
        }
        self.write_data(run, data).await?;
        match checksums {
            Checksums::Absent => {}
            Checksums::Xxh3 => self.write_sums(run, data).await?,
        }
        let trusts =
            checksums == Checksums::Absent || self.verify != VerifyPolicy::OnFirstReadOfStored;
        let published = self.publish(filling, trusts.then_some(asked)).await?;
        if checksums == Checksums::Absent && !published.is_trusted {
            // A flush failed in the meantime, and nothing will ever tell whether these bytes were in it.
            self.validity.invalidate(run);
            return Err(not_durable());
        }
        Ok(published.newly_blocks)
    }

    async fn write_data(&self, run: Run, mut data: &[u8]) -> GibbloxResult<()> {
        for piece in pieces(run, |run| self.places.data(run)) {
            let len = self.geometry.len_bytes(piece.run.blocks());
            let Some((part, rest)) = data.split_at_checked(len) else {
                break;
            };
            self.calls().write(piece.offset_bytes, part).await?;
            data = rest;
        }
        Ok(())
    }

    /// Writes the checksums of `run`, which `data` holds.
    async fn write_sums(&self, run: Run, data: &[u8]) -> GibbloxResult<()> {
        let mut blocks = (run.start()..).zip(data.chunks_exact(self.geometry.len_bytes(1)));
        for piece in pieces(run, |run| self.places.sums(run)) {
            let mut sums = zeroed(Layout::sums_len(piece.run), "checksums")?;
            for (sum, (lba, block)) in sums.chunks_exact_mut(SUM_BYTES).zip(&mut blocks) {
                sum.copy_from_slice(&self.hasher.sum(lba, block));
            }
            self.calls().write(piece.offset_bytes, &sums).await?;
        }
        Ok(())
    }

    /// Writes the bits of what was filled, and then makes it valid, before other bits of the same bytes are written.
    async fn publish(
        &self,
        filling: Filling<'_>,
        trusted: Option<Run>,
    ) -> GibbloxResult<Published> {
        let run = filling.run();
        self.write_bits_with(run, Some(run), || filling.publish(trusted))
            .await
    }

    /// Writes the bits of `run` as they are in memory.
    pub(super) async fn write_bits(&self, run: Run) -> GibbloxResult<()> {
        self.write_bits_with(run, None, || ()).await
    }

    /// Writes the bytes of the bitmap that hold the bits of `run`: what is valid in memory, and `extra`. `then` is run
    /// before another task writes one of these bytes.
    async fn write_bits_with<R>(
        &self,
        run: Run,
        extra: Option<Run>,
        then: impl FnOnce() -> R,
    ) -> GibbloxResult<R> {
        let first = Layout::bitmap_byte(run.start());
        let bytes = Layout::bitmap_byte(run.end() - 1) - first + 1;
        let mut bits = zeroed(usize::try_from(bytes).unwrap_or(usize::MAX), "bits")?;
        // A run of bytes here, not of blocks; there is at least one.
        let bytes = Run::block(first).until(first + bytes);
        let _alone = self.bitmap_writers.take_all(bytes).await;
        self.validity.encode(first, extra, &mut bits);
        self.keep_bits_of_others(first, run, &mut bits).await?;
        let offset = self.layout.bitmap().start + first;
        let written = self.calls().write(offset, &bits).await;
        if written.is_err() {
            // What is there now is unknown, for neighbours that are valid too.
            self.torn_bits.with(|torn| {
                *torn = Some(torn.map_or(run, |torn| torn.hull(run)));
            });
        }
        written.map(|()| then())
    }

    /// Writes once more the bits that may have gone wrong, so that a flush makes those durable that are valid.
    ///
    /// Cancellation is strict: what was not written is still to be mended.
    pub(super) async fn mend_bits(&self) -> GibbloxResult<()> {
        let mut mending = Mending {
            torn: &self.torn_bits,
            left: self.torn_bits.with(Option::take),
        };
        while let Some(run) = mending.left {
            let piece = run.first(MENDED_BLOCKS);
            self.write_bits(piece).await?;
            mending.left = run.from(piece.end());
        }
        Ok(())
    }
}

/// Bits that are being mended. Dropped, what is left is torn again.
struct Mending<'a> {
    torn: &'a Lock<Option<Run>>,
    left: Option<Run>,
}

impl Drop for Mending<'_> {
    fn drop(&mut self) {
        if let Some(left) = self.left {
            self.torn.with(|torn| {
                *torn = Some(torn.map_or(left, |torn| torn.hull(left)));
            });
        }
    }
}
