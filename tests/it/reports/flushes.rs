//! `Ok` of a flush, and of calls that flush, is true whatever failed before, and whichever task flushed beside them.

use super::medium::Forgetting;
use super::{Findings, cached_blocks, today};
use crate::support::backend::{Call, Fault, Op};
use crate::support::files::{Regions, file_of_ours};
use crate::support::powercut::PowerCut;
use crate::support::{Backend, Source, finish, open, open_with, read};
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, Ordering};
use gibblox_cache::{CacheConfig, CachedBlockReader, VerifyPolicy};
use gibblox_core::ReadContext;
use std::sync::Arc;

const BLOCK: u32 = 512;
const BLOCKS: u64 = 11;

type OverMedium = CachedBlockReader<Arc<Source>, Arc<Forgetting>>;

fn over(medium: &Arc<Forgetting>, source: &Arc<Source>, config: CacheConfig) -> OverMedium {
    let opening = CachedBlockReader::open(Arc::clone(source), Arc::clone(medium), config);
    finish(opening).expect("a well source")
}

/// The fewest blocks of what `valid` names that the next process finds in any image, without fetching.
fn fewest_found(medium: &Forgetting, source: &Arc<Source>, valid: &[u64]) -> usize {
    let images = medium.images().into_iter();
    let found = images.map(|image| {
        let reader = open(source, &Backend::with_bytes(image));
        let count = valid.iter().filter(|lba| {
            source.forget();
            let bytes = finish(read(&reader, **lba, 1)).expect("a well source");
            source.assert_bytes(**lba, &bytes);
            source.reads().is_empty()
        });
        count.count()
    });
    found.min().expect("there are images")
}

#[test]
fn what_a_scrub_dropped_stays_dropped_when_another_flush_failed_meanwhile() {
    let mut findings = Findings::default();
    for window in [BLOCK, 3 * BLOCK, 1 << 20] {
        for damaged in 0..BLOCKS {
            // The foreign flush comes after this many windows.
            for after in 1..=BLOCKS.div_ceil(u64::from(window / BLOCK)) {
                let source = Source::new(5, BLOCK, BLOCKS);
                let mut file = file_of_ours(&source, 0..BLOCKS);
                file[Regions::of(&source).data + (damaged * u64::from(BLOCK)) as usize] ^= 1;
                let medium = Forgetting::new(file);
                let config = CacheConfig::new().with_window_bytes(window);
                let reader = over(&medium, &source, config);
                let windows = AtomicBool::new(false);
                let mut seen = 0;
                let scrubbed = finish(today::scrub(&reader, |_| {
                    seen += 1;
                    if seen == after {
                        medium.fail(|number| number == 0);
                        let flushed = finish(reader.flush_cache());
                        windows.store(flushed.is_err(), Ordering::SeqCst);
                    }
                }));
                assert!(windows.load(Ordering::SeqCst), "the flush failed");
                let images = medium.images().into_iter();
                let most = images
                    .map(|image| {
                        let next = open(&source, &Backend::with_bytes(image));
                        u64::from(next.is_cached(damaged, 1).expect("on the device"))
                    })
                    .max();
                let is_right = scrubbed.is_err() || most == Some(0);
                findings.check(is_right, || {
                    format!("windows of {window}, block {damaged}, a flush failed after {after}: it is back, and scrub was Ok")
                });
            }
        }
    }
    findings.end();
}

#[test]
fn the_neighbours_of_a_failed_write_of_bits_are_written_again_or_the_flush_fails() {
    let mut findings = Findings::default();
    for block in 0..8 {
        for garbage in [0x00, 0xFF, 0xB6] {
            for others in [1, 3, 7] {
                let source = Source::new(5, BLOCK, BLOCKS);
                let cached: Vec<u64> = (0..8).filter(|lba| *lba != block).take(others).collect();
                let backend = Backend::new();
                let reader = open(&source, &backend);
                for lba in &cached {
                    finish(read(&reader, *lba, 1)).expect("a well source");
                }
                finish(reader.flush_cache()).expect("a well disk");
                let regions = Regions::of(&source);
                let bits = regions.bitmap as u64..regions.data as u64;
                backend.fail(move |call: &Call| {
                    let touches = call.op == Op::Write && bits.contains(&call.offset);
                    touches.then_some(Fault::Error)
                });
                finish(read(&reader, block, 1)).expect("a well source");
                // What a failed write leaves is unspecified.
                backend.edit(|bytes| bytes[regions.bitmap] = garbage);
                backend.heal();
                let flushed = finish(reader.flush_cache());
                let valid = cached_blocks(&reader);
                let file = backend.bytes();
                drop(reader);
                let next = open(&source, &Backend::with_bytes(file));
                let there = cached
                    .iter()
                    .filter(|lba| next.is_cached(**lba, 1).unwrap());
                let there = there.count();
                findings.check(flushed.is_err() || there == others, || {
                    format!(
                        "bit {block}, left as {garbage:#04x}: {valid} valid, {there} of {others} neighbours in the file, \
                         flush_cache is Ok"
                    )
                });
            }
        }
    }
    findings.end();
}

/// Caches blocks so that automatic flush number `failed` fails and forgets.
fn with_failed_flush(
    flush_every: u32,
    failed: usize,
    ensure: bool,
) -> (Arc<Source>, Arc<Forgetting>, OverMedium, bool) {
    let source = Source::new(5, BLOCK, BLOCKS);
    let medium = Forgetting::new(Vec::new());
    let config = CacheConfig::new().with_flush_every_blocks(flush_every);
    let reader = over(&medium, &source, config);
    medium.fail(move |number| number == failed);
    for lba in 0..BLOCKS - 2 {
        finish(read(&reader, lba, 1)).expect("a well source");
    }
    let is_reached = medium.flushes() > failed;
    if ensure {
        let ensuring = reader.ensure_cached(0, BLOCKS, ReadContext::BACKGROUND);
        let _ = finish(ensuring);
    }
    (source, medium, reader, is_reached)
}

fn valid_blocks(reader: &OverMedium) -> Vec<u64> {
    reader.cached_runs().flatten().collect()
}

#[test]
fn a_flush_after_one_that_failed_is_not_ok_unless_all_that_is_valid_is_durable() {
    let mut findings = Findings::default();
    for flush_every in [1, 2, 4, 9] {
        for failed in 0..9 {
            for ensure in [false, true] {
                let (source, medium, reader, is_reached) =
                    with_failed_flush(flush_every, failed, ensure);
                if !is_reached {
                    continue;
                }
                let valid = valid_blocks(&reader);
                let flushed = finish(reader.flush_cache());
                let found = fewest_found(&medium, &source, &valid);
                findings.check(flushed.is_err() || found == valid.len(), || {
                    format!(
                        "a flush every {flush_every}, number {failed} failed, ensured {ensure}: {found} of {} durable, \
                         flush_cache is Ok",
                        valid.len()
                    )
                });
            }
        }
    }
    findings.end();
}

#[test]
fn however_often_it_is_called_ok_of_a_flush_means_that_all_that_was_valid_is_durable() {
    let mut findings = Findings::default();
    for flush_every in [1, 2, 4, 9] {
        for failed in 0..9 {
            let (source, medium, reader, is_reached) = with_failed_flush(flush_every, failed, true);
            if !is_reached {
                continue;
            }
            let calls = Cell::new(0);
            let valid = loop {
                let valid = valid_blocks(&reader);
                calls.set(calls.get() + 1);
                if finish(reader.flush_cache()).is_ok() {
                    break valid;
                }
                assert!(calls.get() < 4, "the medium is well");
            };
            let found = fewest_found(&medium, &source, &valid);
            findings.check(found == valid.len(), || {
                let calls = calls.get();
                format!(
                    "a flush every {flush_every}, number {failed} failed: {found} of {} durable after {calls} calls",
                    valid.len()
                )
            });
        }
    }
    findings.end();
}

#[test]
fn what_was_cleared_comes_back_with_its_old_bytes_only_without_comparing_and_before_a_flush() {
    let mut findings = Findings::default();
    for (verify, flushes) in [
        (VerifyPolicy::OnFirstRead, false),
        (VerifyPolicy::OnFirstReadOfStored, false),
        (VerifyPolicy::OnEveryRead, false),
        (VerifyPolicy::Never, true),
    ] {
        for fetched in 0..BLOCKS {
            let source = Source::new(5, BLOCK, BLOCKS);
            let disk = PowerCut::new(file_of_ours(&source, 0..BLOCKS));
            let config = CacheConfig::new().with_verify(verify);
            let opening = CachedBlockReader::open(Arc::clone(&source), Arc::clone(&disk), config);
            let reader = finish(opening).expect("a well source");
            source.renew();
            finish(reader.clear()).expect("a well disk");
            finish(read(&reader, fetched, 1)).expect("a well source");
            if flushes {
                finish(reader.flush_cache()).expect("a well disk");
            }
            let old = source.bytes_of(0, fetched, 1);
            let mut images = 0;
            let mut came_back = 0;
            let cut = disk.cuts().pop().expect("the end");
            let few_enough = cut.every_image(1 << 12, |image| {
                images += 1;
                let next = open_with(&source, &Backend::with_bytes(image.to_vec()), config);
                let bytes = finish(read(&next, fetched, 1)).expect("a well source");
                came_back += usize::from(bytes == old);
            });
            assert!(few_enough, "too many images");
            findings.check(came_back == 0, || {
                format!("{verify:?}, block {fetched}: old bytes in {came_back} of {images} images")
            });
        }
    }
    findings.end();
}
