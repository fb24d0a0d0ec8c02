//! [`Port`]: a checked backend behind a circuit breaker. Every call to [`CacheOps`] that a reader makes goes through it.
//!
//! ```text
//!   CacheFile ── offset, bytes ──► Calls ── refused while bypassed
//!                                   │   ── counted, when it is over
//!                                   │   ── continued while it is short, until all is there or a call returns 0
//!                                   │   ── told: once when trouble begins, once when it is over
//!                                   ▼
//!                                CacheOps
//! ```
//!
//! Knows offsets, and no blocks. What a bypass means for the blocks is the [`Barrier`]'s, which the port raises and
//! lowers; it is handed in with each view ([`Port::calls`]), so that the port holds no reference upwards.
//!
//! Opening a file takes many calls, most of which may succeed on a disk that takes no writes. So there are
//! [quiet](Calls::quiet) calls, which neither begin nor end a row of failures. The opening as a whole does, by
//! [`Calls::settle`].
//!
//! # What was not done
//!
//! A deadline for a call: it takes a clock. Trying a call again that failed: the caller knows whether a smaller one helps.

mod trouble;

use gibblox_core::{GibbloxError, GibbloxResult};
use tracing::{debug, warn};

use crate::backend::{CacheOps, LockMode, LockOutcome, Tenants};
use crate::bypass::{Bypass, Probe, Turn};
use crate::config::BypassPolicy;
use crate::error::{bypassed, read_only, short_read};
use crate::stats::{Call, Counts};
use crate::sync::{AtomicBool, Ordering};

use trouble::Trouble;

/// A backend, and what is known of how well it is.
#[derive(Debug)]
pub(crate) struct Port<C> {
    backend: C,
    bypass: Bypass,
    /// Whether the backend has answered [`read_now`](CacheOps::read_now) before.
    answers_now: AtomicBool,
    reads: Trouble,
    writes: Trouble,
    flushes: Trouble,
    counts: Counts,
}

/// What is out of sight while the backend is bypassed.
pub(crate) trait Barrier: Sync {
    /// A bypass begins.
    fn raise(&self);
    /// A bypass ends.
    fn lower(&self);
}

/// Why bytes of the array were not read.
#[derive(Debug)]
pub(crate) enum Unread {
    /// The backend failed, with this error.
    Failed(GibbloxError),
    /// No call was made: the backend is bypassed, or there is no memory.
    Refused(GibbloxError),
    /// A call returned 0 before all was there.
    Short(GibbloxError),
}

impl Unread {
    /// What to tell a caller that wants the bytes.
    pub(crate) fn into_error(self) -> GibbloxError {
        match self {
            Self::Failed(error) | Self::Refused(error) | Self::Short(error) => error,
        }
    }
}

/// The calls of one task.
#[derive(Debug)]
pub(crate) struct Calls<'p, C, B> {
    port: &'p Port<C>,
    barrier: &'p B,
    /// Whether each call counts in a row of failures.
    in_row: bool,
}

impl<C, B> Clone for Calls<'_, C, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C, B> Copy for Calls<'_, C, B> {}

/// Asks `backend` for `out` and goes on after a short answer, until all of it is there or a call returns 0. Each call is
/// beside what `begin` returns; `answered_now` hears of an answer without waiting.
async fn read_through<C: CacheOps + ?Sized, G>(
    backend: &C,
    offset: u64,
    out: &mut [u8],
    begin: impl Fn() -> G,
    answered_now: impl Fn(),
) -> GibbloxResult<usize> {
    let mut filled = 0;
    while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let asked = rest.len();
        let counting = begin();
        let at = offset.saturating_add(filled as u64);
        let answer = match backend.read_now(at, rest) {
            Some(answer) => {
                answered_now();
                answer
            }
            None => backend.read_at(at, rest).await,
        };
        drop(counting);
        match answer? {
            0 => break,
            // A count beyond the buffer is a defect of the backend, and no count at all.
            got if got > asked => return Err(short_read("the cache backend", got, asked)),
            got => filled += got,
        }
    }
    Ok(filled)
}

/// A backend that is only read, without a port: for looking at a file that no reader has opened.
#[derive(Debug)]
pub(crate) struct Ungated<'c, C: ?Sized>(pub(crate) &'c C);

/// Where pieces of a file are read from.
pub(crate) trait ReadPieces: Sync {
    /// Fills as much of `out` as there is.
    fn read_some(
        &self,
        offset: u64,
        out: &mut [u8],
    ) -> impl Future<Output = GibbloxResult<usize>> + Send;
}

impl<C: CacheOps + ?Sized> ReadPieces for Ungated<'_, C> {
    async fn read_some(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        read_through(self.0, offset, out, || (), || ()).await
    }
}

impl<C: CacheOps, B: Barrier> ReadPieces for Calls<'_, C, B> {
    /// Fills as much of `out` as there is.
    async fn read_some(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.port.check()?;
        match self.ask(offset, out).await {
            Ok(got) => {
                self.answered(&self.port.reads);
                Ok(got)
            }
            Err(error) => {
                self.read_failed(offset, &error);
                if self.in_row {
                    self.failed();
                }
                Err(error)
            }
        }
    }
}

impl<C> Port<C> {
    pub(crate) fn new(backend: C, bypass: Option<BypassPolicy>) -> Self {
        Self {
            backend,
            bypass: Bypass::new(bypass),
            answers_now: AtomicBool::new(false),
            reads: Trouble::new("reading"),
            writes: Trouble::new("writing"),
            flushes: Trouble::new("flushing"),
            counts: Counts::default(),
        }
    }

    pub(crate) const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Whether no call is made.
    #[inline]
    pub(crate) fn is_bypassed(&self) -> bool {
        self.bypass.is_on()
    }

    /// Whether the last call that ended failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.bypass.is_failing(|| self.counts.plain_hits())
    }

    /// An error where no call is made.
    pub(crate) fn check(&self) -> GibbloxResult<()> {
        if self.is_bypassed() {
            return Err(bypassed());
        }
        Ok(())
    }

    /// What a read does that would use the cache.
    pub(crate) fn turn(&self) -> Turn<'_> {
        self.bypass.turn()
    }

    /// What a task does that wants the cache, and not only bytes.
    pub(crate) fn turn_at_once(&self) -> Turn<'_> {
        self.bypass.turn_at_once()
    }

    /// Whether reads are likely to be answered at once. Asking is right either way.
    #[inline]
    pub(crate) fn answers_now(&self) -> bool {
        self.answers_now.load(Ordering::Relaxed)
    }

    /// The calls of a task, where `barrier` is what a bypass puts out of sight.
    pub(crate) const fn calls<'p, B>(&'p self, barrier: &'p B) -> Calls<'p, C, B> {
        Calls {
            port: self,
            barrier,
            in_row: true,
        }
    }
}

impl<C: CacheOps> Port<C> {
    pub(crate) fn is_read_only(&self) -> bool {
        self.backend.is_read_only()
    }

    pub(crate) fn tenants(&self) -> Option<&Tenants> {
        self.backend.tenants()
    }

    pub(crate) async fn lock(&self, mode: LockMode) -> LockOutcome {
        self.backend.lock(mode).await
    }

    pub(crate) async fn renew(&self) -> GibbloxResult<bool> {
        self.backend.renew().await
    }

    /// An error where nothing is to be written: that is no failure of the backend.
    fn check_writable(&self) -> GibbloxResult<()> {
        self.check()?;
        if self.is_read_only() {
            return Err(read_only());
        }
        Ok(())
    }

    /// The read of a plain hit, where the backend can answer at once. It is counted as a hit is.
    #[inline]
    pub(crate) fn hit_now(&self, offset: u64, out: &mut [u8]) -> Option<GibbloxResult<usize>> {
        self.backend.read_now(offset, out)
    }

    /// The read of a plain hit. It is counted as a hit is.
    #[inline]
    pub(crate) async fn hit(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.backend.read_at(offset, out).await
    }
}

impl<C: CacheOps, B: Barrier> Calls<'_, C, B> {
    /// The same calls, none of which counts in the row of failures. The caller [settles](Self::settle) for all of them.
    pub(crate) const fn quiet(mut self) -> Self {
        self.in_row = false;
        self
    }

    /// Counts several quiet calls as one in the row of failures.
    pub(crate) fn settle(&self, ok: bool) {
        if ok {
            self.port.bypass.succeeded();
        } else {
            self.failed();
        }
    }

    fn answered(&self, trouble: &Trouble) {
        trouble.answered();
        if self.in_row {
            self.port.bypass.succeeded();
        }
    }

    /// A call failed, after which there may be no more of them.
    #[cold]
    fn failed(&self) {
        let port = self.port;
        let plain_hits = || port.counts.plain_hits();
        if port.bypass.failed(plain_hits, || self.barrier.raise()) {
            port.counts.bypasses.add(1);
            warn!("the cache backend failed too often in a row and is bypassed");
        }
    }

    /// A call failed that the caller has counted elsewhere.
    #[cold]
    pub(crate) fn hit_failed(&self, offset: u64, error: &GibbloxError) {
        self.read_failed(offset, error);
        self.failed();
    }

    #[cold]
    fn read_failed(&self, offset: u64, error: &GibbloxError) {
        self.port.counts.backend_read_failures.add(1);
        self.port.reads.failed(offset, error);
    }

    /// Fills `out`, or says why not. A short answer is no failure of the backend: the array may be shorter.
    pub(crate) async fn read_all(&self, offset: u64, out: &mut [u8]) -> Result<(), Unread> {
        if self.port.is_bypassed() {
            return Err(Unread::Refused(bypassed()));
        }
        let asked = out.len();
        match self.ask(offset, out).await {
            Ok(got) if got == asked => {
                self.answered(&self.port.reads);
                Ok(())
            }
            Ok(got) => {
                let error = short_read("the cache backend", got, asked);
                self.read_failed(offset, &error);
                Err(Unread::Short(error))
            }
            Err(error) => {
                self.read_failed(offset, &error);
                if self.in_row {
                    self.failed();
                }
                Err(Unread::Failed(error))
            }
        }
    }

    async fn ask(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        let port = self.port;
        let begin = || Call::of(&port.counts.backend_reads);
        let answered_now = || {
            if !port.answers_now() {
                port.answers_now.store(true, Ordering::Relaxed);
            }
        };
        read_through(&port.backend, offset, out, begin, answered_now).await
    }

    /// Writes `data` at `offset`.
    pub(crate) async fn write(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.port.check_writable()?;
        let backend = &self.port.backend;
        let call = Call::of(&self.port.counts.backend_writes);
        let answer = match backend.write_now(offset, data) {
            Some(answer) => answer,
            None => backend.write_at(offset, data).await,
        };
        drop(call);
        self.wrote(offset, answer)
    }

    /// Makes the array `len` bytes long.
    pub(crate) async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.port.check_writable()?;
        let call = Call::of(&self.port.counts.backend_writes);
        let answer = self.port.backend.set_len(len).await;
        drop(call);
        self.wrote(len, answer)
    }

    fn wrote(&self, offset: u64, answer: GibbloxResult<()>) -> GibbloxResult<()> {
        let counts = &self.port.counts.backend_write_failures;
        self.over(&self.port.writes, counts, offset, answer)
    }

    /// Makes durable what was written. Also where no call is made otherwise: the caller has [checked](Port::check).
    pub(crate) async fn flush(&self) -> GibbloxResult<()> {
        let call = Call::of(&self.port.counts.backend_flushes);
        let answer = self.port.backend.flush().await;
        drop(call);
        let counts = &self.port.counts.backend_flush_failures;
        self.over(&self.port.flushes, counts, 0, answer)
    }

    fn over(
        &self,
        trouble: &Trouble,
        failures: &crate::sync::Counter,
        offset: u64,
        answer: GibbloxResult<()>,
    ) -> GibbloxResult<()> {
        match &answer {
            Ok(()) => self.answered(trouble),
            Err(error) => {
                failures.add(1);
                trouble.failed(offset, error);
                if self.in_row {
                    self.failed();
                }
            }
        }
        answer
    }

    /// Reads one byte to see whether the backend is well again. Where it is, `before` is run and the bypass ends.
    pub(crate) async fn probe(&self, probe: Probe<'_>, before: impl FnOnce()) -> GibbloxResult<()> {
        let counting = Call::of(&self.port.counts.probes);
        let answer = self.ask(0, &mut [0]).await;
        drop(counting);
        match answer {
            Ok(_) => {
                before();
                probe.answered(|| self.barrier.lower());
                debug!("the cache backend answers again and is used");
                Ok(())
            }
            Err(error) => {
                self.port.counts.backend_read_failures.add(1);
                debug!(%error, "the cache backend still fails");
                probe.failed();
                Err(error)
            }
        }
    }
}
