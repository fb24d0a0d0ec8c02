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
//! - **Nothing hangs.** Any future may be dropped at any await. A task that waited for it is the next to do its work, in
//!   the order in which the tasks came, so that no task that tries again and again keeps another from ending.
//! - **One fetch for each block**, however many readers want it at once, unless that fetch failed, was dropped, or
//!   could not be stored; or unless [gaps are fetched over](WiderFetches::with_gap_blocks).
//! - **Nothing is fetched that was not asked for**, unless the [`CacheConfig`] says so, and then it is bounded and
//!   [counted](CacheCounters::unasked_fetched_blocks).
//! - **A sick cache is a slower cache.** Backend errors are counted ([`CachedBlockReader::counters`]), and logged when
//!   trouble begins and when it is over. Reads of a healthy source go on. A backend that fails again and again is left
//!   alone, if wanted ([`CacheConfig::with_bypass`]).
//! - **A sick moment costs nothing that is cached.** A block is dropped when its checksum says that its bytes are wrong,
//!   or when new bytes replace them, and not because a call failed.
//! - **Any cache file is safe to open**, after a loss of power, a damaged disk, or a mistake: bytes that are not the
//!   source's are recognised by a 64-bit checksum of each block and fetched again.
//! - **A file has an owner.** No reader resets a file under another one, in one process or in several, where the backend
//!   can tell ([`CacheOps::tenants`]; [`MemoryCacheOps`] and `FileCacheOps` can).
//! - **What is dropped stays dropped.** [`CachedBlockReader::invalidate`] and [`CachedBlockReader::clear`] outlive a loss
//!   of power, also one that comes while the blocks are fetched anew. The exceptions are listed there.
//! - **One read is of one version.** Where the identity of a source changes with its bytes, nothing that was fetched while
//!   it changed is stored, and reads fail until the program goes on ([`CachedBlockReader::renew_source`]).
//!
//! What is not promised:
//!
//! - A future that is kept and never polled again may keep tasks waiting that want the same blocks, or their close
//!   neighbours. Poll or drop your futures.
//! - A backend with nothing but the four required methods cannot tell who uses it. Two readers of different sources on
//!   such an array serve each other's bytes; [`VerifyPolicy::OnEveryRead`] notices.
//! - A file that the published 0.0.1 made has no checksums. What needs a checksum is not promised for it.
//! - Whether a source with the same identity still has the same content is the source's to say. A program that learns
//!   that it has not can drop what is cached.
//!
//! # Features
//!
//! - `std` (default): `FileCacheOps` and `CacheDir` on Unix and Windows, locks of the operating system instead of spinning ones, and
//!   errors that are [`std::error::Error`].
//! - `serde`: `Serialize` for the snapshots of counters and progress; always there on wasm32.
//!
//! # For those who change this crate
//!
//! | word | meaning |
//! |---|---|
//! | lba | index of a block, in blocks, never a byte offset |
//! | run | adjacent blocks treated as one; never empty |
//! | source, backend | what is cached; the array of bytes that the cache file lies on |
//! | hit, miss | per block, once per request, by the bitmap when the request looked first |
//! | valid | the cache file claims to hold the block |
//! | trusted | valid, and compared with its checksum or fetched by this process |
//! | fetch, fill, publish | read from the source; write to the backend; make valid |
//! | claim, lead, follow | have a range alone; fetch it (single-flight); wait for the one that does |
//! | void | a fetch whose blocks were dropped meanwhile: its bytes are served and not stored |
//! | drop, erase | make not valid in memory; in the file too, so that it does not come back |
//! | flush | make durable |
//! | bypass | leave a sick backend alone (a circuit breaker) |
//!
//! **Invariants.** The code and the tests cite these by number.
//!
//! - **I1** A valid bit means that the block's bytes are the source's, or that a checksum says otherwise before they
//!   are served.
//! - **I2** A block has at most one leader.
//! - **I3** Every claim ends published, abandoned or void, also when a future is dropped or panics, and passes on to the
//!   tasks that wait for it, in the order in which they came.
//! - **I4** No lock is held across an await but those whose whole purpose is to order work: the one that has the file
//!   opened once, and claims (of blocks, of bytes of the bitmap, of the source's answer, of the probe).
//! - **I5** Hits + misses = blocks asked for by `read_blocks`.
//! - **I6** Any file content is safe to open.
//! - **I7** Waiting goes one way: for blocks, then for a permit to fetch or to compare them, then for contact with the
//!   source, then for bytes of the bitmap, then for the backend. So there is no circle.
//! - **I8** A bit leaves because bytes were proved wrong, replaced or dropped on request, or lie past the file's end;
//!   never because a call failed. A file without checksums is an exception: after a flush that failed nothing can prove
//!   its bytes, so those that this process wrote are dropped.
//!
//! **The map.** A room is a file or a folder of `src`. Its imports point down this table; a test compares them.
//!
//! | room | what it is |
//! |---|---|
//! | `reader` | the face: every public method |
//! | `dir` | a directory of cache files with one budget |
//! | `engine` | the jobs behind it: a request, a hit, a warming, a dropping, a renewal, a scrub |
//! | `warm` | what is to be warmed, and how far that is |
//! | `fetch` | single-flight over runs |
//! | `policy` | read-around and read-ahead |
//! | `file` | the cache file: open, read, store, erase, inspect |
//! | `port` | every call to the backend: refused while bypassed, counted, logged |
//! | `place` | where a block lies in the file |
//! | `claims` | a range lock with a queue |
//! | `permits` | a fair semaphore of four ranks: how many fetches there are at once |
//! | `flush` | when a flush is due |
//! | `bypass` | the circuit breaker |
//! | `bitmap` | two lazily allocated bitmaps under a seqlock |
//! | `stats` | counters |
//! | `config` | limits and policies |
//! | `contract` | the public test suite for backends |
//! | `backend` | what a cache file lies on: the trait, memory, a file |
//! | `format` | the specification of the file |
//! | `geometry` | block size and count |
//! | `identity` | who a cached source is |
//! | `versioned` | a source with a version in its identity |
//! | `error` | the errors that the rooms above make |
//! | `run` | adjacent blocks |
//! | `turn` | cooperative yielding |
//! | `sync` | locks and atomics |
//! | `guide` | documentation only |

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
#[cfg(all(feature = "std", any(unix, windows)))]
mod dir;
mod engine;
mod error;
mod fetch;
mod file;
mod flush;
mod format;
mod geometry;
pub mod guide;
mod identity;
mod permits;
mod place;
mod policy;
mod port;
mod reader;
mod run;
mod stats;
mod sync;
mod turn;
mod versioned;
mod warm;

pub use backend::{CacheOps, LockMode, LockOutcome, MemoryCacheOps, Tenants};
#[cfg(all(feature = "std", any(unix, windows)))]
pub use backend::{FileCacheOps, FileCacheOptions};
pub use config::wider::WiderFetches;
pub use config::{BypassPolicy, CacheConfig, OfflinePolicy, RebuildPolicy, VerifyPolicy};
#[cfg(all(feature = "std", any(unix, windows)))]
pub use dir::{CacheDir, CacheDirEntry, CacheDirOptions, Trimmed};
pub use error::SOURCE_CHANGED;
pub use file::{CacheFileInfo, HeaderDamage, Inspection, inspect};
pub use identity::{
    cached_config_identity_string, cached_reader_identity_string, derive_cached_config_identity_id,
    derive_cached_reader_identity_id,
};
pub use reader::CachedBlockReader;
pub use stats::{CacheCounters, CacheState, CacheStats, ScrubReport};
pub use versioned::{SourceVersion, Versioned};
pub use warm::{PauseSwitch, WarmPlan, WarmProgress};

/// The code in the README is compiled and run like that in the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
