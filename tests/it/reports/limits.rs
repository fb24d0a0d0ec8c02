//! How many fetches are under way at once, over all readers, and who is next.

use super::Findings;
use crate::support::source::Call;
use crate::support::{Backend, Poller, Reader, Source, finish, open_with, read};
use gibblox_cache::CacheConfig;
use gibblox_core::{BlockReader, GibbloxResult, ReadContext, ReadPriority};
use std::sync::Arc;

const BLOCK: u32 = 16;

/// A device whose every second block is cached, so that each read of some blocks has holes.
fn with_holes(blocks: u64, fetches_at_once: u32) -> (Arc<Source>, Reader) {
    let (source, backend) = (Source::new(7, BLOCK, blocks), Backend::new());
    let config = CacheConfig::new().with_fetches_at_once(fetches_at_once);
    let reader = open_with(&source, &backend, config);
    for lba in (1..blocks).step_by(2) {
        finish(read(&reader, lba, 1)).expect("a well source");
    }
    source.forget();
    (source, reader)
}

async fn read_as(
    reader: &Reader,
    lba: u64,
    blocks: u64,
    ctx: ReadContext,
) -> GibbloxResult<Vec<u8>> {
    let mut buf = vec![0xC3; (blocks * u64::from(BLOCK)) as usize];
    reader.read_blocks(lba, &mut buf, ctx).await?;
    Ok(buf)
}

#[test]
fn the_limit_of_fetches_at_once_is_over_all_readers() {
    let mut findings = Findings::default();
    for most in [1, 4, 16] {
        for readers in [1, 10, 100] {
            for holes in [1, 4, 9] {
                let each = 2 * holes;
                let (source, reader) = with_holes(readers * each, most);
                source.gate.shut();
                let mut poller = Poller::new();
                let tasks: Vec<_> = (0..readers)
                    .map(|index| poller.spawn(read(&reader, index * each, each)))
                    .collect();
                poller.run();
                while source.gate.release_all() > 0 {
                    poller.run();
                }
                poller.run_to_end();
                for (index, task) in (0..).zip(tasks) {
                    source.assert_bytes(index * each, &poller.take(task).expect("well"));
                }
                let peak = source.peak();
                findings.check(peak <= most as usize, || {
                    format!(
                        "at most {most}, {readers} readers with {holes} holes each: {peak} at once"
                    )
                });
                let calls = source.reads().len() as u64;
                findings.check(calls == readers * holes, || format!("{calls} calls"));
            }
        }
    }
    findings.end();
}

#[test]
fn a_foreground_read_is_next_whatever_waits_in_the_background() {
    let mut findings = Findings::default();
    for most in [1, 2, 4] {
        for behind in [ReadContext::BACKGROUND, ReadContext::READAHEAD] {
            let (source, reader) = with_holes(200, most);
            source.gate.shut();
            let mut poller = Poller::new();
            for index in 0..20 {
                poller.spawn(read_as(&reader, index * 8, 8, behind));
            }
            poller.run();
            let task = poller.spawn(read_as(&reader, 196, 1, ReadContext::FOREGROUND));
            poller.run();
            // One place becomes free, which the reader in front takes.
            let is_begun = |source: &Source| {
                let calls = source.calls();
                calls
                    .iter()
                    .any(|call| call.ctx.priority == ReadPriority::High)
            };
            if !is_begun(&source) {
                let (ticket, _) = source.gate.held()[0];
                source.gate.release(ticket);
                poller.run();
            }
            let begun = is_begun(&source);
            let peak = source.peak();
            findings.check(begun && peak <= most as usize, || {
                format!("at most {most}, behind {behind:?}: begun {begun}, {peak} at once")
            });
            source.gate.open();
            poller.run_to_end();
            source.assert_bytes(196, &poller.take(task).expect("a well source"));
        }
    }
    findings.end();
}

#[test]
fn the_next_hole_of_a_request_is_fetched_when_a_place_is_free_and_not_when_all_are() {
    let mut findings = Findings::default();
    for most in [2, 3, 4] {
        for released in 0..most {
            let (source, reader) = with_holes(32, most);
            source.gate.shut();
            let mut poller = Poller::new();
            let task = poller.spawn(read(&reader, 0, 32));
            poller.run();
            let held = source.gate.held();
            assert_eq!(held.len(), most as usize, "as many as may be");
            source.gate.release(held[released as usize].0);
            poller.run();
            let under_way = source.gate.held().len();
            findings.check(under_way == most as usize, || {
                format!("at most {most}, number {released} is done: {under_way} under way")
            });
            source.gate.open();
            poller.run_to_end();
            source.assert_bytes(0, &poller.take(task).expect("a well source"));
        }
    }
    findings.end();
}

#[test]
fn a_reader_that_is_dropped_gives_its_places_back() {
    for most in [1, 2, 4] {
        for dropped in 0..6 {
            let (source, reader) = with_holes(64, most);
            source.gate.shut();
            let mut poller = Poller::new();
            let tasks: Vec<_> = (0..8)
                .map(|index| poller.spawn(read(&reader, index * 8, 8)))
                .collect();
            poller.run();
            for task in &tasks[..=dropped] {
                poller.cancel(*task);
            }
            poller.run();
            source.gate.once();
            source.gate.release_all();
            poller.run_to_end();
            for (index, task) in (0..).zip(&tasks).skip(dropped + 1) {
                source.assert_bytes(index * 8, &poller.take(*task).expect("well"));
            }
        }
    }
}

#[test]
fn readers_that_follow_each_other_under_a_limit_all_end() {
    // Each leads what another follows: a reader that waits for a place must hold nothing that the place waits for.
    for most in [1, 2, 3] {
        let (source, reader) = with_holes(48, most);
        source.gate.shut();
        let mut poller = Poller::new();
        let ranges: Vec<(u64, u64)> = (0..30).map(|n| (n * 13 % 40, 2 + n % 7)).collect();
        let tasks: Vec<_> = ranges
            .iter()
            .map(|(lba, blocks)| poller.spawn(read(&reader, *lba, *blocks)))
            .collect();
        poller.run();
        while let Some((ticket, _)) = source.gate.held().pop() {
            source.gate.release(ticket);
            poller.run();
        }
        poller.run_to_end();
        for ((lba, _), task) in ranges.iter().zip(tasks) {
            source.assert_bytes(*lba, &poller.take(task).expect("a well source"));
        }
        let twice = source
            .fetches()
            .into_iter()
            .filter(|count| *count > 1)
            .count();
        assert_eq!(twice, 0, "blocks that were fetched twice");
        let calls: Vec<Call> = source.calls();
        assert!(!calls.is_empty());
    }
}
