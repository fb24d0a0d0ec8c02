//! [`Validity`]: which blocks are valid, and which of these are trusted, by machine words.
//!
//! ```text
//!                publish                 distrust_all
//!   not valid ───────────► valid, trusted ──────────► valid
//!       ▲                        │ ▲                  │ │
//!       │       invalidate       │ └────── trust ─────┘ │
//!       └────────────────────────┴──────────────────────┘
//! ```
//!
//! A *valid* block is one that the cache file claims to hold. It is *trusted* once this process has fetched it or has
//! compared it with its checksum. The hit path loads both words and takes no lock; whatever changes them is a
//! read-modify-write.
//!
//! # Memory
//!
//! Words live in chunks that are allocated when the first block of a chunk becomes valid, so the memory follows what
//! is cached, and a device of many terabytes costs a directory of pointers. A flat vector would be simpler, but opening
//! a large device would be a matter of clearing memory, and a small machine would pay for what it never caches.
//!
//! # Orderings
//!
//! Four pairs of operations race, and each is settled by the order in which both sides touch two words. The first two
//! are read-modify-writes, which see the latest value of their word, so of two that cross at least one sees the other:
//!
//! - *publish* (or *trust*) sets the trusted bit, then reads the epoch; *distrust* bumps the epoch, then clears the
//!   trusted bits. A block that was written before a flush that failed is therefore never left trusted.
//! - *trust* sets the trusted bit, then reads the valid bit; *invalidate* clears the valid bit, then the trusted one. A
//!   block is therefore never left trusted but not valid; while it is for a moment, the hit path does not take it.
//! - *publish* sets the valid bit before the trusted one, and the bytes are written before both (I1).
//! - *invalidate* and *distrust* count a change when they begin and when they end, and clear bits in between; only
//!   after that are bytes written again, and that may fail and leave garbage. A reader reads the count, then the bits,
//!   then the bytes, then the count: if no change was under way at first, and the count is the same in the end, nobody
//!   can have been writing these bytes, and no flush of them has failed.
//!
//! Epoch and count are a `usize` each; to be mistaken one would have to wrap within one fill or one read.

use alloc::boxed::Box;
use alloc::vec::Vec;

use gibblox_core::GibbloxResult;
use once_cell::race::OnceBox;

use crate::error::out_of_memory;
use crate::run::Run;
use crate::sync::{AtomicUsize, Ordering, fence};

/// Words of one kind in a chunk. Few in tests, which try all runs around the end of one.
const WORDS: usize = if cfg!(test) { 2 } else { 256 };

const WORD_BITS: u64 = usize::BITS as u64;

/// Blocks that a chunk covers: 16 Ki where words have 64 bits.
const CHUNK_BLOCKS: u64 = WORDS as u64 * WORD_BITS;

/// Bytes of the file's bitmap that are looked at together; a multiple of a word's size.
const LOAD_BYTES: usize = 64;

/// Valid words, then trusted words.
type Chunk = [AtomicUsize; 2 * WORDS];

/// Whether there is a bit in `bytes`, without stopping at each byte to look.
pub(crate) fn any_set(bytes: &[u8]) -> bool {
    bytes
        .chunks(64)
        .any(|chunk| chunk.iter().fold(0, |any, byte| any | byte) != 0)
}

/// Whether a block is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Missing,
    Valid,
}

/// A moment between two failed flushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(usize);

/// A moment at which no block was losing what it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changes(usize);

/// The low bits of the count of changes are those under way: more than there are threads.
const UNDER_WAY: usize = (1 << (usize::BITS / 4)) - 1;

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// The blocks are valid and trusted; so many of them were not valid before.
    Trusted(u64),
    /// A flush failed since the epoch that the caller gave: the blocks are valid, but not trusted.
    Untrusted(u64),
}

/// The valid and the trusted blocks of a device.
pub(crate) struct Validity {
    total_blocks: u64,
    chunks: Vec<OnceBox<Chunk>>,
    epoch: AtomicUsize,
    changes: AtomicUsize,
}

impl core::fmt::Debug for Validity {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Validity")
            .field("total_blocks", &self.total_blocks)
            .finish_non_exhaustive()
    }
}

/// Where the bits of a part of a run lie: one word of one chunk.
#[derive(Clone, Copy)]
struct Place {
    chunk: usize,
    word: usize,
    mask: usize,
    /// The lba of the word's lowest bit.
    first_lba: u64,
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
const fn first_place(run: Run) -> Place {
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
fn places(run: Run) -> impl Iterator<Item = Place> {
    let mut rest = Some(run);
    core::iter::from_fn(move || {
        let run = rest?;
        let place = first_place(run);
        rest = run.from(place.first_lba.saturating_add(WORD_BITS));
        Some(place)
    })
}

impl Validity {
    /// Nothing valid. Fails where there is no memory for the directory of chunks.
    pub(crate) fn new(total_blocks: u64) -> GibbloxResult<Self> {
        let count = usize::try_from(total_blocks.div_ceil(CHUNK_BLOCKS))
            .map_err(|_| out_of_memory("the validity bitmap"))?;
        let mut chunks = Vec::new();
        chunks
            .try_reserve_exact(count)
            .map_err(|_| out_of_memory("the validity bitmap"))?;
        chunks.resize_with(count, OnceBox::new);
        Ok(Self {
            total_blocks,
            chunks,
            epoch: AtomicUsize::new(0),
            changes: AtomicUsize::new(0),
        })
    }

    #[inline]
    fn chunk(&self, index: usize) -> Option<&Chunk> {
        self.chunks.get(index).and_then(OnceBox::get)
    }

    fn chunk_or_new(&self, index: usize) -> GibbloxResult<&Chunk> {
        if let Some(chunk) = self.chunk(index) {
            return Ok(chunk);
        }
        let no_memory = || out_of_memory("the validity bitmap");
        self.chunks
            .get(index)
            .ok_or_else(no_memory)?
            .get_or_try_init(|| {
                let mut words = Vec::new();
                words
                    .try_reserve_exact(2 * WORDS)
                    .map_err(|_| no_memory())?;
                words.resize_with(2 * WORDS, || AtomicUsize::new(0));
                Box::<Chunk>::try_from(words.into_boxed_slice()).map_err(|_| no_memory())
            })
    }

    /// Makes room for the bits of `run`, so that publishing it cannot fail.
    pub(crate) fn reserve(&self, run: Run) -> GibbloxResult<()> {
        for chunk in chunk_of(run.start())..=chunk_of(run.end() - 1) {
            self.chunk_or_new(chunk)?;
        }
        Ok(())
    }

    /// Whether every block of `run` is valid and trusted. What its bytes are was written before.
    #[inline]
    pub(crate) fn is_trusted(&self, run: Run) -> bool {
        let first = first_place(run);
        // Short runs mostly lie in one word, and this is all that a hit looks at.
        self.word_is_trusted(first)
            && (first.first_lba.saturating_add(WORD_BITS) >= run.end()
                || places(run).skip(1).all(|place| self.word_is_trusted(place)))
    }

    #[inline]
    fn word_is_trusted(&self, place: Place) -> bool {
        self.chunk(place.chunk).is_some_and(|chunk| {
            let trusted = chunk[WORDS + place.word].load(Ordering::Acquire);
            let valid = chunk[place.word].load(Ordering::Acquire);
            trusted & valid & place.mask == place.mask
        })
    }

    fn valid_word(&self, place: Place) -> usize {
        self.chunk(place.chunk)
            .map_or(0, |chunk| chunk[place.word].load(Ordering::Acquire))
    }

    /// The state of the first block of `run`, and the longest beginning of `run` that shares it.
    pub(crate) fn state_at(&self, run: Run) -> (State, Run) {
        let first = first_place(run);
        let state = if self.valid_word(first) >> (run.start() - first.first_lba) & 1 == 0 {
            State::Missing
        } else {
            State::Valid
        };
        // A word in which no block is in another state.
        let same = match state {
            State::Missing => 0,
            State::Valid => usize::MAX,
        };
        let mut lba = run.start();
        while lba < run.end() {
            let Some(chunk) = self.chunk(chunk_of(lba)) else {
                // A chunk that was never allocated has no valid block.
                if state == State::Valid {
                    break;
                }
                lba = (lba - lba % CHUNK_BLOCKS).saturating_add(CHUNK_BLOCKS);
                continue;
            };
            let from = lba % WORD_BITS;
            let other = (chunk[word_of(lba)].load(Ordering::Acquire) ^ same) >> from;
            // Shifting filled the top with zeros, which are no blocks of this word.
            let count = u64::from(other.trailing_zeros()).min(WORD_BITS - from);
            lba = lba.saturating_add(count);
            if count < WORD_BITS - from {
                break;
            }
            // Whole words, as many as there are: this is all that a look at a large range costs.
            if !lba.is_multiple_of(CHUNK_BLOCKS) {
                let whole = chunk[word_of(lba)..WORDS]
                    .iter()
                    .take_while(|word| word.load(Ordering::Acquire) == same)
                    .count();
                lba = lba.saturating_add(whole as u64 * WORD_BITS);
            }
        }
        // The first word may have changed since it told the state; of the first block it was true.
        let part = Run::new(run.start(), lba.min(run.end())).unwrap_or(run.first(1));
        (state, part)
    }

    /// How many blocks of `run` are valid.
    pub(crate) fn count_valid(&self, run: Run) -> u64 {
        places(run)
            .map(|place| u64::from((self.valid_word(place) & place.mask).count_ones()))
            .sum()
    }

    /// How many blocks are valid.
    pub(crate) fn valid_blocks(&self) -> u64 {
        self.chunks
            .iter()
            .filter_map(OnceBox::get)
            .flat_map(|chunk| &chunk[..WORDS])
            .map(|word| u64::from(word.load(Ordering::Acquire).count_ones()))
            .sum()
    }

    /// Now, to be given to [`publish`](Self::publish) and [`trust`](Self::trust).
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.fetch_add(0, Ordering::AcqRel))
    }

    /// Now, unless blocks are just losing what they have.
    ///
    /// Bytes that were read are those of the run's blocks if nothing [has changed](Self::unchanged) between a moment
    /// before the run was found valid and one after they were read.
    #[inline]
    pub(crate) fn changes(&self) -> Option<Changes> {
        let count = self.changes.load(Ordering::Acquire);
        (count & UNDER_WAY == 0).then_some(Changes(count))
    }

    /// Whether no block has begun to lose what it had since `before`.
    #[inline]
    pub(crate) fn unchanged(&self, before: Changes) -> bool {
        // The bytes are read before the count is.
        fence(Ordering::Acquire);
        self.changes.load(Ordering::Acquire) == before.0
    }

    /// Runs `change`, which clears bits, so that readers notice.
    fn changing<R>(&self, change: impl FnOnce() -> R) -> R {
        self.changes.fetch_add(1, Ordering::AcqRel);
        let result = change();
        self.changes.fetch_add(UNDER_WAY, Ordering::AcqRel);
        result
    }

    /// Whether a flush has ever failed.
    pub(crate) fn was_distrusted(&self) -> bool {
        self.epoch() != Epoch(0)
    }

    /// Makes `run` valid and trusted. Its bytes are written, all of them after `since`.
    ///
    /// The caller has [reserved](Self::reserve) the run.
    pub(crate) fn publish(&self, run: Run, since: Epoch) -> Published {
        let mut newly = 0;
        for place in places(run) {
            if let Some(chunk) = self.chunk(place.chunk) {
                let before = chunk[place.word].fetch_or(place.mask, Ordering::AcqRel);
                newly += u64::from((place.mask & !before).count_ones());
            }
        }
        if self.set_trusted(run, since) {
            Published::Trusted(newly)
        } else {
            Published::Untrusted(newly)
        }
    }

    /// Trusts `run`, whose bytes were read after `since` and match their checksums.
    pub(crate) fn trust(&self, run: Run, since: Epoch) {
        self.set_trusted(run, since);
        for place in places(run) {
            if let Some(chunk) = self.chunk(place.chunk) {
                let dropped = place.mask & !chunk[place.word].fetch_or(0, Ordering::AcqRel);
                if dropped != 0 {
                    chunk[WORDS + place.word].fetch_and(!dropped, Ordering::AcqRel);
                }
            }
        }
    }

    /// Sets the trusted bits, and takes them back where a flush failed since `since`.
    fn set_trusted(&self, run: Run, since: Epoch) -> bool {
        for place in places(run) {
            if let Some(chunk) = self.chunk(place.chunk) {
                chunk[WORDS + place.word].fetch_or(place.mask, Ordering::AcqRel);
            }
        }
        let current = self.epoch() == since;
        if !current {
            for place in places(run) {
                if let Some(chunk) = self.chunk(place.chunk) {
                    chunk[WORDS + place.word].fetch_and(!place.mask, Ordering::AcqRel);
                }
            }
        }
        current
    }

    /// Makes `run` not valid; returns how many of its blocks were.
    pub(crate) fn invalidate(&self, run: Run) -> u64 {
        self.changing(|| {
            let mut dropped = 0;
            for place in places(run) {
                if let Some(chunk) = self.chunk(place.chunk) {
                    let before = chunk[place.word].fetch_and(!place.mask, Ordering::AcqRel);
                    chunk[WORDS + place.word].fetch_and(!place.mask, Ordering::AcqRel);
                    dropped += u64::from((before & place.mask).count_ones());
                }
            }
            dropped
        })
    }

    /// Trusts nothing any more: a flush failed, and nobody knows what the medium kept.
    pub(crate) fn distrust_all(&self) {
        self.take_trusted(|_, _| ());
    }

    /// Makes everything that was trusted not valid: a flush failed, and there is nothing to compare with.
    pub(crate) fn drop_trusted(&self) {
        self.take_trusted(|valid, trusted| {
            valid.fetch_and(!trusted, Ordering::AcqRel);
        });
    }

    fn take_trusted(&self, with: impl Fn(&AtomicUsize, usize)) {
        self.changing(|| {
            self.epoch.fetch_add(1, Ordering::AcqRel);
            for chunk in self.chunks.iter().filter_map(OnceBox::get) {
                let (valid, trusted) = chunk.split_at(WORDS);
                for (valid, trusted) in valid.iter().zip(trusted) {
                    // Valid before trusted, as everywhere: nothing is left trusted but not valid.
                    with(valid, trusted.fetch_or(0, Ordering::AcqRel));
                    trusted.store(0, Ordering::Release);
                }
            }
        });
    }

    /// Makes nothing valid.
    pub(crate) fn clear(&self) {
        for chunk in self.chunks.iter().filter_map(OnceBox::get) {
            let (valid, trusted) = chunk.split_at(WORDS);
            for word in valid.iter().chain(trusted) {
                word.store(0, Ordering::Release);
            }
        }
    }

    /// Takes in the bytes of the file's bitmap from its byte `first_byte` on: set bits become valid, not trusted.
    ///
    /// `first_byte` is a multiple of a word's size. Bits of blocks from `limit` on do not count, and whether there
    /// were any is returned.
    pub(crate) fn load(&self, first_byte: u64, bytes: &[u8], limit: u64) -> GibbloxResult<bool> {
        let limit = limit.min(self.total_blocks);
        let mut ignored = false;
        // Most of a large bitmap is mostly zero, and that is told many words at a time.
        for (index, bytes) in bytes.chunks(LOAD_BYTES).enumerate() {
            if any_set(bytes) {
                let first_byte = first_byte + (index * LOAD_BYTES) as u64;
                ignored |= self.load_words(first_byte, bytes, limit)?;
            }
        }
        Ok(ignored)
    }

    fn load_words(&self, first_byte: u64, bytes: &[u8], limit: u64) -> GibbloxResult<bool> {
        let mut ignored = false;
        let mut lba = first_byte * 8;
        for piece in bytes.chunks(size_of::<usize>()) {
            let mut word = [0; size_of::<usize>()];
            for (to, from) in word.iter_mut().zip(piece) {
                *to = *from;
            }
            let word = usize::from_le_bytes(word);
            if word != 0 {
                let counts = Run::new(lba, limit.min(lba + WORD_BITS))
                    .and_then(|run| places(run).next())
                    .map_or(0, |place| word & place.mask);
                ignored |= counts != word;
                if counts != 0 {
                    self.chunk_or_new(chunk_of(lba))?[word_of(lba)]
                        .fetch_or(counts, Ordering::AcqRel);
                }
            }
            lba += WORD_BITS;
        }
        Ok(ignored)
    }

    /// Writes the bytes of the file's bitmap from its byte `first_byte` on: the valid blocks, and those of `extra`.
    pub(crate) fn encode(&self, first_byte: u64, extra: Option<Run>, out: &mut [u8]) {
        let device = Run::new(first_byte * 8, self.total_blocks);
        out.fill(0);
        let Some(covered) = device.map(|run| run.first(out.len() as u64 * 8)) else {
            return;
        };
        for place in places(covered) {
            let mut word = self.valid_word(place);
            if let Some(part) = extra.and_then(|run| {
                Run::new(place.first_lba, place.first_lba.saturating_add(WORD_BITS))?.clip(run)
            }) {
                word |= places(part).next().map_or(0, |place| place.mask);
            }
            let word = (word & place.mask).to_le_bytes();
            // The first place may begin in the middle of its word.
            let skip = (covered.start().saturating_sub(place.first_lba) / 8) as usize;
            let at = (place.first_lba.saturating_sub(covered.start()) / 8) as usize;
            for (to, from) in out.iter_mut().skip(at).zip(word.iter().skip(skip)) {
                *to = *from;
            }
        }
    }
}

#[cfg(all(test, not(model)))]
mod tests;

#[cfg(all(test, model))]
mod model;
