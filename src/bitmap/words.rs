//! [`Words`]: one bit a block, by machine words that are there once the first bit of their chunk is set.
//!
//! Whatever changes a word is a read-modify-write, so that of two threads that cross at a word one sees the other. A
//! chunk that one thread allocates is seen by whoever sees, by way of such a word, what that thread did next.

use alloc::boxed::Box;
use alloc::vec::Vec;

use gibblox_core::{GibbloxError, GibbloxResult};
use once_cell::race::OnceBox;

use crate::error::out_of_memory;
use crate::run::Run;
use crate::sync::{AtomicUsize, Ordering};

/// Words in a chunk: 4 KiB of memory where there are 64 bits, 1 KiB where there are 32. Few in tests, which try all
/// runs around the end of one.
const WORDS: usize = match (cfg!(test), cfg!(target_pointer_width = "64")) {
    (true, _) => 16,
    (false, true) => 512,
    (false, false) => 256,
};

pub(super) const WORD_BITS: u64 = usize::BITS as u64;
const WORD_BYTES: usize = size_of::<usize>();

/// Blocks that a chunk covers: 32 Ki where words have 64 bits, 8 Ki where they have 32.
pub(super) const CHUNK_BLOCKS: u64 = WORDS as u64 * WORD_BITS;

/// Bytes of the file's bitmap that a chunk holds.
pub(super) const CHUNK_BYTES: usize = WORDS * WORD_BYTES;

/// Words that are looked at together where nothing but all of them is of interest. Divides the words of a chunk.
const TOGETHER: usize = 16;

type Chunk = [AtomicUsize; WORDS];

/// Where the bits of a part of a run lie: one word of one chunk.
#[derive(Clone, Copy)]
pub(super) struct Place {
    chunk: usize,
    word: usize,
    pub(super) mask: usize,
    /// The lba of the word's lowest bit.
    pub(super) first_lba: u64,
}

/// The directory has a chunk for every lba below the number of blocks, so its indices fit.
const fn chunk_of(lba: u64) -> usize {
    (lba / CHUNK_BLOCKS) as usize
}

const fn word_of(lba: u64) -> usize {
    (lba % CHUNK_BLOCKS / WORD_BITS) as usize
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a number of bits of a word"
)]
const fn bits(count: u64) -> u32 {
    count as u32
}

/// The word that holds the first bits of `run`.
#[inline]
pub(super) const fn first_place(run: Run) -> Place {
    let first_lba = run.start() - run.start() % WORD_BITS;
    let from = bits(run.start() - first_lba);
    let room = usize::BITS - from;
    let count = if run.blocks() < room as u64 {
        bits(run.blocks())
    } else {
        room
    };
    Place {
        chunk: chunk_of(run.start()),
        word: word_of(run.start()),
        mask: (usize::MAX >> (usize::BITS - count)) << from,
        first_lba,
    }
}

/// The words that hold the bits of `run`, in order.
pub(super) fn places(run: Run) -> impl Iterator<Item = Place> {
    let mut rest = Some(run);
    core::iter::from_fn(move || {
        let run = rest?;
        let place = first_place(run);
        rest = run.from(place.first_lba.saturating_add(WORD_BITS));
        Some(place)
    })
}

/// One bit for each block.
pub(super) struct Words {
    chunks: Vec<OnceBox<Chunk>>,
}

fn no_memory() -> GibbloxError {
    out_of_memory("the validity bitmap")
}

/// As many bytes as a word has, or fewer where they end.
fn word_of_bytes(bytes: &[u8]) -> usize {
    match bytes.try_into() {
        Ok(whole) => usize::from_le_bytes(whole),
        Err(_) => bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | usize::from(*byte)),
    }
}

impl Words {
    /// No bit set. Fails where there is no memory for the directory of chunks.
    pub(super) fn new(total_blocks: u64) -> GibbloxResult<Self> {
        let count =
            usize::try_from(total_blocks.div_ceil(CHUNK_BLOCKS)).map_err(|_| no_memory())?;
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(count).map_err(|_| no_memory())?;
        chunks.resize_with(count, OnceBox::new);
        Ok(Self { chunks })
    }

    /// The parts of `run` whose chunks are there.
    pub(super) fn reserved(&self, run: Run) -> impl Iterator<Item = Run> {
        (chunk_of(run.start())..=chunk_of(run.end() - 1))
            .filter(|chunk| self.chunk(*chunk).is_some())
            .filter_map(move |chunk| {
                let start = chunk as u64 * CHUNK_BLOCKS;
                Run::new(start, start.saturating_add(CHUNK_BLOCKS))?.clip(run)
            })
    }

    #[inline]
    fn chunk(&self, index: usize) -> Option<&Chunk> {
        self.chunks.get(index).and_then(OnceBox::get)
    }

    /// Chunk `index`, where it is not there yet with what `begin` puts at its beginning; and whether that was so.
    fn chunk_or(
        &self,
        index: usize,
        begin: impl FnOnce(&mut Vec<AtomicUsize>),
    ) -> GibbloxResult<(&Chunk, bool)> {
        let mut made = false;
        let chunk = self.chunks.get(index).ok_or_else(no_memory)?;
        let chunk = chunk.get_or_try_init(|| {
            made = true;
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(WORDS).map_err(|_| no_memory())?;
            begin(&mut chunk);
            chunk.resize_with(WORDS, AtomicUsize::default);
            Box::<Chunk>::try_from(chunk.into_boxed_slice()).map_err(|_| no_memory())
        })?;
        Ok((chunk, made))
    }

    /// Makes room for the bits of `run`, so that setting them cannot fail.
    pub(super) fn reserve(&self, run: Run) -> GibbloxResult<()> {
        for index in chunk_of(run.start())..=chunk_of(run.end() - 1) {
            if self.chunk(index).is_none() {
                self.chunk_or(index, |_| ())?;
            }
        }
        Ok(())
    }

    /// The word at `place`, of which `place.mask` says what belongs to its run.
    #[inline]
    pub(super) fn at(&self, place: Place) -> usize {
        self.chunk(place.chunk)
            .map_or(0, |chunk| chunk[place.word].load(Ordering::Acquire))
    }

    /// The word at `place` as the last to change it left it.
    pub(super) fn latest(&self, place: Place) -> usize {
        self.chunk(place.chunk)
            .map_or(0, |chunk| chunk[place.word].fetch_or(0, Ordering::AcqRel))
    }

    /// Sets the bits of `mask`, for which there is [room](Self::reserve); returns which of them were not set.
    pub(super) fn set(&self, place: Place, mask: usize) -> usize {
        self.chunk(place.chunk).map_or(0, |chunk| {
            mask & !chunk[place.word].fetch_or(mask, Ordering::AcqRel)
        })
    }

    /// Clears the bits of `mask`; returns which of them were set.
    pub(super) fn clear(&self, place: Place, mask: usize) -> usize {
        self.chunk(place.chunk).map_or(0, |chunk| {
            mask & chunk[place.word].fetch_and(!mask, Ordering::AcqRel)
        })
    }

    /// Clears all bits, and shows each word that had any.
    pub(super) fn clear_all(&self, mut cleared: impl FnMut(Place)) {
        for (index, chunk) in self.chunks.iter().enumerate() {
            let Some(chunk) = chunk.get() else { continue };
            for (word, bits) in chunk.iter().enumerate() {
                let place = |mask| Place {
                    chunk: index,
                    word,
                    mask,
                    first_lba: index as u64 * CHUNK_BLOCKS + word as u64 * WORD_BITS,
                };
                // Looked at by a read-modify-write, as everything that must not miss what another thread set.
                let mask = bits.fetch_or(0, Ordering::AcqRel);
                if mask != 0 {
                    cleared(place(mask));
                    // Not a plain store: what another thread did before it changed the word meanwhile is seen, too.
                    bits.swap(0, Ordering::AcqRel);
                }
            }
        }
    }

    /// How many bits are set.
    pub(super) fn count(&self) -> u64 {
        self.chunks
            .iter()
            .filter_map(OnceBox::get)
            .flatten()
            .map(|word| u64::from(word.load(Ordering::Acquire).count_ones()))
            .sum()
    }

    /// How many bits of `run` are set.
    pub(super) fn count_in(&self, run: Run) -> u64 {
        let mut count = 0;
        let mut rest = Some(run);
        while let Some(run) = rest {
            let end = (run.start() - run.start() % CHUNK_BLOCKS).saturating_add(CHUNK_BLOCKS);
            // A large device is mostly chunks that are not there.
            if self.chunk(chunk_of(run.start())).is_some() {
                count += run
                    .first_until(end)
                    .into_iter()
                    .flat_map(places)
                    .map(|place| u64::from((self.at(place) & place.mask).count_ones()))
                    .sum::<u64>();
            }
            rest = run.from(end);
        }
        count
    }

    /// Whether the first bit of `run` is set, and the longest beginning of `run` that shares it.
    pub(super) fn same_from(&self, run: Run) -> (bool, Run) {
        let first = first_place(run);
        let is_set = self.at(first) >> (run.start() - first.first_lba) & 1 != 0;
        // A word in which no block is in another state.
        let same = if is_set { usize::MAX } else { 0 };
        let differs = |word: &AtomicUsize| word.load(Ordering::Acquire) ^ same;
        let mut lba = run.start();
        while lba < run.end() {
            let Some(chunk) = self.chunk(chunk_of(lba)) else {
                // In a chunk that was never allocated no bit is set.
                if is_set {
                    break;
                }
                lba = (lba - lba % CHUNK_BLOCKS).saturating_add(CHUNK_BLOCKS);
                continue;
            };
            let from = lba % WORD_BITS;
            let other = differs(&chunk[word_of(lba)]) >> from;
            // Shifting filled the top with zeros, which are no blocks of this word.
            let count = u64::from(other.trailing_zeros()).min(WORD_BITS - from);
            lba = lba.saturating_add(count);
            if count < WORD_BITS - from {
                break;
            }
            // Many words at a time, as far as that goes: this is all that a look at a large range costs.
            if (lba / WORD_BITS).is_multiple_of(TOGETHER as u64)
                && !lba.is_multiple_of(CHUNK_BLOCKS)
            {
                let together = chunk[word_of(lba)..]
                    .chunks_exact(TOGETHER)
                    .take_while(|words| words.iter().fold(0, |any, word| any | differs(word)) == 0)
                    .count();
                lba = lba.saturating_add((together * TOGETHER) as u64 * WORD_BITS);
            }
        }
        // The first word may have changed since it told the state; of the first block it was true.
        let part = Run::new(run.start(), lba.min(run.end())).unwrap_or(run.first(1));
        (is_set, part)
    }

    /// Sets the bits that are set in `bytes`, which lie within a chunk and begin with the first bit of a word, that of
    /// block `first_lba`. Bits of blocks from `limit` on do not count; returns whether any of these were set.
    ///
    /// Nobody else sets bits meanwhile.
    pub(super) fn load(&self, first_lba: u64, bytes: &[u8], limit: u64) -> GibbloxResult<bool> {
        let (whole, tail) = bytes.split_at(bytes.len() - bytes.len() % WORD_BYTES);
        let words = || {
            let whole = whole.chunks_exact(WORD_BYTES).map(word_of_bytes);
            whole.chain((!tail.is_empty()).then(|| word_of_bytes(tail)))
        };
        let all_count = limit.saturating_sub(first_lba) >= bytes.len() as u64 * 8;
        let counts = |index: usize| {
            let lba = first_lba + index as u64 * WORD_BITS;
            match limit.saturating_sub(lba) {
                0 => 0,
                blocks if blocks < WORD_BITS => (1 << blocks) - 1,
                _ => usize::MAX,
            }
        };
        let counted = || words().enumerate().map(|(at, word)| word & counts(at));

        let first = word_of(first_lba);
        // Mostly the chunk is not there yet, and is made of these words in one go.
        let (chunk, made) = self.chunk_or(chunk_of(first_lba), |chunk| {
            chunk.resize_with(first, AtomicUsize::default);
            if all_count {
                chunk.extend(words().map(AtomicUsize::new));
            } else {
                chunk.extend(counted().map(AtomicUsize::new));
            }
        })?;
        if !made {
            for (to, word) in chunk[first..].iter().zip(counted()) {
                to.fetch_or(word, Ordering::AcqRel);
            }
        }
        let ignored = !all_count && words().zip(counted()).any(|(all, counted)| all != counted);
        Ok(ignored)
    }

    /// How many chunks there are.
    #[cfg(all(test, not(model)))]
    pub(super) fn chunks(&self) -> usize {
        self.chunks.iter().filter_map(OnceBox::get).count()
    }
}
