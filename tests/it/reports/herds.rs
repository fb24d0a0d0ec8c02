//! Many readers of one run: what one of them has found out, the others need not find out again.

use super::{Findings, Way};
use crate::support::backend::{Call, Fault, Op};
use crate::support::files::Regions;
use crate::support::{Backend, Poller, Source, open, read};
use std::sync::Arc;

const BLOCK: u32 = 64;
const BLOCKS: u64 = 128;

/// Why a block cannot be stored.
const UNSTORED: [&str; 5] = [
    "data",
    "checksums",
    "bits",
    "all writes",
    "the file is closed",
];

fn refuse(backend: &Backend, what: &'static str, regions: Regions) {
    let data = regions.data as u64;
    let sums = regions.checksums as u64;
    backend.fail(move |call: &Call| {
        let refused = match what {
            "data" => (data..sums).contains(&call.offset),
            "checksums" => call.offset >= sums,
            "bits" => call.offset < data,
            _ => true,
        };
        (call.op == Op::Write && refused).then_some(Fault::Error)
    });
}

#[test]
fn readers_of_one_run_that_cannot_be_stored_share_two_source_calls() {
    let mut findings = Findings::default();
    for unstored in UNSTORED {
        for readers in [2, 16, 64] {
            for (lba, blocks) in [(5, 1), (0, 8), (120, 8)] {
                let (source, backend) = (Source::new(2, BLOCK, BLOCKS), Backend::new());
                let closed = unstored == "the file is closed";
                if closed {
                    backend.fail_all(Op::Write);
                }
                let reader = open(&source, &backend);
                refuse(&backend, unstored, Regions::of(&source));
                source.forget();
                source.gate.shut();
                let mut poller = Poller::new();
                let tasks: Vec<_> = (0..readers)
                    .map(|_| poller.spawn(read(&reader, lba, blocks)))
                    .collect();
                poller.run();
                // All wait. From here on the source answers whatever it is asked.
                source.gate.once();
                source.gate.release_all();
                poller.run_to_end();
                for task in tasks {
                    source.assert_bytes(lba, &poller.take(task).expect("a well source"));
                }
                let calls = source.reads().len();
                findings.check(calls <= 2, || {
                    format!("{unstored} refused, {readers} readers of {blocks} from {lba}: {calls} calls")
                });
            }
        }
    }
    findings.end();
}

#[test]
fn first_readers_of_one_extent_compare_it_a_few_times() {
    let mut findings = Findings::default();
    for way in Way::checked() {
        if way.verify != gibblox_cache::VerifyPolicy::OnFirstRead || way.answers_now {
            continue;
        }
        for readers in [4, 64] {
            for (lba, blocks) in [(0, 64), (3, 1), (100, 28)] {
                for held in [false, true] {
                    let source = Source::new(2, BLOCK, BLOCKS);
                    let backend = Backend::with_bytes((way.file_of)(&source, 0..BLOCKS));
                    let reader = way.open(&source, &backend).expect("it opens");
                    let sums = Regions::of(&source).checksums as u64;
                    source.forget();
                    backend.forget();
                    if held {
                        backend.gate.shut();
                    } else {
                        backend.gate.once();
                    }
                    let mut poller = Poller::new();
                    let tasks: Vec<_> = (0..readers)
                        .map(|_| poller.spawn(read(&reader, lba, blocks)))
                        .collect();
                    poller.run();
                    backend.gate.once();
                    backend.gate.release_all();
                    poller.run_to_end();
                    for task in tasks {
                        source.assert_bytes(lba, &poller.take(task).expect("it is cached"));
                    }
                    assert_eq!(source.reads(), [], "it is cached");
                    let calls = backend.calls().into_iter();
                    let compared = calls
                        .filter(|call| call.op == Op::Read && call.offset >= sums)
                        .count();
                    findings.check(compared <= 8, || {
                        format!("{way:?}, {readers} readers of {blocks} from {lba}, held {held}: compared {compared} times")
                    });
                }
            }
        }
    }
    findings.end();
}

#[test]
fn a_dropped_leader_of_a_herd_costs_one_more_call() {
    for readers in [2, 16, 64] {
        let (source, backend) = (Source::new(2, BLOCK, BLOCKS), Backend::new());
        let reader = open(&source, &backend);
        source.forget();
        source.gate.shut();
        let mut poller = Poller::new();
        let tasks: Vec<_> = (0..readers)
            .map(|_| poller.spawn(read(&reader, 9, 4)))
            .collect();
        poller.run();
        poller.cancel(tasks[0]);
        poller.run();
        source.gate.open();
        poller.run_to_end();
        assert_eq!(source.reads().len(), 2, "{readers} readers");
        let _ = Arc::strong_count(&backend);
    }
}
