//! How many instructions does one read take?
//!
//! ```text
//! cargo install gungraun-runner --version 0.19.4        (and valgrind, from the system)
//! cargo bench --manifest-path benches/instructions/Cargo.toml
//! ```
//!
//! Counted by callgrind, for one read each, in a process of its own: a figure that repeats to the instruction on any
//! machine, loaded or not, so a change that costs ten instructions is seen where a clock shows nothing. It says nothing
//! about caches, locks and waiting; for these there is the suite.
//!
//! - hit: a 4 KiB block that was read before, so that code and allocator are warm;
//! - large hit: 1 MiB, which should be one copy and what a small hit costs;
//! - miss: a 4 KiB block that was not read before, beside one that was, from a source in memory.
//!
//! Each by the published 0.0.1, by this crate, and by a boxed future that only copies.

#![allow(missing_docs, reason = "the macros make public items")]

use std::hint::black_box;

use gibblox_cache_harness::{Copying, Device, drive, read};
use gibblox_core::{BlockReader, ReadContext};
use gungraun::{library_benchmark, library_benchmark_group, main};

const BLOCK: usize = 4096;
const BLOCKS: u64 = 512;

/// A reader, where it is to read next, and a buffer.
struct Ready(Box<dyn BlockReader>, u64, Vec<u8>);

fn device() -> Device {
    Device::new(BLOCK, BLOCKS, usize::MAX)
}

/// Reads `warm` blocks from the beginning; `len` bytes at `lba` are next.
fn warmed(reader: Box<dyn BlockReader>, warm: usize, lba: u64, len: usize) -> Ready {
    let mut buf = vec![0; warm * BLOCK];
    for _ in 0..2 {
        drive(reader.read_blocks(0, &mut buf, ReadContext::FOREGROUND)).expect("it is in memory");
    }
    read(&*reader, 0, &mut buf[..BLOCK]);
    Ready(reader, lba, vec![0; len])
}

fn ours() -> Box<dyn BlockReader> {
    let memory = gibblox_cache::MemoryCacheOps::new();
    Box::new(
        drive(gibblox_cache::CachedBlockReader::new(device(), memory)).expect("it is in memory"),
    )
}

fn published() -> Box<dyn BlockReader> {
    let memory = gibblox_cache_published::MemoryCacheOps::new();
    let reader = drive(gibblox_cache_published::CachedBlockReader::new(
        device(),
        memory,
    ));
    Box::new(reader.expect("it is in memory"))
}

fn limit() -> Box<dyn BlockReader> {
    Box::new(Copying::new(&device()))
}

#[library_benchmark]
#[bench::published(warmed(published(), 1, 0, BLOCK))]
#[bench::ours(warmed(ours(), 1, 0, BLOCK))]
#[bench::limit(warmed(limit(), 1, 0, BLOCK))]
fn hit(mut reader: Ready) -> Ready {
    read(black_box(&*reader.0), reader.1, &mut reader.2);
    reader
}

#[library_benchmark]
#[bench::published(warmed(published(), 256, 0, 256 * BLOCK))]
#[bench::ours(warmed(ours(), 256, 0, 256 * BLOCK))]
#[bench::limit(warmed(limit(), 256, 0, 256 * BLOCK))]
fn large_hit(mut reader: Ready) -> Ready {
    read(black_box(&*reader.0), reader.1, &mut reader.2);
    reader
}

#[library_benchmark]
#[bench::published(warmed(published(), 1, 1, BLOCK))]
#[bench::ours(warmed(ours(), 1, 1, BLOCK))]
#[bench::limit(warmed(limit(), 1, 1, BLOCK))]
fn miss(mut reader: Ready) -> Ready {
    read(black_box(&*reader.0), reader.1, &mut reader.2);
    reader
}

library_benchmark_group!(name = reads; benchmarks = hit, large_hit, miss);

main!(library_benchmark_groups = reads);
