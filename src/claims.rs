//! A range lock with FIFO hand-over: exclusive ranges of `u64`, and the tasks that wait for them.
//!
//! ```text
//!   take, claim ──► free:  Held, a guard
//!               ──► taken: Wait, a place in the line of the claim that holds the first of the range
//!
//!   Held:  end(word)  ──► the waiters that take the word hear it; the range passes on to the others
//!          dropped    ──► the range passes on to all of them
//!   Wait:  Told(word), or Yours(Held)
//! ```
//!
//! **Hand-over.** A range passes on under the table's lock, in the order in which its waiters came. A waiter gets the
//! beginning of its part, as far as that is free. One whose first is taken by then moves into the line of the claim
//! that took it. So a task that claims a range again in the poll in which it let go of it finds it taken by the task
//! that waited, and a task that claims it again and again starves no other.
//!
//! What a waiter is given is a token, "this range is yours", in a [`Slot`] that the two share. The claim stands in the
//! table from that moment on. The waiter makes its guard of the token when it is polled. A waiter that is dropped looks
//! into its slot: a token in it is passed on, and without one it leaves the slot marked, so that no token is put there.
//! The slot's lock makes it one or the other.
//!
//! **Void.** Claims are [loose or firm](Grip). Exclusive ones ([`Claims::take`]) are firm. A loose one may be made void
//! by a task that takes some of its range: it leaves the table at once, its waiters pass on, and its holder learns of it
//! from [`Held::make_firm`]. So a line of a loose claim holds no waiter that wants to take.
//!
//! **Lines.** Each waiter is in the line of the claim that holds the first of its part, and a waiter that shares (one
//! that may hear a word) waits for nothing beyond that claim. Two waiters that want the same are in the same line.
//!
//! A guard leaves the table however it ends: by a word, an early return, a dropped future or a panic (I3). Wakers run
//! outside of the locks. The table is a sorted vector that keeps its memory, so that a claim allocates nothing as long
//! as no task waits for it. A hand-over holds the lock for a few instructions for each waiter.
//!
//! # What was not done
//!
//! One queue for the whole table, in which a range waits for all earlier ones that overlap it: it is simpler to say, but
//! each claim would look at those who wait, too, and a plain miss claims while no task waits for it. A channel for each waiter
//! in place of the slot: the model checker does not see into it, and the race of a token with a dropped waiter is the one
//! that matters.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use smallvec::SmallVec;

use crate::run::Run;
use crate::sync::Lock;

/// Which ranges are claimed, and who waits. `T` is what a holder tells those who wait, `W` what it knows of them.
#[derive(Debug)]
pub(crate) struct Claims<T, W = ()> {
    table: Lock<Table<T, W>>,
}

/// Claims that were made by one call have the same. Wraps; ambiguous only after 2^N calls during one claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group(usize);

/// Whether a task that takes some of a claimed range waits for the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grip {
    /// It makes the claim void.
    Loose,
    /// It waits.
    Firm,
}

#[derive(Debug)]
struct Table<T, W> {
    /// Disjoint, sorted by run.
    sorted: Vec<Entry<T, W>>,
    last_group: Group,
}

#[derive(Debug)]
struct Entry<T, W> {
    run: Run,
    group: Group,
    grip: Grip,
    /// First come, first served.
    line: Vec<Waiter<T, W>>,
}

#[derive(Debug)]
struct Waiter<T, W> {
    /// What it wants; the first of it is in the run of the claim in whose line it waits.
    part: Run,
    /// It wanted more at first.
    clipped: bool,
    wish: Wish<W>,
    slot: Arc<Slot<T>>,
}

#[derive(Debug)]
enum Wish<W> {
    /// To have the range, whatever became of it.
    Take,
    /// To hear what became of it, or to have it.
    Share(W),
}

/// The right to a range. Dropped, it passes the range on to those who wait for it.
#[derive(Debug)]
#[must_use]
pub(crate) struct Held<'t, T, W = ()> {
    claims: &'t Claims<T, W>,
    run: Run,
    group: Group,
}

/// A place in the line for a range.
///
/// Cancellation is strict: a dropped waiter passes on what it was given.
#[derive(Debug)]
#[must_use]
pub(crate) struct Wait<'t, T, W = ()> {
    claims: &'t Claims<T, W>,
    part: Run,
    slot: Arc<Slot<T>>,
}

/// How waiting ended, and for which beginning of what was waited for.
#[derive(Debug)]
pub(crate) enum Ended<'t, T, W = ()> {
    /// The holder said so.
    Told(Run, T),
    Yours(Held<'t, T, W>),
}

/// What several claims under one look are made with.
#[derive(Debug)]
pub(crate) struct Edit<'e, 't, T, W> {
    claims: &'t Claims<T, W>,
    table: &'e mut Table<T, W>,
    group: Group,
}

/// What is so of the beginning of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// So much of it is free; a claim of it belongs into this place of the table.
    Free(usize, Run),
    /// So much of it is held by the claim in this place.
    Taken(usize, Run),
}

impl<T, W> Default for Claims<T, W> {
    fn default() -> Self {
        Self {
            table: Lock::new(Table {
                sorted: Vec::new(),
                last_group: Group::default(),
            }),
        }
    }
}

impl<T, W> Claims<T, W> {
    /// Looks and claims several times under one lock. `f` must drop no guard.
    pub(crate) fn edit<'t, R>(&'t self, f: impl FnOnce(&mut Edit<'_, 't, T, W>) -> R) -> R {
        self.table.with(|table| {
            let group = table.begin_group();
            f(&mut Edit {
                claims: self,
                table,
                group,
            })
        })
    }

    /// Claims the beginning of `run` that is free, loosely; or gets in line for the beginning that one claim holds.
    pub(crate) fn claim(&self, run: Run, tag: W) -> Result<Held<'_, T, W>, Wait<'_, T, W>> {
        self.edit(|edit| match edit.find(run) {
            Found::Free(place, free) => Ok(edit.claim(place, free)),
            Found::Taken(place, part) => Err(edit.follow(place, part, tag)),
        })
    }

    /// Takes a beginning of `run`, as long as it can be had at once when its turn comes. What is claimed loosely is
    /// made void; what is claimed firmly is waited for, in line.
    ///
    /// Cancellation is strict.
    pub(crate) async fn take(&self, run: Run) -> Held<'_, T, W> {
        loop {
            let ended = match self.take_or_wait(run) {
                Ok(held) => return held,
                Err(wait) => wait.await,
            };
            // A waiter that wants to take is told nothing.
            if let Ended::Yours(held) = ended {
                return held;
            }
        }
    }

    fn take_or_wait(&self, run: Run) -> Result<Held<'_, T, W>, Wait<'_, T, W>> {
        let mut wakes = Wakes::default();
        self.table.with(|table| {
            let line = table.make_void(run);
            let taken = match table.find(run) {
                Found::Free(place, free) => {
                    let group = table.begin_group();
                    table.insert(place, free, group, Grip::Firm);
                    Ok(Held {
                        claims: self,
                        run: free,
                        group,
                    })
                }
                Found::Taken(place, _) => Err(self.wait(table, place, run, Wish::Take)),
            };
            table.pass_on(line.into(), &mut wakes);
            taken
        })
    }

    /// Takes all of `run`, piece by piece from its beginning.
    ///
    /// What it has it keeps while it waits for the next piece. All who call this go from the beginning to the end, so
    /// there is no circle; and they are in line for each piece, so they end.
    ///
    /// Cancellation is strict.
    pub(crate) async fn take_all(&self, run: Run) -> SmallVec<[Held<'_, T, W>; 1]> {
        let mut pieces = SmallVec::new();
        let mut rest = Some(run);
        while let Some(run) = rest {
            let piece = self.take(run).await;
            rest = run.from(piece.run.end());
            pieces.push(piece);
        }
        pieces
    }

    fn wait<'t>(
        &'t self,
        table: &mut Table<T, W>,
        place: usize,
        part: Run,
        wish: Wish<W>,
    ) -> Wait<'t, T, W> {
        let slot = Arc::new(Slot::default());
        let waiter = Waiter {
            part,
            clipped: false,
            wish,
            slot: Arc::clone(&slot),
        };
        if let Some(entry) = table.sorted.get_mut(place) {
            entry.enqueue(waiter);
        }
        Wait {
            claims: self,
            part,
            slot,
        }
    }

    /// How many claims there are.
    #[cfg(all(test, not(model)))]
    pub(crate) fn len(&self) -> usize {
        self.table.with(|table| table.sorted.len())
    }

    /// How many waiters, living and gone, the first claim has.
    #[cfg(all(test, not(model)))]
    pub(crate) fn first_line_len(&self) -> usize {
        self.table
            .with(|table| table.sorted.first().map_or(0, |entry| entry.line.len()))
    }
}

impl<'t, T, W> Edit<'_, 't, T, W> {
    /// What is so of the beginning of `run`.
    pub(crate) fn find(&self, run: Run) -> Found {
        self.table.find(run)
    }

    /// All that the claim in `place` holds.
    pub(crate) fn run_at(&self, place: usize) -> Option<Run> {
        self.table.sorted.get(place).map(|entry| entry.run)
    }

    /// What is free around a free place.
    pub(crate) fn free_around(&self, place: usize) -> Option<Run> {
        let before = place
            .checked_sub(1)
            .and_then(|place| self.table.sorted.get(place));
        let after = self.table.sorted.get(place);
        Run::new(
            before.map_or(0, |entry| entry.run.end()),
            after.map_or(u64::MAX, |entry| entry.run.start()),
        )
    }

    /// Claims `run`, which is free and belongs into `place`, loosely.
    pub(crate) fn claim(&mut self, place: usize, run: Run) -> Held<'t, T, W> {
        let group = self.group;
        self.table.insert(place, run, group, Grip::Loose);
        Held {
            claims: self.claims,
            run,
            group,
        }
    }

    /// Gets in line for `part`, all of which the claim in `place` holds.
    pub(crate) fn follow(&mut self, place: usize, part: Run, tag: W) -> Wait<'t, T, W> {
        self.claims.wait(self.table, place, part, Wish::Share(tag))
    }

    /// The group of the claim that `wait` waits for.
    pub(crate) fn group_of(&self, wait: &Wait<'t, T, W>) -> Option<Group> {
        match self.find(wait.part) {
            Found::Taken(place, _) => self.table.sorted.get(place).map(|entry| entry.group),
            Found::Free(..) => None,
        }
    }

    /// Changes what the holder knows of `wait`, which has got in line under this look.
    pub(crate) fn retag(&mut self, wait: &Wait<'t, T, W>, tag: W) {
        let Found::Taken(place, _) = self.find(wait.part) else {
            return;
        };
        let line = self
            .table
            .sorted
            .get_mut(place)
            .map(|entry| &mut entry.line);
        let mut line = line.into_iter().flatten().rev();
        if let Some(waiter) = line.find(|waiter| Arc::ptr_eq(&waiter.slot, &wait.slot)) {
            waiter.wish = Wish::Share(tag);
        }
    }
}

impl<T, W> Table<T, W> {
    fn begin_group(&mut self) -> Group {
        self.last_group.0 = self.last_group.0.wrapping_add(1);
        self.last_group
    }

    fn find(&self, run: Run) -> Found {
        // The first claim that does not end before `run`; and the place of `run` where that overlaps none.
        let place = self
            .sorted
            .partition_point(|entry| entry.run.end() <= run.start());
        let common = self.sorted.get(place).and_then(|entry| entry.run.clip(run));
        match common {
            None => Found::Free(place, run),
            Some(common) if common.start() == run.start() => Found::Taken(place, common),
            Some(common) => Found::Free(place, run.first(common.start() - run.start())),
        }
    }

    fn insert(&mut self, place: usize, run: Run, group: Group, grip: Grip) {
        self.sorted.insert(
            place,
            Entry {
                run,
                group,
                grip,
                line: Vec::new(),
            },
        );
    }

    /// The claim of this run and group, unless it was made void.
    fn place_of(&self, run: Run, group: Group) -> Option<usize> {
        match self.find(run) {
            Found::Taken(place, _) => {
                let entry = self.sorted.get(place)?;
                (entry.run == run && entry.group == group).then_some(place)
            }
            Found::Free(..) => None,
        }
    }

    /// Makes void what is claimed loosely at the beginning of `run`, up to what is claimed firmly, and returns the lines.
    fn make_void(&mut self, run: Run) -> Vec<Waiter<T, W>> {
        let mut line = Vec::new();
        let (Found::Free(place, _) | Found::Taken(place, _)) = self.find(run);
        let is_loose =
            |entry: &Entry<T, W>| entry.grip == Grip::Loose && entry.run.start() < run.end();
        while self.sorted.get(place).is_some_and(is_loose) {
            let mut void = self.sorted.remove(place).line;
            if line.is_empty() {
                line = void;
            } else {
                line.append(&mut void);
            }
        }
        line
    }

    /// Gives each of those in line what it waits for, or another place to wait in.
    fn pass_on(&mut self, mut line: VecDeque<Waiter<T, W>>, wakes: &mut Wakes) {
        while let Some(mut waiter) = line.pop_front() {
            if waiter.slot.is_gone() {
                continue;
            }
            let grip = match waiter.wish {
                Wish::Share(_) => Grip::Loose,
                Wish::Take => {
                    // Those who waited for what was just given away, and is void now, are still the first.
                    for waiter in self.make_void(waiter.part).into_iter().rev() {
                        line.push_front(waiter);
                    }
                    Grip::Firm
                }
            };
            match self.find(waiter.part) {
                Found::Free(place, run) => {
                    let group = self.begin_group();
                    let word = Word::Yours(group);
                    // One that has gone just now leaves the range to the next.
                    if let Ok(waker) = waiter.slot.tell(run, word) {
                        self.insert(place, run, group, grip);
                        wakes.0.extend(waker);
                    }
                }
                Found::Taken(place, common) => {
                    if matches!(waiter.wish, Wish::Share(_)) && common != waiter.part {
                        waiter.part = common;
                        waiter.clipped = true;
                    }
                    if let Some(entry) = self.sorted.get_mut(place) {
                        entry.enqueue(waiter);
                    }
                }
            }
        }
    }
}

impl<T, W> Entry<T, W> {
    fn enqueue(&mut self, waiter: Waiter<T, W>) {
        // Waiters that were dropped leave their slots behind. Clearing up only when the vector would grow keeps it
        // within twice the living, at a constant cost for each.
        if self.line.len() == self.line.capacity() {
            self.line.retain(|waiter| !waiter.slot.is_gone());
        }
        self.line.push(waiter);
    }
}

impl<T, W> Held<'_, T, W> {
    pub(crate) const fn run(&self) -> Run {
        self.run
    }

    pub(crate) const fn group(&self) -> Group {
        self.group
    }

    /// Whether the claim stands; from now on no task makes it void.
    pub(crate) fn make_firm(&self) -> bool {
        self.claims.table.with(|table| {
            let place = table.place_of(self.run, self.group);
            let entry = place.and_then(|place| table.sorted.get_mut(place));
            entry.map(|entry| entry.grip = Grip::Firm).is_some()
        })
    }

    /// Whether a waiter is there for which `which` holds: what the holder knows of it.
    pub(crate) fn is_awaited(&self, which: impl Fn(&W) -> bool) -> bool {
        self.claims.table.with(|table| {
            let place = table.place_of(self.run, self.group);
            let entry = place.and_then(|place| table.sorted.get(place));
            entry.is_some_and(|entry| {
                entry.line.iter().any(|waiter| match &waiter.wish {
                    Wish::Share(tag) => which(tag) && !waiter.slot.is_gone(),
                    Wish::Take => false,
                })
            })
        })
    }

    /// Keeps `run`, a beginning of what it holds, and passes on the rest.
    pub(crate) fn keep(self, run: Run) -> Self {
        if run == self.run {
            return self;
        }
        let mut wakes = Wakes::default();
        self.claims.table.with(|table| {
            if let Some(place) = table.place_of(self.run, self.group) {
                let Entry { grip, line, .. } = table.sorted.remove(place);
                table.insert(place, run, self.group, grip);
                table.pass_on(line.into(), &mut wakes);
            }
        });
        let (claims, group) = (self.claims, self.group);
        core::mem::forget(self);
        Self { claims, run, group }
    }

    /// Lets go. Of those who share, the ones that `hears` are returned: what it is told is what the holder knows of
    /// the waiter, and whether that wants the whole run and wanted nothing more. The range passes on to the others.
    fn release(&self, wakes: &mut Wakes, hears: impl Fn(&W, bool) -> bool) -> Vec<Waiter<T, W>> {
        self.claims.table.with(|table| {
            // Void, it has no place any more.
            let Some(place) = table.place_of(self.run, self.group) else {
                return Vec::new();
            };
            let Entry { run, line, .. } = table.sorted.remove(place);
            if line.is_empty() {
                return line;
            }
            let (hearing, others): (Vec<_>, Vec<_>) =
                line.into_iter().partition(|waiter| match &waiter.wish {
                    Wish::Share(tag) => hears(tag, waiter.part == run && !waiter.clipped),
                    Wish::Take => false,
                });
            table.pass_on(others.into(), wakes);
            hearing
        })
    }
}

impl<T: Clone, W> Held<'_, T, W> {
    /// Lets go, tells `word` to those who share and that `hears`, and passes the range on to the others.
    ///
    /// `hears` is told what the holder knows of the waiter, and whether that wants all of the run and wanted nothing
    /// more.
    pub(crate) fn end(self, word: &T, hears: impl Fn(&W, bool) -> bool) {
        let mut wakes = Wakes::default();
        let hearing = self.release(&mut wakes, hears);
        // It may be another task's by the time a waker panics.
        core::mem::forget(self);
        for waiter in hearing {
            // Nothing is lost with one that is gone.
            if let Ok(waker) = waiter.slot.tell(waiter.part, Word::Ended(word.clone())) {
                wakes.0.extend(waker);
            }
        }
    }
}

impl<T, W> Drop for Held<'_, T, W> {
    fn drop(&mut self) {
        let mut wakes = Wakes::default();
        self.release(&mut wakes, |_, _| false);
    }
}

impl<T, W> Wait<'_, T, W> {
    /// What it waits for.
    pub(crate) const fn part(&self) -> Run {
        self.part
    }
}

impl<'t, T, W> Future for Wait<'t, T, W> {
    type Output = Ended<'t, T, W>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.slot.poll(cx).map(|(run, word)| match word {
            Word::Ended(word) => Ended::Told(run, word),
            Word::Yours(group) => Ended::Yours(Held {
                claims: self.claims,
                run,
                group,
            }),
        })
    }
}

impl<T, W> Drop for Wait<'_, T, W> {
    fn drop(&mut self) {
        if let Some((run, Word::Yours(group))) = self.slot.leave() {
            drop(Held {
                claims: self.claims,
                run,
                group,
            });
        }
    }
}

/// What a waiter shares with the table.
#[derive(Debug)]
struct Slot<T>(Lock<State<T>>);

#[derive(Debug)]
enum State<T> {
    Waiting(Option<Waker>),
    /// Of a beginning of what was waited for.
    Told(Run, Word<T>),
    /// The waiter has heard, or was dropped.
    Gone,
}

#[derive(Debug)]
enum Word<T> {
    Ended(T),
    /// The token: the claim of this group is in the table already.
    Yours(Group),
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Lock::new(State::Waiting(None)))
    }
}

impl<T> Slot<T> {
    fn is_gone(&self) -> bool {
        self.0.with(|state| matches!(state, State::Gone))
    }

    /// Puts `word` there, and returns the waker; or returns the word where the waiter is gone.
    fn tell(&self, run: Run, word: Word<T>) -> Result<Option<Waker>, Word<T>> {
        self.0.with(|state| match state {
            State::Waiting(waker) => {
                let waker = waker.take();
                *state = State::Told(run, word);
                Ok(waker)
            }
            State::Told(..) | State::Gone => Err(word),
        })
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<(Run, Word<T>)> {
        // Cloned, and the old one dropped, outside of the lock: both may run anything.
        let mut waker = Some(cx.waker().clone());
        self.0
            .with(|state| match core::mem::replace(state, State::Gone) {
                State::Told(run, word) => Poll::Ready((run, word)),
                State::Waiting(last) => {
                    *state = State::Waiting(core::mem::replace(&mut waker, last));
                    Poll::Pending
                }
                State::Gone => Poll::Pending,
            })
    }

    /// Says that no word is waited for any more; returns the one that is there.
    fn leave(&self) -> Option<(Run, Word<T>)> {
        match self.0.with(|state| core::mem::replace(state, State::Gone)) {
            State::Told(run, word) => Some((run, word)),
            State::Waiting(_) | State::Gone => None,
        }
    }
}

/// Wakes, when it is dropped, outside of all locks; the rest of them also where one panics.
#[derive(Debug, Default)]
struct Wakes(SmallVec<[Waker; 2]>);

impl Drop for Wakes {
    fn drop(&mut self) {
        struct Rest<'a>(&'a mut SmallVec<[Waker; 2]>);
        impl Drop for Rest<'_> {
            fn drop(&mut self) {
                while let Some(waker) = self.0.pop() {
                    waker.wake();
                }
            }
        }
        // First come, first woken.
        self.0.reverse();
        let rest = Rest(&mut self.0);
        while let Some(waker) = rest.0.pop() {
            waker.wake();
        }
    }
}

#[cfg(all(test, not(model)))]
mod tests;

#[cfg(all(test, model))]
mod model;
