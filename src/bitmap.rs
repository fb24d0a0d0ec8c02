//! [`Validity`]: which blocks are valid, and which of these are trusted or unasked, by machine words.
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
//! A valid block is *unasked* if this process fetched it, but nobody has asked for it yet. It could be trusted; that it
//! is not makes its first read look twice. That read makes it trusted without a comparison, and counts it as used. So
//! the hit path has nothing to do with it.
//!
//! # Memory
//!
//! The bits of each kind lie in chunks ([`words`]) that are allocated when the first block of a chunk becomes valid, or
//! trusted, so the memory follows what is cached, and a device of many terabytes costs two directories of pointers. A
//! flat vector would be simpler, but opening a large device would be a matter of clearing memory, and a small machine
//! would pay for what it never caches. Both kinds in one chunk would be one look fewer for a hit; opening a cache that
//! has a little of everything then took twice the memory, and a scan for valid blocks read what it did not want. The
//! unasked bits have no directory either before anything is fetched unasked.
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
//! And one more for unasked blocks. *Publish* sets the unasked bit, then reads the epoch, and only then sets the valid
//! bit; so an unasked bit in front of a valid block was written after the last failed flush. *Use* reads the count of
//! changes, sees both bits, sets the trusted one, clears the unasked one, and reads the count again, by a
//! read-modify-write: if it is the same, whatever takes trust away begins later, and sees the trusted bit. Else trust is
//! taken back, and where there is nothing to compare with, the block is dropped. Of several that use a block, one finds
//! the bit that it clears.
//!
//! Epoch and count are a `usize` each; to be mistaken one would have to wrap within one fill or one read.

mod words;

use alloc::boxed::Box;

use gibblox_core::{GibbloxError, GibbloxResult};
use once_cell::race::OnceBox;

use crate::run::Run;
use crate::sync::{AtomicUsize, Ordering, fence};

use words::{CHUNK_BYTES, Place, WORD_BITS, Words, first_place, places};

/// Whether there is a bit in `bytes`, without stopping at each byte to look.
pub(crate) fn any_set(bytes: &[u8]) -> bool {
    bytes
        .chunks(1 << 10)
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

/// The valid, the trusted and the unasked blocks of a device.
pub(crate) struct Validity {
    total_blocks: u64,
    valid: Words,
    trusted: Words,
    /// Nothing before anything is fetched unasked.
    unasked: OnceBox<Words>,
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

impl Validity {
    /// Nothing valid. Fails where there is no memory for the directories of chunks.
    pub(crate) fn new(total_blocks: u64) -> GibbloxResult<Self> {
        Ok(Self {
            total_blocks,
            valid: Words::new(total_blocks)?,
            trusted: Words::new(total_blocks)?,
            unasked: OnceBox::new(),
            epoch: AtomicUsize::new(0),
            changes: AtomicUsize::new(0),
        })
    }

    /// Makes room for the bits of `run`, so that publishing it cannot fail.
    pub(crate) fn reserve(&self, run: Run) -> GibbloxResult<()> {
        self.valid.reserve(run)?;
        self.trusted.reserve(run)
    }

    /// The parts of `run` that there is room for. No bit of another block was ever set, here or, by this process, in
    /// the file.
    pub(crate) fn reserved(&self, run: Run) -> impl Iterator<Item = Run> {
        self.valid.reserved(run)
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
        self.trusted.at(place) & self.valid.at(place) & place.mask == place.mask
    }

    /// The state of the first block of `run`, and the longest beginning of `run` that shares it.
    pub(crate) fn state_at(&self, run: Run) -> (State, Run) {
        let (valid, part) = self.valid.same_from(run);
        let state = if valid { State::Valid } else { State::Missing };
        (state, part)
    }

    /// How many blocks of `run` are valid.
    pub(crate) fn count_valid(&self, run: Run) -> u64 {
        self.valid.count_in(run)
    }

    /// How many blocks are valid.
    pub(crate) fn valid_blocks(&self) -> u64 {
        self.valid.count()
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
        self.begin_change();
        let result = change();
        self.end_change();
        result
    }

    /// Until [`end_change`](Self::end_change) there are no [`changes`](Self::changes) to be had, so no plain hits.
    pub(crate) fn begin_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends what [`begin_change`](Self::begin_change) began. The caller has seen to it that it had.
    pub(crate) fn end_change(&self) {
        self.changes.fetch_add(UNDER_WAY, Ordering::AcqRel);
    }

    /// Whether a flush has ever failed.
    pub(crate) fn was_distrusted(&self) -> bool {
        self.epoch() != Epoch(0)
    }

    /// Makes `run` valid, `asked`, which is a part of it, trusted, and the rest unasked. Its bytes are written, all of
    /// them after `since`.
    ///
    /// The caller has [reserved](Self::reserve) the run.
    pub(crate) fn publish(&self, run: Run, asked: Run, since: Epoch) -> Published {
        let outside = [run.first_until(asked.start()), run.from(asked.end())];
        for unasked in outside.into_iter().flatten() {
            self.set_unasked(unasked, since);
        }
        let newly = places(run)
            .map(|place| u64::from(self.valid.set(place, place.mask).count_ones()))
            .sum();
        if self.set_trusted(asked, since) {
            Published::Trusted(newly)
        } else {
            Published::Untrusted(newly)
        }
    }

    /// Sets the unasked bits of `run`, unless a flush failed since `since`.
    ///
    /// Where there is no memory for them, the blocks will be compared, and not be counted.
    fn set_unasked(&self, run: Run, since: Epoch) {
        let unasked = self.unasked.get_or_try_init(|| {
            let words = Words::new(self.total_blocks)?;
            Ok::<_, GibbloxError>(Box::new(words))
        });
        let Ok(unasked) = unasked else { return };
        if unasked.reserve(run).is_err() {
            return;
        }
        for place in places(run) {
            unasked.set(place, place.mask);
        }
        if self.epoch() != since {
            for place in places(run) {
                unasked.clear(place, place.mask);
            }
        }
    }

    /// Trusts those blocks of `run` that nobody has asked for before; returns how many these were.
    ///
    /// `before` is what [`changes`](Self::changes) said before the run was found valid. Where blocks were losing what they
    /// had meanwhile, maybe these, they are not trusted, and made not valid unless they are `comparable`.
    pub(crate) fn take_unasked(&self, run: Run, before: Changes, comparable: bool) -> u64 {
        let Some(unasked) = self.unasked.get() else {
            return 0;
        };
        let mut taken = 0;
        for place in places(run) {
            // In this order: see the orderings above.
            let valid = self.valid.at(place);
            let mask = valid & unasked.at(place) & place.mask;
            if mask == 0 {
                continue;
            }
            self.trusted.set(place, mask);
            taken += u64::from(unasked.clear(place, mask).count_ones());
            if self.changes.fetch_add(0, Ordering::AcqRel) == before.0 {
                continue;
            }
            if comparable {
                // Maybe they were trusted rightly, by somebody else: then they are compared once more.
                self.trusted.clear(place, mask);
            } else {
                // A flush may have failed, and not have found them among what it drops.
                self.invalidate(run);
                break;
            }
        }
        taken
    }

    /// Trusts `run`, whose bytes were read after `since` and match their checksums. Unasked blocks stay that, so that
    /// their first use is counted.
    ///
    /// Where there is no memory for it, they will be compared once more.
    pub(crate) fn trust(&self, run: Run, since: Epoch) {
        if self.trusted.reserve(run).is_err() {
            return;
        }
        self.set_trusted(run, since);
        for place in places(run) {
            let dropped = place.mask & !self.valid.latest(place);
            if dropped != 0 {
                self.trusted.clear(place, dropped);
            }
        }
    }

    /// Sets the trusted bits, and takes them back where a flush failed since `since`.
    fn set_trusted(&self, run: Run, since: Epoch) -> bool {
        for place in places(run) {
            let unasked = self.unasked.get().map_or(0, |words| words.at(place));
            self.trusted.set(place, place.mask & !unasked);
        }
        let current = self.epoch() == since;
        if !current {
            for place in places(run) {
                self.trusted.clear(place, place.mask);
            }
        }
        current
    }

    /// Makes `run` not valid; returns how many of its blocks were.
    pub(crate) fn invalidate(&self, run: Run) -> u64 {
        self.changing(|| {
            let mut dropped = 0;
            for place in places(run) {
                dropped += u64::from(self.valid.clear(place, place.mask).count_ones());
                self.trusted.clear(place, place.mask);
                if let Some(unasked) = self.unasked.get() {
                    unasked.clear(place, place.mask);
                }
            }
            dropped
        })
    }

    /// Trusts nothing any more, nor what is unasked: a flush failed, and nobody knows what the medium kept.
    pub(crate) fn distrust_all(&self) {
        self.take_trusted(|_| ());
    }

    /// Makes everything that was trusted or unasked not valid: a flush failed, and there is nothing to compare with.
    pub(crate) fn drop_trusted(&self) {
        // Valid before trusted, as everywhere: nothing is left trusted but not valid.
        self.take_trusted(|place| _ = self.valid.clear(place, place.mask));
    }

    fn take_trusted(&self, mut first: impl FnMut(Place)) {
        self.changing(|| {
            self.epoch.fetch_add(1, Ordering::AcqRel);
            if let Some(unasked) = self.unasked.get() {
                unasked.clear_all(&mut first);
            }
            self.trusted.clear_all(first);
        });
    }

    /// Makes nothing valid.
    pub(crate) fn clear(&self) {
        self.valid.clear_all(|_| ());
        self.trusted.clear_all(|_| ());
        if let Some(unasked) = self.unasked.get() {
            unasked.clear_all(|_| ());
        }
    }

    /// Takes in the bytes of the file's bitmap from its byte `first_byte` on: set bits become valid, not trusted.
    ///
    /// `first_byte` is a multiple of a word's size. Bits of blocks from `limit` on do not count, and whether there
    /// were any is returned. Nothing else becomes valid meanwhile.
    pub(crate) fn load(&self, first_byte: u64, bytes: &[u8], limit: u64) -> GibbloxResult<bool> {
        let limit = limit.min(self.total_blocks);
        let mut ignored = false;
        let mut at = first_byte;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = CHUNK_BYTES as u64 - at % CHUNK_BYTES as u64;
            let room = usize::try_from(room).unwrap_or(rest.len());
            let (piece, behind) = rest.split_at(room.min(rest.len()));
            // Most of a large bitmap is mostly zero.
            if any_set(piece) {
                ignored |= self.valid.load(at * 8, piece, limit)?;
            }
            at += piece.len() as u64;
            rest = behind;
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
            let mut word = self.valid.at(place);
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
