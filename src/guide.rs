//! The guide: how to use this crate, from the first line to a browser. Text and examples only.
//!
//! It goes from what every program needs to what few do. What a method promises, what it costs, and what it does on an
//! error is said at the method; the guide says which one to take, and when.
//!
//! # What it is, and when
//!
//! A [`CachedBlockReader`] stands between a reader and a slow *source*. Both sides are gibblox-core's [`BlockReader`]:
//! blocks under numbers, read only. What was fetched is kept in one file on a *backend*, which is anything that
//! implements [`CacheOps`], and served from there the next time, also after the next start of the program.
//!
//! It pays where blocks are read more than once, or can be fetched before they are wanted, and where the source is
//! slower than the backend. It does not write to the source, and it does not evict: a cache grows until it is as long
//! as its source. `README.md` says under "Alternatives" what else there is, and when to take that.
//!
//! The words: an *lba* is the number of a block, never a byte offset. A *run* is adjacent blocks. A block is *valid* if
//! the file claims to hold it, and *trusted* once this process has fetched it or compared it with its checksum. To
//! *flush* is to make durable.
//!
//! # Opening a cache
//!
//! In memory, for as long as the process lives, with [`MemoryCacheOps`]:
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
//! let mut buf = vec![0; 8 * 4096];
//! assert_eq!(reader.read_blocks(0, &mut buf, ReadContext::FOREGROUND).await?, buf.len());
//! # Ok(())
//! # }
//! ```
//!
//! In a file, with [`FileCacheOps`](crate::FileCacheOps) (feature `std`, on Unix and Windows). In a directory, the file
//! is named by the identity of the source; [`FileCacheOps::open`](crate::FileCacheOps::open) takes a path.
//!
//! ```
//! # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
//! # use image::Image;
//! use gibblox_cache::{CachedBlockReader, FileCacheOps};
//! use gibblox_core::{BlockReader, ReadContext};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! for start in 0..2 {
//!     # let source = Image::new(4096, 1000);
//!     let cache = FileCacheOps::open_in(directory, &source)?;
//!     let reader = CachedBlockReader::new(source, cache).await?;
//!
//!     let mut buf = vec![0; 8 * 4096];
//!     reader.read_blocks(0, &mut buf, ReadContext::FOREGROUND).await?;
//!     // The first start fetches, the second does not.
//!     assert_eq!(reader.counters().fetched_blocks, if start == 0 { 8 } else { 0 });
//! }
//! # Ok(())
//! # }
//! ```
//!
//! For many images, [`CacheDir`](crate::CacheDir) keeps such a directory within a budget: it deletes the files that were not
//! used for the longest time, and none that is open, in this process or in another one. It also lists what it holds.
//!
//! ```
//! # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
//! # use image::Image;
//! use gibblox_cache::{CacheDirOptions, CachedBlockReader, Inspection};
//! use gibblox_core::ReadContext;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path();
//! let dir = CacheDirOptions::new().with_max_bytes(1 << 30).open(path)?;
//! for blocks in [64, 512] {
//!     let source = Image::new(4096, blocks);
//!     let cache = dir.cache_for(&source)?; // trims, too
//!     let reader = CachedBlockReader::new(source, cache).await?;
//!     reader.ensure_cached(0, blocks / 2, ReadContext::BACKGROUND).await?;
//! }
//! // An open file grows with what is cached, also beyond the budget. Now none is open.
//! let trimmed = dir.trim()?;
//! assert!(trimmed.bytes_on_disk <= 1 << 30);
//!
//! for file in dir.list()? {
//!     let Ok(Inspection::Cache(info)) = file.inspection else { continue };
//!     println!("{} of {} blocks: {}", info.valid_blocks, info.total_blocks, info.identity);
//! }
//! # assert_eq!(dir.list()?.len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! [`new`](crate::CachedBlockReader::new) takes the defaults, [`open`](crate::CachedBlockReader::open) a
//! [`CacheConfig`]. Whatever lies on the backend is safe to open: the file of this source is used, anything else is
//! overwritten with an empty cache. (`FileCacheOps` refuses files that are no cache files before a reader sees them.) A
//! backend that fails does not make opening fail.
//!
//! Nothing has to be closed. [`flush_cache`](crate::CachedBlockReader::flush_cache) is for the loss of power, not for a
//! clean exit or a killed process.
//!
//! # Identity
//!
//! A file belongs to a source if identity, block size and number of blocks are the same. The identity is the text that
//! [`BlockReader::write_identity`] writes, and it has to stand for the *bytes*. If all it says is a URL, an image that
//! was replaced by one of the same length leaves a mixture of old and new blocks. Put a version, a digest or an `ETag`
//! into it. Where the source does not, [`Versioned`] does, and has an example. It also puts a stable name in the place of
//! an address that is signed, one of several mirrors, or secret.
//!
//! A validator that is fetched when the program starts is not known where the source is out of reach. Such a cache
//! cannot be [opened offline](#offline) unless the program remembers it.
//!
//! A source that is replaced *while it is read* has to say so: it compares the validator of each answer and
//! [sets](crate::SourceVersion::set) the version that it shares with its `Versioned`. (Have it send the validator along,
//! `If-Match`, too; servers are known to ignore that.) What it fetched meanwhile is not stored, reads fail with
//! [`SOURCE_CHANGED`](crate::SOURCE_CHANGED), and [`renew_source`](crate::CachedBlockReader::renew_source) goes on with
//! the new version, in the same file.
//!
//! ```
//! # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
//! # use image::Image;
//! use gibblox_cache::{CachedBlockReader, MemoryCacheOps, SOURCE_CHANGED, SourceVersion, Versioned};
//! use gibblox_core::{BlockReader, GibbloxResult, ReadContext};
//!
//! /// A source that hears the `ETag` of each answer.
//! struct Remote {
//!     image: Image,
//!     version: SourceVersion,
//! }
//!
//! #[async_trait::async_trait]
//! impl BlockReader for Remote {
//!     fn block_size(&self) -> u32 {
//!         self.image.block_size()
//!     }
//!
//!     async fn total_blocks(&self) -> GibbloxResult<u64> {
//!         self.image.total_blocks().await
//!     }
//!
//!     fn write_identity(&self, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
//!         self.image.write_identity(out)
//!     }
//!
//!     async fn read_blocks(&self, lba: u64, buf: &mut [u8], ctx: ReadContext) -> GibbloxResult<usize> {
//!         let read = self.image.read_blocks(lba, buf, ctx).await?;
//!         let etag = "9e107d9d"; // as the answer says
//!         self.version.set(etag);
//!         Ok(read)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> GibbloxResult<()> {
//! let version = SourceVersion::new("33a64df5"); // by a question of its own, or remembered
//! let remote = Remote { image: Image::new(512, 64), version: version.clone() };
//! let reader = CachedBlockReader::new(Versioned::new(remote, version), MemoryCacheOps::new()).await?;
//!
//! let mut buf = [0; 512];
//! while let Err(error) = reader.read_blocks(7, &mut buf, ReadContext::FOREGROUND).await {
//!     if error.message() != Some(SOURCE_CHANGED) {
//!         return Err(error);
//!     }
//!     // What was made of the earlier version is to be given up here.
//!     reader.renew_source().await?;
//! }
//! assert_eq!(reader.get_stats().await.cached_blocks, 1);
//! # Ok(())
//! # }
//! ```
//!
//! [`derive_cached_reader_identity_id`] makes a short name for a file out of all this. Two sources may share one; the
//! file compares the whole text, so that costs blocks, never wrong bytes. A new version then gets a new file, and
//! [`inspect`] finds the old one to be deleted.
//!
//! # Choosing a block size
//!
//! The block size is the source's, a power of two; the cache takes what it says. It is the smallest piece that is
//! fetched, stored, compared and read, and a read has to be a multiple of it. A file holds a bit and an 8-byte checksum
//! for each block. Memory holds two bits for each block, in the parts of the device where something is cached, and a
//! third where something was fetched unasked. For a device of 1 TiB:
//!
//! | block | bitmap in the file, read when it is opened | checksums in the file | memory when all is cached |
//! |---|---|---|---|
//! | 512 B | 256 MiB | 16 GiB (1.6 %) | 512 MiB |
//! | 4 KiB | 32 MiB | 2 GiB (0.2 %) | 64 MiB |
//! | 64 KiB | 2 MiB | 128 MiB (0.01 %) | 4 MiB |
//!
//! What nobody wrote takes no room where files may have holes. 4 KiB is a good size if there is a choice: it is what
//! file systems read, and from 4 KiB on [`MemoryCacheOps`] reads without a lock. Larger blocks pay where calls of the
//! source are dear and readers want all of a block; [fetching more than was asked
//! for](#fetching-more-than-was-asked-for) does as much for small blocks, and leaves the choice to each program.
//!
//! # Limits
//!
//! Each setter of [`CacheConfig`] gives its default and the reason for it. The defaults suit a program on a desktop
//! that reads over a network.
//!
//! | limit | default | more of it | less of it |
//! |---|---|---|---|
//! | [`with_flush_every_bytes`](crate::CacheConfig::with_flush_every_bytes) | 32 MiB | fewer flushes, which cost a disk milliseconds each | less to fetch again after a loss of power |
//! | [`with_window_bytes`](crate::CacheConfig::with_window_bytes) | 1 MiB | fewer, longer source calls when caching ahead | readers wait for less, and less memory |
//! | [`with_windows_at_once`](crate::CacheConfig::with_windows_at_once) | 4 | a source with high latency is kept busy | more of the line is left to readers, and less memory |
//! | [`with_fetches_at_once`](crate::CacheConfig::with_fetches_at_once) | 64 | a read with many holes takes as long as one fetch | a server that limits connections is left in peace: the limit is over all reads of a reader |
//! | [`with_max_fetch_bytes`](crate::CacheConfig::with_max_fetch_bytes) | 0, none | fewer, longer source calls | a source that refuses long reads serves them; a large read that is dropped keeps more |
//!
//! Memory for caching ahead is `window_bytes` × `windows_at_once`, and 8 bytes for each block in it: by default 4 MiB,
//! and 8 KiB for blocks of 4 KiB, however much is cached. A read fetches into its caller's buffer. A flush that is due
//! is made beside the next read that fetches, and no other one waits for it. A limit
//! [in blocks](crate::CacheConfig::with_flush_every_blocks) is exact: the read that reaches it flushes before it ends.
//!
//! When blocks are compared with their checksums is the [`VerifyPolicy`]:
//!
//! | policy | compares | costs | take it |
//! |---|---|---|---|
//! | [`OnFirstRead`](crate::VerifyPolicy::OnFirstRead), the default | what an earlier process cached, on its first read | one more backend read and one pass of XXH3-64 on that read | nearly always |
//! | [`OnEveryRead`](crate::VerifyPolicy::OnEveryRead) | every hit | the same on every hit | where others may write to the file or reset it meanwhile |
//! | [`Never`](crate::VerifyPolicy::Never) | nothing, unless a flush failed, the backend was bypassed, or the file became shorter | nothing | on a backend that checks its content itself |
//!
//! [`scrub`](crate::CachedBlockReader::scrub) compares everything ahead of its readers, and drops what does not match.
//!
//! # Fetching more than was asked for
//!
//! By default a read fetches what is missing of it, each missing run side by side with the others, and nothing else.
//! Where a call takes long beside the bytes that it brings, larger fetches serve small reads better. All of
//! [`WiderFetches`](crate::WiderFetches) is off until it is asked for, and a part of the read that misses; nothing runs in
//! the background.
//!
//! - **Read-around**, [`with_around_bytes`](crate::WiderFetches::with_around_bytes): readers that jump about
//!   in the same places, such as a file system's metadata. 64 KiB to 1 MiB.
//! - **Read-ahead**, [`with_ahead_bytes`](crate::WiderFetches::with_ahead_bytes): readers that go from front
//!   to back in small pieces. 256 KiB to 4 MiB. It begins after some reads in sequence and doubles, so random reads pay
//!   nothing.
//! - **Gap merging**, [`with_gap_blocks`](crate::WiderFetches::with_gap_blocks): a source that limits calls,
//!   or takes longer for a call than for so many blocks. Without it holes are fetched at the same time, which is mostly
//!   faster.
//! - **None of it, but [`warm`](crate::CachedBlockReader::warm)**, where the program knows what it will read: that is
//!   exact.
//!
//! They may be on together. Whether they were right for a program, two counters tell: what part of what was fetched
//! unasked has been used since.
//!
//! ```
//! # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
//! # use image::Image;
//! use gibblox_cache::{CacheConfig, CachedBlockReader, MemoryCacheOps, WiderFetches};
//! use gibblox_core::{BlockReader, ReadContext};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> gibblox_core::GibbloxResult<()> {
//! let around = WiderFetches::new().with_around_bytes(64 << 10);
//! let config = CacheConfig::new().with_wider_fetches(around);
//! let source = Image::new(4096, 1000);
//! let reader = CachedBlockReader::open(source, MemoryCacheOps::new(), config).await?;
//! let mut block = [0; 4096];
//! for lba in [3, 7, 5, 12, 500, 9] {
//!     reader.read_blocks(lba, &mut block, ReadContext::FOREGROUND).await?;
//! }
//! let counters = reader.counters();
//! assert_eq!(counters.source_reads, 2); // Blocks 0 to 15, and 496 to 511.
//! assert_eq!((counters.unasked_fetched_blocks, counters.unasked_used_blocks), (30, 4));
//! # Ok(())
//! # }
//! ```
//!
//! # Caching ahead, and pausing
//!
//! [`ensure_cached`](crate::CachedBlockReader::ensure_cached) caches one range.
//! [`warm`](crate::CachedBlockReader::warm) caches the blocks of a [`WarmPlan`], the device or several ranges, and is held
//! up by a [`PauseSwitch`] from any task or thread. For a bar,
//! [`warm_with_progress`](crate::CachedBlockReader::warm_with_progress) tells how far it is. All return `Ok` only when
//! all blocks are cached. To cancel, drop the future; what was fetched stays, and calling again goes on from there.
//!
//! ```
//! # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
//! # use image::Image;
//! use gibblox_cache::{CachedBlockReader, MemoryCacheOps, PauseSwitch, WarmPlan};
//! use gibblox_core::{BlockReader, ReadContext};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> gibblox_core::GibbloxResult<()> {
//! let reader = CachedBlockReader::new(Image::new(4096, 1000), MemoryCacheOps::new()).await?;
//! let pause = PauseSwitch::new();
//! let plan = WarmPlan::ranges([0..64, 900..1000]).with_windows_at_once(1).with_pause(&pause);
//! let (warmed, read) = tokio::join!(
//!     reader.warm_with_progress(plan, |now| println!("{} of {} bytes", now.done_bytes(), now.wanted_bytes())),
//!     async {
//!         pause.pause(); // While something else needs the line.
//!         let mut buf = vec![0; 4096];
//!         let read = reader.read_blocks(500, &mut buf, ReadContext::FOREGROUND).await;
//!         pause.resume();
//!         read
//!     },
//! );
//! assert_eq!((warmed?.done_blocks, read?), (164, 4096));
//! # Ok(())
//! # }
//! ```
//!
//! # Priority
//!
//! Readers go first without being told so. What `warm` has only queued is claimed by nobody, and a reader fetches it at
//! once itself; at most it waits for the windows under way that hold its blocks. So a window should take no longer than
//! a reader may wait: 1 MiB is 8 ms at 1 Gbit/s, and 0.8 s at 10 Mbit/s.
//!
//! The [`ReadContext`] of a call goes to the source as it is, with what is fetched for that call. What the source makes
//! of it is the source's business. A fetch keeps the priority it began with, also when somebody more urgent comes to
//! wait for it: with a source that lets low priorities starve, drop or pause what caches ahead.
//!
//! # Looking inside, and dropping
//!
//! | to | call |
//! |---|---|
//! | see whether a range is cached | [`is_cached`](crate::CachedBlockReader::is_cached) |
//! | list what is cached | [`cached_runs`](crate::CachedBlockReader::cached_runs) |
//! | drop a range, for good | [`invalidate`](crate::CachedBlockReader::invalidate) |
//! | drop everything, for good | [`clear`](crate::CachedBlockReader::clear) |
//! | drop what is damaged | [`scrub`](crate::CachedBlockReader::scrub) |
//! | see what a file holds, without a source | [`inspect`] |
//!
//! To drop is for a source that has changed under the same identity; that the file gets shorter it does not mean. To
//! give the room back, delete the file while nobody has it open.
//!
//! ```
//! # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
//! # use image::Image;
//! use std::sync::Arc;
//!
//! use gibblox_cache::{CachedBlockReader, Inspection, MemoryCacheOps, inspect};
//! use gibblox_core::ReadContext;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> gibblox_core::GibbloxResult<()> {
//! let backend = Arc::new(MemoryCacheOps::new());
//! let reader = CachedBlockReader::new(Image::new(512, 64), Arc::clone(&backend)).await?;
//! reader.ensure_cached(0, 48, ReadContext::BACKGROUND).await?;
//! reader.invalidate(8, 8).await?;
//! assert!(!reader.is_cached(0, 48)?);
//! assert!(reader.cached_runs().eq([0..8, 16..48]));
//!
//! // What a program that cleans a directory of caches sees of it:
//! if let Inspection::Cache(info) = inspect(&backend).await? {
//!     println!("{}: {} of {} blocks", info.identity, info.valid_blocks, info.total_blocks);
//!     assert_eq!(info.valid_blocks, 40);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Offline
//!
//! With [`OfflinePolicy::ServeCached`] a reader opens by its cache file where the source does not answer. What is
//! cached is served, the rest is the source's error, until it answers and says that it is the same.
//! [`open`](crate::CachedBlockReader::open) has the rules; [`is_offline`](crate::CachedBlockReader::is_offline) tells,
//! and has an example. The identity must be known without asking the source: a URL with a version in it is, an `ETag`
//! that is asked for is not.
//!
//! For a program that is going to be offline: `warm` what it will need by a plan that
//! [compares](crate::WarmPlan::with_comparison), and [`flush_cache`](crate::CachedBlockReader::flush_cache).
//!
//! A source that is half out of reach may say a size that is not its own. So this policy brings another one along: a file
//! of the same identity and another size is [kept](crate::RebuildPolicy), and the reader goes without a cache.
//!
//! # A sick backend
//!
//! A disk that is full, or fails, makes a slower cache and nothing else. Reads get their bytes from the source,
//! failures are logged and counted, and what could not be stored is fetched again. Those who ask for the cache itself
//! get the error: `flush_cache`, `ensure_cached`, `warm`, `scrub`, `invalidate` and `clear`.
//!
//! Where each failing call takes long, [`with_bypass`](crate::CacheConfig::with_bypass) ends all calls after some
//! failures in a row, and probes now and then. It is off by default, since it takes from a backend that fails now and
//! then what it would have served. [`state`](crate::CachedBlockReader::state) tells in one word whether the cache serves,
//! fails, could not be opened yet, or is bypassed, and a few more things, and has an example.
//!
//! # Numbers
//!
//! [`get_stats`](crate::CachedBlockReader::get_stats) has hits, misses and how full the cache is: what a user wants to
//! see. [`counters`](crate::CachedBlockReader::counters) has what an operator wants to see: hits and misses too, calls of
//! source and backend, bytes, failures that were kept from the callers, damaged blocks. Take two snapshots and
//! [`since`](crate::CacheCounters::since), which has an example. Some that are worth an alarm:
//!
//! | counter | grows when |
//! |---|---|
//! | [`backend_failures()`](crate::CacheCounters::backend_failures) | the disk is full or sick, and nothing is kept |
//! | [`checksum_mismatched_blocks`](crate::CacheCounters::checksum_mismatched_blocks) | power was lost, a disk is damaged, or somebody else writes to the file |
//! | [`source_read_failures`](crate::CacheCounters::source_read_failures) | the source fails |
//! | [`unasked_fetched_blocks`](crate::CacheCounters::unasked_fetched_blocks) far ahead of [`unasked_used_blocks`](crate::CacheCounters::unasked_used_blocks) | fetching around or ahead is for nothing |
//!
//! With the feature `serde` (always on wasm32) they are `Serialize`.
//!
//! # Seeing what it does
//!
//! The crate tells [`tracing`](https://docs.rs/tracing) what happens. All targets begin with `gibblox_cache`. Nothing
//! is formatted where nobody listens.
//!
//! | level | what |
//! |---|---|
//! | `WARN` | backend calls of a kind (reads, writes, flushes) begin to fail, and succeed again; the cache of another source is thrown away; the backend is bypassed; blocks do not match their checksums; a source that is not the one of the file, or has changed; a cache that is kept |
//! | `DEBUG` | a file was opened, or is rebuilt, and why; a flush; `warm`, `scrub`, `invalidate` and `clear`; a wider fetch that failed; offline, and back; a backend that was probed; reading without a file that could not be opened |
//! | `TRACE` | each `read_blocks` and `ensure_cached`, and each fetch that was widened |
//!
//! A program mostly takes `tracing-subscriber`, and a filter such as `gibblox_cache=debug`. This shows what arrives,
//! with nothing but `tracing`:
//!
//! ```
//! # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
//! # use image::Image;
//! use std::fmt::{Debug, Write};
//! use std::sync::{Arc, Mutex};
//!
//! use gibblox_cache::{CachedBlockReader, MemoryCacheOps};
//! # use image::DeadDisk;
//! use gibblox_core::{BlockReader, ReadContext};
//! use tracing::field::{Field, Visit};
//! use tracing::{Event, Level, Metadata, Subscriber, span};
//!
//! /// Keeps a line for each event of the cache, from `DEBUG` on.
//! #[derive(Clone, Default)]
//! struct Lines(Arc<Mutex<Vec<String>>>);
//!
//! struct Line(String);
//!
//! impl Visit for Line {
//!     fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
//!         let _ = write!(self.0, " {field}={value:?}");
//!     }
//! }
//!
//! impl Subscriber for Lines {
//!     fn enabled(&self, metadata: &Metadata<'_>) -> bool {
//!         metadata.target().starts_with("gibblox_cache") && *metadata.level() <= Level::DEBUG
//!     }
//!
//!     fn event(&self, event: &Event<'_>) {
//!         let mut line = Line(event.metadata().level().to_string());
//!         event.record(&mut line);
//!         self.0.lock().unwrap().push(line.0);
//!     }
//!
//!     // There are no spans.
//!     fn new_span(&self, _: &span::Attributes<'_>) -> span::Id { span::Id::from_u64(1) }
//!     fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
//!     fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
//!     fn enter(&self, _: &span::Id) {}
//!     fn exit(&self, _: &span::Id) {}
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> gibblox_core::GibbloxResult<()> {
//! let lines = Lines::default();
//! // For this thread. A program has one for all: `set_global_default`.
//! let _guard = tracing::subscriber::set_default(lines.clone());
//!
//! let reader = CachedBlockReader::new(Image::new(512, 64), MemoryCacheOps::new()).await?;
//! reader.ensure_cached(0, 64, ReadContext::BACKGROUND).await?;
//! reader.flush_cache().await?;
//!
//! // And over a disk of which every call fails:
//! let reader = CachedBlockReader::new(Image::new(512, 64), DeadDisk).await?;
//! reader.read_blocks(0, &mut [0; 512], ReadContext::FOREGROUND).await?;
//!
//! let lines = lines.0.lock().unwrap();
//! assert_eq!(lines[0], r#"DEBUG message=rebuilding the cache file identity="cached:(image:64x512)" why=Empty"#);
//! assert_eq!(lines[1], "DEBUG message=flushed the cache blocks=64 ok=true");
//! assert!(lines[2].starts_with("WARN message=reading the cache failed; further failures are counted offset=0 error="));
//! # Ok(())
//! # }
//! ```
//!
//! # Threads and tasks
//!
//! All methods take `&self`. Put the reader behind an [`Arc`](alloc::sync::Arc), or hand out references; there is
//! nothing to lock around it. A reader is itself a [`BlockReader`], and so is an `Arc` of one, so it goes wherever a
//! source goes, under a second cache too.
//!
//! ```
//! # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
//! # use image::Image;
//! use std::sync::Arc;
//!
//! use gibblox_cache::{CachedBlockReader, MemoryCacheOps};
//! use gibblox_core::{BlockReader, ReadContext};
//!
//! # #[tokio::main]
//! # async fn main() -> gibblox_core::GibbloxResult<()> {
//! let reader = Arc::new(CachedBlockReader::new(Image::new(4096, 1000), MemoryCacheOps::new()).await?);
//! let mut tasks = Vec::new();
//! for _ in 0..8 {
//!     let reader = Arc::clone(&reader);
//!     tasks.push(tokio::spawn(async move {
//!         let mut buf = vec![0; 16 * 4096];
//!         reader.read_blocks(100, &mut buf, ReadContext::FOREGROUND).await
//!     }));
//! }
//! for task in tasks {
//!     assert_eq!(task.await.expect("no task panics")?, 16 * 4096);
//! }
//! assert_eq!(reader.counters().fetched_blocks, 16); // Once, not eight times.
//! # fn is_send(_: &impl Send) {}
//! # is_send(&CachedBlockReader::new(Image::new(512, 64), MemoryCacheOps::new()));
//! # is_send(&reader.warm(gibblox_cache::WarmPlan::device()));
//! # is_send(&reader.invalidate(0, 1));
//! # is_send(&reader.flush_cache());
//! # Ok(())
//! # }
//! ```
//!
//! Any executor will do, and several at once. The futures are `Send` and have no runtime in them; whether source and
//! backend have one is up to these: `gibblox-http` 0.0.1 wants tokio, outside a browser.
//!
//! **Poll a future, or drop it.** One that leads a fetch and is kept without being polled keeps those waiting who want
//! the same blocks. That happens by accident where a future is put aside while another is awaited, as in a `select!`
//! loop that keeps `&mut read`, or a stream of buffered futures whose consumer awaits something else. A dropped future
//! hands over.
//!
//! # Small machines
//!
//! `default-features = false` is `no_std` and takes `alloc`. Instead of the operating system's locks there are spinning
//! ones, held for a few instructions and never across an await, so on one core that only polls at one level they are
//! never contended. **Not from an interrupt handler:** one that polls a reader in the middle of another poll of the
//! same reader may spin for ever. Wake a task there, and poll it in the main loop.
//!
//! An executor is this much, where a real one would sleep until an interrupt in the place of spinning:
//!
//! ```
//! # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
//! # use image::Image;
//! use core::pin::pin;
//! use core::task::{Context, Poll, Waker};
//!
//! use gibblox_cache::{CacheConfig, CachedBlockReader, MemoryCacheOps};
//! use gibblox_core::{BlockReader, GibbloxResult, ReadContext};
//!
//! fn block_on<F: Future>(future: F) -> F::Output {
//!     let mut future = pin!(future);
//!     loop {
//!         if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
//!             return output;
//!         }
//!         core::hint::spin_loop();
//!     }
//! }
//!
//! # fn main() -> GibbloxResult<()> {
//! // Windows that fit a small heap.
//! let config = CacheConfig::new().with_window_bytes(4096).with_windows_at_once(2);
//! let source = Image::new(512, 64);
//! let reader = block_on(CachedBlockReader::open(source, MemoryCacheOps::new(), config))?;
//! let mut buf = [0; 4 * 512];
//! block_on(reader.read_blocks(8, &mut buf, ReadContext::FOREGROUND))?;
//! # assert_eq!(buf[3 * 512], 11);
//! # Ok(())
//! # }
//! ```
//!
//! The repository's `tests/firmware` is a whole program for a Cortex-M4: an executor of its own, a heap, overlapping
//! readers, a dropped leader, a sick device. It has some 130 KB of code and constants, and its heap is at most 68 KB
//! with 56 blocks of 512 bytes cached in memory. A target needs compare-and-swap, but no 64-bit atomics.
//!
//! A flash chip or a partition makes a backend too: [`contract`] says how. A partition may ignore `set_len`; it has to
//! be as long as the cache file, which is the device, the identity and the overhead [above](#choosing-a-block-size).
//!
//! # Browsers
//!
//! `gibblox-cache-store-opfs` 0.0.1 keeps the cache file in the browser's origin-private file system. The repository's
//! `tests/browser` is a page that does all of what follows, and its tests drive it. In the worker, with a source behind
//! an `Arc` so that it outlives a file that does not open:
//!
//! ```ignore
//! let file = OpfsCacheOps::open_for_reader(&source).await;
//! let cache: Arc<dyn CacheOps> = match file {
//!     Ok(file) => Arc::new(file),
//!     Err(_) => Arc::new(MemoryCacheOps::new()), // No worker, or another tab has the file.
//! };
//! let reader = CachedBlockReader::new(source, cache).await?;
//! ```
//!
//! - **Workers only.** Synchronous access to files exists in dedicated workers, on `https:` or loopback. Elsewhere
//!   opening is `Unsupported`, hence the memory above.
//! - **One tab at a time.** The file is held as long as the backend lives. A second tab's opening fails at once.
//! - **Quota.** The file is as long as the source from the beginning, and the browser counts all of it. Where there is
//!   no room for that, nothing is kept and reads go on; [`counters`](crate::CachedBlockReader::counters) and
//!   `ensure_cached` tell. `navigator.storage.estimate()` tells beforehand.
//! - **Eviction.** A browser that is short of space may delete everything an origin has stored. The next start is cold,
//!   and never wrong. `navigator.storage.persist()` asks to be spared.
//! - **Flush** when a piece of work is done: [`flush_cache`](crate::CachedBlockReader::flush_cache). A page gets no
//!   chance to when it is closed.
//! - **The browser's own HTTP cache** keeps what is fetched a second time, and that of Chromium lets requests for one
//!   URL through one by one. Fetch with `cache: "no-store"`.
//! - **Identity.** `gibblox-http` 0.0.1 names a source by its URL alone. Put a version into the URL.
//!
//! # What is promised
//!
//! At the front: [what is promised, and what is not](crate#what-is-promised). Each method says under `# Cancellation`
//! what a dropped future leaves behind, and under `# Durability` what outlives a loss of power.
//!
//! [`BlockReader`]: gibblox_core::BlockReader
//! [`BlockReader::write_identity`]: gibblox_core::BlockReader::write_identity
//! [`ReadContext`]: gibblox_core::ReadContext
//! [`CacheConfig`]: crate::CacheConfig
//! [`CacheOps`]: crate::CacheOps
//! [`CachedBlockReader`]: crate::CachedBlockReader
//! [`MemoryCacheOps`]: crate::MemoryCacheOps
//! [`OfflinePolicy::ServeCached`]: crate::OfflinePolicy::ServeCached
//! [`PauseSwitch`]: crate::PauseSwitch
//! [`VerifyPolicy`]: crate::VerifyPolicy
//! [`Versioned`]: crate::Versioned
//! [`WarmPlan`]: crate::WarmPlan
//! [`contract`]: crate::contract
//! [`derive_cached_reader_identity_id`]: crate::derive_cached_reader_identity_id
//! [`inspect`]: crate::inspect()
