//! [`MemoryCacheOps`]: a backend in plain memory, whose size follows what is written and not where.
//!
//! ```text
//!   write ─► 4 KiB or more where nothing is yet ─► frozen: written once, read without a lock
//!        └─► anything else                       ─► loose:  written again and again, under locks
//!   read  ─► frozen where something is, else loose; what is in neither reads as zero
//! ```
//!
//! A block is written once and read many times, so blocks are [`frozen`], and threads that hit memory meet nowhere. Bits,
//! checksums, and blocks of less than 4 KiB that are cached one by one are [`loose`].
//!
//! What is frozen holds before what is loose: a frozen piece may lie over loose bytes, which count no more. A write over a
//! frozen piece with the same bytes, which is what fetching a block again comes to, changes nothing. With other bytes it
//! moves the piece to the loose side first. So whoever reads sees the old bytes or the new ones, and a piece that is given
//! up keeps its memory until the end: see [`frozen`] for why.

mod frozen;
mod loose;

use alloc::boxed::Box;

use async_trait::async_trait;
use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult};

use super::{CacheOps, Tenants};
use crate::sync::{Length, Lock};

use frozen::{Frozen, LEAST, Piece};
use loose::Loose;

/// A cache in memory: gone with the process, and as large as what is cached.
///
/// Memory is what was written, small pieces rounded to 64 bytes, plus some 100 bytes a piece, and 2 KiB for each 16 MiB in
/// which a piece of 4 KiB or more begins; the length that [`set_len`](CacheOps::set_len) gives costs nothing. What was
/// written in pieces of 4 KiB or more is read without a lock, where there are 64-bit atomics; other calls wait for the
/// copy of at most 64 KiB by another thread, and those that write other bytes over such a piece for that of at most 1 MiB.
/// Where the allocator has no room for the bytes, the write fails and nothing else does.
///
/// Memory is given back when the backend is dropped. Bytes that are cut off, or overwritten by different ones, are kept
/// beside the new ones until then: three times as much at most in all, and only where content changes, which that of a
/// source does not.
///
/// # Examples
///
/// ```
/// use gibblox_cache::{CacheOps, MemoryCacheOps};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> gibblox_core::GibbloxResult<()> {
/// let memory = MemoryCacheOps::new();
/// memory.set_len(1 << 40).await?; // costs nothing
/// memory.write_at(1 << 39, b"cached").await?;
///
/// let mut buf = [0xFF; 8];
/// assert_eq!(memory.read_at(1 << 39, &mut buf).await?, 8);
/// assert_eq!(&buf, b"cached\0\0");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct MemoryCacheOps {
    len: Length,
    frozen: Frozen,
    loose: Loose,
    /// Held while a frozen piece is moved: of two who overwrite different parts of it, one moves it.
    moving: Lock<()>,
    tenants: Tenants,
}

/// How much of `len` bytes lies between two offsets.
fn count(from: u64, to: u64, len: usize) -> usize {
    usize::try_from(to - from).unwrap_or(usize::MAX).min(len)
}

impl MemoryCacheOps {
    /// An empty cache. Allocates a hundred bytes or so.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[inline]
    fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        let left = self.len.get().saturating_sub(offset);
        let there = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        let out = &mut out[..there];
        // A block mostly lies in one piece, and then this is all.
        match self.frozen.find(offset) {
            Some(piece) if piece.bytes_from(offset).len() >= there => {
                out.copy_from_slice(&piece.bytes_from(offset)[..there]);
            }
            _ => self.read_pieces(offset, out),
        }
        there
    }

    /// The frozen piece that holds the byte at `at`, and where it ends; or none, and where the next begins before `end`.
    fn piece_at(&self, at: u64, end: u64) -> (Option<&Piece>, u64) {
        match self.frozen.find(at) {
            Some(piece) => (Some(piece), piece.range().end),
            None => (None, self.frozen.next_start(at..end)),
        }
    }

    /// Reads what lies in several pieces, or in none.
    fn read_pieces(&self, offset: u64, out: &mut [u8]) {
        let end = offset + out.len() as u64;
        let mut rest = out;
        while !rest.is_empty() {
            let at = end - rest.len() as u64;
            let (piece, until) = self.piece_at(at, end);
            let (front, behind) = rest.split_at_mut(count(at, until, rest.len()));
            match piece {
                Some(piece) => front.copy_from_slice(&piece.bytes_from(at)[..front.len()]),
                None => self.loose.read(at, front),
            }
            rest = behind;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        let end = offset.checked_add(data.len() as u64).ok_or_else(|| {
            GibbloxError::with_message(GibbloxErrorKind::InvalidInput, "the write ends past 2^64")
        })?;
        let mut rest = data;
        while !rest.is_empty() {
            let at = end - rest.len() as u64;
            let (piece, until) = self.piece_at(at, end);
            let (front, behind) = rest.split_at(count(at, until, rest.len()));
            match piece {
                Some(piece) => self.overwrite(piece, at, front)?,
                None => self.fill(at, front)?,
            }
            rest = behind;
        }
        // No bytes make nothing longer.
        if !data.is_empty() {
            self.len.at_least(end);
        }
        Ok(())
    }

    /// Writes where nothing is frozen.
    fn fill(&self, mut at: u64, mut data: &[u8]) -> GibbloxResult<()> {
        while data.len() >= LEAST {
            let frozen = self.frozen.freeze(at, data);
            if frozen == 0 {
                break;
            }
            at += frozen as u64;
            data = &data[frozen..];
        }
        self.loose.write(at, data)
    }

    /// Writes within a frozen piece.
    fn overwrite(&self, piece: &Piece, at: u64, data: &[u8]) -> GibbloxResult<()> {
        if piece.bytes_from(at).starts_with(data) {
            return Ok(());
        }
        self.loosen(piece, piece.range().end)?;
        self.loose.write(at, data)
    }

    /// Moves what `piece` holds in front of `end` to where it can be written again, and gives up the rest.
    fn loosen(&self, piece: &Piece, end: u64) -> GibbloxResult<()> {
        let start = piece.range().start;
        let bytes = piece.bytes_from(start);
        let kept = count(start, end.max(start), bytes.len());
        self.moving.with(|()| {
            if piece.is_current() {
                self.loose.write(start, &bytes[..kept])?;
                piece.give_up();
            }
            Ok(())
        })
    }

    fn resize(&self, len: u64) -> GibbloxResult<()> {
        if len < self.len.get() {
            for piece in self.frozen.behind(len) {
                self.loosen(piece, len)?;
            }
            self.loose.truncate(len);
        }
        self.len.set(len);
        Ok(())
    }
}

#[async_trait]
impl CacheOps for MemoryCacheOps {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        Ok(self.read(offset, out))
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.write(offset, data)
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.resize(len)
    }

    /// Does nothing: there is nothing that outlives the process.
    async fn flush(&self) -> GibbloxResult<()> {
        Ok(())
    }

    #[inline]
    fn read_now(&self, offset: u64, out: &mut [u8]) -> Option<GibbloxResult<usize>> {
        Some(Ok(self.read(offset, out)))
    }

    fn write_now(&self, offset: u64, data: &[u8]) -> Option<GibbloxResult<()>> {
        Some(self.write(offset, data))
    }

    /// Costs nothing where nothing was written yet. Elsewhere the zeros have to be written.
    async fn write_zeros(&self, offset: u64, len: u64) -> GibbloxResult<bool> {
        let (Some(end), Ok(bytes)) = (offset.checked_add(len), usize::try_from(len)) else {
            return Ok(false);
        };
        let untouched = matches!(self.piece_at(offset, end), (None, next) if end <= next)
            && self.loose.is_untouched(offset, bytes);
        if untouched && len != 0 {
            self.len.at_least(end);
        }
        Ok(untouched)
    }

    fn tenants(&self) -> Option<&Tenants> {
        Some(&self.tenants)
    }
}
