//! The one choice of locks and atomics for all rooms: the operating system's, spinning ones, or a model checker's.
//!
//! Everything here is synchronous and held for a few instructions, or for one copy. [`Lock::with`] takes a closure, so a
//! lock cannot be held across an await (I4), and whoever reads the code sees the whole critical section. Without `std`
//! there is no way to sleep, so the lock spins; on a single core without preemption it is never contended. Spinning goes
//! through `async-lock`, which is a dependency anyway, in place of one more crate.
//!
//! [`Counter`] counts to 64 bits everywhere, on targets without 64-bit atomics too. [`Sharded`] keeps counters of the
//! hit path on cache lines of their own, since two threads that hit memory must not meet on a counter.

#[cfg(model)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering, fence};

#[cfg(not(model))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering, fence};

/// A lock for a few instructions, or for one copy, never across an await.
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(imp::Mutex<T>);

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    /// Runs `f` alone. `f` must not call back into anything that may take the same lock: wake nobody in it.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut imp::lock(&self.0))
    }
}

#[cfg(model)]
mod imp {
    pub(super) use loom::sync::Mutex;
    use loom::sync::MutexGuard;

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().expect("no critical section panics")
    }
}

#[cfg(all(feature = "std", not(model)))]
mod imp {
    pub(super) use std::sync::Mutex;
    use std::sync::{MutexGuard, PoisonError};

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        // The state behind each lock is consistent between any two statements, so a panic elsewhere in a critical
        // section (out of memory, say) leaves nothing half done.
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(not(feature = "std"), not(model)))]
mod imp {
    pub(super) use async_lock::Mutex;
    use async_lock::MutexGuard;

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        loop {
            if let Some(guard) = mutex.try_lock() {
                return guard;
            }
            core::hint::spin_loop();
        }
    }
}

/// A lock that many readers hold at once, for the time of one copy.
#[derive(Debug, Default)]
pub(crate) struct SharedLock<T>(shared::RwLock<T>);

impl<T> SharedLock<T> {
    pub(crate) fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        f(&shared::read(&self.0))
    }

    pub(crate) fn write<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut shared::write(&self.0))
    }
}

#[cfg(feature = "std")]
mod shared {
    pub(super) use std::sync::RwLock;
    use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};

    pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
        lock.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
        lock.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(not(feature = "std"))]
mod shared {
    pub(super) use async_lock::RwLock;
    use async_lock::{RwLockReadGuard, RwLockWriteGuard};

    pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
        loop {
            if let Some(guard) = lock.try_read() {
                return guard;
            }
            core::hint::spin_loop();
        }
    }

    pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
        loop {
            if let Some(guard) = lock.try_write() {
                return guard;
            }
            core::hint::spin_loop();
        }
    }
}

/// A 64-bit counter that only grows.
#[cfg(target_has_atomic = "64")]
#[derive(Debug, Default)]
pub(crate) struct Counter(core::sync::atomic::AtomicU64);

#[cfg(target_has_atomic = "64")]
impl Counter {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A 64-bit counter that only grows, for targets without 64-bit atomics.
#[cfg(not(target_has_atomic = "64"))]
#[derive(Debug, Default)]
pub(crate) struct Counter(Lock<u64>);

#[cfg(not(target_has_atomic = "64"))]
impl Counter {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.with(|count| *count = count.wrapping_add(n));
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.with(|count| *count)
    }
}

/// A length of up to 64 bits that is read without a lock.
#[cfg(target_has_atomic = "64")]
#[derive(Debug, Default)]
pub(crate) struct Length(core::sync::atomic::AtomicU64);

#[cfg(target_has_atomic = "64")]
impl Length {
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, len: u64) {
        self.0.store(len, Ordering::Release);
    }

    pub(crate) fn at_least(&self, len: u64) {
        if self.get() < len {
            self.0.fetch_max(len, Ordering::AcqRel);
        }
    }
}

/// A length of up to 64 bits, for targets without 64-bit atomics.
#[cfg(not(target_has_atomic = "64"))]
#[derive(Debug, Default)]
pub(crate) struct Length(SharedLock<u64>);

#[cfg(not(target_has_atomic = "64"))]
impl Length {
    pub(crate) fn get(&self) -> u64 {
        self.0.read(|len| *len)
    }

    pub(crate) fn set(&self, len: u64) {
        self.0.write(|current| *current = len);
    }

    pub(crate) fn at_least(&self, len: u64) {
        self.0.write(|current| *current = (*current).max(len));
    }
}

/// How many copies of a counter there are, and each alone on its cache line where there are several cores.
const SHARDS: usize = if cfg!(target_pointer_width = "64") {
    8
} else {
    1
};

#[derive(Debug, Default)]
#[cfg_attr(target_pointer_width = "64", repr(align(128)))]
struct Shard<T>(T);

/// Copies of `T` that threads pick by the address of the buffer that they work on.
///
/// There is no thread id without `std`, but two threads never fill the same buffer, and one thread mostly fills the
/// same one again.
#[derive(Debug, Default)]
pub(crate) struct Sharded<T>([Shard<T>; SHARDS]);

impl<T> Sharded<T> {
    #[inline]
    pub(crate) fn near(&self, buf: &[u8]) -> &T {
        // Fibonacci hashing of the page number: the high half of the product depends on all of its bits.
        let product = (buf.as_ptr().addr() >> 12).wrapping_mul(0x9E37_79B9);
        &self.0[(product >> 16) % SHARDS].0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &shard.0)
    }
}
