//! Inspecting: what a cache file says of itself, for programs that list and clean caches and have no source at hand.
//! Only reads; opening repairs.

use alloc::borrow::ToOwned;
use alloc::string::String;

use gibblox_core::GibbloxResult;

use crate::backend::CacheOps;
use crate::format::checksum::Checksums;
use crate::format::header::{PREFIX_BYTES, Reason};
use crate::port::Ungated;

use super::stored::{count_bits, measure, read_header};

/// The longest identity that [`inspect`] reads. One is as long as a URL, or the text of a configuration.
const LONGEST_IDENTITY_BYTES: u32 = 64 << 10;

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
/// Backend reads of the header, of a byte at the file's end (at most 128 of them where it was truncated), and of the
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
    let file = Ungated(cache);
    let mut header = match read_header(&file, PREFIX_BYTES, LONGEST_IDENTITY_BYTES).await? {
        Ok(header) => header,
        Err(reason) => return Ok(reason.into()),
    };
    let parsed = match header.parsed() {
        Ok(parsed) => parsed,
        Err(reason) => return Ok(reason.into()),
    };
    let (_, present_blocks) = measure(&file, &parsed.layout, parsed.checksums).await?;
    Ok(Inspection::Cache(CacheFileInfo {
        valid_blocks: count_bits(&file, &parsed.layout, present_blocks).await?,
        identity: parsed.identity.to_owned(),
        block_size: parsed.geometry.block_size(),
        total_blocks: parsed.geometry.total_blocks(),
        present_blocks,
        has_checksums: parsed.checksums == Checksums::Xxh3,
    }))
}

impl From<Reason> for Inspection {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Empty | Reason::Blank => Self::Blank,
            Reason::NoCache => Self::NotACache,
            Reason::Version(version) => Self::OtherVersion(version),
            Reason::LongIdentity(bytes) => Self::LongIdentity(bytes),
            Reason::Truncated => Self::Damaged(HeaderDamage::Truncated),
            Reason::Geometry => Self::Damaged(HeaderDamage::Geometry),
            Reason::Identity => Self::Damaged(HeaderDamage::Identity),
            Reason::Check => Self::Damaged(HeaderDamage::Check),
        }
    }
}
