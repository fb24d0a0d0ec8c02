//! Opening: a file that matches is used, anything else is rebuilt. The orders of writes are the format's.

use core::ops::Range;

use gibblox_core::GibbloxResult;
use tracing::debug;

use crate::backend::CacheOps;
use crate::bitmap::any_set;
use crate::format::header::{Checksums, Header, Mismatch, UNREADABLE};
use crate::format::layout::Measuring;

use super::{CacheFile, SMALL_PIECE_BYTES, Scratch, not_open, zeroed};

/// Bitmaps are read in pieces of this many bytes: one system call each, and small beside what it maps.
pub(super) const PIECE_BYTES: u64 = 128 << 10;

/// What becomes of a backend that holds no file of this source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Otherwise {
    Rebuild,
    Leave,
}

impl<C: CacheOps> CacheFile<C> {
    /// Opens the file where it is not open yet: uses what is there, or rebuilds it.
    ///
    /// Cancellation is strict: a file that was left in the middle is closed, and opened from the beginning next time.
    pub(crate) async fn open(&self) -> GibbloxResult<()> {
        let _alone = self.opening.lock().await;
        self.open_alone(Otherwise::Rebuild).await
    }

    /// Opens the file if it is one of this source; what is there otherwise is not touched, and an error is returned.
    pub(crate) async fn open_found(&self) -> GibbloxResult<()> {
        let _alone = self.opening.lock().await;
        self.open_alone(Otherwise::Leave).await
    }

    /// [`open`](Self::open), unless somebody else is at it: whoever only reads does not wait for a sick backend.
    pub(crate) async fn open_unless_busy(&self) {
        if self.is_open() {
            return;
        }
        if let Some(_alone) = self.opening.try_lock() {
            // It was counted and logged where it failed, and the read goes on without the cache.
            let _ = self.open_alone(Otherwise::Rebuild).await;
        }
    }

    async fn open_alone(&self, otherwise: Otherwise) -> GibbloxResult<()> {
        if self.is_open() {
            return Ok(());
        }
        // Whoever was at it before may have failed once too often. Nobody else makes calls while it goes on.
        self.check_used()?;
        // An earlier attempt may have got half way.
        self.validity.clear();
        let header = Header::new(self.geometry, &self.identity)?;
        let mut found = zeroed(header.len_bytes(), "the header")?;
        let got = self.read_some(0, &mut found).await?;
        let verdict = header.compare(found.get(..got).unwrap_or_default());
        drop(found);
        let checksums = match verdict {
            Ok(checksums) => {
                self.load(checksums).await?;
                checksums
            }
            Err(_) if otherwise == Otherwise::Leave => return Err(not_open()),
            Err(why) => {
                self.rebuild(header, why).await?;
                Checksums::Xxh3
            }
        };
        // Last: until here no block counts as valid for anybody, and none is stored.
        self.mode.open(checksums);
        Ok(())
    }

    /// Takes in the bitmap of a file whose header matches.
    async fn load(&self, checksums: Checksums) -> GibbloxResult<()> {
        let blocks = self.measure(checksums).await?;
        let complete = blocks == self.geometry.total_blocks();
        let bitmap = self.layout.bitmap();
        let mut piece = piece_of(&bitmap)?;
        let mut at = bitmap.start;
        while at < bitmap.end {
            let piece = piece_within(&mut piece, bitmap.end - at);
            let got = self.read_some(at, piece).await?;
            if let Some(missing) = piece.get_mut(got..) {
                missing.fill(0);
            }
            let first_byte = at - bitmap.start;
            let ignored = self.validity.load(first_byte, piece, blocks)?;
            if ignored && !complete {
                // Before the file grows again: else a bit in front of zeros would claim that these are data (I6).
                self.validity.encode(first_byte, None, piece);
                self.write(at, piece).await?;
            }
            at += piece.len() as u64;
        }
        if !complete {
            self.flush_backend().await?;
            self.set_len(self.layout.len(checksums)).await?;
        }
        debug!(
            identity = self.identity,
            cached_blocks = self.validity.valid_blocks(),
            checksums = ?checksums,
            complete,
            "opened the cache file"
        );
        Ok(())
    }

    /// How many blocks, from the first on, the file is long enough for.
    ///
    /// Mostly one read of one byte. A backend cannot be asked for its length, so that of a truncated file is found by
    /// halving.
    async fn measure(&self, checksums: Checksums) -> GibbloxResult<u64> {
        let mut measuring = Measuring::up_to(self.layout.len(checksums));
        while let Some(offset) = measuring.next() {
            measuring.answer(self.read_some(offset, &mut [0]).await? == 1);
        }
        Ok(self.layout.blocks_within(measuring.len(), checksums))
    }

    /// Makes an empty file of what is there. The order of writes is the format's.
    async fn rebuild(&self, header: Header<'_>, why: Mismatch) -> GibbloxResult<()> {
        debug!(identity = self.identity, why = ?why, "rebuilding the cache file");
        if why != Mismatch::Empty {
            // Whatever the old header described is about to be overwritten, and a loss of power may keep that and the
            // header (I6). Zeros that are there already may not have reached the medium; they are not written again,
            // since another process may be about to write a header of the same source over them.
            if why != Mismatch::Blank {
                self.write(0, &UNREADABLE).await?;
            }
            self.flush_backend().await?;
        }
        self.set_len(self.layout.len(Checksums::Xxh3)).await?;
        self.zero_bitmap().await?;
        self.flush_backend().await?;
        self.write(0, &header.encode(Checksums::Xxh3)?).await?;
        self.flush_backend().await
    }

    /// Writes zeros where the bitmap has anything else, which a new file does not.
    async fn zero_bitmap(&self) -> GibbloxResult<()> {
        let bitmap = self.layout.bitmap();
        let mut piece = piece_of(&bitmap)?;
        let mut at = bitmap.start;
        while at < bitmap.end {
            let piece = piece_within(&mut piece, bitmap.end - at);
            let got = self.read_some(at, piece).await?;
            if got < piece.len() || any_set(piece) {
                piece.fill(0);
                self.write(at, piece).await?;
            }
            at += piece.len() as u64;
        }
        Ok(())
    }
}

/// A buffer for pieces of `region`.
pub(super) fn piece_of(region: &Range<u64>) -> GibbloxResult<Scratch> {
    let len = |most: u64| usize::try_from((region.end - region.start).min(most)).unwrap_or(0);
    zeroed(len(PIECE_BYTES), "a piece of the bitmap")
        .or_else(|_| zeroed(len(SMALL_PIECE_BYTES), "a piece of the bitmap"))
}

/// The beginning of `piece` that is no longer than `left`.
pub(super) fn piece_within(piece: &mut [u8], left: u64) -> &mut [u8] {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
    piece.get_mut(..len).unwrap_or_default()
}
