//! The file backend keeps the contract of backends.

use crate::support::{BLOCKS, Folder, Source, finish};
use gibblox_cache::contract::Suite;
use gibblox_cache::{CachedBlockReader, FileCacheOps};
use gibblox_core::ReadContext;

#[test]
fn a_file_keeps_the_contract() {
    let folder = Folder::new();
    let mut files = 0;
    let suite = Suite::new().with_max_len(4 << 20);
    let check = suite.check(async || {
        files += 1;
        FileCacheOps::open(folder.join(&files.to_string())).expect("opens")
    });
    finish(check).unwrap_or_else(|broken| panic!("{broken}"));
}

#[test]
fn a_reader_over_a_file_finds_its_blocks_again() {
    let folder = Folder::new();
    let source = Source::new("a", 1);
    for _ in 0..2 {
        let file = FileCacheOps::open_in(folder.path(), &*source).expect("opens");
        let reader = finish(CachedBlockReader::new(source.clone(), file)).expect("opens");
        finish(reader.ensure_cached(5, BLOCKS - 9, ReadContext::FOREGROUND)).expect("caches");
    }
    assert_eq!(source.fetched_blocks(), BLOCKS - 9);
}
