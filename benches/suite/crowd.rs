//! Do many readers of the same cold blocks take as long as one fetch?
//!
//! - 64 readers of one cold 256 KiB range, and
//! - 64 readers of 16 blocks each, every one four blocks behind the one before, so that each block but the first and the
//!   last few is wanted by four: from a source that answers after 5 ms, all started in one turn of one thread.
//!
//! The limit is one call of the source for all that is wanted, and for every further reader a copy of its bytes, which
//! each of them is owed. How many blocks were fetched is counted: each should be once.

use std::time::Duration;

use futures_util::future::join_all;
use gibblox_cache::MemoryCacheOps;
use gibblox_cache_harness::{
    Device, Goal, Row, Scale, Slow, Table, drive, interleave, nanos, timed,
};
use gibblox_core::BlockReader;

use crate::contenders::{BLOCK, CTX, KIB, ours, published};

const READERS: usize = 64;
const LATENCY: Duration = Duration::from_millis(5);

/// Who wants what.
struct Crowd<'a> {
    device: &'a Device,
    /// Each reader begins so many blocks behind the one before.
    stride: u64,
    blocks: u64,
}

impl Crowd<'_> {
    fn bufs(&self) -> Vec<Vec<u8>> {
        vec![vec![0; self.blocks as usize * BLOCK]; READERS]
    }

    fn lbas(&self) -> impl Iterator<Item = u64> {
        (0..READERS as u64).map(|reader| reader * self.stride)
    }

    fn wanted(&self) -> u64 {
        (READERS as u64 - 1) * self.stride + self.blocks
    }

    fn check(&self, bufs: &[Vec<u8>]) {
        for (lba, buf) in self.lbas().zip(bufs) {
            self.device.check(lba, buf);
        }
    }

    fn sample(&self, reader: &dyn BlockReader) -> f64 {
        let mut bufs = self.bufs();
        let _ = self.device.take_counts();
        let nanos = timed(|| {
            let reads = self
                .lbas()
                .zip(&mut bufs)
                .map(|(lba, buf)| reader.read_blocks(lba, buf, CTX));
            for result in drive(join_all(reads)) {
                result.unwrap();
            }
        });
        self.check(&bufs);
        nanos
    }

    fn limit(&self, source: &dyn BlockReader) -> f64 {
        let mut bufs = self.bufs();
        let mut all = vec![0; self.wanted() as usize * BLOCK];
        let nanos = timed(|| {
            drive(source.read_blocks(0, &mut all, CTX)).unwrap();
            for (lba, buf) in self.lbas().zip(&mut bufs).skip(1) {
                let (from, len) = (lba as usize * BLOCK, buf.len());
                buf.copy_from_slice(&all[from..from + len]);
            }
        });
        bufs[0].copy_from_slice(&all[..self.blocks as usize * BLOCK]);
        self.check(&bufs);
        nanos
    }
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let device = Device::new(BLOCK, 1024, usize::MAX);
    let source = Slow::new(device.clone(), LATENCY);
    for (workload, stride, blocks) in [
        (
            "64 readers of one 256 KiB range, source of 5 ms",
            0,
            (256 * KIB / BLOCK) as u64,
        ),
        ("64 readers of 16 overlapping blocks, source of 5 ms", 4, 16),
    ] {
        let crowd = Crowd {
            device: &device,
            stride,
            blocks,
        };
        let mut published_counts = (0, 0);
        let mut our_counts = (0, 0);
        let [published, ours, limit] = interleave(
            scale.short(),
            &mut [
                &mut || {
                    let memory = gibblox_cache_published::MemoryCacheOps::new();
                    let nanos = crowd.sample(&published(source.clone(), memory));
                    published_counts = device.take_counts();
                    nanos
                },
                &mut || {
                    let nanos = crowd.sample(&ours(source.clone(), MemoryCacheOps::new()));
                    our_counts = device.take_counts();
                    nanos
                },
                &mut || crowd.limit(&source),
            ],
        )
        .try_into()
        .unwrap();
        assert_eq!(our_counts.1, crowd.wanted(), "each block is fetched once");
        table.push(&Row {
            workload: workload.into(),
            unit: nanos,
            published: Some(published),
            ours,
            limit,
            goal: Goal::AtMost(1.15),
            allocations: None,
            notes: format!(
                "{} → {} source calls, {} → {} of {} blocks",
                published_counts.0,
                our_counts.0,
                published_counts.1,
                our_counts.1,
                crowd.wanted()
            ),
        });
    }
}
