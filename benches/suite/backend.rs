//! Backends: a file, the same as a program wrote it for 0.0.1, and one that counts.

use std::env;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use gibblox_cache::{CacheOps, MemoryCacheOps};
use gibblox_core::GibbloxResult;

/// How often a backend was called, and how much it was given.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) set_lens: AtomicU64,
    pub(crate) flushes: AtomicU64,
}

impl Calls {
    /// All calls since this was last asked, as text.
    pub(crate) fn take(&self) -> String {
        let [reads, writes, set_lens, flushes] =
            [&self.reads, &self.writes, &self.set_lens, &self.flushes]
                .map(|count| count.swap(0, Relaxed));
        let written = self.written_bytes.swap(0, Relaxed);
        format!(
            "{reads} reads, {writes} writes ({written} bytes), {set_lens} resized, {flushes} flushes"
        )
    }

    fn wrote(&self, data: &[u8]) {
        self.writes.fetch_add(1, Relaxed);
        self.written_bytes.fetch_add(data.len() as u64, Relaxed);
    }
}

/// A file that is deleted when nobody has it any more.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) file: File,
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Arc<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let directory = env::var_os("GIBBLOX_BENCH_DIR").map_or_else(env::temp_dir, PathBuf::from);
        let number = NUMBER.fetch_add(1, Relaxed);
        let path = directory.join(format!("gibblox-bench-{}-{number}", process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        Arc::new(Self { file, path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A file as a backend that answers at once: one system call each.
#[derive(Clone, Debug)]
pub(crate) struct FileOps {
    scratch: Arc<Scratch>,
    flushing: Flushing,
    pub(crate) calls: Arc<Calls>,
}

/// What a flush of a file does, beside being counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushing {
    Counted,
    Done,
}

impl FileOps {
    pub(crate) fn new() -> Self {
        Self::with(Flushing::Counted)
    }

    pub(crate) fn with(flushing: Flushing) -> Self {
        Self {
            scratch: Scratch::new(),
            flushing,
            calls: Arc::default(),
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.scratch.file
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        self.calls.reads.fetch_add(1, Relaxed);
        let mut done = 0;
        while done < out.len() {
            match self
                .file()
                .read_at(&mut out[done..], offset + done as u64)
                .unwrap()
            {
                0 => break,
                count => done += count,
            }
        }
        done
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.calls.wrote(data);
        self.file().write_all_at(data, offset).unwrap();
    }

    fn sync(&self) {
        self.calls.flushes.fetch_add(1, Relaxed);
        if self.flushing == Flushing::Done {
            self.file().sync_data().unwrap();
        }
    }

    fn resize(&self, len: u64) {
        self.calls.set_lens.fetch_add(1, Relaxed);
        self.file().set_len(len).unwrap();
    }
}

#[async_trait]
impl CacheOps for FileOps {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        Ok(self.read(offset, out))
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.write(offset, data);
        Ok(())
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.resize(len);
        Ok(())
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.sync();
        Ok(())
    }

    fn read_now(&self, offset: u64, out: &mut [u8]) -> Option<GibbloxResult<usize>> {
        Some(Ok(self.read(offset, out)))
    }

    fn write_now(&self, offset: u64, data: &[u8]) -> Option<GibbloxResult<()>> {
        self.write(offset, data);
        Some(Ok(()))
    }
}

/// Only the four methods that 0.0.1 knows.
#[derive(Clone, Debug)]
pub(crate) struct FourMethods<C>(pub(crate) C);

#[async_trait]
impl<C: CacheOps> CacheOps for FourMethods<C> {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        match self.0.read_now(offset, out) {
            Some(answer) => answer,
            None => self.0.read_at(offset, out).await,
        }
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        match self.0.write_now(offset, data) {
            Some(answer) => answer,
            None => self.0.write_at(offset, data).await,
        }
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.0.set_len(len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.0.flush().await
    }
}

#[async_trait]
impl gibblox_cache_published::CacheOps for FileOps {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        Ok(self.read(offset, out))
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.write(offset, data);
        Ok(())
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.resize(len);
        Ok(())
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.sync();
        Ok(())
    }
}

/// This crate's backend in memory, counted. Not for timing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    memory: Arc<MemoryCacheOps>,
    pub(crate) calls: Arc<Calls>,
}

#[async_trait]
impl CacheOps for Counted {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.calls.reads.fetch_add(1, Relaxed);
        self.memory.read_at(offset, out).await
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.calls.wrote(data);
        self.memory.write_at(offset, data).await
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.calls.set_lens.fetch_add(1, Relaxed);
        self.memory.set_len(len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.calls.flushes.fetch_add(1, Relaxed);
        self.memory.flush().await
    }
}

#[async_trait]
impl gibblox_cache_published::CacheOps for Counted {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        CacheOps::read_at(self, offset, out).await
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        CacheOps::write_at(self, offset, data).await
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        CacheOps::set_len(self, len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        CacheOps::flush(self).await
    }
}
