//! Positional I/O, advisory locks (`flock`) and replacing by rename, on Unix.
//!
//! `flock` belongs to an open file, so two objects on one path exclude each other in one process as well. Changing its mode
//! first gives up the old one; an object that is refused holds nothing. That is what [`LockOutcome`] says, and it is
//! what ends a deadlock of two that both want more: neither keeps what the other waits for.
//!
//! A lock on a file means nothing once another file has its name. So after a lock was taken the name is looked up, and if it
//! leads elsewhere the object moves there. A file is renewed under a lock on its directory, so that two processes that
//! want a fresh one at the same time get the same.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use twox_hash::XxHash3_64;

use super::hold::Attempt;
use super::place::{self, Opened};
use super::{Array, Links, step};
use crate::backend::{LockMode, LockOutcome};

/// How often the name may lead to another file before the lock counts as refused.
const TRIES: usize = 4;

pub(super) fn read_some(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    file.read_at(out, offset)
}

pub(super) fn write_some(file: &File, offset: u64, data: &[u8]) -> io::Result<usize> {
    file.write_at(data, offset)
}

pub(super) fn prepare(options: &mut OpenOptions, links: Links) {
    // A pipe opens at once, too, and is refused afterwards. `std` adds `O_CLOEXEC`.
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    if links == Links::Refused {
        flags |= OFlags::NOFOLLOW;
    }
    #[expect(clippy::cast_possible_wrap, reason = "the flags are an `int` in C")]
    options.mode(0o600).custom_flags(flags.bits() as i32);
}

/// Makes the range a hole; `false` where there are no holes, or where the file ends within the range.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    use rustix::fs::{FallocateFlags, fallocate};

    let within = offset
        .checked_add(len)
        .is_some_and(|end| file.metadata().is_ok_and(|found| end <= found.len()));
    if !within || len == 0 {
        return Ok(within);
    }
    loop {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(file, how, offset, len) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[expect(clippy::unnecessary_wraps, reason = "other systems can fail")]
pub(super) fn punch_hole(_: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

#[cfg(not(any(
    target_os = "solaris",
    target_os = "espidf",
    target_os = "horizon",
    target_os = "vita"
)))]
fn try_flock(file: &File, mode: LockMode) -> LockOutcome {
    use rustix::fs::{FlockOperation, flock};

    let operation = match mode {
        LockMode::Shared => FlockOperation::NonBlockingLockShared,
        LockMode::Sole => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        return match flock(file, operation) {
            Ok(()) => LockOutcome::Granted,
            Err(Errno::INTR) => continue,
            Err(Errno::WOULDBLOCK) => LockOutcome::Refused,
            Err(_) => LockOutcome::Unknown,
        };
    }
}

#[cfg(not(any(
    target_os = "solaris",
    target_os = "espidf",
    target_os = "horizon",
    target_os = "vita"
)))]
fn unlock(file: &File) {
    let _ = rustix::fs::flock(file, rustix::fs::FlockOperation::Unlock);
}

/// These systems have no `flock`.
#[cfg(any(
    target_os = "solaris",
    target_os = "espidf",
    target_os = "horizon",
    target_os = "vita"
))]
fn try_flock(_: &File, _: LockMode) -> LockOutcome {
    LockOutcome::Unknown
}

#[cfg(any(
    target_os = "solaris",
    target_os = "espidf",
    target_os = "horizon",
    target_os = "vita"
))]
fn unlock(_: &File) {}

/// The lock of an array, which the system keeps.
#[derive(Debug)]
pub(super) struct Lock(());

impl Lock {
    pub(super) const fn new(_: &Path) -> Self {
        Self(())
    }

    pub(super) fn take(&mut self, array: &Array, mode: LockMode) -> LockOutcome {
        for _ in 0..TRIES {
            let outcome = try_flock(array.file(), mode);
            // A file that cannot be looked for, or that was deleted where there are no locks, is as good as any.
            let lost_name = is_named(array.file(), &array.path).is_ok_and(|is_named| !is_named);
            if lost_name && outcome != LockOutcome::Unknown {
                self.release(array);
                if Self::adopt(array).is_ok_and(|adopted| adopted) {
                    continue;
                }
                return LockOutcome::Refused;
            }
            return outcome;
        }
        LockOutcome::Refused
    }

    #[expect(clippy::unused_self, reason = "on other systems the lock is an object")]
    pub(super) fn release(&mut self, array: &Array) {
        unlock(array.file());
        give_up_unused(array);
    }

    /// Moves to the file that has the name by now, or to a new one where there is none.
    fn adopt(array: &Array) -> io::Result<bool> {
        let Opened {
            file, read_only, ..
        } = place::open(&array.path, array.read_only, Links::Refused)?;
        if read_only != array.read_only {
            return Ok(false);
        }
        array.replace(file);
        Ok(true)
    }

    pub(super) fn renew(&mut self, array: &Array) -> io::Result<bool> {
        let (parent, name) = place::parts(&array.path)?;
        let directory = File::open(parent)?;
        // Without a lock on the directory two processes would each renew what the other one has renewed.
        match try_flock(&directory, LockMode::Sole) {
            LockOutcome::Granted => {}
            // For some system calls.
            LockOutcome::Refused => return Err(ErrorKind::WouldBlock.into()),
            LockOutcome::Unknown => return Ok(false),
        }
        if !is_named(array.file(), &array.path)? {
            self.release(array);
            return Self::adopt(array);
        }
        if place::check(array.file()).is_err() {
            // It would take the name away from something that is no cache.
            return Ok(false);
        }
        let fresh_path = parent.join(fresh_name(name));
        remove_stale(&fresh_path)?;
        let fresh = place::create(&fresh_path)?;
        let placed = (|| {
            // Before it has its name: another process would find it and build it.
            if try_flock(&fresh, LockMode::Sole) != LockOutcome::Granted {
                return Ok(false);
            }
            fs::rename(&fresh_path, &array.path)?;
            Ok(true)
        })();
        if !matches!(placed, Ok(true)) {
            let _ = fs::remove_file(&fresh_path);
            return placed;
        }
        self.release(array);
        array.replace(fresh);
        Ok(true)
    }
}

/// Whether `path` leads to `file`.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((held.dev(), held.ino()) == (found.dev(), found.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The name that a fresh file has until it gets that of the old one. The lock on the directory makes it the only one.
fn fresh_name(name: &std::ffi::OsStr) -> OsString {
    let hash = XxHash3_64::oneshot(name.as_encoded_bytes());
    alloc::format!(".{hash:016x}.gibblox.new").into()
}

/// Removes what a process left that was killed while it renewed.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives back the space of files that were renewed, have no name any more, and are used by no other process.
fn give_up_unused(array: &Array) {
    let mut link = &array.first;
    while let Some(next) = link.renewed.get() {
        let unnamed = link.file.metadata().is_ok_and(|found| found.nlink() == 0);
        if unnamed
            && !array.read_only
            && try_flock(&link.file, LockMode::Sole) == LockOutcome::Granted
        {
            let _ = link.file.set_len(0);
            unlock(&link.file);
        }
        link = next;
    }
}

/// Locks the lock file at `path`, which is one at that time.
pub(super) fn attempt(path: &Path, mode: LockMode, create: bool) -> io::Result<Attempt> {
    for _ in 0..TRIES {
        let Some(file) = open_lock_file(path, create)? else {
            if create {
                continue;
            }
            return Ok(Attempt::Absent);
        };
        step::point();
        match try_flock(&file, mode) {
            LockOutcome::Granted => {}
            LockOutcome::Refused => return Ok(Attempt::Refused),
            LockOutcome::Unknown => return Ok(Attempt::Unknown),
        }
        step::point();
        // Another process may have deleted it between the two.
        if is_named(&file, path)? {
            return Ok(Attempt::Held(file));
        }
    }
    Ok(Attempt::Refused)
}

/// Opens the lock file at `path`; nothing where there is none, or where another process was faster in creating it.
fn open_lock_file(path: &Path, create: bool) -> io::Result<Option<File>> {
    let open = |write| {
        let mut options = OpenOptions::new();
        options.read(true).write(write);
        prepare(&mut options, Links::Refused);
        options.open(path)
    };
    let opened = match open(true) {
        Err(error) if error.kind() == ErrorKind::NotFound && create => place::create(path),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            open(false)
        }
        opened => opened,
    };
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "its lock file is not a regular file",
        )),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Locks the cache file that is open as `file` for as long as the answer lives, which is another handle to it.
pub(super) fn take_sole(file: &File, path: &Path, _: bool) -> io::Result<Attempt> {
    let held = file.try_clone()?;
    Ok(match try_flock(&held, LockMode::Sole) {
        LockOutcome::Granted if is_named(file, path)? => Attempt::Held(held),
        LockOutcome::Granted => Attempt::Absent,
        LockOutcome::Refused => Attempt::Refused,
        LockOutcome::Unknown => Attempt::Unknown,
    })
}

/// Nothing: the lock was the file itself.
pub(super) const fn forget_sole(_: &Path) {}

/// Removes a lock file while it is locked.
pub(super) fn remove_locked(path: &Path, lock: File) {
    let _ = fs::remove_file(path);
    step::point();
    drop(lock);
}

/// Without the holes.
pub(super) fn bytes_on_disk(found: &Metadata) -> u64 {
    // In units of 512 bytes, whatever the file system's own.
    found.blocks().saturating_mul(512)
}
