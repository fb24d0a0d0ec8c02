//! Opening: with the source, or offline by the cache file alone.

use gibblox_core::{BlockReader, GibbloxError, GibbloxResult};
use tracing::debug;

use crate::backend::CacheOps;
use crate::config::{CacheConfig, OfflinePolicy};
use crate::file::{CacheFile, stored_total_blocks};
use crate::geometry::Geometry;
use crate::identity::checked_reader_identity_string;

use super::contact::Contact;

/// What opening finds out.
#[derive(Debug)]
pub(super) struct Opened<C> {
    pub(super) file: CacheFile<C>,
    pub(super) geometry: Geometry,
    pub(super) contact: Contact,
}

/// Opens the cache file of `source` on `cache`.
///
/// Cancellation is strict.
pub(super) async fn open<S, C>(
    source: &S,
    cache: C,
    config: CacheConfig,
) -> GibbloxResult<Opened<C>>
where
    S: BlockReader,
    C: CacheOps,
{
    let total_blocks = match source.total_blocks().await {
        Ok(total_blocks) => total_blocks,
        Err(error) if config.offline() == OfflinePolicy::ServeCached => {
            return offline(source, cache, config, error).await;
        }
        Err(error) => return Err(error),
    };
    let geometry = Geometry::new(source.block_size(), total_blocks)?;
    let file = file_of(source, cache, geometry, config)?;
    if let Err(error) = file.open().await {
        debug!(%error, "reading without a cache until its file can be opened");
    }
    Ok(Opened {
        file,
        geometry,
        contact: Contact::made(),
    })
}

/// Opens by the cache file alone. Where that cannot be, `unreached`, which the source said, is the error.
async fn offline<S, C>(
    source: &S,
    cache: C,
    config: CacheConfig,
    unreached: GibbloxError,
) -> GibbloxResult<Opened<C>>
where
    S: BlockReader,
    C: CacheOps,
{
    match find_file(source, cache, config).await {
        Ok(Some((file, geometry))) => {
            debug!(%unreached, "serving what is cached until the source answers");
            Ok(Opened {
                file,
                geometry,
                contact: Contact::to_be_made(),
            })
        }
        Ok(None) => Err(unreached),
        Err(error) => {
            debug!(%error, "the cache file could not be opened in the place of its source");
            Err(unreached)
        }
    }
}

async fn find_file<S, C>(
    source: &S,
    cache: C,
    config: CacheConfig,
) -> GibbloxResult<Option<(CacheFile<C>, Geometry)>>
where
    S: BlockReader,
    C: CacheOps,
{
    let identity = checked_reader_identity_string(source)?;
    let Some(total_blocks) = stored_total_blocks(&cache, identity.len()).await? else {
        return Ok(None);
    };
    let geometry = Geometry::new(source.block_size(), total_blocks)?;
    let file = file_of(source, cache, geometry, config)?;
    file.open_found().await?;
    Ok(Some((file, geometry)))
}

fn file_of<S, C>(
    source: &S,
    cache: C,
    geometry: Geometry,
    config: CacheConfig,
) -> GibbloxResult<CacheFile<C>>
where
    S: BlockReader,
    C: CacheOps,
{
    let identity = checked_reader_identity_string(source)?;
    CacheFile::new(
        cache,
        geometry,
        identity,
        config.verify(),
        config.rebuild(),
        config.bypass(),
    )
}
