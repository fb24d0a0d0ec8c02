//! Reads a remote disk image through the cache: cold, then warm, then by many readers at once, and caches it ahead.
//!
//! ```text
//! cargo run --release --example remote_image
//! cargo run --release --example remote_image -- https://example.org/disk.img --cache disk.cache
//! ```
//!
//! Without a URL it is its own remote: an HTTP server on loopback ([`server`]) with an image that is generated as it
//! is asked for ([`image`]), so that every byte that comes out of the cache can be compared with the byte that ought
//! to be there. With `--cache FILE` what was fetched stays in a file, and the second start finds it. With `--cache-dir DIR`
//! it stays in a file of a directory of many images, which with `--max SIZE` keeps within that.
//!
//! # What to look at
//!
//! A cached remote image is a stack of readers, each of which knows only the one below it:
//!
//! ```text
//! CachedBlockReader        answers from the cache, fetches what is not there, once    this crate
//!   BlockByteReader        makes blocks out of bytes                                  gibblox-core
//!     Metered              counts requests and bytes for the table                    `source.rs`
//!       HttpReader         one HTTP range request per read                            gibblox-http
//! ```
//!
//! Beside them stands the backend, the place where the cache lies: [`MemoryCacheOps`] or [`FileCacheOps`], which a
//! [`CacheDir`] gives as well. [`open_cached`] puts all of this together; start there. `passes.rs` shows what a program does with the finished reader: it reads, from
//! one task or from many, and caches ahead. The rest is a remote to read from, a check of what was read, and a table.
//!
//! # What the table says
//!
//! The cold pass costs one request per piece, the warm pass none. In the third pass 64 readers share a cache that is
//! empty again: together they read the image about fifteen times, and yet each byte crosses the network once, since
//! of all who want a block at the same moment one fetches it and the others wait for that one. Its hit rate is below
//! that of a warm pass all the same: a block that is still on its way counts as a miss for everybody who waits. And
//! its requests are more and smaller than those of the cold pass, since a read fetches only what nobody else is
//! fetching already, and the readers' ranges overlap by fractions of a piece.
//!
//! The last pass caches an empty cache ahead, several windows at once, while a reader wants what would come last. The
//! reader does not wait for its turn, but for a request of its own: the time it took stands below the table.

#![allow(
    clippy::std_instead_of_alloc,
    clippy::std_instead_of_core,
    reason = "an example is an ordinary program: it has std and takes everything from there"
)]

mod args;
mod image;
mod passes;
mod proxy;
mod server;
mod source;
mod table;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use gibblox_cache::{
    CacheConfig, CacheDir, CacheDirOptions, CacheOps, CachedBlockReader, FileCacheOps, Inspection,
    MemoryCacheOps,
};
use gibblox_core::{BlockByteReader, GibbloxError};
use url::Url;

use crate::args::{Args, Task};
use crate::image::Check;
use crate::passes::Extent;
use crate::server::Server;
use crate::source::{Metered, Remote};
use crate::table::Table;

/// The unit in which the cache remembers what it has. 4 KiB is what file systems ask for.
const BLOCK_BYTES: u32 = 4096;

/// How much of an image is read when the cache lies in memory, where all of it stays until the end.
const IN_MEMORY_BYTES: u64 = 256 << 20;

/// How much of an image the many readers read, so that trying this out on a large remote image stays cheap.
const MANY_READERS_BYTES: u64 = 64 << 20;

/// What every step returns: an error is the one line that the user gets to see.
type Result<T> = std::result::Result<T, String>;

/// A cached image. The backend is chosen at run time, hence the `dyn`; a program with one backend names its type.
type CachedImage = CachedBlockReader<BlockByteReader<Remote>, Arc<dyn CacheOps>>;

fn main() -> ExitCode {
    let outcome = match args::parse(env::args_os().skip(1)) {
        Err(message) => Err((2, format!("{message} (try --help)"))),
        Ok(Task::Help) => Ok(args::HELP.into()),
        Ok(Task::Read(args)) => {
            if args.url.is_none() {
                if let Some(code) = proxy::run_past_proxy() {
                    return code;
                }
            }
            run(&args).map_err(|message| (1, message))
        }
    };
    // `println!` would panic where the program at the other end of a pipe has left.
    let printed = outcome.and_then(|text: String| {
        let written = io::stdout().write_all(text.as_bytes());
        written.map_err(|error| (1, format!("cannot print: {error}")))
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            // Messages of the layers below are passed on, and nobody promises that they are one line.
            eprintln!("remote_image: {}", message.replace(['\r', '\n'], " "));
            ExitCode::from(code)
        }
    }
}

fn run(args: &Args) -> Result<String> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?
        .block_on(read_image(args))
}

/// What an error says, without its kind.
fn plain(error: &GibbloxError) -> String {
    error
        .message()
        .map_or_else(|| error.to_string(), str::to_owned)
}

/// Opens the remote and the cache, goes through the passes, and returns the report.
async fn read_image(args: &Args) -> Result<String> {
    // The cache file first: it is the cheaper thing to be wrong about.
    let file = args.cache.as_deref().map(FileCacheOps::open).transpose();
    let file = file.map_err(|error| error.to_string())?;
    let dir = open_dir(args)?;
    let (remote, check, _server) = open_remote(args.url.as_ref()).await?;
    let file = match &dir {
        None => file,
        Some(dir) => {
            let cache = dir.cache_for(&blocks_of(&remote)?);
            Some(cache.map_err(|error| error.to_string())?)
        }
    };

    // With a file all passes use it, and after a second start none of them needs the network. Without one, the many
    // readers get an empty cache of their own: it is then that they have something to share. So does the last pass.
    let in_file = file.is_some();
    let (image, shared, ahead) = match file {
        Some(file) => {
            let image = open_cached(&remote, Arc::new(file)).await?;
            (Arc::clone(&image), Arc::clone(&image), image)
        }
        None => (
            open_cached(&remote, Arc::new(MemoryCacheOps::new())).await?,
            open_cached(&remote, Arc::new(MemoryCacheOps::new())).await?,
            open_cached(&remote, Arc::new(MemoryCacheOps::new())).await?,
        ),
    };

    let found = image.get_stats().await;
    let device = Extent::new(found.total_blocks);
    let whole = if in_file {
        device
    } else {
        device.first(IN_MEMORY_BYTES)
    };
    let part = device.first(MANY_READERS_BYTES);

    let first = passes::one_reader(&image, &remote, &check, whole).await?;
    let second = passes::one_reader(&image, &remote, &check, whole).await?;
    let many = passes::many_readers(&shared, &remote, &check, part).await?;
    let (ahead, waited) = passes::cached_ahead(&ahead, &remote, &check, part).await?;

    // The next process finds what was written without this; a flush makes it outlive a loss of power too.
    image
        .flush_cache()
        .await
        .map_err(|error| format!("cannot make the cache durable: {}", plain(&error)))?;

    // The bytes were checked on the way. What they cost is checked here, and only where the backend was well: a sick
    // one makes no read fail, the remote steps in for it.
    let counters = image.counters();
    let healthy = counters.backend_failures() + counters.checksum_mismatched_blocks == 0;
    let received_bytes = many.received_bytes.max(ahead.received_bytes);
    if healthy && (second.requests > 0 || received_bytes > part.len_bytes()) {
        return Err(format!(
            "something was fetched twice: {second:?}, {many:?}, {ahead:?}"
        ));
    }

    let mut lines = heading(args, device, whole, Extent::new(found.cached_blocks));
    lines.push(format!("\n{}\n", Table::of([first, second, many, ahead])));
    lines.push(format!(
        "While the image was cached ahead, a reader had the end of it after {}.",
        table::time(waited)
    ));
    lines.push(check.verdict().to_string());
    if let Some(dir) = &dir {
        lines.extend(holdings(dir)?);
    }
    if !healthy {
        lines.push(format!(
            "The cache had trouble, and the remote stepped in: {counters:?}."
        ));
    }
    Ok(lines.join("\n") + "\n")
}

/// The image behind `url`, or that of a server of our own, which runs for as long as it is kept.
async fn open_remote(url: Option<&Url>) -> Result<(Remote, Arc<Check>, Option<Server>)> {
    if let Some(url) = url {
        let remote = Metered::open(url.clone(), None).await?;
        return Ok((remote, Arc::new(Check::against_first_sight()), None));
    }
    let server = Server::start()
        .await
        .map_err(|error| format!("cannot listen on loopback: {error}"))?;
    // The URL has another port each time, the image is the same.
    let remote = Metered::open(server.url(), Some(server::IMAGE.identity())).await?;
    Ok((
        remote,
        Arc::new(Check::against(server::IMAGE)),
        Some(server),
    ))
}

/// The directory of caches, where one was asked for.
fn open_dir(args: &Args) -> Result<Option<CacheDir>> {
    let Some(path) = &args.cache_dir else {
        return Ok(None);
    };
    let mut options = CacheDirOptions::new();
    if let Some(max_bytes) = args.max_bytes {
        options = options.with_max_bytes(max_bytes);
    }
    let dir = options.open(path);
    let dir = dir.map_err(|error| format!("the directory {}: {error}", path.display()))?;
    Ok(Some(dir))
}

/// The image as blocks, without a cache.
fn blocks_of(remote: &Remote) -> Result<BlockByteReader<Remote>> {
    BlockByteReader::new(Arc::clone(remote), BLOCK_BYTES).map_err(|error| plain(&error))
}

/// The layers of the module head, and the backend beside them.
async fn open_cached(remote: &Remote, cache: Arc<dyn CacheOps>) -> Result<Arc<CachedImage>> {
    let cannot_open = |error| format!("cannot open the cache: {}", plain(&error));
    let blocks = blocks_of(remote)?;
    // The default, a flush after 64 blocks, is one for every piece that the passes read. All that a power cut can
    // take is what was not flushed, and here that is merely fetched again: a flush for every 64 MiB will do.
    let config = CacheConfig::new().with_flush_every_blocks(16 * 1024);
    let reader = CachedBlockReader::open(blocks, cache, config)
        .await
        .map_err(cannot_open)?;
    Ok(Arc::new(reader))
}

/// What is read, and from where, in lines.
fn heading(args: &Args, device: Extent, whole: Extent, found: Extent) -> Vec<String> {
    let bytes = |extent: Extent| table::bytes(extent.len_bytes());
    let source = args
        .url
        .as_ref()
        .map_or("generated image on our own server", Url::as_str);
    let mut lines = vec![format!("{source}: {}", bytes(device))];
    if whole != device {
        let first = bytes(whole);
        lines.push(format!(
            "only its first {first}, since the cache lies in memory (see --cache)"
        ));
    }
    if let Some(path) = &args.cache {
        lines.push(format!(
            "cache file {}: {} found in it",
            path.display(),
            bytes(found)
        ));
    }
    lines
}

/// What a directory of caches holds once it was trimmed. Names, since an identity is an address and may have a secret in it.
fn holdings(dir: &CacheDir) -> Result<Vec<String>> {
    let failed = |error: io::Error| format!("the directory {}: {error}", dir.path().display());
    let trimmed = dir.trim().map_err(failed)?;
    let files = dir.list().map_err(failed)?;
    let sum = files.iter().map(|file| file.bytes_on_disk).sum();
    let limit = dir
        .max_bytes()
        .map(|max_bytes| format!(" of {}", table::bytes(max_bytes)));
    let line = format!(
        "cache directory {}: {}{}",
        dir.path().display(),
        table::bytes(sum),
        limit.unwrap_or_default()
    );
    let mut lines = vec![line];
    for file in files {
        let holds = match file.inspection {
            Ok(Inspection::Cache(info)) => {
                let bytes = |blocks| table::bytes(blocks * u64::from(info.block_size));
                format!(
                    "{} of {} cached",
                    bytes(info.valid_blocks),
                    bytes(info.total_blocks)
                )
            }
            Ok(_) => "nothing to be used".into(),
            Err(error) => error.to_string(),
        };
        let taken = table::bytes(file.bytes_on_disk);
        let in_use = if file.is_in_use { ", in use" } else { "" };
        let start = file.name.get(..8).unwrap_or(&file.name);
        lines.push(format!("  {start}... {taken}: {holds}{in_use}"));
    }
    if trimmed.deleted_files > 0 {
        lines.push(format!(
            "  {} older ones were deleted",
            trimmed.deleted_files
        ));
    }
    Ok(lines)
}
