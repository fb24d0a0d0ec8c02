//! A bypassed backend, and a source out of reach: the backend is asked at once, not after many reads.

use super::{Findings, Way, cut_off, served, today};
use crate::support::backend::Op;
use crate::support::{Backend, Poller, Source, finish, read};
use core::ops::Range;
use std::sync::Arc;

const BLOCK: u32 = 512;
const BLOCKS: u64 = 64;

/// A reader whose backend is bypassed, after as many flushes failed, and whose source is out of reach.
fn bypassed(
    way: &Way,
    failures: u32,
    probe_after: u32,
    opened_offline: bool,
    cached: Range<u64>,
) -> (Arc<Source>, Arc<Backend>, super::AnyReader) {
    let source = Source::new(3, BLOCK, BLOCKS);
    let backend = Backend::with_bytes((way.file_of)(&source, cached));
    if opened_offline {
        cut_off(&source);
    }
    let config = today::with_bypass(way.config(), failures, probe_after);
    let reader = way.open_with(&source, &backend, config).expect("it opens");
    cut_off(&source);
    backend.die();
    for _ in 0..failures {
        assert!(finish(reader.flush_cache()).is_err(), "it is dead");
    }
    assert!(today::is_bypassed(&reader), "{failures} failures");
    (source, backend, reader)
}

#[test]
fn what_is_cached_is_served_as_soon_as_the_backend_is_well_again() {
    let mut findings = Findings::default();
    for way in Way::all() {
        for opened_offline in [false, true] {
            for failures in [1, 2, 5] {
                for probe_after in [1, 3, 100] {
                    for blocks in [1, 5, BLOCKS] {
                        let (source, backend, reader) =
                            bypassed(&way, failures, probe_after, opened_offline, 0..BLOCKS);
                        backend.heal();
                        let mut refused = 0;
                        for number in 0..10 {
                            let lba = number * 7 % (BLOCKS - blocks + 1);
                            match finish(read(&reader, lba, blocks)) {
                                Ok(bytes) => source.assert_bytes(lba, &bytes),
                                Err(_) => refused += 1,
                            }
                        }
                        findings.check(refused == 0, || {
                            format!(
                                "{way:?}, opened offline {opened_offline}, bypass({failures}, {probe_after}), {blocks} \
                                 blocks: {refused} of 10 reads are refused"
                            )
                        });
                    }
                }
            }
        }
    }
    findings.end();
}

#[test]
fn a_hundred_reads_of_what_is_cached_are_served_after_two_reads_that_failed() {
    let mut findings = Findings::default();
    for way in Way::all() {
        let source = Source::new(3, BLOCK, BLOCKS);
        let backend = Backend::with_bytes((way.file_of)(&source, 0..BLOCKS));
        cut_off(&source);
        let config = today::with_bypass(way.config(), 2, 100);
        let reader = way.open_with(&source, &backend, config);
        let reader = reader.expect("there is a file");
        backend.fail_all(Op::Read);
        for lba in 0..2 {
            assert!(finish(read(&reader, lba, 1)).is_err(), "neither answers");
        }
        backend.heal();
        let lbas = (0..100).map(|number| number % BLOCKS);
        let now: u64 = lbas.map(|lba| served(&reader, &source, lba..lba + 1)).sum();
        findings.check(now == 100, || {
            format!("{way:?}: {now} of 100 reads are served")
        });
    }
    findings.end();
}

#[test]
fn readers_at_the_same_time_are_all_served_once_the_backend_is_well_again() {
    let mut findings = Findings::default();
    for way in Way::all() {
        let (source, backend, reader) = bypassed(&way, 2, 100, true, 0..BLOCKS);
        backend.heal();
        backend.gate.once();
        source.gate.once();
        let mut poller = Poller::new();
        let tasks: Vec<_> = (0..8)
            .map(|lba| poller.spawn(read(&reader, 3 * lba, 2)))
            .collect();
        poller.run_to_end();
        let served = tasks.into_iter().filter(|task| poller.take(*task).is_ok());
        let served = served.count();
        findings.check(served == 8, || format!("{way:?}: {served} of 8 readers"));
        let again = finish(read(&reader, 1, 2));
        findings.check(again.is_ok(), || format!("{way:?}: nor later"));
    }
    findings.end();
}

#[test]
fn a_backend_that_stays_dead_is_asked_once_for_each_read_at_most() {
    for way in Way::all() {
        let (_source, backend, reader) = bypassed(&way, 2, 100, false, 0..BLOCKS);
        backend.forget();
        for lba in 0..50 {
            assert!(finish(read(&reader, lba, 1)).is_err(), "neither answers");
        }
        let calls = backend.calls().len();
        assert!(calls <= 50, "{way:?}: {calls} calls for 50 reads");
    }
}

#[test]
fn what_is_not_cached_gets_the_error_of_the_source() {
    for way in Way::all() {
        let (_source, backend, reader) = bypassed(&way, 2, 100, true, 0..10);
        backend.heal();
        let error = finish(read(&reader, 40, 1)).expect_err("it is nowhere");
        assert_eq!(error.message(), Some("no route to the source"), "{way:?}");
    }
}
