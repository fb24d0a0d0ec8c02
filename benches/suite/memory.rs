//! How much memory does a cache in memory take?
//!
//! 1 % of a 4 GiB device with 4 KiB blocks is read through `MemoryCacheOps`: single blocks scattered at random, and runs
//! of 1 MiB at random. The limit is the bytes cached and one bit for each block of the device.
//!
//! Measured twice: as the most that was allocated at once, from before the reader is opened; and as the most that a fresh
//! process had in memory, beyond what it had before. The source repeats 1 MiB that was there before.

use gibblox_cache::MemoryCacheOps;
use gibblox_cache_harness::{
    Device, Goal, Order, Question, Row, Samples, Scale, Table, bytes, count_allocations, read,
    resident_bytes, resident_peak_bytes,
};
use gibblox_core::BlockReader;

use crate::contenders::{BLOCK, MIB, ours, published};

/// A device of which 1 % is read.
struct Part {
    device: Device,
    lbas: Vec<u64>,
    len: usize,
}

impl Part {
    fn new(pattern: &str, total: usize) -> Self {
        let blocks = (total / BLOCK) as u64;
        let len = if pattern == SCATTERED { BLOCK } else { MIB };
        let step = (len / BLOCK) as u64;
        let pieces = Order::shuffled(blocks / step);
        let count = blocks as usize / 100 / step as usize;
        Self {
            device: Device::new(BLOCK, blocks, MIB),
            lbas: pieces.numbers()[..count]
                .iter()
                .map(|piece| piece * step)
                .collect(),
            len,
        }
    }

    fn read_by(&self, who: &str) -> Box<dyn BlockReader> {
        let device = self.device.clone();
        let reader: Box<dyn BlockReader> = if who == "ours" {
            Box::new(ours(device, MemoryCacheOps::new()))
        } else {
            let memory = gibblox_cache_published::MemoryCacheOps::new();
            Box::new(published(device, memory))
        };
        let mut buf = vec![0; self.len];
        for &lba in &self.lbas {
            read(&*reader, lba, &mut buf);
        }
        for &lba in self.lbas.iter().step_by(17) {
            read(&*reader, lba, &mut buf);
            self.device.check(lba, &buf);
        }
        reader
    }

    fn limit(&self) -> f64 {
        (self.lbas.len() * self.len) as f64 + self.device.blocks() as f64 / 8.0
    }
}

const SCATTERED: &str = "scattered";
const IN_RUNS: &str = "in runs";

/// Answers how many bytes a cache takes of a fresh process.
pub(crate) fn answer(question: &str) -> f64 {
    let mut words = question.splitn(3, ' ');
    let (Some(who), Some(total), Some(pattern)) = (words.next(), words.next(), words.next()) else {
        panic!("{question} is no question")
    };
    let part = Part::new(pattern, total.parse().unwrap());
    // The most so far was that of the shuffling, which is over; it has to be less than what comes.
    let before = resident_bytes().unwrap_or(0.0);
    drop(part.read_by(who));
    resident_peak_bytes().unwrap_or(0.0) - before
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let gib = scale.pick(4, 1);
    let total = gib << 30;
    for pattern in [SCATTERED, IN_RUNS] {
        let part = Part::new(pattern, total);
        let allocated = |who| count_allocations(|| part.read_by(who)).1.peak_bytes as f64;
        let resident = |who| Question::ask("memory", &format!("{who} {total} {pattern}"));
        for (measure, published, ours) in [
            ("allocated", allocated("published"), allocated("ours")),
            (
                "resident in a fresh process",
                resident("published"),
                resident("ours"),
            ),
        ] {
            table.push(&Row {
                workload: format!("{gib} GiB in memory, 1 % read, {pattern}: {measure}"),
                unit: bytes,
                published: Some(Samples::exact(published)),
                ours: Samples::exact(ours),
                limit: Samples::exact(part.limit()),
                goal: Goal::AtMost(1.2),
                allocations: None,
                notes: String::new(),
            });
        }
    }
}
