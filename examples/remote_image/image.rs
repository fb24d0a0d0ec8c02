//! What the bytes ought to be: an image that can be generated anywhere, and the check of everything that was read.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::Result;
use crate::passes::CHUNK_BYTES;

/// A disk image that is nowhere stored: each of its bytes follows from the offset.
///
/// Pseudo-random, so that no two blocks are alike and a block in the wrong place cannot pass for the right one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GeneratedImage {
    seed: u64,
    len_bytes: u64,
}

impl GeneratedImage {
    pub(crate) const fn new(seed: u64, len_bytes: u64) -> Self {
        Self { seed, len_bytes }
    }

    pub(crate) const fn len_bytes(self) -> u64 {
        self.len_bytes
    }

    /// Names the bytes, whatever address they are served at today.
    pub(crate) fn identity(self) -> String {
        format!("generated-image:seed={},len={}", self.seed, self.len_bytes)
    }

    /// Writes the bytes from `offset` on into `out`.
    pub(crate) fn fill(self, offset: u64, out: &mut [u8]) {
        // The image is a sequence of words: first the end of the one that `offset` lies in, then whole ones.
        let skip = usize::try_from(offset % 8).expect("less than eight");
        let head = out.len().min((8 - skip) % 8);
        let (head, rest) = out.split_at_mut(head);
        head.copy_from_slice(&self.word(offset / 8)[skip..][..head.len()]);
        for (index, out) in (offset.div_ceil(8)..).zip(rest.chunks_mut(8)) {
            out.copy_from_slice(&self.word(index)[..out.len()]);
        }
    }

    /// The `index`-th eight bytes: splitmix64, a generator that can start anywhere.
    fn word(self, index: u64) -> [u8; 8] {
        let mut z = index
            .wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(self.seed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

/// Compares what was read with what ought to have been read.
#[derive(Debug)]
pub(crate) enum Check {
    /// With the image itself, byte by byte.
    Image(GeneratedImage),
    /// With what was read first from the same place: nobody here knows what a foreign image contains, but it must be
    /// the same each time. A hash per chunk is kept, never the bytes.
    FirstSight(Mutex<HashMap<u64, u64>>),
}

impl Check {
    pub(crate) const fn against(image: GeneratedImage) -> Self {
        Self::Image(image)
    }

    pub(crate) fn against_first_sight() -> Self {
        Self::FirstSight(Mutex::new(HashMap::new()))
    }

    /// Checks `bytes`, which were read at `offset`, a multiple of [`CHUNK_BYTES`].
    pub(crate) fn bytes(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        for (at, chunk) in (offset..)
            .step_by(CHUNK_BYTES)
            .zip(bytes.chunks(CHUNK_BYTES))
        {
            let right = match self {
                Self::Image(image) => matches_image(*image, at, chunk),
                Self::FirstSight(seen) => {
                    let hash = xxh3_64(chunk);
                    *seen
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .entry(at)
                        .or_insert(hash)
                        == hash
                }
            };
            if !right {
                let end = at + chunk.len() as u64;
                return Err(match self {
                    Self::Image(_) => format!("wrong bytes between {at} and {end}"),
                    Self::FirstSight(_) => {
                        format!("bytes between {at} and {end} changed since they were first read")
                    }
                });
            }
        }
        Ok(())
    }

    /// What has been shown, when no call of [`bytes`](Self::bytes) has failed.
    pub(crate) fn verdict(&self) -> Verdict<'_> {
        Verdict(self)
    }
}

fn matches_image(image: GeneratedImage, offset: u64, bytes: &[u8]) -> bool {
    let mut expected = [0; 4096];
    (offset..)
        .step_by(expected.len())
        .zip(bytes.chunks(expected.len()))
        .all(|(at, part)| {
            let expected = &mut expected[..part.len()];
            image.fill(at, expected);
            part == expected
        })
}

/// The last line of the report.
#[derive(Debug)]
pub(crate) struct Verdict<'a>(&'a Check);

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Check::Image(_) => f.write_str("Every byte that was read is the image's."),
            Check::FirstSight(seen) => {
                let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                let mut chunks: Vec<_> = seen.iter().collect();
                chunks.sort_unstable();
                let mut whole = Xxh3::new();
                for (_, hash) in chunks {
                    whole.update(&hash.to_le_bytes());
                }
                let digest = whole.digest();
                write!(
                    f,
                    "All passes read the same bytes (there is no known image to compare with): {digest:016x}."
                )
            }
        }
    }
}
