//! How much more do two threads get done than one, on one reader?
//!
//! The workloads of `hits`, each thread with a buffer of its own. The figure is the throughput of two threads by that
//! of one; twice as much is the most. The limit is the boxed copy of `hits`, whose two threads share nothing but the
//! memory's bandwidth. In the hot workload both threads want the same four blocks, so they meet wherever they can meet:
//! on locks, on counters, on reference counts.
//!
//! Two threads take samples of a fraction of a millisecond, in turn one thread alone and both at once, beginning each
//! together. A sample counts only if no thread stood in line for a processor in it, else they did not run side by side;
//! on a busy machine that leaves one of many.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gibblox_cache_harness::{
    Budget, Device, Goal, Order, Parking, Row, Samples, Scale, Stopwatch, Table, interleave,
    stay_on_processor,
};
use gibblox_core::BlockReader;

use crate::contenders::CTX;
use crate::hits::hit_workloads;

/// Undisturbed samples, alone and together, that make a figure.
const SAMPLES: usize = 9;

/// Lets two threads begin at the same time, again and again.
struct Start {
    asleep: Barrier,
    arrived: AtomicUsize,
    /// The last round that one of them has ended.
    ended: AtomicUsize,
    stopped: AtomicBool,
}

impl Start {
    /// Waits for the other thread; false where one of them has stopped.
    ///
    /// First asleep, since the system prefers who slept over who computes, then awake, to begin together.
    fn wait(&self, round: usize) -> bool {
        self.asleep.wait();
        if self.stopped.load(Ordering::Acquire) {
            return false;
        }
        self.arrived.fetch_add(1, Ordering::AcqRel);
        while self.arrived.load(Ordering::Acquire) < 2 * (round + 1) {
            core::hint::spin_loop();
        }
        true
    }
}

/// What both threads do.
struct Work<'a> {
    reader: &'a dyn BlockReader,
    device: &'a Device,
    order: &'a Order,
    len: usize,
    /// A thread that has made so many reads ends the turn for both.
    count: usize,
    /// Threads put each other to sleep, and stand in line whenever they are woken: that is the reader's own doing.
    sleepers: bool,
}

/// A thread's part in a round.
#[derive(Clone, Copy)]
struct Turn {
    begin: Instant,
    end: Instant,
    reads: usize,
    undisturbed: bool,
}

impl Turn {
    fn reads_per_second(self) -> f64 {
        self.reads as f64 / (self.end - self.begin).as_secs_f64()
    }

    fn reads_per_second_with(self, other: Self) -> f64 {
        let either = self.end.max(other.end) - self.begin.min(other.begin);
        (self.reads + other.reads) as f64 / either.as_secs_f64()
    }

    /// Whether two turns were at the same time for the most part.
    fn meets(self, other: Self) -> bool {
        let both = (self.end.min(other.end)).saturating_duration_since(self.begin.max(other.begin));
        let either = self.end.max(other.end) - self.begin.min(other.begin);
        both > either.mul_f64(0.9)
    }
}

impl Work<'_> {
    /// Makes a turn in every round in which it is this thread's, until `enough` says so on either thread.
    fn turns(
        &self,
        start: &Start,
        skip: usize,
        is_mine: impl Fn(usize) -> bool,
        mut enough: impl FnMut(Option<Turn>) -> bool,
    ) -> Vec<Option<Turn>> {
        let mut order = self.order.clone();
        for _ in 0..skip {
            order.step();
        }
        let mut buf = vec![0; self.len];
        let parking = Parking::default();
        let mut turns = Vec::new();
        while start.wait(turns.len()) {
            let mut turn = None;
            if is_mine(turns.len()) {
                let watch = Stopwatch::start();
                let begin = Instant::now();
                let (mut last, mut reads) = (0, 0);
                // Whoever is done first ends it for both, so that nobody has a part of the turn for himself.
                while reads < self.count && start.ended.load(Ordering::Relaxed) != turns.len() {
                    last = order.step();
                    let got = parking.wait(self.reader.read_blocks(last, &mut buf, CTX));
                    assert_eq!(got.unwrap(), self.len);
                    reads += 1;
                }
                start.ended.store(turns.len(), Ordering::Relaxed);
                let end = Instant::now();
                let undisturbed = watch.stop().1 < (end - begin).as_nanos() as f64 / 50.0;
                if reads != 0 {
                    self.device.check(last, &buf);
                    turn = Some(Turn {
                        begin,
                        end,
                        reads,
                        undisturbed,
                    });
                }
            }
            turns.push(turn);
            if enough(turn) {
                start.stopped.store(true, Ordering::Release);
            }
        }
        turns
    }

    /// How much two threads get done in the time of one; not a number where they were disturbed all the time.
    fn scaling(&self, limit: Duration) -> f64 {
        let start = Start {
            asleep: Barrier::new(2),
            arrived: AtomicUsize::new(0),
            ended: AtomicUsize::new(usize::MAX),
            stopped: AtomicBool::new(false),
        };
        let both = |round: usize| round % 2 == 1;
        let begin = Instant::now();
        let (ours, theirs) = thread::scope(|scope| {
            let other = scope.spawn(|| {
                stay_on_processor(1);
                let skip = self.order.numbers().len() / 2;
                self.turns(&start, skip, both, |_| false)
            });
            let one = scope.spawn(|| {
                stay_on_processor(0);
                let mut undisturbed = 0;
                let enough = |turn: Option<Turn>| {
                    undisturbed += usize::from(turn.is_some_and(|turn| turn.undisturbed));
                    undisturbed >= 4 * SAMPLES || begin.elapsed() > limit
                };
                self.turns(&start, 0, |_| true, enough)
            });
            (one.join().unwrap(), other.join().unwrap())
        });
        let (mut alone, mut together) = (Vec::new(), Vec::new());
        for (round, (mine, other)) in ours.into_iter().zip(theirs).enumerate().skip(2) {
            match (mine, other) {
                (Some(mine), None) if !both(round) && mine.undisturbed => {
                    alone.push(mine.reads_per_second());
                }
                (Some(mine), Some(other))
                    if self.sleepers
                        || mine.undisturbed && other.undisturbed && mine.meets(other) =>
                {
                    together.push(mine.reads_per_second_with(other));
                }
                _ => {}
            }
        }
        Samples::new(together).median() / Samples::new(alone).median()
    }
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let (contenders, workloads) = hit_workloads();
    for (workload, count) in workloads.iter().zip([2000, 400, 3]) {
        let scaling = |reader: &dyn BlockReader, sleepers| {
            let work = Work {
                reader,
                device: &contenders.device,
                order: &workload.order,
                len: workload.len,
                count,
                sleepers,
            };
            work.scaling(scale.pick(Duration::from_secs(1), Duration::from_millis(300)))
        };
        let budget = Budget {
            least: scale.pick(9, 3),
            ..scale.short()
        };
        let [published, ours, limit] = interleave(
            budget,
            &mut [
                &mut || scaling(&contenders.published, true),
                &mut || scaling(&contenders.ours, false),
                &mut || scaling(&contenders.limit, false),
            ],
        )
        .try_into()
        .unwrap();
        table.push(&Row {
            workload: format!("two threads by one, {}", workload.name),
            unit: |figure| format!("{figure:.2} ×"),
            published: Some(published),
            ours,
            limit,
            goal: Goal::AtLeast(0.95),
            allocations: None,
            notes: String::new(),
        });
    }
}
