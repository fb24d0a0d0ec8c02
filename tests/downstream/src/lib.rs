//! The cache as a program of the gibblox family uses it: an image behind HTTP, its blocks in a file, both through the
//! published crates.
//!
//! `src/bin` has programs to start and to kill, `tests/it` starts and kills them against a server that can be told to
//! misbehave. Run it all with `cargo test` in this directory.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use gibblox_cache::CachedBlockReader;
use gibblox_cache_store_std::StdCacheOps;
use gibblox_core::{BlockByteReader, BlockReader, GibbloxResult, ReadContext};
use gibblox_http::{HttpReader, HttpReaderConfig};
use url::Url;

/// Bytes of a block: a page, as file systems over the cache read it.
pub const BLOCK_SIZE: u32 = 4096;

/// How many blocks [`copy`] reads at a time.
pub const COPIED_BLOCKS: u64 = 8;

/// An image behind HTTP as a row of blocks.
pub type Remote = BlockByteReader<HttpReader>;

/// Describes the image at `url`. Asks the server for its length, and for nothing else.
///
/// # Errors
///
/// Where the server does not answer with a length.
pub async fn remote(url: &Url) -> GibbloxResult<Remote> {
    let config = HttpReaderConfig::new(url.clone(), BLOCK_SIZE);
    BlockByteReader::new(HttpReader::open(config).await?, BLOCK_SIZE)
}

/// Opens the image at `url` with its cache in `folder`, in a file that is named after the image.
///
/// # Errors
///
/// As [`remote`], and where the file cannot be created.
pub async fn open(
    url: &Url,
    folder: &Path,
) -> GibbloxResult<CachedBlockReader<Remote, StdCacheOps>> {
    let remote = remote(url).await?;
    let cache = StdCacheOps::open_in_for_reader(folder, &remote).await?;
    CachedBlockReader::new(remote, cache).await
}

/// Copies all of `reader` to `out`, [`COPIED_BLOCKS`] at a time.
///
/// # Errors
///
/// The first error of either.
pub async fn copy(
    reader: &(impl BlockReader + ?Sized),
    mut out: impl Write,
) -> Result<(), Box<dyn Error>> {
    let total_blocks = reader.total_blocks().await?;
    let mut lba = 0;
    while lba < total_blocks {
        let blocks = COPIED_BLOCKS.min(total_blocks - lba);
        let mut buf = vec![0; usize::try_from(blocks * u64::from(reader.block_size()))?];
        reader
            .read_blocks(lba, &mut buf, ReadContext::FOREGROUND)
            .await?;
        out.write_all(&buf)?;
        lba += blocks;
    }
    Ok(out.flush()?)
}
