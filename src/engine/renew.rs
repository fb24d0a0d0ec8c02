//! [`Renewing`]: optimistic concurrency with the source. Whether it is still the version that is cached, and going on with
//! the next one.
//!
//! The version is whatever the identity says, so every [`BlockReader`] whose identity changes with its bytes can tell. It is
//! asked before each fetch and after it, and compared as it is written. A source that changes and changes back within one
//! fetch is not noticed here; [`Versioned`](crate::Versioned) notices that itself.

use gibblox_core::{BlockReader, GibbloxResult};
use tracing::debug;

use crate::backend::CacheOps;
use crate::error::{not_renewed, source_changed};
use crate::fetch::Fetches;
use crate::file::{Age, CacheFile};
use crate::geometry::Geometry;
use crate::identity::{checked_reader_identity_string, is_cached_reader_identity};
use crate::run::Run;

/// The age of `file`, where `source` is the one of the file.
///
/// An error where it has changed, which the file is told, or where it fails to say who it is, which it is asked again the
/// next time.
pub(super) fn check_version<S, C>(source: &S, file: &CacheFile<C>) -> GibbloxResult<Age>
where
    S: BlockReader,
    C: CacheOps,
{
    // In this order: where the file is renewed in between, the age tells.
    let age = file.age();
    if age.is_outdated() {
        return Err(source_changed());
    }
    if is_cached_reader_identity(source, file.named().identity())? {
        return Ok(age);
    }
    file.outdate(age);
    Err(source_changed())
}

/// What renewing touches.
#[derive(Debug)]
pub(crate) struct Renewing<'a, S, C> {
    pub(super) source: &'a S,
    pub(super) fetches: &'a Fetches,
    pub(super) file: &'a CacheFile<C>,
    pub(super) geometry: Geometry,
}

impl<S, C> Renewing<'_, S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    /// Goes on with what the source is now.
    ///
    /// Cancellation is strict: what was left in the middle counts as changed, and renewing again does all that is missing.
    pub(crate) async fn renew(&self) -> GibbloxResult<()> {
        let total_blocks = self.source.total_blocks().await?;
        if total_blocks != self.geometry.total_blocks() {
            return Err(not_renewed("it has another number of blocks"));
        }
        if self.source.block_size() != self.geometry.block_size() {
            return Err(not_renewed("it has another block size"));
        }
        // Fetches that have begun are void, and none begins: a fetch asks who the source is under a claim.
        let _taken = match Run::new(0, total_blocks) {
            Some(device) => Some(self.fetches.take_all(device).await),
            None => None,
        };
        let identity = checked_reader_identity_string(self.source)?;
        if identity.len() != self.file.named().identity().len() {
            return Err(not_renewed("its identity has another length"));
        }
        debug!(identity, "going on with what the source is now");
        self.file.renew(identity).await;
        Ok(())
    }
}
