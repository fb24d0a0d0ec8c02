//! A file that lost its end, on a medium that cannot be written: what is there is served.

use super::{Findings, Way, cut_off, fetched_blocks, served};
use crate::support::backend::{Call, Fault, Op};
use crate::support::files::Regions;
use crate::support::{Backend, Source, finish, read};
use std::sync::Arc;

const BLOCK: u32 = 64;
const BLOCKS: u64 = 19;

type Refuses = fn(&Call) -> bool;

/// What the medium refuses.
const REFUSALS: [(&str, Refuses); 5] = [
    ("nothing", |_| false),
    ("all but reads", |call| call.op != Op::Read),
    ("changes of length", |call| call.op == Op::SetLen),
    ("writes", |call| call.op == Op::Write),
    ("flushes", |call| call.op == Op::Flush),
];

/// A full file without its last `cut` bytes, and how many blocks it has wholly.
fn cut_file(way: &Way, source: &Arc<Source>, cut: usize) -> (Vec<u8>, u64) {
    let mut file = (way.file_of)(source, 0..BLOCKS);
    let regions = Regions::of(source);
    file.truncate(file.len() - cut);
    let whole = if way.file == "ours" {
        file.len().saturating_sub(regions.checksums) / 8
    } else {
        file.len().saturating_sub(regions.data) / BLOCK as usize
    };
    (file, whole as u64)
}

/// Cuts within one block, at its ends, and most of the file.
fn cuts() -> impl Iterator<Item = usize> {
    (0..=17).chain([63, 64, 65, 8 * 18, 8 * 19 - 1, 8 * 19, 64 * 18])
}

#[test]
fn offline_what_a_short_file_still_holds_is_served_whatever_the_medium_refuses() {
    let mut findings = Findings::default();
    for way in Way::all() {
        for (refused, refuses) in REFUSALS {
            for cut in cuts() {
                let source = Source::new(4, BLOCK, BLOCKS);
                let (file, whole) = cut_file(&way, &source, cut);
                let backend = Backend::with_bytes(file.clone());
                backend.fail(move |call| refuses(call).then_some(Fault::Error));
                cut_off(&source);
                let opened = way.open(&source, &backend);
                let is_open = opened.is_ok();
                let now = opened.map_or(0, |reader| served(&reader, &source, 0..BLOCKS));
                // Nothing protects the number of blocks in a file of 0.0.1, so without its source only a length that fits
                // vouches for it.
                let is_refused = way.file == "0.0.1" && cut > 0 && !is_open;
                let is_served = now == whole && (is_open || whole == 0);
                findings.check(is_served || is_refused, || {
                    format!("{way:?}, {refused} refused, {cut} bytes cut off: opened {is_open}, {now} of {whole} served")
                });
                if refused == "all but reads" {
                    assert_eq!(backend.bytes(), file, "it cannot be written");
                }
            }
        }
    }
    findings.end();
}

#[test]
fn online_only_what_a_short_file_lacks_is_fetched_whatever_the_medium_refuses() {
    let mut findings = Findings::default();
    for way in Way::all() {
        for (refused, refuses) in REFUSALS {
            for cut in cuts() {
                let source = Source::new(4, BLOCK, BLOCKS);
                let (file, whole) = cut_file(&way, &source, cut);
                let backend = Backend::with_bytes(file);
                source.forget();
                backend.fail(move |call| refuses(call).then_some(Fault::Error));
                let reader = way.open(&source, &backend).expect("a well source");
                let bytes = finish(read(&reader, 0, BLOCKS)).expect("a well source");
                source.assert_bytes(0, &bytes);
                let fetched = fetched_blocks(&source);
                findings.check(fetched == BLOCKS - whole, || {
                    format!("{way:?}, {refused} refused, {cut} bytes cut off: {fetched} fetched, {whole} were there")
                });
            }
        }
    }
    findings.end();
}

#[test]
fn a_file_that_gets_short_while_it_is_open_costs_what_was_cut_off_and_no_other_block() {
    let mut findings = Findings::default();
    for way in Way::checked() {
        for cut in [1, 8, 9, 16, 80] {
            let source = Source::new(4, BLOCK, BLOCKS);
            let backend = Backend::with_bytes((way.file_of)(&source, 0..BLOCKS));
            let reader = way.open(&source, &backend).expect("it opens");
            let whole = cut_file(&way, &source, cut).1;
            let len = backend.bytes().len() - cut;
            backend.edit(|bytes| bytes.truncate(len));
            source.forget();
            served(&reader, &source, 0..BLOCKS);
            let fetched = fetched_blocks(&source);
            // A policy that compares nothing does not find out.
            findings.check(fetched <= BLOCKS - whole, || {
                format!("{way:?}, {cut} bytes cut off: {fetched} fetched, {whole} were there")
            });
        }
    }
    findings.end();
}
