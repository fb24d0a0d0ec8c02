//! Offline: a reader that was opened by its cache file alone, since its source could not be reached.
//!
//! ```text
//!   not made ── a block is to be fetched ──► the source is asked who it is
//!      ▲                                          │         │
//!      └── no answer, or that of another one ─────┘         └─ the one of the file ──► made, for good
//! ```
//!
//! A fetch of such a reader asks first, so nothing of another source is stored or served. Those who fetch at the same
//! time ask once, as they would fetch a block once, and each gets the answer as it was. An error is no answer: a
//! source that cannot be reached is never taken for one that has changed. An answer that does not fit is not the last
//! word either, since it may be that of a gateway in between; it is asked for again, and nobody fetches until it fits.

use alloc::format;
use core::sync::atomic::{AtomicBool, Ordering};

use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult};
use tracing::{debug, warn};

use crate::backend::CacheOps;
use crate::claims::{Claims, Ended};
use crate::config::CacheConfig;
use crate::file::{CacheFile, stored_total_blocks};
use crate::geometry::Geometry;
use crate::identity::cached_reader_identity_string;
use crate::run::Run;

use super::CachedBlockReader;

/// What a task claims that asks the source.
const ANSWER: Run = Run::block(0);

/// Whether the source has said that it is the one of the file.
#[derive(Debug)]
pub(super) struct Contact {
    is_made: AtomicBool,
    /// Who asks. There is one thing to claim: [`ANSWER`].
    asking: Claims<GibbloxResult<()>>,
}

impl Contact {
    /// With a source that answered when the reader was opened.
    pub(super) fn made() -> Self {
        Self::new(true)
    }

    fn new(is_made: bool) -> Self {
        Self {
            is_made: AtomicBool::new(is_made),
            asking: Claims::default(),
        }
    }

    pub(super) fn is_made(&self) -> bool {
        self.is_made.load(Ordering::Acquire)
    }
}

#[cold]
fn changed(what: &str) -> GibbloxError {
    GibbloxError::with_message(
        GibbloxErrorKind::Other,
        format!("the source is not the one that is cached: {what}"),
    )
}

impl<S, C> CachedBlockReader<S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    /// Whether the reader was opened by its cache file alone, and its source has not answered since.
    ///
    /// Blocks that are cached are served all the same; see [`open`](Self::open). Never waits, and does not ask the
    /// source.
    ///
    /// # Examples
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// # use std::sync::atomic::{AtomicBool, Ordering};
    /// use std::sync::Arc;
    ///
    /// use gibblox_cache::{CacheConfig, CachedBlockReader, MemoryCacheOps, OfflinePolicy};
    /// use gibblox_core::{BlockReader, ReadContext};
    /// # use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult};
    /// # struct Remote(Image, AtomicBool);
    /// # impl Remote {
    /// #     fn new() -> Arc<Self> { Arc::new(Self(Image::new(512, 64), AtomicBool::new(true))) }
    /// #     fn set_reachable(&self, is_reachable: bool) { self.1.store(is_reachable, Ordering::SeqCst) }
    /// #     fn ask(&self) -> GibbloxResult<()> {
    /// #         if self.1.load(Ordering::SeqCst) { Ok(()) } else { Err(GibbloxError::new(GibbloxErrorKind::Io)) }
    /// #     }
    /// # }
    /// # #[async_trait::async_trait]
    /// # impl BlockReader for Remote {
    /// #     fn block_size(&self) -> u32 { self.0.block_size() }
    /// #     async fn total_blocks(&self) -> GibbloxResult<u64> { self.ask()?; self.0.total_blocks().await }
    /// #     fn write_identity(&self, out: &mut dyn std::fmt::Write) -> std::fmt::Result { self.0.write_identity(out) }
    /// #     async fn read_blocks(&self, lba: u64, buf: &mut [u8], ctx: ReadContext) -> GibbloxResult<usize> {
    /// #         self.ask()?;
    /// #         self.0.read_blocks(lba, buf, ctx).await
    /// #     }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> GibbloxResult<()> {
    /// # let (remote, backend) = (Remote::new(), Arc::new(MemoryCacheOps::new()));
    /// let config = CacheConfig::new().with_offline(OfflinePolicy::ServeCached);
    /// let reader = CachedBlockReader::open(Arc::clone(&remote), Arc::clone(&backend), config).await?;
    /// reader.ensure_cached(0, 32, ReadContext::BACKGROUND).await?;
    ///
    /// remote.set_reachable(false); // and the program is started again
    /// let reader = CachedBlockReader::open(Arc::clone(&remote), backend, config).await?;
    /// let mut buf = [0; 512];
    /// reader.read_blocks(31, &mut buf, ReadContext::FOREGROUND).await?;
    /// assert!(reader.read_blocks(32, &mut buf, ReadContext::FOREGROUND).await.is_err());
    /// assert!(reader.is_offline());
    ///
    /// remote.set_reachable(true);
    /// reader.read_blocks(32, &mut buf, ReadContext::FOREGROUND).await?;
    /// assert!(!reader.is_offline());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_offline(&self) -> bool {
        !self.contact.is_made()
    }

    /// Opens by the cache file alone; where that cannot be, `unreached`, which the source said, is the error.
    ///
    /// Cancellation is strict.
    pub(super) async fn open_offline(
        inner: S,
        cache: C,
        config: CacheConfig,
        unreached: GibbloxError,
    ) -> GibbloxResult<Self> {
        match Self::find_file(&inner, cache, config).await {
            Ok(Some((file, geometry))) => {
                debug!(%unreached, "serving what is cached until the source answers");
                Ok(Self::over(
                    inner,
                    file,
                    geometry,
                    config,
                    Contact::new(false),
                ))
            }
            Ok(None) => Err(unreached),
            Err(error) => {
                debug!(%error, "the cache file could not be opened in the place of its source");
                Err(unreached)
            }
        }
    }

    async fn find_file(
        inner: &S,
        cache: C,
        config: CacheConfig,
    ) -> GibbloxResult<Option<(CacheFile<C>, Geometry)>> {
        let identity = cached_reader_identity_string(inner);
        let Some(total_blocks) = stored_total_blocks(&cache, identity.len()).await? else {
            return Ok(None);
        };
        let geometry = Geometry::new(inner.block_size(), total_blocks)?;
        let file = CacheFile::new(cache, geometry, identity, config.verify(), config.bypass())?;
        file.open_found().await?;
        Ok(Some((file, geometry)))
    }

    /// Has the source say who it is, before the first of its blocks is believed.
    ///
    /// Cancellation is strict: of the tasks that wait for the answer the next one asks.
    pub(super) async fn make_contact(&self) -> GibbloxResult<()> {
        let asking = match self.contact.asking.claim(ANSWER, ()) {
            Ok(asking) => asking,
            Err(wait) => match wait.await {
                Ended::Told(_, answer) => return answer,
                Ended::Yours(asking) => asking,
            },
        };
        if self.contact.is_made() {
            return Ok(());
        }
        let answer = self.ask_source().await;
        if answer.is_ok() {
            debug!("the source has answered");
            self.contact.is_made.store(true, Ordering::Release);
        }
        asking.end(&answer, |(), _| true);
        answer
    }

    /// Asks the source for everything that the file knows of it.
    async fn ask_source(&self) -> GibbloxResult<()> {
        let total_blocks = self.source.total_blocks().await?;
        let expected = self.geometry.total_blocks();
        let answer = if total_blocks != expected {
            Err(changed(&format!(
                "it has {total_blocks} blocks, and not {expected}"
            )))
        } else if self.source.block_size() != self.geometry.block_size() {
            Err(changed("it has another block size"))
        } else if !self
            .file
            .is_of(&cached_reader_identity_string(&self.source))
        {
            Err(changed("it has another identity"))
        } else {
            Ok(())
        };
        answer.inspect_err(|error| warn!(%error, "reading what is cached only"))
    }
}
