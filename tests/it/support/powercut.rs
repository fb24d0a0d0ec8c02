//! A backend that loses power, and everything that a medium may hold afterwards.
//!
//! [`PowerCut`] is a backend in memory that writes down every change of a run and which of them each flush made
//! durable. [`PowerCut::cuts`] then tells what a loss of power at each point of the run has to work with: the bytes
//! that are durable, and the changes that are pending. From a [`Cut`] come the images that the medium may be left
//! with, by the rules of the file's contract: each pending change is present, absent or torn at any 512-byte boundary
//! of the file, in any order. [`Cut::every_image`] gives all of them, [`Cut::sample`] one at random.
//!
//! A change is cut into pieces that a medium keeps or loses as a whole: the part of a write within one sector, a
//! change of length, and the growth that a write past the end brings along (a file system may store the new length
//! and never the bytes). A piece of growth may itself stop at any sector. Pieces that touch each other are tried in
//! every order; those that do not are combined freely, which gives the same images as every order of everything.
//!
//! A cut "before the first call", "after the first" and so on need not be tried one by one: the images that are
//! possible while some changes are pending include those that are possible while fewer of them are. So there is one
//! [`Cut`] for each flush, just before it, and one for the end of the run, and together they stand for every point.

use super::gate::Gate;
use super::lock;
use super::rng::Rng;
use async_trait::async_trait;
use core::ops::Range;
use gibblox_cache::CacheOps;
use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult};
use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex};
use xxhash_rust::xxh3::xxh3_64;

/// What a medium writes as a whole.
pub(crate) const SECTOR_BYTES: usize = 512;

/// More pieces than this that all touch each other are too many to try in every order.
const MAX_TANGLED_PIECES: usize = 10;

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => put(image, *offset, data),
            Self::SetLen(len) => image.resize(*len, 0),
        }
    }
}

fn put(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(data);
}

/// A flush that succeeded.
#[derive(Clone, Debug)]
struct Flushed {
    /// The changes whose calls were over when it was called. They are durable.
    covers: Vec<usize>,
    /// How many changes there were when it returned.
    at: usize,
}

#[derive(Debug)]
struct Journal {
    base: Vec<u8>,
    live: Vec<u8>,
    changes: Vec<Change>,
    /// The changes that were made by calls which are not over yet.
    acting: BTreeSet<usize>,
    flushes: Vec<Flushed>,
    /// The cuts of before a failed flush lost some changes; the base is what it left.
    past: Vec<Cut>,
    flushes_under_way: usize,
    /// Where it is there, flushes fail now and then.
    sickness: Option<Rng>,
    /// How the next flush fails.
    fails_next: Option<Forgets>,
    /// How many writes succeed before one fails; it leaves zeros.
    fails_write: Option<usize>,
}

/// What a flush that fails does to what was pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgets {
    Nothing,
    /// The medium will not get it. The living process still reads it, as from a page cache.
    OnTheMedium,
    /// The living process reads what was there before, too.
    Everywhere,
}

impl Forgets {
    pub(crate) const ALL: [Self; 3] = [Self::Nothing, Self::OnTheMedium, Self::Everywhere];
}

impl Journal {
    fn cuts(&self) -> Vec<Cut> {
        let mut cuts = self.past.clone();
        let mut durable = self.base.clone();
        let mut pending: BTreeSet<usize> = (0..self.changes.len()).collect();
        let end = Flushed {
            covers: Vec::new(),
            at: self.changes.len(),
        };
        for Flushed { covers, at } in self.flushes.iter().chain([&end]) {
            let made = pending.range(..at).map(|index| &self.changes[*index]);
            cuts.push(Cut {
                durable: durable.clone(),
                pending: made.cloned().collect(),
            });
            for index in covers {
                if pending.remove(index) {
                    self.changes[*index].apply(&mut durable);
                }
            }
        }
        cuts
    }

    /// Changes whenever a failed flush lost something.
    fn losses(&self) -> usize {
        self.past.len()
    }

    /// The changes whose calls are over.
    fn over(&self) -> Vec<usize> {
        let all = 0..self.changes.len();
        all.filter(|index| !self.acting.contains(index)).collect()
    }

    /// Whether a flush fails. One that does may lose, of what is pending, what a loss of power could.
    fn flush_fails(&mut self) -> bool {
        if let Some(forgets) = self.fails_next.take() {
            assert_eq!(
                self.flushes_under_way, 0,
                "another promises what is forgotten"
            );
            if forgets != Forgets::Nothing {
                self.past = self.cuts();
                self.base = self.past[self.past.len() - 1].durable.clone();
                self.changes.clear();
                self.acting.clear();
                self.flushes.clear();
            }
            if forgets == Forgets::Everywhere {
                self.live = self.base.clone();
            }
            return true;
        }
        let Some(rng) = &mut self.sickness else {
            return false;
        };
        if rng.chance(60) {
            return false;
        }
        let loses = rng.chance(50);
        let mut rng = Rng::new(rng.next());
        // Another flush that is under way goes on to promise what it was called for.
        if loses && self.flushes_under_way == 0 {
            self.past = self.cuts();
            self.base = self.past[self.past.len() - 1].sample(&mut rng);
            self.live = self.base.clone();
            self.changes.clear();
            self.acting.clear();
            self.flushes.clear();
        }
        true
    }
}

/// Counts a flush as under way until it is over or dropped.
struct UnderWay<'a>(&'a PowerCut);

impl<'a> UnderWay<'a> {
    fn new(disk: &'a PowerCut) -> Self {
        lock(&disk.journal).flushes_under_way += 1;
        Self(disk)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(&self.0.journal).flushes_under_way -= 1;
    }
}

/// A backend in memory that records what a loss of power could do to it.
#[derive(Debug)]
pub(crate) struct PowerCut {
    /// Every call passes here before it acts. A flush covers what was written before it was called, not what came
    /// while it waited.
    pub(crate) gate: Gate<()>,
    journal: Mutex<Journal>,
}

impl PowerCut {
    /// A medium that holds `base`, all of it durable.
    pub(crate) fn new(base: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::new(),
            journal: Mutex::new(Journal {
                live: base.clone(),
                base,
                changes: Vec::new(),
                acting: BTreeSet::new(),
                flushes: Vec::new(),
                past: Vec::new(),
                flushes_under_way: 0,
                sickness: None,
                fails_next: None,
                fails_write: None,
            }),
        })
    }

    /// What the file holds for a process that lives on.
    pub(crate) fn live(&self) -> Vec<u8> {
        lock(&self.journal).live.clone()
    }

    /// From now on flushes fail now and then, and some of these lose what was pending, for the living process too.
    pub(crate) fn sicken(&self, rng: &mut Rng) {
        lock(&self.journal).sickness = Some(Rng::new(rng.next()));
    }

    /// The next flush fails, and does this to what is pending.
    pub(crate) fn fail_next_flush(&self, forgets: Forgets) {
        lock(&self.journal).fails_next = Some(forgets);
    }

    /// The next write but so many fails, and leaves zeros.
    pub(crate) fn fail_write_after(&self, writes: usize) {
        lock(&self.journal).fails_write = Some(writes);
    }

    /// Flushes may fail.
    pub(crate) fn is_sick(&self) -> bool {
        lock(&self.journal).sickness.is_some()
    }

    /// What a loss of power has to work with, for stretches of the run that together cover each of its points.
    pub(crate) fn cuts(&self) -> Vec<Cut> {
        lock(&self.journal).cuts()
    }

    /// Waits, acts, and waits again. Dropped in between, the call is over, and what it did is done.
    async fn change(&self, change: Change) -> GibbloxResult<()> {
        self.gate.pass(()).await;
        let acting = Acting::new(self, change);
        self.gate.pass(()).await;
        drop(acting);
        Ok(())
    }
}

/// A change that was made, by a call that is not over until this is dropped.
struct Acting<'a> {
    disk: &'a PowerCut,
    index: usize,
    losses: usize,
}

impl<'a> Acting<'a> {
    fn new(disk: &'a PowerCut, change: Change) -> Self {
        let mut journal = lock(&disk.journal);
        let index = journal.changes.len();
        change.apply(&mut journal.live);
        journal.changes.push(change);
        journal.acting.insert(index);
        let losses = journal.losses();
        Self {
            disk,
            index,
            losses,
        }
    }
}

impl Drop for Acting<'_> {
    fn drop(&mut self) {
        let mut journal = lock(&self.disk.journal);
        // After a loss the numbers begin again.
        if journal.losses() == self.losses {
            journal.acting.remove(&self.index);
        }
    }
}

fn position(offset: u64) -> GibbloxResult<usize> {
    // A test medium of more than 256 MiB is a request that went wrong.
    let position = usize::try_from(offset)
        .ok()
        .filter(|offset| *offset <= 1 << 28);
    position.ok_or_else(|| {
        GibbloxError::with_message(GibbloxErrorKind::Io, "the medium is not that large")
    })
}

#[async_trait]
impl CacheOps for PowerCut {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.gate.pass(()).await;
        let journal = lock(&self.journal);
        let start = position(offset)?.min(journal.live.len());
        let count = out.len().min(journal.live.len() - start);
        out[..count].copy_from_slice(&journal.live[start..start + count]);
        Ok(count)
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        let offset = position(offset)?;
        let left = lock(&self.journal).fails_write.take();
        if left == Some(0) {
            let data = vec![0; data.len()];
            self.change(Change::Write { offset, data }).await?;
            let error = GibbloxError::with_message(GibbloxErrorKind::Io, "cannot write");
            return Err(error);
        }
        lock(&self.journal).fails_write = left.map(|writes| writes - 1);
        let data = data.to_vec();
        self.change(Change::Write { offset, data }).await
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.change(Change::SetLen(position(len)?)).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        let covers = lock(&self.journal).over();
        let losses = lock(&self.journal).losses();
        let under_way = UnderWay::new(self);
        self.gate.pass(()).await;
        drop(under_way);
        let mut journal = lock(&self.journal);
        if journal.flush_fails() {
            let error = GibbloxError::with_message(GibbloxErrorKind::Io, "cannot flush");
            return Err(error);
        }
        let at = journal.changes.len();
        assert_eq!(
            journal.losses(),
            losses,
            "nothing is lost under a flush that succeeds"
        );
        journal.flushes.push(Flushed { covers, at });
        Ok(())
    }
}

/// What a loss of power has to work with.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

/// What the medium keeps or loses as a whole.
#[derive(Clone, Debug)]
enum Piece<'a> {
    /// Bytes within one sector.
    Bytes { offset: usize, data: &'a [u8] },
    /// A change of length.
    Length(usize),
    /// A file that is at least so long, since a write went past its end.
    Growth(usize),
}

/// One way in which a piece arrives.
#[derive(Clone, Debug)]
enum Step<'a> {
    Put { offset: usize, data: &'a [u8] },
    GrowTo(usize),
    ShrinkTo(usize),
}

impl Step<'_> {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Put { offset, data } => put(image, *offset, data),
            Self::GrowTo(len) => {
                if image.len() < *len {
                    image.resize(*len, 0);
                }
            }
            Self::ShrinkTo(len) => image.truncate(*len),
        }
    }
}

impl<'a> Piece<'a> {
    /// The ways in which this piece can arrive at a file of `len` bytes.
    fn steps(&self, len: usize) -> Vec<Step<'a>> {
        match *self {
            Self::Bytes { offset, data } => vec![Step::Put { offset, data }],
            Self::Length(to) | Self::Growth(to) if to >= len => {
                let torn = sectors_between(len..to).map(Step::GrowTo);
                torn.chain([Step::GrowTo(to)]).collect()
            }
            Self::Length(to) => {
                let torn = sectors_between(to..len).map(Step::ShrinkTo);
                torn.chain([Step::ShrinkTo(to)]).collect()
            }
            Self::Growth(_) => Vec::new(),
        }
    }

    /// Whether it matters which of the two comes first. `longest` is how long the file can be without changes of
    /// length: one that makes it at least so long cuts nothing off.
    fn touches(&self, other: &Self, longest: usize) -> bool {
        match (self, other) {
            (Self::Bytes { offset: a, data: x }, Self::Bytes { offset: b, data: y }) => {
                *a < b + y.len() && *b < a + x.len()
            }
            (Self::Length(len), Self::Bytes { .. } | Self::Growth(_))
            | (Self::Bytes { .. } | Self::Growth(_), Self::Length(len)) => *len < longest,
            (Self::Length(_), Self::Length(_)) => true,
            (Self::Growth(_), _) | (_, Self::Growth(_)) => false,
        }
    }
}

/// The multiples of a sector strictly within `range`.
fn sectors_between(range: Range<usize>) -> impl Iterator<Item = usize> {
    (range.start / SECTOR_BYTES + 1..range.end.div_ceil(SECTOR_BYTES))
        .map(|sector| sector * SECTOR_BYTES)
}

/// `change` in pieces. `len` is how long the file is before it, in the order of the run.
fn pieces_of(change: &Change, len: usize) -> Vec<Piece<'_>> {
    match change {
        Change::SetLen(len) => vec![Piece::Length(*len)],
        Change::Write { offset, data } => {
            let end = offset + data.len();
            let bounds = [*offset]
                .into_iter()
                .chain(sectors_between(*offset..end))
                .chain([end]);
            let bounds: Vec<usize> = bounds.collect();
            let mut pieces: Vec<Piece<'_>> = bounds
                .windows(2)
                .filter(|pair| pair[0] < pair[1])
                .map(|pair| Piece::Bytes {
                    offset: pair[0],
                    data: &data[pair[0] - offset..pair[1] - offset],
                })
                .collect();
            if end > len {
                pieces.push(Piece::Growth(end));
            }
            pieces
        }
    }
}

impl Cut {
    /// How many writes and changes of length are pending.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The least that is left.
    pub(crate) fn durable(&self) -> &[u8] {
        &self.durable
    }

    fn pieces(&self) -> Vec<Piece<'_>> {
        let mut len = self.durable.len();
        let mut pieces = Vec::new();
        for change in &self.pending {
            pieces.extend(pieces_of(change, len));
            len = match change {
                Change::Write { offset, data } => len.max(offset + data.len()),
                Change::SetLen(len) => *len,
            };
        }
        pieces
    }

    /// Calls `each` with every image that this cut can leave behind, some of them more than once.
    ///
    /// `false`, with no call, if they are more than `most`.
    pub(crate) fn every_image(&self, most: usize, mut each: impl FnMut(&[u8])) -> bool {
        let Some(choices) = self.choices() else {
            return false;
        };
        let count = choices
            .iter()
            .try_fold(1_usize, |count, ways| count.checked_mul(ways.len()));
        if count.is_none_or(|count| count > most) {
            return false;
        }
        let mut chosen = vec![0; choices.len()];
        loop {
            let mut image = self.durable.clone();
            for (ways, &way) in choices.iter().zip(&chosen) {
                for step in &ways[way] {
                    step.apply(&mut image);
                }
            }
            each(&image);
            // Counts up, one digit per group of pieces.
            let Some(digit) =
                (0..chosen.len()).find(|&digit| chosen[digit] + 1 < choices[digit].len())
            else {
                return true;
            };
            chosen[digit] += 1;
            chosen[..digit].fill(0);
        }
    }

    /// For each group of pieces that touch each other, every way in which the group can arrive.
    fn choices(&self) -> Option<Vec<Vec<Vec<Step<'_>>>>> {
        let pieces = self.pieces();
        let ends = pieces.iter().map(|piece| match piece {
            Piece::Bytes { offset, data } => offset + data.len(),
            Piece::Growth(len) => *len,
            Piece::Length(_) => 0,
        });
        let longest = ends.max().unwrap_or(0).max(self.durable.len());
        groups(&pieces, longest)
            .into_iter()
            .map(|group| self.ways(&group))
            .collect()
    }

    /// Every way in which the pieces of one group can arrive: every subset of them, in every order.
    fn ways<'a>(&self, group: &[Piece<'a>]) -> Option<Vec<Vec<Step<'a>>>> {
        if group.len() > MAX_TANGLED_PIECES {
            return None;
        }
        let mut ways = vec![Vec::new()];
        let mut images = HashSet::from([xxh3_64(&self.durable)]);
        let mut reached = HashSet::from([(0_u32, xxh3_64(&self.durable))]);
        let mut open = vec![(0_u32, self.durable.clone(), Vec::new())];
        while let Some((present, image, path)) = open.pop() {
            for (index, piece) in group.iter().enumerate() {
                let present_now = present | 1 << index;
                if present_now == present {
                    continue;
                }
                for step in piece.steps(image.len()) {
                    let mut image = image.clone();
                    step.apply(&mut image);
                    let hash = xxh3_64(&image);
                    if !reached.insert((present_now, hash)) {
                        continue;
                    }
                    let mut path: Vec<Step<'a>> = path.clone();
                    path.push(step);
                    if images.insert(hash) {
                        ways.push(path.clone());
                    }
                    open.push((present_now, image, path));
                }
            }
        }
        Some(ways)
    }

    /// One image at random, of a cut at a random point of the stretch.
    pub(crate) fn sample(&self, rng: &mut Rng) -> Vec<u8> {
        // Half of the cuts come right at the end, where most is at stake.
        let early = rng.chance(50);
        let reached = if early {
            rng.index(self.pending.len() + 1)
        } else {
            self.pending.len()
        };
        let mut changes: Vec<&Change> = self.pending[..reached].iter().collect();
        if rng.chance(50) {
            for end in (1..changes.len()).rev() {
                changes.swap(end, rng.index(end + 1));
            }
        }
        let torn_percent = [0, 12, 50][rng.index(3)];
        let whole_percent = [12, 50, 88][rng.index(3)];
        let mut image = self.durable.clone();
        for change in changes {
            if rng.chance(torn_percent) {
                tear(change, &mut image, rng);
            } else if rng.chance(whole_percent) {
                change.apply(&mut image);
            }
        }
        image
    }
}

/// Splits `pieces` into groups, so that pieces of different groups do not touch.
fn groups<'a>(pieces: &[Piece<'a>], longest: usize) -> Vec<Vec<Piece<'a>>> {
    let mut groups: Vec<Vec<Piece<'a>>> = Vec::new();
    for piece in pieces {
        let (touching, mut apart): (Vec<_>, Vec<_>) = groups
            .into_iter()
            .partition(|group| group.iter().any(|other| piece.touches(other, longest)));
        let mut group: Vec<Piece<'a>> = touching.into_iter().flatten().collect();
        group.push(piece.clone());
        apart.push(group);
        groups = apart;
    }
    groups
}

/// Applies a part of `change`: its beginning, its end, or any of its sectors.
fn tear(change: &Change, image: &mut Vec<u8>, rng: &mut Rng) {
    let pieces = pieces_of(change, image.len());
    let boundary = rng.index(pieces.len() + 1);
    let shape = rng.below(3);
    for (index, piece) in pieces.iter().enumerate() {
        let arrives = match shape {
            0 => index < boundary,
            1 => index >= boundary,
            _ => rng.chance(50),
        };
        if arrives {
            let steps = piece.steps(image.len());
            if !steps.is_empty() {
                steps[rng.index(steps.len())].apply(image);
            }
        }
    }
}
