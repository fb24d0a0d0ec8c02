//! How much memory opening or inspecting a hostile file takes: what the source asks for, or what is really there, and
//! never what the file claims.
//!
//! A binary of its own with a single test, since it counts what the global allocator gives to the whole process.

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    clippy::cast_possible_truncation,
    reason = "the helpers serve the other integration tests too; tests run with std, and a panic is how they fail"
)]

#[path = "it/support/mod.rs"]
mod support;

use gibblox_cache::{CacheConfig, CachedBlockReader, OfflinePolicy};
use gibblox_cache_harness::{CountingAllocator, count_allocations};
use support::files::{file_of_ours, file_of_published};
use support::source::Fault;
use support::{Backend, Source, finish, open};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Header, bitmap and bookkeeping of a few blocks, with the futures of opening.
const MOST_BYTES: u64 = 8 << 10;

#[test]
fn no_number_in_a_file_is_ever_an_allocation() {
    let source = Source::with_identity(7, 64, 11, "hostile");
    let fields = [
        ("block size", 12, 4),
        ("total blocks", 16, 8),
        ("identity length", 24, 4),
    ];
    for file in [
        file_of_ours(&source, 0..11),
        file_of_published(&source, 0..11),
    ] {
        for (field, offset, len) in fields {
            for value in [
                0,
                1,
                1 << 16,
                1 << 30,
                u64::from(u32::MAX),
                1 << 62,
                u64::MAX,
            ] {
                let intact = &file;
                let mut file = intact.clone();
                file[offset..offset + len].copy_from_slice(&value.to_le_bytes()[..len]);
                let backend = Backend::with_bytes(file);
                let (_found, allocations) =
                    count_allocations(|| finish(gibblox_cache::inspect(&backend)));
                let peak = allocations.peak_bytes;
                assert!(
                    peak < MOST_BYTES,
                    "inspected, {field} of {value:#x}: {peak} bytes"
                );
                source.fail(|_| Some(Fault::io("no route")));
                let config = CacheConfig::new().with_offline(OfflinePolicy::ServeCached);
                let offline = CachedBlockReader::open(source.clone(), backend.clone(), config);
                let (opened, allocations) = count_allocations(|| finish(offline));
                let peak = allocations.peak_bytes;
                let is_as_it_was = backend.bytes() == *intact;
                assert_eq!(opened.is_ok(), is_as_it_was, "{field} of {value:#x}");
                assert!(
                    peak < MOST_BYTES,
                    "offline, {field} of {value:#x}: {peak} bytes"
                );
                source.heal();
                let (_reader, allocations) = count_allocations(|| open(&source, &backend));
                let peak = allocations.peak_bytes;
                assert!(peak < MOST_BYTES, "{field} of {value:#x}: {peak} bytes");
            }
        }
    }
}
