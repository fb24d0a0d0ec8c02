//! Positional I/O and a lock beside the file, on Windows.
//!
//! Locks on a file are mandatory there: another handle cannot even read what is locked. So a second file is held open,
//! and what others may do with it meanwhile, its share mode, is the lock: who wants it shared lets others read, who wants
//! it alone lets others do nothing. It ends with the handle, hence with the process.
//!
//! Files are not renewed: the lock file belongs to the name and not to the file, so a fresh file under the same name would
//! have the locks of the old one.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::hold::Attempt;
use super::{Array, Links};
use crate::backend::{LockMode, LockOutcome};

const SHARE_NOTHING: u32 = 0;
const SHARE_READ: u32 = 1;
const OPEN_REPARSE_POINT: u32 = 0x0020_0000;
const ERROR_SHARING_VIOLATION: i32 = 32;

// These two move the cursor of the file as well. Nothing here looks at it.

pub(super) fn read_some(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    file.seek_read(out, offset)
}

pub(super) fn write_some(file: &File, offset: u64, data: &[u8]) -> io::Result<usize> {
    file.seek_write(data, offset)
}

pub(super) fn prepare(options: &mut OpenOptions, links: Links) {
    if links == Links::Refused {
        // The link itself is opened, and is no regular file.
        options.custom_flags(OPEN_REPARSE_POINT);
    }
}

#[expect(clippy::unnecessary_wraps, reason = "other systems can fail")]
pub(super) const fn punch_hole(_: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    held: Option<File>,
}

impl Lock {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: readers_path(path),
            held: None,
        }
    }

    /// Opens the lock file, which is the lock.
    fn open(&self, mode: LockMode) -> Result<File, LockOutcome> {
        // It may be there, and held. Then this fails, and the next call finds it.
        let _ = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&self.path);
        hold_open(&self.path, mode).map_err(|error| match error.raw_os_error() {
            Some(ERROR_SHARING_VIOLATION) => LockOutcome::Refused,
            _ => LockOutcome::Unknown,
        })
    }

    pub(super) fn take(&mut self, _: &Array, mode: LockMode) -> LockOutcome {
        self.held = None;
        match self.open(mode) {
            Ok(held) => {
                self.held = Some(held);
                LockOutcome::Granted
            }
            Err(outcome) => outcome,
        }
    }

    pub(super) fn release(&mut self, _: &Array) {
        self.held = None;
    }

    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "other systems can"
    )]
    pub(super) const fn renew(&mut self, _: &Array) -> io::Result<bool> {
        Ok(false)
    }
}

/// The lock file of the readers of the cache file at `path`.
fn readers_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".lock");
    name.into()
}

fn hold_open(path: &Path, mode: LockMode) -> io::Result<File> {
    let share = match mode {
        LockMode::Shared => SHARE_READ,
        LockMode::Sole => SHARE_NOTHING,
    };
    let mut options = OpenOptions::new();
    options.read(true).share_mode(share);
    options.custom_flags(OPEN_REPARSE_POINT);
    options.open(path)
}

/// Opens the lock file at `path`, which is the lock. As long as it is held it cannot be deleted.
pub(super) fn attempt(path: &Path, mode: LockMode, create: bool) -> io::Result<Attempt> {
    if create {
        let created = OpenOptions::new().write(true).create_new(true).open(path);
        drop(created);
    }
    match hold_open(path, mode) {
        Ok(held) if held.metadata()?.is_file() => Ok(Attempt::Held(held)),
        Ok(_) => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "its lock file is not a regular file",
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Attempt::Absent),
        Err(error) if error.raw_os_error() == Some(ERROR_SHARING_VIOLATION) => Ok(Attempt::Refused),
        Err(error) => Err(error),
    }
}

/// Takes the lock of the readers of the cache file at `path`.
pub(super) fn take_sole(_: &File, path: &Path, create: bool) -> io::Result<Attempt> {
    attempt(&readers_path(path), LockMode::Sole, create)
}

/// Removes the lock file of the readers, unless one holds it again.
pub(super) fn forget_sole(path: &Path) {
    let _ = fs::remove_file(readers_path(path));
}

/// Removes a lock file, unless another process holds it by then.
pub(super) fn remove_locked(path: &Path, lock: File) {
    drop(lock);
    let _ = fs::remove_file(path);
}

/// The whole length: what a file takes there is not to be had by safe means.
pub(super) fn bytes_on_disk(found: &Metadata) -> u64 {
    found.len()
}
