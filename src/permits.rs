//! [`Permits`]: a counting semaphore with ranks and FIFO hand-over. So many fetches are under way at once, over all tasks.
//!
//! ```text
//!   try_take ──► Permit, where one is free
//!   take     ──► Take, a place in the line of its rank ──► Permit
//!
//!   Permit dropped ──► the next in line has it; where no task is in line it is free
//!   Take dropped   ──► it leaves the line; a permit that it was given passes on
//! ```
//!
//! A permit that is given back passes on under the lock, so a task that gives one back and wants one again is behind those
//! who waited. Lower ranks go first. So that no rank waits for ever, each [`PASSES`]th permit that passed over another
//! rank goes to the task that has waited longest, whatever its rank.
//!
//! **Waiting goes one way** (I7). A task that holds a permit waits for the source and the backend, and never for a block.
//! So a task that holds blocks may wait for a permit: all permits come back.
//!
//! Cost: one short lock to take a permit that is free, and one to give it back. Wakers run outside of the lock.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use gibblox_core::{ReadContext, ReadPriority};

use crate::sync::Lock;

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// A read, by the priority of its context.
    High,
    Medium,
    Low,
    /// What is cached ahead of the reads.
    Ahead,
}

const RANKS: usize = 4;

/// So many permits pass over a task of a higher rank before one goes by the time of waiting alone.
const PASSES: u32 = 32;

impl Rank {
    /// That of a read.
    pub(crate) const fn of(ctx: ReadContext) -> Self {
        match ctx.priority {
            ReadPriority::High => Self::High,
            ReadPriority::Medium => Self::Medium,
            ReadPriority::Low => Self::Low,
        }
    }
}

/// So many permits, and who waits for one.
#[derive(Debug)]
pub(crate) struct Permits {
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    /// No task is in line where this is not zero.
    free: usize,
    lines: [VecDeque<Waiter>; RANKS],
    /// How many got in line so far. Wraps.
    arrivals: usize,
    /// How many permits passed over another rank since the last that went by the time of waiting.
    passes: u32,
}

#[derive(Debug)]
struct Waiter {
    arrival: usize,
    slot: Arc<Slot>,
}

/// The right to fetch. Dropped, it passes on.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit<'p> {
    permits: &'p Permits,
}

/// A place in line.
///
/// Cancellation is strict: a dropped waiter passes on what it was given.
#[derive(Debug)]
#[must_use]
pub(crate) struct Take<'p> {
    permits: &'p Permits,
    slot: Arc<Slot>,
}

impl Permits {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            state: Lock::new(State {
                free: count,
                lines: core::array::from_fn(|_| VecDeque::new()),
                arrivals: 0,
                passes: 0,
            }),
        }
    }

    /// A permit, where one is free: then no task is in line.
    pub(crate) fn try_take(&self) -> Option<Permit<'_>> {
        let taken = self.state.with(State::take_free);
        taken.then(|| Permit { permits: self })
    }

    /// Gets in line, at once.
    pub(crate) fn take(&self, rank: Rank) -> Take<'_> {
        let slot = Arc::new(Slot::default());
        self.state.with(|state| {
            if state.take_free() {
                let _ = slot.give();
            } else {
                state.enqueue(rank, Arc::clone(&slot));
            }
        });
        Take {
            permits: self,
            slot,
        }
    }

    /// How many are free.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.state.with(|state| state.free)
    }
}

impl State {
    const fn take_free(&mut self) -> bool {
        let is_free = self.free != 0;
        self.free -= is_free as usize;
        is_free
    }

    fn enqueue(&mut self, rank: Rank, slot: Arc<Slot>) {
        self.arrivals = self.arrivals.wrapping_add(1);
        let arrival = self.arrivals;
        let line = &mut self.lines[rank as usize];
        // Waiters that were dropped leave their slots behind. Clearing up only when the line would grow keeps it within
        // twice the living, at a constant cost for each.
        if line.len() == line.capacity() {
            line.retain(|waiter| !waiter.slot.is_gone());
        }
        line.push_back(Waiter { arrival, slot });
    }

    /// Gives a permit to the next in line, or sets it free; returns whom to wake.
    fn pass_on(&mut self) -> Option<Waker> {
        while let Some(waiter) = self.next() {
            // One that has gone just now leaves it to the next.
            if let Ok(waker) = waiter.slot.give() {
                return waker;
            }
        }
        self.free += 1;
        None
    }

    fn next(&mut self) -> Option<Waiter> {
        for line in &mut self.lines {
            while line.front().is_some_and(|waiter| waiter.slot.is_gone()) {
                line.pop_front();
            }
        }
        let waiting = |(_, line): &(usize, &VecDeque<Waiter>)| !line.is_empty();
        let mut ranks = self.lines.iter().enumerate().filter(waiting);
        let (mut rank, _) = ranks.next()?;
        if ranks.next().is_some() {
            self.passes += 1;
            if self.passes > PASSES {
                self.passes = 0;
                let since = |(_, line): &(usize, &VecDeque<Waiter>)| {
                    let first = line.front().map(|waiter| waiter.arrival);
                    first.map(|arrival| self.arrivals.wrapping_sub(arrival))
                };
                let longest = self.lines.iter().enumerate().max_by_key(since);
                rank = longest.map_or(rank, |(rank, _)| rank);
            }
        }
        self.lines[rank].pop_front()
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let waker = self.permits.state.with(State::pass_on);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<'p> Future for Take<'p> {
    type Output = Permit<'p>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let permits = self.permits;
        self.slot.poll(cx).map(|()| Permit { permits })
    }
}

impl Drop for Take<'_> {
    fn drop(&mut self) {
        if self.slot.leave() {
            drop(Permit {
                permits: self.permits,
            });
        }
    }
}

/// What a waiter shares with the line.
#[derive(Debug)]
struct Slot(Lock<Turn>);

#[derive(Debug)]
enum Turn {
    Waiting(Option<Waker>),
    Given,
    /// The waiter has it, or was dropped.
    Gone,
}

/// The waiter was dropped.
struct IsGone;

impl Default for Slot {
    fn default() -> Self {
        Self(Lock::new(Turn::Waiting(None)))
    }
}

impl Slot {
    fn is_gone(&self) -> bool {
        self.0.with(|given| matches!(given, Turn::Gone))
    }

    fn give(&self) -> Result<Option<Waker>, IsGone> {
        self.0.with(|given| match given {
            Turn::Waiting(waker) => {
                let waker = waker.take();
                *given = Turn::Given;
                Ok(waker)
            }
            Turn::Given | Turn::Gone => Err(IsGone),
        })
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Cloned, and the old one dropped, outside of the lock: both may run anything.
        let mut waker = Some(cx.waker().clone());
        self.0
            .with(|given| match core::mem::replace(given, Turn::Gone) {
                Turn::Given => Poll::Ready(()),
                Turn::Waiting(last) => {
                    *given = Turn::Waiting(core::mem::replace(&mut waker, last));
                    Poll::Pending
                }
                Turn::Gone => Poll::Pending,
            })
    }

    /// Says that none is waited for any more; whether one was given.
    fn leave(&self) -> bool {
        let given = self.0.with(|given| core::mem::replace(given, Turn::Gone));
        matches!(given, Turn::Given)
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use futures_util::FutureExt;

    fn has<'p>(take: &mut Take<'p>) -> Option<Permit<'p>> {
        take.now_or_never()
    }

    #[test]
    fn no_more_are_out_than_there_are_and_all_come_back() {
        for count in 1..5 {
            let permits = Permits::new(count);
            let taken: Vec<_> = core::iter::from_fn(|| permits.try_take()).collect();
            assert_eq!(taken.len(), count);
            let mut waits: Vec<_> = (0..3).map(|_| permits.take(Rank::High)).collect();
            assert!(waits.iter_mut().all(|wait| has(wait).is_none()));
            drop(taken);
            // Each is passed on when it is given back, whether its waiter looks or is dropped.
            let given = waits.pop().expect("three").now_or_never();
            assert_eq!(given.is_some(), count >= 3);
            drop(given);
            drop(waits);
            assert_eq!(permits.free(), count);
        }
    }

    #[test]
    fn who_gives_one_back_is_behind_those_who_waited() {
        let permits = Permits::new(1);
        let first = permits.try_take().expect("free");
        let mut second = permits.take(Rank::High);
        let mut third = permits.take(Rank::High);
        drop(first);
        assert!(permits.try_take().is_none());
        assert!(has(&mut third).is_none());
        let second = has(&mut second).expect("next");
        drop(second);
        assert!(has(&mut third).is_some());
        assert_eq!(permits.free(), 1);
    }

    #[test]
    fn lower_ranks_go_first_and_higher_ones_end_all_the_same() {
        let permits = Permits::new(1);
        let mut held = permits.try_take();
        let mut behind = permits.take(Rank::Ahead);
        let mut rounds = 0;
        // There is always one that waits in front.
        let mut front = permits.take(Rank::High);
        loop {
            let next = permits.take(Rank::High);
            drop(held.take());
            if let Some(permit) = has(&mut behind) {
                drop(permit);
                break;
            }
            held = Some(has(&mut front).expect("the lower rank"));
            front = next;
            rounds += 1;
        }
        assert_eq!(rounds, PASSES);
    }

    #[test]
    fn dropped_waiters_keep_no_permit_and_little_memory() {
        let permits = Permits::new(1);
        let held = permits.try_take();
        let mut last = permits.take(Rank::Low);
        for _ in 0..1000 {
            drop(permits.take(Rank::Low));
        }
        let len = permits.state.with(|state| state.lines[2].len());
        assert!(len < 16, "{len}");
        // One that was given a permit and is dropped before it looks.
        let first = permits.take(Rank::High);
        drop(held);
        assert!(has(&mut last).is_none());
        drop(first);
        assert!(has(&mut last).is_some());
    }
}

#[cfg(all(test, model))]
mod model {
    use super::*;
    use futures_util::FutureExt;
    use loom::thread;

    #[test]
    fn a_permit_is_never_lost_between_giving_and_leaving() {
        loom::model(|| {
            let permits = Arc::new(Permits::new(1));
            let other = {
                let permits = Arc::clone(&permits);
                thread::spawn(move || drop(permits.try_take()))
            };
            // Gets in line, or has it, and leaves.
            drop(permits.take(Rank::High));
            other.join().expect("no panic");
            assert_eq!(permits.free(), 1);
        });
    }

    #[test]
    fn a_waiter_is_given_what_the_holder_gives_back() {
        loom::model(|| {
            let permits = Arc::new(Permits::new(1));
            let other = {
                let permits = Arc::clone(&permits);
                thread::spawn(move || drop(permits.try_take()))
            };
            let mut take = permits.take(Rank::High);
            drop((&mut take).now_or_never());
            other.join().expect("no panic");
            drop(take);
            assert_eq!(permits.free(), 1);
        });
    }
}
