//! Opening: a file that matches is used, anything else is rebuilt. The orders of writes are the format's.

use gibblox_core::GibbloxResult;
use tracing::debug;

use crate::backend::CacheOps;
use crate::bitmap::{Validity, any_set};
use crate::error::not_open;
use crate::format::checksum::Checksums;
use crate::format::header::{Header, Reason, UNREADABLE};
use crate::port::{Calls, ReadPieces};

use super::CacheFile;
use super::stored::{Pieces, present_blocks, read_header};

/// What becomes of a backend that holds no file of this source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Otherwise {
    Rebuild,
    Leave,
}

/// What lies on the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// The file of this source.
    Ours(Checksums),
    /// That of another source.
    Other,
    /// None, for this reason.
    Nothing(Reason),
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

    /// [`open`](Self::open), unless another task is at it: one that only reads does not wait for a sick backend.
    pub(super) async fn open_unless_busy(&self) {
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
        // The task before may have failed once too often. No other one makes calls while this goes on.
        self.check_used()?;
        // An earlier attempt may have got half way.
        self.validity.clear();
        let calls = self.calls();
        let header = Header::new(self.geometry, &self.identity)?;
        let checksums = match self.find(&calls, header).await? {
            Found::Ours(checksums) => {
                self.load(&calls, checksums).await?;
                checksums
            }
            Found::Other | Found::Nothing(_) if otherwise == Otherwise::Leave => {
                return Err(not_open());
            }
            why => {
                self.rebuild(&calls, header, why).await?;
                Checksums::Xxh3
            }
        };
        // Last: until here no block counts as valid, and none is stored.
        self.set_open(checksums);
        Ok(())
    }

    /// Whose file it is.
    async fn find(
        &self,
        calls: &Calls<'_, C, Validity>,
        header: Header<'_>,
    ) -> GibbloxResult<Found> {
        let len = u32::try_from(self.identity.len()).unwrap_or(u32::MAX);
        let stored = match read_header(calls, header.len_bytes(), len).await? {
            Ok(stored) => stored,
            Err(Reason::LongIdentity(_)) => return Ok(Found::Other),
            Err(reason) => return Ok(Found::Nothing(reason)),
        };
        Ok(match stored.parsed() {
            Ok(parsed) if header.describes(&parsed) => Found::Ours(parsed.checksums),
            Ok(_) => Found::Other,
            Err(reason) => Found::Nothing(reason),
        })
    }

    /// Takes in the bitmap of a file whose header matches.
    async fn load(
        &self,
        calls: &Calls<'_, C, Validity>,
        checksums: Checksums,
    ) -> GibbloxResult<()> {
        let blocks = present_blocks(calls, &self.layout, checksums).await?;
        let complete = blocks == self.geometry.total_blocks();
        let bitmap = self.layout.bitmap();
        let mut pieces = Pieces::of(bitmap.clone())?;
        while let Some((at, piece)) = pieces.next() {
            let got = calls.read_some(at, piece).await?;
            if let Some(missing) = piece.get_mut(got..) {
                missing.fill(0);
            }
            let first_byte = at - bitmap.start;
            let ignored = self.validity.load(first_byte, piece, blocks)?;
            if ignored && !complete {
                // Before the file grows again. Afterwards a bit of a hole would claim that its zeros are data (I6).
                self.validity.encode(first_byte, None, piece);
                calls.write(at, piece).await?;
            }
        }
        if !complete {
            calls.flush().await?;
            calls.set_len(self.layout.len(checksums)).await?;
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

    /// Makes an empty file of what is there. The order of writes is the format's.
    async fn rebuild(
        &self,
        calls: &Calls<'_, C, Validity>,
        header: Header<'_>,
        why: Found,
    ) -> GibbloxResult<()> {
        debug!(identity = self.identity, why = ?why, "rebuilding the cache file");
        if why != Found::Nothing(Reason::Empty) {
            // What the old header described is about to be overwritten, and a loss of power may keep that and the
            // header (I6). Zeros that are there already may not have reached the medium; they are not written again,
            // since another process may be about to write a header of the same source over them.
            if why != Found::Nothing(Reason::Blank) {
                calls.write(0, &UNREADABLE).await?;
            }
            calls.flush().await?;
        }
        calls.set_len(self.layout.len(Checksums::Xxh3)).await?;
        self.zero_bitmap(calls).await?;
        calls.flush().await?;
        calls.write(0, &header.encode(Checksums::Xxh3)?).await?;
        calls.flush().await
    }

    /// Writes zeros where the bitmap has anything else, which a new file does not.
    async fn zero_bitmap(&self, calls: &Calls<'_, C, Validity>) -> GibbloxResult<()> {
        let mut pieces = Pieces::of(self.layout.bitmap())?;
        while let Some((at, piece)) = pieces.next() {
            let got = calls.read_some(at, piece).await?;
            if got < piece.len() || any_set(piece) {
                piece.fill(0);
                calls.write(at, piece).await?;
            }
        }
        Ok(())
    }
}
