//! What is to be cached ahead, how far that is, and how it is held up: [`Warm`], [`WarmProgress`], [`Pause`].
//!
//! # What was not done
//!
//! Progress as a stream: it advances only while it is polled, so a program that draws a bar between two items, or waits
//! for something else, keeps those waiting who follow a fetch of the stream. A callback leaves one future, which is
//! polled or dropped like any other.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use futures_channel::oneshot::{Receiver, Sender, channel};
use gibblox_core::{GibbloxResult, ReadContext};

use crate::error::invalid_input;
use crate::geometry::Geometry;
use crate::run::Run;
use crate::sync::Lock;

/// What [`CachedBlockReader::warm`](crate::CachedBlockReader::warm) caches ahead, and how.
///
/// ```
/// use gibblox_cache::{Pause, Warm};
///
/// let pause = Pause::new();
/// let boot_and_index = Warm::ranges([0..2048, 1 << 20..(1 << 20) + 512])
///     .with_windows_at_once(2)
///     .with_pause(&pause);
/// # let _ = boot_and_index;
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is cached until a reader is asked to"]
pub struct Warm {
    what: What,
    windows_at_once: Option<u32>,
    context: ReadContext,
    pause: Option<Pause>,
}

#[derive(Clone, Debug)]
enum What {
    Device,
    Ranges(Vec<Range<u64>>),
}

impl Warm {
    const fn new(what: What) -> Self {
        Self {
            what,
            windows_at_once: None,
            context: ReadContext::BACKGROUND,
            pause: None,
        }
    }

    /// All blocks of the device.
    pub const fn device() -> Self {
        Self::new(What::Device)
    }

    /// The blocks of `range`, from its first lba to the one behind its last.
    ///
    /// An empty range is nothing. Whether it lies on the device is checked when a reader is asked to cache it.
    pub fn range(range: Range<u64>) -> Self {
        Self::ranges(core::iter::once(range))
    }

    /// The blocks of several ranges, each as in [`range`](Self::range), in any order. Those that are in more than one
    /// are cached and counted once.
    pub fn ranges(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        Self::new(What::Ranges(ranges.into_iter().collect()))
    }

    /// How many windows, and so fetches, are under way at once. Default
    /// [`CacheConfig::with_windows_at_once`](crate::CacheConfig::with_windows_at_once); zero is refused.
    ///
    /// One window at once leaves most of a line to those who read meanwhile. Memory for so many windows.
    pub const fn with_windows_at_once(mut self, windows: u32) -> Self {
        self.windows_at_once = Some(windows);
        self
    }

    /// What the source is told of the fetches. Default [`ReadContext::BACKGROUND`].
    pub const fn with_context(mut self, context: ReadContext) -> Self {
        self.context = context;
        self
    }

    /// Holds the work while `pause` is paused. Default: nothing does.
    pub fn with_pause(mut self, pause: &Pause) -> Self {
        self.pause = Some(pause.clone());
        self
    }

    pub(crate) const fn context(&self) -> ReadContext {
        self.context
    }

    pub(crate) const fn pause(&self) -> Option<&Pause> {
        self.pause.as_ref()
    }

    /// How many windows at once, where the reader's own default is `default`.
    pub(crate) fn windows_at_once(&self, default: u32) -> GibbloxResult<u32> {
        match self.windows_at_once.unwrap_or(default) {
            0 => Err(invalid_input("windows_at_once is zero")),
            windows => Ok(windows),
        }
    }

    /// What is wanted: disjoint, in order, with something between any two.
    pub(crate) fn wanted(&self, geometry: Geometry) -> GibbloxResult<Vec<Run>> {
        let ranges = match &self.what {
            What::Device => return Ok(Run::new(0, geometry.total_blocks()).into_iter().collect()),
            What::Ranges(ranges) => ranges,
        };
        let mut wanted = Vec::new();
        for range in ranges {
            let blocks = range
                .end
                .checked_sub(range.start)
                .ok_or_else(|| invalid_input("a range ends before it begins"))?;
            wanted.extend(geometry.range(range.start, blocks)?);
        }
        wanted.sort_unstable_by_key(|run| run.start());
        wanted.dedup_by(|next, last| {
            let meet = next.start() <= last.end();
            if meet {
                *last = last.until(next.end());
            }
            meet
        });
        Ok(wanted)
    }
}

/// How far [`CachedBlockReader::warm`](crate::CachedBlockReader::warm) is.
///
/// Each number only grows, but for the first, which stays. `fetched_blocks` is at most `done_blocks`, and that at most
/// `wanted_blocks`, unless blocks were dropped as damaged and had to be fetched a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    any(target_arch = "wasm32", feature = "serde"),
    derive(serde::Serialize)
)]
#[non_exhaustive]
pub struct WarmProgress {
    /// Blocks that are to be cached.
    pub wanted_blocks: u64,
    /// Of these, blocks that are cached, whoever did it. Begins with those that were cached before. What others cache
    /// meanwhile counts when the work gets there.
    pub done_blocks: u64,
    /// Of these, blocks that this call itself has fetched.
    pub fetched_blocks: u64,
    /// The size of a block.
    pub block_bytes: u32,
}

impl WarmProgress {
    const fn bytes(&self, blocks: u64) -> u64 {
        blocks.saturating_mul(self.block_bytes as u64)
    }

    /// `wanted_blocks` in bytes: the length of a progress bar.
    #[must_use]
    pub const fn wanted_bytes(&self) -> u64 {
        self.bytes(self.wanted_blocks)
    }

    /// `done_blocks` in bytes: the position of a progress bar.
    #[must_use]
    pub const fn done_bytes(&self) -> u64 {
        self.bytes(self.done_blocks)
    }

    /// `fetched_blocks` in bytes: what came from the source.
    #[must_use]
    pub const fn fetched_bytes(&self) -> u64 {
        self.bytes(self.fetched_blocks)
    }
}

/// What is told of the progress.
pub(crate) type Tell<'t> = &'t mut (dyn FnMut(&WarmProgress) + Send);

/// Counts what is done, and tells it.
///
/// Blocks that were valid at the start count from the start, without a note of which they were: what is *ahead* of the
/// work is how many of them are left, and passing a valid block takes one off. Where others cached some meanwhile, that
/// runs out early, and the rest counts when it is passed. So no block counts twice, and in the end all do.
pub(crate) struct Meter<'t> {
    tell: Option<Tell<'t>>,
    told: Option<WarmProgress>,
    now: WarmProgress,
    /// Blocks that the work has behind it; more than there are where it has to go over them again.
    passed_blocks: u64,
    /// Blocks that it has begun, and not done.
    under_way_blocks: u64,
    /// Blocks in front of it that were valid at the start, or more: some may have been dropped.
    ahead_blocks: u64,
}

impl fmt::Debug for Meter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Meter").field(&self.now).finish()
    }
}

impl<'t> Meter<'t> {
    pub(crate) fn new(wanted: &[Run], geometry: Geometry, tell: Option<Tell<'t>>) -> Self {
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
            ahead_blocks: 0,
        }
    }

    pub(crate) const fn progress(&self) -> WarmProgress {
        self.now
    }

    /// Begins with what `count_valid` finds, if anybody wants to know.
    pub(crate) fn start(&mut self, count_valid: impl FnOnce() -> u64) {
        if self.tell.is_some() {
            self.ahead_blocks = count_valid();
            self.tell();
        }
    }

    /// The next `blocks` blocks are valid.
    pub(crate) fn found_valid(&mut self, blocks: u64) {
        self.passed_blocks += blocks;
        self.ahead_blocks = self.ahead_blocks.saturating_sub(blocks);
    }

    /// The next `blocks` blocks are not, and somebody works on them now.
    pub(crate) fn begun(&mut self, blocks: u64) {
        self.under_way_blocks += blocks;
    }

    /// `blocks` of those begun are valid, `fetched` of them from the source.
    pub(crate) fn done(&mut self, blocks: u64, fetched: u64) {
        self.under_way_blocks = self.under_way_blocks.saturating_sub(blocks);
        self.passed_blocks += blocks;
        self.now.fetched_blocks += fetched;
    }

    /// Tells how far it is, if that is news.
    pub(crate) fn tell(&mut self) {
        let done = self.passed_blocks.saturating_add(self.ahead_blocks);
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
    pub(crate) fn finish(&mut self) {
        self.passed_blocks = self.now.wanted_blocks;
        self.under_way_blocks = 0;
        self.tell();
    }
}

/// Holds and releases what it was given to ([`Warm::with_pause`]), from any task or thread.
///
/// Clones are the same pause, and one may hold any number of calls. While it is paused the fetches under way are
/// finished and stored, and none is begun: nothing stays claimed, so nobody waits for what is paused. A paused call
/// that is dropped leaves nothing behind; one that nobody resumes stays as it is until it is dropped.
///
/// ```
/// use gibblox_cache::Pause;
///
/// let pause = Pause::new();
/// let handle = pause.clone();
/// handle.pause();
/// assert!(pause.is_paused());
/// pause.resume();
/// assert!(!handle.is_paused());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Pause(Arc<Lock<PauseState>>);

#[derive(Debug, Default)]
struct PauseState {
    paused: bool,
    /// Those that wait for the end of the pause.
    waiting: Vec<Sender<()>>,
}

impl Pause {
    /// Not paused.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing further is begun. Paused twice is paused once.
    pub fn pause(&self) {
        self.0.with(|state| state.paused = true);
    }

    /// The work goes on.
    pub fn resume(&self) {
        let waiting = self.0.with(|state| {
            state.paused = false;
            core::mem::take(&mut state.waiting)
        });
        // Outside of the lock: a waker may run anything.
        for waiting in waiting {
            // One that was dropped does not mind.
            let _ = waiting.send(());
        }
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.0.with(|state| state.paused)
    }

    /// What tells the end of the pause, if there is one.
    pub(crate) fn resumed(&self) -> Option<Receiver<()>> {
        self.0.with(|state| {
            state.paused.then(|| {
                state.waiting.retain(|waiting| !waiting.is_canceled());
                let (sender, resumed) = channel();
                state.waiting.push(sender);
                resumed
            })
        })
    }
}
