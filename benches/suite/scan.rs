//! What does it cost to be told that all is there?
//!
//! `ensure_cached` over 1 Mi and 16 Mi blocks that are all cached. The limit is a scan of as many bits by machine words.

use std::hint::black_box;

use gibblox_cache_harness::{Device, Goal, Row, Scale, Table, drive, interleave, nanos, timed};

use crate::contenders::{BLOCK, CTX, MIB, ours, published};
use crate::open::all_cached;

pub(crate) fn run(scale: Scale, table: &mut Table) {
    for (name, blocks, repeat) in [("1 Mi", 1 << 20, 16), ("16 Mi", 16 << 20, 1)] {
        let device = Device::new(BLOCK, blocks, MIB);
        let cache = all_cached(&device, |device, cache| drop(ours(device, cache)));
        let ours = ours(device.clone(), cache);
        let cache = all_cached(&device, |device, cache| drop(published(device, cache)));
        let published = published(device.clone(), cache);
        assert_eq!(drive(ours.get_stats()).cached_blocks, blocks);
        assert_eq!(drive(published.get_stats()).cached_blocks, blocks);
        let words = vec![u64::MAX; blocks as usize / 64];
        let per = |nanos: f64| nanos / f64::from(repeat);
        let [published, ours, limit] = interleave(
            scale.short(),
            &mut [
                &mut || timed(|| drive(published.ensure_cached(0, blocks, CTX)).unwrap()),
                &mut || {
                    per(timed(|| {
                        for _ in 0..repeat {
                            drive(ours.ensure_cached(0, blocks, CTX)).unwrap();
                        }
                    }))
                },
                &mut || {
                    per(timed(|| {
                        for _ in 0..repeat {
                            assert!(black_box(&words).iter().all(|word| *word == u64::MAX));
                        }
                    }))
                },
            ],
        )
        .try_into()
        .unwrap();
        assert_eq!(device.take_counts().0, 0, "something was fetched");
        table.push(&Row {
            workload: format!("ensure_cached over {name} cached blocks"),
            unit: nanos,
            published: Some(published),
            ours,
            limit,
            goal: Goal::AtMost(2.0),
            allocations: None,
            notes: String::new(),
        });
    }
}
