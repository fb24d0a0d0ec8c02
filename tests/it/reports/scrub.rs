//! Scrubbing beside a sick disk: what cannot be read is kept, what does not match is dropped, and the error is told.

use super::{Findings, PASSING, Way, bad_sector, cached_blocks, fail_once, lost_in_file, today};
use crate::support::backend::{Fault, Op};
use crate::support::files::Regions;
use crate::support::{Backend, Source, finish};
use std::sync::Arc;

const BLOCK: u32 = 64;
const BLOCKS: u64 = 24;

fn world(way: &Way) -> (Arc<Source>, Arc<Backend>, Regions) {
    let source = Source::new(8, BLOCK, BLOCKS);
    let backend = Backend::with_bytes((way.file_of)(&source, 0..BLOCKS));
    let regions = Regions::of(&source);
    (source, backend, regions)
}

#[test]
fn a_disk_that_cannot_be_read_for_a_while_loses_nothing_to_a_scrub_and_the_error_is_told() {
    let mut findings = Findings::default();
    for way in Way::all() {
        for window in [BLOCK, 5 * BLOCK, 1 << 20] {
            // All of the data, or all of the checksums, or both.
            for part in 0..3 {
                let (source, backend, regions) = world(&way);
                let config = way.config().with_window_bytes(window);
                let reader = way.open_with(&source, &backend, config).expect("it opens");
                let end = if part == 0 {
                    regions.checksums
                } else {
                    regions.end
                };
                let start = if part == 1 {
                    regions.checksums
                } else {
                    regions.data
                };
                if part == 1 && way.file != "ours" {
                    continue;
                }
                backend.fail(bad_sector(start as u64..end as u64));
                let scrubbed = finish(today::scrub(&reader, |_| ()));
                backend.heal();
                let valid = cached_blocks(&reader);
                drop(reader);
                let lost = lost_in_file(&backend.bytes(), &source, 0..BLOCKS);
                let told = scrubbed.is_err();
                findings.check(told && valid == BLOCKS && lost == 0, || {
                    format!(
                        "{way:?}, windows of {window}, part {part}: told {told}, {valid} of {BLOCKS} valid, \
                         {lost} lost in the file"
                    )
                });
            }
        }
    }
    findings.end();
}

#[test]
fn a_read_that_fails_once_beside_a_scrub_drops_nothing_whichever_it_is() {
    let mut findings = Findings::default();
    for way in Way::all() {
        for window in [BLOCK, 5 * BLOCK, 1 << 20] {
            for fault in PASSING {
                for number in 0.. {
                    let (source, backend, _) = world(&way);
                    let config = way.config().with_window_bytes(window);
                    let reader = way.open_with(&source, &backend, config).expect("it opens");
                    backend.forget();
                    backend.fail(fail_once(number, fault, |call| call.op == Op::Read));
                    let _ = finish(today::scrub(&reader, |_| ()));
                    let reached = backend.count(Op::Read) > number;
                    backend.heal();
                    let valid = cached_blocks(&reader);
                    drop(reader);
                    let lost = lost_in_file(&backend.bytes(), &source, 0..BLOCKS);
                    findings.check(valid == BLOCKS && lost == 0, || {
                        format!(
                            "{way:?}, windows of {window}, read {number} is {fault:?}: {valid} of {BLOCKS} valid, \
                             {lost} lost in the file"
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

#[test]
fn one_bad_sector_costs_a_scrub_one_block_at_most() {
    let mut findings = Findings::default();
    for way in Way::all() {
        for (block, blocks, bad) in [(4096, 256, 0), (4096, 256, 131), (4096, 256, 255)] {
            let source = Source::new(8, block, blocks);
            let backend = Backend::with_bytes((way.file_of)(&source, 0..blocks));
            let reader = way.open(&source, &backend).expect("it opens");
            let start = Regions::of(&source).data as u64 + bad * u64::from(block);
            backend.fail(bad_sector(start..start + 512));
            let scrubbed = finish(today::scrub(&reader, |_| ()));
            backend.heal();
            let valid = cached_blocks(&reader);
            drop(reader);
            let lost = lost_in_file(&backend.bytes(), &source, 0..blocks);
            findings.check(valid >= blocks - 1 && lost <= 1, || {
                format!("{way:?}, block {bad} of {blocks}: {valid} valid, {lost} lost in the file, {scrubbed:?}")
            });
        }
    }
    findings.end();
}

#[test]
fn beside_a_bad_sector_what_does_not_match_is_dropped_all_the_same() {
    let mut findings = Findings::default();
    for way in Way::checked() {
        for window in [BLOCK, 5 * BLOCK, 1 << 20] {
            for damaged in 0..BLOCKS {
                let bad = (damaged + 7) % BLOCKS;
                let (source, backend, regions) = world(&way);
                let config = way.config().with_window_bytes(window);
                let reader = way.open_with(&source, &backend, config).expect("it opens");
                let at = |lba: u64| regions.data + (lba * u64::from(BLOCK)) as usize;
                backend.edit(|bytes| bytes[at(damaged) + 3] ^= 0x40);
                let start = at(bad) as u64;
                backend.fail(bad_sector(start..start + 1));
                let _ = finish(today::scrub(&reader, |_| ()));
                backend.heal();
                let is_kept = reader.is_cached(bad, 1).expect("on the device");
                let is_dropped = !reader.is_cached(damaged, 1).expect("on the device");
                let valid = cached_blocks(&reader);
                findings.check(is_kept && is_dropped && valid == BLOCKS - 1, || {
                    format!(
                        "{way:?}, windows of {window}, {damaged} is damaged, {bad} cannot be read: dropped {is_dropped}, \
                         kept {is_kept}, {valid} valid"
                    )
                });
            }
        }
    }
    findings.end();
}

#[test]
fn a_scrub_that_cannot_write_what_it_dropped_says_so_and_has_dropped_it() {
    for way in Way::checked() {
        let (source, backend, regions) = world(&way);
        let reader = way.open(&source, &backend).expect("it opens");
        backend.edit(|bytes| bytes[regions.data] ^= 1);
        backend.fail(|call| (call.op != Op::Read).then_some(Fault::Error));
        assert!(finish(today::scrub(&reader, |_| ())).is_err(), "{way:?}");
        assert!(!reader.is_cached(0, 1).expect("on the device"), "{way:?}");
        drop(source);
    }
}
