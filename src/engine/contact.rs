//! [`Contact`]: a gate that opens once, for good, when a source that was out of reach says that it is the one of the file.
//!
//! ```text
//!   not made ── a block is to be fetched ──► the source is asked who it is
//!      ▲                                          │         │
//!      └── no answer, or that of another one ─────┘         └─ the one of the file ──► made, for good
//! ```
//!
//! A reader that was opened by its cache file alone asks before its first fetch, so nothing of another source is stored
//! or served. Readers that fetch at the same time ask once, as they would fetch a block once, and each gets the answer
//! as it was. An error is no answer: a source that cannot be reached is never taken for one that has changed. An answer
//! that does not fit may be that of a gateway in between, so the next fetch asks again, and nothing is fetched until the
//! answer fits.

use alloc::format;
use core::future::Future;

use gibblox_core::{BlockReader, GibbloxResult};
use tracing::{debug, warn};

use crate::backend::CacheOps;
use crate::claims::{Claims, Ended};
use crate::error::other_source;
use crate::file::CacheFile;
use crate::geometry::Geometry;
use crate::identity::is_cached_reader_identity;
use crate::run::Run;
use crate::sync::{AtomicBool, Ordering};

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

    /// With a source that did not.
    pub(super) fn to_be_made() -> Self {
        Self::new(false)
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

    /// Makes contact by `answer`, or waits for another task's answer.
    ///
    /// Cancellation is strict: a task that waits for the answer asks in turn.
    pub(super) async fn make(
        &self,
        answer: impl Future<Output = GibbloxResult<()>>,
    ) -> GibbloxResult<()> {
        let asking = match self.asking.claim(ANSWER, ()) {
            Ok(asking) => asking,
            Err(wait) => match wait.await {
                Ended::Told(_, answer) => return answer,
                Ended::Yours(asking) => asking,
            },
        };
        if self.is_made() {
            return Ok(());
        }
        let answer = answer.await;
        if answer.is_ok() {
            debug!("the source has answered");
            self.is_made.store(true, Ordering::Release);
        }
        asking.end(&answer, |(), _| true);
        answer
    }
}

/// Asks `source` for everything that `file` knows of it.
pub(super) async fn ask<S, C>(
    source: &S,
    geometry: Geometry,
    file: &CacheFile<C>,
) -> GibbloxResult<()>
where
    S: BlockReader,
    C: CacheOps,
{
    let total_blocks = source.total_blocks().await?;
    let expected = geometry.total_blocks();
    let answer = if total_blocks != expected {
        Err(other_source(&format!(
            "it has {total_blocks} blocks, and not {expected}"
        )))
    } else if source.block_size() != geometry.block_size() {
        Err(other_source("it has another block size"))
    } else if !is_cached_reader_identity(source, file.named().identity())? {
        Err(other_source("it has another identity"))
    } else {
        Ok(())
    };
    answer.inspect_err(|error| warn!(%error, "reading what is cached only"))
}
