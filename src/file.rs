//! [`CacheFile`]: the cache file of one source on one backend. The only caller of [`CacheOps`].
//!
//! ```text
//!   Closed ──open──► Checked: a file with checksums, found or rebuilt
//!      ▲   └───────► Legacy:  a file of 0.0.1, without
//!      └─ a backend call failed while opening; the next read that misses tries again
//! ```
//!
//! A closed file has no valid block and takes none, so the reader above is a slower reader and not a broken one. No
//! error of the backend leaves this module but to those who asked for it to be done ([`CacheFile::store`],
//! [`CacheFile::flush`], [`CacheFile::open`]); all are counted and logged.
//!
//! # Reading
//!
//! Bytes go straight into the caller's buffer. Where blocks of the run are not trusted yet, their checksums are read
//! too and compared before anything is said to be good. What cannot be read or does not match is dropped and named,
//! so that the caller fetches it. While a read waits for the backend, a block that was valid may be dropped by another
//! reader, fetched again and overwritten, and that write may fail and leave garbage. So a read is believed only if
//! nothing was dropped meanwhile, or if it matches its checksums; else it looks again.
//!
//! # Storing
//!
//! Data, then checksum, then the bit in the file, then the bit in memory, so a block is never served that was not
//! written (I1). Nothing is written in front of a valid bit; in a file without checksums not in front of one in the
//! file either, so there the bit is cleared first. A bitmap byte belongs to eight blocks, hence to several writers:
//! who writes it has claimed it, and composes it then, so a late write never takes back an earlier one. A future that
//! is dropped in the middle leaves a bit in the file at most in front of bytes that were written.
//!
//! # Invalidating
//!
//! For a source that changed, so what is dropped must not come back, whatever the power does afterwards. A cleared bit
//! is not enough for that: when the block is fetched again, its new bit may reach the medium, and its new bytes not. So
//! the checksum is overwritten with zeros too, which match nothing. The caller leads the run, so nobody stores into it.
//!
//! # A flush that fails
//!
//! Nobody knows then what the medium kept, and reading it back may show either. So nothing stays trusted; each block
//! is compared again before it is served. In a file without checksums there is nothing to compare with: what this
//! process has read or written is dropped and fetched again, and the next process trusts the file as 0.0.1 would.
//!
//! # A backend that is bypassed
//!
//! While it is ([`Bypass`]), nothing counts as valid, as in a closed file. Whoever was in the middle of reading, storing
//! or waiting to open is refused the next call; that is no failure, and takes nothing back. The bits stay as they are.
//! When a probe has ended it, what has checksums is compared again, for the same reason as after a flush that failed.
//! What has none stays as it was.

mod inspect;
mod invalidate;
mod open;

use alloc::string::String;
use core::convert::Infallible;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult};
use smallvec::{SmallVec, smallvec};
use tracing::{debug, warn};

use crate::backend::CacheOps;
use crate::bitmap::{Changes, Epoch, Published, State, Validity};
use crate::bypass::{Bypass, Probe, Turn};
use crate::claims::Claims;
use crate::config::{BypassLimits, VerifyPolicy};
use crate::error::{out_of_memory, short_read};
use crate::format::checksum::{BlockHasher, SUM_BYTES};
use crate::format::header::{Checksums, Header};
use crate::format::layout::Layout;
use crate::geometry::Geometry;
use crate::run::Run;
use crate::stats::{CacheHealth, Call, Counts};

pub(crate) use inspect::stored_total_blocks;
pub use inspect::{CacheFileInfo, HeaderDamage, Inspection, inspect};

/// What a small machine is asked for where [`PIECE_BYTES`](open::PIECE_BYTES) are too many.
const SMALL_PIECE_BYTES: u64 = 1 << 10;

/// How often a run is looked at where blocks are dropped meanwhile: the second time everything is compared.
const LOOKS: usize = 2;

/// Checksums and bitmap bytes of a short run, without an allocation.
type Scratch = SmallVec<[u8; SHORT]>;

const SHORT: usize = 64;

/// Runs that have to be fetched. Mostly none.
pub(crate) type Unreadable = SmallVec<[Run; 1]>;

/// The cache file of one source.
#[derive(Debug)]
pub(crate) struct CacheFile<C> {
    backend: C,
    geometry: Geometry,
    identity: String,
    layout: Layout,
    hasher: BlockHasher,
    verify: VerifyPolicy,
    /// Whether the backend has answered [`read_now`](CacheOps::read_now) before.
    answers: AtomicBool,
    validity: Validity,
    mode: ModeCell,
    /// Held while the file is opened, so that it is opened once.
    opening: async_lock::Mutex<()>,
    /// Who writes which bytes of the bitmap.
    bitmap_writers: Claims<Infallible>,
    bypass: Bypass,
    counts: Counts,
}

/// What the file is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Closed,
    Open(Checksums),
}

/// Which blocks of a read are compared with their checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    /// What the policy asks for.
    AsConfigured,
    Everything,
}

/// Why bytes of the file were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unread {
    Failed,
    /// No call was made: the backend is bypassed, or there is no memory.
    Refused,
    /// The file is not as long as it was.
    Short,
}

/// How reading a run went.
#[derive(Debug)]
pub(crate) struct Looked {
    /// What could not be read or did not match. What `buf` holds of it is of no use.
    pub(crate) bad: Unreadable,
    /// Whether `bad` is certain, and no longer valid. Else blocks were dropped meanwhile, maybe these.
    pub(crate) settled: bool,
}

/// A run lost blocks since it was found valid: whoever wants it looks again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotValid;

/// How scrubbing a run went.
#[derive(Debug)]
pub(crate) struct Scrubbed {
    pub(crate) dropped_blocks: u64,
    /// Whether the file knows what was dropped.
    pub(crate) written: GibbloxResult<()>,
}

/// A run that was found trusted, hence one backend read away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit {
    run: Run,
    before: Changes,
}

impl Hit {
    /// What was found trusted.
    #[inline]
    pub(crate) const fn run(self) -> Run {
        self.run
    }
}

/// A [`Mode`] that is read without a lock.
#[derive(Debug)]
struct ModeCell(AtomicU8);

impl ModeCell {
    const fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    fn get(&self) -> Mode {
        match self.0.load(Ordering::Acquire) {
            0 => Mode::Closed,
            1 => Mode::Open(Checksums::Absent),
            _ => Mode::Open(Checksums::Xxh3),
        }
    }

    fn open(&self, checksums: Checksums) {
        let value = match checksums {
            Checksums::Absent => 1,
            Checksums::Xxh3 => 2,
        };
        self.0.store(value, Ordering::Release);
    }
}

fn not_open() -> GibbloxError {
    GibbloxError::with_message(
        GibbloxErrorKind::Io,
        "the cache file could not be opened yet",
    )
}

#[cold]
fn is_bypassed() -> GibbloxError {
    GibbloxError::with_message(
        GibbloxErrorKind::Io,
        "the cache backend failed too often and is bypassed",
    )
}

fn zeroed(len: usize, what: &str) -> GibbloxResult<Scratch> {
    let mut scratch = Scratch::from_buf([0; SHORT]);
    if len > SHORT {
        scratch
            .try_reserve_exact(len - SHORT)
            .map_err(|_| out_of_memory(what))?;
        scratch.resize(len, 0);
    }
    scratch.truncate(len);
    Ok(scratch)
}

impl<C: CacheOps> CacheFile<C> {
    /// Describes the cache file of the source `identity` on `backend`. No I/O: [`open`](Self::open) does that.
    pub(crate) fn new(
        backend: C,
        geometry: Geometry,
        identity: String,
        verify: VerifyPolicy,
        bypass: Option<BypassLimits>,
    ) -> GibbloxResult<Self> {
        let header = Header::new(geometry, &identity)?;
        Ok(Self {
            layout: Layout::new(geometry, header.len_bytes())?,
            validity: Validity::new(geometry.total_blocks())?,
            hasher: BlockHasher::new(&identity),
            backend,
            geometry,
            identity,
            verify,
            answers: AtomicBool::new(false),
            mode: ModeCell::new(),
            opening: async_lock::Mutex::new(()),
            bitmap_writers: Claims::default(),
            bypass: Bypass::new(bypass),
            counts: Counts::default(),
        })
    }

    pub(crate) const fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(crate) fn is_open(&self) -> bool {
        self.mode.get() != Mode::Closed
    }

    /// Whether this is the cache file of the source `identity`.
    pub(crate) fn is_of(&self, identity: &str) -> bool {
        self.identity == identity
    }

    /// Whether there is anything to compare blocks with.
    pub(crate) fn has_checksums(&self) -> bool {
        self.mode.get() == Mode::Open(Checksums::Xxh3)
    }

    // ---- whether the backend is asked ----

    pub(crate) fn health(&self) -> CacheHealth {
        if self.bypass.is_on() {
            CacheHealth::Bypassed
        } else {
            CacheHealth::Healthy
        }
    }

    /// An error where the backend is bypassed.
    pub(crate) fn check_used(&self) -> GibbloxResult<()> {
        if self.bypass.is_on() {
            return Err(is_bypassed());
        }
        Ok(())
    }

    /// For whoever wants the cache itself: opens the file where it is not open yet, and probes a backend that is
    /// bypassed.
    pub(crate) async fn ready(&self) -> GibbloxResult<()> {
        match self.bypass.turn_at_once() {
            Turn::Use => {}
            Turn::Pass => return Err(is_bypassed()),
            Turn::Probe(probe) => self.probe(probe).await?,
        }
        if self.is_open() {
            return Ok(());
        }
        self.open().await
    }

    /// For whoever wants bytes, from the cache if that can be had: whether to look there. Opens the file where it is not
    /// open yet.
    pub(crate) async fn prepare(&self) -> bool {
        let used = match self.bypass.turn() {
            Turn::Use => true,
            Turn::Pass => false,
            // It was counted and logged where it failed, and the read goes past as those before it.
            Turn::Probe(probe) => self.probe(probe).await.is_ok(),
        };
        if used {
            self.open_unless_busy().await;
        } else {
            self.counts.bypassed_reads.add(1);
        }
        used
    }

    async fn probe(&self, probe: Probe<'_>) -> GibbloxResult<()> {
        let counting = Call::of(&self.counts.probes);
        let answer = self.ask(0, &mut [0]).await;
        drop(counting);
        let error = match answer {
            Ok(0 | 1) => {
                if self.has_checksums() {
                    self.validity.distrust_all();
                }
                probe.answered(|| self.validity.end_change());
                debug!("the cache backend answers again and is used");
                return Ok(());
            }
            Ok(got) => short_read("the cache backend", got, 1),
            Err(error) => error,
        };
        self.counts.backend_read_failures.add(1);
        debug!(%error, "the cache backend still fails");
        probe.failed();
        Err(error)
    }

    /// A call failed, after which there may be no more of them. A short answer is none: it tells that the file is
    /// shorter.
    #[cold]
    fn call_failed(&self) {
        let enter = || self.validity.begin_change();
        if self.bypass.failed(|| self.counts.plain_hits(), enter) {
            self.counts.bypasses.add(1);
            warn!("the cache backend failed too often in a row and is bypassed");
        }
    }

    // ---- what is valid; nothing while the file is closed, though it may be half loaded, or bypassed ----

    pub(crate) fn shows_blocks(&self) -> bool {
        self.is_open() && !self.bypass.is_on()
    }

    /// The state of the first block of `run`, and the longest beginning of `run` that shares it.
    pub(crate) fn state_at(&self, run: Run) -> (State, Run) {
        if self.shows_blocks() {
            self.validity.state_at(run)
        } else {
            (State::Missing, run)
        }
    }

    /// How many blocks of `run` are valid.
    pub(crate) fn count_valid(&self, run: Run) -> u64 {
        if self.shows_blocks() {
            self.validity.count_valid(run)
        } else {
            0
        }
    }

    /// How many blocks are valid, or will be again when the backend is used again.
    pub(crate) fn valid_blocks(&self) -> u64 {
        if self.is_open() {
            self.validity.valid_blocks()
        } else {
            0
        }
    }

    /// Whether `run` can be served without comparing anything.
    #[inline]
    pub(crate) fn is_trusted(&self, run: Run) -> bool {
        self.verify != VerifyPolicy::OnEveryRead && self.validity.is_trusted(run)
    }

    // ---- the backend, each call counted and logged where it fails ----

    /// Fills `out`; what is not there is a failure.
    async fn read_exact(&self, offset: u64, out: &mut [u8]) -> Result<(), Unread> {
        if self.bypass.is_on() {
            return Err(Unread::Refused);
        }
        let asked = out.len();
        let answer = self.ask(offset, out).await;
        self.all_of(offset, asked, answer)
    }

    /// Fills as much of `out` as there is.
    async fn read_some(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.check_used()?;
        let asked = out.len();
        match self.ask(offset, out).await {
            Ok(got) if got <= asked => {
                self.bypass.succeeded();
                Ok(got)
            }
            // A count beyond the buffer is a defect of the backend, and no count at all.
            Ok(got) => {
                let error = short_read("the cache backend", got, asked);
                Err(self.read_failed(offset, error))
            }
            Err(error) => {
                let error = self.read_failed(offset, error);
                self.call_failed();
                Err(error)
            }
        }
    }

    async fn ask(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        let _counted = Call::of(&self.counts.backend_reads);
        match self.backend.read_now(offset, out) {
            Some(answer) => {
                if !self.answers_at_once() {
                    self.answers.store(true, Ordering::Relaxed);
                }
                answer
            }
            None => self.backend.read_at(offset, out).await,
        }
    }

    /// Whether hits are likely to be answered at once. What opening found out; asking is right either way.
    #[inline]
    pub(crate) fn answers_at_once(&self) -> bool {
        self.answers.load(Ordering::Relaxed)
    }

    /// What an answer says where anything but `asked` bytes is a failure. That the [call failed](Self::call_failed) is
    /// for the caller to say.
    fn all_of(
        &self,
        offset: u64,
        asked: usize,
        answer: GibbloxResult<usize>,
    ) -> Result<(), Unread> {
        match answer {
            Ok(got) if got == asked => {
                self.bypass.succeeded();
                Ok(())
            }
            Ok(got) => {
                let error = short_read("the cache backend", got, asked);
                self.read_failed(offset, error);
                Err(Unread::Short)
            }
            Err(error) => {
                self.read_failed(offset, error);
                Err(Unread::Failed)
            }
        }
    }

    #[cold]
    fn read_failed(&self, offset: u64, error: GibbloxError) -> GibbloxError {
        self.counts.backend_read_failures.add(1);
        warn!(offset, %error, "reading the cache failed");
        error
    }

    async fn write(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.check_used()?;
        let call = Call::of(&self.counts.backend_writes);
        let answer = match self.backend.write_now(offset, data) {
            Some(answer) => answer,
            None => self.backend.write_at(offset, data).await,
        };
        drop(call);
        self.wrote(offset, answer)
    }

    fn wrote(&self, offset: u64, answer: GibbloxResult<()>) -> GibbloxResult<()> {
        match answer {
            Ok(()) => {
                self.bypass.succeeded();
                Ok(())
            }
            Err(error) => Err(self.write_failed(offset, error)),
        }
    }

    #[cold]
    fn write_failed(&self, offset: u64, error: GibbloxError) -> GibbloxError {
        self.counts.backend_write_failures.add(1);
        warn!(offset, %error, "writing the cache failed");
        self.call_failed();
        error
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        let call = Call::of(&self.counts.backend_writes);
        let answer = self.backend.set_len(len).await;
        drop(call);
        self.wrote(len, answer)
    }

    async fn flush_backend(&self) -> GibbloxResult<()> {
        let call = Call::of(&self.counts.backend_flushes);
        let answer = self.backend.flush().await;
        drop(call);
        match answer {
            Ok(()) => {
                self.bypass.succeeded();
                Ok(())
            }
            Err(error) => Err(self.flush_failed(error)),
        }
    }

    #[cold]
    fn flush_failed(&self, error: GibbloxError) -> GibbloxError {
        self.counts.backend_flush_failures.add(1);
        warn!(%error, "flushing the cache failed");
        self.call_failed();
        error
    }

    /// Makes durable what was written. After an error nothing is trusted any more, so this refuses nothing: the caller
    /// has [checked](Self::check_used).
    ///
    /// Cancellation is strict: a dropped flush promises nothing and takes nothing back.
    pub(crate) async fn flush(&self) -> GibbloxResult<()> {
        let Err(error) = self.flush_backend().await else {
            return Ok(());
        };
        match self.mode.get() {
            Mode::Closed => {}
            Mode::Open(Checksums::Xxh3) => self.validity.distrust_all(),
            Mode::Open(Checksums::Absent) => self.validity.drop_trusted(),
        }
        Err(error)
    }

    // ---- reading ----

    /// Whether `run` can be served without comparing anything, and if so what reading it takes.
    #[inline]
    pub(crate) fn find_trusted(&self, run: Run) -> Option<Hit> {
        // The order matters, and is the bitmap's: count, bits, bytes, count.
        let before = self.validity.changes()?;
        self.is_trusted(run).then_some(Hit { run, before })
    }

    /// Whether no block has begun to lose what it had since `hit` was found. A bypass counts as if all had.
    #[inline]
    pub(crate) fn is_still(&self, hit: Hit) -> bool {
        self.validity.unchanged(hit.before)
    }

    /// Reads a hit where the backend can answer at once; `Some(false)` as in [`read_hit`](Self::read_hit).
    #[inline]
    pub(crate) fn read_hit_now(&self, hit: Hit, buf: &mut [u8]) -> Option<bool> {
        let offset = self.layout.data_offset(hit.run.start());
        let answer = self.backend.read_now(offset, buf)?;
        Some(self.is_served(hit, buf.len(), answer))
    }

    /// Reads a hit; `false` where the backend failed, or where blocks were made not valid meanwhile, and the run is to
    /// be read with all that follows.
    ///
    /// Cost: one backend read.
    pub(crate) async fn read_hit(&self, hit: Hit, buf: &mut [u8]) -> bool {
        let offset = self.layout.data_offset(hit.run.start());
        let answer = self.backend.read_at(offset, buf).await;
        self.is_served(hit, buf.len(), answer)
    }

    #[inline]
    fn is_served(&self, hit: Hit, asked: usize, answer: GibbloxResult<usize>) -> bool {
        match answer {
            Ok(got) if got == asked => self.validity.unchanged(hit.before),
            answer => {
                // Counted and logged; the blocks stay as they are until the long way fails too.
                let offset = self.layout.data_offset(hit.run.start());
                if self.all_of(offset, asked, answer) == Err(Unread::Failed) {
                    self.call_failed();
                }
                false
            }
        }
    }

    /// Reads `run`, which was valid, into `buf`, and compares what is not trusted.
    ///
    /// Cost: one backend read, and one more for the checksums where anything has to be compared. Again, a bounded
    /// number of times, where blocks were dropped meanwhile.
    pub(crate) async fn read(&self, run: Run, buf: &mut [u8]) -> Result<Looked, NotValid> {
        self.look(run, buf, Compare::AsConfigured).await
    }

    /// Reads `run`, which was valid, into `buf`, which is as long, and compares all of it. What is dropped is dropped
    /// in the file too. Returns how many blocks that were.
    ///
    /// Cost: as [`read`](Self::read), and one write where anything is dropped.
    pub(crate) async fn scrub(&self, run: Run, buf: &mut [u8]) -> Result<Scrubbed, NotValid> {
        let Looked { bad, settled } = self.look(run, buf, Compare::Everything).await?;
        if !settled && !bad.is_empty() {
            return Err(NotValid);
        }
        let mut written = Ok(());
        if !bad.is_empty() {
            written = self.write_bits(run, None).await.map(drop);
        }
        Ok(Scrubbed {
            dropped_blocks: bad.iter().map(|run| run.blocks()).sum(),
            written,
        })
    }

    /// [`state_at`](Self::state_at), but an error where nobody can tell: for whoever would take it for a cache with
    /// nothing in it.
    pub(crate) fn known_state_at(&self, run: Run) -> GibbloxResult<(State, Run)> {
        // In this order: where it is bypassed from now on, the bits are what they were.
        self.check_used()?;
        if self.is_open() {
            Ok(self.validity.state_at(run))
        } else {
            Ok((State::Missing, run))
        }
    }

    async fn look(&self, run: Run, buf: &mut [u8], compare: Compare) -> Result<Looked, NotValid> {
        for look in 0..LOOKS {
            // The order matters, and is the bitmap's: count, bits, bytes, count.
            let since = self.validity.epoch();
            let before = self.validity.changes();
            if self.validity.count_valid(run) != run.blocks() {
                return Err(NotValid);
            }
            if let (Compare::AsConfigured, Some(before)) = (compare, before) {
                let comparable = self.has_checksums();
                let used = self.validity.take_unasked(run, before, comparable);
                if used != 0 {
                    self.counts.unasked_used_blocks.add(used);
                }
            }
            // Where one block has to be compared, all of the run are: what is trusted when its bytes arrive may have
            // been repaired since they were read. After a look that was disturbed comparing tells more than looking.
            let comparing = self.has_checksums()
                && (look > 0 || compare == Compare::Everything || self.must_compare(run));
            let offset = self.layout.data_offset(run.start());
            let read = match self.read_exact(offset, buf).await {
                Ok(()) if comparing => self.find_mismatches(run, buf).await,
                Ok(()) => Ok(Unreadable::new()),
                Err(why) => Err(why),
            };
            let settled = before.is_some_and(|before| self.validity.unchanged(before));
            if matches!(read, Err(Unread::Failed)) {
                // Not before: a bypass that this begins is no reason to keep what could not be read.
                self.call_failed();
            }
            match read {
                // What matches is right, whatever happened meanwhile; what does not may have been repaired.
                Ok(bad) if settled || comparing => {
                    self.conclude(run, &bad, settled, since);
                    return Ok(Looked { bad, settled });
                }
                Err(why) if settled => {
                    self.validity.invalidate(run);
                    if why == Unread::Short {
                        self.truncated().await;
                    }
                    return Ok(Looked {
                        bad: smallvec![run],
                        settled,
                    });
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(Looked {
            bad: smallvec![run],
            settled: false,
        })
    }

    /// Whether the policy wants `run` compared before it is served.
    fn must_compare(&self, run: Run) -> bool {
        match self.verify {
            VerifyPolicy::OnFirstRead => !self.validity.is_trusted(run),
            VerifyPolicy::OnEveryRead => true,
            VerifyPolicy::Never => self.validity.was_distrusted() && !self.validity.is_trusted(run),
        }
    }

    /// Trusts what of `run` is not `bad`, and drops what is, if that is certain.
    fn conclude(&self, run: Run, bad: &Unreadable, settled: bool, since: Epoch) {
        let mut rest = Some(run);
        for run in bad {
            if settled {
                self.mismatched(*run);
            }
            if let Some(good) = rest.and_then(|rest| Run::new(rest.start(), run.start())) {
                self.validity.trust(good, since);
            }
            rest = rest.and_then(|rest| rest.from(run.end()));
        }
        if let Some(good) = rest {
            self.validity.trust(good, since);
        }
    }

    /// The blocks of `run`, which `buf` holds, that differ from their checksums.
    async fn find_mismatches(&self, run: Run, buf: &[u8]) -> Result<Unreadable, Unread> {
        let sums = zeroed(Layout::sums_len(run), "checksums");
        let mut sums = sums.map_err(|_| Unread::Refused)?;
        self.read_exact(self.layout.sum_offset(run.start()), &mut sums)
            .await?;
        let mut bad = Unreadable::new();
        let blocks = buf.chunks_exact(self.geometry.len_bytes(1));
        let sums = sums.chunks_exact(SUM_BYTES);
        for ((lba, block), sum) in (run.start()..).zip(blocks).zip(sums) {
            if self.hasher.sum(lba, block) == sum {
                continue;
            }
            let block_run = Run::block(lba);
            let joined = bad.last().and_then(|last| last.join(block_run));
            match (bad.last_mut(), joined) {
                (Some(last), Some(joined)) => *last = joined,
                _ => bad.push(block_run),
            }
        }
        Ok(bad)
    }

    /// The file became shorter while it was open, and the next write makes it longer again, with a hole.
    ///
    /// A hole matches no checksum, so it is enough to compare everything again. Without checksums nothing is valid any
    /// more, here and, as far as the backend lets it, in the file.
    #[cold]
    async fn truncated(&self) {
        if self.has_checksums() {
            self.validity.distrust_all();
            return;
        }
        if let Some(device) = Run::new(0, self.geometry.total_blocks()) {
            self.invalidate(device);
            let _ = self.erase(device).await;
        }
    }

    #[cold]
    fn mismatched(&self, run: Run) {
        self.counts.mismatched_blocks.add(run.blocks());
        warn!(
            lba = run.start(),
            blocks = run.blocks(),
            "cached blocks do not match their checksums and are fetched again"
        );
        self.validity.invalidate(run);
    }

    // ---- storing ----

    /// Stores the bytes of `run` and makes it valid; returns how many of its blocks were not valid before. `asked` is the
    /// part of it that somebody asked for.
    ///
    /// An error leaves the run not valid. Cancellation is strict: a run that was left in the middle is not valid, and
    /// storing it again writes all of it.
    ///
    /// Cost: one write of data, one of checksums, one of the bitmap. Two of the bitmap where there are no checksums.
    pub(crate) async fn store(&self, run: Run, asked: Run, data: &[u8]) -> GibbloxResult<u64> {
        let Mode::Open(checksums) = self.mode.get() else {
            return Err(not_open());
        };
        // Before anything is taken back that is only out of sight.
        self.check_used()?;
        self.validity.reserve(run)?;
        if self.validity.count_valid(run) != 0 {
            // The file was opened after this fetch had begun, and holds what is about to be overwritten.
            self.validity.invalidate(run);
        }
        if checksums == Checksums::Absent {
            self.write_bits(run, None).await?;
        }
        let since = self.validity.epoch();
        let sums = match checksums {
            Checksums::Xxh3 => self.sums(run, data)?,
            Checksums::Absent => Scratch::new(),
        };
        self.write(self.layout.data_offset(run.start()), data)
            .await?;
        if checksums == Checksums::Xxh3 {
            self.write(self.layout.sum_offset(run.start()), &sums)
                .await?;
        }
        match self.write_bits(run, Some((asked, since))).await? {
            Published::Untrusted(_) if checksums == Checksums::Absent => {
                // A flush failed in the meantime, and nothing will ever tell whether these bytes were in it.
                self.validity.invalidate(run);
                Err(not_durable())
            }
            Published::Trusted(newly) | Published::Untrusted(newly) => Ok(newly),
        }
    }

    /// The checksums of `run`, which `data` holds.
    fn sums(&self, run: Run, data: &[u8]) -> GibbloxResult<Scratch> {
        let mut sums = zeroed(Layout::sums_len(run), "checksums")?;
        let blocks = data.chunks_exact(self.geometry.len_bytes(1));
        let slots = sums.chunks_exact_mut(SUM_BYTES);
        for ((lba, block), slot) in (run.start()..).zip(blocks).zip(slots) {
            slot.copy_from_slice(&self.hasher.sum(lba, block));
        }
        Ok(sums)
    }

    /// Writes the bits of `run` as they are in memory, or, to publish what was `stored`, as valid, and then makes them so.
    async fn write_bits(&self, run: Run, stored: Option<(Run, Epoch)>) -> GibbloxResult<Published> {
        let first = Layout::bitmap_byte(run.start());
        let bytes = Layout::bitmap_byte(run.end() - 1) - first + 1;
        let mut bits = zeroed(usize::try_from(bytes).unwrap_or(usize::MAX), "bits")?;
        // A run of bytes here, not of blocks; there is at least one.
        let bytes = Run::block(first).until(first + bytes);
        let _alone = self.bitmap_writers.take_all(bytes).await;
        self.validity.encode(first, stored.map(|_| run), &mut bits);
        self.write(self.layout.bitmap().start + first, &bits)
            .await?;
        Ok(match stored {
            Some((asked, since)) => self.validity.publish(run, asked, since),
            None => Published::Trusted(0),
        })
    }
}

fn not_durable() -> GibbloxError {
    GibbloxError::with_message(
        GibbloxErrorKind::Io,
        "a flush failed while the blocks were stored",
    )
}
