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
