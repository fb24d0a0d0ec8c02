//! What does a miss cost beside its source?
//!
//! - 1 MiB in sequence over 256 MiB, and
//! - 4 KiB at random over 64 MiB, each block once: from a source in memory into a cache in memory, checksums on. Each
//!   pass begins with an empty cache.
//!
//! The limit is what cannot be left out: a boxed future of the source that copies into the caller's buffer, and a copy
//! of these bytes into one vector. No memory is fresh from the system, for anybody.
//!
//! The same once more in fresh processes, opening included: there each page of the cache is one that the system finds
//! and clears when it is first touched, and the limit's vector consists of such pages too.

use gibblox_cache::MemoryCacheOps;
use gibblox_cache_harness::{
    Device, Goal, Order, Question, Row, Samples, Scale, Table, count_allocations, interleave,
    nanos, read, timed,
};
use gibblox_core::BlockReader;

use crate::backend::Counted;
use crate::contenders::{BLOCK, KIB, MIB, ours, published};

/// Reads of `len` bytes at each lba of an order.
struct Pass {
    device: Device,
    order: Order,
    len: usize,
}

impl Pass {
    fn new(pattern: &str, total: usize) -> Self {
        let device = Device::new(BLOCK, (total / BLOCK) as u64, usize::MAX);
        let blocks = device.blocks();
        let (order, len) = if pattern == AT_RANDOM {
            (Order::shuffled(blocks), 4 * KIB)
        } else {
            let lbas = (0..blocks).step_by(MIB / BLOCK).collect();
            (Order::in_sequence(lbas), MIB)
        };
        Self { device, order, len }
    }

    /// Nanoseconds of a read through a new reader.
    fn sample(&self, open: impl Fn(Device) -> Box<dyn BlockReader>, opening: bool) -> f64 {
        let mut buf = vec![0; self.len];
        let mut reader = (!opening).then(|| open(self.device.clone()));
        let nanos = timed(|| {
            let reader = reader.get_or_insert_with(|| open(self.device.clone()));
            for &lba in self.order.numbers() {
                read(&**reader, lba, &mut buf);
            }
        });
        if let Some(reader) = reader {
            for &lba in self.order.numbers().iter().step_by(17) {
                read(&*reader, lba, &mut buf);
                self.device.check(lba, &buf);
            }
        }
        nanos / self.order.numbers().len() as f64
    }

    fn ours(&self, opening: bool) -> f64 {
        let open =
            |device| -> Box<dyn BlockReader> { Box::new(ours(device, MemoryCacheOps::new())) };
        self.sample(open, opening)
    }

    fn published(&self, opening: bool) -> f64 {
        let open = |device| -> Box<dyn BlockReader> {
            let memory = gibblox_cache_published::MemoryCacheOps::new();
            Box::new(published(device, memory))
        };
        self.sample(open, opening)
    }

    fn limit(&self, opening: bool) -> f64 {
        let total = self.device.blocks() as usize * BLOCK;
        let mut buf = vec![0; self.len];
        let mut store = Vec::new();
        if !opening {
            store.resize(total, 1);
        }
        let source: &dyn BlockReader = &self.device;
        let nanos = timed(|| {
            if opening {
                // Pages that are not there yet.
                store = vec![0; total];
            }
            for &lba in self.order.numbers() {
                read(source, lba, &mut buf);
                let offset = lba as usize * BLOCK;
                store[offset..offset + self.len].copy_from_slice(&buf);
            }
        });
        for &lba in self.order.numbers().iter().step_by(17) {
            let offset = lba as usize * BLOCK;
            self.device.check(lba, &store[offset..offset + self.len]);
        }
        nanos / self.order.numbers().len() as f64
    }

    /// Allocations of a read, those included that come with one of many.
    fn allocations(&self, reader: &dyn BlockReader) -> f64 {
        let mut buf = vec![0; self.len];
        let ((), counted) = count_allocations(|| {
            for &lba in self.order.numbers() {
                read(reader, lba, &mut buf);
            }
        });
        counted.calls as f64 / self.order.numbers().len() as f64
    }

    /// Backend calls of 16 reads, beginning with the third.
    fn calls(&self, reader: &dyn BlockReader, cache: &Counted) -> String {
        let mut buf = vec![0; self.len];
        for (index, &lba) in self.order.numbers().iter().take(18).enumerate() {
            if index == 2 {
                let _ = cache.calls.take();
            }
            read(reader, lba, &mut buf);
            self.device.check(lba, &buf);
        }
        cache.calls.take()
    }

    /// Allocations of a read by both crates.
    fn both_allocations(&self) -> [f64; 2] {
        let memory = gibblox_cache_published::MemoryCacheOps::new();
        [
            self.allocations(&published(self.device.clone(), memory)),
            self.allocations(&ours(self.device.clone(), MemoryCacheOps::new())),
        ]
    }

    /// Backend calls of both crates.
    fn both_calls(&self) -> String {
        let cache = Counted::default();
        let by_published = self.calls(&published(self.device.clone(), cache.clone()), &cache);
        let cache = Counted::default();
        let by_us = self.calls(&ours(self.device.clone(), cache.clone()), &cache);
        format!("16 reads: {by_published} → {by_us}")
    }
}

const IN_SEQUENCE: &str = "1 MiB reads in sequence";
const AT_RANDOM: &str = "4 KiB reads at random";

/// Patterns, how much of a device is read by each, and what is aimed at.
fn patterns(scale: Scale) -> [(&'static str, usize, f64); 2] {
    [
        (IN_SEQUENCE, scale.pick(256, 64) * MIB, 1.25),
        (AT_RANDOM, scale.pick(64, 16) * MIB, 1.4),
    ]
}

/// Answers how many nanoseconds a read takes in a fresh process, opening included.
pub(crate) fn answer(question: &str) -> f64 {
    let mut words = question.splitn(3, ' ');
    let (Some(who), Some(total), Some(pattern)) = (words.next(), words.next(), words.next()) else {
        panic!("{question} is no question")
    };
    let pass = Pass::new(pattern, total.parse().unwrap());
    match who {
        "ours" => pass.ours(true),
        "limit" => pass.limit(true),
        _ => pass.published(true),
    }
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    for (pattern, total, goal) in patterns(scale) {
        let pass = Pass::new(pattern, total);
        let [published, ours, limit] = interleave(
            scale.long(),
            &mut [
                &mut || pass.published(false),
                &mut || pass.ours(false),
                &mut || pass.limit(false),
            ],
        )
        .try_into()
        .unwrap();
        table.push(&Row {
            workload: format!("cold {pattern}"),
            unit: nanos,
            published: Some(published),
            ours,
            limit,
            goal: Goal::AtMost(goal),
            allocations: Some(pass.both_allocations()),
            notes: pass.both_calls(),
        });
    }
    for (pattern, total, _) in patterns(scale) {
        let ask = |who| Question::ask("cold", &format!("{who} {total} {pattern}"));
        let [published, ours, limit]: [Samples; 3] = interleave(
            scale.long(),
            &mut [&mut || ask("published"), &mut || ask("ours"), &mut || {
                ask("limit")
            }],
        )
        .try_into()
        .unwrap();
        table.push(&Row {
            workload: format!("cold {pattern}, fresh process, with opening"),
            unit: nanos,
            published: Some(published),
            ours,
            limit,
            goal: Goal::Open,
            allocations: None,
            notes: String::new(),
        });
    }
}
