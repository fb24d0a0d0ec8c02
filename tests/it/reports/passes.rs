//! Caching ahead beside invalidations: each makes one more pass, and a sound source and disk are no error.

use super::{Findings, today};
use crate::support::{Backend, Poller, Source, finish, open_with};
use gibblox_cache::CacheConfig;
use gibblox_core::ReadContext;

const BLOCK: u32 = 16;

#[test]
fn a_warming_goes_on_beside_an_invalidation_in_each_of_its_passes() {
    let mut findings = Findings::default();
    for blocks in [1, 2, 3, 8] {
        for drops in [1, 14, 15, 16, 17, 40, 200] {
            let (source, backend) = (Source::new(3, BLOCK, blocks), Backend::new());
            let config = CacheConfig::new().with_window_bytes(BLOCK);
            let reader = open_with(&source, &backend, config);
            let switch = today::Switch::new();
            let mut fetched = 0;
            let mut dropped = 0;
            let warmed = finish(today::warm_device(&reader, 1, &switch, |progress| {
                // Each pass but the first fetches the first block, which is dropped when the pass is behind it.
                let is_pass =
                    progress.fetched_blocks > fetched && progress.fetched_blocks >= blocks;
                fetched = progress.fetched_blocks;
                if is_pass && dropped < drops {
                    finish(reader.invalidate(0, 1)).expect("a well disk");
                    dropped += 1;
                }
            }));
            findings.check(warmed.is_ok() && dropped == drops, || {
                format!("{blocks} blocks: {dropped} of {drops} dropped, {warmed:?}")
            });
        }
    }
    findings.end();
}

#[test]
fn ensuring_goes_on_beside_an_invalidation_in_each_of_its_passes() {
    let mut findings = Findings::default();
    for blocks in [2, 5] {
        for drops in [1, 15, 16, 20, 40, 100] {
            let (source, backend) = (Source::new(3, BLOCK, blocks), Backend::new());
            let config = CacheConfig::new()
                .with_window_bytes(BLOCK)
                .with_windows_at_once(1);
            let reader = open_with(&source, &backend, config);
            source.forget();
            source.gate.shut();
            let mut poller = Poller::new();
            let task = poller.spawn(reader.ensure_cached(0, blocks, ReadContext::BACKGROUND));
            let mut fetched = 0;
            let mut dropped = 0;
            loop {
                poller.run();
                let Some((ticket, call)) = source.gate.held().first().copied() else {
                    break;
                };
                fetched += 1;
                // While a block is fetched the one before it is dropped, which the pass is behind.
                if fetched >= blocks && dropped < drops {
                    finish(reader.invalidate((call.lba + blocks - 1) % blocks, 1))
                        .expect("a well disk");
                    dropped += 1;
                }
                source.gate.release(ticket);
            }
            let ensured = poller.take(task);
            findings.check(ensured.is_ok() && dropped == drops, || {
                format!("{blocks} blocks: {dropped} of {drops} dropped, {ensured:?}")
            });
        }
    }
    findings.end();
}
