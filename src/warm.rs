//! Warming: the plan, the progress, and the switch that pauses it: [`WarmPlan`], [`WarmProgress`], [`PauseSwitch`].
//!
//! # What was not done
//!
//! Progress as a stream: it advances only while it is polled, so a program that draws a bar or waits between two items
//! keeps the followers of the stream's fetches waiting. A callback leaves one future, which is polled or dropped like any
//! other.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use futures_channel::oneshot::{Receiver, Sender, channel};
use gibblox_core::{GibbloxResult, ReadContext};

use crate::error::invalid_input;
use crate::geometry::Geometry;
use crate::run::Run;
use crate::sync::Lock;

/// What [`CachedBlockReader::warm`](crate::CachedBlockReader::warm) caches, and how.
///
/// ```
/// use gibblox_cache::{PauseSwitch, WarmPlan};
///
/// let pause = PauseSwitch::new();
/// let boot_and_index = WarmPlan::ranges([0..2048, 1 << 20..(1 << 20) + 512])
///     .with_windows_at_once(2)
///     .with_pause(&pause);
/// # let _ = boot_and_index;
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is cached until a reader is asked to"]
pub struct WarmPlan {
    what: What,
    windows_at_once: Option<u32>,
    context: ReadContext,
    pause: Option<PauseSwitch>,
    compares: bool,
}

#[derive(Clone, Debug)]
enum What {
    Device,
    Ranges(Vec<Range<u64>>),
}

impl WarmPlan {
    const fn new(what: What) -> Self {
        Self {
            what,
            windows_at_once: None,
            context: ReadContext::BACKGROUND,
            pause: None,
            compares: false,
        }
    }

    /// All blocks of the device.
    pub const fn device() -> Self {
        Self::new(What::Device)
    }

    /// The blocks of `range`, from its first lba to the one after its last.
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

    /// The context that the source gets with the fetches. Default [`ReadContext::BACKGROUND`].
    pub const fn with_context(mut self, context: ReadContext) -> Self {
        self.context = context;
        self
    }

    /// Holds the work while `pause` is paused. Default: nothing does.
    pub fn with_pause(mut self, pause: &PauseSwitch) -> Self {
        self.pause = Some(pause.clone());
        self
    }

    /// Compares what is cached already with its checksums, so that `Ok` means that all of it can be read. Default: blocks
    /// that an earlier process cached count by their bit, and the first read of a damaged one is a fetch, or an error where
    /// the source is out of reach.
    ///
    /// Blocks that were compared before, or that this process fetched, are not compared again. What does not match is
    /// fetched again, like what is missing. A block that the backend fails to read stays as it is, and its error is that of
    /// the call. In a file that the published 0.0.1 wrote there is nothing to compare with: its blocks are read, and stay.
    ///
    /// Costs one backend read of data and one of checksums for each run of up to a window that is to be compared, one after
    /// another, before anything is fetched, and memory for one more window. A pause holds this too.
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CachedBlockReader, MemoryCacheOps, WarmPlan};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// # let reader = CachedBlockReader::new(Image::new(512, 64), MemoryCacheOps::new()).await?;
    /// // Before going offline:
    /// reader.warm(WarmPlan::device().with_comparison()).await?;
    /// reader.flush_cache().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub const fn with_comparison(mut self) -> Self {
        self.compares = true;
        self
    }

    pub(crate) const fn compares(&self) -> bool {
        self.compares
    }

    pub(crate) const fn context(&self) -> ReadContext {
        self.context
    }

    pub(crate) const fn pause(&self) -> Option<&PauseSwitch> {
        self.pause.as_ref()
    }

    /// How many windows at once, where the reader's own default is `default`.
    pub(crate) fn windows_at_once(&self, default: u32) -> GibbloxResult<u32> {
        match self.windows_at_once.unwrap_or(default) {
            0 => Err(invalid_input("windows_at_once is zero")),
            windows => Ok(windows),
        }
    }

    /// The wanted runs: disjoint, in order, with something between any two.
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
    /// Of these, blocks that are cached, by this call or another. Begins with those that were cached before. Blocks that
    /// others cache meanwhile count when the work gets there.
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

/// Pauses and resumes the calls of `warm` that it was given to ([`WarmPlan::with_pause`]), from any task or thread.
///
/// Clones are the same switch, and one may hold any number of calls. While it is paused the fetches under way are
/// finished and stored, and none is begun: nothing stays claimed, so no reader waits for a paused call. A paused call
/// that is dropped leaves nothing behind. One that is never resumed stays as it is until it is dropped.
///
/// ```
/// use gibblox_cache::PauseSwitch;
///
/// let pause = PauseSwitch::new();
/// let handle = pause.clone();
/// handle.pause();
/// assert!(pause.is_paused());
/// pause.resume();
/// assert!(!handle.is_paused());
/// ```
#[derive(Clone, Debug, Default)]
pub struct PauseSwitch(Arc<Lock<PauseState>>);

#[derive(Debug, Default)]
struct PauseState {
    paused: bool,
    /// Those that wait for the end of the pause.
    waiting: Vec<Sender<()>>,
}

impl PauseSwitch {
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

    /// The end of the pause, if there is one.
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
