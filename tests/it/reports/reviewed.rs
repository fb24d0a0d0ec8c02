//! What was found by reading: each with the sequence that broke it.

use super::fail_once;
use crate::support::backend::{Fault, Op};
use crate::support::files::Regions;
use crate::support::{Backend, Source, check_read, finish, open, read};
use gibblox_cache::{CachedBlockReader, MemoryCacheOps};
use std::sync::Arc;

const BLOCK: u32 = 512;
const BLOCKS: u64 = 9;

#[test]
fn a_header_whose_flush_failed_is_written_again_before_the_cache_is_used() {
    // The first flush of a new file is that of its bitmap, the second that of its header.
    for failing in 0..2 {
        let (source, backend) = (Source::new(5, BLOCK, BLOCKS), Backend::new());
        backend.fail(fail_once(failing, Fault::Error, |call| {
            call.op == Op::Flush
        }));
        let reader = open(&source, &backend);
        check_read(&reader, &source, 0, BLOCKS);
        finish(reader.flush_cache()).expect("nothing fails any more");
        let calls = backend.calls();
        let flushes = calls.iter().filter(|call| call.op == Op::Flush);
        let failed = flushes.clone().nth(failing).expect("it failed").index;
        let header = calls.iter().find(|call| {
            call.index > failed && call.op == Op::Write && call.offset == 0 && call.len > 36
        });
        let header = header.expect("the header is written again").index;
        let data = Regions::of(&source).data as u64;
        let stored = calls
            .iter()
            .find(|call| call.op == Op::Write && call.offset >= data);
        assert!(
            header < stored.expect("blocks are stored").index,
            "{failing}"
        );
    }
}

#[test]
fn what_one_reader_drops_stays_dropped_though_another_one_stored_it() {
    for lba in 0..BLOCKS {
        let source = Source::new(5, BLOCK, BLOCKS);
        let array = Arc::new(MemoryCacheOps::new());
        let open = || {
            let opening = CachedBlockReader::new(Arc::clone(&source), Arc::clone(&array));
            finish(opening).expect("it opens")
        };
        let (first, second) = (open(), open());
        check_read(&second, &source, lba, 1);
        source.renew();
        finish(first.invalidate(lba, 1)).expect("memory");
        drop((first, second));
        let next = open();
        let bytes = finish(read(&next, lba, 1)).expect("a well source");
        source.assert_bytes(lba, &bytes);
    }
}

#[test]
fn one_short_answer_does_not_keep_old_checksums_in_a_file_that_is_rebuilt() {
    let source = Source::new(5, BLOCK, BLOCKS);
    let regions = Regions::of(&source);
    for number in 0..4 {
        let mut file = super::file_of_ours(&source, 0..BLOCKS);
        file[9] ^= 1;
        let backend = Backend::partition(file);
        let at_sums = move |call: &crate::support::backend::Call| {
            call.op == Op::Read && call.offset == regions.checksums as u64
        };
        backend.fail(fail_once(number, Fault::Empty, at_sums));
        drop(open(&source, &backend));
        let bytes = backend.bytes();
        let sums = &bytes[regions.checksums..regions.end];
        assert!(sums.iter().all(|byte| *byte == 0), "answer {number}");
    }
}
