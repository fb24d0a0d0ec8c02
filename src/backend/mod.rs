//! What a cache file lies on.
//!
//! A backend is a flat, growable array of bytes: a file, a browser's private file, a flash partition, plain memory.
//! It knows nothing of blocks or headers. [`CacheOps`] says what it must keep, [`contract`](crate::contract) checks that it does,
//! [`MemoryCacheOps`] is the one that comes with the crate.

mod memory;

use alloc::boxed::Box;
use alloc::sync::Arc;

use async_trait::async_trait;
use gibblox_core::GibbloxResult;

pub use memory::MemoryCacheOps;

/// A flat array of bytes that a cache file lies on.
///
/// Offsets and lengths are in bytes. Calls overlap: several reads and writes may be under way at once, on several
/// threads. The crate never has two writes under way that touch the same byte; what it reads while it writes the same
/// bytes, it does not believe.
///
/// # What an implementer keeps
///
/// - A write that returned `Ok` is seen by every later read of the same backend, flushed or not.
/// - After [`flush`](Self::flush) returned `Ok`, everything written before the call outlives a loss of power. Before
///   that, writes may reach the medium in any order, in any subset, torn at any 512-byte boundary: the checksums of
///   the file format cope, and a file of the published 0.0.1, which has none, copes as well as it did there.
/// - After [`set_len`](Self::set_len) to something longer, the new bytes read as zero. A backend that cannot promise
///   it (a partition) may ignore `set_len`; the file format then writes the zeros that it needs itself.
/// - A future that is dropped has written nothing, everything, or any part; it does not go on writing afterwards.
///
/// An error never makes a read of a healthy source fail: it is logged, counted, and the block counts as not cached.
///
/// # Examples
///
/// [`contract`](crate::contract) says how to write one, and has a suite that checks it. The `remote_image` example defines one over
/// [`std::fs::File`](https://doc.rust-lang.org/std/fs/struct.File.html).
#[async_trait]
pub trait CacheOps: Send + Sync {
    /// Reads at `offset` into `out`; returns how many bytes were there.
    ///
    /// Fewer than `out.len()` bytes mean that the end was reached, and only that: what is missing is treated as not
    /// cached. `Ok(0)` beyond the end, or an error where the medium has no such offset. The content of `out` past the
    /// returned count is unspecified.
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize>;

    /// Writes all of `data` at `offset`, growing the array where it is too short; what lies between its old end and
    /// `offset` reads as zero. No bytes change nothing.
    ///
    /// An error leaves the bytes of the range unspecified, those outside it untouched.
    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()>;

    /// Makes the array exactly `len` bytes long. What is cut off is gone; what is new reads as zero.
    async fn set_len(&self, len: u64) -> GibbloxResult<()>;

    /// Makes everything written so far durable.
    async fn flush(&self) -> GibbloxResult<()>;

    /// [`read_at`](Self::read_at) for a backend that can answer without waiting, which spares a boxed future.
    ///
    /// `None`, the default, means "ask `read_at`". An answer must be the one that `read_at` would give.
    fn read_now(&self, offset: u64, out: &mut [u8]) -> Option<GibbloxResult<usize>> {
        let _ = (offset, out);
        None
    }

    /// [`write_at`](Self::write_at) for a backend that can finish without waiting, which spares a boxed future.
    ///
    /// `None`, the default, means "ask `write_at`", and that nothing was written.
    fn write_now(&self, offset: u64, data: &[u8]) -> Option<GibbloxResult<()>> {
        let _ = (offset, data);
        None
    }
}

#[async_trait]
impl<T> CacheOps for Arc<T>
where
    T: CacheOps + ?Sized,
{
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        (**self).read_at(offset, out).await
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        (**self).write_at(offset, data).await
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        (**self).set_len(len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        (**self).flush().await
    }

    fn read_now(&self, offset: u64, out: &mut [u8]) -> Option<GibbloxResult<usize>> {
        (**self).read_now(offset, out)
    }

    fn write_now(&self, offset: u64, data: &[u8]) -> Option<GibbloxResult<()>> {
        (**self).write_now(offset, data)
    }
}
