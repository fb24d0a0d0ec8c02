//! A backend over [`std::fs::File`], and how to write one.
//!
//! A backend is a growable array of bytes, no more: the cache decides what stands where in it, checks what it reads
//! back, and copes with errors. [`CacheOps`] asks for four methods and offers two more. These are the questions that
//! each of them raises, and the answers for a file.
//!
//! **Where is the cursor?** Nowhere. Calls overlap, so a `seek` that another call can slip behind is a wrong byte.
//! Every operating system reads and writes at a given offset; where yours does not, put a lock around both steps.
//!
//! **What is a short read?** The end of the array, and only that. An operating system may return less than was asked
//! for at any time, or nothing because of a signal; [`FileCache::read`] goes on until the buffer is full or the end is
//! reached. Writes likewise, except that a write which gets nowhere is an error.
//!
//! **What is in new bytes?** Zeros. A file that grows, by [`set_len`](CacheOps::set_len) or by a write behind its
//! end, has holes that read as zeros and occupy no space; so the cache file of a 1 TiB image takes as much room as
//! was fetched.
//!
//! **When is a write done?** For other reads at once, on the medium after a [`flush`](CacheOps::flush). Buffering
//! writes here would gain nothing, as the operating system does so already, and would break the first half. `flush`
//! asks for the data to be on the disk, and with it for the length of the file, which is what `sync_data` means. It
//! says nothing about the name of the file: a file created just before a power cut may be gone, and the next start is
//! merely cold.
//!
//! **May it block?** Reads and writes do here, and it is the better choice. They are answered mostly from the page
//! cache, in microseconds, which is less than handing them to another thread would take. And that thread would need
//! a buffer of its own, with a copy for each read, because a future can be dropped at any await and its caller's
//! buffer is gone then; a write handed over so would even go on after its future was dropped, which [`CacheOps`]
//! forbids. Since they never wait, they are offered as [`read_now`](CacheOps::read_now) and
//! [`write_now`](CacheOps::write_now), which spares the cache a boxed future for each. On a network file system, where
//! a read can take seconds, this reasoning falls: leave these two out and wait in `read_at` and `write_at`.
//!
//! A flush is another matter: it waits for the disk, often for tens of milliseconds, needs no buffer, and does no harm
//! when it finishes after nobody is interested any more. It runs on a thread of its own, so that the other tasks of
//! the executor go on. A plain thread and a channel do for any executor; `tokio::task::spawn_blocking` would do too.
//!
//! **What if it fails?** Return the error and keep nothing back. The cache logs and counts it, and whoever wanted the
//! block gets it from the source. It is not asked to retry, nor to remember.
//!
//! **And a second process?** Two that write to one file at the same time, each with its own idea of what is in it,
//! are kept apart by a lock, which belongs in [`FileCache::open`]: `File::try_lock` is the call, from Rust 1.89 on. It
//! is left out here for the sake of older compilers. `VerifyPolicy::OnEveryRead` is there for files that must be
//! shared.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use async_trait::async_trait;
use futures_channel::oneshot;
use gibblox_cache::CacheOps;
use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult};

/// A cache in a file of the local disk.
#[derive(Debug)]
pub(crate) struct FileCache {
    /// Shared with the thread of a flush that nobody waits for any more.
    file: Arc<File>,
}

impl FileCache {
    /// Opens the file at `path`, or creates it. Its content, if any, is kept: the cache knows what to do with it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        // A terminal or a pipe opens as well, but has no offsets.
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "it is not a regular file",
            ));
        }
        Ok(Self {
            file: Arc::new(file),
        })
    }

    /// Fills `out` from `offset` on. Returns less than its length only where the file ends.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < out.len() {
            match read_some(&self.file, offset + done as u64, &mut out[done..]) {
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
        let mut done = 0;
        while done < data.len() {
            match write_some(&self.file, offset + done as u64, &data[done..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl CacheOps for FileCache {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.read(offset, out)
            .map_err(|error| failed("read", &error))
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.write(offset, data)
            .map_err(|error| failed("write", &error))
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.file
            .set_len(len)
            .map_err(|error| failed("resize", &error))
    }

    async fn flush(&self) -> GibbloxResult<()> {
        let file = Arc::clone(&self.file);
        let (sender, outcome) = oneshot::channel();
        thread::Builder::new()
            .name("cache flush".into())
            .spawn(move || {
                // Sending fails when nobody waits any more. The data is on the disk all the same.
                let _ = sender.send(file.sync_data());
            })
            .map_err(|error| failed("flush", &error))?;
        outcome
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the flushing thread died")))
            .map_err(|error| failed("flush", &error))
    }

    fn read_now(&self, offset: u64, out: &mut [u8]) -> Option<GibbloxResult<usize>> {
        Some(
            self.read(offset, out)
                .map_err(|error| failed("read", &error)),
        )
    }

    fn write_now(&self, offset: u64, data: &[u8]) -> Option<GibbloxResult<()>> {
        Some(
            self.write(offset, data)
                .map_err(|error| failed("write", &error)),
        )
    }
}

fn failed(what: &str, error: &io::Error) -> GibbloxError {
    GibbloxError::with_message(GibbloxErrorKind::Io, format!("{what} cache file: {error}"))
}

#[cfg(unix)]
fn read_some(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, out, offset)
}

#[cfg(unix)]
fn write_some(file: &File, offset: u64, data: &[u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, data, offset)
}

// These two move the cursor of the file as well. Nobody here looks at it.

#[cfg(windows)]
fn read_some(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, out, offset)
}

#[cfg(windows)]
fn write_some(file: &File, offset: u64, data: &[u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, data, offset)
}
