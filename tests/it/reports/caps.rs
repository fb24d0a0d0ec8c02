//! A source that refuses long reads: what is missing is fetched in pieces, side by side, and each is kept.

use super::{Findings, cached_blocks, today};
use crate::support::source::{Call, Fault, Op};
use crate::support::{Backend, Poller, Reader, Source, finish, open_with, read};
use gibblox_cache::CacheConfig;
use gibblox_core::ReadContext;
use std::sync::Arc;

const BLOCK: u32 = 4096;
const MIB: u32 = 1 << 20;

/// Refuses what is longer.
fn cap(source: &Source, most_bytes: u64) {
    source.fail(move |call: &Call| {
        let is_long = call.op == Op::Read && call.blocks * u64::from(BLOCK) > most_bytes;
        is_long.then(|| Fault::io("too long"))
    });
}

fn world(blocks: u64, config: CacheConfig) -> (Arc<Source>, Reader) {
    let (source, backend) = (Source::new(9, BLOCK, blocks), Backend::new());
    let reader = open_with(&source, &backend, config);
    source.forget();
    (source, reader)
}

#[test]
fn a_read_that_is_longer_than_the_source_takes_comes_in_pieces() {
    let mut findings = Findings::default();
    let blocks = u64::from(8 * MIB / BLOCK);
    for (most, begins, len) in [
        (2 * MIB, 0, blocks),
        (2 * MIB, 3, blocks - 3),
        (2 * MIB, 1, 513),
        (MIB, 0, blocks),
        (BLOCK, 5, 40),
        (3 * BLOCK, 1, 50),
        (3 * BLOCK + 100, 0, 9),
    ] {
        let config = today::with_max_fetch_bytes(CacheConfig::new(), most);
        let (source, reader) = world(blocks, config);
        cap(&source, u64::from(most));
        let bytes = finish(read(&reader, begins, len));
        let is_served = bytes.is_ok();
        if let Ok(bytes) = bytes {
            source.assert_bytes(begins, &bytes);
        }
        let calls = source.reads().len() as u64;
        let fewest = len.div_ceil(u64::from(most / BLOCK));
        findings.check(is_served && calls <= fewest + 1, || {
            format!("{len} blocks from {begins}, at most {most} bytes: served {is_served}, {calls} calls, {fewest} would do")
        });
        let valid = cached_blocks(&reader);
        findings.check(valid == len, || {
            format!("{len} from {begins}: {valid} valid")
        });
    }
    findings.end();
}

#[test]
fn the_pieces_of_one_read_are_fetched_side_by_side() {
    let config = today::with_max_fetch_bytes(CacheConfig::new(), 2 * MIB);
    let (source, reader) = world(u64::from(8 * MIB / BLOCK), config);
    source.gate.shut();
    let mut poller = Poller::new();
    let task = poller.spawn(read(&reader, 0, u64::from(8 * MIB / BLOCK)));
    poller.run();
    assert_eq!(source.gate.held().len(), 4, "calls at once");
    source.gate.open();
    poller.run_to_end();
    source.assert_bytes(0, &poller.take(task).expect("a well source"));
}

#[test]
fn a_dropped_large_read_keeps_what_had_arrived() {
    let mut findings = Findings::default();
    let piece = u64::from(2 * MIB / BLOCK);
    for arrived in 0..4 {
        let config = today::with_max_fetch_bytes(CacheConfig::new(), 2 * MIB);
        let (source, reader) = world(4 * piece, config);
        source.gate.shut();
        let mut poller = Poller::new();
        let task = poller.spawn(read(&reader, 0, 4 * piece));
        poller.run();
        for (ticket, _) in source.gate.held().into_iter().take(arrived) {
            source.gate.release(ticket);
        }
        poller.run();
        poller.cancel(task);
        let valid = cached_blocks(&reader);
        // A single call that is answered brings all of it at once, and is no piece.
        findings.check(valid == arrived as u64 * piece, || {
            format!("{arrived} of 4 pieces had arrived: {valid} blocks valid")
        });
        source.gate.open();
        drop(poller);
        source.forget();
        let bytes = finish(read(&reader, 0, 4 * piece)).expect("a well source");
        source.assert_bytes(0, &bytes);
        let fetched = super::fetched_blocks(&source);
        findings.check(fetched == (4 - arrived as u64) * piece, || {
            format!("{arrived} of 4 pieces had arrived: {fetched} blocks fetched by the next")
        });
    }
    findings.end();
}

#[test]
fn caching_ahead_and_wider_fetches_keep_to_the_cap() {
    let mut findings = Findings::default();
    let most = 3 * BLOCK;
    for (name, config) in [
        ("windows", CacheConfig::new().with_window_bytes(8 * BLOCK)),
        (
            "around",
            today::with_around_bytes(CacheConfig::new(), 16 * BLOCK),
        ),
        ("gaps", today::with_gap_blocks(CacheConfig::new(), 8)),
    ] {
        let config = today::with_max_fetch_bytes(config, most);
        let (source, reader) = world(64, config);
        cap(&source, u64::from(most));
        for lba in [0, 2, 9] {
            let read = finish(read(&reader, lba, 1));
            findings.check(read.is_ok(), || format!("{name}: block {lba}"));
        }
        let read = finish(read(&reader, 0, 12));
        findings.check(read.is_ok(), || format!("{name}: over the gaps"));
        let ensured = finish(reader.ensure_cached(0, 64, ReadContext::BACKGROUND));
        findings.check(ensured.is_ok(), || format!("{name}: {ensured:?}"));
        let longest = source.reads().iter().map(|(_, blocks)| *blocks).max();
        findings.check(longest.is_none_or(|longest| longest <= 3), || {
            format!("{name}: a fetch of {longest:?} blocks")
        });
    }
    findings.end();
}

#[test]
fn a_wider_fetch_that_failed_is_not_tried_again_beside_every_read() {
    let mut findings = Findings::default();
    for bad in [0, 5, 15] {
        let config = today::with_around_bytes(CacheConfig::new(), 16 * BLOCK);
        let (source, reader) = world(64, config);
        source.fail_block(bad, "a bad block");
        let lbas: Vec<u64> = (0..16).filter(|lba| *lba != bad).collect();
        for lba in &lbas {
            let bytes = finish(read(&reader, *lba, 1)).expect("this block is sound");
            source.assert_bytes(*lba, &bytes);
        }
        let calls = source.reads().len();
        findings.check(calls <= lbas.len() + 4, || {
            format!("block {bad} is bad: {calls} calls for {} reads", lbas.len())
        });
    }
    findings.end();
}
