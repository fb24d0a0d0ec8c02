//! What a backend may offer besides: zeros that take no room, a lock, a fresh array, a register of its readers.

use alloc::format;
use alloc::vec;

use super::start::begin;
use super::twin::{MIDDLE, Twin};
use super::{Broken, Kept, Rule, Suite};
use crate::backend::{CacheOps, LockMode, LockOutcome};

/// Ranges of zeros by their beginning and length: none of them where a page, a sector or a chunk ends.
const ZEROS: [(usize, usize); 7] = [
    (0, 1),
    (100, 50),
    (4000, 5000),
    (513, 0),
    (1, 30_000),
    (60_000, 9_999),
    (0, MIDDLE),
];

/// Zeros over bytes, over zeros, and where the array has not been yet.
pub(super) async fn zeros<C: CacheOps>(suite: &Suite, backend: &C) -> Kept {
    let mut twin = begin(suite, 9, backend, MIDDLE).await?;
    twin.rule = Some(Rule::Zeros);
    put_zeros(&mut twin, backend).await?;
    twin.fill().await?;
    put_zeros(&mut twin, backend).await?;
    twin.fill().await?;
    twin.check_all().await
}

async fn put_zeros<C: CacheOps>(twin: &mut Twin<'_, C>, backend: &C) -> Kept {
    for (start, len) in ZEROS {
        let Some(offset) = twin.place(start, len) else {
            continue;
        };
        let done = backend.write_zeros(offset, len as u64).await;
        let done = done.map_err(|error| twin.failed("write_zeros", &error))?;
        if done && len != 0 {
            twin.note_write(offset, &vec![0; len]);
        }
        twin.check_all().await?;
    }
    Ok(())
}

/// A lock of an array that nothing else uses, and a fresh array in its place.
pub(super) async fn owners<C: CacheOps>(suite: &Suite, backend: &C) -> Kept {
    let mut twin = begin(suite, 10, backend, 5000).await?;
    twin.rule = Some(Rule::Owner);
    if !is_free(backend) {
        return Err(Broken::new(
            Rule::Owner,
            "`tenants` knows of some in the beginning, or is another register each time".into(),
        ));
    }
    twin.fill().await?;
    for _ in 0..2 {
        // Not the sole one: a backend may refuse to have something reset that does not look like a cache.
        if backend.lock(LockMode::Shared).await == LockOutcome::Refused {
            return Err(Broken::new(Rule::Owner, "the lock is refused".into()));
        }
        twin.check_all().await?;
        let _ = backend.lock(LockMode::Sole).await;
        twin.check_all().await?;
    }
    twin.rule = Some(Rule::Renew);
    // An error has changed nothing, either.
    if !matches!(backend.renew().await, Ok(true)) {
        return twin.check_all().await;
    }
    match backend.read_at(0, &mut [0]).await {
        Ok(0) => Ok(()),
        found => Err(Broken::new(
            Rule::Renew,
            format!("a read of one byte gave {found:?} after it"),
        )),
    }
}

fn is_free<C: CacheOps>(backend: &C) -> bool {
    match (backend.tenants(), backend.tenants()) {
        (None, None) => true,
        (Some(first), Some(second)) => first.is_same(second) && first.is_empty(),
        _ => false,
    }
}
