//! Arbitrary bytes as a cache file, and an arbitrary list of operations on it.
//!
//! An input is a few bytes that choose a source, a configuration and how the file is made to look plausible, then the
//! operations, then the file itself. Any input is valid: what is missing reads as zero. The same function runs under
//! the fuzzer and, over the committed corpus, as an ordinary test.

use crate::support::files::{Regions, check_file, file_of_ours, file_of_published, identity};
use crate::support::poll::drop_after;
use crate::support::{Backend, Poller, Reader, Source, backend, finish, open_with, read, source};
use gibblox_cache::{CacheConfig, VerifyPolicy, cached_reader_identity_string};
use gibblox_core::{BlockReader, ReadContext};
use std::sync::Arc;

/// Reads an input byte by byte.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        u64::from(self.byte()) % end
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A run on a device of `total` blocks.
    fn run(&mut self, total: u64) -> (u64, u64) {
        let lba = self.below(total);
        (lba, 1 + self.below(total - lba))
    }
}

/// The header that the published crate writes for this source.
fn published_header(source: &Arc<Source>) -> Vec<u8> {
    let identity = cached_reader_identity_string(source);
    let mut header = b"GIBBLX!\x02\0\0\0\0".to_vec();
    header.extend(source.block_size().to_le_bytes());
    header.extend(source.blocks().to_le_bytes());
    header.extend((identity.len() as u32).to_le_bytes());
    header.extend(identity.as_bytes());
    header
}

/// The file of the input: its rest, made plausible as its first bytes say.
fn file(input: &mut Input<'_>, source: &Arc<Source>) -> Vec<u8> {
    let regions = Regions::of(source);
    let shape = input.byte();
    let len = usize::from(u16::from_le_bytes([input.byte(), input.byte()])) % (regions.end + 40);
    let bytes = input.0;
    let ours = || file_of_ours(source, 0..source.blocks());
    let published = || file_of_published(source, 0..source.blocks());
    let damaged = |mut file: Vec<u8>, start: usize| {
        // The bytes of the input damage a good file: those that are zero leave it as it is.
        let damage = file.iter_mut().zip(bytes).skip(start);
        damage.for_each(|(byte, damage)| *byte ^= damage);
        file
    };
    let mut file = match shape % 6 {
        0 => bytes.to_vec(),
        1 => [&ours()[..regions.bitmap], bytes].concat(),
        2 => damaged(ours(), 0),
        3 => damaged(ours(), regions.bitmap),
        4 => damaged(published(), 0),
        _ => Vec::new(),
    };
    if shape & 0x40 != 0 {
        file.truncate(len);
    }
    if shape & 0x80 != 0 {
        file.resize(len.max(file.len()), 0);
    }
    if file.starts_with(&published_header(source)) {
        // A file without checksums holds what its bits say; nothing in it could tell otherwise.
        let data = source.bytes(0, source.blocks());
        let held = file.iter_mut().skip(regions.data);
        held.zip(data).for_each(|(byte, good)| *byte = good);
    }
    file
}

/// What does not work for the time being.
#[derive(Clone, Copy, Debug, Default)]
struct Sick {
    source: bool,
    backend: bool,
}

fn break_source(input: &mut Input<'_>, source: &Source) {
    let (lba, short) = (input.below(source.blocks()), input.flag());
    source.fail(move |call| {
        let fault = if short {
            source::Fault::Short(1)
        } else {
            source::Fault::io("sick")
        };
        call.touches(lba).then_some(fault)
    });
}

fn break_backend(input: &mut Input<'_>, backend: &Backend) {
    let op = [
        backend::Op::Read,
        backend::Op::Write,
        backend::Op::SetLen,
        backend::Op::Flush,
    ][input.below(4) as usize];
    let fault = [
        backend::Fault::Error,
        backend::Fault::Torn,
        backend::Fault::Short,
    ][input.below(3) as usize];
    let every = 1 + input.below(4) as usize;
    backend.fail(move |call| (call.op == op && call.index % every == 0).then_some(fault));
}

/// Reads, and requires the right bytes wherever the source is healthy.
async fn check(reader: &Reader, source: &Source, sick: Sick, (lba, blocks): (u64, u64)) {
    match read(reader, lba, blocks).await {
        Ok(bytes) => source.assert_bytes(lba, &bytes),
        Err(error) => assert!(sick.source, "a healthy source reads: {error}"),
    }
}

async fn ensure(reader: &Reader, sick: Sick, (lba, blocks): (u64, u64)) {
    let cached = reader
        .ensure_cached(lba, blocks, ReadContext::BACKGROUND)
        .await;
    assert!(
        cached.is_ok() || sick.source || sick.backend,
        "nothing is sick: {cached:?}"
    );
}

/// Does one operation; `None` when the list is over.
fn operate(
    input: &mut Input<'_>,
    reader: &mut Reader,
    (source, backend): (&Arc<Source>, &Arc<Backend>),
    config: CacheConfig,
    sick: &mut Sick,
) -> Option<()> {
    let total = source.blocks();
    match input.below(12) {
        0 => return None,
        1 | 2 => finish(check(reader, source, *sick, input.run(total))),
        3 => finish(ensure(reader, *sick, input.run(total))),
        4 => assert!(finish(reader.flush_cache()).is_ok() || sick.backend),
        5 => assert!(finish(reader.scrub()).is_ok() || sick.backend),
        6 => *reader = open_with(source, backend, config),
        7 => drop(drop_after(
            check(reader, source, *sick, input.run(total)),
            usize::from(input.byte()),
        )),
        8 => drop(drop_after(
            ensure(reader, *sick, input.run(total)),
            usize::from(input.byte()),
        )),
        9 => {
            // Two readers and a prefetcher, polled in the order that the input says, and one of them dropped.
            let runs = [input.run(total), input.run(total), input.run(total)];
            let mut tasks = Poller::new();
            tasks.spawn(check(reader, source, *sick, runs[0]));
            tasks.spawn(check(reader, source, *sick, runs[1]));
            tasks.spawn(ensure(reader, *sick, runs[2]));
            for _ in 0..input.byte() % 16 {
                let woken = tasks.woken();
                if !woken.is_empty() {
                    tasks.poll(woken[input.below(woken.len() as u64) as usize]);
                }
            }
            tasks.cancel(input.below(4) as usize);
            tasks.run_to_end();
        }
        10 => {
            break_source(input, source);
            sick.source = true;
        }
        _ => {
            if sick.backend {
                source.heal();
                backend.heal();
                *sick = Sick::default();
            } else {
                break_backend(input, backend);
                sick.backend = true;
            }
        }
    }
    Some(())
}

/// Opens the file of the input, does its operations, and then requires that everything can be read.
pub(crate) fn open_and_run(input: &[u8]) {
    let mut input = Input(input);
    let input = &mut input;
    let size = 16 << input.below(4);
    let source = &Source::with_identity(
        1,
        size,
        1 + input.below(20),
        &identity(4 + usize::from(input.byte() % 64), "fuzz"),
    );
    let policies = [VerifyPolicy::OnFirstRead, VerifyPolicy::OnEveryRead];
    let config = CacheConfig::new()
        .with_verify(policies[input.below(2) as usize])
        .with_flush_every_blocks(1 + u32::from(input.byte() % 8))
        .with_window_bytes(16 << input.below(8))
        .with_windows_at_once(1 + u32::from(input.byte() % 4))
        .with_fetches_at_once(1 + u32::from(input.byte() % 4));
    let waits = input.flag();

    let (operations, rest) = input.0.split_at(input.0.len().min(64));
    let backend = &Backend::with_bytes(file(&mut Input(rest), source));
    // Whatever it is, somebody who has no source may look at it.
    let found = finish(gibblox_cache::inspect(backend));
    found.expect("the backend is healthy");
    source.forget();
    if waits {
        source.gate.once();
        backend.gate.once();
    }
    let mut sick = Sick::default();
    let mut reader = open_with(source, backend, config);
    let operations = &mut Input(operations);
    while operate(
        operations,
        &mut reader,
        (source, backend),
        config,
        &mut sick,
    )
    .is_some()
    {}

    source.heal();
    backend.heal();
    finish(check(
        &reader,
        source,
        Sick::default(),
        (0, source.blocks()),
    ));
    drop(reader);
    check_file(&backend.bytes(), source);
}
