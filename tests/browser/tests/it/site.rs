//! A server, an image and a profile for a browser.

use std::ops::Range;
use std::sync::LazyLock;

use gibblox_cache_browser::glue::{self, Program};
use gibblox_cache_browser::server::{PROBE, Server};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::browser::Browser;

/// Bytes of a block, as in the program.
pub(crate) const BLOCK: usize = 4096;

/// Bytes of a request of the program, which reads 16 blocks at a time.
const REQUEST: usize = 16 * BLOCK;

/// Blocks of the image. Its last request is a short one.
pub(crate) const BLOCKS: usize = 1000;

/// Without optimisation it takes seconds, so it is made once.
static PROGRAM: LazyLock<Program> = LazyLock::new(|| glue::program().unwrap());

pub(crate) struct Site {
    pub(crate) server: Server,
    profile: TempDir,
    sha256: String,
}

impl Site {
    pub(crate) async fn start() -> Self {
        // No two blocks are equal, so that none can stand in for another.
        let image: Vec<u8> = (0..BLOCKS)
            .flat_map(|lba| (0..BLOCK / 8).map(move |at| (lba * BLOCK + at) as u64))
            .flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect();
        let sha256 = format!("{:x}", Sha256::digest(&image));
        Self {
            server: Server::start(0, PROGRAM.clone(), image).await.unwrap(),
            profile: tempfile::tempdir().unwrap(),
            sha256,
        }
    }

    /// A browser on this site's profile.
    pub(crate) async fn browser(&self) -> Browser {
        Browser::start(self.profile.path()).await
    }

    /// An address of this site that opens no image, and leaves its file alone.
    pub(crate) fn elsewhere(&self) -> String {
        format!("{}style.css", self.server.url())
    }

    /// Compares a report with what it has to be: every byte right, where the cache lies, and every block counted once.
    #[track_caller]
    pub(crate) fn assert_report(&self, report: &Value, cache: &str, hits: usize, cached: usize) {
        assert_eq!(report["error"], Value::Null, "{report:#}");
        assert_eq!(report["sha256"], self.sha256, "{report:#}");
        assert_eq!(report["read_bytes"], BLOCKS * BLOCK, "{report:#}");
        assert_eq!(report["cache"], cache, "{report:#}");
        // The four figures by their names, and no others.
        let stats = json!({
            "total_hits": hits,
            "total_misses": BLOCKS - hits,
            "cached_blocks": cached,
            "total_blocks": BLOCKS,
        });
        assert_eq!(report["stats"], stats, "{report:#}");
    }

    /// Compares what the server was asked for since the last call: the length once per page, and these ranges.
    #[track_caller]
    pub(crate) fn assert_asked(&self, pages: usize, ranges: &[Range<usize>]) {
        let by_place = |range: &Range<usize>| (range.start, range.end);
        let mut asked = self.server.take_asked();
        asked.sort_by_key(by_place);
        let mut expected = [ranges, &vec![PROBE; pages]].concat();
        expected.sort_by_key(by_place);
        assert_eq!(asked, expected);
    }
}

/// The requests of a page that reads all of the image from the server.
pub(crate) fn all() -> Vec<Range<usize>> {
    ranges(REQUEST)
}

/// The image in ranges of `len` bytes; the last one may be shorter.
pub(crate) fn ranges(len: usize) -> Vec<Range<usize>> {
    (0..BLOCKS * BLOCK)
        .step_by(len)
        .map(|first| first..(first + len).min(BLOCKS * BLOCK))
        .collect()
}
