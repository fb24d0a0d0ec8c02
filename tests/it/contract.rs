//! What every [`CacheOps`] keeps, as a suite that any implementation can be run through.
//!
//! [`check_cache_ops`] needs nothing but a way to make an empty backend, and runs on any executor.

use crate::support::{Backend, Immediate, finish};
use async_trait::async_trait;
use futures_util::future::{join, join_all, try_join_all};
use gibblox_cache::{CacheOps, MemoryCacheOps};
use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex};

/// Checks everything that the documentation of [`CacheOps`] asks of an implementation, each part on a backend of its
/// own that `make` gives out empty. One that keeps its size, as a partition does, is not for this suite.
///
/// # Panics
///
/// Where the backend does something else.
async fn check_cache_ops<C: CacheOps>(make: impl Fn() -> C) {
    check_reads_back(&make()).await;
    check_overwrites(&make()).await;
    check_ends(&make()).await;
    check_holes(&make()).await;
    check_lengths(&make()).await;
    check_flush(&make()).await;
    check_side_by_side(&make()).await;
    check_dropped(&make()).await;
    check_at_once(&make()).await;
    check_shared(Arc::new(make())).await;
}

/// The most that a part of the suite writes.
const SIZE: usize = 10_000;

/// Bytes without a short period.
fn pattern(seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    core::iter::repeat_with(next).take(SIZE).collect()
}

/// Reads up to `len` bytes; what lies past the returned count is cut off.
async fn bytes_at<C: CacheOps>(backend: &C, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0x5A; len];
    let count = backend.read_at(offset, &mut bytes).await.expect("it reads");
    assert!(count <= len, "no more bytes than there is room for");
    bytes.truncate(count);
    bytes
}

async fn check_reads_back<C: CacheOps>(backend: &C) {
    let data = pattern(1);
    backend.write_at(0, &data).await.expect("it writes");
    for (offset, len) in [(0, SIZE), (1, 1), (511, 514), (4095, 2), (SIZE - 1, 1)] {
        let read = bytes_at(backend, offset as u64, len).await;
        assert!(read == data[offset..offset + len], "{len} from {offset}");
    }
}

async fn check_overwrites<C: CacheOps>(backend: &C) {
    let mut expected = pattern(2);
    backend.write_at(0, &expected).await.expect("it writes");
    let data = pattern(3);
    for (offset, len) in [(0, 1), (500, 24), (4000, 200), (4096, 4096), (SIZE - 7, 7)] {
        let part = &data[..len];
        backend
            .write_at(offset as u64, part)
            .await
            .expect("it writes");
        expected[offset..offset + len].copy_from_slice(part);
        let read = bytes_at(backend, 0, SIZE).await;
        assert!(read == expected, "{len} over {offset}, and nothing else");
    }
}

async fn check_ends<C: CacheOps>(backend: &C) {
    assert_eq!(bytes_at(backend, 0, 10).await, [], "it starts out empty");
    assert_eq!(bytes_at(backend, 1 << 40, 10).await, []);
    backend.write_at(0, &[7; 100]).await.expect("it writes");
    assert_eq!(bytes_at(backend, 90, 20).await, [7; 10], "short at the end");
    assert_eq!(bytes_at(backend, 100, 20).await, [], "nothing behind it");
    assert_eq!(bytes_at(backend, 101, 20).await, []);
    assert_eq!(bytes_at(backend, 50, 0).await, []);
    backend.write_at(100, &[8; 5]).await.expect("it grows");
    assert_eq!(bytes_at(backend, 99, 20).await, [7, 8, 8, 8, 8, 8]);
    backend.write_at(3, &[]).await.expect("nothing to write");
    assert_eq!(bytes_at(backend, 0, 200).await.len(), 105);
}

async fn check_holes<C: CacheOps>(backend: &C) {
    backend.write_at(9000, &[9; 10]).await.expect("it grows");
    assert_eq!(bytes_at(backend, 0, 9000).await, [0; 9000]);
    backend.write_at(5000, &[5; 10]).await.expect("it writes");
    let mut expected = vec![0; 9010];
    expected[5000..5010].fill(5);
    expected[9000..].fill(9);
    assert_eq!(bytes_at(backend, 0, SIZE).await, expected);
}

async fn check_lengths<C: CacheOps>(backend: &C) {
    backend.set_len(6000).await.expect("it grows");
    assert_eq!(bytes_at(backend, 0, SIZE).await, [0; 6000]);
    backend.write_at(0, &pattern(4)).await.expect("it writes");
    backend.set_len(4500).await.expect("it shrinks");
    assert_eq!(bytes_at(backend, 0, SIZE).await, pattern(4)[..4500]);
    backend.set_len(9000).await.expect("it grows again");
    let mut expected = pattern(4);
    expected[4500..].fill(0);
    assert_eq!(bytes_at(backend, 0, SIZE).await, expected[..9000]);
    backend.set_len(9000).await.expect("it stays");
    assert_eq!(bytes_at(backend, 0, SIZE).await, expected[..9000]);
    backend.set_len(0).await.expect("it is emptied");
    assert_eq!(bytes_at(backend, 0, SIZE).await, []);
    backend.write_at(10, &[1]).await.expect("it grows");
    assert_eq!(
        bytes_at(backend, 0, SIZE).await,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    );
}

async fn check_flush<C: CacheOps>(backend: &C) {
    backend.flush().await.expect("nothing to flush");
    backend.write_at(0, &pattern(5)).await.expect("it writes");
    backend.flush().await.expect("it flushes");
    backend.flush().await.expect("it flushes again");
    assert_eq!(bytes_at(backend, 0, SIZE).await, pattern(5));
}

async fn check_side_by_side<C: CacheOps>(backend: &C) {
    backend.set_len(SIZE as u64).await.expect("it grows");
    let data = pattern(6);
    let parts = || data.chunks(617).zip((0_u64..).step_by(617));
    let writes = parts().map(|(part, offset)| backend.write_at(offset, part));
    let flush = backend.flush();
    let (written, flushed) = join(try_join_all(writes), flush).await;
    written.expect("they write");
    flushed.expect("it flushes");
    let reads = parts().map(|(part, offset)| bytes_at(backend, offset, part.len()));
    assert_eq!(join_all(reads).await.concat(), data);
}

async fn check_dropped<C: CacheOps>(backend: &C) {
    backend.write_at(0, &[1; 100]).await.expect("it writes");
    drop(backend.write_at(0, &[2; 100]));
    drop(backend.set_len(0));
    drop(backend.flush());
    backend.flush().await.expect("it flushes");
    assert_eq!(bytes_at(backend, 0, 200).await, [1; 100], "nothing goes on");
}

/// What is answered at once is what would have been answered later.
async fn check_at_once<C: CacheOps>(backend: &C) {
    let data = pattern(7);
    for (offset, part) in (0_u64..).step_by(1000).zip(data.chunks(1000)) {
        match backend.write_now(offset, part) {
            Some(written) => written.expect("it writes"),
            None => backend.write_at(offset, part).await.expect("it writes"),
        }
    }
    assert_eq!(bytes_at(backend, 0, SIZE).await, data);
    for (offset, len) in [
        (0, SIZE),
        (4000, 200),
        (SIZE - 10, 100),
        (SIZE + 10, 100),
        (5, 0),
    ] {
        let later = bytes_at(backend, offset as u64, len).await;
        let mut now = vec![0xA5; len];
        if let Some(count) = backend.read_now(offset as u64, &mut now) {
            now.truncate(count.expect("it reads"));
            assert!(now == later, "{len} from {offset}");
        }
    }
}

async fn check_shared<C: CacheOps>(backend: Arc<C>) {
    let other: Arc<dyn CacheOps + '_> = Arc::<C>::clone(&backend);
    other.write_at(0, &[3; 30]).await.expect("it writes");
    other.flush().await.expect("it flushes");
    assert_eq!(bytes_at(&backend, 0, 50).await, [3; 30], "one backend");
    other.set_len(20).await.expect("it shrinks");
    assert_eq!(bytes_at(&backend, 0, 50).await, [3; 20]);
}

#[test]
fn memory_keeps_the_contract() {
    finish(check_cache_ops(MemoryCacheOps::new));
    finish(check_cache_ops(MemoryCacheOps::default));
}

#[test]
fn the_backends_of_these_tests_keep_the_contract() {
    finish(check_cache_ops(Backend::new));
    finish(check_cache_ops(|| Immediate(Backend::new())));
    finish(check_cache_ops(|| {
        let backend = Backend::new();
        backend.gate.once();
        backend
    }));
}

/// A backend over a file, as short as it can be.
struct FileBackend(Mutex<File>);

impl FileBackend {
    fn with<T>(&self, work: impl FnOnce(&mut File) -> io::Result<T>) -> GibbloxResult<T> {
        let mut file = crate::support::lock(&self.0);
        work(&mut file)
            .map_err(|error| GibbloxError::with_message(GibbloxErrorKind::Io, error.to_string()))
    }
}

#[async_trait]
impl CacheOps for FileBackend {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.with(|file| {
            file.seek(SeekFrom::Start(offset))?;
            let mut count = 0;
            while count < out.len() {
                match file.read(&mut out[count..])? {
                    0 => break,
                    more => count += more,
                }
            }
            Ok(count)
        })
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.with(|file| {
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(data)
        })
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.with(|file| file.set_len(len))
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.with(|file| file.sync_data())
    }
}

#[test]
fn a_plain_file_keeps_the_contract() {
    finish(check_cache_ops(|| {
        let file = tempfile::tempfile().expect("a place for temporary files");
        FileBackend(Mutex::new(file))
    }));
}

#[test]
fn a_reader_over_a_plain_file_finds_its_blocks_again() {
    use crate::support::{Source, read};
    use gibblox_cache::CachedBlockReader;

    let source = Source::new(14, 512, 100);
    let file = tempfile::tempfile().expect("a place for temporary files");
    let shared = Arc::new(FileBackend(Mutex::new(file)));
    for _ in 0..2 {
        let opening = CachedBlockReader::new(Arc::clone(&source), Arc::clone(&shared));
        let reader = finish(opening).unwrap();
        source.assert_bytes(5, &finish(read(&reader, 5, 90)).unwrap());
    }
    assert_eq!(source.reads(), [(5, 90)]);
}

/// A backend that breaks one rule.
struct Broken {
    inner: Arc<Backend>,
    rule: u8,
}

#[async_trait]
impl CacheOps for Broken {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        let count = self.inner.read_at(offset, out).await?;
        match self.rule {
            0 => Ok(count.min(5000)),
            1 => Ok(out.len()),
            _ => Ok(count),
        }
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        match self.rule {
            2 if data.is_empty() => self.inner.set_len(offset).await,
            3 => self.inner.write_at(offset & !1, data).await,
            _ => self.inner.write_at(offset, data).await,
        }
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        match self.rule {
            4 => Ok(()),
            5 => Err(super::support::backend::error("no")),
            _ => self.inner.set_len(len).await,
        }
    }

    async fn flush(&self) -> GibbloxResult<()> {
        match self.rule {
            6 => self.inner.set_len(0).await,
            _ => self.inner.flush().await,
        }
    }

    fn read_now(&self, _offset: u64, out: &mut [u8]) -> Option<GibbloxResult<usize>> {
        (self.rule == 7).then_some(Ok(out.len()))
    }

    fn write_now(&self, _offset: u64, _data: &[u8]) -> Option<GibbloxResult<()>> {
        (self.rule == 8).then_some(Ok(()))
    }
}

#[test]
fn the_suite_sees_each_rule_broken() {
    for rule in 0..9 {
        let suite = || {
            finish(check_cache_ops(|| Broken {
                inner: Backend::new(),
                rule,
            }));
        };
        assert!(std::panic::catch_unwind(suite).is_err(), "rule {rule}");
    }
}
