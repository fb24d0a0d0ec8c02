use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;

use super::*;

/// The tag says whether the waiter hears a failure, if it wants all of the run.
type Table = Claims<char, bool>;

fn run(start: u64, end: u64) -> Run {
    Run::new(start, end).expect("not empty")
}

fn held<'t>(claimed: Result<Held<'t, char, bool>, Wait<'t, char, bool>>) -> Held<'t, char, bool> {
    claimed.expect("free")
}

#[test]
fn all_of_a_range_is_taken_piece_by_piece_in_line() {
    let table = Table::default();
    let first = table.take_all(run(2, 4)).now_or_never().expect("free");
    let other = table.take_all(run(4, 6)).now_or_never().expect("elsewhere");
    let mut both = Box::pin(table.take_all(run(0, 9)));
    assert!(both.as_mut().now_or_never().is_none());
    let mut late = Box::pin(table.take_all(run(3, 4)));
    assert!(late.as_mut().now_or_never().is_none());
    assert!(
        table.take_all(run(8, 9)).now_or_never().is_some(),
        "it has not come so far"
    );
    drop(first);
    assert!(both.as_mut().now_or_never().is_none());
    assert!(late.as_mut().now_or_never().is_none(), "it came later");
    drop(other);
    let pieces = both.as_mut().now_or_never().expect("all are gone");
    let runs: Vec<_> = pieces.iter().map(Held::run).collect();
    assert_eq!((runs[0].start(), runs[runs.len() - 1].end()), (0, 9));
    assert!(late.as_mut().now_or_never().is_none());
    drop(pieces);
    assert!(late.now_or_never().is_some());
    assert_eq!(table.len(), 0);
}

#[test]
fn a_task_that_claims_again_at_once_is_the_last_in_line() {
    let table = Table::default();
    let mut holder = held(table.claim(run(0, 1), false));
    for _ in 0..100 {
        let waiting = table.claim(run(0, 1), false).expect_err("held");
        drop(holder);
        // Before the task that waited is polled.
        let again = table.claim(run(0, 1), false).expect_err("handed over");
        let Some(Ended::Yours(turn)) = waiting.now_or_never() else {
            panic!("it is its turn");
        };
        drop(turn);
        let Some(Ended::Yours(turn)) = again.now_or_never() else {
            panic!("and then the other's");
        };
        holder = turn;
    }
    drop(holder);
    assert_eq!(table.len(), 0);
}

#[test]
fn two_that_take_in_turn_do_not_starve_one_that_shares() {
    let table = Table::default();
    let mut holder = table.take(run(0, 1)).now_or_never().expect("free");
    let mut sharing = Box::pin(table.claim(run(0, 1), false).expect_err("held"));
    for turn in 0.. {
        let mut next = Box::pin(table.take(run(0, 1)));
        assert!(next.as_mut().now_or_never().is_none());
        drop(holder);
        if let Some(Ended::Yours(own)) = sharing.as_mut().now_or_never() {
            assert!(!own.make_firm(), "void, for the next has taken it");
            break;
        }
        assert!(turn < 2, "it is passed again and again");
        holder = next.now_or_never().expect("its turn");
    }
}

/// Panics when it is woken, and counts.
struct Panics(AtomicUsize);

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        assert!(self.0.load(Ordering::SeqCst) != 1, "the first panics");
    }
}

#[test]
fn all_are_woken_though_one_waker_panics() {
    let table = Table::default();
    let holder = held(table.claim(run(0, 3), false));
    let count = Arc::new(Panics(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut waiting: Vec<_> = (0..3)
        .map(|lba| table.claim(Run::block(lba), true).expect_err("held"))
        .collect();
    for wait in &mut waiting {
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(wait).poll(&mut context).is_pending());
    }
    let ended = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
        holder.end(&'x', |_, _| true);
    }));
    assert!(ended.is_err());
    assert_eq!(count.0.load(Ordering::SeqCst), 3);
    for wait in waiting {
        assert!(matches!(wait.now_or_never(), Some(Ended::Told(_, 'x'))));
    }
}

// ---- every small schedule, beside a naive twin ----

/// What one waiter wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Want {
    part: (u64, u64),
    take: bool,
    hears: bool,
}

/// What the twin knows of a claim.
#[derive(Clone, Debug)]
struct Owned {
    blocks: Vec<u64>,
    firm: bool,
    line: Vec<usize>,
}

/// The table by blocks: who owns each, and who stands in whose line.
#[derive(Clone, Debug, Default)]
struct Twin {
    wants: Vec<(Vec<u64>, Want, bool)>,
    owned: BTreeMap<usize, Owned>,
    next: usize,
    /// What each waiter was given.
    given: BTreeMap<usize, usize>,
    told: Vec<usize>,
    gone: Vec<usize>,
}

impl Twin {
    fn owner(&self, lba: u64) -> Option<usize> {
        let mut owned = self.owned.iter();
        owned
            .find(|(_, owned)| owned.blocks.contains(&lba))
            .map(|(id, _)| *id)
    }

    fn own(&mut self, blocks: Vec<u64>, firm: bool) -> usize {
        self.next += 1;
        let line = Vec::new();
        let owned = Owned { blocks, firm, line };
        self.owned.insert(self.next, owned);
        self.next
    }

    /// Lets `waiter` have what it may, or wait; those who lose their place by that come next, before `behind`.
    fn place(&mut self, waiter: usize, behind: &mut Vec<usize>) {
        if self.gone.contains(&waiter) {
            return;
        }
        let (part, want, _) = self.wants[waiter].clone();
        if want.take {
            let mut displaced = Vec::new();
            for lba in &part {
                match self.owner(*lba) {
                    Some(id) if self.owned[&id].firm => break,
                    Some(id) => displaced.extend(self.owned.remove(&id).expect("it is").line),
                    None => {}
                }
            }
            behind.splice(0..0, displaced);
        }
        if let Some(id) = self.owner(part[0]) {
            let owned = self.owned.get_mut(&id).expect("it is");
            owned.line.push(waiter);
            if !want.take {
                let common = |lba: &u64| owned.blocks.contains(lba);
                let clipped: Vec<_> = part.iter().copied().filter(common).collect();
                self.wants[waiter].2 |= clipped != part;
                self.wants[waiter].0 = clipped;
            }
            return;
        }
        let free = part.iter().copied();
        let free = free.take_while(|lba| self.owner(*lba).is_none()).collect();
        let id = self.own(free, want.take);
        self.given.insert(waiter, id);
    }

    fn pass_on(&mut self, mut line: Vec<usize>) {
        while !line.is_empty() {
            let waiter = line.remove(0);
            self.place(waiter, &mut line);
        }
    }

    fn come(&mut self, want: Want) -> usize {
        let blocks = (want.part.0..want.part.1).collect();
        self.wants.push((blocks, want, false));
        let waiter = self.wants.len() - 1;
        self.pass_on(vec![waiter]);
        // What it did not get in line for it never waited for.
        self.wants[waiter].2 = false;
        waiter
    }

    fn end(&mut self, id: usize, hears: impl Fn(&Want, bool) -> bool) {
        let Some(Owned { blocks, line, .. }) = self.owned.remove(&id) else {
            return;
        };
        let mut others = Vec::new();
        for waiter in line {
            let (part, want, clipped) = &self.wants[waiter];
            if !want.take && hears(want, *part == blocks && !clipped) {
                self.told.push(waiter);
            } else {
                others.push(waiter);
            }
        }
        self.pass_on(others);
    }

    /// Runs, whether firm, and what each of those in line wants.
    fn state(&self) -> Vec<Seen> {
        let pair = |blocks: &[u64]| (blocks[0], blocks[blocks.len() - 1] + 1);
        let mut state: Vec<Seen> = self
            .owned
            .values()
            .map(|owned| {
                let living = owned.line.iter().filter(|id| !self.gone.contains(id));
                let line = living.map(|id| pair(&self.wants[*id].0)).collect();
                (pair(&owned.blocks), owned.firm, line)
            })
            .collect();
        state.sort_unstable();
        state
    }
}

type Seen = ((u64, u64), bool, Vec<(u64, u64)>);

fn seen(table: &Table) -> Vec<Seen> {
    let pair = |run: Run| (run.start(), run.end());
    table.table.with(|table| {
        for two in table.sorted.windows(2) {
            assert!(two[0].run.end() <= two[1].run.start(), "disjoint, sorted");
        }
        let seen = |entry: &Entry<char, bool>| {
            let living = entry.line.iter().filter(|waiter| !waiter.slot.is_gone());
            for waiter in living.clone() {
                let first = Run::block(waiter.part.start());
                assert!(entry.run.clip(first).is_some(), "in its line");
                match waiter.wish {
                    Wish::Take => assert_eq!(entry.grip, Grip::Firm, "it waits for no fetch"),
                    Wish::Share(_) => assert_eq!(entry.run.clip(waiter.part), Some(waiter.part)),
                }
            }
            let line = living.map(|waiter| pair(waiter.part)).collect();
            (pair(entry.run), entry.grip == Grip::Firm, line)
        };
        table.sorted.iter().map(seen).collect()
    })
}

type Taking<'t> = Pin<Box<dyn Future<Output = Ended<'t, char, bool>> + 't>>;

/// How holders end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Dropped,
    Failed,
    Told,
}

/// A table and its twin.
struct Both<'t> {
    table: &'t Table,
    twin: Twin,
    waiting: BTreeMap<usize, Taking<'t>>,
    /// With the twin's id.
    held: Vec<(usize, Held<'t, char, bool>)>,
}

impl<'t> Both<'t> {
    fn new(table: &'t Table) -> Self {
        Self {
            table,
            twin: Twin::default(),
            waiting: BTreeMap::new(),
            held: Vec::new(),
        }
    }

    #[track_caller]
    fn check(&self) {
        assert_eq!(seen(self.table), self.twin.state());
    }

    fn come(&mut self, want: Want) {
        let waiter = self.twin.come(want);
        let part = run(want.part.0, want.part.1);
        let table = self.table;
        let waiting: Taking<'t> = if want.take {
            let mut taking = Box::pin(table.take(part).map(Ended::Yours));
            if let Some(ended) = taking.as_mut().now_or_never() {
                Box::pin(core::future::ready(ended))
            } else {
                taking
            }
        } else {
            match table.claim(part, want.hears) {
                Ok(held) => Box::pin(core::future::ready(Ended::Yours(held))),
                Err(behind) => Box::pin(behind),
            }
        };
        self.waiting.insert(waiter, waiting);
        self.check();
    }

    /// Polls all that wait: each has heard, or has been given, what its twin has.
    fn poll(&mut self) {
        let twin = &self.twin;
        let held = &mut self.held;
        self.waiting.retain(|waiter, waiting| {
            match waiting.as_mut().now_or_never() {
                None => {
                    assert!(!twin.told.contains(waiter) && !twin.given.contains_key(waiter));
                    return true;
                }
                Some(Ended::Told(part, _)) => {
                    assert!(twin.told.contains(waiter));
                    assert_eq!(part.start(), twin.wants[*waiter].0[0]);
                }
                Some(Ended::Yours(own)) => held.push((twin.given[waiter], own)),
            }
            false
        });
    }

    fn leave(&mut self, waiter: usize) {
        if self.waiting.remove(&waiter).is_none() {
            return;
        }
        if let Some(id) = self.twin.given.remove(&waiter) {
            self.twin.end(id, |_, _| false);
        } else {
            self.twin.gone.push(waiter);
        }
        self.check();
    }

    fn end(&mut self, index: usize, end: End) {
        let (id, held) = self.held.remove(index);
        let first = self.twin.owned.get(&id).and_then(|owned| {
            let mut line = owned.line.iter();
            line.find(|waiter| !self.twin.gone.contains(waiter))
                .copied()
        });
        match end {
            End::Dropped => {
                self.twin.end(id, |_, _| false);
                drop(held);
            }
            End::Failed => {
                let hears = |hears: bool, whole: bool| hears && whole;
                self.twin.end(id, |want, whole| hears(want.hears, whole));
                held.end(&'f', |tag, whole| hears(*tag, whole));
            }
            End::Told => {
                self.twin.end(id, |_, _| true);
                held.end(&'t', |_, _| true);
            }
        }
        self.check();
        // Whatever the twin does: the first in line waits no longer.
        if let Some(first) = first {
            let twin = &self.twin;
            assert!(twin.told.contains(&first) || twin.given.contains_key(&first));
        }
    }

    /// Ends all, by a schedule that `choice` picks.
    fn drain(&mut self, mut choice: usize) -> usize {
        let mut steps = 0;
        loop {
            self.poll();
            if self.held.is_empty() {
                break;
            }
            steps += 1;
            assert!(steps < 20, "each ends once");
            let index = choice % self.held.len();
            choice /= self.held.len();
            let end = [End::Dropped, End::Failed][choice % 2];
            choice /= 2;
            self.end(index, end);
        }
        assert!(self.waiting.is_empty(), "none is left waiting");
        assert_eq!(self.table.len(), 0);
        choice
    }
}

/// All wants over four blocks; `few`: a choice of them.
fn wants(few: bool) -> Vec<Want> {
    let mut wants = Vec::new();
    for start in 0..4 {
        for end in start + 1..=4 {
            for (take, hears) in [(false, false), (false, true), (true, false)] {
                let part = (start, end);
                let is_one = matches!(part, (0, 2 | 4) | (1 | 2, 3));
                if !few || (is_one && hears == (part == (0, 4) && !take)) {
                    wants.push(Want { part, take, hears });
                }
            }
        }
    }
    wants
}

/// Says which schedule it was that panicked.
struct Said(alloc::string::String);

impl Drop for Said {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::eprintln!("{}", self.0);
        }
    }
}

/// One schedule: a claim of `first`, firm or not, `wants` in order, one of which leaves before or after the claim ends.
fn check_schedule(first: Run, firm: bool, wants: &[Want], leaves: Option<(usize, bool)>, end: End) {
    let _said = Said(alloc::format!(
        "{first:?} {firm} {wants:?} {leaves:?} {end:?}"
    ));
    for choice in [0, 1, 0b1101_0110, 0x5a5a_a5c3] {
        let table = Table::default();
        let mut both = Both::new(&table);
        let part = (first.start(), first.end());
        let (take, hears) = (false, false);
        both.come(Want { part, take, hears });
        both.poll();
        if firm {
            assert!(both.held[0].1.make_firm());
            let owned = both.twin.owned.values_mut().next();
            owned.expect("the first").firm = true;
        }
        for want in wants {
            both.come(*want);
        }
        let leave = |both: &mut Both<'_>, late: bool| {
            if let Some((waiter, is_late)) = leaves {
                if is_late == late {
                    both.leave(waiter + 1);
                }
            }
        };
        leave(&mut both, false);
        both.end(0, end);
        // Tokens that were not seen yet.
        leave(&mut both, true);
        both.drain(choice);
    }
}

#[test]
fn every_schedule_of_up_to_three_waiters_is_the_naive_one() {
    let all = wants(false);
    let few = wants(true);
    let mut schedules = 0;
    let mut check = |wants: &[Want]| {
        for (first, firm, end) in [
            (run(0, 4), false, End::Dropped),
            (run(0, 4), true, End::Failed),
            (run(1, 3), false, End::Failed),
            (run(1, 4), true, End::Told),
        ] {
            let leaving = (0..wants.len()).flat_map(|waiter| [(waiter, false), (waiter, true)]);
            for leaves in core::iter::once(None).chain(leaving.map(Some)) {
                check_schedule(first, firm, wants, leaves, end);
                schedules += 1;
            }
        }
    };
    for a in &all {
        check(&[*a]);
        for b in &all {
            check(&[*a, *b]);
        }
    }
    for a in &few {
        for b in &few {
            for c in &few {
                check(&[*a, *b, *c]);
            }
        }
    }
    assert!(schedules > 10_000, "{schedules}");
}

#[test]
fn schedules_of_four_waiters_are_the_naive_ones() {
    let few = wants(true);
    let at = |index: usize| few[index % few.len()];
    // A step that has nothing in common with the number of wants goes through all there are of two in a row.
    for index in (0..few.len().pow(4)).step_by(7) {
        let len = few.len();
        let four = [
            at(index),
            at(index / len),
            at(index / len.pow(2)),
            at(index / len.pow(3)),
        ];
        let leaves = [None, Some((index % 4, index % 3 == 0))][index % 2];
        let end = [End::Dropped, End::Failed, End::Told][index % 3];
        check_schedule(run(0, 4), index % 5 == 0, &four, leaves, end);
    }
}
