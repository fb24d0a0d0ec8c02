//! `pipeline PIPELINE OUTPUT`: copies what the encoded PIPELINE yields to the file OUTPUT, with a cache at its head.
//!
//! The cache lies where the user's other caches do, which `XDG_CACHE_HOME` can change. Sectors have 512 bytes, as on
//! most disks, so that a partition table is found where such disks have it.

use std::env;
use std::error::Error;
use std::fs;

use gibblox_cache_downstream::copy;
use gibblox_pipeline::{OpenPipelineOptions, PipelineCachePolicy, decode_pipeline, open_pipeline};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [pipeline, output] = args.as_slice() else {
        return Err("usage: pipeline PIPELINE OUTPUT".into());
    };
    let source = decode_pipeline(&fs::read(pipeline)?)?;
    let options = OpenPipelineOptions {
        image_block_size: 512,
        cache_policy: PipelineCachePolicy::Head,
        ..OpenPipelineOptions::default()
    };
    let reader = open_pipeline(&source, &options).await?;
    copy(&*reader, fs::File::create(output)?).await
}
