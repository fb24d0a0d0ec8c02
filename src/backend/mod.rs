//! What a cache file lies on.
//!
//! A backend is a flat, growable array of bytes: a file, a browser's private file, a flash partition, plain memory.
//! It knows nothing of blocks or headers. [`CacheOps`] says what it must keep, [`contract`](crate::contract) checks that
//! it does. [`MemoryCacheOps`] and, with `std`, [`FileCacheOps`] come with the crate. [`CacheDir`](crate::CacheDir) keeps many files within a budget.

#[cfg(all(feature = "std", any(unix, windows)))]
pub(crate) mod file;
mod memory;
mod tenants;

use alloc::boxed::Box;
use alloc::sync::Arc;

use async_trait::async_trait;
use gibblox_core::GibbloxResult;

#[cfg(all(feature = "std", any(unix, windows)))]
pub use file::{FileCacheOps, FileCacheOptions};
pub use memory::MemoryCacheOps;
pub(crate) use tenants::Tenant;
pub use tenants::Tenants;

/// What a reader asks [`CacheOps::lock`] for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// To use the array beside others that use it, while none of them may reset it.
    Shared,
    /// To reset the array: no other process uses it.
    Sole,
}

/// What [`CacheOps::lock`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockOutcome {
    /// The lock is held, in the mode that was asked for and in no other.
    Granted,
    /// Another process holds a lock that excludes this one. No lock is held any more, also where one was held before.
    Refused,
    /// Locks are not to be had here, so another process cannot be noticed.
    Unknown,
}

/// A flat array of bytes that a cache file lies on.
///
/// Four methods have to be written. The others have a body that says "not here".
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
/// # Who uses the array
///
/// A reader overwrites an array that belongs to another source. If a second reader with another identity does so while
/// the first one lives, the first one **serves wrong bytes**: its bits say that blocks are valid which are the other
/// source's now. Only the backend can know that there are two. [`tenants`](Self::tenants) tells readers in one process
/// of each other, [`lock`](Self::lock) processes, and [`renew`](Self::renew) gives the second one an array of its own.
/// A backend that leaves all three out is used by one reader at a time; the program has to see to that.
///
/// # Examples
///
/// [`contract`](crate::contract) says how to write one, and has a suite that checks it.
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

    /// Makes `len` bytes at `offset` zero without storing them, as a hole in a file; `Ok(false)` where it cannot.
    ///
    /// `Ok(true)` is as good as [`write_at`](Self::write_at) with so many zeros. `Ok(false)`, the default, has changed
    /// nothing, and the zeros are written. The range may begin and end anywhere, and lies within the array mostly.
    async fn write_zeros(&self, offset: u64, len: u64) -> GibbloxResult<bool> {
        let _ = (offset, len);
        Ok(false)
    }

    /// Whether nothing can be written, now and later. A reader does not try to store anything then.
    ///
    /// The default says no. Asked often, so it must be as cheap as a load.
    fn is_read_only(&self) -> bool {
        false
    }

    /// The readers in this process that use the array, for readers to see each other.
    ///
    /// A backend keeps one [`Tenants`] for each array and returns it. `None`, the default: readers do not see each
    /// other, and two with different identities at the same time are the program's error.
    fn tenants(&self) -> Option<&Tenants> {
        None
    }

    /// Asks for a lock that keeps other processes from using the array, or from resetting it; never waits for one.
    ///
    /// The lock belongs to the array object, not to a reader: a second call changes the mode. It goes with the process,
    /// and at the latest when the object is dropped; a backend with [`tenants`](Self::tenants) releases it when the last
    /// one has [left](Tenants::with_vacated). Changing the mode need not be atomic: another process may take the lock and
    /// reset the array in between, so a reader reads the header again after each call.
    ///
    /// Called only while the array has no tenant beside the caller. The first call may therefore put the array in
    /// place that the name of it leads to by now. [`LockOutcome::Unknown`], the default, where there are no locks.
    async fn lock(&self, mode: LockMode) -> LockOutcome {
        let _ = mode;
        LockOutcome::Unknown
    }

    /// Puts a fresh array under this object, which readers of the present one in other processes do not see; `false`,
    /// the default, where that cannot be had.
    ///
    /// After `true` the object is over another array, maybe one that another process has just put in place, and the
    /// caller begins with [`lock`](Self::lock) again. After `false` or an error it is over the same one; an error may be
    /// gone at the next call.
    ///
    /// Called only while the array has no tenant beside the caller.
    async fn renew(&self) -> GibbloxResult<bool> {
        Ok(false)
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

    async fn write_zeros(&self, offset: u64, len: u64) -> GibbloxResult<bool> {
        (**self).write_zeros(offset, len).await
    }

    fn is_read_only(&self) -> bool {
        (**self).is_read_only()
    }

    fn tenants(&self) -> Option<&Tenants> {
        (**self).tenants()
    }

    async fn lock(&self, mode: LockMode) -> LockOutcome {
        (**self).lock(mode).await
    }

    async fn renew(&self) -> GibbloxResult<bool> {
        (**self).renew().await
    }
}
