//! What does it take to put a whole device into a file?
//!
//! `ensure_cached` of 1 GiB in 4 KiB blocks, from a source in memory into a file. The limit reads the same source in
//! 1 MiB pieces and writes each with one `pwrite`. Peak memory is what was allocated during the call beyond what the open
//! reader holds; a bitmap and a window of 1 MiB or a few are needed, a device is not.
//!
//! Once more with 256 MiB and flushes that are done, since how often a cache flushes is its choice: there the limit
//! flushes once, at the end.

use std::os::unix::fs::FileExt;

use gibblox_cache_harness::{
    Device, Goal, Row, Samples, Scale, Table, bytes, count_allocations, drive, interleave, nanos,
    timed,
};
use gibblox_core::GibbloxResult;

use crate::backend::{FileOps, Flushing};
use crate::contenders::{BLOCK, CTX, MIB, ours, published};
use crate::open::BITMAP_OFFSET;

/// One device to be put into files.
struct Job {
    device: Device,
    flushing: Flushing,
}

impl Job {
    fn new(total: usize, flushing: Flushing) -> Self {
        Self {
            device: Device::new(BLOCK, (total / BLOCK) as u64, 16 * MIB),
            flushing,
        }
    }

    /// Nanoseconds of `ensure`, which caches the whole device, and the calls it took.
    fn sample(
        &self,
        cache: &FileOps,
        ensure: impl Future<Output = GibbloxResult<()>>,
    ) -> (f64, String) {
        let _ = (self.device.take_counts(), cache.calls.take());
        let nanos = timed(|| drive(ensure).unwrap());
        let (calls, blocks) = self.device.take_counts();
        assert_eq!(blocks, self.device.blocks());
        let data = BITMAP_OFFSET + self.device.blocks().div_ceil(8);
        let mut block = vec![0; BLOCK];
        for lba in (0..blocks).step_by(997).chain([blocks - 1]) {
            let at = data + lba * BLOCK as u64;
            cache.file().read_exact_at(&mut block, at).unwrap();
            self.device.check(lba, &block);
        }
        (
            nanos,
            format!("{calls} source calls, {}", cache.calls.take()),
        )
    }

    fn ours(&self) -> (f64, String) {
        let cache = FileOps::with(self.flushing);
        let reader = ours(self.device.clone(), cache.clone());
        self.sample(&cache, reader.ensure_cached(0, self.device.blocks(), CTX))
    }

    fn published(&self) -> (f64, String) {
        let cache = FileOps::with(self.flushing);
        let reader = published(self.device.clone(), cache.clone());
        self.sample(&cache, reader.ensure_cached(0, self.device.blocks(), CTX))
    }

    fn limit(&self) -> f64 {
        let cache = FileOps::new();
        let file = cache.file();
        file.set_len(self.device.blocks() * BLOCK as u64).unwrap();
        let mut buf = vec![0; MIB];
        timed(|| {
            for lba in (0..self.device.blocks()).step_by(MIB / BLOCK) {
                self.device.copy_to(lba, &mut buf);
                file.write_all_at(&buf, lba * BLOCK as u64).unwrap();
            }
            if self.flushing == Flushing::Done {
                file.sync_data().unwrap();
            }
        })
    }

    fn compare(&self, scale: Scale, workload: String, goal: Goal) -> Row {
        let (mut published_calls, mut our_calls) = (String::new(), String::new());
        let [published, ours, limit] = interleave(
            scale.long(),
            &mut [
                &mut || {
                    let nanos;
                    (nanos, published_calls) = self.published();
                    nanos
                },
                &mut || {
                    let nanos;
                    (nanos, our_calls) = self.ours();
                    nanos
                },
                &mut || self.limit(),
            ],
        )
        .try_into()
        .unwrap();
        Row {
            workload,
            unit: nanos,
            published: Some(published),
            ours,
            limit,
            goal,
            allocations: None,
            notes: format!("{published_calls} → {our_calls}"),
        }
    }
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let total = scale.pick(1024, 64) * MIB;
    let job = Job::new(total, Flushing::Counted);
    let workload = format!("ensure_cached of {} MiB into a file", total / MIB);
    table.push(&job.compare(scale, workload, Goal::AtMost(1.3)));

    let blocks = job.device.blocks();
    let peak =
        |ensure: &mut dyn FnMut()| Samples::exact(count_allocations(ensure).1.peak_bytes as f64);
    let by_published = published(job.device.clone(), FileOps::new());
    let by_us = ours(job.device.clone(), FileOps::new());
    table.push(&Row {
        workload: format!("ensure_cached of {} MiB: peak memory", total / MIB),
        unit: bytes,
        published: Some(peak(&mut || {
            drive(by_published.ensure_cached(0, blocks, CTX)).unwrap();
        })),
        ours: peak(&mut || drive(by_us.ensure_cached(0, blocks, CTX)).unwrap()),
        limit: Samples::exact((8 * MIB) as f64),
        goal: Goal::AtMost(1.0),
        allocations: None,
        notes: "the limit is what was asked for".into(),
    });

    let total = scale.pick(256, 32) * MIB;
    let workload = format!(
        "ensure_cached of {} MiB into a file, flushes done",
        total / MIB
    );
    let row = Job::new(total, Flushing::Done).compare(scale, workload, Goal::Open);
    table.push(&row);
}
