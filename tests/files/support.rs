//! A folder that goes away, a source that says who it is, an executor that sleeps, and another process that obeys.

pub(crate) mod child;

use async_trait::async_trait;
use gibblox_cache::{CacheOps, CachedBlockReader};
use gibblox_core::{BlockReader, GibbloxResult, ReadContext};
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

pub(crate) const BLOCK: u32 = 4096;
pub(crate) const BLOCKS: u64 = 64;

/// A folder of the temporary directory, removed when it is dropped. There is one at a time.
///
/// A process that is being started has the open files of its parent, and with them the locks, until it runs its program. So a test
/// that starts one would keep the locks of another test for a moment.
pub(crate) struct Folder(
    PathBuf,
    #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>,
);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gibblox-files-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("the temporary directory can be written");
        Self(path, one)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs `future` to its end; a flush waits for its thread.
pub(crate) fn finish<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Reads a block, whose bytes are all the same, and returns that.
pub(crate) fn read_byte<S, C>(reader: &CachedBlockReader<S, C>, lba: u64) -> u8
where
    S: BlockReader,
    C: CacheOps,
{
    let mut buf = [0; BLOCK as usize];
    let read = reader.read_blocks(lba, &mut buf, ReadContext::FOREGROUND);
    finish(read).expect("a healthy source is read");
    assert!(buf.iter().all(|byte| *byte == buf[0]), "a mixed block");
    buf[0]
}

/// A source whose every byte is `value`.
pub(crate) struct Source {
    pub(crate) identity: String,
    pub(crate) value: u8,
    pub(crate) fetched_blocks: AtomicU64,
}

impl Source {
    pub(crate) fn new(identity: &str, value: u8) -> Arc<Self> {
        Arc::new(Self {
            identity: identity.into(),
            value,
            fetched_blocks: AtomicU64::new(0),
        })
    }

    pub(crate) fn fetched_blocks(&self) -> u64 {
        self.fetched_blocks.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl BlockReader for Source {
    fn block_size(&self) -> u32 {
        BLOCK
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        Ok(BLOCKS)
    }

    fn write_identity(&self, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        out.write_str(&self.identity)
    }

    async fn read_blocks(&self, _: u64, buf: &mut [u8], _: ReadContext) -> GibbloxResult<usize> {
        buf.fill(self.value);
        let blocks = buf.len() as u64 / u64::from(BLOCK);
        self.fetched_blocks.fetch_add(blocks, Ordering::Relaxed);
        Ok(buf.len())
    }
}
