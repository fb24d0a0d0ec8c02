//! Writing a backend, and a suite that tells whether it keeps the contract of [`CacheOps`].
//!
//! # What a backend is
//!
//! A growable array of bytes, and no more. The cache decides what stands where in it, compares what it reads back, and
//! copes with errors; a backend stores. Four methods have to be written, two more may be. The questions to answer:
//!
//! - **May calls overlap?** They do. A `seek` that another call can slip behind is a wrong byte: read and write at an
//!   offset, or hold a lock over both steps. A medium that is written in sectors needs care: two writes that touch
//!   neighbouring bytes may touch one sector, and if each reads it, changes its part and writes it back, one is lost.
//! - **What is a short read?** The end of the array, and only that. Where the system may return less than it was
//!   asked for, go on until the buffer is full or the end is there.
//! - **When is a write done?** For every later read at once. On the medium after [`flush`](CacheOps::flush).
//! - **What is in new bytes?** Zeros, also in those that were cut off before and come back. A partition cannot grow:
//!   it ignores [`set_len`](CacheOps::set_len) and refuses to write past its end.
//! - **What if a future is dropped?** It stops, or finishes before anybody can see it. Work that was handed to a
//!   thread or a queue and cannot be called back does not belong into `write_at`, unless whatever is called next waits
//!   for it.
//! - **What if it fails?** Return the error, keep nothing back, do not retry. The cache counts and logs it, and whoever
//!   wanted the block gets it from the source.
//!
//! # When power fails
//!
//! Between two flushes writes may reach the medium in any order, or in part: the file format is made for that, and a
//! backend needs no journal and no order of its own. One thing only is asked, and it is the one that nobody notices
//! until it is needed: `flush` may return `Ok` only when all that was written before is on the medium, the new length
//! included. On a file that is `fdatasync`; on a disk behind a controller, its cache too has to be emptied. A `flush`
//! that promises too much does not make wrong bytes, since blocks are compared with their checksums, but in a file that
//! 0.0.1 made there are none.
//!
//! # Running the suite
//!
//! In the tests of the backend, on any executor, with no more than this crate:
//!
//! ```
//! use std::sync::{Mutex, PoisonError};
//!
//! use gibblox_cache::{CacheOps, contract};
//! use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult};
//!
//! /// The whole array in one vector, which is as long as the device is: the shortest backend there is.
//! #[derive(Default)]
//! struct Plain(Mutex<Vec<u8>>);
//!
//! impl Plain {
//!     fn with<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
//!         work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
//!     }
//! }
//!
//! #[async_trait::async_trait]
//! impl CacheOps for Plain {
//!     async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
//!         Ok(self.with(|bytes| {
//!             let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
//!             let count = out.len().min(bytes.len() - start);
//!             out[..count].copy_from_slice(&bytes[start..start + count]);
//!             count
//!         }))
//!     }
//!
//!     async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
//!         let start = usize::try_from(offset).ok();
//!         let Some(end) = start.and_then(|start| start.checked_add(data.len())) else {
//!             return Err(GibbloxError::new(GibbloxErrorKind::OutOfRange));
//!         };
//!         self.with(|bytes| {
//!             if end > bytes.len() && !data.is_empty() {
//!                 let more = end - bytes.len();
//!                 bytes.try_reserve(more).map_err(|_| GibbloxError::new(GibbloxErrorKind::Io))?;
//!                 bytes.resize(end, 0);
//!             }
//!             if !data.is_empty() {
//!                 bytes[end - data.len()..end].copy_from_slice(data);
//!             }
//!             Ok(())
//!         })
//!     }
//!
//!     async fn set_len(&self, len: u64) -> GibbloxResult<()> {
//!         self.with(|bytes| bytes.resize(len as usize, 0));
//!         Ok(())
//!     }
//!
//!     async fn flush(&self) -> GibbloxResult<()> {
//!         Ok(()) // There is nothing that outlives the process.
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), contract::Broken> {
//! // It has no holes, so it is not to be made longer than a few MiB.
//! let suite = contract::Suite::new().with_max_len(4 << 20);
//! suite.check(async || Plain::default()).await?;
//!
//! // One that has, such as this or a file on most file systems:
//! contract::check(async || gibblox_cache::MemoryCacheOps::new()).await
//! # }
//! ```
//!
//! A backend in a file, which takes more thought, is `src/backend/file.rs` in the repository.
//!
//! # What the suite cannot see
//!
//! It drives one thread and no power switch. What several threads do at once, what a loss of power leaves, and a write
//! that goes on much later in some other thread are for tests of your own. A backend that never answers makes the
//! suite wait for ever, and one that panics ends it.
//!
//! The suite is always there, not behind a feature: it is generic, so a program that does not call it has no
//! code of it, and whoever writes a backend has nothing to switch on.

mod calls;
mod dropped;
mod ends;
mod far;
mod lengths;
mod overlap;
mod owners;
mod random;
mod rng;
mod sizes;
mod start;
mod twin;

use alloc::string::String;
use core::fmt;

use crate::backend::CacheOps;
use rng::Rng;

/// Checks a backend that grows and has holes against everything that [`CacheOps`] asks for.
///
/// [`Suite::check`] with the defaults of [`Suite::new`].
///
/// # Errors
///
/// The first rule that does not hold.
pub async fn check<C: CacheOps>(make: impl AsyncFnMut() -> C) -> Result<(), Broken> {
    Suite::new().check(make).await
}

/// What the suite may expect of a backend, and how it goes about it.
///
/// ```
/// use gibblox_cache::contract::Suite;
///
/// // A partition of 1 MiB. What is in it is overwritten.
/// let partition = Suite::fixed(1 << 20);
/// // Memory that is not to be asked for more than 64 KiB.
/// let small = Suite::new().with_max_len(64 << 10);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    fixed: Option<u64>,
    max_len: u64,
    seed: u64,
}

impl Default for Suite {
    fn default() -> Self {
        Self::new()
    }
}

impl Suite {
    /// The most that is written at once, and compared: pieces of more than 1 MiB, and room for them to overlap.
    const MOST: usize = 3 << 20;

    /// For a backend that grows, and to which far offsets cost nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            fixed: None,
            max_len: u64::MAX,
            seed: 0,
        }
    }

    /// For a backend that always has exactly `len` bytes, as a partition does, whatever is in them: it ignores
    /// `set_len` and refuses to write past its end.
    ///
    /// Rules about the array's growth are left out. Up to 3 MiB at its end are written again and again.
    #[must_use]
    pub const fn fixed(len: u64) -> Self {
        Self {
            fixed: Some(len),
            ..Self::new()
        }
    }

    /// Never makes the array longer than this: for a backend without holes, or with little room.
    ///
    /// Unlimited by default. Then writes are tried far out, up to the end of all offsets, and may fail there. A backend
    /// that would take the memory or the disk space for everything that lies before them needs a limit; 4 MiB leaves
    /// out nothing else.
    #[must_use]
    pub const fn with_max_len(mut self, len: u64) -> Self {
        self.max_len = len;
        self
    }

    /// Chooses other bytes, sizes and orders. 0 by default; the same seed does the same calls.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// A generator for one part.
    const fn rng(&self, part: u64) -> Rng {
        Rng::new(self.seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ part)
    }

    /// Checks the backends that `make` gives out: each empty, unless it keeps its size, and used alone. The one before
    /// is gone by then.
    ///
    /// # Errors
    ///
    /// The first rule that does not hold, and what showed it.
    ///
    /// # Panics
    ///
    /// Where the backend does.
    ///
    /// # Cost
    ///
    /// Some 25,000 calls, 80 of them flushes, and about 12 MiB of memory besides the backend's; less of both where the
    /// array has to stay short.
    pub async fn check<C: CacheOps>(&self, mut make: impl AsyncFnMut() -> C) -> Result<(), Broken> {
        ends::ends(self, &make().await).await?;
        ends::every_small_range(self, &make().await).await?;
        sizes::sizes(self, &make().await).await?;
        lengths::lengths(self, &make().await).await?;
        lengths::flush(self, &make().await).await?;
        for (window, steps) in [(600, 400), (70_000, 150), (Self::MOST, 60)] {
            random::random(self, &make().await, window, steps).await?;
        }
        overlap::overlap(self, &make().await).await?;
        dropped::dropped(self, &make().await).await?;
        random::at_once(self, &make().await).await?;
        random::shared(self, make().await).await?;
        owners::zeros(self, &make().await).await?;
        owners::owners(self, &make().await).await?;
        far::overflow(self, &make().await).await?;
        for base in far::places(self) {
            far::far(self, &make().await, base).await?;
        }
        far::powers(self, &make().await).await
    }
}

/// Each rule is told once: as its documentation and as its text.
macro_rules! rules {
    ($($rule:ident: $sentence:literal,)+) => {
        /// A rule of [`CacheOps`]. As text it is a sentence.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $(#[doc = $sentence] $rule,)+
        }

        impl fmt::Display for Rule {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$rule => $sentence,)+
                })
            }
        }
    };
}

rules! {
    Starts: "a backend starts out empty, or with the size that the suite was told",
    Succeeds: "a call that nothing stands in the way of succeeds",
    ReadsBack: "a write that returned Ok is seen by every later read",
    Outside: "a write touches no byte outside its range",
    Ends: "a read is short at the end of the array, and only there",
    NewBytes: "new bytes read as zero",
    Length: "`set_len` makes the array exactly that long, and keeps what is within",
    NoBytes: "a write of no bytes changes nothing",
    Flush: "a flush changes nothing that can be read",
    SideBySide: "calls that are under way at once do what they do one after the other",
    Dropped: "a call that was dropped has done nothing, all or a part, and does not go on",
    AtOnce: "`read_now` and `write_now` do what `read_at` and `write_at` do, or answer None and do nothing",
    Shared: "an Arc of a backend is that backend",
    Far: "a far offset is another place than any near one, or an error",
    Zeros: "`write_zeros` does what a write of zeros does, or answers false and does nothing",
    Owner: "an array that nothing else uses is free, its lock is not refused, and taking it changes no byte",
    Renew: "`renew` leaves an empty array, or answers false and changes nothing",
    FixedSize: "a backend that keeps its size refuses to write past its end",
}

/// Whether what a part of the suite looked at is kept.
type Kept = Result<(), Broken>;

/// A rule that a backend does not keep.
#[derive(Clone, Debug)]
pub struct Broken {
    rule: Rule,
    what: String,
}

impl Broken {
    const fn new(rule: Rule, what: String) -> Self {
        Self { rule, what }
    }

    /// Which rule it is.
    #[must_use]
    pub const fn rule(&self) -> Rule {
        self.rule
    }
}

/// The rule, and what the backend did instead.
impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; but {}", self.rule, self.what)
    }
}

impl core::error::Error for Broken {}
