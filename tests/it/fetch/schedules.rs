//! Thousands of seeded interleavings of everything that can happen, compared with an oracle after every step.
//!
//! One seed decides the device, the limits, who wants what, which call is let go when, who is dropped, and what fails.
//! What a failing seed prints replays it.

use crate::support::backend::{Backend, Fault as BackendFault};
use crate::support::chance::{Holds, Next, next};
use crate::support::files::{file_of_ours, file_of_published};
use crate::support::gate::Mode;
use crate::support::source::{Fault, Op};
use crate::support::{
    Immediate, Oracle, Poller, Rng, Source, World, assert_calls_are_counted, check_read, finish,
    for_seeds, lock, read,
};
use gibblox_cache::{
    BypassPolicy, CacheConfig, CacheOps, CachedBlockReader, PauseSwitch, ScrubReport, VerifyPolicy,
    WarmPlan, WarmProgress, WiderFetches,
};
use gibblox_core::{BlockReader, GibbloxError, GibbloxResult, ReadContext};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// What may happen beside reading, prefetching, warming, pausing, flushing and scrubbing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hazard {
    /// Futures are dropped.
    Drops,
    /// Blocks of the source are bad for a while.
    SourceFaults,
    /// Calls of the backend fail for a while.
    BackendFaults,
    /// Bytes of the file change behind the reader's back; it compares on every read then.
    Damage,
    /// The source holds other bytes all of a sudden, and blocks are invalidated.
    Renewals,
    /// More is fetched than was asked for: around, ahead, across gaps, any of these or all.
    Unasked,
}

use Hazard::{BackendFaults, Damage, Drops, Renewals, SourceFaults, Unasked};

#[derive(Clone, Copy, Debug)]
enum Wish {
    Read(u64, u64),
    Ensure(u64, u64),
    /// Two ranges, each a first block and a length.
    Warm([(u64, u64); 2]),
    Flush,
    Scrub,
    Invalidate(u64, u64),
}

enum Got {
    Bytes(GibbloxResult<Vec<u8>>),
    Done(GibbloxResult<()>),
    Scrubbed(GibbloxResult<ScrubReport>),
    Warmed(GibbloxResult<WarmProgress>),
}

/// A task and what was wrong in the world while it lived.
struct Living {
    wish: Wish,
    /// Blocks of the source that were bad at some time.
    bad: BTreeSet<u64>,
    backend_sick: bool,
    polled: bool,
    /// The content of the source, and what was known of the content of each block, when it was polled first.
    began_with: u64,
    at_least: Vec<u64>,
}

/// The blocks that are bad now; the source's faults look here.
type Bad = Arc<Mutex<BTreeSet<u64>>>;

fn bad_message(lba: u64) -> String {
    format!("block {lba} is bad")
}

fn fail_bad_blocks(source: &Source, bad: &Bad) {
    let bad = Arc::clone(bad);
    source.fail(move |call| {
        let bad = lock(&bad);
        let first = bad.iter().find(|lba| call.touches(**lba));
        first.map(|lba| Fault::io(&bad_message(*lba)))
    });
}

/// How many blocks were fetched though they had been before.
fn fetched_again(source: &Source) -> u64 {
    let fetches = source.fetches();
    let again = fetches.iter().map(|count| count.saturating_sub(1) as u64);
    again.sum()
}

/// Each call of the backend fails with this chance, in percent.
fn fail_by_chance(backend: &Backend, mut rng: Rng, percent: u64) {
    backend.fail(move |_| {
        let fault = match rng.below(4) {
            0 => BackendFault::Error,
            1 => BackendFault::Torn,
            2 => BackendFault::Garbage,
            _ => BackendFault::Short,
        };
        rng.chance(percent).then_some(fault)
    });
}

/// One process, and what is known of it.
struct Life<'a, C> {
    hazards: &'a [Hazard],
    source: &'a Arc<Source>,
    backend: &'a Arc<Backend>,
    reader: &'a CachedBlockReader<Arc<Source>, C>,
    poller: Poller<'a, Got>,
    living: BTreeMap<usize, Living>,
    bad: Bad,
    /// Holds what is warmed.
    pause: PauseSwitch,
    backend_sick: bool,
    /// Blocks that are valid beyond doubt, as long as nothing can take that away from them.
    oracle: Oracle,
    /// Content that is older than this was invalidated, for each block.
    at_least: &'a mut Vec<u64>,
    /// Whether what is valid may be fetched again.
    merges_gaps: bool,
    /// How many blocks were fetched once more by the processes before.
    again_before: u64,
    /// Blocks that `read_blocks` was asked for and has looked at, and of these those it was asked for to the end.
    looked: u64,
    finished: u64,
    /// Blocks of reads that were `Ok`.
    served: u64,
    scrubs: u64,
}

impl<C: CacheOps> Life<'_, C> {
    fn may(&self, hazard: Hazard) -> bool {
        self.hazards.contains(&hazard)
    }

    fn spawn(&mut self, wish: Wish) {
        let reader = self.reader;
        let pause = self.pause.clone();
        let id = self.poller.spawn(async move {
            match wish {
                Wish::Read(lba, blocks) => Got::Bytes(read(reader, lba, blocks).await),
                Wish::Ensure(lba, blocks) => {
                    let ctx = ReadContext::BACKGROUND;
                    Got::Done(reader.ensure_cached(lba, blocks, ctx).await)
                }
                Wish::Warm(ranges) => Got::Warmed(warm(reader, ranges, &pause).await),
                Wish::Flush => Got::Done(reader.flush_cache().await),
                Wish::Scrub => Got::Scrubbed(reader.scrub().await),
                Wish::Invalidate(lba, blocks) => Got::Done(reader.invalidate(lba, blocks).await),
            }
        });
        self.scrubs += u64::from(matches!(wish, Wish::Scrub));
        // A call that began while the backend was sick fails, and whoever still follows it may hear of it.
        let sick_before = self.living.values().any(|living| living.backend_sick);
        let living = Living {
            wish,
            bad: lock(&self.bad).clone(),
            backend_sick: self.backend_sick || sick_before,
            polled: false,
            began_with: 0,
            at_least: Vec::new(),
        };
        self.living.insert(id, living);
    }

    fn poll(&mut self, id: usize) {
        let living = self.living.get_mut(&id).expect("it lives");
        if let (false, Wish::Read(_, blocks)) = (living.polled, living.wish) {
            self.looked += blocks;
        }
        if !living.polled {
            living.began_with = self.source.generation();
            living.at_least.clone_from(self.at_least);
        }
        living.polled = true;
        if self.poller.poll(id) {
            let living = self.living.remove(&id).expect("it lived");
            let got = self.poller.take(id);
            self.judge(&living, got);
        }
    }

    fn cancel(&mut self, id: usize) {
        self.poller.cancel(id);
        self.living.remove(&id);
    }

    /// Compares how a task ended with what it may have met.
    fn judge(&mut self, living: &Living, got: Got) {
        let wish = living.wish;
        match (wish, got) {
            (Wish::Read(lba, blocks), Got::Bytes(Ok(bytes))) => {
                let generations = self.source.generations(lba, &bytes);
                let at_least = &living.at_least[lba as usize..];
                assert!(
                    generations
                        .iter()
                        .zip(at_least)
                        .all(|(got, least)| got >= least),
                    "{wish:?} got {generations:?}, but was to get {at_least:?} at least"
                );
                self.finished += blocks;
                self.served += blocks;
                self.oracle.cache(lba, blocks);
            }
            (Wish::Read(lba, blocks), Got::Bytes(Err(error))) => {
                self.finished += blocks;
                assert!(
                    is_own_error(living, lba, blocks, &error),
                    "{wish:?} failed with {error}, and bad were only {:?}",
                    living.bad
                );
            }
            (Wish::Ensure(lba, blocks), Got::Done(Ok(()))) => self.oracle.cache(lba, blocks),
            (Wish::Ensure(lba, blocks), Got::Done(Err(error))) => {
                self.judge_ahead(living, &[(lba, blocks)], &error);
            }
            (Wish::Warm(ranges), Got::Warmed(Ok(done))) => {
                assert_eq!(done.done_blocks, done.wanted_blocks);
                for (lba, blocks) in ranges {
                    self.oracle.cache(lba, blocks);
                }
            }
            (Wish::Warm(ranges), Got::Warmed(Err(error))) => {
                self.judge_ahead(living, &ranges, &error);
            }
            (Wish::Invalidate(lba, blocks), Got::Done(Ok(()))) => {
                for at_least in &mut self.at_least[lba as usize..(lba + blocks) as usize] {
                    *at_least = living.began_with.max(*at_least);
                }
            }
            (Wish::Flush | Wish::Invalidate(..), Got::Done(result)) => {
                if let Err(error) = result {
                    assert!(self.is_backend_error(living, &error), "{wish:?}: {error}");
                }
            }
            (Wish::Scrub, Got::Scrubbed(result)) => match result {
                Err(error) => {
                    // It keeps what it cannot read, also where the file ends before, and says so.
                    let is_short =
                        |message: &str| message.starts_with("the cache backend returned");
                    let may_be_short = self.may(Damage) || self.may(BackendFaults);
                    assert!(
                        self.is_backend_error(living, &error)
                            || may_be_short && error.message().is_some_and(is_short),
                        "{wish:?}: {error}"
                    );
                }
                Ok(report) => {
                    let sum =
                        report.intact_blocks + report.dropped_blocks + report.unchecked_blocks;
                    assert_eq!(report.scanned_blocks, sum, "{report:?}");
                    assert_eq!(report.unread_blocks, 0, "that is an error");
                    // A store that is dropped after a dropped invalidation leaves new bytes behind an old bit and sum.
                    let half_done = self.may(Drops) && self.may(Renewals);
                    let harmed = self.may(Damage) || self.may(BackendFaults) || half_done;
                    assert!(
                        harmed || report.dropped_blocks == 0,
                        "a scrub drops nothing that is whole: {report:?}"
                    );
                }
            },
            _ => unreachable!("a wish gets its own kind of answer"),
        }
    }

    /// Did a call fail while the task lived, or was there still a bypass from before?
    fn is_backend_error(&self, living: &Living, error: &GibbloxError) -> bool {
        let is_bypassed =
            |message: &str| message.contains("is bypassed") || message.contains("a bypass ended");
        is_sick_backend(living, error)
            || (self.may(BackendFaults) && error.message().is_some_and(is_bypassed))
    }

    /// Whether caching ahead may have failed like this.
    fn judge_ahead(&self, living: &Living, ranges: &[(u64, u64)], error: &GibbloxError) {
        let mut ranges = ranges.iter();
        assert!(
            ranges.any(|(lba, blocks)| is_own_error(living, *lba, *blocks, error))
                || self.is_backend_error(living, error)
                || (self.may(Damage) && error.message().is_some_and(is_about_damage)),
            "{:?} failed with {error}, and bad were only {:?}",
            living.wish,
            living.bad
        );
    }

    /// What holds after every step, whoever is in the middle of what.
    fn check(&self) {
        let stats = finish(self.reader.get_stats());
        let counted = stats.total_hits + stats.total_misses;
        assert!(
            (self.finished..=self.looked).contains(&counted),
            "{counted} blocks counted, {} finished, {} looked at",
            self.finished,
            self.looked
        );
        let fetched = self.source.fetches();
        if !self.may(BackendFaults) && !self.may(Damage) {
            let touched = fetched.iter().filter(|count| **count > 0).count() as u64;
            assert!(stats.cached_blocks <= touched, "valid without a fetch");
            assert!(
                stats.cached_blocks >= self.oracle.cached() || self.may(Renewals),
                "what was cached is not valid any more"
            );
            if !self.may(Drops) && !self.may(SourceFaults) && !self.may(Renewals) {
                let again = fetched_again(self.source) - self.again_before;
                assert!(again == 0 || self.merges_gaps, "fetched twice");
            }
        }
        let counters = self.reader.counters();
        let (fetched, used) = (
            counters.unasked_fetched_blocks,
            counters.unasked_used_blocks,
        );
        assert!(used <= fetched, "used without a fetch: {counters:?}");
        if !self.may(Unasked) {
            assert_eq!((fetched, counters.refetched_blocks), (0, 0), "unasked");
        }
    }

    fn change_weather(&mut self, rng: &mut Rng) {
        let total = self.source.blocks();
        if self.may(SourceFaults) && rng.chance(50) {
            let mut bad = BTreeSet::new();
            for _ in 0..rng.below(3) {
                bad.insert(rng.below(total));
            }
            for living in self.living.values_mut() {
                living.bad.extend(bad.iter());
            }
            *lock(&self.bad) = bad;
        }
        if self.may(BackendFaults) && rng.chance(50) {
            self.backend_sick = rng.chance(60);
            if self.backend_sick {
                let percent = [10, 50, 100][rng.index(3)];
                fail_by_chance(self.backend, Rng::new(rng.next()), percent);
                for living in self.living.values_mut() {
                    living.backend_sick = true;
                }
            } else {
                self.backend.heal();
            }
        }
        if self.may(Renewals) && rng.chance(50) {
            self.source.renew();
        }
        if self.may(Damage) {
            let (at, bit) = (rng.next(), rng.below(8));
            if rng.chance(5) {
                // Somebody else opened the file for a source of their own, and filled it.
                let other = Source::new(at, self.source.block_size(), total);
                let file = file_of_ours(&other, 0..total);
                self.backend.edit(|bytes| *bytes = file);
            }
            self.backend.edit(|bytes| {
                if !bytes.is_empty() {
                    let at = at % bytes.len() as u64;
                    bytes[at as usize] ^= 1 << bit;
                }
            });
        }
    }

    fn wish(&mut self, rng: &mut Rng) {
        let (lba, blocks) = rng.run(self.source.blocks(), 12);
        self.spawn(match rng.below(14) {
            _ if self.may(Renewals) && rng.chance(30) => Wish::Invalidate(lba, blocks),
            0 => Wish::Flush,
            1 => Wish::Scrub,
            2 | 3 => Wish::Ensure(lba, blocks),
            4 | 5 => Wish::Warm([(lba, blocks), rng.run(self.source.blocks(), 12)]),
            _ => Wish::Read(lba, blocks),
        });
    }

    fn step(&mut self, rng: &mut Rng) {
        match rng.below(100) {
            0..15 if self.living.len() < 10 => self.wish(rng),
            15..65 => {
                if let Some(Next::Poll(id)) = next(rng, &self.poller, &[]) {
                    self.poll(id);
                }
            }
            65..77 => self.source.gate.release_any(rng),
            77..92 => self.backend.gate.release_any(rng),
            92..96 if self.may(Drops) && !self.living.is_empty() => {
                let living: Vec<_> = self.living.keys().copied().collect();
                self.cancel(living[rng.index(living.len())]);
            }
            96..98 => self.change_weather(rng),
            98 => self.pause.pause(),
            99 => self.pause.resume(),
            _ => {}
        }
        self.check();
    }

    /// Lets everybody come to an end.
    fn wind_down(&mut self, rng: &mut Rng) {
        let gates: [&dyn Holds; 2] = [&self.source.gate, &self.backend.gate];
        loop {
            // Tasks before calls, so that as many calls as can be are held at once.
            let task = next(rng, &self.poller, &[]);
            match task.or_else(|| next(rng, &self.poller, &gates)) {
                Some(Next::Poll(id)) => self.poll(id),
                Some(Next::Release(gate)) => gates[gate].release_any(rng),
                None if self.pause.is_paused() => self.pause.resume(),
                None => break,
            }
            self.check();
        }
        self.poller.run_to_end();
        assert!(self.living.is_empty());
    }
}

/// Warms, and looks at what is told.
async fn warm<S: BlockReader, C: CacheOps>(
    reader: &CachedBlockReader<S, C>,
    ranges: [(u64, u64); 2],
    pause: &PauseSwitch,
) -> GibbloxResult<WarmProgress> {
    let ahead = WarmPlan::ranges(ranges.map(|(lba, blocks)| lba..lba + blocks)).with_pause(pause);
    let mut last: Option<WarmProgress> = None;
    let tell = |now: &WarmProgress| {
        assert!(now.done_blocks <= now.wanted_blocks, "{now:?}");
        if let Some(last) = last {
            assert_eq!(now.wanted_blocks, last.wanted_blocks);
            assert!(now.done_blocks >= last.done_blocks, "{last:?}, {now:?}");
            assert!(
                now.fetched_blocks >= last.fetched_blocks,
                "{last:?}, {now:?}"
            );
        }
        last = Some(*now);
    };
    let done = reader.warm_with_progress(ahead, tell).await?;
    assert_eq!(last, Some(done), "what is returned was told");
    Ok(done)
}

/// Did a block that the task asked for fail, and does the error say that it was this block?
fn is_own_error(living: &Living, lba: u64, blocks: u64, error: &GibbloxError) -> bool {
    let mut bad = living.bad.range(lba..lba + blocks);
    bad.any(|lba| error.message() == Some(&bad_message(*lba)))
}

/// Nobody can keep blocks valid that are damaged as fast as they are stored.
fn is_about_damage(message: &str) -> bool {
    message.starts_with("blocks were dropped")
}

fn is_sick_backend(living: &Living, error: &GibbloxError) -> bool {
    let message = error.message().unwrap_or_default();
    // The second is what becomes of blocks of a file without checksums: the flush that failed was somebody else's.
    let is_about_it = message.starts_with("backend: ")
        || message.starts_with("a flush failed")
        || is_about_damage(message);
    living.backend_sick && is_about_it
}

fn random_config(rng: &mut Rng, hazards: &[Hazard], block_size: u32) -> CacheConfig {
    let verify = if hazards.contains(&Damage) || rng.chance(20) {
        VerifyPolicy::OnEveryRead
    } else {
        VerifyPolicy::OnFirstRead
    };
    let every = 1 + rng.below(8);
    let config = if rng.chance(50) {
        CacheConfig::new().with_flush_every_blocks(every as u32)
    } else {
        CacheConfig::new().with_flush_every_bytes(every * u64::from(block_size))
    };
    let config = config
        .with_window_bytes(block_size * (1 + rng.below(5) as u32))
        .with_windows_at_once(1 + rng.below(3) as u32)
        .with_fetches_at_once(1 + rng.below(4) as u32)
        .with_verify(verify);
    let config = if rng.chance(50) {
        config.with_bypass(BypassPolicy {
            after_failures: 1 + rng.below(6) as u32,
            probe_after_reads: 1 + rng.below(4) as u32,
        })
    } else {
        config
    };
    if !hazards.contains(&Unasked) {
        return config;
    }
    let wider_fetches = WiderFetches::new()
        .with_around_bytes(block_size * rng.below(9) as u32)
        .with_ahead_bytes(block_size * rng.below(9) as u32)
        .with_ahead_after_reads(2 + rng.below(2) as u32)
        .with_gap_blocks(rng.below(4) as u32);
    config.with_wider_fetches(wider_fetches)
}

fn random_gates(rng: &mut Rng, source: &Source, backend: &Backend) {
    let most = rng.below(3);
    let mode = move |index: usize| match index as u64 % 3 {
        0 if most > 0 => Mode::Once,
        1 if most > 1 => Mode::Open,
        _ => Mode::Shut,
    };
    source.gate.set(move |call| match call.op {
        Op::Size => Mode::Open,
        Op::Read => mode(call.index),
    });
    backend.gate.set(move |call| mode(call.index));
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    seeds: u64,
    processes: u64,
    steps: u64,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// In the middle of everything.
    Killed,
    /// When everybody is done.
    Clean,
    /// When everybody is done and all blocks were read twice.
    Complete,
}

impl Exit {
    fn random(rng: &mut Rng, hazards: &[Hazard]) -> Self {
        match rng.below(4) {
            0 | 1 if hazards.contains(&Drops) => Self::Killed,
            0 => Self::Complete,
            _ => Self::Clean,
        }
    }
}

/// One process: opens, and lives through some steps. Gives back how many.
fn live<C: CacheOps>(
    rng: &mut Rng,
    hazards: &[Hazard],
    source: &Arc<Source>,
    backend: &Arc<Backend>,
    cache: C,
    at_least: &mut Vec<u64>,
    exit: Exit,
) -> u64 {
    let config = random_config(rng, hazards, source.block_size());
    let reads_before = source.reads().len();
    let opening = CachedBlockReader::open(Arc::clone(source), cache, config);
    let reader = finish(opening).expect("a healthy source opens");
    random_gates(rng, source, backend);
    let again_before = fetched_again(source);
    let bad = Bad::default();
    fail_bad_blocks(source, &bad);
    let mut life = Life {
        hazards,
        source,
        backend,
        reader: &reader,
        poller: Poller::new(),
        living: BTreeMap::new(),
        bad,
        pause: PauseSwitch::new(),
        backend_sick: false,
        oracle: Oracle::new(),
        at_least,
        merges_gaps: config.wider_fetches().gap_blocks() != 0,
        again_before,
        looked: 0,
        finished: 0,
        served: 0,
        scrubs: 0,
    };
    let steps = 20 + rng.below(160);
    for _ in 0..steps {
        life.step(rng);
    }
    if exit != Exit::Killed {
        life.wind_down(rng);
    }
    let (served, scrubs) = (life.served, life.scrubs);
    drop(life);
    let counters = reader.counters();
    assert_eq!(counters.served_blocks, served, "{counters:?}");
    let source_reads = (source.reads().len() - reads_before) as u64;
    assert_eq!(counters.source_reads, source_reads, "{counters:?}");
    assert_calls_are_counted(backend, &counters);
    source.heal();
    backend.heal();
    source.gate.open();
    backend.gate.open();
    if exit == Exit::Complete {
        finish(reader.flush_cache()).expect("whoever asks for it ends a bypass");
        if hazards.contains(&Renewals) {
            finish(reader.clear()).expect("nothing fails any more");
        }
        check_read(&reader, source, 0, source.blocks());
        if config.wider_fetches().gap_blocks() != 0 {
            // What lies in a gap comes from the source, and is read from the cache only now.
            check_read(&reader, source, 0, source.blocks());
        }
        let counters = reader.counters();
        // Else what was fetched may have been dropped before it was used.
        if hazards == [Unasked] {
            let (fetched, used) = (
                counters.unasked_fetched_blocks,
                counters.unasked_used_blocks,
            );
            // What a scrub has compared is trusted, and read as a plain hit.
            assert!(
                used == fetched || scrubs != 0 && used < fetched,
                "in the end all was read"
            );
            let again = fetched_again(source) - again_before;
            assert_eq!(again, counters.refetched_blocks, "but for gaps");
        }
        let fetches = source.fetches();
        check_read(&reader, source, 0, source.blocks());
        assert_eq!(
            fetches,
            source.fetches(),
            "all is cached once nothing fails"
        );
    }
    steps
}

/// Some lives of one file, each in a process that finds what the one before left behind.
fn lives(rng: &mut Rng, hazards: &[Hazard], tally: &mut Tally) {
    let (source, file) = random_start(rng);
    let mut backend = Backend::with_bytes(file);
    let mut at_least = vec![0; source.blocks() as usize];
    let last = rng.below(5);
    for life in 0..=last {
        let exit = if life == last {
            Exit::Complete
        } else {
            Exit::random(rng, hazards)
        };
        tally.steps += if rng.chance(30) {
            let cache = Immediate(Arc::clone(&backend));
            live(rng, hazards, &source, &backend, cache, &mut at_least, exit)
        } else {
            let cache = Arc::clone(&backend);
            live(rng, hazards, &source, &backend, cache, &mut at_least, exit)
        };
        tally.processes += 1;
        backend = Backend::with_bytes(backend.bytes());
    }
    tally.seeds += 1;
}

/// Tries so many seeds, and says what that came to.
fn try_lives(seeds: u64, hazards: &[Hazard]) {
    let mut tally = Tally::default();
    for_seeds(seeds, |rng| lives(rng, hazards, &mut tally));
    println!("schedules with {hazards:?}: {tally:?}");
}

/// A source, and what its first process finds.
fn random_start(rng: &mut Rng) -> (Arc<Source>, Vec<u8>) {
    let block_size = [1, 8, 16, 64][rng.index(4)];
    let total = 1 + rng.below(24);
    let source = Source::new(rng.next(), block_size, total);
    let file = match rng.below(10) {
        0 => file_of_ours(&Source::new(1, block_size, total), 0..total),
        1 => (0..rng.below(500)).map(|_| rng.next() as u8).collect(),
        _ => Vec::new(),
    };
    (source, file)
}

/// One life of a file that the published crate began. It has no checksums, so nothing is said of the next process.
fn try_life_of_a_published_file(seeds: u64, hazards: &[Hazard]) {
    let mut tally = Tally::default();
    for_seeds(seeds, |rng| {
        let (source, _) = random_start(rng);
        let cached: Vec<_> = (0..source.blocks()).filter(|_| rng.chance(50)).collect();
        let backend = Backend::with_bytes(file_of_published(&source, cached));
        let mut at_least = vec![0; source.blocks() as usize];
        let cache = Arc::clone(&backend);
        tally.steps += live(
            rng,
            hazards,
            &source,
            &backend,
            cache,
            &mut at_least,
            Exit::Complete,
        );
        tally.processes += 1;
        tally.seeds += 1;
    });
    println!("schedules over a published file with {hazards:?}: {tally:?}");
}

#[test]
fn in_fair_weather_every_block_is_fetched_once_and_stays() {
    try_lives(1500, &[]);
}

#[test]
fn when_some_are_dropped_the_others_end_and_are_right() {
    try_lives(1500, &[Drops]);
}

#[test]
fn when_blocks_are_bad_only_those_who_asked_for_them_hear_of_it() {
    try_lives(1000, &[SourceFaults]);
}

#[test]
fn when_the_backend_is_sick_no_read_fails() {
    try_lives(1500, &[BackendFaults]);
}

#[test]
fn when_the_file_changes_underneath_no_read_is_wrong() {
    try_lives(1000, &[Drops, Damage]);
}

#[test]
fn when_the_source_changes_nothing_older_is_served_than_what_was_invalidated() {
    try_lives(300, &[Renewals]);
    try_lives(400, &[Drops, SourceFaults, BackendFaults, Renewals]);
    try_lives(300, &[Drops, SourceFaults, BackendFaults, Damage, Renewals]);
    try_life_of_a_published_file(200, &[Drops, SourceFaults, Renewals]);
}

#[test]
fn when_everything_happens_at_once_all_of_this_holds() {
    try_lives(2500, &[Drops, SourceFaults, BackendFaults, Damage]);
}

#[test]
fn all_of_this_holds_where_more_is_fetched_than_was_asked_for() {
    for hazards in [
        &[Unasked][..],
        &[Unasked, Drops],
        &[Unasked, SourceFaults],
        &[Unasked, BackendFaults],
        &[Unasked, Drops, Damage],
        &[Unasked, Drops, SourceFaults, BackendFaults, Damage],
        &[Unasked, Drops, Renewals],
        &[Unasked, Drops, SourceFaults, BackendFaults, Renewals],
    ] {
        try_lives(400, hazards);
    }
    try_life_of_a_published_file(300, &[Unasked, Drops, Renewals]);
    try_life_of_a_published_file(300, &[Unasked, Drops, SourceFaults]);
    try_life_of_a_published_file(300, &[Unasked, Drops, SourceFaults, BackendFaults]);
}

#[test]
fn a_file_of_the_published_crate_lives_on_in_any_weather() {
    for hazards in [
        &[][..],
        &[Drops, SourceFaults],
        &[BackendFaults],
        &[Drops, SourceFaults, BackendFaults],
    ] {
        try_life_of_a_published_file(500, hazards);
    }
}

#[test]
fn the_oracle_sees_a_reader_that_serves_what_was_damaged() {
    // Without comparing, damage is served: so the comparison above does see it.
    let config = CacheConfig::new().with_verify(VerifyPolicy::Never);
    let (source, backend, reader) = World::of(8).config(config).cached(0..8).parts();
    backend.damage(&source.bytes(4, 1));
    let bytes = finish(read(&reader, 0, 8)).unwrap();
    assert_ne!(bytes, source.bytes(0, 8));
}
