//! [`FileCacheOps`]: a cache in a file of the local disk.
//!
//! ```text
//!   FileCacheOps ─► Arc<Array> ─► file ── renewed ─► file ── renewed ─► …    the last one counts
//!        └─ tenants ── the last one left ─► the lock is released
//! ```
//!
//! **No cursor and no lock.** Calls overlap, and a `seek` that another call can slip behind is a wrong byte. So every
//! call names its offset. (On Windows such calls move the cursor as well. Nothing here looks at it.)
//!
//! **May it block?** Reads and writes do, for the time of the system call. They are mostly answered from the page cache, in
//! microseconds, which is less than handing them to another thread takes. That thread would need a buffer of its own, with
//! a copy for each read, because a future can be dropped at any await, and its caller's buffer is gone then. A write that
//! was handed over would even go on after its future was dropped, which [`CacheOps`] forbids. Since these calls never
//! wait for anything else, they are offered as [`read_now`](CacheOps::read_now) and [`write_now`](CacheOps::write_now) too.
//!
//! A flush waits for the disk, often for tens of milliseconds. It needs no buffer, and does no harm when it finishes after
//! its future was dropped. So it runs on a thread of its own, and the other tasks of the executor go on.
//!
//! **Renewing** puts another file under the name and under this object. Reads find it by one load that mostly says "there
//! is no other". The file before stays open until the object is dropped, since a flush may be under way on it; its lock is
//! given up, and its space when no other process uses it any more.
//!
//! # What was not done
//!
//! Mapping the file takes `unsafe`, and a truncated one kills the process. `io_uring` wants to own its buffers. Locks on
//! ranges of bytes belong to the process and not to the object, and go when it closes *any* handle on the file.

pub(crate) mod hold;
pub(crate) mod names;
mod place;
mod step;

#[cfg_attr(unix, path = "file/unix.rs")]
#[cfg_attr(windows, path = "file/windows.rs")]
mod system;

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::SystemTime;

use async_trait::async_trait;
use futures_channel::oneshot;
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult};

use super::{CacheOps, LockMode, LockOutcome, Tenants};
use hold::Hold;
use place::Opened;

/// A cache in a file of the local disk, on Unix and Windows.
///
/// The file is read and written at positions, without a lock, so calls overlap. No call takes longer than its system
/// calls, but a [`flush`](CacheOps::flush), which waits for the disk on a thread of its own.
///
/// # Which file
///
/// The file at the path is opened, or created with mode 0600 (Unix). A file that is neither empty nor a cache file is
/// **refused and not touched**, also where it begins with zeros, as images of disks do. The error says so. A symbolic link
/// is followed to a file that is there; none is created through one. What is not a regular file is refused.
///
/// A file or a file system that cannot be written is opened for reading: what is cached in it is served, and nothing is
/// stored.
///
/// # One owner
///
/// Readers of one source share the file, in one process and between processes. A reader of another source, or of
/// another version of it, does not take a file away from a reader that lives:
///
/// - in one process, over one `FileCacheOps`, it goes without a cache until the other reader is dropped;
/// - between processes, and between two `FileCacheOps` on one path, it gets a fresh file under the same name. The other
///   process goes on with the one that it has, which is gone when it ends. On Windows it goes without a cache.
///
/// This is done by an advisory lock (`flock`) on the file. On Windows, where locks are mandatory, a file beside it is held
/// open instead; its name is that of the cache with `.lock` at the end. Locks end with the process, however it ends. Where a
/// file system has no locks, only readers in one process see each other.
///
/// # What a file takes
///
/// On Unix a file takes as much of the disk as was cached, although `ls` shows the whole length: the rest is holes. On Linux
/// blocks of zeros are holes too ([`write_zeros`](CacheOps::write_zeros)). On NTFS a file takes its whole length at once
/// unless it has the sparse flag. No safe way to set that flag is known to the authors, so it is not set here. `fsutil
/// sparse setflag FILE` sets it on an empty file before it is opened for the first time.
///
/// # Examples
///
/// ```
/// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
/// # use image::Image;
/// use gibblox_cache::{CachedBlockReader, FileCacheOps};
/// use gibblox_core::{BlockReader, ReadContext};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let directory = folder.path();
/// let source = Image::new(4096, 1000); // anything that implements `BlockReader`
/// let cache = FileCacheOps::open_in(directory, &source)?;
/// let reader = CachedBlockReader::new(source, cache).await?;
///
/// let mut buf = vec![0; 4096];
/// reader.read_blocks(7, &mut buf, ReadContext::FOREGROUND).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FileCacheOps {
    array: Arc<Array>,
    tenants: Tenants,
}

/// How a [`FileCacheOps`] is opened.
///
/// # Examples
///
/// ```
/// use gibblox_cache::FileCacheOptions;
///
/// # fn main() -> std::io::Result<()> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.cache");
/// // A cache that another machine filled, and that nothing is added to:
/// let absent = FileCacheOptions::new().with_read_only(true).open(&path);
/// assert!(absent.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct FileCacheOptions {
    read_only: bool,
}

impl FileCacheOptions {
    /// Reads and writes, creates what is not there.
    #[must_use]
    pub const fn new() -> Self {
        Self { read_only: false }
    }

    /// Whether to open for reading only: what is cached is served, nothing is stored, and a file that is not there is an
    /// error. Without it this is so only for files that cannot be written.
    #[must_use]
    pub const fn with_read_only(self, read_only: bool) -> Self {
        Self { read_only }
    }

    /// As [`FileCacheOps::open`].
    ///
    /// # Errors
    ///
    /// As [`FileCacheOps::open`].
    pub fn open(self, path: impl AsRef<Path>) -> io::Result<FileCacheOps> {
        FileCacheOps::open_as(path.as_ref(), self, Links::Followed)
    }

    /// As [`FileCacheOps::open_in`].
    ///
    /// # Errors
    ///
    /// As [`FileCacheOps::open_in`].
    pub fn open_in<S>(self, directory: impl AsRef<Path>, source: &S) -> io::Result<FileCacheOps>
    where
        S: BlockReader + ?Sized,
    {
        let path = directory.as_ref().join(names::of(source)?);
        FileCacheOps::open_as(&path, self, Links::Refused)
    }
}

/// Whether the last part of a path may be a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    Followed,
    Refused,
}

impl FileCacheOps {
    /// Opens the cache file at `path`, or creates it in a directory that is there.
    ///
    /// Its content is kept: the reader that is opened over it uses what is its own. Blocks for the time of some system
    /// calls.
    ///
    /// # Errors
    ///
    /// - `InvalidData`: the file is neither empty nor a cache file, and was not touched.
    /// - `InvalidInput`: it is not a regular file, or a symbolic link that leads nowhere.
    /// - Those of opening and creating a file. Where there is no permission to write, or the file system is read-only, the
    ///   file is opened for reading instead.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        FileCacheOptions::new().open(path)
    }

    /// Opens the cache file of `source` in `directory`, or creates it there.
    ///
    /// The file is [named](Self::name_of) by the whole identity, so two sources, or two versions of one, do not meet
    /// in one file. A symbolic link of that name is refused, since the name can be guessed.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); `InvalidInput` also where the source fails to write its identity.
    pub fn open_in<S>(directory: impl AsRef<Path>, source: &S) -> io::Result<Self>
    where
        S: BlockReader + ?Sized,
    {
        FileCacheOptions::new().open_in(directory, source)
    }

    /// The name of the file that [`open_in`](Self::open_in) opens: 32 hexadecimal digits and `.gibblox`.
    ///
    /// The digits are the 128-bit XXH3 of the cached identity, seeded with the block size. They keep sources apart by
    /// accident and not against an adversary; the file compares the whole identity in any case.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the source fails to write its identity.
    pub fn name_of<S>(source: &S) -> io::Result<alloc::string::String>
    where
        S: BlockReader + ?Sized,
    {
        names::of(source)
    }

    fn open_as(path: &Path, options: FileCacheOptions, links: Links) -> io::Result<Self> {
        let array = Array::open(path, options, links).map_err(|error| about(path, &error))?;
        Ok(Self::over(array))
    }

    /// Opens the file at `path` so that it is not deleted while it is open, and notes the time.
    pub(crate) fn open_held(path: &Path) -> io::Result<Self> {
        let hold = Hold::shared(path).map_err(|error| about(path, &error))?;
        step::point();
        match Array::open(path, FileCacheOptions::new(), Links::Refused) {
            Ok(mut array) => {
                array.hold = Some(hold);
                array.touch();
                Ok(Self::over(array))
            }
            Err(error) => {
                drop(hold);
                let _ = hold::sweep(path);
                Err(about(path, &error))
            }
        }
    }

    /// Opens the file at `path` to look at it.
    pub(crate) fn open_to_look(path: &Path) -> io::Result<Self> {
        FileCacheOps::open_as(
            path,
            FileCacheOptions::new().with_read_only(true),
            Links::Refused,
        )
    }

    fn over(array: Array) -> Self {
        let array = Arc::new(array);
        let vacated = Arc::clone(&array);
        Self {
            tenants: Tenants::with_vacated(move || vacated.unlock()),
            array,
        }
    }

    /// Where the file was found, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.array.path
    }
}

/// The files that were put under one name, of which the last one counts.
#[derive(Debug)]
struct Array {
    path: PathBuf,
    read_only: bool,
    first: Link,
    lock: Mutex<system::Lock>,
    /// In a [`CacheDir`](super::CacheDir). The last field, so that it is given up last.
    hold: Option<Hold>,
}

impl Drop for Array {
    fn drop(&mut self) {
        if self.hold.is_some() {
            self.touch();
        }
    }
}

/// A file, and the one that was put in its place.
#[derive(Debug)]
struct Link {
    file: File,
    renewed: OnceLock<Box<Link>>,
}

impl Link {
    const fn new(file: File) -> Self {
        let renewed = OnceLock::new();
        Self { file, renewed }
    }

    #[cold]
    fn last(mut self: &Self) -> &Self {
        while let Some(next) = self.renewed.get() {
            self = next;
        }
        self
    }
}

impl Array {
    fn open(path: &Path, options: FileCacheOptions, links: Links) -> io::Result<Self> {
        let Opened {
            file,
            path,
            read_only,
        } = place::open(path, options.read_only, links)?;
        Ok(Self {
            lock: Mutex::new(system::Lock::new(&path)),
            path,
            read_only,
            first: Link::new(file),
            hold: None,
        })
    }

    /// Notes that the file is used now.
    fn touch(&self) {
        if !self.read_only {
            // A file of another user may be written and not touched. Then its last write counts.
            let _ = self.file().set_modified(SystemTime::now());
        }
    }

    /// The file that counts.
    #[inline]
    fn file(&self) -> &File {
        if self.first.renewed.get().is_none() {
            return &self.first.file;
        }
        &self.first.last().file
    }

    /// Puts `file` in the place of the one that counts.
    ///
    /// The caller is the only tenant and makes no other call meanwhile, so nothing lands in the wrong file.
    #[cfg_attr(windows, expect(dead_code, reason = "no file is renewed there"))]
    fn replace(&self, file: File) {
        let last = self.first.last();
        // Only one thread is here, under the lock's mutex.
        let _ = last.renewed.set(Box::new(Link::new(file)));
    }

    /// Fills `out` from `offset` on. Returns less than its length only where the file ends.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let file = self.file();
        check_offset(offset, out.len())?;
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match system::read_some(file, offset.saturating_add(done as u64), rest) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes all of `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        write_all(self.file(), offset, data)
    }

    /// What the lock came to, and whether a file was begun, which is to be made durable.
    fn lock(&self, mode: LockMode) -> (LockOutcome, bool) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = lock.take(self, mode);
        let resets = mode == LockMode::Sole && outcome != LockOutcome::Refused && !self.read_only;
        if !resets {
            return (outcome, false);
        }
        let Ok(begun) = place::prepare_rebuild(self.file()) else {
            lock.release(self);
            return (LockOutcome::Refused, false);
        };
        (outcome, begun)
    }

    fn unlock(&self) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        lock.release(self);
    }

    fn renew(&self) -> io::Result<bool> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.read_only {
            return Ok(false);
        }
        lock.renew(self)
    }
}

/// No system has files that end past 2^63, and Windows appends where the offset is 2^64 - 1.
fn check_offset(offset: u64, len: usize) -> io::Result<()> {
    let end = offset.checked_add(len as u64);
    if end.is_some_and(|end| i64::try_from(end).is_ok()) {
        return Ok(());
    }
    Err(io::Error::new(
        ErrorKind::InvalidInput,
        "it would end past 2^63",
    ))
}

fn write_all(file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    check_offset(offset, data.len())?;
    let mut done = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
        match system::write_some(file, offset.saturating_add(done as u64), rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    let message = format!("the cache file {}: {error}", path.display());
    io::Error::new(error.kind(), message)
}

#[cold]
fn failed(what: &str, error: &io::Error) -> GibbloxError {
    let message = format!("{what} the cache file: {error}");
    GibbloxError::with_message(GibbloxErrorKind::Io, message)
}

#[async_trait]
impl CacheOps for FileCacheOps {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        let answer = self.array.read(offset, out);
        answer.map_err(|error| failed("reading", &error))
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        let answer = self.array.write(offset, data);
        answer.map_err(|error| failed("writing", &error))
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        let answer = self.array.file().set_len(len);
        answer.map_err(|error| failed("resizing", &error))
    }

    /// Waits until the data, and the length, are on the disk. Nothing of the file is made durable that only its
    /// directory knows: a file that was created just before a loss of power may be gone, and the next start is cold.
    ///
    /// Dropped, it goes on in its thread, which does no harm.
    async fn flush(&self) -> GibbloxResult<()> {
        if self.array.read_only {
            return Ok(());
        }
        let array = Arc::clone(&self.array);
        let (sender, outcome) = oneshot::channel();
        let flushing = thread::Builder::new()
            .name("cache flush".into())
            .spawn(move || {
                // Sending fails when the future was dropped. The data is on the disk all the same.
                let _ = sender.send(array.file().sync_data());
            });
        let answer = match flushing {
            Ok(_) => outcome
                .await
                .unwrap_or_else(|_| Err(io::Error::other("the flushing thread died"))),
            // There is no thread to be had. A flush that blocks is better than none.
            Err(_) => self.array.file().sync_data(),
        };
        answer.map_err(|error| failed("flushing", &error))
    }

    #[inline]
    fn read_now(&self, offset: u64, out: &mut [u8]) -> Option<GibbloxResult<usize>> {
        let answer = self.array.read(offset, out);
        Some(answer.map_err(|error| failed("reading", &error)))
    }

    #[inline]
    fn write_now(&self, offset: u64, data: &[u8]) -> Option<GibbloxResult<()>> {
        let answer = self.array.write(offset, data);
        Some(answer.map_err(|error| failed("writing", &error)))
    }

    /// A hole, on Linux and Android, where the file system has holes and the range lies within the file.
    async fn write_zeros(&self, offset: u64, len: u64) -> GibbloxResult<bool> {
        let answer = system::punch_hole(self.array.file(), offset, len);
        answer.map_err(|error| failed("punching a hole into", &error))
    }

    fn is_read_only(&self) -> bool {
        self.array.read_only
    }

    fn tenants(&self) -> Option<&Tenants> {
        Some(&self.tenants)
    }

    async fn lock(&self, mode: LockMode) -> LockOutcome {
        let (outcome, begun) = self.array.lock(mode);
        if begun {
            // Before the length grows: a loss of power must not leave zeros only, which could be a disk's.
            let _ = self.flush().await;
        }
        outcome
    }

    async fn renew(&self) -> GibbloxResult<bool> {
        let answer = self.array.renew();
        answer.map_err(|error| failed("renewing", &error))
    }
}
