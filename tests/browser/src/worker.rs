//! The program in the worker: opens an image, reads all of it through the cache, and says what that took.

use std::sync::Arc;

use gibblox_cache::{CacheCounters, CacheOps, CacheStats, CachedBlockReader, MemoryCacheOps};
use gibblox_cache_store_opfs::OpfsCacheOps;
use gibblox_core::{
    BlockByteReader, BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext,
};
use gibblox_http::{HttpReader, HttpReaderConfig};
use serde::Serialize;
use sha2::{Digest, Sha256};
use url::Url;
use wasm_bindgen::prelude::wasm_bindgen;

/// Bytes of a block: a page, as file systems over the cache read it.
const BLOCK_BYTES: u32 = 4096;

/// How many blocks are read at a time.
const BLOCKS_AT_ONCE: u64 = 16;

/// The image behind HTTP as a row of blocks. It is shared, so that it outlives a cache that does not open.
type Source = Arc<BlockByteReader<HttpReader>>;

/// A file or memory, as it turns out.
type Cache = Arc<dyn CacheOps>;

/// An open image. As long as it lives it holds its cache file, and no other tab can open that.
#[wasm_bindgen]
pub struct Image {
    reader: CachedBlockReader<Source, Cache>,
    why_in_memory: Option<String>,
}

#[wasm_bindgen]
impl Image {
    /// Opens the image at `url`, which is absolute.
    ///
    /// # Errors
    ///
    /// Where the server does not answer with a length. A file system that refuses is none: then the cache is in
    /// memory, as good as a file until the page is closed.
    pub async fn open(url: String) -> Result<Image, String> {
        open(&url).await.map_err(|error| error.to_string())
    }

    /// Fetches what is missing, several windows at once, so that reading needs the network no more.
    ///
    /// # Errors
    ///
    /// The first error of the source, and of the file system, which may be out of room.
    pub async fn keep_all(&self) -> Result<(), String> {
        let all = async {
            let total_blocks = self.reader.total_blocks().await?;
            self.reader
                .ensure_cached(0, total_blocks, ReadContext::BACKGROUND)
                .await
        };
        all.await.map_err(|error| error.to_string())
    }

    /// Reads the image from the first block to the last, and returns a [`Report`] as JSON.
    ///
    /// # Errors
    ///
    /// The first error of the source.
    pub async fn read_all(&self) -> Result<String, String> {
        let report = self.read().await.map_err(|error| error.to_string())?;
        serde_json::to_string(&report).map_err(|error| error.to_string())
    }
}

/// What the page shows.
#[derive(Serialize)]
struct Report<'a> {
    /// Where the cache lies: `file` or `memory`.
    cache: &'static str,
    /// Why it is not a file.
    why_in_memory: Option<&'a str>,
    read_bytes: u64,
    /// Of all bytes read.
    sha256: String,
    stats: CacheStats,
    counters: CacheCounters,
}

async fn open(url: &str) -> GibbloxResult<Image> {
    let url = Url::parse(url).map_err(|error| {
        GibbloxError::with_message(GibbloxErrorKind::InvalidInput, error.to_string())
    })?;
    let http = HttpReader::open(HttpReaderConfig::new(url, BLOCK_BYTES)).await?;
    let source = Arc::new(BlockByteReader::new(http, BLOCK_BYTES)?);
    match open_in_file(&source).await {
        Ok(reader) => Ok(Image {
            reader,
            why_in_memory: None,
        }),
        // Another tab has the file, or there is no room for it. Neither is a reason not to read.
        Err(error) => Ok(Image {
            reader: CachedBlockReader::new(source, Arc::new(MemoryCacheOps::new()) as Cache)
                .await?,
            why_in_memory: Some(error.to_string()),
        }),
    }
}

/// Opens the cache of `source` in the file that the store names after its identity.
async fn open_in_file(source: &Source) -> GibbloxResult<CachedBlockReader<Source, Cache>> {
    let file = OpfsCacheOps::open_for_reader(source).await?;
    CachedBlockReader::new(Arc::clone(source), Arc::new(file) as Cache).await
}

impl Image {
    async fn read(&self) -> GibbloxResult<Report<'_>> {
        let total_blocks = self.reader.total_blocks().await?;
        let mut hash = Sha256::new();
        let mut read_bytes = 0;
        let mut buf = vec![0; (BLOCKS_AT_ONCE * u64::from(BLOCK_BYTES)) as usize];
        let mut lba = 0;
        while lba < total_blocks {
            let blocks = BLOCKS_AT_ONCE.min(total_blocks - lba);
            let piece = &mut buf[..(blocks * u64::from(BLOCK_BYTES)) as usize];
            read_bytes += self
                .reader
                .read_blocks(lba, piece, ReadContext::FOREGROUND)
                .await? as u64;
            hash.update(piece);
            lba += blocks;
        }
        // Closing the tab keeps what was written, a power cut what was flushed. A file that cannot be flushed has not
        // kept anybody from reading; the counters tell.
        let _ = self.reader.flush_cache().await;
        Ok(Report {
            cache: if self.why_in_memory.is_none() {
                "file"
            } else {
                "memory"
            },
            why_in_memory: self.why_in_memory.as_deref(),
            read_bytes,
            sha256: format!("{:x}", hash.finalize()),
            stats: self.reader.get_stats().await,
            counters: self.reader.counters(),
        })
    }
}
