//! The published crate over the same sources and backends.

use super::Source;
use async_trait::async_trait;
use gibblox_cache::CacheOps;
use gibblox_core::{BlockReader, GibbloxResult, ReadContext};
use std::sync::Arc;

/// A backend as the published crate wants it: its trait has the same shape and is another one.
#[derive(Debug)]
pub(crate) struct Published<C>(pub(crate) C);

#[async_trait]
impl<C: CacheOps> gibblox_cache_published::CacheOps for Published<C> {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.0.read_at(offset, out).await
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.0.write_at(offset, data).await
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.0.set_len(len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.0.flush().await
    }
}

/// A cached reader of the published crate.
pub(crate) type PublishedReader<C> =
    gibblox_cache_published::CachedBlockReader<Arc<Source>, Published<C>>;

/// Opens `cache` by the published crate.
pub(crate) async fn open_published<C: CacheOps>(
    source: &Arc<Source>,
    cache: C,
    flush_every_blocks: u32,
) -> GibbloxResult<PublishedReader<C>> {
    let source = Arc::clone(source);
    PublishedReader::with_flush_block_limit(source, Published(cache), flush_every_blocks).await
}

/// Reads through the published crate into a buffer that starts out as garbage.
pub(crate) async fn read_published<C: CacheOps>(
    reader: &PublishedReader<C>,
    lba: u64,
    blocks: u64,
) -> GibbloxResult<Vec<u8>> {
    let mut buf = vec![0xC3; blocks as usize * reader.block_size() as usize];
    reader
        .read_blocks(lba, &mut buf, ReadContext::FOREGROUND)
        .await?;
    Ok(buf)
}
