//! A read-through block cache: it wraps any read-only [`BlockReader`](gibblox_core::BlockReader) and keeps the blocks
//! that it fetched in one cache file on any [`CacheOps`] backend.
//!
//! The source may be a disk image behind HTTP ranges, an archive, another machine; the backend a file, a browser's
//! private file system, plain memory. The crate needs neither `std` nor an executor, starts no task and sets no timer.
//!
//! **New here?** Below is a first example and what is promised. The [`guide`] goes on from there: opening, limits,
//! fetching ahead, looking inside, what can go wrong, small machines and browsers. [`contract`] says how to write a
//! backend.
//!
//! # Example
//!
//! ```
//! # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
//! # use image::Image;
//! use gibblox_cache::{CachedBlockReader, MemoryCacheOps};
//! use gibblox_core::{BlockReader, ReadContext};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> gibblox_core::GibbloxResult<()> {
//! # let source = Image::new(4096, 1000);
//! let reader = CachedBlockReader::new(source, MemoryCacheOps::new()).await?;
//!
//! // Ahead of time, for as much of the device as is wanted offline:
//! reader.ensure_cached(0, 100, ReadContext::BACKGROUND).await?;
//!
//! // And what is read is kept.
//! let mut buf = vec![0; 8 * 4096];
//! reader.read_blocks(96, &mut buf, ReadContext::FOREGROUND).await?;
//!
//! let stats = reader.get_stats().await;
//! assert_eq!((stats.total_hits, stats.total_misses, stats.cached_blocks), (4, 4, 104));
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - **Right bytes or an error.** A read returns the source's bytes, all of them, or the source's error.
//! - **Nothing hangs.** Any future may be dropped at any await. Whoever waited for it takes over.
//! - **One fetch for each block**, however many readers want it at once, unless that fetch failed, was dropped, or
//!   could not be stored; or unless [gaps are fetched over](WiderFetches::with_gap_blocks).
//! - **Nothing is fetched that was not asked for**, unless the [`CacheConfig`] says so, and then it is bounded and
//!   [counted](CacheCounters::unasked_fetched_blocks).
//! - **A sick cache is a slower cache.** Backend errors are logged and counted ([`CachedBlockReader::counters`]); reads
//!   of a healthy source go on. One that fails again and again is left alone, if wanted
//!   ([`CacheConfig::with_bypass`]).
//! - **Any cache file is safe to open**, after a loss of power, a damaged disk, or a mistake: what is not the source's
//!   is recognised by a 64-bit checksum of each block and fetched again.
//! - **What is dropped stays dropped.** [`CachedBlockReader::invalidate`] and [`CachedBlockReader::clear`] outlive a loss
//!   of power, also one that comes while the blocks are fetched anew. What was never marked as valid may be an exception;
//!   see there.
//!
//! What is not promised: a future that is kept but never polled again may keep those waiting who want the same blocks,
//! or their close neighbours; poll or drop your futures. A file that another process resets while this one has it open
//! is only noticed under [`VerifyPolicy::OnEveryRead`]. A file that the published 0.0.1 made has no checksums, and as
//! much of these guarantees as goes without. Whether a source with the same identity still has the same content is
//! the source's to say; whoever learns that it has not can drop what is cached.
//!
//! # Invariants
//!
//! The code and the tests cite these by number.
//!
//! - **I1** A valid bit means that the block's bytes are the source's, or that a checksum says otherwise before they
//!   are served.
//! - **I2** A block has at most one leader.
//! - **I3** Every claim ends published, abandoned or void, also when a future is dropped or panics, and passes on to the
//!   tasks that wait for it, in the order in which they came.
//! - **I4** No lock is held across an await, but the one that has the file opened once.
//! - **I5** Hits + misses = blocks asked for by `read_blocks`.
//! - **I6** Any file content is safe to open.
//! - **I7** Waiting goes one way: for blocks, then for contact with the source, then for bytes of the bitmap, then for the
//!   backend. So there is no circle.
//!
//! # The way through the code
//!
//! [`CachedBlockReader`] (`reader`) is the face: every public method, and what it promises. `engine` does the work, a
//! small struct for each job, and tells a read as look, claim, fetch or read, publish. Below it, `warm` says what is to
//! be cached, and how far that is, `fetch` knows who fetches, on top of `claims`, which knows who waits, `file` reads and writes the cache file and is
//! the only caller of the backend, `format` is the specification of that file, `bitmap` says what is valid and trusted,
//! `flush` when a flush is due, `bypass` whether the backend is asked at all, `policy` what may be fetched beyond what was
//! asked for. `geometry` and `run` are the arithmetic. Imports point down this list.
//!
//! # Features
//!
//! - `std` (default): `FileCacheOps` and `CacheDir` on Unix and Windows, locks of the operating system instead of spinning ones, and
//!   errors that are [`std::error::Error`].
//! - `serde`: `Serialize` for the snapshots of counters and progress; always there on wasm32.

#![no_std]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

mod backend;
mod bitmap;
mod bypass;
mod claims;
mod config;
pub mod contract;
mod engine;
mod error;
mod fetch;
mod file;
mod flush;
mod format;
mod geometry;
pub mod guide;
mod identity;
mod place;
mod policy;
mod port;
mod reader;
mod run;
mod stats;
mod sync;
mod turn;
mod warm;

#[cfg(all(feature = "std", any(unix, windows)))]
pub use backend::{
    CacheDir, CacheDirEntry, CacheDirOptions, FileCacheOps, FileCacheOptions, Trimmed,
};
pub use backend::{CacheOps, LockMode, LockOutcome, MemoryCacheOps, Tenants};
pub use config::wider::WiderFetches;
pub use config::{BypassPolicy, CacheConfig, OfflinePolicy, VerifyPolicy};
pub use file::{CacheFileInfo, HeaderDamage, Inspection, inspect};
pub use identity::{
    cached_config_identity_string, cached_reader_identity_string, derive_cached_config_identity_id,
    derive_cached_reader_identity_id,
};
pub use reader::CachedBlockReader;
pub use stats::{CacheCounters, CacheState, CacheStats, ScrubReport};
pub use warm::{PauseSwitch, WarmPlan, WarmProgress};

/// The code in the README is compiled and run like that in the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
