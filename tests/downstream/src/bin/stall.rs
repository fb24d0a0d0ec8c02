//! `stall URL FOLDER OUTPUT CALL`: as `read`, but stops for good in the middle of a call of its cache file, so that it
//! can be killed right there.
//!
//! Calls are counted from 0. Of a write the first half is done by then, of anything else nothing. Says `stalled` where
//! it stops; a program with fewer calls than that ends as `read` does.

use std::env;
use std::error::Error;
use std::fs::File;
use std::future::pending;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use gibblox_cache::{CacheOps, CachedBlockReader};
use gibblox_cache_downstream::{copy, remote};
use gibblox_cache_store_std::StdCacheOps;
use gibblox_core::GibbloxResult;

/// A cache file with a call that never returns.
struct Stalling {
    file: StdCacheOps,
    calls_left: AtomicU64,
}

impl Stalling {
    fn is_the_call(&self) -> bool {
        self.calls_left.fetch_sub(1, Ordering::Relaxed) == 0
    }

    async fn stall(&self) -> ! {
        println!("stalled");
        pending().await
    }
}

#[async_trait]
impl CacheOps for Stalling {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        if self.is_the_call() {
            self.stall().await;
        }
        self.file.read_at(offset, out).await
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        if self.is_the_call() {
            self.file.write_at(offset, &data[..data.len() / 2]).await?;
            self.stall().await;
        }
        self.file.write_at(offset, data).await
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        if self.is_the_call() {
            self.stall().await;
        }
        self.file.set_len(len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        if self.is_the_call() {
            self.stall().await;
        }
        self.file.flush().await
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [url, folder, output, call] = args.as_slice() else {
        return Err("usage: stall URL FOLDER OUTPUT CALL".into());
    };
    let remote = remote(&url.parse()?).await?;
    let cache = Stalling {
        file: StdCacheOps::open_in_for_reader(Path::new(folder), &remote).await?,
        calls_left: AtomicU64::new(call.parse()?),
    };
    let reader = CachedBlockReader::new(remote, cache).await?;
    copy(&reader, File::create(output)?).await
}
