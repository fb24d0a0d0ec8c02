//! What a program does with a cached reader: reads, from one task or from many, and caches ahead. All of it is
//! `read_blocks` and `warm`.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gibblox_cache::WarmPlan;
use gibblox_core::{BlockReader, ReadContext};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use crate::image::Check;
use crate::source::{Remote, Traffic};
use crate::table::Row;
use crate::{BLOCK_BYTES, CachedImage, Result, plain};

/// How much one read asks for: enough for a request over a network to be worth its latency, little enough for a
/// buffer. However large the image is, this is all of it that a reader holds.
const PIECE_BYTES: usize = 1 << 20;

/// What is checked at once; reads begin at multiples of it.
pub(crate) const CHUNK_BYTES: usize = PIECE_BYTES / 4;

/// Readers of the last pass, and into how many groups they fall. The members of a group read the same part.
const READERS: u64 = 64;
const GROUPS: u64 = 4;

/// The first so many blocks of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    blocks: u64,
}

impl Extent {
    pub(crate) const fn new(blocks: u64) -> Self {
        Self { blocks }
    }

    /// As much of it as `bytes` have room for.
    pub(crate) fn first(self, bytes: u64) -> Self {
        Self::new(self.blocks.min(bytes / u64::from(BLOCK_BYTES)))
    }

    /// The last block of an image counts in full, even if the image ends within it: the rest of it is zeros.
    pub(crate) const fn len_bytes(self) -> u64 {
        self.blocks * BLOCK_BYTES as u64
    }
}

/// One reader reads the extent from its start to its end.
pub(crate) async fn one_reader(
    image: &Arc<CachedImage>,
    remote: &Remote,
    check: &Arc<Check>,
    extent: Extent,
) -> Result<Row> {
    let whole = 0..extent.len_bytes();
    let pass = Measured::start("1 reader", image, remote, extent).await;
    let bar = progress_bar(&pass.name, extent.len_bytes());
    let read = read_range(image, check, whole, &bar).await;
    bar.finish_and_clear();
    read?;
    Ok(pass.finish(image, remote, extent.len_bytes()).await)
}

/// Many readers at once: each group reads its own part of the extent, and its members all read that same part, a
/// chunk apart, so that what they ask for overlaps without being equal.
pub(crate) async fn many_readers(
    image: &Arc<CachedImage>,
    remote: &Remote,
    check: &Arc<Check>,
    extent: Extent,
) -> Result<Row> {
    let chunk = CHUNK_BYTES as u64;
    let end = extent.len_bytes();
    let part = end.div_ceil(GROUPS * chunk) * chunk;
    let ranges: Vec<Range<u64>> = (0..READERS)
        .map(|reader| {
            let (group, member) = (reader % GROUPS, reader / GROUPS);
            let part_end = ((group + 1) * part).min(end);
            let first = group * part + member % 4 * chunk;
            first.min(part_end)..part_end
        })
        .collect();
    let wanted = ranges.iter().map(|range| range.end - range.start).sum();

    let pass = Measured::start(&format!("{READERS} readers"), image, remote, extent).await;
    let bar = progress_bar(&pass.name, wanted);
    let mut readers = JoinSet::new();
    for range in ranges {
        let (image, check, bar) = (Arc::clone(image), Arc::clone(check), bar.clone());
        readers.spawn(async move { read_range(&image, &check, range, &bar).await });
    }
    // The first failure ends the pass: the others are cancelled when the set is dropped, in the middle of whatever
    // they wait for, which is nothing that a cached reader minds.
    let mut read = Ok(());
    while let (Ok(()), Some(joined)) = (&read, readers.join_next().await) {
        read = joined.unwrap_or_else(|error| Err(format!("a reader died: {error}")));
    }
    bar.finish_and_clear();
    read?;
    Ok(pass.finish(image, remote, wanted).await)
}

/// The extent is cached ahead, with a progress bar, while a reader reads the end of it, which is the last that would
/// come. Then all of it is read. Returns how long the reader had to wait, too.
pub(crate) async fn cached_ahead(
    image: &Arc<CachedImage>,
    remote: &Remote,
    check: &Arc<Check>,
    extent: Extent,
) -> Result<(Row, Duration)> {
    let whole = 0..extent.len_bytes();
    let end =
        whole.end.saturating_sub(CHUNK_BYTES as u64) / CHUNK_BYTES as u64 * CHUNK_BYTES as u64;
    let pass = Measured::start("ahead, 1 reader", image, remote, extent).await;
    let bar = progress_bar(&pass.name, extent.len_bytes());
    let quiet = ProgressBar::hidden();
    let warming = image.warm_with_progress(WarmPlan::range(0..extent.blocks), |progress| {
        bar.set_length(progress.wanted_bytes());
        bar.set_position(progress.done_bytes());
    });
    let reading = async {
        let start = Instant::now();
        read_range(image, check, end..whole.end, &quiet).await?;
        Ok::<_, String>(start.elapsed())
    };
    let (warmed, waited) = tokio::join!(warming, reading);
    bar.finish_and_clear();
    warmed.map_err(|error| format!("cannot cache ahead: {}", plain(&error)))?;
    let waited = waited?;
    let read_bytes = whole.end - end + whole.end;
    read_range(image, check, whole, &quiet).await?;
    Ok((pass.finish(image, remote, read_bytes).await, waited))
}

/// Reads and checks `range`, given in bytes, piece by piece.
async fn read_range(
    image: &CachedImage,
    check: &Check,
    range: Range<u64>,
    bar: &ProgressBar,
) -> Result<()> {
    let mut buf = vec![0; PIECE_BYTES];
    let mut at = range.start;
    while at < range.end {
        let rest = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        let piece = &mut buf[..rest.min(PIECE_BYTES)];
        let lba = at / u64::from(BLOCK_BYTES);
        image
            .read_blocks(lba, piece, ReadContext::FOREGROUND)
            .await
            .map_err(|error| format!("cannot read block {lba}: {}", plain(&error)))?;
        check.bytes(at, piece)?;
        bar.inc(piece.len() as u64);
        at += piece.len() as u64;
    }
    Ok(())
}

/// Goes to stderr, and only if that is a terminal.
fn progress_bar(name: &str, len_bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg:<20} [{bar:32}] {bytes:>11} of {total_bytes}, {bytes_per_sec}",
    )
    .expect("the template is well-formed")
    .progress_chars("=> ");
    ProgressBar::new(len_bytes)
        .with_style(style)
        .with_message(name.to_owned())
}

/// The meters at the start of a pass.
struct Measured {
    name: String,
    start: Instant,
    hits: u64,
    misses: u64,
    traffic: Traffic,
}

impl Measured {
    async fn start(who: &str, image: &CachedImage, remote: &Remote, extent: Extent) -> Self {
        let stats = image.get_stats().await;
        let warmth = match stats.cached_blocks {
            0 => "cold",
            some if some < extent.blocks => "partly warm",
            _ => "warm",
        };
        Self {
            name: format!("{who}, {warmth}"),
            hits: stats.total_hits,
            misses: stats.total_misses,
            traffic: remote.traffic(),
            start: Instant::now(),
        }
    }

    async fn finish(self, image: &CachedImage, remote: &Remote, read_bytes: u64) -> Row {
        let time = self.start.elapsed();
        let (stats, traffic) = (image.get_stats().await, remote.traffic());
        Row {
            name: self.name,
            read_bytes,
            requests: traffic.requests - self.traffic.requests,
            received_bytes: traffic.received_bytes - self.traffic.received_bytes,
            time,
            hits: stats.total_hits - self.hits,
            misses: stats.total_misses - self.misses,
        }
    }
}
