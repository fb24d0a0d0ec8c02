//! A source that says another size for once does not cost a whole cache, where the policy or `ServeCached` says so.

use crate::support::files::file_of_ours;
use crate::support::{Backend, Source, check_read, open_with};
use gibblox_cache::{CacheConfig, CacheState, MemoryCacheOps, OfflinePolicy, RebuildPolicy};
use std::sync::Arc;

const BLOCK: u32 = 64;
const BLOCKS: u64 = 11;

fn source(blocks: u64, identity: &str) -> Arc<Source> {
    Source::with_identity(3, BLOCK, blocks, identity)
}

fn file() -> Vec<u8> {
    file_of_ours(&source(BLOCKS, "far-away"), 0..BLOCKS)
}

/// The policies, with what each keeps: a file of this identity and another size, and one of another identity.
fn policies() -> [(CacheConfig, bool, bool); 6] {
    let config = CacheConfig::new();
    let offline = config.with_offline(OfflinePolicy::ServeCached);
    [
        (config, false, false),
        (
            config.with_rebuild(RebuildPolicy::OtherIdentity),
            true,
            false,
        ),
        (config.with_rebuild(RebuildPolicy::Never), true, true),
        (offline, true, false),
        (offline.with_rebuild(RebuildPolicy::Always), false, false),
        (offline.with_rebuild(RebuildPolicy::Never), true, true),
    ]
}

#[test]
fn a_cache_that_may_not_be_overwritten_is_not_touched_and_the_reader_goes_without() {
    for (config, keeps_size, keeps_identity) in policies() {
        let askers = [
            (source(0, "far-away"), keeps_size),
            (source(3, "far-away"), keeps_size),
            (source(BLOCKS + 1, "far-away"), keeps_size),
            (source(BLOCKS, "elsewhere"), keeps_identity),
            (source(BLOCKS, "far-away"), true),
        ];
        for (asker, kept) in askers {
            let backend = Backend::with_bytes(file());
            let reader = open_with(&asker, &backend, config);
            let is_own = asker.blocks() == BLOCKS && reader.state() == CacheState::Serving && kept;
            if kept && !is_own {
                assert_eq!(reader.state(), CacheState::Kept, "{config:?}");
                for lba in 0..asker.blocks() {
                    check_read(&reader, &asker, lba, 1);
                }
            } else {
                assert_eq!(reader.state(), CacheState::Serving, "{config:?}");
            }
            assert_eq!(backend.bytes() == file(), kept, "{config:?}");
        }
        // And when the answer is right again, all of it is there.
        if keeps_size {
            let backend = Backend::with_bytes(file());
            drop(open_with(&source(3, "far-away"), &backend, config));
            let source = source(BLOCKS, "far-away");
            let reader = open_with(&source, &backend, config);
            check_read(&reader, &source, 0, BLOCKS);
            assert_eq!(source.reads(), []);
        }
    }
}

#[test]
fn what_is_no_cache_is_made_one_under_each_policy() {
    let mut begun = file();
    begun[..8].fill(0);
    let mut damaged = file();
    damaged[30] ^= 1;
    for (config, ..) in policies() {
        for content in [Vec::new(), vec![7; 100], begun.clone(), damaged.clone()] {
            let source = source(BLOCKS, "far-away");
            let reader = open_with(&source, &Backend::with_bytes(content), config);
            assert_eq!(reader.state(), CacheState::Serving, "{config:?}");
            check_read(&reader, &source, 0, BLOCKS);
        }
    }
}

#[test]
fn a_reader_that_went_without_takes_the_array_once_it_is_free() {
    let backend = Arc::new(MemoryCacheOps::new());
    let config = CacheConfig::new().with_rebuild(RebuildPolicy::OtherIdentity);
    let (long, short) = (source(BLOCKS, "far-away"), source(3, "far-away"));
    let open = |source: &Arc<Source>| {
        let opening = gibblox_cache::CachedBlockReader::open(
            Arc::clone(source),
            Arc::clone(&backend),
            config,
        );
        crate::support::finish(opening).unwrap()
    };
    drop(open(&long));
    let reader = open(&short);
    assert_eq!(reader.state(), CacheState::Kept);
    crate::support::finish(gibblox_cache::CacheOps::set_len(&*backend, 0)).unwrap();
    for _ in 0..3 {
        check_read(&reader, &short, 0, 3);
    }
    assert_eq!(reader.state(), CacheState::Serving);
}
