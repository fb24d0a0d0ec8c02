//! What do hits cost in other caches that hold the same blocks in memory?
//!
//! ```text
//! cargo bench --manifest-path benches/peers/Cargo.toml            (Rust 1.91, for foyer)
//! ```
//!
//! The workloads of the suite's `hits`, in interleaved rounds: 4 KiB hits on four blocks and over 64 MiB, and 1 MiB hits
//! over 64 MiB. `quick_cache` and `foyer` map the number of a block to its bytes, with room for all of them, and stand
//! behind the same trait, so that a read is a boxed future in all cases; 1 MiB are 256 lookups there. The limit is the
//! boxed copy.
//!
//! They do another job, and do it well: they evict, they hold any key and any value; they know no source, no file, no
//! checksums, no runs. What is compared is what it costs to get at bytes that are there.

#![allow(
    clippy::cast_possible_truncation,
    reason = "blocks of a small device, counted in whatever is at hand"
)]

use std::env;
use std::sync::Arc;

use async_trait::async_trait;
use gibblox_cache::{CachedBlockReader, MemoryCacheOps};
use gibblox_cache_harness::{
    Copying, CountingAllocator, Device, Order, Reads, Samples, Scale, drive, interleave, nanos,
};
use gibblox_core::{BlockReader, GibbloxResult, ReadContext};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 64 * 256;

/// Bytes by block number.
trait Map: Send + Sync {
    fn copy(&self, lba: u64, block: &mut [u8]);
}

impl Map for quick_cache::sync::Cache<u64, Arc<[u8]>> {
    fn copy(&self, lba: u64, block: &mut [u8]) {
        block.copy_from_slice(&self.get(&lba).expect("there is room for all"));
    }
}

impl Map for foyer::Cache<u64, Arc<[u8]>> {
    fn copy(&self, lba: u64, block: &mut [u8]) {
        let entry = self.get(&lba).expect("there is room for all");
        block.copy_from_slice(entry.value());
    }
}

/// A map behind the trait of the family.
struct Mapped<M>(M);

#[async_trait]
impl<M: Map> BlockReader for Mapped<M> {
    fn block_size(&self) -> u32 {
        BLOCK as u32
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        Ok(BLOCKS)
    }

    fn write_identity(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        out.write_str("map")
    }

    async fn read_blocks(&self, lba: u64, buf: &mut [u8], _: ReadContext) -> GibbloxResult<usize> {
        for (lba, block) in (lba..).zip(buf.chunks_exact_mut(BLOCK)) {
            self.0.copy(lba, block);
        }
        Ok(buf.len())
    }
}

fn blocks(device: &Device) -> impl Iterator<Item = (u64, Arc<[u8]>)> {
    (0..device.blocks()).map(|lba| {
        let mut block = [0; BLOCK];
        device.copy_to(lba, &mut block);
        (lba, Arc::from(block))
    })
}

fn main() {
    let quick = env::args().any(|word| word == "--quick");
    let scale = if quick { Scale::Quick } else { Scale::Full };
    let device = Device::new(BLOCK, BLOCKS, usize::MAX);

    let ours = drive(CachedBlockReader::new(
        device.clone(),
        MemoryCacheOps::new(),
    ));
    let ours = ours.expect("it is in memory");
    drive(ours.ensure_cached(0, BLOCKS, ReadContext::FOREGROUND)).expect("it is in memory");
    // Shards fill unevenly, and nothing is to be evicted.
    let room = 4 * BLOCKS as usize;
    let quick_cache = quick_cache::sync::Cache::new(room);
    let foyer = foyer::CacheBuilder::new(room).build();
    for (lba, block) in blocks(&device) {
        quick_cache.insert(lba, Arc::clone(&block));
        foyer.insert(lba, block);
    }
    let (quick_cache, foyer) = (Mapped(quick_cache), Mapped(foyer));
    let limit = Copying::new(&device);
    let readers: [(&str, &dyn BlockReader); 4] = [
        ("quick_cache", &quick_cache),
        ("foyer", &foyer),
        ("ours", &ours),
        ("limit", &limit),
    ];

    let hot = Order::shuffle((5000..5004).collect());
    let far = Order::shuffled(BLOCKS);
    let large = Order::shuffle((0..BLOCKS).step_by(256).collect());
    println!("| workload | contender | time | by the limit (quartiles) | allocations |");
    println!("| --- | --- | ---: | ---: | ---: |");
    for (workload, order, len, count) in [
        ("4 KiB hits, hot", &hot, BLOCK, 4000),
        ("4 KiB hits, over 64 MiB", &far, BLOCK, 2000),
        ("1 MiB hits, over 64 MiB", &large, 256 * BLOCK, 16),
    ] {
        let mut reads = readers.map(|(_, reader)| Reads::checked(reader, &device, order, len));
        let allocations = reads.each_mut().map(Reads::allocations);
        let mut turns = reads.each_mut().map(|reads| move || reads.sample(count));
        let samples = interleave(
            scale.short(),
            &mut turns.each_mut().map(|turn| turn as &mut dyn FnMut() -> f64),
        );
        let limit = &samples[3];
        for (((name, _), samples), allocations) in readers.iter().zip(&samples).zip(allocations) {
            let ratio: Samples = samples.by(limit);
            println!(
                "| {workload} | {name} | {} | {:.2} ({:.2}–{:.2}) | {allocations} |",
                nanos(samples.median()),
                ratio.median(),
                ratio.quantile(0.25),
                ratio.quantile(0.75),
            );
        }
    }
}
