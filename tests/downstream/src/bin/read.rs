//! `read URL FOLDER OUTPUT`: copies the image at URL to the file OUTPUT, and keeps its blocks in FOLDER.

use std::env;
use std::error::Error;
use std::fs::File;
use std::path::Path;

use gibblox_cache_downstream::{copy, open};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [url, folder, output] = args.as_slice() else {
        return Err("usage: read URL FOLDER OUTPUT".into());
    };
    let reader = open(&url.parse()?, Path::new(folder)).await?;
    copy(&reader, File::create(output)?).await?;
    let stats = reader.get_stats().await;
    println!("{} hits, {} misses", stats.total_hits, stats.total_misses);
    Ok(())
}
