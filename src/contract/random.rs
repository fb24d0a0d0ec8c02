//! Calls that chance chooses: through the four methods, through the two that answer at once, and through an `Arc`.

use alloc::sync::Arc;
use alloc::vec;

use super::ends::look_at_ends;
use super::start::begin;
use super::twin::{MIDDLE, Twin, Way};
use super::{Broken, Kept, Rule, Suite};
use crate::backend::CacheOps;

pub(super) async fn random<C: CacheOps>(
    suite: &Suite,
    backend: &C,
    window: usize,
    steps: usize,
) -> Kept {
    let mut twin = begin(suite, 5 + window as u64, backend, window).await?;
    random_calls(&mut twin, steps).await
}

/// What is answered at once is what would have been answered later.
pub(super) async fn at_once<C: CacheOps>(suite: &Suite, backend: &C) -> Kept {
    let mut twin = begin(suite, 11, backend, MIDDLE).await?;
    twin.rule = Some(Rule::AtOnce);
    twin.way = Way::AtOnce;
    look_at_ends(&mut twin).await?;
    random_calls(&mut twin, 150).await
}

/// An `Arc` of the backend is the backend.
pub(super) async fn shared<C: CacheOps>(suite: &Suite, backend: C) -> Kept {
    let shared = Arc::new(backend);
    let mut twin = begin(suite, 12, &shared, 3000).await?;
    twin.rule = Some(Rule::Shared);
    for way in [Way::Waiting, Way::AtOnce, Way::Waiting] {
        twin.way = way;
        random_calls(&mut twin, 30).await?;
    }
    twin.fill().await?;
    twin.flush().await?;
    let expected = twin.expected(twin.base, twin.window);
    let mut found = vec![0; expected.len()];
    let read = C::read_at(&shared, twin.base, &mut found).await;
    if !matches!(read, Ok(count) if count == expected.len()) || found != expected {
        let what = "what was written through an Arc is not in the backend".into();
        return Err(Broken::new(Rule::Shared, what));
    }
    Ok(())
}

/// `steps` calls, each followed by a look at everything.
pub(super) async fn random_calls<C: CacheOps + ?Sized>(
    twin: &mut Twin<'_, C>,
    steps: usize,
) -> Kept {
    let window = twin.window;
    // Near these something begins or ends, so there is more to get wrong.
    let mut edges = [0; 8];
    let mut flushes_left = 3;
    for step in 0..steps {
        let rng = &mut twin.rng;
        let offset = match rng.below(3) {
            0 => rng.index(window),
            _ => (edges[rng.index(edges.len())] + rng.index(3)).saturating_sub(1),
        };
        let offset = offset.min(window.saturating_sub(1));
        let at = twin.base + offset as u64;
        match twin.rng.below(16) {
            0..=8 => {
                let len = twin.rng.size(window - offset).min(window - offset);
                write_something(twin, at, len).await?;
                edges[step % 8] = offset;
                edges[(step + 1) % 8] = offset + len;
            }
            9..=11 => twin.set_len(at).await?,
            12 if flushes_left > 0 => {
                flushes_left -= 1;
                twin.flush().await?;
            }
            _ => {
                let len = 1 + twin.rng.index(window);
                twin.check(at, len).await?;
            }
        }
        twin.check_all().await?;
        let from = twin.base + twin.rng.index(window) as u64;
        let len = twin.rng.size(window);
        twin.check(from, len).await?;
    }
    Ok(())
}

async fn write_something<C: CacheOps + ?Sized>(
    twin: &mut Twin<'_, C>,
    at: u64,
    len: usize,
) -> Kept {
    let mut data = twin.rng.bytes(len);
    let old = twin.expected(at, len);
    match twin.rng.below(6) {
        // The bytes that are there already, as far as there are some.
        0 => data[..old.len()].copy_from_slice(&old),
        // As much, and one byte that differs.
        1 => {
            data[..old.len()].copy_from_slice(&old);
            data[twin.rng.index(len)..]
                .iter_mut()
                .take(1)
                .for_each(|byte| *byte ^= 0x55);
        }
        2 => data.fill(0),
        _ => {}
    }
    twin.write(at, &data).await
}
