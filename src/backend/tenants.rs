//! [`Tenants`]: a register of the readers that use one array in this process, all of one identity.
//!
//! ```text
//!   empty ──join(a)──► held by a: 1 ──join(a)──► held by a: 2 ── … last one leaves ──► empty
//!                        └─ join(b): refused
//! ```
//!
//! A reader that is refused is no tenant: it counts for nothing here, and goes without the array. The register and the
//! hook of the backend change under one lock, so a tenant that leaves last and one that joins do not miss each other.
//!
//! Tenants open their files one after the other ([`Tenant::opens_alone`]): the first one finds the array or rebuilds it, the
//! next one finds what the first one left.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::panic::AssertUnwindSafe;

use async_lock::MutexGuard;
use gibblox_core::GibbloxResult;

use crate::error::out_of_memory;
use crate::sync::{AtomicBool, Lock, Ordering};

/// Which readers use an array in this process: a field of a backend, returned by
/// [`CacheOps::tenants`](super::CacheOps::tenants).
///
/// All readers of one array have one identity. While any of them lives, a reader with another identity is refused, goes
/// without a cache, and says so at `warn`. So it neither resets the array under them nor serves their bytes.
///
/// One register belongs to one array. A clone is the same register: backends that are several views of one array share
/// it.
///
/// # Examples
///
/// ```
/// use async_trait::async_trait;
/// use gibblox_cache::{CacheOps, MemoryCacheOps, Tenants};
/// use gibblox_core::GibbloxResult;
///
/// #[derive(Debug, Default)]
/// struct Partition {
///     bytes: MemoryCacheOps,
///     tenants: Tenants,
/// }
///
/// #[async_trait]
/// impl CacheOps for Partition {
///     fn tenants(&self) -> Option<&Tenants> {
///         Some(&self.tenants)
///     }
///     // and the rest
/// #   async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
/// #       self.bytes.read_at(offset, out).await
/// #   }
/// #   async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
/// #       self.bytes.write_at(offset, data).await
/// #   }
/// #   async fn set_len(&self, len: u64) -> GibbloxResult<()> {
/// #       self.bytes.set_len(len).await
/// #   }
/// #   async fn flush(&self) -> GibbloxResult<()> {
/// #       self.bytes.flush().await
/// #   }
/// }
/// ```
#[derive(Debug, Default)]
pub struct Tenants(AssertUnwindSafe<Arc<Register>>);

impl Clone for Tenants {
    fn clone(&self) -> Self {
        Self(AssertUnwindSafe(Arc::clone(&self.0)))
    }
}

type Hook = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Register {
    held: Lock<Held>,
    /// Held while one of the tenants opens its file.
    opening: async_lock::Mutex<()>,
    vacated: Option<Hook>,
}

#[derive(Debug, Default)]
struct Held {
    /// The identity of all tenants. Of no meaning where there are none.
    by: String,
    tenants: usize,
    /// How many of them have opened their file.
    opened: usize,
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.held.with(|held| held.fmt(f))
    }
}

impl Tenants {
    /// No reader yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No reader yet; `vacated` is called each time that the last one has left.
    ///
    /// For a backend that releases a lock then. No reader joins while `vacated` runs, so it must be short and must not
    /// use this register.
    #[must_use]
    pub fn with_vacated(vacated: impl Fn() + Send + Sync + 'static) -> Self {
        // What is behind the lock is consistent between any two statements, so a panic leaves nothing half done.
        Self(AssertUnwindSafe(Arc::new(Register {
            vacated: Some(Box::new(vacated)),
            ..Register::default()
        })))
    }

    /// Whether no reader uses the array at this moment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.held.with(|held| held.tenants == 0)
    }

    /// Whether `other` is the same register.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Makes a reader of the identity `who` a tenant; nothing where the tenants have another one.
    ///
    /// `who` says all that decides what a file on the array looks like, so the geometry too.
    pub(crate) fn join(&self, who: &str) -> GibbloxResult<Option<Tenant>> {
        let mut by = String::new();
        by.try_reserve_exact(who.len())
            .map_err(|_| out_of_memory("an identity"))?;
        by.push_str(who);
        Ok(self.0.held.with(|held| {
            if held.tenants == 0 {
                held.by = by;
            } else if held.by != who {
                return None;
            }
            held.tenants += 1;
            Some(Tenant {
                register: Arc::clone(&self.0),
                has_opened: AtomicBool::new(false),
            })
        }))
    }
}

/// One reader's place in the register. It leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Tenant {
    register: Arc<Register>,
    has_opened: AtomicBool,
}

impl Tenant {
    /// Whether there is no other tenant. Another one may join at any time.
    pub(crate) fn is_alone(&self) -> bool {
        self.register.held.with(|held| held.tenants == 1)
    }

    /// Whether no tenant has opened its file yet. Asked by a tenant that [opens alone](Self::opens_alone): others may have
    /// joined, and wait for it.
    pub(crate) fn is_first(&self) -> bool {
        self.register.held.with(|held| held.opened == 0)
    }

    /// The file of this tenant is open. Said by a tenant that [opens alone](Self::opens_alone).
    pub(crate) fn has_opened(&self) {
        if !self.has_opened.swap(true, Ordering::AcqRel) {
            self.register.held.with(|held| held.opened += 1);
        }
    }

    /// Waits until no other tenant opens its file, and keeps others from it while the answer lives.
    ///
    /// Cancellation is strict.
    pub(crate) async fn opens_alone(&self) -> MutexGuard<'_, ()> {
        self.register.opening.lock().await
    }

    /// [`opens_alone`](Self::opens_alone) for a reader that does not wait.
    pub(crate) fn opens_alone_now(&self) -> Option<MutexGuard<'_, ()>> {
        self.register.opening.try_lock()
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.register.held.with(|held| {
            let has_opened = self.has_opened.load(Ordering::Acquire);
            held.opened = held.opened.saturating_sub(usize::from(has_opened));
            held.tenants = held.tenants.saturating_sub(1);
            if held.tenants == 0 {
                if let Some(vacated) = &self.register.vacated {
                    vacated();
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicUsize, Ordering};

    fn join(tenants: &Tenants, who: &str) -> Option<Tenant> {
        tenants.join(who).expect("memory")
    }

    #[test]
    fn tenants_have_one_identity_until_the_last_of_them_has_left() {
        let tenants = Tenants::new();
        let first = join(&tenants, "a").expect("an empty house");
        assert!(first.is_alone());
        assert!(join(&tenants, "b").is_none());
        assert!(first.is_alone(), "a reader that was refused is no tenant");
        let second = join(&tenants.clone(), "a").expect("the same identity");
        assert!(!first.is_alone() && !second.is_alone());
        drop(first);
        assert!(second.is_alone());
        assert!(join(&tenants, "b").is_none());
        drop(second);
        assert!(tenants.is_empty());
        assert!(join(&tenants, "b").is_some());
    }

    #[test]
    fn the_hook_is_called_when_the_last_one_leaves_and_at_no_other_time() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let tenants = Tenants::with_vacated(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let first = join(&tenants, "a");
        let second = join(&tenants, "a");
        drop(join(&tenants, "b"));
        drop(first);
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        drop(second);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        drop(join(&tenants, "b"));
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_tenant_is_first_until_one_has_opened_however_many_have_joined() {
        let tenants = Tenants::new();
        let [first, second] = [(); 2].map(|()| join(&tenants, "a").expect("of one identity"));
        assert!(first.is_first() && second.is_first(), "both wait");
        second.has_opened();
        second.has_opened();
        assert!(!first.is_first() && !second.is_first());
        drop(second);
        assert!(first.is_first(), "the one that had opened has left");
    }
}
