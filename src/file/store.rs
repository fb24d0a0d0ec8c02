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
use crate::bitmap::{Filling, Published, State, Validity};
use crate::config::VerifyPolicy;
use crate::error::{not_durable, not_open, read_only, short_read};
use crate::format::checksum::{Checksums, SUM_BYTES};
use crate::format::layout::Layout;
use crate::place::pieces;
use crate::run::Run;
use crate::turn::yield_now;

use super::unkept::{Since, Unkept};
use super::{CacheFile, NotValid, zeroed};

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
        if data.len() != self.geometry.len_bytes(run.blocks()) {
            return Err(short_read(
                "a fetch",
                data.len(),
                self.geometry.len_bytes(run.blocks()),
            ));
        }
        let checksums = self.stores_as().ok_or_else(not_open)?;
        // Before anything is taken back that is only out of sight.
        self.check_used()?;
        if self.port.is_read_only() {
            return Err(read_only());
        }
        // The file may have been opened after this fetch had begun, and hold what is about to be overwritten.
        let filling = self.validity.fill(run)?;
        let since = self.unkept.now();
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
        let trusted = trusts.then_some(asked);
        let published = self.publish(filling, trusted, since).await?;
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
        let hasher = self.hasher();
        let mut blocks = (run.start()..).zip(data.chunks_exact(self.geometry.len_bytes(1)));
        for piece in pieces(run, |run| self.places.sums(run)) {
            let mut sums = zeroed(Layout::sums_len(piece.run), "checksums")?;
            for (sum, (lba, block)) in sums.chunks_exact_mut(SUM_BYTES).zip(&mut blocks) {
                sum.copy_from_slice(&hasher.sum(lba, block));
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
        since: Since,
    ) -> GibbloxResult<Published> {
        let run = filling.run();
        let publish = || {
            if self.has_checksums() {
                // First: what is valid is durable after the next flush, or known to be lost.
                self.unkept.wrote(run, since);
            }
            filling.publish(trusted)
        };
        self.write_bits_with(run, Some(run), publish).await
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
            self.unkept.tore(run);
        }
        written.map(|()| then())
    }

    /// Writes once more the bits that may have gone wrong, so that a flush makes those durable that are valid.
    ///
    /// Cancellation is strict: what was not written is still to be mended.
    pub(super) async fn mend_bits(&self) -> GibbloxResult<()> {
        let mut mending = Mending {
            unkept: &self.unkept,
            left: self.unkept.take_torn(),
        };
        while let Some(run) = mending.left {
            let piece = run.first(MENDED_BLOCKS);
            // Elsewhere no bit was set, nor one written by this process.
            for part in self.validity.reserved(piece) {
                self.write_bits(part).await?;
            }
            self.unkept.mended(piece);
            mending.left = run.from(piece.end());
            if mending.left.is_some() {
                yield_now().await;
            }
        }
        Ok(())
    }

    // ---- writing again what a flush may have lost ----

    /// The first run at or after `lba` that a flush may have lost.
    pub(crate) fn lost_from(&self, lba: u64) -> Option<Run> {
        self.unkept.lost_from(lba)
    }

    /// The beginning of `run`, which a flush may have lost, that is valid; nothing of what is before it is lost then.
    pub(crate) fn lost_and_valid(&self, run: Run) -> GibbloxResult<Option<Run>> {
        let since = self.unkept.now();
        match self.known_state_at(run)? {
            (State::Valid, part) => Ok(Some(part)),
            (State::Missing, part) => {
                self.unkept.gone(part, since);
                Ok(None)
            }
        }
    }

    /// Writes `run` once more, data, checksums and bits. All of it was valid, and the caller holds it, so that no block of
    /// it is stored or dropped by another task meanwhile. `buf` is as long.
    ///
    /// It is compared first. Blocks that do not match their checksums are dropped, in the file too. Blocks that cannot be
    /// read stay lost.
    ///
    /// Readers go on: while bytes are being overwritten with the same ones, what is read is compared, since a write that
    /// fails may leave anything.
    ///
    /// Cancellation is strict: what was not written is still lost.
    pub(crate) async fn rewrite(&self, run: Run, buf: &mut [u8]) -> Result<Rewritten, NotValid> {
        let since = self.unkept.now();
        let looked = self.look_at_all(run, buf).await?;
        if !looked.settled && looked.flaws.iter().any(|flaw| flaw.is_wrong) {
            return Err(NotValid);
        }
        let mut any_read = false;
        let mut rest = Some(run);
        let mut result = Ok(());
        for flaw in looked.flaws.iter().map(Some).chain([None]) {
            let good = match flaw {
                Some(flaw) => rest.and_then(|rest| rest.first_until(flaw.run.start())),
                None => rest,
            };
            let known = match flaw {
                Some(flaw) if flaw.is_wrong => Some(flaw.run),
                _ => None,
            };
            rest = flaw.and_then(|flaw| rest.and_then(|rest| rest.from(flaw.run.end())));
            any_read |= good.is_some() || known.is_some();
            if let Some(good) = good {
                let from = self.geometry.len_bytes(good.start() - run.start());
                let len = self.geometry.len_bytes(good.blocks());
                let bytes = buf.get(from..).and_then(|bytes| bytes.get(..len));
                result = self.overwrite(good, bytes.unwrap_or_default()).await;
            }
            for part in [good, known].into_iter().flatten() {
                if result.is_ok() {
                    result = self.write_bits(part).await;
                }
                if result.is_ok() {
                    self.unkept.rewritten(part, since);
                }
            }
            if result.is_err() {
                break;
            }
        }
        Ok(Rewritten {
            goes_on: result.is_ok() && any_read,
            result: result.and(looked.error.map_or(Ok(()), Err)),
        })
    }

    /// Writes the data and the checksums of `run`, which is valid, over themselves.
    async fn overwrite(&self, run: Run, data: &[u8]) -> GibbloxResult<()> {
        let mut overwriting = Overwriting::new(&self.validity);
        self.write_data(run, data).await?;
        self.write_sums(run, data).await?;
        overwriting.is_done = true;
        Ok(())
    }
}

/// How writing a run again went.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// Whether it makes sense to go on with the next run.
    pub(crate) goes_on: bool,
    /// Whether all of it was written or dropped.
    pub(crate) result: GibbloxResult<()>,
}

/// Valid blocks that are being overwritten. While it lives no read is taken for an undisturbed one. Dropped before it is
/// done, nothing is trusted: what is in the file now is unknown.
struct Overwriting<'v> {
    validity: &'v Validity,
    is_done: bool,
}

impl<'v> Overwriting<'v> {
    fn new(validity: &'v Validity) -> Self {
        validity.begin_change();
        Self {
            validity,
            is_done: false,
        }
    }
}

impl Drop for Overwriting<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.validity.distrust_all();
        }
        self.validity.end_change();
    }
}

/// Bits that are being mended. Dropped, what is left is torn again.
struct Mending<'a> {
    unkept: &'a Unkept,
    left: Option<Run>,
}

impl Drop for Mending<'_> {
    fn drop(&mut self) {
        self.unkept.end_mending(self.left);
    }
}
