//! What does fetching more than was asked for give, and what does it cost?
//!
//! From a source that answers after 5 ms and 1 GB/s, which is about a server in the same country on a fast line, into a
//! cache in memory that is empty:
//!
//! - 4 KiB in sequence over 16 MiB, exactly as asked for, and with read-ahead of up to 1 MiB;
//! - 4 KiB at random within 1 MiB, each block once, exactly, and with read-around of 256 KiB;
//! - 4 KiB at random over 64 MiB with read-ahead, which has nothing to find there, and must fetch nothing for it.
//!
//! The limit is one call of the source for each MiB, and a copy of each block; at random, one call for each block. A read
//! that fetches what it asks for takes one call, each as long as the others, so only a few are made, and the time of one
//! stands for all. What was fetched unasked, and how much of that was used, is counted.

use std::time::Duration;

use gibblox_cache::{CacheConfig, MemoryCacheOps, WiderFetches};
use gibblox_cache_harness::{
    Budget, Device, Goal, Order, Row, Samples, Scale, Slow, Table, drive, interleave, nanos, timed,
};
use gibblox_core::BlockReader;

use crate::contenders::{BLOCK, CTX, KIB, MIB, Ours, published};

const LATENCY: Duration = Duration::from_millis(5);
const BYTES_PER_SECOND: f64 = 1e9;

/// Reads of a block each, in an order.
struct Pass {
    device: Device,
    source: Slow<Device>,
    order: Order,
    config: CacheConfig,
}

impl Pass {
    fn new(total: usize, order: Order, config: CacheConfig) -> Self {
        let device = Device::new(BLOCK, (total / BLOCK) as u64, usize::MAX);
        let source = Slow::new(device.clone(), LATENCY).with_bytes_per_second(BYTES_PER_SECOND);
        Self {
            device,
            source,
            order,
            config,
        }
    }

    /// Nanoseconds of one of the first `reads` reads.
    fn sample(&self, reader: &dyn BlockReader, reads: usize) -> f64 {
        let mut buf = vec![0; BLOCK];
        let nanos = timed(|| {
            for &lba in &self.order.numbers()[..reads] {
                drive(reader.read_blocks(lba, &mut buf, CTX)).unwrap();
                self.device.check(lba, &buf);
            }
        });
        nanos / reads as f64
    }

    fn published(&self, reads: usize) -> f64 {
        let memory = gibblox_cache_published::MemoryCacheOps::new();
        self.sample(&published(self.source.clone(), memory), reads)
    }

    /// Also says what was fetched.
    fn ours(&self, config: CacheConfig, reads: usize) -> (f64, String) {
        let opening = Ours::open(self.source.clone(), MemoryCacheOps::new(), config);
        let reader = drive(opening).unwrap();
        let _ = self.device.take_counts();
        let nanos = self.sample(&reader, reads);
        let (calls, blocks) = self.device.take_counts();
        let counters = reader.counters();
        let (fetched, used) = (
            counters.unasked_fetched_blocks,
            counters.unasked_used_blocks,
        );
        let notes =
            format!("{calls} source calls for {blocks} blocks; {fetched} unasked, {used} used");
        (nanos, notes)
    }

    /// One call for each `piece` bytes of what is read.
    fn limit(&self, piece: usize) -> f64 {
        let mut buf = vec![0; BLOCK];
        let reads = self.order.numbers().len();
        let mut all = vec![0; reads * BLOCK];
        let nanos = timed(|| {
            for (index, bytes) in all.chunks_mut(piece).enumerate() {
                let lba = (index * piece / BLOCK) as u64;
                drive(self.source.read_blocks(lba, bytes, CTX)).unwrap();
            }
            for block in all.chunks_exact(BLOCK) {
                buf.copy_from_slice(block);
            }
        });
        nanos / reads as f64
    }

    /// A row for what is fetched exactly, and one for more than that. `few` reads are enough where each takes a call.
    fn run(&self, workload: &str, few: usize, goal: f64, budget: Budget, table: &mut Table) {
        let all = self.order.numbers().len();
        let (mut exact_notes, mut notes) = (String::new(), String::new());
        let samples = interleave(
            budget,
            &mut [
                &mut || self.published(few),
                &mut || {
                    let (nanos, text) = self.ours(CacheConfig::new(), few);
                    exact_notes = text;
                    nanos
                },
                &mut || {
                    let (nanos, text) = self.ours(self.config, all);
                    notes = text;
                    nanos
                },
                &mut || self.limit(MIB),
            ],
        );
        let [published, exact, wider, limit]: [Samples; 4] = samples.try_into().unwrap();
        let times = published.by(&wider).median();
        let row = |kind, ours, goal, notes| Row {
            workload: format!("{workload}, {kind}"),
            unit: nanos,
            published: Some(published.clone()),
            ours,
            limit: limit.clone(),
            goal,
            allocations: None,
            notes,
        };
        table.push(&row("exact", exact, Goal::Open, exact_notes));
        let notes = format!("{times:.0} times as fast as 0.0.1; {notes}");
        table.push(&row("more than that", wider, Goal::AtMost(goal), notes));
    }

    /// A row for reads among which there is no sequence.
    fn run_at_random(&self, budget: Budget, table: &mut Table) {
        let all = self.order.numbers().len();
        let mut notes = String::new();
        let samples = interleave(
            budget,
            &mut [
                &mut || self.published(all),
                &mut || {
                    let (nanos, text) = self.ours(self.config, all);
                    notes = text;
                    nanos
                },
                &mut || self.limit(BLOCK),
            ],
        );
        assert!(notes.ends_with(" 0 unasked, 0 used"), "{notes}");
        let [published, ours, limit]: [Samples; 3] = samples.try_into().unwrap();
        table.push(&Row {
            workload: "4 KiB reads at random, source of 5 ms, read-ahead on".into(),
            unit: nanos,
            published: Some(published),
            ours,
            limit,
            goal: Goal::AtMost(1.05),
            allocations: None,
            notes,
        });
    }
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let budget = Budget {
        time: scale.pick(Duration::from_secs(1), Duration::from_millis(100)),
        least: scale.pick(3, 2),
        ..scale.long()
    };
    let few = scale.pick(16, 8);
    let blocks = |bytes: usize| (bytes / BLOCK) as u64;

    let total = scale.pick(16, 4) * MIB;
    let in_sequence = Order::in_sequence((0..blocks(total)).collect());
    let ahead = WiderFetches::new().with_ahead_bytes(MIB as u32);
    let ahead = CacheConfig::new().with_wider_fetches(ahead);
    // On the way up to the limit calls are shorter; in a quick run that is most of the way.
    let goal = scale.pick(2.0, 4.0);
    let pass = Pass::new(total, in_sequence, ahead);
    pass.run(
        "4 KiB reads in sequence, source of 5 ms",
        few,
        goal,
        budget,
        table,
    );

    let around = WiderFetches::new().with_around_bytes(256 * KIB as u32);
    let around = CacheConfig::new().with_wider_fetches(around);
    let pass = Pass::new(MIB, Order::shuffled(blocks(MIB)), around);
    pass.run(
        "4 KiB reads within 1 MiB, source of 5 ms",
        few,
        4.0,
        budget,
        table,
    );

    let anywhere = Order::shuffled(blocks(64 * MIB)).numbers()[..few].to_vec();
    let pass = Pass::new(64 * MIB, Order::in_sequence(anywhere), ahead);
    pass.run_at_random(budget, table);
}
