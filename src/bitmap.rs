//! [`Validity`]: which blocks are valid, and which of these are trusted. Two lazily allocated bitmaps under a seqlock.
//!
//! ```text
//!                publish                 distrust_all
//!   not valid ───────────► valid, trusted ──────────► valid, not trusted
//!       ▲        of what was asked for    ◄── settle ──    ▲   │
//!       │                                                  │   │
//!       │   invalidate (from either)                       │   │
//!       ├──────────────────────────────────────────────────┼───┘
//!       └── publish of what was fetched unasked ───────────┘
//! ```
//!
//! A *valid* block is one that the cache file claims to hold. It is *trusted* once this process has fetched it for a
//! reader or has compared it with its checksum. The hit path loads both words and takes no lock. Each change of a word
//! is a read-modify-write.
//!
//! A block that was fetched unasked is published valid and not trusted, like a block of an earlier process. Its first
//! read leaves the hit path by itself, where the streams see it and it is compared once.
//!
//! # Tokens
//!
//! The order of looking and believing is performed here, by three objects that other rooms only pass on:
//!
//! - [`Sight`]: a run that was trusted when it was looked at. [`Validity::is_still`] says after the read whether the
//!   bytes are to be believed.
//! - [`Look`]: a run that was valid. [`Look::settle`] takes the [`Flaw`]s that were found, trusts the rest, and drops what
//!   does not match if nothing disturbed the read. What could not be read stays valid (I8).
//! - [`Filling`]: a run that is about to be written. [`Filling::publish`] makes it valid.
//!
//! # Memory
//!
//! The bits of each kind lie in chunks ([`words`]) that are allocated when the first block of a chunk becomes valid, or
//! trusted. So memory follows what is cached, and a device of many terabytes costs two directories of pointers. Tried:
//! a flat vector. Opening a large device is then a matter of clearing memory, and a small machine pays for what it never
//! caches. Tried: both kinds in one chunk. It saves a hit one lookup, but doubles the memory of a sparse cache, and makes
//! scans read what they do not need. Tried: a third bitmap for unasked blocks, so that their first use needs no
//! comparison. It took a fifth ordering and a quarter of this file for 8 bytes and a hash of each such block.
//!
//! # Orderings
//!
//! Four pairs of operations race. The first two pairs are read-modify-writes, which see the latest value of their word,
//! so of two that cross at least one sees the other:
//!
//! - *publish* (or *settle*) sets the trusted bit, then reads the epoch. *Distrust* bumps the epoch, then clears the
//!   trusted bits. So a block that was written before a failed flush is never left trusted.
//! - *settle* sets the trusted bit, then reads the valid bit. *Invalidate* clears the valid bit, then the trusted one. So
//!   a block is never left trusted but not valid. While it is for a moment, the hit path does not take it.
//! - *publish* sets the valid bit before the trusted one, and the bytes are written before both (I1).
//! - *invalidate* and *distrust* count a change when they begin and when they end, and clear bits in between. Bytes are
//!   written again only after that, and that write may fail and leave garbage. A reader reads the count, then the bits,
//!   then the bytes, then the count. If no change was under way at first and the count is the same in the end, no task
//!   was writing these bytes, and no flush of them has failed.
//!
//! Epoch and count are a `usize` each. They wrap; a token is mistaken only after 2^(pointer width / 2) changes within
//! one fill or one read.

mod words;

use gibblox_core::GibbloxResult;

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
struct Calm(usize);

/// The low bits of the count of changes are those under way: more than there are threads.
const UNDER_WAY: usize = (1 << (usize::BITS / 4)) - 1;

/// A run that was trusted when it was looked at, hence one backend read away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    run: Run,
    before: Calm,
}

impl Sight {
    /// What was looked at.
    #[inline]
    pub(crate) const fn run(self) -> Run {
        self.run
    }
}

/// A run that was valid when it was looked at, and whose bytes are being read.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) struct Look<'v> {
    validity: &'v Validity,
    run: Run,
    since: Epoch,
    before: Option<Calm>,
}

/// Blocks of a look that are not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub(crate) run: Run,
    /// The bytes were compared and are not the source's. Otherwise they could not be read, which says nothing about
    /// them (I8).
    pub(crate) is_wrong: bool,
}

/// A run that is not valid, and whose bytes are being written.
#[derive(Debug)]
#[must_use]
pub(crate) struct Filling<'v> {
    validity: &'v Validity,
    run: Run,
    since: Epoch,
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// So many blocks were not valid before.
    pub(crate) newly_blocks: u64,
    /// What was to be trusted is: no flush failed since the filling began.
    pub(crate) is_trusted: bool,
}

/// The valid and the trusted blocks of a device.
pub(crate) struct Validity {
    total_blocks: u64,
    valid: Words,
    trusted: Words,
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
            epoch: AtomicUsize::new(0),
            changes: AtomicUsize::new(0),
        })
    }

    // ---- asking ----

    /// The parts of `run` whose chunks are allocated. No bit of another block was ever set, here or, by this process,
    /// in the file.
    pub(crate) fn reserved(&self, run: Run) -> impl Iterator<Item = Run> {
        self.valid.reserved(run)
    }

    /// Whether every block of `run` is valid and trusted. Its bytes were written before.
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

    /// Now, between two failed flushes.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.fetch_add(0, Ordering::AcqRel))
    }

    /// Whether a flush has ever failed.
    pub(crate) fn was_distrusted(&self) -> bool {
        self.epoch() != Epoch(0)
    }

    // ---- looking: count, bits, bytes, count ----

    /// Looks at `run` for a plain hit: a token if all of it is trusted and no block is losing what it has.
    #[inline]
    pub(crate) fn sight(&self, run: Run) -> Option<Sight> {
        let before = self.calm()?;
        self.is_trusted(run).then_some(Sight { run, before })
    }

    /// Whether no block has begun to lose what it had since `sight`. Bytes that were read in between are those of its
    /// blocks then.
    #[inline]
    pub(crate) fn is_still(&self, sight: Sight) -> bool {
        self.unchanged(sight.before)
    }

    /// Looks at `run`, whose bytes are going to be read: a token if all of it is valid.
    pub(crate) fn look(&self, run: Run) -> Option<Look<'_>> {
        let since = self.epoch();
        let before = self.calm();
        (self.count_valid(run) == run.blocks()).then_some(Look {
            validity: self,
            run,
            since,
            before,
        })
    }

    /// Now, unless blocks are just losing what they have.
    #[inline]
    fn calm(&self) -> Option<Calm> {
        let count = self.changes.load(Ordering::Acquire);
        (count & UNDER_WAY == 0).then_some(Calm(count))
    }

    #[inline]
    fn unchanged(&self, before: Calm) -> bool {
        // The bytes are read before the count is.
        fence(Ordering::Acquire);
        self.changes.load(Ordering::Acquire) == before.0
    }

    // ---- filling ----

    /// Begins to fill `run`: makes room for its bits, so that publishing cannot fail, and takes back what of it is valid,
    /// since its bytes are about to be overwritten.
    pub(crate) fn fill(&self, run: Run) -> GibbloxResult<Filling<'_>> {
        self.valid.reserve(run)?;
        self.trusted.reserve(run)?;
        if self.count_valid(run) != 0 {
            self.invalidate(run);
        }
        Ok(Filling {
            validity: self,
            run,
            since: self.epoch(),
        })
    }

    // ---- losing ----

    /// Runs `change`, which clears bits, so that readers notice.
    fn changing<R>(&self, change: impl FnOnce() -> R) -> R {
        self.begin_change();
        let result = change();
        self.end_change();
        result
    }

    /// Until [`end_change`](Self::end_change) nothing is [sighted](Self::sight), and no look is undisturbed.
    pub(crate) fn begin_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends what [`begin_change`](Self::begin_change) began. The caller has seen to it that it had.
    pub(crate) fn end_change(&self) {
        self.changes.fetch_add(UNDER_WAY, Ordering::AcqRel);
    }

    /// Makes `run` not valid; returns how many of its blocks were.
    pub(crate) fn invalidate(&self, run: Run) -> u64 {
        self.changing(|| {
            let mut dropped = 0;
            for place in places(run) {
                dropped += u64::from(self.valid.clear(place, place.mask).count_ones());
                self.trusted.clear(place, place.mask);
            }
            dropped
        })
    }

    /// Trusts nothing any more: a flush failed, and nothing tells what the medium kept.
    pub(crate) fn distrust_all(&self) {
        self.take_trusted(|_| ());
    }

    /// Makes everything that was trusted not valid: a flush failed, and there is nothing to compare with.
    pub(crate) fn drop_trusted(&self) {
        // Valid before trusted, as everywhere: nothing is left trusted but not valid.
        self.take_trusted(|place| _ = self.valid.clear(place, place.mask));
    }

    fn take_trusted(&self, first: impl FnMut(Place)) {
        self.changing(|| {
            self.epoch.fetch_add(1, Ordering::AcqRel);
            self.trusted.clear_all(first);
        });
    }

    /// Makes nothing valid.
    pub(crate) fn clear(&self) {
        self.valid.clear_all(|_| ());
        self.trusted.clear_all(|_| ());
    }

    // ---- believing ----

    /// Trusts `run`, whose bytes were read after `since` and are right. Where there is no memory for it, they will be
    /// compared once more.
    fn trust(&self, run: Run, since: Epoch) {
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
            self.trusted.set(place, place.mask);
        }
        let current = self.epoch() == since;
        if !current {
            for place in places(run) {
                self.trusted.clear(place, place.mask);
            }
        }
        current
    }

    // ---- bytes of the file ----

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

impl Look<'_> {
    /// Whether all of the run is trusted.
    pub(crate) fn is_trusted(&self) -> bool {
        self.validity.is_trusted(self.run)
    }

    /// Whether a block has begun to lose what it had since the look, maybe one of these. What was read is certain
    /// otherwise.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.before
            .is_none_or(|before| !self.validity.unchanged(before))
    }

    /// Believes what was read: all of the run is trusted, but for `flaws`, which are in order. Each that
    /// [is wrong](Flaw::is_wrong) is dropped, if nothing [disturbed](Self::is_disturbed) the read, as `is_certain` says.
    pub(crate) fn settle(self, flaws: &[Flaw], is_certain: bool) {
        let mut rest = Some(self.run);
        for flaw in flaws {
            let bad = flaw.run;
            if is_certain && flaw.is_wrong {
                self.validity.invalidate(bad);
            }
            if let Some(good) = rest.and_then(|rest| rest.first_until(bad.start())) {
                self.validity.trust(good, self.since);
            }
            rest = rest.and_then(|rest| rest.from(bad.end()));
        }
        if let Some(good) = rest {
            self.validity.trust(good, self.since);
        }
    }
}

impl Filling<'_> {
    /// What is filled.
    pub(crate) const fn run(&self) -> Run {
        self.run
    }

    /// Makes the run valid, and `trusted`, which is a part of it, trusted. Its bytes are written, all of them since the
    /// filling began.
    pub(crate) fn publish(self, trusted: Option<Run>) -> Published {
        let newly_blocks = places(self.run)
            .map(|place| u64::from(self.validity.valid.set(place, place.mask).count_ones()))
            .sum();
        Published {
            newly_blocks,
            is_trusted: trusted.is_none_or(|run| self.validity.set_trusted(run, self.since)),
        }
    }
}

#[cfg(all(test, not(model)))]
mod tests;

#[cfg(all(test, model))]
mod model;
