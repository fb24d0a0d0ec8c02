//! The published backend passes the suite for those who write one.

use gibblox_cache::contract;
use gibblox_cache_store_std::StdCacheOps;

use crate::program::folder;

#[tokio::test]
async fn the_published_file_backend_keeps_the_contract() {
    let folder = folder();
    let mut files = 0;
    let make = async || {
        files += 1;
        StdCacheOps::open_in(folder.path(), files).unwrap()
    };
    contract::check(make).await.unwrap();
}
