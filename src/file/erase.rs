//! Erasing: a block that is dropped does not come back, whatever the power does afterwards.
//!
//! A cleared bit is not enough. When the block is fetched again, its new bit may reach the medium and its new bytes may
//! not. So the checksum is overwritten with zeros too, which match nothing. The caller leads the run that it drops, so no
//! block of it is stored meanwhile.
//!
//! Of a short range all checksums are looked at. Of a longer one only allocated chunks of the bitmap are visited: elsewhere
//! this process has set no bit and written no checksum. So dropping a large device of which a little is cached costs a
//! little. A block that an earlier process wrote without setting its bit is not found there; that would take reading
//! every checksum.

use gibblox_core::GibbloxResult;

use crate::backend::CacheOps;
use crate::bitmap::any_set;
use crate::error::not_erased;
use crate::format::layout::Layout;
use crate::place::pieces;
use crate::port::ReadPieces;
use crate::run::Run;
use crate::sync::Ordering;
use crate::turn::Turns;

use super::stored::has_byte;
use super::{CacheFile, zeroed};

/// How many checksums are looked at in one go: 4 KiB of them. Where one of them is set all of these are written, so
/// that few blocks here and there do not take much more room for having been dropped.
const SUMS_AT_ONCE: u64 = 512;

/// After so many steps other tasks get their turn.
const STEPS_A_TURN: u32 = 16;

/// Of so many blocks all checksums are looked at: 64 KiB of them. Of more, only those that a reader may have stored.
const SEARCHED_BLOCKS: u64 = 1 << 13;

/// How many blocks of a file that others use too are erased in one step.
const SHARED_BLOCKS: u64 = 1 << 15;

/// Checksums of more bytes than this are cut off rather than overwritten, where all of them go.
const LONG_SUMS_BYTES: u64 = 64 << 10;

impl<C: CacheOps> CacheFile<C> {
    /// Makes `run` not valid for this process.
    pub(crate) fn invalidate(&self, run: Run) {
        for part in self.validity.reserved(run) {
            self.validity.invalidate(part);
        }
    }

    /// Writes to the file that `run`, which is not valid, is not; it is durable after the next flush.
    ///
    /// Cost: for each part that there is room for in the bitmap, one write of bits, and one read and at most one write
    /// for each [`SUMS_AT_ONCE`] checksums.
    pub(crate) async fn erase(&self, run: Run) -> GibbloxResult<()> {
        let mut turns = Turns::every(STEPS_A_TURN);
        let mut rest = Some(run);
        let is_short = run.blocks() <= SEARCHED_BLOCKS;
        while let Some(part) = rest.and_then(|rest| {
            // An earlier process may have written a block and not its bit, which only its checksum tells.
            let searched = is_short.then(|| rest.first(SHARED_BLOCKS));
            searched.or_else(|| self.first_touched(rest))
        }) {
            rest = run.from(part.end());
            // Also where no bit is set in memory: a write that was dropped or failed may have left one in the file.
            self.write_bits(part).await?;
            if self.has_checksums() {
                self.erase_sums(part, &mut turns).await?;
            }
            turns.done().await;
        }
        Ok(())
    }

    /// The first part of `run` that a reader may have stored blocks of: this one where it has room for their bits, others
    /// anywhere.
    fn first_touched(&self, run: Run) -> Option<Run> {
        if self.owner.shares() {
            return Some(run.first(SHARED_BLOCKS));
        }
        self.validity.reserved(run).next()
    }

    /// Whether `run` is all that the checksums belong to, and they are so many that cutting them off is less work.
    pub(crate) fn can_erase_at_once(&self, run: Run) -> bool {
        let sums = self.layout.sums();
        self.has_checksums()
            && run.blocks() == self.geometry.total_blocks()
            && sums.end - sums.start > LONG_SUMS_BYTES
    }

    /// [`erase`](Self::erase) for all of the device, `run`, of which no block is stored meanwhile. Finds the blocks too that an
    /// earlier process wrote without setting their bits, unless the backend cannot be cut off.
    ///
    /// Cost: two changes of length, and one write of bits for each part that there is room for in the bitmap.
    pub(crate) async fn erase_all(&self, run: Run) -> GibbloxResult<()> {
        let sums = self.layout.sums();
        let cut = self.calls().set_len(sums.start).await;
        if cut.is_err() || has_byte(&self.calls(), sums.start).await.unwrap_or(true) {
            return self.erase(run).await;
        }
        self.calls().set_len(sums.end).await?;
        let mut turns = Turns::every(STEPS_A_TURN);
        let mut rest = Some(run);
        while let Some(part) = rest.and_then(|rest| self.first_touched(rest)) {
            rest = run.from(part.end());
            self.write_bits(part).await?;
            turns.done().await;
        }
        Ok(())
    }

    async fn erase_sums(&self, run: Run, turns: &mut Turns) -> GibbloxResult<()> {
        // After a flush that failed, or may have, zeros that are read need not be those of the medium.
        let always = self.validity.was_distrusted() || self.unkept.has_ever_lost();
        let mut sums = zeroed(Layout::sums_len(run.first(SUMS_AT_ONCE)), "checksums")?;
        let mut rest = Some(run);
        while let Some(run) = rest {
            let some = run.first(SUMS_AT_ONCE);
            rest = run.from(some.end());
            for piece in pieces(some, |run| self.places.sums(run)) {
                let sums = sums.get_mut(..Layout::sums_len(piece.run));
                let sums = sums.unwrap_or_default();
                let found = self.calls().read_some(piece.offset_bytes, sums).await;
                // A short answer tells nothing of what it leaves out.
                let is_erased = found.is_ok_and(|got| got == sums.len() && !any_set(sums));
                if always || !is_erased {
                    sums.fill(0);
                    self.calls().write(piece.offset_bytes, sums).await?;
                }
                turns.done().await;
            }
        }
        Ok(())
    }

    /// A flush failed, or a bypass ended.
    pub(super) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::AcqRel);
    }

    /// Now, to be given to [`kept_since`](Self::kept_since).
    pub(crate) fn now(&self) -> Moment {
        Moment(self.doubts.load(Ordering::Acquire))
    }

    /// Fails where a flush has failed since `since`, or a bypass has ended: what was written before may be lost, and a
    /// later flush that succeeds does not tell.
    pub(crate) fn kept_since(&self, since: Moment) -> GibbloxResult<()> {
        if self.now() == since {
            return Ok(());
        }
        Err(not_erased())
    }
}

/// A moment between two flushes that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(usize);
