//! Calls that are dropped after some polls.

use alloc::vec;

use super::calls::{give_up_after, let_others_run};
use super::start::begin;
use super::twin::{MIDDLE, Twin};
use super::{Kept, Rule, Suite};
use crate::backend::CacheOps;

pub(super) async fn dropped<C: CacheOps>(suite: &Suite, backend: &C) -> Kept {
    let mut twin = begin(suite, 10, backend, MIDDLE).await?;
    twin.rule = Some(Rule::Dropped);
    for polls in 0..4 {
        for (offset, len) in [(200, 100), (1000, 30_000), (0, 1), (990, 600)] {
            let Some(at) = twin.place(offset, len) else {
                continue;
            };
            for write_over in [false, true] {
                start_again(&mut twin).await?;
                let new = twin.rng.bytes(len);
                match give_up_after(backend.write_at(at, &new), polls).await {
                    Some(Ok(())) => twin.note_write(at, &new),
                    Some(Err(error)) => return Err(twin.failed("write_at", &error)),
                    None if write_over => twin.put(offset, len).await?,
                    None => twin.settle(at, &new).await?,
                }
                nothing_goes_on(&mut twin).await?;
            }
        }
        for len in [0, 700, 5000] {
            start_again(&mut twin).await?;
            let Some(len) = twin.place(len, 0) else {
                continue;
            };
            match give_up_after(backend.set_len(len), polls).await {
                Some(Ok(())) => twin.note_len(len),
                Some(Err(error)) => return Err(twin.failed("set_len", &error)),
                None => twin.settle_len(len).await?,
            }
            nothing_goes_on(&mut twin).await?;
        }
        let mut out = vec![0; 700];
        give_up_after(backend.read_at(twin.base, &mut out), polls).await;
        give_up_after(backend.flush(), polls).await;
        nothing_goes_on(&mut twin).await?;
    }
    Ok(())
}

async fn start_again<C: CacheOps>(twin: &mut Twin<'_, C>) -> Kept {
    twin.resize(1500).await?;
    twin.put(0, 1500).await
}

/// A few rounds in which a call that goes on would show.
async fn nothing_goes_on<C: CacheOps>(twin: &mut Twin<'_, C>) -> Kept {
    for round in 0..3 {
        twin.check_all().await?;
        if round == 1 {
            twin.flush().await?;
        }
        let_others_run(5).await;
    }
    twin.check_all().await
}
