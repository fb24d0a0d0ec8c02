//! A disk that was full, or refused other calls, when the cache was first started.

use super::{Findings, today};
use crate::support::Backend;
use crate::support::backend::Op;
use crate::support::{Source, finish, lock, open, read};
use async_trait::async_trait;
use core::sync::atomic::{AtomicU64, Ordering};
use gibblox_cache::{CacheConfig, CacheOps, CachedBlockReader, MemoryCacheOps};
use gibblox_cache_harness::Device;
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext};
use std::sync::{Arc, Mutex};

const BLOCK: usize = 512;

/// The calls that a disk refuses.
type Refuses = &'static [Op];

const NONE: Refuses = &[];

/// The ways of being of no use.
const WAYS: [Refuses; 5] = [
    &[Op::Write],
    &[Op::Write, Op::SetLen],
    &[Op::SetLen],
    &[Op::Flush],
    &[Op::Read, Op::Write, Op::SetLen, Op::Flush],
];

/// A sparse disk that counts its calls.
struct Disk {
    memory: MemoryCacheOps,
    refuses: Mutex<Refuses>,
    calls: AtomicU64,
}

impl Disk {
    fn new(refuses: Refuses) -> Arc<Self> {
        Arc::new(Self {
            memory: MemoryCacheOps::new(),
            refuses: Mutex::new(refuses),
            calls: AtomicU64::new(0),
        })
    }

    fn take_calls(&self) -> u64 {
        self.calls.swap(0, Ordering::SeqCst)
    }

    fn call(&self, op: Op) -> GibbloxResult<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if lock(&self.refuses).contains(&op) {
            let error = GibbloxErrorKind::Io;
            return Err(GibbloxError::with_message(error, "no space left"));
        }
        Ok(())
    }
}

#[async_trait]
impl CacheOps for Disk {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.call(Op::Read)?;
        self.memory.read_at(offset, out).await
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.call(Op::Write)?;
        self.memory.write_at(offset, data).await
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.call(Op::SetLen)?;
        self.memory.set_len(len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.call(Op::Flush)?;
        self.memory.flush().await
    }
}

type DiskReader = CachedBlockReader<Device, Arc<Disk>>;

fn start(blocks: u64, disk: &Arc<Disk>, config: CacheConfig) -> (Device, DiskReader) {
    let device = Device::new(BLOCK, blocks, 64 * BLOCK);
    let opening = CachedBlockReader::open(device.clone(), Arc::clone(disk), config);
    (device, finish(opening).expect("a well source"))
}

/// Reads so many blocks, none of which was read before.
fn read_cold(device: &Device, reader: &DiskReader, lbas: impl IntoIterator<Item = u64>) {
    let mut buf = [0; BLOCK];
    for lba in lbas {
        finish(reader.read_blocks(lba, &mut buf, ReadContext::FOREGROUND)).expect("a well source");
        device.check(lba, &buf);
    }
}

#[test]
fn a_cold_read_over_a_disk_that_was_full_at_the_start_makes_four_calls_at_most_on_average() {
    const READS: u64 = 60;
    let mut findings = Findings::default();
    for refuses in WAYS {
        for blocks in [1 << 10, 1 << 18, 1 << 24] {
            let disk = Disk::new(refuses);
            let (device, reader) = start(blocks, &disk, CacheConfig::new());
            disk.take_calls();
            read_cold(&device, &reader, (0..READS).map(|read| read * 5));
            let calls = disk.take_calls();
            findings.check(calls <= 4 * READS, || {
                format!("{refuses:?}, {blocks} blocks: {calls} calls for {READS} cold reads")
            });
        }
    }
    findings.end();
}

#[test]
fn what_a_cold_read_over_a_full_disk_costs_does_not_grow_with_the_device() {
    let mut findings = Findings::default();
    for refuses in WAYS {
        let calls = [1 << 12, 1 << 24].map(|blocks| {
            let disk = Disk::new(refuses);
            let (device, reader) = start(blocks, &disk, CacheConfig::new());
            disk.take_calls();
            read_cold(&device, &reader, (0..40).map(|read| read * 8));
            disk.take_calls()
        });
        let [small, large] = calls;
        findings.check(large <= 2 * small + 30, || {
            format!("{refuses:?}: {small} calls for 40 cold reads of the small device, {large} of the large one")
        });
    }
    findings.end();
}

#[test]
fn a_disk_that_was_full_at_the_start_is_bypassed() {
    let mut findings = Findings::default();
    for refuses in WAYS {
        for (blocks, failures) in [(64, 1), (64, 3), (1 << 18, 3), (1 << 18, 5), (1 << 24, 3)] {
            let disk = Disk::new(refuses);
            let config = today::with_bypass(CacheConfig::new(), failures, 100);
            let (device, reader) = start(blocks, &disk, config);
            read_cold(&device, &reader, (0..60).map(|read| read * 7 % blocks));
            let bypasses = reader.counters().bypasses;
            findings.check(bypasses > 0, || {
                format!("{refuses:?}, {blocks} blocks, after {failures} failures: never begins")
            });
        }
    }
    findings.end();
}

#[test]
fn a_disk_that_was_full_at_the_start_is_used_when_it_has_room_again() {
    for refuses in WAYS {
        for bypass in [false, true] {
            let disk = Disk::new(refuses);
            let mut config = CacheConfig::new();
            if bypass {
                config = today::with_bypass(config, 3, 10);
            }
            let (device, reader) = start(1 << 16, &disk, config);
            read_cold(&device, &reader, 0..100);
            *lock(&disk.refuses) = NONE;
            // A caller that wants the cache itself need not wait.
            finish(reader.flush_cache()).expect("it is well again");
            let _ = device.take_counts();
            read_cold(&device, &reader, 0..100);
            read_cold(&device, &reader, 0..100);
            let (calls, _) = device.take_counts();
            assert_eq!(calls, 100, "{refuses:?}, bypass {bypass}");
        }
    }
}

#[test]
fn without_being_asked_a_disk_that_has_room_again_is_found_by_reads_alone() {
    for refuses in WAYS {
        let disk = Disk::new(refuses);
        let (device, reader) = start(1 << 16, &disk, CacheConfig::new());
        read_cold(&device, &reader, 0..50);
        *lock(&disk.refuses) = NONE;
        read_cold(&device, &reader, 100..2000);
        let _ = device.take_counts();
        read_cold(&device, &reader, 1999..2000);
        let (calls, _) = device.take_counts();
        assert_eq!(calls, 0, "{refuses:?}: not found after 1,900 reads");
    }
}

/// Counts the warnings of a thread.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicU64>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        if *event.metadata().level() <= tracing::Level::WARN {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// How many warnings `work` gives.
fn warnings_of(work: impl Fn()) -> u64 {
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        // Other tests meet these events at the same time, and one of them may just have found no subscriber.
        tracing::callsite::rebuild_interest_cache();
        work();
    });
    warnings.0.load(Ordering::SeqCst)
}

#[test]
fn ten_thousand_cold_reads_over_a_disk_of_no_use_give_a_few_warnings() {
    let mut findings = Findings::default();
    for refuses in WAYS {
        // Full when it was started, and full from later on.
        for later in [false, true] {
            let warnings = warnings_of(|| {
                let disk = Disk::new(if later { NONE } else { refuses });
                // So that there are flushes.
                let config = CacheConfig::new().with_flush_every_blocks(64);
                let (device, reader) = start(1 << 20, &disk, config);
                read_cold(&device, &reader, 0..100);
                *lock(&disk.refuses) = refuses;
                read_cold(&device, &reader, 100..10_100);
            });
            // A length that cannot be changed is no trouble later.
            let silent = later && refuses == [Op::SetLen];
            findings.check(warnings <= 10 && (silent || warnings > 0), || {
                format!("{refuses:?}, later {later}: {warnings} warnings")
            });
        }
    }
    findings.end();
}

#[test]
fn a_thousand_blocks_that_do_not_match_give_a_few_warnings() {
    const BLOCKS: u64 = 1000;
    let source = Source::new(1, 16, BLOCKS);
    let file = crate::support::files::file_of_ours(&source, 0..BLOCKS);
    let start = crate::support::files::Regions::of(&source).data;
    let warnings = warnings_of(|| {
        let mut file = file.clone();
        for lba in 0..BLOCKS as usize {
            file[start + 16 * lba] ^= 1;
        }
        let reader = open(&source, &Backend::with_bytes(file));
        for lba in 0..BLOCKS {
            let bytes = finish(read(&reader, lba, 1)).expect("a well source");
            source.assert_bytes(lba, &bytes);
        }
    });
    assert!((1..=20).contains(&warnings), "{warnings} warnings");
}
