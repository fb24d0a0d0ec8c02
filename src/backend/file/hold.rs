//! Lock files: for as long as a cache file of a [`CacheDir`](super::super::CacheDir) is open, a file beside it is locked.
//!
//! ```text
//!   opening:  lock file, shared ─► still named? ─► open or create ─► … ─► closed or killed
//!                 ▲ no: begin again │
//!   deleting: lock file, sole ──► still named? ─► a cache file? no reader? ─► delete it ─► delete the lock file
//! ```
//!
//! Why not the lock of the cache file itself: readers change its mode, a change first gives up what was held, and a process
//! that wants to delete could slip in there. Besides, it belongs to a file and not to its name, and two objects that held
//! it without a reader would keep each other from building the file. The lock file is locked once, in one mode.
//!
//! A deleter takes the lock of the cache file as well, for readers that opened it by its path and know nothing of this.
//!
//! A lock file that is not locked means nothing, and is removed by any process that locks it alone. So after locking one
//! its name is looked up: it may have none any more.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::{Links, place, step, system};
use crate::backend::LockMode;

/// What the name of a lock file has more than that of the cache file.
pub(crate) const SUFFIX: &str = ".use";

/// How often an opener asks for a lock that deleters have, until that is an error.
const OPENER_TRIES: u32 = 2000;

/// How often a deleter asks, since others that only want to know take the lock for a moment as well.
const DELETER_TRIES: u32 = 4;

/// What one attempt to lock a lock file came to.
#[derive(Debug)]
pub(super) enum Attempt {
    Held(File),
    Refused,
    /// There are no locks here.
    #[cfg_attr(windows, expect(dead_code, reason = "there are always locks there"))]
    Unknown,
    /// There is no such file, and none was to be created.
    Absent,
}

/// Keeps a cache file from being deleted, until it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct Hold {
    /// None where there are no locks, or where nothing can be written.
    _lock: Option<File>,
}

impl Hold {
    /// Holds the cache file at `path`, which need not be there yet.
    pub(super) fn shared(path: &Path) -> io::Result<Self> {
        let lock_path = lock_path(path);
        for count in 0..OPENER_TRIES {
            match system::attempt(&lock_path, LockMode::Shared, true) {
                Ok(Attempt::Held(lock)) => return Ok(Self { _lock: Some(lock) }),
                Ok(Attempt::Unknown) => return Ok(Self { _lock: None }),
                Ok(Attempt::Refused | Attempt::Absent) => step::wait(count),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
                    ) =>
                {
                    return Ok(Self { _lock: None });
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(
            ErrorKind::WouldBlock,
            "another process is deleting it and does not come to an end",
        ))
    }
}

/// What deleting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    Done {
        bytes_on_disk: u64,
    },
    /// There was nothing of that name any more.
    Vanished,
    InUse,
    /// Without locks nothing tells whether it is in use.
    NoLocks,
}

/// Deletes the cache file at `path` unless it is in use. What is no cache file is an error and is left alone.
pub(crate) fn delete(path: &Path) -> io::Result<Deletion> {
    // Before a lock file is put beside it.
    if look(path)?.is_none() {
        sweep(path)?;
        return Ok(Deletion::Vanished);
    }
    step::point();
    let lock_path = lock_path(path);
    for count in 0..DELETER_TRIES {
        match system::attempt(&lock_path, LockMode::Sole, true)? {
            Attempt::Held(lock) => {
                step::point();
                let deletion = delete_held(path);
                step::point();
                remove_lock_file(&lock_path, lock);
                return deletion;
            }
            Attempt::Unknown => return Ok(Deletion::NoLocks),
            Attempt::Refused | Attempt::Absent if count + 1 < DELETER_TRIES => step::wait(0),
            Attempt::Refused | Attempt::Absent => {}
        }
    }
    Ok(Deletion::InUse)
}

/// Deletes the cache file at `path` unless a reader has it that came by its path.
fn delete_held(path: &Path) -> io::Result<Deletion> {
    let Some((file, found)) = look(path)? else {
        return Ok(Deletion::Vanished);
    };
    match system::take_sole(&file, path, true)? {
        Attempt::Held(lock) => {
            step::point();
            let bytes_on_disk = system::bytes_on_disk(&found);
            let removed = fs::remove_file(path);
            drop(lock);
            system::forget_sole(path);
            match removed {
                Ok(()) => Ok(Deletion::Done { bytes_on_disk }),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(Deletion::Vanished),
                Err(error) => Err(error),
            }
        }
        Attempt::Refused => Ok(Deletion::InUse),
        Attempt::Unknown => Ok(Deletion::NoLocks),
        Attempt::Absent => Ok(Deletion::Vanished),
    }
}

/// Opens the cache file at `path`, to read it; nothing where there is none.
pub(crate) fn look(path: &Path) -> io::Result<Option<(File, Metadata)>> {
    let mut options = OpenOptions::new();
    options.read(true);
    system::prepare(&mut options, Links::Refused);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    place::check(&file)?;
    let found = file.metadata()?;
    Ok(Some((file, found)))
}

/// Whether an object, or a reader, has the cache file at `path` open. Where that cannot be told, it counts as in use.
pub(crate) fn is_in_use(path: &Path, file: &File) -> io::Result<bool> {
    // Kept for the second question, so that an opener waits for the first lock and is not refused the second one.
    let lock = match system::attempt(&lock_path(path), LockMode::Sole, false)? {
        Attempt::Held(lock) => Some(lock),
        Attempt::Absent => None,
        Attempt::Refused | Attempt::Unknown => return Ok(true),
    };
    let reader = system::take_sole(file, path, false)?;
    drop(lock);
    Ok(matches!(reader, Attempt::Refused | Attempt::Unknown))
}

/// Removes the lock file of the cache file at `path`, where it is there and not locked.
pub(crate) fn sweep(path: &Path) -> io::Result<()> {
    let lock_path = lock_path(path);
    if let Attempt::Held(lock) = system::attempt(&lock_path, LockMode::Sole, false)? {
        step::point();
        remove_lock_file(&lock_path, lock);
    }
    Ok(())
}

/// What a file of these metadata takes of the disk.
pub(crate) fn bytes_on_disk(found: &Metadata) -> u64 {
    system::bytes_on_disk(found)
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(SUFFIX);
    name.into()
}

/// Ends a lock that is held alone, and its file with it. A file of that name that holds something is none of ours.
fn remove_lock_file(path: &Path, lock: File) {
    if lock.metadata().is_ok_and(|found| found.len() == 0) {
        // Where it fails the file is swept later.
        system::remove_locked(path, lock);
    }
}

#[cfg(all(test, unix, not(model)))]
mod tests;
