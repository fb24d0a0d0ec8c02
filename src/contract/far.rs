//! Far offsets, and the end of all offsets. A backend that does not reach there says so, and changes nothing.

use alloc::format;
use alloc::vec::Vec;

use super::random::random_calls;
use super::start::begin;
use super::twin::{MIDDLE, Twin};
use super::{Broken, Kept, Rule, Suite};
use crate::backend::CacheOps;

/// At the end of all offsets, at 1 TiB, and across 4 GiB.
///
/// The farthest comes first, so that a backend without holes says that it cannot, and does not try to allocate what
/// the machine might even have.
const FAR: [u64; 3] = [u64::MAX - 4_000_000, (1 << 40) + 123, (1 << 32) - 35_000];

/// The places of [`FAR`] that the suite may go to.
pub(super) fn places(suite: &Suite) -> impl Iterator<Item = u64> {
    let reaches = |base: &u64| suite.max_len.saturating_sub(*base) >= MIDDLE as u64;
    FAR.into_iter()
        .filter(move |base| suite.fixed.is_none() && reaches(base))
}

/// Around `base`, which is one of [`places`].
pub(super) async fn far<C: CacheOps>(suite: &Suite, backend: &C, base: u64) -> Kept {
    let mut near = begin(suite, base, backend, 50).await?;
    near.rule = Some(Rule::Far);
    near.fill().await?;
    let mut twin = Twin::empty(backend, base, MIDDLE, suite.rng(base + 1));
    twin.rule = Some(Rule::Far);
    let data = twin.rng.bytes(1000);
    if twin.try_write(base, &data).await.is_err() {
        return near.check(0, 50).await;
    }
    twin.note_write(base, &data);
    twin.check_all().await?;
    near.check(0, 50).await?;
    twin.check(base / 2, 100).await?;
    twin.check(1000, 100).await?;
    random_calls(&mut twin, 40).await?;
    near.check(0, 50).await
}

/// The end of all offsets.
pub(super) async fn overflow<C: CacheOps>(suite: &Suite, backend: &C) -> Kept {
    let mut twin = begin(suite, 6, backend, 50).await?;
    twin.rule = Some(Rule::Far);
    twin.fill().await?;
    let last = u64::MAX;
    for offset in [last, last - 5, last - 10, 1 << 63, (1 << 63) - 5] {
        // It has to be past the end, or an offset that does not exist.
        if let Ok(count @ 1..) = backend.read_at(offset, &mut [0; 10]).await {
            let what = format!("read_at({offset}, 10 bytes) gave {count} bytes of a short array");
            return Err(Broken::new(Rule::Far, what));
        }
    }
    for offset in [last, last - 5, last - 8] {
        if backend.write_at(offset, &[7; 10]).await.is_ok() {
            let what = format!("write_at({offset}, 10 bytes) is Ok, and ends past 2^64");
            return Err(Broken::new(Rule::Far, what));
        }
        twin.check(twin.base, twin.window).await?;
    }
    Ok(())
}

/// Different bytes at every power of two that the backend reaches: none of these places is another.
pub(super) async fn powers<C: CacheOps>(suite: &Suite, backend: &C) -> Kept {
    let mut rng = begin(suite, 7, backend, 0).await?.rng;
    let most = suite.fixed.unwrap_or(suite.max_len);
    let mut stamps = Vec::new();
    for offset in (3..64).map(|power| 1_u64 << power) {
        let stamp = rng.bytes(8);
        if offset + 8 > most || backend.write_at(offset, &stamp).await.is_err() {
            break;
        }
        stamps.push((offset, stamp));
    }
    for (offset, stamp) in stamps {
        let mut found = [0; 8];
        let read = backend.read_at(offset, &mut found).await;
        if !matches!(read, Ok(8)) || found != stamp[..] {
            let what = format!(
                "8 bytes written at {offset} are not there after others were written farther out: {read:?}"
            );
            return Err(Broken::new(Rule::Far, what));
        }
    }
    Ok(())
}
