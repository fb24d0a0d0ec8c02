//! [`Engine`]: what a cached reader consists of, and which of its parts each job may touch.
//!
//! ```text
//!   read_blocks ── all trusted? ──► one backend read into the caller's buffer, done       (hit)
//!        │ no
//!        ▼
//!      claim ──┬── Valid ───► read from the backend, compare what is untrusted ──┬──► served
//!      (again) ├── Lead ────► fetch into the caller's buffer, store, publish ────┤    (request)
//!        ▲     └── Follow ──► wait for the leader ──► read from the backend ─────┘
//!        │                                    │
//!        └── did not match ───────────────────┴ the follower leads now, or gets bytes that
//!                                               could not be stored
//! ```
//!
//! What is valid and could not be read is claimed in a table of its own, read from the source, and not stored.
//!
//! The engine owns the parts and does no work of its own. A job is a small struct that borrows the parts it needs:
//!
//! | job | what it does | borrows |
//! |---|---|---|
//! | [`hit`] | reads trusted blocks: the fast path | file |
//! | [`Request`] | serves any other read, part by part | fetches, file, policy, fetching |
//! | [`Fetching`] | fetches and stores what a leader claimed, also [more](wide) | source, contact, file, policy, gate |
//! | [`Warming`] | caches ranges in windows | fetches, file, fetching, flushing |
//! | [`Dropping`] | drops ranges for good | fetches, file, flushing |
//! | [`Renewing`] | goes on with a new version of the source | source, fetches, file |
//! | [`Scrubbing`] | compares all that is cached | file, flushing |
//! | [`Flushing`] | makes the file durable | fetches, file, gate |
//!
//! No job knows the engine. The parts of one request are served side by side, each in its own piece of the caller's
//! buffer, so a request with many holes takes about as long as one fetch.
//!
//! # What was not done
//!
//! Reading the whole request from the backend when all of it is cached, as 0.0.1 does: simple, but every hit of a mixed
//! request is then read twice, and every miss once for nothing. Spawning fetches, so that a dropped reader does not
//! drop its fetch: it needs an executor, and a copy of every fetched byte.

mod contact;
mod drop;
mod fetching;
mod flushing;
mod hit;
mod memory;
mod open;
mod renew;
mod request;
mod scrub;
mod warm;
mod wide;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::ops::Range;

use gibblox_core::{BlockReader, GibbloxResult, ReadContext};
use tracing::trace;

use crate::backend::CacheOps;
use crate::bitmap::State;
use crate::config::{CacheConfig, FLUSH_EVERY_BLOCKS, FLUSH_EVERY_BYTES, FlushLimit};
use crate::error::source_changed;
use crate::fetch::Fetches;
use crate::file::{CacheFile, Named};
use crate::flush::{FlushGate, Limit};
use crate::geometry::Geometry;
use crate::identity::write_cached;
use crate::policy::FetchPolicy;
use crate::run::Run;
use crate::stats::{CacheCounters, CacheState, CacheStats};
use crate::sync::AtomicBool;

use contact::Contact;
use drop::Dropping;
use fetching::Fetching;
use flushing::Flushing;
use hit::{Counted, ReadBlocks, SlowPath};
use open::Opened;
use renew::{Renewing, check_version};
use request::Request;
use scrub::Scrubbing;
use warm::Warming;

/// The parts of a cached reader of `S` over a cache file on `C`.
pub(crate) struct Engine<S, C> {
    source: S,
    contact: Contact,
    file: CacheFile<C>,
    fetches: Fetches,
    policy: FetchPolicy,
    gate: FlushGate,
    geometry: Geometry,
    config: CacheConfig,
}

impl<S, C> Engine<S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    pub(crate) async fn open(source: S, cache: C, config: CacheConfig) -> GibbloxResult<Self> {
        config.check()?;
        let Opened {
            file,
            geometry,
            contact,
        } = open::open(&source, cache, config).await?;
        let most_blocks = match config.max_fetch_bytes() {
            0 => u64::MAX,
            bytes => geometry.blocks_in(u64::from(bytes)).max(1),
        };
        Ok(Self {
            source,
            contact,
            file,
            fetches: Fetches::new(config.fetches_at_once(), most_blocks),
            policy: FetchPolicy::new(config.wider_fetches(), geometry),
            gate: FlushGate::default(),
            geometry,
            config,
        })
    }

    // ---- the jobs ----

    fn fetching(&self) -> Fetching<'_, S, C> {
        Fetching::new(
            &self.source,
            &self.contact,
            &self.file,
            &self.policy,
            &self.gate,
            self.geometry,
        )
    }

    fn request(&self) -> Request<'_, S, C> {
        Request {
            fetches: &self.fetches,
            file: &self.file,
            policy: &self.policy,
            fetching: self.fetching(),
            fetches_at_once: self.config.fetches_at_once(),
        }
    }

    pub(crate) fn flushing(&self) -> Flushing<'_, C> {
        Flushing {
            fetches: &self.fetches,
            file: &self.file,
            gate: &self.gate,
            limit: self.flush_limit(),
            geometry: self.geometry,
            window_blocks: self.window_blocks(),
        }
    }

    pub(crate) fn warming(&self) -> Warming<'_, S, C> {
        Warming {
            fetches: &self.fetches,
            file: &self.file,
            fetching: self.fetching(),
            flushing: self.flushing(),
            geometry: self.geometry,
            window_blocks: self.window_blocks().min(self.fetches.most_blocks()),
            windows_at_once: self.config.windows_at_once(),
        }
    }

    pub(crate) fn dropping(&self) -> Dropping<'_, C> {
        Dropping {
            fetches: &self.fetches,
            file: &self.file,
            flushing: self.flushing(),
            geometry: self.geometry,
        }
    }

    pub(crate) fn scrubbing(&self) -> Scrubbing<'_, C> {
        Scrubbing {
            file: &self.file,
            flushing: self.flushing(),
            geometry: self.geometry,
            window_blocks: self.window_blocks(),
        }
    }

    pub(crate) fn renewing(&self) -> Renewing<'_, S, C> {
        Renewing {
            source: &self.source,
            fetches: &self.fetches,
            file: &self.file,
            geometry: self.geometry,
        }
    }

    fn flush_limit(&self) -> Limit {
        let in_bytes = |bytes| Limit::Beside(self.geometry.blocks_in(bytes).max(1));
        match self.config.flush_limit() {
            FlushLimit::Blocks(blocks) => Limit::Exact(u64::from(blocks)),
            FlushLimit::Bytes(bytes) => in_bytes(bytes),
            FlushLimit::Default if self.file.has_checksums() => in_bytes(FLUSH_EVERY_BYTES),
            FlushLimit::Default => Limit::Exact(u64::from(FLUSH_EVERY_BLOCKS)),
        }
    }

    fn window_blocks(&self) -> u64 {
        self.geometry
            .blocks_in(u64::from(self.config.window_bytes()))
            .max(1)
    }

    // ---- reading ----

    /// The future of a read, as large as the path that it takes.
    #[inline]
    pub(crate) fn read<'a>(
        &'a self,
        lba: u64,
        buf: &'a mut [u8],
        ctx: ReadContext,
    ) -> ReadBlocks<'a> {
        match self.geometry.request(lba, buf.len()) {
            Ok(Some(run)) => hit::read(self, run, buf, ctx),
            nothing => hit::in_box(|| core::future::ready(nothing.map(|_| 0))),
        }
    }

    // ---- looking ----

    pub(crate) fn is_cached(&self, lba: u64, blocks: u64) -> GibbloxResult<bool> {
        let range = self.geometry.range(lba, blocks)?;
        Ok(range.is_none_or(|range| self.file.state_at(range) == (State::Valid, range)))
    }

    pub(crate) fn cached_runs(&self) -> impl Iterator<Item = Range<u64>> {
        let mut rest = Run::new(0, self.geometry.total_blocks());
        core::iter::from_fn(move || {
            while let Some(run) = rest {
                let (state, run) = self.file.state_at(run);
                rest = rest.and_then(|rest| rest.from(run.end()));
                if state == State::Valid {
                    return Some(run.start()..run.end());
                }
            }
            None
        })
    }

    pub(crate) fn stats(&self) -> CacheStats {
        CacheStats {
            total_hits: self.file.counts().hits(),
            total_misses: self.file.counts().misses(),
            cached_blocks: self.file.valid_blocks(),
            total_blocks: self.geometry.total_blocks(),
        }
    }

    pub(crate) fn counters(&self) -> CacheCounters {
        self.file.counts().snapshot(self.geometry.block_size())
    }

    pub(crate) fn is_offline(&self) -> bool {
        !self.contact.is_made()
    }

    /// Looks whether the source is still the one of the file, if it has ever said so.
    pub(crate) fn notice_change(&self) {
        if self.contact.is_made() {
            // A change is told by the state; what the source fails to say tells nothing.
            let _ = check_version(&self.source, &self.file);
        }
    }

    pub(crate) fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write_cached(out, |out| self.source.write_identity(out))
    }
}

/// What can be told of any parts.
impl<S, C> Engine<S, C> {
    pub(crate) const fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(crate) fn named(&self) -> Arc<Named> {
        self.file.named()
    }

    pub(crate) fn state(&self) -> CacheState {
        self.file.state()
    }
}

impl<S, C> Engine<S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    async fn serve_and_flush(
        &self,
        run: Run,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> (bool, GibbloxResult<()>) {
        let is_asked = AtomicBool::new(false);
        let request = Request {
            fetching: self.fetching().telling(&is_asked),
            ..self.request()
        };
        let work = request.serve(run, buf, ctx);
        self.flushing().beside(&is_asked, work).await
    }
}

impl<S, C> SlowPath for Engine<S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    type Backend = C;

    #[inline]
    fn file(&self) -> &CacheFile<C> {
        &self.file
    }

    fn serve<'a>(
        &'a self,
        run: Run,
        counted: Counted,
        buf: &'a mut [u8],
        ctx: ReadContext,
    ) -> ReadBlocks<'a> {
        hit::in_box(|| async move {
            let (lba, blocks) = (run.start(), run.blocks());
            let hits = self.file.count_valid(run);
            if hits == blocks {
                // Otherwise the fetch looks.
                self.notice_change();
            }
            let age = self.file.age();
            if counted == Counted::No {
                trace!(lba, blocks, hits, "not all trusted");
                self.file.counts().looked(buf, blocks, hits);
            }
            self.file.check_age()?;
            let flushing = self.flushing();
            let was_bypassed = self.file.is_bypassed();
            let (mut fetched, mut result) = if flushing.is_due_beside() {
                // Boxed, since it is rare, and would make the future of every request larger.
                Box::pin(self.serve_and_flush(run, &mut *buf, ctx)).await
            } else {
                self.request().serve(run, &mut *buf, ctx).await
            };
            // With the source out of reach the cache is all there is, so a bypassed backend is probed at once.
            if result.is_err()
                && (was_bypassed || self.file.is_bypassed())
                && Box::pin(self.file.probe_at_once()).await
            {
                let (fetched_again, again) = self.request().serve(run, &mut *buf, ctx).await;
                fetched |= fetched_again;
                result = again;
            }
            let now = self.file.age();
            if !now.is_same_version(age) {
                // Some of it may be of the version before.
                let again = Box::pin(self.request().serve(run, &mut *buf, ctx)).await;
                fetched |= again.0;
                result = again.1;
                if !self.file.age().is_same_version(now) {
                    result = Err(source_changed());
                }
            }
            if fetched {
                // Once for a request, and last, so that no follower of its fetches waits for the flush.
                flushing.after_request().await;
            }
            result?;
            self.file.counts().filled_blocks.add(run.blocks());
            Ok(buf.len())
        })
    }
}
