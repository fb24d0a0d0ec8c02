//! What opening takes over, what it rebuilds, and what it refuses.

use crate::support::source::{self, Fault};
use crate::support::{
    Backend, Immediate, Reader, Source, cache_blocks, check_read, finish, open, open_with, read,
};
use core::fmt;
use gibblox_cache::{
    CacheConfig, CachedBlockReader, MemoryCacheOps, VerifyPolicy, cached_config_identity_string,
    cached_reader_identity_string, derive_cached_config_identity_id,
    derive_cached_reader_identity_id,
};
use gibblox_core::{
    BlockReader, BlockReaderConfigIdentity, GibbloxError, GibbloxErrorKind, block_identity_string,
    derive_block_identity_id, derive_config_identity_id,
};
use std::sync::Arc;

const BLOCK: u32 = 64;
const BLOCKS: u64 = 40;

fn cached(reader: &Reader) -> u64 {
    finish(reader.get_stats()).cached_blocks
}

/// A backend that holds some blocks of the source with the seed 1.
fn filled() -> (Arc<Source>, Arc<Backend>) {
    let (source, backend) = (Source::new(1, BLOCK, BLOCKS), Backend::new());
    let reader = open(&source, &backend);
    check_read(&reader, &source, 3, 20);
    cache_blocks(&reader, &source, [30, 39]);
    source.forget();
    (source, backend)
}

/// Opens what another source left behind: nothing of it is served, and from then on it is this one's.
#[track_caller]
fn assert_rebuilt(backend: &Arc<Backend>, source: &Arc<Source>) {
    let reader = open(source, backend);
    assert_eq!(cached(&reader), 0);
    check_read(&reader, source, 0, source.blocks());
    assert_eq!(source.reads(), [(0, source.blocks())]);
    drop(reader);
    let reader = open(source, backend);
    source.forget();
    check_read(&reader, source, 0, source.blocks());
    assert_eq!(source.reads(), []);
}

#[test]
fn the_same_source_finds_all_of_its_blocks_and_fetches_none_again() {
    let (source, backend) = filled();
    for _ in 0..3 {
        let reader = open(&source, &backend);
        assert_eq!(cached(&reader), 22);
        check_read(&reader, &source, 3, 20);
        check_read(&reader, &source, 30, 1);
        check_read(&reader, &source, 39, 1);
        assert_eq!(source.reads(), []);
    }
}

#[test]
fn another_object_with_the_same_identity_is_the_same_source() {
    let (_, backend) = filled();
    let twin = Source::new(1, BLOCK, BLOCKS);
    let reader = open(&twin, &backend);
    check_read(&reader, &twin, 3, 20);
    assert_eq!(twin.reads(), []);
}

#[test]
fn another_a_longer_and_a_shorter_identity_rebuild() {
    let (source, _) = filled();
    let own = block_identity_string(&*source);
    let longer = format!("{own}0");
    let shorter = &own[..own.len() - 1];
    let other = own.replace("source", "sourcf");
    let long = "x".repeat(5000);
    for identity in [
        &longer,
        shorter,
        &other,
        "",
        &long,
        "s\u{f6}urce-1",
        "source-1\0",
    ] {
        let (_, backend) = filled();
        let source = Source::with_identity(2, BLOCK, BLOCKS, identity);
        assert_rebuilt(&backend, &source);
        // And back again: nothing of the first source is left to be found.
        assert_rebuilt(&backend, &Source::new(1, BLOCK, BLOCKS));
    }
}

#[test]
fn another_geometry_rebuilds() {
    for (block_size, blocks) in [
        (BLOCK / 2, BLOCKS),
        (BLOCK / 2, BLOCKS * 2),
        (BLOCK * 2, BLOCKS / 2),
        (BLOCK, BLOCKS - 1),
        (BLOCK, BLOCKS + 1),
        (BLOCK, BLOCKS * 8),
        (BLOCK, 1),
    ] {
        let (_, backend) = filled();
        let source = Source::new(1, block_size, blocks);
        assert_rebuilt(&backend, &source);
        assert_rebuilt(&backend, &Source::new(1, BLOCK, BLOCKS));
    }
}

#[test]
fn a_file_may_be_handed_from_source_to_source() {
    let backend = Backend::new();
    for round in 0..20 {
        let identity = "i".repeat(round * 7 % 13);
        let seed = round as u64 % 5;
        let source = Source::with_identity(seed, 16 << (round % 3), 5 + seed, &identity);
        let reader = open(&source, &backend);
        check_read(&reader, &source, 1, 4);
        check_read(&reader, &source, 0, source.blocks());
    }
}

#[test]
fn opening_takes_no_block_of_the_source() {
    let (source, backend) = filled();
    open(&source, &backend);
    let asked = source.calls();
    assert!(
        asked.iter().all(|call| call.op == source::Op::Size),
        "{asked:?}"
    );
}

#[test]
fn a_block_size_of_zero_or_no_power_of_two_is_invalid_input() {
    for block_size in [0, 3, 511, 513, 1000, u32::MAX] {
        let (source, backend) = (Source::new(1, block_size, 4), Backend::new());
        let opening = CachedBlockReader::new(Arc::clone(&source), Arc::clone(&backend));
        let error = finish(opening).map(|_| ()).expect_err("refused");
        assert_eq!(error.kind(), GibbloxErrorKind::InvalidInput, "{block_size}");
        assert_eq!(backend.bytes(), [], "what is refused touches nothing");
    }
}

#[test]
fn limits_of_zero_are_invalid_input() {
    let config = CacheConfig::new();
    for config in [
        config.with_flush_every_blocks(0),
        config.with_window_bytes(0),
        config.with_windows_at_once(0),
        config.with_fetches_at_once(0),
    ] {
        let (source, backend) = (Source::new(1, BLOCK, 4), Backend::new());
        let opening = CachedBlockReader::open(Arc::clone(&source), Arc::clone(&backend), config);
        let error = finish(opening).map(|_| ()).expect_err("refused");
        assert_eq!(error.kind(), GibbloxErrorKind::InvalidInput, "{config:?}");
        assert_eq!(backend.bytes(), []);
    }
    let (source, backend) = (Source::new(1, BLOCK, 4), Backend::new());
    let opening =
        CachedBlockReader::with_flush_block_limit(Arc::clone(&source), Arc::clone(&backend), 0);
    let error = finish(opening).map(|_| ()).expect_err("refused");
    assert_eq!(error.kind(), GibbloxErrorKind::InvalidInput);
}

#[test]
fn a_geometry_that_no_memory_could_hold_is_an_error() {
    for (block_size, blocks) in [
        (1 << 31, u64::MAX),
        (4096, u64::MAX),
        (4096, u64::MAX / 4096),
        (1, u64::MAX),
        (512, 1 << 62),
    ] {
        let source = Source::new(1, block_size, blocks);
        let opening = CachedBlockReader::new(source, MemoryCacheOps::new());
        let opened = finish(opening).map(|_| ());
        assert!(opened.is_err(), "{blocks} blocks of {block_size} bytes");
    }
}

#[test]
fn a_source_that_does_not_know_its_length_gives_its_own_error() {
    let (source, backend) = filled();
    let before = backend.bytes();
    source.fail(|call| {
        let error = GibbloxError::with_message(GibbloxErrorKind::Unsupported, "no length");
        (call.op == source::Op::Size).then_some(Fault::Error(error))
    });
    let opening = CachedBlockReader::new(Arc::clone(&source), Arc::clone(&backend));
    let error = finish(opening).map(|_| ()).expect_err("the source failed");
    assert_eq!(error.kind(), GibbloxErrorKind::Unsupported);
    assert_eq!(error.message(), Some("no length"));
    assert_eq!(backend.bytes(), before);
    source.heal();
    assert_eq!(cached(&open(&source, &backend)), 22);
}

#[test]
fn over_a_backend_that_is_dead_at_opening_caching_starts_once_it_is_back() {
    for immediate in [false, true] {
        for bytes in [Vec::new(), vec![0xFF; 5000], filled().1.bytes()] {
            let (source, backend) = (Source::new(1, BLOCK, BLOCKS), Backend::with_bytes(bytes));
            backend.die();
            if immediate {
                let wrapped = Immediate(Arc::clone(&backend));
                let opening = CachedBlockReader::new(Arc::clone(&source), wrapped);
                comes_back(&finish(opening).unwrap(), &source, &backend);
            } else {
                comes_back(&open(&source, &backend), &source, &backend);
            }
            let reader = open(&source, &backend);
            source.forget();
            check_read(&reader, &source, 0, BLOCKS);
            assert_eq!(source.reads(), [], "the next process finds them");
        }
    }
}

fn comes_back<C: gibblox_cache::CacheOps>(
    reader: &CachedBlockReader<Arc<Source>, C>,
    source: &Source,
    backend: &Backend,
) {
    check_read(reader, source, 0, BLOCKS);
    check_read(reader, source, 5, 10);
    finish(reader.ensure_cached(0, 4, gibblox_core::ReadContext::BACKGROUND)).unwrap_err();
    backend.heal();
    check_read(reader, source, 0, BLOCKS);
    source.forget();
    check_read(reader, source, 0, BLOCKS);
    assert_eq!(source.reads(), [], "it caches again");
    finish(reader.flush_cache()).unwrap();
}

#[test]
fn a_partition_with_anything_on_it_becomes_a_cache() {
    for garbage in [0x00, 0xFF, 0x47] {
        let backend = Backend::partition(vec![garbage; 8192]);
        let source = Source::new(1, BLOCK, BLOCKS);
        assert_rebuilt(&backend, &source);
        assert_eq!(backend.bytes().len(), 8192);
    }
}

#[test]
fn a_partition_that_is_too_small_is_in_nobodys_way() {
    for size in [0, 10, 28, 60, 64, 600, 2000, 2800] {
        let (source, backend) = (
            Source::new(1, BLOCK, BLOCKS),
            Backend::partition(vec![0xFF; size]),
        );
        for _ in 0..2 {
            let reader = open(&source, &backend);
            check_read(&reader, &source, 0, 10);
            check_read(&reader, &source, 30, 10);
            check_read(&reader, &source, 0, BLOCKS);
            check_read(&reader, &source, 0, BLOCKS);
        }
    }
}

#[test]
fn two_readers_of_one_source_over_one_backend_serve_right_bytes() {
    let (source, backend) = filled();
    let (one, two) = (open(&source, &backend), open(&source, &backend));
    for lba in 0..BLOCKS - 4 {
        check_read(&one, &source, lba, 4);
        check_read(&two, &source, lba, 4);
    }
    drop((one, two));
    check_read(&open(&source, &backend), &source, 0, BLOCKS);
}

#[test]
fn a_reset_by_another_opener_is_noticed_where_every_read_is_compared() {
    for other in [
        Source::with_identity(2, BLOCK, BLOCKS, "source-2"),
        Source::with_identity(2, BLOCK, BLOCKS, "a-longer-identity"),
        Source::with_identity(2, BLOCK / 2, BLOCKS * 3, "source-2"),
        Source::with_identity(2, BLOCK, 2, "s"),
    ] {
        let (source, backend) = filled();
        let config = CacheConfig::new().with_verify(VerifyPolicy::OnEveryRead);
        let reader = open_with(&source, &backend, config);
        check_read(&reader, &source, 0, BLOCKS);
        let resetting = open_with(&other, &backend, config);
        check_read(&reader, &source, 0, BLOCKS);
        for lba in 0..other.blocks() {
            check_read(&resetting, &other, lba, 1);
            check_read(&reader, &source, lba % BLOCKS, 1);
        }
        drop((reader, resetting));
        check_read(&open(&source, &backend), &source, 0, BLOCKS);
        check_read(&open(&other, &backend), &other, 0, other.blocks());
    }
}

#[test]
fn the_identity_of_a_cached_reader_is_the_inner_one_between_brackets() {
    let (source, backend) = (Source::new(1, BLOCK, BLOCKS), Backend::new());
    let reader = open(&source, &backend);
    assert_eq!(cached_reader_identity_string(&*source), "cached:(source-1)");
    assert_eq!(block_identity_string(&reader), "cached:(source-1)");
    let unsized_source: &dyn BlockReader = &*source;
    assert_eq!(
        cached_reader_identity_string(unsized_source),
        "cached:(source-1)"
    );
    let id = derive_block_identity_id(BLOCK, BLOCKS, |out| out.write_str("cached:(source-1)"));
    assert_eq!(derive_cached_reader_identity_id(&*source, BLOCKS), id);
    assert_ne!(derive_cached_reader_identity_id(&*source, BLOCKS + 1), id);
}

#[test]
fn a_cache_of_a_cache_is_a_reader_too() {
    let (source, lower, upper) = (
        Source::new(1, BLOCK, BLOCKS),
        Backend::new(),
        Backend::new(),
    );
    let reader = finish(CachedBlockReader::new(open(&source, &lower), upper)).unwrap();
    for _ in 0..2 {
        source.assert_bytes(2, &finish(read(&reader, 2, 30)).unwrap());
    }
    assert_eq!(source.reads(), [(2, 30)]);
    assert_eq!(block_identity_string(&reader), "cached:(cached:(source-1))");
}

struct Config(&'static str);

impl BlockReaderConfigIdentity for Config {
    fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str(self.0)
    }
}

#[test]
fn the_identity_of_a_cached_config_is_the_inner_one_between_brackets() {
    let inner = Config("http:x");
    assert_eq!(cached_config_identity_string(&inner), "cached:(http:x)");
    let erased: &dyn BlockReaderConfigIdentity = &inner;
    assert_eq!(cached_config_identity_string(erased), "cached:(http:x)");
    let id = derive_config_identity_id(&Config("cached:(http:x)"));
    assert_eq!(derive_cached_config_identity_id(&inner), id);
    assert_eq!(derive_cached_config_identity_id(erased), id);
}
