//! Opening and creating, with a look at what is there before anything is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::{Links, step, system, write_all};
use crate::format::family::{BEGUN, LOOK_BYTES, is_of_this_family};

/// How often a file may come and go between two steps before that is an error.
const TRIES: usize = 8;

/// A cache file, or an empty one.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    /// Absolute, without symbolic links.
    pub(super) path: PathBuf,
    pub(super) read_only: bool,
}

/// Opens the file at `path`, or creates it where it may be written.
pub(super) fn open(path: &Path, read_only: bool, links: Links) -> io::Result<Opened> {
    for _ in 0..TRIES {
        let (file, read_only) = match open_found(path, read_only, links) {
            Err(error) if error.kind() == ErrorKind::NotFound && !read_only => match create(path) {
                Ok(file) => (file, false),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
                        return Err(invalid("it is a symbolic link to nothing"));
                    }
                    continue;
                }
                Err(error) => return Err(error),
            },
            found => found?,
        };
        step::point();
        check(&file)?;
        // After opening: what leads there is not created any more.
        let path = match links {
            Links::Followed => fs::canonicalize(path)?,
            Links::Refused => canonical_parent(path)?,
        };
        return Ok(Opened {
            file,
            path,
            read_only,
        });
    }
    Err(io::Error::other("it comes and goes"))
}

fn canonical_parent(path: &Path) -> io::Result<PathBuf> {
    let (parent, name) = parts(path)?;
    Ok(fs::canonicalize(parent)?.join(name))
}

/// The directory that `path` lies in, and its name there.
pub(super) fn parts(path: &Path) -> io::Result<(&Path, &std::ffi::OsStr)> {
    let name = path
        .file_name()
        .ok_or_else(|| invalid("the path has no name at its end"))?;
    let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
    Ok((parent.unwrap_or_else(|| Path::new(".")), name))
}

/// Opens what is there, for reading and writing, or for reading where that is all that is allowed.
fn open_found(path: &Path, read_only: bool, links: Links) -> io::Result<(File, bool)> {
    let open = |write| {
        let mut options = OpenOptions::new();
        options.read(true).write(write);
        system::prepare(&mut options, links);
        options.open(path)
    };
    if read_only {
        return Ok((open(false)?, true));
    }
    match open(true) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            // Where reading is not allowed either, it is that that is said.
            Ok((open(false)?, true))
        }
        found => Ok((found?, false)),
    }
}

/// Creates a file at `path`, where there must be nothing, not even a symbolic link.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    system::prepare(&mut options, Links::Refused);
    options.open(path)
}

/// An error unless `file` is a regular file, and empty or a cache file.
pub(super) fn check(file: &File) -> io::Result<()> {
    if !file.metadata()?.is_file() {
        return Err(invalid("it is not a regular file"));
    }
    let mut first = [0; LOOK_BYTES];
    let mut got = 0;
    while let Some(rest) = first.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match system::read_some(file, got as u64, rest) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if is_of_this_family(first.get(..got).unwrap_or_default()) {
        return Ok(());
    }
    Err(io::Error::new(
        ErrorKind::InvalidData,
        "it is not a cache file and is left alone; delete it if it is not needed",
    ))
}

/// Looks at a file that is about to be overwritten: an error unless it is still a cache file or empty. An empty one gets
/// the bytes by which a rebuild that is interrupted is known as such. Whether it did.
pub(super) fn prepare_rebuild(file: &File) -> io::Result<bool> {
    check(file)?;
    // Where writing fails the rebuild will fail, too, and says so.
    Ok(file.metadata()?.len() == 0 && write_all(file, 0, &BEGUN).is_ok())
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, message)
}
