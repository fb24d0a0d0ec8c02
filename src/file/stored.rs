//! What lies on a backend: its header, its length, its bitmap, read in pieces. For opening, and for looking at a file that
//! has no reader.
//!
//! Nothing that the file says is believed before it is checked, and none of its numbers is an allocation: the identity
//! grows with what is really there, up to a limit that the caller sets.

use alloc::vec::Vec;
use core::ops::Range;

use gibblox_core::GibbloxResult;

use crate::backend::CacheOps;
use crate::error::out_of_memory;
use crate::format::checksum::Checksums;
use crate::format::header::{PREFIX_BYTES, Parsed, Prefix, Reason};
use crate::format::layout::{Layout, Measuring};
use crate::port::{ReadPieces, Ungated};
use crate::turn::yield_now;

use super::{Scratch, zeroed};

/// An identity that is longer than the first read is read in pieces of this many bytes.
const IDENTITY_PIECE_BYTES: usize = 1 << 10;

/// Bitmaps are read in pieces of this many bytes: one system call each, and small beside what it maps.
const PIECE_BYTES: u64 = 128 << 10;

/// What a small machine is asked for where [`PIECE_BYTES`] are too many.
const SMALL_PIECE_BYTES: u64 = 1 << 10;

/// The bytes of a header, and what its first ones say.
#[derive(Debug)]
pub(super) struct StoredHeader {
    bytes: Vec<u8>,
    prefix: Prefix,
}

impl StoredHeader {
    pub(super) fn parsed(&mut self) -> Result<Parsed<'_>, Reason> {
        self.prefix.finish(&mut self.bytes)
    }
}

/// Reads a header whose identity has at most so many bytes, the first `first_bytes` of it in one read.
pub(super) async fn read_header<R: ReadPieces>(
    file: &R,
    first_bytes: usize,
    longest_identity_bytes: u32,
) -> GibbloxResult<Result<StoredHeader, Reason>> {
    let mut bytes = Vec::new();
    let mut wanted = first_bytes.max(PREFIX_BYTES);
    loop {
        let at = bytes.len();
        bytes
            .try_reserve(wanted - at)
            .map_err(|_| out_of_memory("the header"))?;
        bytes.resize(wanted, 0);
        let piece = bytes.get_mut(at..).unwrap_or_default();
        let got = file.read_some(at as u64, piece).await?;
        bytes.truncate(at + got);
        let prefix = match Prefix::parse(&bytes, longest_identity_bytes) {
            Ok(prefix) => prefix,
            Err(reason) => return Ok(Err(reason)),
        };
        let missing = prefix.header_bytes().saturating_sub(bytes.len());
        if missing == 0 || bytes.len() < wanted {
            return Ok(Ok(StoredHeader { bytes, prefix }));
        }
        wanted += missing.min(IDENTITY_PIECE_BYTES);
    }
}

/// How many bytes there are of a file with this layout, and how many blocks, from the first on, it is long enough for.
///
/// Mostly one read of one byte. A backend cannot be asked for its length, so that of a truncated file is found by
/// halving.
pub(super) async fn measure<R: ReadPieces>(
    file: &R,
    layout: &Layout,
    checksums: Checksums,
) -> GibbloxResult<(u64, u64)> {
    let mut measuring = Measuring::up_to(layout.len(checksums));
    while let Some(offset) = measuring.next() {
        measuring.answer(has_byte(file, offset).await?);
    }
    let len = measuring.len();
    Ok((len, layout.blocks_within(len, checksums)))
}

/// Whether the file is longer than `offset`. One short answer is not a fact.
pub(super) async fn has_byte<R: ReadPieces>(file: &R, offset: u64) -> GibbloxResult<bool> {
    let byte = &mut [0];
    Ok(file.read_some(offset, byte).await? == 1 || file.read_some(offset, byte).await? == 1)
}

/// How many of the first `blocks` blocks have their bit set.
pub(super) async fn count_bits<R: ReadPieces>(
    file: &R,
    layout: &Layout,
    blocks: u64,
) -> GibbloxResult<u64> {
    let start = layout.bitmap().start;
    let mut pieces = Pieces::of(start..start + blocks.div_ceil(8))?;
    let mut valid = 0;
    while let Some((at, piece)) = pieces.next() {
        let got = file.read_some(at, piece).await?;
        let mut left = blocks.saturating_sub((at - start) * 8);
        for byte in piece.get(..got).unwrap_or_default() {
            let counted = if left < 8 { (1 << left) - 1 } else { 0xFF };
            valid += u64::from((byte & counted).count_ones());
            left = left.saturating_sub(8);
        }
        if got == 0 || pieces.is_empty() {
            // It may have become shorter just now.
            break;
        }
        yield_now().await;
    }
    Ok(valid)
}

/// A region, in pieces that lie in memory one after another.
#[derive(Debug)]
pub(super) struct Pieces {
    rest: Range<u64>,
    buf: Scratch,
}

impl Pieces {
    pub(super) fn of(region: Range<u64>) -> GibbloxResult<Self> {
        let len = |most: u64| usize::try_from((region.end - region.start).min(most)).unwrap_or(0);
        let buf = zeroed(len(PIECE_BYTES), "a piece of the bitmap")
            .or_else(|_| zeroed(len(SMALL_PIECE_BYTES), "a piece of the bitmap"))?;
        Ok(Self { rest: region, buf })
    }

    /// Whether there is no further piece.
    pub(super) const fn is_empty(&self) -> bool {
        self.rest.start >= self.rest.end
    }

    /// Where the next piece lies, and room for it, with whatever the last one left there.
    pub(super) fn next(&mut self) -> Option<(u64, &mut [u8])> {
        let left = self.rest.end - self.rest.start;
        let len = usize::try_from(left).unwrap_or(usize::MAX);
        let len = len.min(self.buf.len());
        if len == 0 {
            return None;
        }
        let at = self.rest.start;
        self.rest.start += len as u64;
        self.buf.get_mut(..len).map(|piece| (at, piece))
    }
}

/// How many blocks the source of the cache file on `cache` has, as its header says; nothing where there is no header
/// with an identity of at most so many bytes, or where it is not credible. Opening compares whose file it is.
///
/// A file without checksums has no check of its header either. There the length of the file is one: with another
/// number of blocks, everything after the bitmap would lie elsewhere. Any file has to hold its bitmap at least, so
/// that what is allocated for that many blocks is small beside it.
pub(crate) async fn stored_total_blocks<C: CacheOps + ?Sized>(
    cache: &C,
    longest_identity_bytes: usize,
) -> GibbloxResult<Option<u64>> {
    let file = Ungated(cache);
    let longest = u32::try_from(longest_identity_bytes).unwrap_or(u32::MAX);
    let Ok(mut header) = read_header(&file, PREFIX_BYTES, longest).await? else {
        return Ok(None);
    };
    let Ok(parsed) = header.parsed() else {
        return Ok(None);
    };
    let len = parsed.layout.len(parsed.checksums);
    let is_credible = match parsed.checksums {
        Checksums::Xxh3 => {
            let bitmap = parsed.layout.bitmap();
            has_byte(&file, bitmap.end - 1).await?
        }
        Checksums::Absent => has_byte(&file, len - 1).await? && !has_byte(&file, len).await?,
    };
    Ok(is_credible.then(|| parsed.geometry.total_blocks()))
}
