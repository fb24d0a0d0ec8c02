//! [`Frozen`]: pieces of memory that are written once and then read without a lock.
//!
//! ```text
//!   offset ─► unit of 4 KiB ─► tree of write-once pointers ─► leaf of 16 units
//!                               unit ─► the piece that begins in it, and how many units back
//!                                       the piece begins that its first byte belongs to
//! ```
//!
//! A piece is at least as long as a unit, so at most one begins in each, and at most one reaches across the beginning
//! of each: with these two every byte is found in one step, wherever pieces begin. Pointers and distances are set once
//! and never taken back; a piece that is out of date says so itself, and whoever meets it looks elsewhere.
//!
//! Pieces that hold never overlap, or what one of them says would be found on the way to the other. Of writes to the same
//! bytes at the same time nothing is expected, but of what is written later it is, so whoever has made a piece puts it in
//! its place alone: under a lock, for a few words of each unit, after the copy.
//!
//! # What was not done
//!
//! Giving memory back before the end: a reader may be looking at it, and only a count of readers, two
//! read-modify-writes for each hit on words that all threads share, would tell. A lock for each part of the memory, as
//! before: hits of two threads on the same block then took turns at its lock, and got no more done than one.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::array;
use core::ops::{Range, RangeInclusive};

use once_cell::race::OnceBox;

use crate::sync::{AtomicBool, AtomicU16, Lock, Ordering};

/// log2 of the bytes of a unit.
const UNIT_BITS: u32 = 12;

/// What is shorter is not frozen.
pub(super) const LEAST: usize = 1 << UNIT_BITS;

/// What is longer is frozen in several pieces. Copies of this length are not worth less than longer ones.
const MOST: usize = 1 << 20;

/// Units of a leaf: few, since a block that is cached alone pays for a leaf.
const LEAF: usize = 16;

/// Branches of a node.
const FORK: usize = if cfg!(target_pointer_width = "64") {
    256
} else {
    64
};

/// Trees side by side.
const ROOTS: usize = FORK / 4;

/// Where frozen pieces end: 256 GiB on 64-bit targets, 4 GiB on 32-bit ones. A fixed depth keeps finding short.
const END: u64 = (ROOTS * FORK * FORK * LEAF) as u64 * (1 << UNIT_BITS);

/// Bytes that do not change any more.
#[derive(Debug)]
pub(super) struct Piece {
    start: u64,
    bytes: Box<[u8]>,
    /// What is so from now on lies elsewhere.
    stale: AtomicBool,
}

/// What is known of [`LEAF`] units.
#[derive(Debug, Default)]
struct Leaf {
    begins: [Once<Piece>; LEAF],
    /// Zero where no piece reaches across the beginning of the unit.
    units_back: [AtomicU16; LEAF],
}

/// A place for something that is allocated once. An array of one, since only slices can be allocated in a way that is
/// allowed to fail.
type Once<T> = OnceBox<[T; 1]>;

/// Places side by side.
type Fork<T> = OnceBox<[T; FORK]>;

/// All frozen pieces.
#[derive(Debug)]
pub(super) struct Frozen {
    roots: [Fork<Fork<Once<Leaf>>>; ROOTS],
    /// Held while a piece is put in its place.
    placing: Lock<()>,
}

impl Default for Frozen {
    fn default() -> Self {
        Self {
            roots: array::from_fn(|_| OnceBox::new()),
            placing: Lock::default(),
        }
    }
}

fn boxed<T, const N: usize>(values: impl Iterator<Item = T>) -> Option<Box<[T; N]>> {
    let mut boxed = Vec::new();
    boxed.try_reserve_exact(N).ok()?;
    boxed.extend(values.take(N));
    boxed.into_boxed_slice().try_into().ok()
}

/// What is at `place`, made where it is not there yet; nothing where there is no memory.
fn or_new<T: Default, const N: usize>(place: &OnceBox<[T; N]>) -> Option<&[T; N]> {
    let new = || boxed(core::iter::repeat_with(T::default)).ok_or(());
    place.get_or_try_init(new).ok()
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Where the piece lies.
    pub(super) fn range(&self) -> Range<u64> {
        self.start..self.end()
    }

    /// What it holds from `offset` on, which lies in it.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "an offset in the piece")]
    pub(super) fn bytes_from(&self, offset: u64) -> &[u8] {
        &self.bytes[(offset - self.start) as usize..]
    }

    /// From now on whatever it holds is to be looked for elsewhere, where it was put before.
    pub(super) fn give_up(&self) {
        self.stale.store(true, Ordering::Release);
    }

    /// Whether it was not [given up](Self::give_up).
    #[inline]
    pub(super) fn is_current(&self) -> bool {
        !self.stale.load(Ordering::Acquire)
    }

    #[inline]
    fn holds(&self, offset: u64) -> bool {
        offset - self.start < self.bytes.len() as u64 && self.is_current()
    }
}

const fn unit_of(offset: u64) -> u64 {
    offset >> UNIT_BITS
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "only the low digits count")]
fn leaf_of(leaves: &[Once<Leaf>; FORK], unit: u64) -> Option<&Leaf> {
    let leaf = leaves[unit as usize / LEAF % FORK].get();
    leaf.map(|[leaf]| leaf)
}

impl Leaf {
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "only the low digits count")]
    fn begins_in(&self, unit: u64) -> Option<&Piece> {
        let piece = self.begins[unit as usize % LEAF].get();
        piece.map(|[piece]| piece)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "units below the end fit, and each level takes the digits that are its own"
)]
impl Frozen {
    /// What is known of the [`FORK`] leaves around `unit`.
    #[inline]
    fn leaves(&self, unit: u64) -> Option<&[Once<Leaf>; FORK]> {
        let at = unit as usize / (LEAF * FORK);
        self.roots.get(at / FORK)?.get()?[at % FORK].get()
    }

    #[inline]
    fn leaf(&self, unit: u64) -> Option<&Leaf> {
        leaf_of(self.leaves(unit)?, unit)
    }

    fn leaf_or_new(&self, unit: u64) -> Option<&Leaf> {
        let at = unit as usize / LEAF;
        let forks = or_new(self.roots.get(at / (FORK * FORK))?)?;
        let leaves = or_new(&forks[at / FORK % FORK])?;
        or_new(&leaves[at % FORK]).map(|[leaf]| leaf)
    }

    /// The piece that begins in `unit`.
    #[inline]
    fn begins_in(&self, unit: u64) -> Option<&Piece> {
        self.leaf(unit)?.begins_in(unit)
    }

    /// The piece that holds the byte at `offset`.
    #[inline]
    pub(super) fn find(&self, offset: u64) -> Option<&Piece> {
        if offset >= END {
            return None;
        }
        let unit = unit_of(offset);
        let leaves = self.leaves(unit)?;
        let leaf = leaf_of(leaves, unit)?;
        let slot = unit as usize % LEAF;
        let piece = match leaf.begins[slot].get() {
            Some([piece]) if piece.start <= offset => piece,
            _ => match u64::from(leaf.units_back[slot].load(Ordering::Acquire)) {
                0 => return None,
                // Mostly it begins not far away, and the way there is shorter.
                back if unit as usize % (LEAF * FORK) >= back as usize => {
                    leaf_of(leaves, unit - back)?.begins_in(unit - back)?
                }
                back => self.begins_in(unit - back)?,
            },
        };
        piece.holds(offset).then_some(piece)
    }

    /// Where the first piece begins that begins in `range`, or the end of `range`. Nothing reaches into it from before.
    pub(super) fn next_start(&self, range: Range<u64>) -> u64 {
        if range.is_empty() || range.start >= END {
            return range.end;
        }
        (unit_of(range.start)..=unit_of(range.end.min(END) - 1))
            .filter_map(|unit| self.begins_in(unit))
            .find(|piece| range.contains(&piece.start) && piece.holds(piece.start))
            .map_or(range.end, |piece| piece.start)
    }

    /// Freezes a beginning of `data` at `offset`, as long as possible, and returns how much; nothing where it is too
    /// short or too far, where there is no memory, or where something was frozen before.
    pub(super) fn freeze(&self, offset: u64, data: &[u8]) -> usize {
        let data = &data[..data.len().min(MOST)];
        self.try_freeze(offset, data).map_or(0, |()| data.len())
    }

    fn try_freeze(&self, offset: u64, data: &[u8]) -> Option<()> {
        let end = offset.checked_add(data.len() as u64)?;
        if data.len() < LEAST || end > END {
            return None;
        }
        let begin = unit_of(offset);
        let across = begin + 1..=unit_of(end - 1);
        self.clear_way(across.clone(), end)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(data.len()).ok()?;
        bytes.extend_from_slice(data);
        let piece = boxed(core::iter::once(Piece {
            start: offset,
            bytes: bytes.into_boxed_slice(),
            stale: AtomicBool::new(false),
        }))?;
        let leaf = self.leaf_or_new(begin)?;
        self.placing.with(|()| {
            // Once more, and whether the beginning is still free: nobody else places a piece now.
            self.clear_way(across.clone(), end)?;
            if self.find(offset).is_some() {
                return None;
            }
            leaf.begins[begin as usize % LEAF].set(piece).ok()?;
            for unit in across {
                let back = &self.leaf(unit)?.units_back[unit as usize % LEAF];
                back.store((unit - begin) as u16, Ordering::Release);
            }
            Some(())
        })
    }

    /// Makes room for what is known of the units `across` whose beginnings a piece is going to reach up to `end`.
    /// Nothing where there is no memory, or where an earlier piece reaches across one of them, or begins in front of
    /// `end`: then the way to the piece is barred for good, even if the earlier one is out of date.
    fn clear_way(&self, across: RangeInclusive<u64>, end: u64) -> Option<()> {
        for unit in across {
            let leaf = self.leaf_or_new(unit)?;
            let reached = leaf.units_back[unit as usize % LEAF].load(Ordering::Acquire) != 0;
            if reached || leaf.begins_in(unit).is_some_and(|piece| piece.start < end) {
                return None;
            }
        }
        Some(())
    }

    /// The pieces that reach behind `offset`.
    pub(super) fn behind(&self, offset: u64) -> impl Iterator<Item = &Piece> {
        let forks = self.roots.iter().filter_map(OnceBox::get).flatten();
        let leaves = forks.filter_map(OnceBox::get).flatten();
        let leaves = leaves.filter_map(OnceBox::get).flatten();
        let pieces = leaves.flat_map(|leaf| leaf.begins.iter().filter_map(OnceBox::get).flatten());
        pieces.filter(move |piece| piece.end() > offset && piece.holds(piece.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const UNIT: u64 = LEAST as u64;

    #[test]
    fn every_byte_of_a_piece_is_found_and_none_beside_it() {
        for start in [0, 1, 77, UNIT - 1, UNIT, 15 * UNIT + 9, 300 * UNIT + 5] {
            for len in [LEAST, LEAST + 1, 2 * LEAST - 1, 2 * LEAST, 40 * LEAST + 3] {
                let frozen = Frozen::default();
                assert_eq!(frozen.freeze(start, &vec![7; len]), len);
                let end = start + len as u64;
                for offset in [start, start + 1, start + UNIT - 1, start + UNIT, end - 1] {
                    if offset < end {
                        let piece = frozen.find(offset).expect("it lies in the piece");
                        assert_eq!(piece.range(), start..end);
                        assert_eq!(piece.bytes_from(offset).len() as u64, end - offset);
                    }
                }
                for offset in [start.wrapping_sub(1), end, end + UNIT] {
                    assert!(frozen.find(offset).is_none(), "{offset} is outside");
                }
                assert_eq!(frozen.next_start(0..end + UNIT), start);
                assert_eq!(frozen.next_start(end..end + UNIT), end + UNIT);
            }
        }
    }

    #[test]
    fn pieces_lie_side_by_side_in_one_unit() {
        let frozen = Frozen::default();
        for index in 0..40_u8 {
            let start = 100 + u64::from(index) * UNIT;
            assert_eq!(frozen.freeze(start, &vec![index; LEAST]), LEAST);
        }
        for offset in 100..100 + 40 * UNIT {
            let piece = frozen.find(offset).expect("all is frozen");
            assert_eq!(
                u64::from(piece.bytes_from(offset)[0]),
                (offset - 100) / UNIT
            );
        }
    }

    #[test]
    fn what_is_too_short_or_too_far_or_was_there_is_refused() {
        let frozen = Frozen::default();
        assert_eq!(frozen.freeze(0, &[0; LEAST - 1]), 0);
        assert_eq!(frozen.freeze(END - UNIT + 1, &[0; LEAST]), 0);
        assert_eq!(frozen.freeze(END - UNIT, &[0; LEAST]), LEAST);
        assert_eq!(frozen.freeze(u64::MAX - 5, &[0; LEAST]), 0);
        assert!(frozen.find(u64::MAX).is_none());
        assert_eq!(frozen.freeze(5 * UNIT + 1, &[1; 4 * LEAST]), 4 * LEAST);
        for start in [2 * UNIT + 2, 5 * UNIT + 2, 7 * UNIT] {
            assert_eq!(frozen.freeze(start, &[2; 4 * LEAST]), 0, "at {start}");
        }
        // One that begins in the middle of a unit, and one in front of it that would end there.
        assert_eq!(frozen.freeze(50 * UNIT + 2000, &[1; LEAST]), LEAST);
        assert_eq!(frozen.freeze(49 * UNIT + 3000, &[2; LEAST]), 0);
        assert_eq!(frozen.freeze(49 * UNIT + 2000, &[2; LEAST]), LEAST);
        let long = vec![3; MOST + 5];
        assert_eq!(frozen.freeze(100 * UNIT, &long), MOST, "in several pieces");
    }

    #[test]
    fn what_was_given_up_is_not_found_again() {
        let frozen = Frozen::default();
        frozen.freeze(10, &[1; 3 * LEAST]);
        assert_eq!(frozen.behind(10).count(), 1);
        assert_eq!(frozen.behind(10 + 3 * UNIT).count(), 0);
        frozen.find(10).expect("it is there").give_up();
        assert!((0..4 * UNIT).all(|offset| frozen.find(offset).is_none()));
        assert_eq!(frozen.behind(0).count(), 0);
        assert_eq!(frozen.next_start(0..UNIT), UNIT);
        // Its place is taken, but for what begins and ends within a unit, and what lies behind it in its last one.
        for start in [0, 10, UNIT + 1, 3 * UNIT - 1] {
            assert_eq!(frozen.freeze(start, &[2; LEAST]), 0, "at {start}");
        }
        assert_eq!(frozen.freeze(UNIT, &[2; LEAST]), LEAST);
        assert!((UNIT..2 * UNIT).all(|offset| frozen.find(offset).is_some()));
        assert_eq!(frozen.freeze(10 + 3 * UNIT, &[2; LEAST]), LEAST);
        assert_eq!(
            frozen.find(10 + 3 * UNIT).map(Piece::range),
            Some(10 + 3 * UNIT..10 + 4 * UNIT)
        );
    }
}
