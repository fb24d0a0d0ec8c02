//! A generation stamp of the file: whose it is now, and whether the source has been found to be another one since.
//!
//! ```text
//!            the source writes another identity
//!   Age 2n ─────────────────────────────────────► Age 2n + 1: nothing is valid, nothing is stored, reads fail
//!      ▲                                              │
//!      └── 2n + 2: the file is of the new version, or the source is the old one again
//! ```
//!
//! A task that fetches takes the age before it asks who the source is, and compares it once more when the source has
//! answered. While the age is odd a change of the bitmap is open, as during a bypass
//! ([`Validity::begin_change`](crate::bitmap::Validity::begin_change)), so plain hits leave their path by themselves. It
//! is opened before the age is odd and closed after, so a task that sees an even age before and after a look of its own
//! saw no other version in between.
//!
//! Identity and hasher are one value behind a lock. A task copies what it needs; no plain hit needs either.

use alloc::string::String;
use alloc::sync::Arc;

use gibblox_core::GibbloxResult;
use tracing::{debug, warn};

use crate::backend::CacheOps;
use crate::error::source_changed;
use crate::format::checksum::BlockHasher;
use crate::run::Run;
use crate::sync::{AtomicUsize, Lock, Ordering};

use super::open::{Otherwise, Waits};
use super::retry::Retry;
use super::{CLOSED, CacheFile};

/// Whose file it is, and how its blocks are hashed.
#[derive(Debug)]
pub(crate) struct Named {
    identity: String,
    hasher: BlockHasher,
}

impl Named {
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }
}

/// A moment between two versions of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Age(usize);

impl Age {
    /// Whether the source had been found to be another one.
    pub(crate) const fn is_outdated(self) -> bool {
        self.0 % 2 == 1
    }

    /// Whether both are moments of one version.
    pub(crate) const fn is_same_version(self, other: Self) -> bool {
        self.0 / 2 == other.0 / 2
    }
}

/// The name of a file, and its age.
#[derive(Debug)]
pub(super) struct Version {
    named: Lock<Arc<Named>>,
    age: AtomicUsize,
}

impl Version {
    pub(super) fn new(identity: String) -> Self {
        Self {
            named: Lock::new(Arc::new(named(identity))),
            age: AtomicUsize::new(0),
        }
    }

    pub(super) fn age(&self) -> Age {
        Age(self.age.load(Ordering::Acquire))
    }
}

fn named(identity: String) -> Named {
    Named {
        hasher: BlockHasher::new(&identity),
        identity,
    }
}

impl<C> CacheFile<C> {
    pub(crate) fn named(&self) -> Arc<Named> {
        self.version.named.with(|named| Arc::clone(named))
    }

    pub(super) fn hasher(&self) -> BlockHasher {
        self.version.named.with(|named| named.hasher)
    }

    /// The age, to be taken before the source is asked who it is.
    pub(crate) fn age(&self) -> Age {
        self.version.age()
    }

    /// An error once the source has been found to be another one.
    pub(crate) fn check_age(&self) -> GibbloxResult<()> {
        if self.age().is_outdated() {
            return Err(source_changed());
        }
        Ok(())
    }

    /// The source was found to be another one, by a task that took the age `at` before it asked. Nothing is valid from now on.
    #[cold]
    pub(crate) fn outdate(&self, at: Age) {
        if at.is_outdated() {
            return;
        }
        // In this order: no task that finds the file outdated takes its own look for an undisturbed one.
        self.validity.begin_change();
        let next = at.0.wrapping_add(1);
        let age = &self.version.age;
        match age.compare_exchange(at.0, next, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => warn!("the source has changed; nothing is read until the reader is renewed"),
            // Another task was first, or the file is of another version by now.
            Err(_) => self.validity.end_change(),
        }
    }

    /// Ends what [`outdate`](Self::outdate) began.
    fn update(&self, at: Age) {
        let next = at.0.wrapping_add(1);
        let age = &self.version.age;
        let updated = age.compare_exchange(at.0, next, Ordering::AcqRel, Ordering::Acquire);
        if updated.is_ok() {
            self.validity.end_change();
        }
    }
}

impl<C: CacheOps> CacheFile<C> {
    /// Makes the file one of the source `identity`, which has as many bytes as the identity before. The caller has taken
    /// all blocks, so nothing is stored meanwhile.
    ///
    /// Where the file is of this source already, nothing of it is lost. Otherwise it is closed, and opened as any reader
    /// would open it; one that cannot be opened now is opened later.
    ///
    /// Cancellation is strict: a file that was left in the middle is closed, and the source counts as changed.
    pub(crate) async fn renew(&self, identity: String) {
        let _alone = self.opening.lock().await;
        let age = self.age();
        if self.named().identity == identity && self.is_open() {
            if age.is_outdated() {
                debug!("the source is again the one of the cache file");
                self.update(age);
            }
            return;
        }
        self.outdate(age);
        let bytes = Run::new(0, self.geometry.total_blocks().div_ceil(8));
        // No byte of the bitmap is on its way to the file when that becomes another one's.
        let _bits = match bytes {
            Some(bytes) => Some(self.bitmap_writers.take_all(bytes).await),
            None => None,
        };
        self.state.store(CLOSED, Ordering::Release);
        self.owner.leave();
        // What is being compared at this moment was of the version before.
        self.validity.distrust_all();
        self.validity.clear();
        self.retry.with(|retry| *retry = Retry::default());
        self.version
            .named
            .with(|now| *now = Arc::new(named(identity)));
        if let Err(error) = self.open_alone(Otherwise::Replace, Waits::Yes).await {
            debug!(%error, "reading without a cache until its file can be opened");
        }
        self.update(self.age());
    }
}
