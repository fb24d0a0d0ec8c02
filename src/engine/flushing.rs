//! [`Flushing`]: makes the file durable, on request or where the [`FlushGate`] says that it is due.

use gibblox_core::GibbloxResult;
use tracing::debug;

use crate::backend::CacheOps;
use crate::file::CacheFile;
use crate::flush::{Deferral, FlushGate, FlushTicket};

/// What a flush touches.
#[derive(Debug)]
pub(crate) struct Flushing<'a, C> {
    file: &'a CacheFile<C>,
    gate: &'a FlushGate,
}

impl<'a, C: CacheOps> Flushing<'a, C> {
    pub(super) const fn new(file: &'a CacheFile<C>, gate: &'a FlushGate) -> Self {
        Self { file, gate }
    }

    /// Opens the file where it is not open yet, and flushes it.
    pub(crate) async fn flush_cache(&self) -> GibbloxResult<()> {
        self.file.ready().await?;
        self.all().await
    }

    /// Flushes all that was written.
    pub(super) async fn all(&self) -> GibbloxResult<()> {
        self.flush(self.gate.begin()).await
    }

    /// Flushes if `due` says so. The caller has stored something, and leads nothing any more.
    pub(super) async fn if_due(&self, due: Option<FlushTicket<'_>>) -> GibbloxResult<()> {
        match due {
            Some(ticket) => self.flush(ticket).await,
            None => Ok(()),
        }
    }

    /// For a task that is going to write for long.
    pub(super) fn defer(&self) -> Deferral<'a> {
        self.gate.defer()
    }

    async fn flush(&self, ticket: FlushTicket<'_>) -> GibbloxResult<()> {
        // Refused, it is due again.
        self.file.check_used()?;
        let result = self.file.flush().await;
        debug!(
            blocks = ticket.covered_blocks(),
            ok = result.is_ok(),
            "flushed the cache"
        );
        ticket.done();
        result
    }
}
