//! A read that failed is not damage (I8): it is a miss for the request that met it, and takes nothing back.

use super::{
    Findings, PASSING, Way, bad_sector, cached_blocks, cut_off, fail_once, fetched_blocks,
    lost_in_file, served,
};
use crate::support::backend::{Call, Op};
use crate::support::files::Regions;
use crate::support::{Backend, Source, finish, read};
use async_trait::async_trait;
use core::ops::Range;
use gibblox_cache::{CacheOps, CachedBlockReader};
use gibblox_core::GibbloxResult;
use std::sync::Arc;

const BLOCK: u32 = 16;
/// What an earlier process cached; behind it is a block that none did.
const CACHED: Range<u64> = 0..11;
const BLOCKS: u64 = 12;

fn world(way: &Way) -> (Arc<Source>, Arc<Backend>) {
    let source = Source::new(5, BLOCK, BLOCKS);
    let backend = Backend::with_bytes((way.file_of)(&source, CACHED));
    source.forget();
    (source, backend)
}

fn is_read(call: &Call) -> bool {
    call.op == Op::Read
}

#[test]
fn offline_a_read_that_fails_once_loses_no_block_whichever_it_is() {
    let mut findings = Findings::default();
    for way in Way::all() {
        for fault in PASSING {
            for number in 0.. {
                let (source, backend) = world(&way);
                cut_off(&source);
                let reader = way.open(&source, &backend).expect("there is a file");
                backend.forget();
                backend.fail(fail_once(number, fault, is_read));
                for _ in 0..2 {
                    served(&reader, &source, CACHED);
                }
                let reached = backend.count(Op::Read) > number;
                backend.heal();
                let now = served(&reader, &source, CACHED);
                findings.check(now == CACHED.end, || {
                    format!("{way:?}, read {number} is {fault:?}: {now} served")
                });
                // A neighbour is stored, whose bit shares a byte with theirs.
                source.heal();
                served(&reader, &source, CACHED.end..BLOCKS);
                drop(reader);
                let lost = lost_in_file(&backend.bytes(), &source, CACHED);
                findings.check(lost == 0, || {
                    format!("{way:?}, read {number} is {fault:?}: {lost} lost in the file")
                });
                if !reached {
                    break;
                }
            }
        }
    }
    findings.end();
}

#[test]
fn online_a_read_that_fails_once_takes_nothing_back_wherever_it_begins_and_ends() {
    let mut findings = Findings::default();
    for way in Way::all() {
        for fault in PASSING {
            for (lba, blocks) in CACHED.flat_map(|lba| {
                let lens = [1, 2, CACHED.end - lba];
                lens.into_iter()
                    .filter(move |len| lba + len <= CACHED.end)
                    .map(move |len| (lba, len))
            }) {
                for number in 0.. {
                    let (source, backend) = world(&way);
                    let reader = way.open(&source, &backend).expect("it opens");
                    backend.forget();
                    backend.fail(fail_once(number, fault, is_read));
                    for _ in 0..2 {
                        let bytes = finish(read(&reader, lba, blocks)).expect("a well source");
                        source.assert_bytes(lba, &bytes);
                    }
                    let reached = backend.count(Op::Read) > number;
                    backend.heal();
                    let valid = cached_blocks(&reader);
                    let of_the_request = fetched_blocks(&source);
                    source.forget();
                    served(&reader, &source, CACHED);
                    let fetched = fetched_blocks(&source);
                    findings.check(
                        valid == CACHED.end && of_the_request <= blocks && fetched == 0,
                        || {
                            format!(
                                "{way:?}, {blocks} from {lba}, read {number} is {fault:?}: {of_the_request} fetched, \
                                 then {valid} valid and {fetched} fetched"
                            )
                        },
                    );
                    if !reached {
                        break;
                    }
                }
            }
        }
    }
    findings.end();
}

#[test]
fn a_read_that_fails_once_while_the_file_is_opened_costs_no_block() {
    let mut findings = Findings::default();
    for way in Way::all() {
        for offline in [false, true] {
            for fault in PASSING {
                for number in 0.. {
                    let (source, backend) = world(&way);
                    if offline {
                        cut_off(&source);
                    }
                    backend.forget();
                    backend.fail(fail_once(number, fault, is_read));
                    let opened = way.open(&source, &backend);
                    let reached = backend.count(Op::Read) > number;
                    backend.heal();
                    let told = opened.is_ok();
                    // An error may be told, and opening may be tried again.
                    let reader = opened.or_else(|_| way.open(&source, &backend));
                    let now = reader
                        .as_ref()
                        .map_or(0, |reader| served(reader, &source, CACHED));
                    let fetched = fetched_blocks(&source);
                    let fetched = if offline { 0 } else { fetched };
                    drop(reader);
                    let lost = lost_in_file(&backend.bytes(), &source, CACHED);
                    let is_right = (told || offline) && now == CACHED.end && fetched <= 1;
                    findings.check(is_right && lost == 0, || {
                        format!(
                            "{way:?}, offline {offline}, read {number} is {fault:?}: opened {told}, {now} served, \
                             {fetched} fetched, {lost} lost in the file"
                        )
                    });
                    if !reached {
                        break;
                    }
                }
            }
        }
    }
    findings.end();
}

/// A full file with one block that cannot be read.
fn with_bad_block(
    way: &Way,
    block: u32,
    blocks: u64,
    bad: u64,
) -> (Arc<Source>, Arc<Backend>, Range<u64>) {
    let source = Source::new(5, block, blocks);
    let backend = Backend::with_bytes((way.file_of)(&source, 0..blocks));
    source.forget();
    let start = Regions::of(&source).data as u64 + bad * u64::from(block);
    (source, backend, start..start + u64::from(block))
}

#[test]
fn offline_a_bad_sector_costs_its_block_and_no_other() {
    let mut findings = Findings::default();
    for way in Way::all() {
        for (block, blocks, bad) in [
            (4096, 256, 9),
            (4096, 256, 0),
            (4096, 256, 255),
            (512, 17, 16),
        ] {
            let (source, backend, sector) = with_bad_block(&way, block, blocks, bad);
            cut_off(&source);
            let reader = way.open(&source, &backend).expect("there is a file");
            backend.fail(bad_sector(sector));
            let at_once = finish(read(&reader, 0, blocks));
            assert!(at_once.is_err(), "there is nowhere to get block {bad} from");
            let now = served(&reader, &source, 0..blocks);
            findings.check(now == blocks - 1, || {
                format!("{way:?}, block {bad} of {blocks}: {now} served")
            });
            backend.heal();
            let now = served(&reader, &source, 0..blocks);
            findings.check(now == blocks, || {
                format!("{way:?}, block {bad} of {blocks}, well again: {now} served")
            });
        }
    }
    findings.end();
}

#[test]
fn online_a_bad_sector_makes_its_block_be_fetched_and_no_other() {
    let mut findings = Findings::default();
    for way in Way::all() {
        for (block, blocks, bad) in [(4096, 256, 9), (4096, 256, 0), (4096, 256, 255)] {
            let (source, backend, sector) = with_bad_block(&way, block, blocks, bad);
            let reader = way.open(&source, &backend).expect("it opens");
            backend.fail(bad_sector(sector));
            let bytes = finish(read(&reader, 0, blocks)).expect("a well source");
            source.assert_bytes(0, &bytes);
            let fetched = fetched_blocks(&source);
            let others = source.fetches();
            let others: usize = (0..)
                .zip(others)
                .map(|(lba, n)| usize::from(lba != bad) * n)
                .sum();
            findings.check(fetched <= 4, || {
                format!(
                    "{way:?}, block {bad} of {blocks}: {fetched} fetched, {others} of them others"
                )
            });
            drop(reader);
            let lost = lost_in_file(&backend.bytes(), &source, 0..blocks);
            backend.heal();
            findings.check(lost <= 1, || {
                format!("{way:?}, block {bad} of {blocks}: {lost} lost in the file")
            });
        }
    }
    findings.end();
}

#[test]
fn bytes_that_cannot_be_read_for_a_while_cost_nothing_once_they_can_wherever_they_lie() {
    let mut findings = Findings::default();
    for way in Way::all() {
        let (source, backend) = world(&way);
        let first = Regions::of(&source).data as u64;
        let end = backend.bytes().len() as u64;
        for at in (first..end).step_by(8) {
            let (source, backend) = world(&way);
            cut_off(&source);
            let reader = way.open(&source, &backend).expect("there is a file");
            backend.fail(bad_sector(at..at + 1));
            let _ = finish(read(&reader, 0, CACHED.end));
            served(&reader, &source, CACHED);
            backend.heal();
            let now = served(&reader, &source, CACHED);
            findings.check(now == CACHED.end, || {
                format!("{way:?}, byte {at} of {end}: {now} served")
            });
        }
    }
    findings.end();
}

/// A backend that gives no more than so many bytes at once.
struct Sips(Arc<Backend>, usize);

#[async_trait]
impl CacheOps for Sips {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        let most = self.1.min(out.len());
        self.0.read_at(offset, &mut out[..most]).await
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.0.write_at(offset, data).await
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.0.set_len(len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.0.flush().await
    }
}

#[test]
fn a_backend_that_answers_in_small_pieces_serves_all_of_a_file() {
    let mut findings = Findings::default();
    for way in Way::all().into_iter().filter(|way| !way.answers_now) {
        for most in [1, 3, 8, 15, 17, 64, 100] {
            for lba in CACHED {
                let (source, backend) = world(&way);
                let cache = Sips(Arc::clone(&backend), most);
                let opening = CachedBlockReader::open(Arc::clone(&source), cache, way.config());
                let reader = finish(opening).expect("it opens");
                for _ in 0..2 {
                    let bytes = finish(read(&reader, lba, CACHED.end - lba)).expect("well");
                    source.assert_bytes(lba, &bytes);
                }
                let (fetched, valid) = (fetched_blocks(&source), cached_blocks(&reader));
                findings.check(fetched == 0 && valid == CACHED.end, || {
                    format!("{way:?}, {most} bytes at once, from {lba}: {fetched} fetched, {valid} valid")
                });
            }
        }
    }
    findings.end();
}
