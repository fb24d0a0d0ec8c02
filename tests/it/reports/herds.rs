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
