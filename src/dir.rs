//! [`CacheDir`]: a directory of cache files with a budget, from which the least recently used files are deleted (LRU).
//!
//! ```text
//!   cache_for(source) ─► hold the name ─► open the file ─► note the time ─► trim
//!   trim ─► measure ─► over the budget? ─► delete the oldest that is not in use ─► … ─► within it, or all that is left is in use
//! ```
//!
//! There is no index. What a directory holds is what its files say, so nothing has to be repaired after a process was
//! killed, and processes have nothing to agree on beyond the locks of `file/hold.rs`.
//!
//! # What was not done
//!
//! Trims of several processes do not wait for each other: each may delete a file that would have been spared if it had
//! known what the other one deletes. A lock over the directory would end that, and have every opening wait for a trim.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use futures_util::FutureExt;
use gibblox_core::BlockReader;
use tracing::debug;

use crate::backend::file::hold::{self, Deletion};
use crate::backend::file::{FileCacheOps, names};
use crate::file::{Inspection, inspect};
use crate::format::header::VERSION;

/// How often a trim begins again because there were other processes at the same.
const TRIES: usize = 8;

/// A directory of cache files, one for each source, that together keep within a budget.
///
/// Any number of processes may use one directory at the same time, with different budgets, too. Nothing has to be closed, and
/// any of them may be killed at any time.
///
/// # What lies in it
///
/// The file of a source is named by its whole identity, as by [`FileCacheOps::open_in`]:
/// [32 hexadecimal digits and `.gibblox`](FileCacheOps::name_of). Beside it lies an empty one with `.use` at the end,
/// which is locked while the cache is open; on Windows there may be one with `.lock`, too. Files of other names, files that are no cache files, symbolic links and
/// directories are not listed, not counted and not deleted.
///
/// # The budget
///
/// It is in bytes that the files take of the disk. On Unix holes do not count, on Windows the whole length does. Whenever
/// [`cache_for`](Self::cache_for) opens a file, and whenever a program calls [`trim`](Self::trim), the files that were not
/// used for the longest time are deleted until the rest is within the budget. The time of the last use of a file is its time of
/// modification, which is also set when it is opened and when it is closed.
///
/// **A file that is open is never deleted**, and it grows with what is cached in it. So the budget may be exceeded between two
/// trims, and while what is open is larger than the budget. A program that runs for long calls `trim` now and then; a
/// trim after the last file was closed keeps the budget exactly. A file that has lost its name while a process has it open, since a reader
/// of another size of the image replaced it, is not counted; its space is free when that process ends.
///
/// # In use
///
/// A file is in use from when [`cache_for`](Self::cache_for) is called until the [`FileCacheOps`] that it returned, and with it
/// every reader over it, is dropped or its process has ended (and, on Unix, until a process that it was just starting runs its
/// program). A file that was opened by its path, with
/// [`FileCacheOps::open`], is in use while it has a reader. Where the file system has no locks, nothing tells what
/// is in use, and nothing is deleted. A process that may not write to the directory can only hold what has a lock file already;
/// from under it, a process that may write can delete a file, which on Unix costs it the cache and no read.
///
/// # Other users
///
/// A file that this process may not read is not counted. [`list`](Self::list) and [`trim`](Self::trim) name it and go on. The
/// directory is created with mode 0700 (Unix), the files have mode 0600.
///
/// # Examples
///
/// ```
/// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
/// # use image::Image;
/// use gibblox_cache::{CacheDirOptions, CachedBlockReader};
/// use gibblox_core::{BlockReader, ReadContext};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("images");
/// let dir = CacheDirOptions::new().with_max_bytes(64 << 20).open(&path)?;
///
/// let source = Image::new(4096, 1000); // anything that implements `BlockReader`
/// let cache = dir.cache_for(&source)?;
/// let reader = CachedBlockReader::new(source, cache).await?;
/// let mut buf = vec![0; 4096];
/// reader.read_blocks(7, &mut buf, ReadContext::FOREGROUND).await?;
///
/// for file in dir.list()? {
///     println!("{}: {} bytes, in use: {}", file.name, file.bytes_on_disk, file.is_in_use);
///     assert!(file.is_in_use);
/// }
/// drop(reader);
/// assert_eq!(dir.clear()?.deleted_files, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CacheDir {
    path: PathBuf,
    max_bytes: Option<u64>,
}

/// How a [`CacheDir`] is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheDirOptions {
    max_bytes: Option<u64>,
}

impl CacheDirOptions {
    /// No budget: nothing is deleted unless that is asked for.
    #[must_use]
    pub const fn new() -> Self {
        Self { max_bytes: None }
    }

    /// The bytes that the files of the directory may take of the disk. With zero only what is in use stays.
    #[must_use]
    pub const fn with_max_bytes(self, max_bytes: u64) -> Self {
        Self {
            max_bytes: Some(max_bytes),
        }
    }

    /// As [`CacheDir::open`].
    ///
    /// # Errors
    ///
    /// As [`CacheDir::open`].
    pub fn open(self, path: impl AsRef<Path>) -> io::Result<CacheDir> {
        let path = path.as_ref();
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path)?;
        Ok(CacheDir {
            path: fs::canonicalize(path)?,
            max_bytes: self.max_bytes,
        })
    }
}

/// A file of a [`CacheDir`].
#[derive(Debug)]
#[non_exhaustive]
pub struct CacheDirEntry {
    /// Its name in the directory, as [`CacheDir::remove`] takes it.
    pub name: String,
    /// Where it lies, without symbolic links.
    pub path: PathBuf,
    /// What it takes of the disk. On Windows its whole length.
    pub bytes_on_disk: u64,
    /// Its time of modification, which is set when it is opened and closed; none where the file system has no such times.
    pub last_use: Option<SystemTime>,
    /// Whether it is in use, by this process or by another one, or this cannot be told.
    pub is_in_use: bool,
    /// What it says of itself: identity, block size, valid and total blocks. An error where it cannot be read.
    pub inspection: io::Result<Inspection>,
}

impl CacheDirEntry {
    /// The version of the file format, where the file says one.
    #[must_use]
    pub fn format_version(&self) -> Option<u8> {
        match self.inspection {
            Ok(Inspection::Cache(_)) => Some(VERSION),
            Ok(Inspection::OtherVersion(version)) => Some(version),
            _ => None,
        }
    }
}

/// What [`CacheDir::trim`] and [`CacheDir::clear`] did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Trimmed {
    /// Files that this call deleted.
    pub deleted_files: u64,
    /// The bytes of the disk that they took.
    pub deleted_bytes: u64,
    /// Files that are left, as they were found. Unless the budget was exceeded only their names were looked at.
    pub files: u64,
    /// The bytes of the disk that these take.
    pub bytes_on_disk: u64,
    /// Names of files that could not be looked at or deleted, and why. Those that are in use are not among them.
    pub failed: Vec<(String, io::Error)>,
}

/// A file that may be one of a directory's, by its name.
struct Found {
    name: String,
    bytes_on_disk: u64,
    last_use: Option<SystemTime>,
}

/// What the directory lists.
#[derive(Default)]
struct Listing {
    files: Vec<Found>,
    /// Cache files whose lock file is there and they are not.
    missing: Vec<String>,
    failed: Vec<(String, io::Error)>,
}

impl CacheDir {
    /// Opens the directory at `path`, without a budget; creates it, and those above it, where it is not there.
    ///
    /// One that is there keeps its mode.
    ///
    /// # Errors
    ///
    /// Those of creating and finding a directory.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        CacheDirOptions::new().open(path)
    }

    /// Where the directory was found, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The budget in bytes.
    #[must_use]
    pub const fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    /// Opens the cache file of `source`, or creates it, and trims the others to the budget.
    ///
    /// The file is not deleted before the answer, and the readers over it, have been dropped. A failure to trim is none
    /// of this call.
    ///
    /// Blocks for the time of some system calls, of which there are, with a budget, some for each file of the directory. Where another process is
    /// about to delete this very file, it waits until that is done, for two seconds at most.
    ///
    /// # Errors
    ///
    /// As [`FileCacheOps::open_in`]; `WouldBlock` where a process that was about to delete the file was stopped
    /// in the middle.
    pub fn cache_for<S>(&self, source: &S) -> io::Result<FileCacheOps>
    where
        S: BlockReader + ?Sized,
    {
        let cache = FileCacheOps::open_held(&self.path.join(names::of(source)?))?;
        if self.max_bytes.is_some() {
            match self.trim() {
                Ok(trimmed) if trimmed.failed.is_empty() => {}
                Ok(trimmed) => {
                    debug!(failed = ?trimmed.failed, "some cache files were not trimmed");
                }
                Err(error) => debug!(%error, "the cache directory was not trimmed"),
            }
        }
        Ok(cache)
    }

    /// The cache files of the directory, by name.
    ///
    /// What others do meanwhile may be seen or not. To find out whether a file is in use its locks are taken for a
    /// moment; who opens it at that moment waits.
    ///
    /// # Errors
    ///
    /// Those of reading the directory. What is wrong with a file is said in its entry.
    ///
    /// # Cost
    ///
    /// For each file that of [`inspect`], and some system calls.
    pub fn list(&self) -> io::Result<Vec<CacheDirEntry>> {
        let listing = self.read()?;
        let mut entries = Vec::new();
        for found in listing.files {
            let path = self.path.join(&found.name);
            let looked = hold::look(&path).and_then(|looked| {
                let Some((file, _)) = looked else {
                    return Err(ErrorKind::NotFound.into());
                };
                Ok((hold::is_in_use(&path, &file)?, inspect_at(&path)?))
            });
            let (is_in_use, inspection) = match looked {
                Ok((is_in_use, inspection)) => (is_in_use, Ok(inspection)),
                // It went meanwhile, or only has the name of one.
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) =>
                {
                    continue;
                }
                Err(error) => (true, Err(error)),
            };
            entries.push(CacheDirEntry {
                path,
                bytes_on_disk: found.bytes_on_disk,
                last_use: found.last_use,
                is_in_use,
                inspection,
                name: found.name,
            });
        }
        for (name, error) in listing.failed {
            entries.push(CacheDirEntry {
                path: self.path.join(&name),
                bytes_on_disk: 0,
                last_use: None,
                is_in_use: true,
                inspection: Err(error),
                name,
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Deletes the files that were not used for the longest time, until the rest is within the budget or in use. Without a
    /// budget it deletes none.
    ///
    /// May be called at any time. It is no error if other processes trim, open or delete meanwhile; where two trim at once,
    /// more may be deleted than was needed.
    ///
    /// # Errors
    ///
    /// Those of reading the directory. What could not be looked at or deleted is in [`Trimmed::failed`].
    ///
    /// # Cost
    ///
    /// A system call for each file, and some more for each where the budget is exceeded.
    pub fn trim(&self) -> io::Result<Trimmed> {
        self.trim_to(self.max_bytes.unwrap_or(u64::MAX))
    }

    /// Deletes all files that are not in use.
    ///
    /// # Errors
    ///
    /// As [`trim`](Self::trim).
    pub fn clear(&self) -> io::Result<Trimmed> {
        let mut trimmed = Trimmed::default();
        self.pass(None, &mut trimmed)?;
        Ok(trimmed)
    }

    /// Deletes the file of that name; `false` where there is none.
    ///
    /// [`FileCacheOps::name_of`] says the name for a source.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: no cache file is named like that. `InvalidData`: it is no cache file. `ResourceBusy`: it is in
    /// use. `Unsupported`: there are no locks here. And those of deleting a file.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        if !names::is_one(name) {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "no cache file of a directory is named like that",
            ));
        }
        match hold::delete(&self.path.join(name))? {
            Deletion::Done { .. } => Ok(true),
            Deletion::Vanished => Ok(false),
            Deletion::InUse => Err(ErrorKind::ResourceBusy.into()),
            Deletion::NoLocks => Err(no_locks()),
        }
    }

    fn trim_to(&self, max_bytes: u64) -> io::Result<Trimmed> {
        let mut trimmed = Trimmed::default();
        for _ in 0..TRIES {
            trimmed.failed.clear();
            // Others may have opened what was to be deleted, and have closed or added something else.
            if !self.pass(Some(max_bytes), &mut trimmed)? || trimmed.bytes_on_disk <= max_bytes {
                break;
            }
        }
        Ok(trimmed)
    }

    /// Deletes the oldest files until `max_bytes` are left, or all. Whether any has gone.
    fn pass(&self, max_bytes: Option<u64>, trimmed: &mut Trimmed) -> io::Result<bool> {
        let Listing {
            mut files,
            missing,
            mut failed,
        } = self.read()?;
        for name in missing {
            // What a process left that was killed. It takes no room.
            let _ = hold::sweep(&self.path.join(name));
        }
        let sum = |files: &[Found]| {
            files
                .iter()
                .fold(0_u64, |sum, found| sum.saturating_add(found.bytes_on_disk))
        };
        let is_within = |bytes| max_bytes.is_some_and(|max_bytes| bytes <= max_bytes);
        let mut bytes = sum(&files);
        if !is_within(bytes) {
            files.retain(|found| match hold::look(&self.path.join(&found.name)) {
                Ok(looked) => looked.is_some(),
                // It only has the name of one.
                Err(error) if error.kind() == ErrorKind::InvalidData => false,
                Err(error) => {
                    failed.push((found.name.clone(), error));
                    false
                }
            });
            files.sort_by(|a, b| (a.last_use, &a.name).cmp(&(b.last_use, &b.name)));
            bytes = sum(&files);
        }
        let mut gone = 0;
        for found in &files {
            if is_within(bytes) {
                break;
            }
            match hold::delete(&self.path.join(&found.name)) {
                Ok(Deletion::InUse) => continue,
                Ok(Deletion::Vanished) => {}
                Ok(Deletion::Done { bytes_on_disk }) => {
                    trimmed.deleted_files += 1;
                    trimmed.deleted_bytes = trimmed.deleted_bytes.saturating_add(bytes_on_disk);
                    debug!(name = found.name, bytes_on_disk, "a cache file was deleted");
                }
                Ok(Deletion::NoLocks) => {
                    failed.push((found.name.clone(), no_locks()));
                    continue;
                }
                Err(error) => {
                    failed.push((found.name.clone(), error));
                    continue;
                }
            }
            gone += 1;
            bytes = bytes.saturating_sub(found.bytes_on_disk);
        }
        trimmed.files = (files.len() - gone) as u64;
        trimmed.bytes_on_disk = bytes;
        trimmed.failed = failed;
        Ok(gone > 0)
    }

    fn read(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        let mut held = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if let Some(name) = name.strip_suffix(hold::SUFFIX) {
                if names::is_one(name) {
                    held.push(name.to_owned());
                }
                continue;
            }
            if !names::is_one(&name) {
                continue;
            }
            // Of the link where it is one. (Not `entry.metadata()`, which on Windows may be older than the file.)
            match fs::symlink_metadata(entry.path()) {
                Ok(found) if found.is_file() => listing.files.push(Found {
                    name,
                    bytes_on_disk: hold::bytes_on_disk(&found),
                    last_use: found.modified().ok(),
                }),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => listing.failed.push((name, error)),
            }
        }
        listing.files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        held.retain(|name| {
            let files = &listing.files;
            files
                .binary_search_by(|found| found.name.cmp(name))
                .is_err()
        });
        listing.missing = held;
        Ok(listing)
    }
}

fn inspect_at(path: &Path) -> io::Result<Inspection> {
    let file = FileCacheOps::open_to_look(path)?;
    // A file answers at once.
    let answer = inspect(&file).now_or_never();
    let answer = answer.ok_or_else(|| io::Error::from(ErrorKind::WouldBlock))?;
    answer.map_err(|error| io::Error::other(alloc::string::ToString::to_string(&error)))
}

fn no_locks() -> io::Error {
    io::Error::new(
        ErrorKind::Unsupported,
        "the file system has no locks, so nothing tells whether the file is in use",
    )
}
