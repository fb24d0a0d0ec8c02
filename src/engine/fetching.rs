//! [`Fetching`]: the leader's part of single-flight. It reads the source, stores the bytes, and tells the followers.

use gibblox_core::{BlockReader, GibbloxError, GibbloxResult, ReadContext};

use crate::backend::CacheOps;
use crate::error::{short_read, source_changed};
use crate::fetch::Fetch;
use crate::file::CacheFile;
use crate::flush::FlushGate;
use crate::geometry::Geometry;
use crate::policy::FetchPolicy;
use crate::run::Run;
use crate::stats::{Call, Counts};
use crate::sync::{AtomicBool, Ordering};

use super::contact::{Contact, ask};
use super::renew::check_version;

/// How a fetch ended for the task that led it. Unless it failed, the bytes are in the buffer.
#[derive(Debug)]
pub(super) enum Fetched {
    /// All that was led is valid.
    Stored,
    /// Another task dropped some of it before it was stored, so that this is not.
    Void,
    /// The backend did not take some of it, with this error.
    Unstored(GibbloxError),
    /// The source did not answer, with this error.
    Failed(GibbloxError),
}

/// What a fetch touches.
#[derive(Debug)]
pub(super) struct Fetching<'a, S, C> {
    source: &'a S,
    contact: &'a Contact,
    file: &'a CacheFile<C>,
    policy: &'a FetchPolicy,
    gate: &'a FlushGate,
    geometry: Geometry,
    /// Is set when the source is asked.
    is_asked: Option<&'a AtomicBool>,
}

impl<'a, S, C> Fetching<'a, S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    pub(super) const fn new(
        source: &'a S,
        contact: &'a Contact,
        file: &'a CacheFile<C>,
        policy: &'a FetchPolicy,
        gate: &'a FlushGate,
        geometry: Geometry,
    ) -> Self {
        Self {
            source,
            contact,
            file,
            policy,
            gate,
            geometry,
            is_asked: None,
        }
    }

    /// The same, and sets `is_asked` when the source is asked.
    pub(super) const fn telling(mut self, is_asked: &'a AtomicBool) -> Self {
        self.is_asked = Some(is_asked);
        self
    }

    pub(super) const fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(super) fn counts(&self) -> &Counts {
        self.file.counts()
    }

    pub(super) fn is_offline(&self) -> bool {
        !self.contact.is_made()
    }

    /// Reads `run` from the source, after the source has said that it is the one of the file. It is asked once more when it
    /// has answered: what was fetched while it changed is of no version.
    pub(super) async fn read_source(
        &self,
        run: Run,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<()> {
        if !self.contact.is_made() {
            let answer = ask(self.source, self.geometry, self.file);
            // Boxed, since it is rare, and would make the future of every fetch larger.
            alloc::boxed::Box::pin(self.contact.make(answer)).await?;
        }
        let before = check_version(self.source, self.file)?;
        if let Some(is_asked) = self.is_asked {
            is_asked.store(true, Ordering::Relaxed);
        }
        let counts = self.counts();
        let asked = buf.len();
        let call = Call::of(&counts.source_reads);
        let answer = self.source.read_blocks(run.start(), buf, ctx).await;
        drop(call);
        // Also where it failed: a source that finds another version may well fail for that.
        let after = check_version(self.source, self.file);
        let failed = match answer {
            Ok(got) if got == asked && after.as_ref().ok() != Some(&before) => {
                counts.fetched_blocks.add(run.blocks());
                return Err(after.err().unwrap_or_else(source_changed));
            }
            Ok(got) if got == asked => {
                counts.fetched_blocks.add(run.blocks());
                return Ok(());
            }
            Ok(got) => short_read("the source", got, asked),
            Err(error) => error,
        };
        counts.source_read_failures.add(1);
        Err(if self.file.age() == before {
            failed
        } else {
            source_changed()
        })
    }

    /// Fetches what `fetch` claimed, and nothing else, into `buf`, and gives the bytes to the followers. Nothing is
    /// stored.
    ///
    /// Cancellation is strict; what is led passes on to the next task that waits for it.
    pub(super) async fn fetch_past(
        &self,
        fetch: Fetch<'_>,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<()> {
        match self.read_source(fetch.span(), buf, ctx).await {
            Ok(()) => {
                // Nothing is added to what is not stored, so there is one.
                fetch.leads().for_each(|lead| lead.past(buf));
                Ok(())
            }
            Err(error) => {
                fetch.failed(&error);
                Err(error)
            }
        }
    }

    /// Fetches what `fetch` claimed, and nothing else, into `buf`, stores it, and tells the followers. It has its permit.
    ///
    /// Cancellation is strict; what is led passes on to the next task that waits for it.
    pub(super) async fn fetch(
        &self,
        mut fetch: Fetch<'_>,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> Fetched {
        let _permit = fetch.take_permit();
        match self.read_source(fetch.span(), buf, ctx).await {
            Ok(()) => self.store(fetch, buf).await,
            Err(error) => {
                fetch.failed(&error);
                Fetched::Failed(error)
            }
        }
    }

    /// Stores the runs that `fetch` leads, of all that it brought, except for those that are void, and tells the
    /// followers. The first that was not stored says how it ended.
    pub(super) async fn store(&self, fetch: Fetch<'_>, bytes: &[u8]) -> Fetched {
        let span = fetch.span();
        let mut fetched = Fetched::Stored;
        for lead in fetch.leads() {
            let ended = if lead.begin_store() {
                let run = lead.run();
                let from = self.geometry.len_bytes(run.start() - span.start());
                let len = self.geometry.len_bytes(run.blocks());
                let bytes = bytes.get(from..).and_then(|bytes| bytes.get(..len));
                let bytes = bytes.unwrap_or_default();
                let stored = self.file.store(run, lead.asked(), bytes).await;
                self.policy.stored(stored.is_ok());
                match stored {
                    Ok(newly) => {
                        self.gate.wrote(newly);
                        self.policy.fetched_around(run, lead.asked());
                        lead.published();
                        Fetched::Stored
                    }
                    Err(error) => {
                        lead.unstored(&error, bytes);
                        Fetched::Unstored(error)
                    }
                }
            } else {
                Fetched::Void
            };
            if matches!(fetched, Fetched::Stored) {
                fetched = ended;
            }
        }
        fetched
    }
}
