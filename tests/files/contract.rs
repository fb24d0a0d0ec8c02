//! The file backend keeps the contract of backends.

use crate::support::{Folder, finish};
use gibblox_cache::FileCacheOps;
use gibblox_cache::contract::Suite;

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
