//! Inspecting: what a cache file says of itself, for programs that list and clean caches and have no source at hand.
//!
//! Nothing is known before the file is read, so nothing in it is believed before it is checked, and no number in it is
//! an allocation: the identity grows with what is really there, up to a limit, and the bitmap is read in pieces. Only
//! reads: whoever wants to repair a file opens it.

use alloc::string::String;
use alloc::vec::Vec;

use gibblox_core::GibbloxResult;

use crate::backend::CacheOps;
use crate::error::{out_of_memory, short_read};
use crate::format::header::{Checksums, Fields, Header, MAGIC, PREFIX_BYTES, UNREADABLE, VERSION};
use crate::format::layout::{Layout, Measuring};
use crate::geometry::Geometry;

use super::open::{piece_of, piece_within};

/// The longest identity that [`inspect`] reads. One is as long as a URL, or the text of a configuration.
const LONGEST_IDENTITY_BYTES: u32 = 64 << 10;

/// The identity is read in pieces of this many bytes.
const IDENTITY_PIECE_BYTES: usize = 1 << 10;

/// What [`inspect`] found on a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inspection {
    /// Not a byte, or zeros where a header begins: nothing yet, or a rebuilding that was interrupted.
    Blank,
    /// The first bytes are not those of a cache file.
    NotACache,
    /// A cache file of this version of the format, and not of 2.
    OtherVersion(u8),
    /// A header that nobody can have written: whoever opens the file rebuilds it.
    Damaged(HeaderDamage),
    /// A header with an identity of so many bytes. More than 64 KiB are not read here; a reader that has such an
    /// identity does use the file.
    LongIdentity(u32),
    /// A cache file.
    Cache(CacheFileInfo),
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderDamage {
    /// The file ends within it.
    Truncated,
    /// The block size is zero or no power of two, or the file would be longer than 2<sup>64</sup> bytes.
    Geometry,
    /// The identity is not UTF-8.
    Identity,
    /// It does not match its check.
    Check,
}

/// What a cache file says of itself.
///
/// In a file that the published 0.0.1 made there is nothing to check the header by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheFileInfo {
    /// Whose blocks these are: the source's identity between `cached:(` and `)`, as
    /// [`cached_reader_identity_string`](crate::cached_reader_identity_string) gives it.
    pub identity: String,
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks of the device.
    pub total_blocks: u64,
    /// Blocks that the file claims to hold, and is long enough for. Their bytes are not looked at.
    pub valid_blocks: u64,
    /// Blocks from the first on, cached or not, that the file is long enough for.
    pub present_blocks: u64,
    /// Whether each block has a checksum. A file that the published 0.0.1 made has none.
    pub has_checksums: bool,
}

impl CacheFileInfo {
    /// Whether the file is as long as it should be. One that is not was truncated; opening it makes it long again.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.present_blocks == self.total_blocks
    }
}

/// Tells what is on `cache`, without a source and without writing anything.
///
/// Any content is safe to inspect. What others write meanwhile may be seen or not.
///
/// # Errors
///
/// The backend's where it cannot be read. `Other` where there is no memory for a piece of the file. What the file
/// holds is never an error.
///
/// # Cancellation
///
/// Strict: it only reads.
///
/// # Cost
///
/// Backend reads of the header, of a byte at the file's end (at most 64 of them where it was truncated), and of the
/// bitmap as far as the file holds blocks. At most 64 KiB of memory for the identity and 128 KiB for a piece of the
/// bitmap, whatever the file claims.
///
/// # Examples
///
/// ```
/// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
/// # use image::Image;
/// use std::sync::Arc;
///
/// use gibblox_cache::{CachedBlockReader, Inspection, MemoryCacheOps, inspect};
/// use gibblox_core::ReadContext;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> gibblox_core::GibbloxResult<()> {
/// let backend = Arc::new(MemoryCacheOps::new()); // or what lies in a directory of caches
/// let reader = CachedBlockReader::new(Image::new(512, 64), Arc::clone(&backend)).await?;
/// reader.ensure_cached(8, 4, ReadContext::BACKGROUND).await?;
///
/// match inspect(&backend).await? {
///     Inspection::Cache(info) => {
///         assert_eq!(info.identity, "cached:(image:64x512)");
///         assert_eq!((info.valid_blocks, info.total_blocks), (4, 64));
///     }
///     other => panic!("this is no cache: {other:?}"),
/// }
/// # Ok(())
/// # }
/// ```
pub async fn inspect<C: CacheOps + ?Sized>(cache: &C) -> GibbloxResult<Inspection> {
    let stored = match read_header(cache, LONGEST_IDENTITY_BYTES).await? {
        Ok(stored) => stored,
        Err(found) => return Ok(found),
    };
    let layout = &stored.layout;
    let mut measuring = Measuring::up_to(layout.len(stored.checksums));
    while let Some(offset) = measuring.next() {
        measuring.answer(reaches(cache, offset + 1).await?);
    }
    let present_blocks = layout.blocks_within(measuring.len(), stored.checksums);
    Ok(Inspection::Cache(CacheFileInfo {
        valid_blocks: count_valid(cache, layout, present_blocks).await?,
        identity: stored.identity,
        block_size: stored.geometry.block_size(),
        total_blocks: stored.geometry.total_blocks(),
        present_blocks,
        has_checksums: stored.checksums == Checksums::Xxh3,
    }))
}

/// How many blocks the source of the cache file on `cache` has, as its header says; nothing where there is no header
/// with an identity of at most so many bytes, or where it is not credible. Whose file it is, opening compares.
///
/// A file without checksums has no check of its header either, so there the length of the file is one: were the number
/// of blocks another, everything behind the bitmap would lie elsewhere. Any file has to hold its bitmap at least, so
/// that what is allocated for that many blocks is small beside it.
pub(crate) async fn stored_total_blocks<C: CacheOps + ?Sized>(
    cache: &C,
    longest_identity_bytes: usize,
) -> GibbloxResult<Option<u64>> {
    let longest = u32::try_from(longest_identity_bytes).unwrap_or(u32::MAX);
    let Ok(stored) = read_header(cache, longest).await? else {
        return Ok(None);
    };
    let is_credible = match stored.checksums {
        Checksums::Xxh3 => reaches(cache, stored.layout.bitmap().end).await?,
        Checksums::Absent => {
            let len = stored.layout.len(Checksums::Absent);
            reaches(cache, len).await? && !reaches(cache, len.saturating_add(1)).await?
        }
    };
    Ok(is_credible.then(|| stored.geometry.total_blocks()))
}

/// Whether there are `len` bytes, of which there is one at least.
async fn reaches<C: CacheOps + ?Sized>(cache: &C, len: u64) -> GibbloxResult<bool> {
    Ok(read_some(cache, len - 1, &mut [0]).await? == 1)
}

/// A header that is whole, with what follows from it.
struct Stored {
    geometry: Geometry,
    identity: String,
    checksums: Checksums,
    layout: Layout,
}

/// Reads a header that nothing is known of; what is there instead, where there is none.
async fn read_header<C: CacheOps + ?Sized>(
    cache: &C,
    longest_identity_bytes: u32,
) -> GibbloxResult<Result<Stored, Inspection>> {
    let damaged = |damage| Ok(Err(Inspection::Damaged(damage)));
    let mut prefix = [0; PREFIX_BYTES];
    let got = read_some(cache, 0, &mut prefix).await?;
    let there = prefix.get(..got).unwrap_or_default();
    if there.iter().zip(UNREADABLE).all(|(is, zero)| *is == zero) {
        return Ok(Err(Inspection::Blank));
    }
    if there.iter().zip(MAGIC).any(|(is, magic)| *is != magic) {
        return Ok(Err(Inspection::NotACache));
    }
    let fields = Fields::of(&prefix);
    if got > MAGIC.len() && fields.version != VERSION {
        return Ok(Err(Inspection::OtherVersion(fields.version)));
    }
    if got < PREFIX_BYTES {
        return damaged(HeaderDamage::Truncated);
    }
    let Ok(geometry) = Geometry::new(fields.block_size, fields.total_blocks) else {
        return damaged(HeaderDamage::Geometry);
    };
    if fields.identity_len > longest_identity_bytes {
        return Ok(Err(Inspection::LongIdentity(fields.identity_len)));
    }
    let header_len = PREFIX_BYTES + fields.identity_len as usize;
    let Ok(layout) = Layout::new(geometry, header_len) else {
        return damaged(HeaderDamage::Geometry);
    };
    let mut header = Vec::from(prefix);
    while header.len() < header_len {
        let at = header.len();
        let len = header_len.min(at + IDENTITY_PIECE_BYTES);
        header
            .try_reserve(len - at)
            .map_err(|_| out_of_memory("the header"))?;
        header.resize(len, 0);
        let piece = header.get_mut(at..).unwrap_or_default();
        if read_some(cache, at as u64, piece).await? < len - at {
            return damaged(HeaderDamage::Truncated);
        }
    }
    // All that was said is now the header of some source: it is compared as if that source had come.
    let identity = header.get(PREFIX_BYTES..).map(core::str::from_utf8);
    let Some(Ok(identity)) = identity else {
        return damaged(HeaderDamage::Identity);
    };
    let Ok(checksums) = Header::new(geometry, identity)?.compare(&header) else {
        return damaged(HeaderDamage::Check);
    };
    header.drain(..PREFIX_BYTES);
    let Ok(identity) = String::from_utf8(header) else {
        return damaged(HeaderDamage::Identity);
    };
    Ok(Ok(Stored {
        geometry,
        identity,
        checksums,
        layout,
    }))
}

/// How many of the first `blocks` blocks have their bit set.
async fn count_valid<C: CacheOps + ?Sized>(
    cache: &C,
    layout: &Layout,
    blocks: u64,
) -> GibbloxResult<u64> {
    let bitmap = layout.bitmap();
    let bitmap = bitmap.start..bitmap.start + blocks.div_ceil(8);
    let mut piece = piece_of(&bitmap)?;
    let mut valid = 0;
    let mut at = bitmap.start;
    while at < bitmap.end {
        let piece = piece_within(&mut piece, bitmap.end - at);
        let got = read_some(cache, at, piece).await?;
        let there = piece.get_mut(..got).unwrap_or_default();
        at += there.len() as u64;
        if at == bitmap.end && !blocks.is_multiple_of(8) {
            if let Some(last) = there.last_mut() {
                *last &= (1 << (blocks % 8)) - 1;
            }
        }
        valid += there
            .iter()
            .map(|bits| u64::from(bits.count_ones()))
            .sum::<u64>();
        if there.is_empty() {
            // It has become shorter just now.
            break;
        }
    }
    Ok(valid)
}

async fn read_some<C: CacheOps + ?Sized>(
    cache: &C,
    offset: u64,
    out: &mut [u8],
) -> GibbloxResult<usize> {
    let answer = match cache.read_now(offset, out) {
        Some(answer) => answer,
        None => cache.read_at(offset, out).await,
    };
    match answer {
        Ok(got) if got > out.len() => Err(short_read("the cache backend", got, out.len())),
        answer => answer,
    }
}
