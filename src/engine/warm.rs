//! [`Warming`]: makes ranges valid in windows, several at once, each claimed when its fetch begins.
//!
//! A *step* is one claim: it fetches the beginning of a window, or waits for the task that does, and is the next to
//! lead where that task fails or is dropped. The rest of the window is begun like any other. So between two steps
//! nothing is claimed, which is where the work is paused, and where it ends after an error. A step that waits for a
//! permit to fetch has claimed nothing either, unless the run passed on to it. No task ever waits for a window that is only queued: a reader that wants it claims it, and the
//! step that gets there finds it valid.
//!
//! # What was not done
//!
//! Smaller windows for a low priority. A task that wants a block of a window under way waits for all of that window, so
//! its size is a bound on waiting; but it is the caller's to choose (`window_bytes`), and smaller ones are more calls
//! for all.

use alloc::vec::Vec;
use core::fmt;
use core::future::{Future, poll_fn};
use core::task::Poll;

use futures_channel::oneshot::Receiver;
use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext};
use tracing::{debug, trace};

use crate::backend::CacheOps;
use crate::bitmap::State;
use crate::fetch::{Claim, Fetch, Fetches, Followed, Outcome};
use crate::file::CacheFile;
use crate::flush::Deferral;
use crate::geometry::Geometry;
use crate::permits::Rank;
use crate::run::Run;
use crate::turn::Turns;
use crate::warm::{PauseSwitch, WarmPlan, WarmProgress};

use super::fetching::{Fetched, Fetching};
use super::flushing::Flushing;
use super::memory::sized;
use super::scrub::WINDOWS_A_TURN;

/// How often in a row a range is cached of which the backend damages blocks meanwhile: then it keeps nothing. Blocks that
/// another task drops are no damage, and do not count.
const ATTEMPTS: u32 = 16;

#[cold]
fn damaged_again() -> GibbloxError {
    GibbloxError::with_message(
        GibbloxErrorKind::Io,
        "the cache backend damaged blocks as fast as they were cached",
    )
}

/// After how many windows warming flushes before it is done. One request is flushed once, but warming a whole device
/// takes hours, and a loss of power should cost minutes of it. A flush for each window, which the threshold
/// for single reads would mean, took twice the time of a fill without any.
const FLUSH_WINDOWS: u64 = 64;

/// How many blocks of the bitmap are looked at in one go: a few microseconds.
const SCAN_BLOCKS: u64 = 1 << 18;

/// After how many steps, or looks at the bitmap, other tasks get their turn.
const STEPS_A_TURN: u32 = 16;

/// What warming touches.
#[derive(Debug)]
pub(crate) struct Warming<'a, S, C> {
    pub(super) fetches: &'a Fetches,
    pub(super) file: &'a CacheFile<C>,
    pub(super) fetching: Fetching<'a, S, C>,
    pub(super) flushing: Flushing<'a, C>,
    pub(super) geometry: Geometry,
    pub(super) window_blocks: u64,
    pub(super) windows_at_once: u32,
}

/// What is to be cached, and how.
#[derive(Clone, Copy, Debug)]
struct Job<'a> {
    /// Disjoint and in order.
    wanted: &'a [Run],
    ctx: ReadContext,
    windows_at_once: u32,
    pause: Option<&'a PauseSwitch>,
    compares: bool,
}

impl Job<'_> {
    /// The end of the pause, if there is one.
    fn resumed(&self) -> Option<Receiver<()>> {
        self.pause.and_then(PauseSwitch::resumed)
    }
}

/// One way through what is wanted, window by window.
#[derive(Debug)]
struct Walk<'a> {
    window_blocks: u64,
    rest: Option<Run>,
    next: core::slice::Iter<'a, Run>,
}

impl<'a> Walk<'a> {
    fn new(wanted: &'a [Run], window_blocks: u64) -> Self {
        Self {
            window_blocks,
            rest: None,
            next: wanted.iter(),
        }
    }

    /// The next run that is missing, within one window of the device: aligned windows meet those of other callers.
    async fn next(
        &mut self,
        meter: &mut Meter<'_>,
        turns: &mut Turns,
        state_at: impl Fn(Run) -> (State, Run),
    ) -> Option<Run> {
        loop {
            let rest = match self.rest {
                Some(rest) => rest,
                None => *self.next.next()?,
            };
            // Not all of the rest at once, or a large device that is empty would be scanned for each window.
            let (found, run) = state_at(rest.first(self.window_blocks.max(SCAN_BLOCKS)));
            if found == State::Valid {
                self.rest = rest.from(run.end());
                meter.found_valid(run.blocks());
                turns.done().await;
                continue;
            }
            let in_window = self.window_blocks - run.start() % self.window_blocks;
            let run = run.first(in_window);
            self.rest = rest.from(run.end());
            meter.begun(run.blocks());
            return Some(run);
        }
    }
}

/// The pieces of some runs that are looked at in one go.
fn scans(wanted: &[Run]) -> impl Iterator<Item = Run> {
    wanted.iter().flat_map(|run| {
        let mut rest = Some(*run);
        core::iter::from_fn(move || {
            let piece = rest?.first(SCAN_BLOCKS);
            rest = rest.and_then(|rest| rest.from(piece.end()));
            Some(piece)
        })
    })
}

/// How far a step came.
#[derive(Debug)]
struct Step {
    /// The blocks of its run that are not known to be valid.
    left: Option<Run>,
    done_blocks: u64,
    fetched_blocks: u64,
    /// The error, and the block at which the step began.
    failed: Option<(u64, GibbloxError)>,
    /// For the next one.
    buf: Vec<u8>,
}

impl<S, C> Warming<'_, S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    /// Makes `blocks` blocks from `lba` valid.
    ///
    /// Cancellation is strict, as that of [`run`](Self::run).
    pub(crate) async fn range(&self, lba: u64, blocks: u64, ctx: ReadContext) -> GibbloxResult<()> {
        let Some(range) = self.geometry.range(lba, blocks)? else {
            return Ok(());
        };
        trace!(lba, blocks, "ensuring that blocks are cached");
        let wanted = [range];
        let job = Job {
            wanted: &wanted,
            ctx,
            windows_at_once: self.windows_at_once,
            pause: None,
            compares: false,
        };
        let mut meter = Meter::new(&wanted, self.geometry, None);
        self.run(job, &mut meter).await
    }

    /// Does what `plan` says, and tells how far it is.
    ///
    /// Cancellation is strict, as that of [`run`](Self::run).
    pub(crate) async fn plan(
        &self,
        plan: &WarmPlan,
        tell: Option<Tell<'_>>,
    ) -> GibbloxResult<WarmProgress> {
        let wanted = plan.wanted(self.geometry)?;
        let job = Job {
            wanted: &wanted,
            ctx: plan.context(),
            windows_at_once: plan.windows_at_once(self.windows_at_once)?,
            pause: plan.pause(),
            compares: plan.compares(),
        };
        let mut meter = Meter::new(&wanted, self.geometry, tell);
        if wanted.is_empty() {
            meter.finish();
            return Ok(meter.progress());
        }
        debug!(
            ranges = wanted.len(),
            blocks = meter.progress().wanted_blocks,
            "warming"
        );
        self.run(job, &mut meter).await?;
        Ok(meter.progress())
    }

    async fn are_valid(&self, wanted: &[Run], turns: &mut Turns) -> bool {
        for run in scans(wanted) {
            if self.file.state_at(run) != (State::Valid, run) {
                return false;
            }
            turns.done().await;
        }
        true
    }

    async fn count_valid(&self, wanted: &[Run], turns: &mut Turns) -> u64 {
        let mut count = 0;
        for run in scans(wanted) {
            count += self.file.count_valid(run);
            turns.done().await;
        }
        count
    }

    /// Makes every block of the job valid.
    ///
    /// Cancellation is strict: what was fetched stays cached, what was under way goes to the next task that claims it.
    async fn run(&self, job: Job<'_>, meter: &mut Meter<'_>) -> GibbloxResult<()> {
        self.file.ready().await?;
        if job.compares {
            self.compare(job).await?;
        }
        let mut turns = Turns::every(STEPS_A_TURN);
        if meter.is_told() {
            meter.start(self.count_valid(job.wanted, &mut turns).await);
        }
        let unflushed = self.flushing.defer();
        let mut result = Ok(());
        let mut has_begun = false;
        let mut attempts = 0;
        let damaged = || self.file.counts().mismatched_blocks.get();
        while result.is_ok() && !self.are_valid(job.wanted, &mut turns).await {
            has_begun = true;
            if attempts == ATTEMPTS {
                result = Err(damaged_again());
                break;
            }
            // A block may be dropped after the walk has passed it, or found damaged.
            let damaged_before = damaged();
            result = self.walk(job, &unflushed, meter, &mut turns).await;
            if job.compares && result.is_ok() {
                // What others stored meanwhile, or a policy does not trust yet.
                result = self.compare(job).await;
            }
            attempts = if damaged() == damaged_before {
                0
            } else {
                attempts + 1
            };
        }
        if has_begun {
            result = result.and(self.flushing.if_due(unflushed.due_at(0)).await);
        }
        if result.is_ok() {
            meter.finish();
        }
        result
    }

    /// Compares what is valid and not trusted, and drops what does not match. Fails where some of it cannot be read.
    async fn compare(&self, job: Job<'_>) -> GibbloxResult<()> {
        let mut window = Vec::new();
        let mut turns = Turns::every(WINDOWS_A_TURN);
        for wanted in job.wanted {
            let mut rest = Some(*wanted);
            while let Some(run) = rest {
                let (state, run) = self.file.known_state_at(run.first(SCAN_BLOCKS))?;
                let compares = state == State::Valid && !self.file.is_trusted(run);
                let run = if compares {
                    run.first(self.window_blocks)
                } else {
                    run
                };
                if compares && !self.file.is_trusted(run) {
                    if let Some(resumed) = job.resumed() {
                        // Resumed, or the switch is gone.
                        let _ = resumed.await;
                    }
                    let buf = sized(&mut window, self.geometry.len_bytes(run.blocks()))?;
                    match self.file.scrub(run, buf).await {
                        Ok(scrubbed) => scrubbed.result?,
                        // Some of it was dropped just now: what is valid has changed.
                        Err(_) => continue,
                    }
                }
                rest = wanted.from(run.end());
                turns.done().await;
            }
        }
        Ok(())
    }

    /// Goes through what is wanted once, and caches what is missing, several windows at once.
    ///
    /// After an error nothing further is begun, what is under way is finished, and the error is that of the first block.
    async fn walk(
        &self,
        job: Job<'_>,
        unflushed: &Deferral<'_>,
        meter: &mut Meter<'_>,
        turns: &mut Turns,
    ) -> GibbloxResult<()> {
        let most = usize::try_from(job.windows_at_once).unwrap_or(usize::MAX);
        let mut walk = Walk::new(job.wanted, self.window_blocks);
        // The rests of windows that were begun: no more than there are windows at once.
        let mut again: Vec<Run> = Vec::new();
        let mut spare: Vec<Vec<u8>> = Vec::new();
        let mut under_way = FuturesUnordered::new();
        let mut failed: Option<(u64, GibbloxError)> = None;
        loop {
            let mut paused = None;
            while failed.is_none() && under_way.len() < most {
                let state_at = |run| self.file.state_at(run);
                let run = match again.pop() {
                    Some(run) => Some(run),
                    None => walk.next(meter, turns, state_at).await,
                };
                let Some(run) = run else {
                    break;
                };
                paused = job.resumed();
                if paused.is_some() {
                    again.push(run);
                    break;
                }
                let buf = spare.pop().unwrap_or_default();
                under_way.push(self.step(run, job, unflushed, buf));
            }
            meter.tell();
            if under_way.is_empty() && paused.is_none() {
                break;
            }
            if let Some(step) = next_step(&mut under_way, paused).await {
                // Told before anything further is begun, so that the callback may pause.
                meter.done(step.done_blocks, step.fetched_blocks);
                meter.tell();
                again.extend(step.left);
                spare.push(step.buf);
                if let Some((lba, error)) = step.failed {
                    if failed.as_ref().is_none_or(|(first, _)| lba < *first) {
                        failed = Some((lba, error));
                    }
                }
                turns.done().await;
            }
        }
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Makes the beginning of `run` valid, as far as one claim goes.
    async fn step(&self, run: Run, job: Job<'_>, unflushed: &Deferral<'_>, buf: Vec<u8>) -> Step {
        let mut step = Step {
            left: Some(run),
            done_blocks: 0,
            fetched_blocks: 0,
            failed: None,
            buf,
        };
        let result = self.claim(run, job, unflushed, &mut step).await;
        step.failed = result.err().map(|error| (run.start(), error));
        step
    }

    async fn claim(
        &self,
        run: Run,
        job: Job<'_>,
        unflushed: &Deferral<'_>,
        step: &mut Step,
    ) -> GibbloxResult<()> {
        // The window may be a part of what the caller wants.
        let is_all = job.wanted == [run];
        let state_at = |run| self.file.state_at(run);
        let mut permit = None;
        let claim = loop {
            let claim = self.fetches.claim_one(run, is_all, &mut permit, state_at);
            match claim {
                Some(claim) => break claim,
                None => permit = Some(self.fetches.take_permit(Rank::Ahead).await),
            }
        };
        // One that was not needed after all passes on, before this waits for anything.
        drop(permit);
        let fetch = match claim {
            Claim::Valid(piece) => {
                step.passed(piece);
                return Ok(());
            }
            Claim::Lead(fetch) => fetch,
            Claim::Follow(follow) => {
                self.file.counts().followed_runs.add(1);
                match follow.outcome(state_at).await {
                    Followed::Ended(_, Outcome::Failed(error) | Outcome::Unstored(error, _)) => {
                        return Err(error);
                    }
                    // It may have been dropped again, and is looked at again when the walk is over.
                    Followed::Ended(piece, Outcome::Published | Outcome::Past(_))
                    | Followed::Valid(piece) => {
                        step.passed(piece);
                        return Ok(());
                    }
                    Followed::Lead(mut fetch) => {
                        fetch.permit(Rank::Ahead).await;
                        fetch
                    }
                }
            }
        };
        self.lead(fetch, job, unflushed, step).await
    }

    async fn lead(
        &self,
        fetch: Fetch<'_>,
        job: Job<'_>,
        unflushed: &Deferral<'_>,
        step: &mut Step,
    ) -> GibbloxResult<()> {
        let piece = fetch.span();
        let buf = sized(&mut step.buf, self.geometry.len_bytes(piece.blocks()))?;
        match self.fetching.fetch(fetch, buf, job.ctx).await {
            Fetched::Stored => {
                step.passed(piece);
                step.fetched_blocks = piece.blocks();
                unflushed.put_off(piece.blocks());
                let many = self.window_blocks.saturating_mul(FLUSH_WINDOWS);
                self.flushing.if_due(unflushed.due_at(many)).await
            }
            // As if it had been stored and dropped: it is looked at again when the walk is over.
            Fetched::Void => {
                step.passed(piece);
                Ok(())
            }
            Fetched::Unstored(error) | Fetched::Failed(error) => Err(error),
        }
    }
}

impl Step {
    /// `piece`, the beginning of the run, is valid.
    fn passed(&mut self, piece: Run) {
        self.left = self.left.and_then(|left| left.from(piece.end()));
        self.done_blocks = piece.blocks();
    }
}

/// The next step that is done; nothing where the pause ends first.
async fn next_step<F: Future>(
    under_way: &mut FuturesUnordered<F>,
    mut paused: Option<Receiver<()>>,
) -> Option<F::Output> {
    poll_fn(|cx| match under_way.poll_next_unpin(cx) {
        Poll::Ready(Some(step)) => Poll::Ready(Some(step)),
        Poll::Ready(None) | Poll::Pending => match &mut paused {
            Some(resumed) => resumed.poll_unpin(cx).map(|_| None),
            None => Poll::Pending,
        },
    })
    .await
}

/// Called with the progress.
pub(crate) type Tell<'t> = &'t mut (dyn FnMut(&WarmProgress) + Send);

/// Counts what is done, and tells it.
///
/// Blocks valid at the start are counted, not remembered. Passing a valid block uses up one of that count. When it is
/// used up, since others cached some meanwhile, further valid blocks count as they are passed. So none counts twice, and
/// in the end all do.
struct Meter<'t> {
    tell: Option<Tell<'t>>,
    told: Option<WarmProgress>,
    now: WarmProgress,
    /// Blocks that the walk has passed; more than there are where it has to go over them again.
    passed_blocks: u64,
    /// Blocks that it has begun, and not done.
    under_way_blocks: u64,
    /// Blocks valid at the start that it has not passed, or more: some may have been dropped.
    valid_blocks: u64,
}

impl fmt::Debug for Meter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Meter").field(&self.now).finish()
    }
}

impl<'t> Meter<'t> {
    fn new(wanted: &[Run], geometry: Geometry, tell: Option<Tell<'t>>) -> Self {
        Self {
            tell,
            told: None,
            now: WarmProgress {
                wanted_blocks: wanted.iter().map(|run| run.blocks()).sum(),
                done_blocks: 0,
                fetched_blocks: 0,
                block_bytes: geometry.block_size(),
            },
            passed_blocks: 0,
            under_way_blocks: 0,
            valid_blocks: 0,
        }
    }

    const fn progress(&self) -> WarmProgress {
        self.now
    }

    const fn is_told(&self) -> bool {
        self.tell.is_some()
    }

    /// Begins with so many blocks that are valid.
    fn start(&mut self, valid_blocks: u64) {
        self.valid_blocks = valid_blocks;
        self.tell();
    }

    /// The next `blocks` blocks are valid.
    fn found_valid(&mut self, blocks: u64) {
        self.passed_blocks += blocks;
        self.valid_blocks = self.valid_blocks.saturating_sub(blocks);
    }

    /// The next `blocks` blocks are not, and are worked on now.
    fn begun(&mut self, blocks: u64) {
        self.under_way_blocks += blocks;
    }

    /// `blocks` of those begun are valid, `fetched` of them from the source.
    fn done(&mut self, blocks: u64, fetched: u64) {
        self.under_way_blocks = self.under_way_blocks.saturating_sub(blocks);
        self.passed_blocks += blocks;
        self.now.fetched_blocks += fetched;
    }

    /// Tells how far it is, if that is news.
    fn tell(&mut self) {
        let done = self.passed_blocks.saturating_add(self.valid_blocks);
        let most = self.now.wanted_blocks.saturating_sub(self.under_way_blocks);
        self.now.done_blocks = self.now.done_blocks.max(done.min(most));
        if self.told != Some(self.now) {
            self.told = Some(self.now);
            if let Some(tell) = &mut self.tell {
                tell(&self.now);
            }
        }
    }

    /// All is done.
    fn finish(&mut self) {
        self.passed_blocks = self.now.wanted_blocks;
        self.under_way_blocks = 0;
        self.tell();
    }
}
