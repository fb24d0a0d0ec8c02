//! What was tried, and what this crate and the published one made of it.

use crate::support::files::check_file;
use crate::support::powercut::PowerCut;
use crate::support::published::{open_published, read_published};
use crate::support::{Backend, Source, finish};
use core::fmt::{self, Display};
use gibblox_core::derive_block_identity_id_from_reader;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// More images than this of one cut are sampled. No cut of a small cache has as many.
pub(crate) const MOST_IMAGES: usize = 1 << 16;

/// What a reader made of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    Right,
    Wrong,
    /// With an error or a panic.
    Failed,
}

/// What the published crate makes of `image`.
fn serve_published(image: &[u8], source: &Arc<Source>) -> Served {
    let served = catch_unwind(AssertUnwindSafe(|| {
        finish(async {
            let disk = Backend::with_bytes(image.to_vec());
            let reader = open_published(source, disk, 64).await?;
            read_published(&reader, 0, source.blocks()).await
        })
    }));
    match served {
        Ok(Ok(bytes)) if bytes == source.bytes(0, source.blocks()) => Served::Right,
        Ok(Ok(_)) => Served::Wrong,
        Ok(Err(_)) | Err(_) => Served::Failed,
    }
}

/// What was tried, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) seen: HashSet<u64>,
    pub(crate) cuts: usize,
    pub(crate) opened: usize,
    pub(crate) published_wrong: usize,
    pub(crate) published_failed: usize,
}

impl Tally {
    /// Whether this image over these sources is a new one.
    fn is_new(&mut self, image: &[u8], sources: &[&Arc<Source>]) -> bool {
        let ids = sources
            .iter()
            .map(|source| derive_block_identity_id_from_reader(*source, source.blocks()));
        let hash = ids.fold(xxh3_64(image), |hash, id| {
            hash.rotate_left(5) ^ u64::from(id)
        });
        self.seen.insert(hash)
    }

    /// Opens an image over each of `sources`, unless it was tried before.
    pub(crate) fn try_image(&mut self, image: &[u8], sources: &[&Arc<Source>]) {
        if !self.is_new(image, sources) {
            return;
        }
        for source in sources {
            self.opened += 1;
            check_file(image, source);
            self.try_published(image, source);
        }
    }

    /// Counts what the published crate makes of an image of its own, unless it was tried before.
    pub(crate) fn try_only_published(&mut self, image: &[u8], source: &Arc<Source>) {
        if self.is_new(image, &[source]) {
            self.try_published(image, source);
        }
    }

    /// Counts what the published crate makes of an image.
    fn try_published(&mut self, image: &[u8], source: &Arc<Source>) {
        match serve_published(image, source) {
            Served::Right => {}
            Served::Wrong => self.published_wrong += 1,
            Served::Failed => self.published_failed += 1,
        }
    }

    /// Tries every image of every cut of a run.
    pub(crate) fn try_every_image(&mut self, disk: &PowerCut, sources: &[&Arc<Source>]) {
        for cut in disk.cuts() {
            self.cuts += 1;
            let few_enough = cut.every_image(MOST_IMAGES, |image| self.try_image(image, sources));
            assert!(few_enough, "too many images of one cut: {cut:?}");
        }
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seen,
            cuts,
            opened,
            published_wrong,
            published_failed,
        } = self;
        let images = seen.len();
        write!(
            f,
            "{cuts} cuts, {images} images, opened {opened} times, none wrong; 0.0.1 is wrong {published_wrong} times \
             and fails {published_failed} times"
        )
    }
}
