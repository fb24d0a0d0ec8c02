//! `warm`: what is fetched, what is told, how it is paused, and that nobody in the foreground waits for what is queued.

use crate::support::backend::{self, Op};
use crate::support::gate::Mode;
use crate::support::source::Fault;
use crate::support::{
    Backend, Poller, Reader, Rng, Source, cache_blocks, check_read, finish, for_seeds, open,
    open_with, read,
};
use core::ops::Range;
use gibblox_cache::{CacheConfig, MemoryCacheOps, PauseSwitch, WarmPlan, WarmProgress};
use gibblox_core::{GibbloxErrorKind, GibbloxResult, ReadContext, ReadPriority};
use std::sync::Arc;

const BLOCK: u32 = 16;

/// `done_blocks` and `fetched_blocks`, each time they were told.
type Told = Vec<(u64, u64)>;

/// Windows of `window` blocks, and nothing flushed that nobody asked for.
fn world(blocks: u64, window: u32) -> (Arc<Source>, Arc<Backend>, Reader) {
    let (source, backend) = (Source::new(21, BLOCK, blocks), Backend::new());
    let config = CacheConfig::new()
        .with_window_bytes(window * BLOCK)
        .with_flush_every_blocks(u32::MAX);
    let reader = open_with(&source, &backend, config);
    source.forget();
    backend.forget();
    (source, backend, reader)
}

async fn warm(reader: &Reader, plan: WarmPlan) -> (GibbloxResult<WarmProgress>, Told) {
    let mut told = Told::new();
    let done =
        reader.warm_with_progress(plan, |now| told.push((now.done_blocks, now.fetched_blocks)));
    (done.await, told)
}

/// What of the background is held at the source: first block and length.
fn held(source: &Source) -> Vec<(u64, u64)> {
    let calls = source.gate.labels();
    calls.iter().map(|call| (call.lba, call.blocks)).collect()
}

/// Low priorities starve.
fn starve_background(source: &Source) {
    source.gate.set(|call| match call.ctx.priority {
        ReadPriority::Low => Mode::Shut,
        _ => Mode::Open,
    });
}

#[test]
fn what_is_missing_is_fetched_window_by_window_and_each_fetch_is_told() {
    let (source, _, reader) = world(10, 4);
    cache_blocks(&reader, &source, [1, 5, 6]);
    source.forget();
    let (done, told) = finish(warm(&reader, WarmPlan::device().with_windows_at_once(1)));
    assert_eq!(source.reads(), [(0, 1), (2, 2), (4, 1), (7, 1), (8, 2)]);
    let expected = [(3, 0), (4, 1), (6, 3), (7, 4), (8, 5), (10, 7)];
    assert_eq!(told, expected, "begins with what was there, ends with all");
    let done = done.unwrap();
    assert_eq!((done.wanted_blocks, done.done_blocks), (10, 10));
    assert_eq!((done.wanted_bytes(), done.done_bytes()), (160, 160));
    assert_eq!((done.fetched_blocks, done.fetched_bytes()), (7, 112));
    let calls = source.calls();
    assert!(calls.iter().all(|call| call.ctx == ReadContext::BACKGROUND));
    source.forget();
    check_read(&reader, &source, 0, 10);
    assert_eq!(source.reads(), []);
}

#[test]
fn ranges_may_overlap_and_come_in_any_order() {
    let (source, _, reader) = world(24, 100);
    let ranges = [8..12, 2..5, 20..20, 4..9, 16..17, 12..13, 99..99];
    let (done, told) = finish(warm(
        &reader,
        WarmPlan::ranges(ranges).with_windows_at_once(1),
    ));
    assert_eq!(source.reads(), [(2, 11), (16, 1)]);
    assert_eq!(told, [(0, 0), (11, 11), (12, 12)]);
    assert_eq!(done.unwrap().wanted_blocks, 12);
}

#[test]
fn any_three_ranges_are_the_set_of_their_blocks() {
    const BLOCKS: u64 = 5;
    let ranges: Vec<Range<u64>> = (0..=BLOCKS)
        .flat_map(|start| (start..=BLOCKS).map(move |end| start..end))
        .collect();
    for (index, a) in ranges.iter().enumerate() {
        for b in &ranges {
            let c = &ranges[(index * 7 + 3) % ranges.len()];
            let (source, _, reader) = world(BLOCKS, 2);
            let wanted = |lba: &u64| a.contains(lba) || b.contains(lba) || c.contains(lba);
            let fetches: Vec<_> = (0..BLOCKS).map(|lba| usize::from(wanted(&lba))).collect();
            let count = fetches.iter().sum::<usize>() as u64;
            let three = WarmPlan::ranges([a.clone(), b.clone(), c.clone()]);
            let (done, told) = finish(warm(&reader, three));
            assert_eq!(source.fetches(), fetches, "{a:?}, {b:?}, {c:?}");
            let done = done.unwrap();
            assert_eq!((done.wanted_blocks, done.done_blocks), (count, count));
            assert_eq!(told.last(), Some(&(count, count)));
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_fetched() {
    let (source, backend, reader) = world(8, 4);
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "that is what is to be refused"
    )]
    let backwards = 5..3;
    for (wish, kind) in [
        (WarmPlan::ranges([0..4, 7..9]), GibbloxErrorKind::OutOfRange),
        (WarmPlan::range(8..u64::MAX), GibbloxErrorKind::OutOfRange),
        (
            WarmPlan::ranges([0..4, backwards]),
            GibbloxErrorKind::InvalidInput,
        ),
        (
            WarmPlan::device().with_windows_at_once(0),
            GibbloxErrorKind::InvalidInput,
        ),
    ] {
        let (done, told) = finish(warm(&reader, wish));
        assert_eq!(done.expect_err("refused").kind(), kind);
        assert_eq!(told, []);
    }
    assert_eq!((source.reads(), backend.calls()), (vec![], vec![]));
}

#[test]
fn nothing_is_done_at_once_and_told_once() {
    let (source, backend, reader) = world(8, 4);
    for wish in [WarmPlan::ranges([]), WarmPlan::ranges([3..3, 9..9])] {
        let (done, told) = finish(warm(&reader, wish));
        assert_eq!((done.unwrap().wanted_blocks, told), (0, vec![(0, 0)]));
    }
    check_read(&reader, &source, 0, 8);
    source.forget();
    backend.forget();
    let (done, told) = finish(warm(&reader, WarmPlan::device()));
    assert_eq!((done.unwrap().done_blocks, told), (8, vec![(8, 0)]));
    assert_eq!((source.reads(), backend.calls()), (vec![], vec![]));
    let (source, backend) = (Source::new(21, BLOCK, 0), Backend::new());
    let (done, told) = finish(warm(&open(&source, &backend), WarmPlan::device()));
    assert_eq!((done.unwrap().wanted_blocks, told), (0, vec![(0, 0)]));
}

#[test]
fn as_many_fetches_are_under_way_as_are_allowed() {
    for windows in [1, 2, 5] {
        let (source, _, reader) = world(20, 2);
        source.gate.shut();
        let mut poller = Poller::new();
        let wish = WarmPlan::device().with_windows_at_once(windows);
        let task = poller.spawn(warm(&reader, wish));
        poller.run();
        while let [.., (ticket, _)] = source.gate.held()[..] {
            source.gate.release(ticket);
            poller.run();
        }
        assert!(poller.take(task).0.is_ok());
        assert_eq!(source.peak(), windows as usize);
        assert_eq!(source.fetches(), [1; 20]);
    }
}

#[test]
fn what_is_left_of_a_window_comes_before_the_next_window() {
    let (source, _, reader) = world(16, 8);
    source.gate.shut();
    let mut poller = Poller::new();
    poller.spawn(async {
        read(&reader, 2, 1).await.unwrap();
        None
    });
    poller.run();
    let wish = WarmPlan::device().with_windows_at_once(1);
    let task = poller.spawn(async { Some(warm(&reader, wish).await) });
    poller.run();
    while source.gate.release_all() > 0 {
        poller.run();
    }
    assert_eq!(source.reads(), [(2, 1), (0, 2), (3, 5), (8, 8)]);
    let (_, told) = poller.take(task).expect("it is no reader");
    assert_eq!(told, [(0, 0), (2, 2), (3, 2), (8, 7), (16, 15)]);
}

#[test]
fn the_source_hears_the_context() {
    let (source, _, reader) = world(4, 4);
    let wish = WarmPlan::device().with_context(ReadContext::READAHEAD);
    finish(warm(&reader, wish)).0.unwrap();
    assert_eq!(source.calls()[0].ctx, ReadContext::READAHEAD);
}

#[test]
fn progress_only_grows_and_ends_with_all_whoever_fetches_beside() {
    for_seeds(300, |rng| {
        let (source, _, reader) = world(40, 1 + rng.below(6) as u32);
        let found: Vec<_> = (0..40).filter(|_| rng.chance(30)).collect();
        cache_blocks(&reader, &source, found.iter().copied());
        source.gate.shut();
        let mut poller = Poller::new();
        let wish = WarmPlan::device().with_windows_at_once(1 + rng.below(3) as u32);
        let task = poller.spawn(async { Some(warm(&reader, wish).await) });
        poller.run();
        for _ in 0..rng.below(8) {
            let (lba, blocks) = rng.run(40, 9);
            let reader = &reader;
            poller.spawn(async move {
                read(reader, lba, blocks).await.unwrap();
                None
            });
        }
        release_in_any_order(rng, &source, || poller.run());
        let (done, told) = poller.take(task).expect("it is no reader");
        let fetched = done.unwrap().fetched_blocks;
        assert_eq!(told[0], (found.len() as u64, 0));
        assert_eq!(told.last(), Some(&(40, fetched)));
        for pair in told.windows(2) {
            let ((done, fetched), (next_done, next_fetched)) = (pair[0], pair[1]);
            assert!(done <= next_done && fetched <= next_fetched, "{told:?}");
            assert!(pair[0] != pair[1], "nothing new is not told: {told:?}");
            assert!(next_fetched <= next_done && next_done <= 40, "{told:?}");
        }
        assert!(source.fetches().iter().all(|count| *count == 1));
    });
}

fn release_in_any_order(rng: &mut Rng, source: &Source, mut run: impl FnMut()) {
    run();
    loop {
        let held = source.gate.held();
        if held.is_empty() {
            return;
        }
        source.gate.release(held[rng.index(held.len())].0);
        run();
    }
}

#[test]
fn what_others_cached_counts_when_the_work_gets_there() {
    let (source, _, reader) = world(8, 2);
    source.gate.set(|call| match call.ctx.priority {
        ReadPriority::Low => Mode::Shut,
        _ => Mode::Open,
    });
    let mut poller = Poller::new();
    let task = poller.spawn(warm(&reader, WarmPlan::device().with_windows_at_once(1)));
    poller.run();
    check_read(&reader, &source, 2, 4);
    for _ in 0..2 {
        assert_eq!(source.gate.release_all(), 1);
        poller.run();
    }
    let (done, told) = poller.take(task);
    assert_eq!(told, [(0, 0), (2, 2), (6, 2), (8, 4)]);
    assert_eq!(done.unwrap().fetched_blocks, 4);
}

// ---- faults ----

#[test]
fn the_first_error_ends_it_and_what_is_under_way_is_finished() {
    let (source, _, reader) = world(20, 2);
    source.fail_block(2, "block 2 is bad");
    source.gate.shut();
    let mut poller = Poller::new();
    let task = poller.spawn(warm(&reader, WarmPlan::device().with_windows_at_once(3)));
    poller.run();
    assert_eq!(held(&source), [(0, 2), (2, 2), (4, 2)]);
    assert_eq!(source.gate.release_where(|call| call.touches(2)), 1);
    poller.run();
    assert!(!poller.is_done(task));
    assert_eq!(held(&source), [(0, 2), (4, 2)], "nothing further is begun");
    source.gate.release_all();
    poller.run();
    let (done, told) = poller.take(task);
    assert_eq!(done.unwrap_err().message(), Some("block 2 is bad"));
    assert_eq!(told, [(0, 0), (2, 2), (4, 4)]);
    source.gate.open();
    source.forget();
    check_read(&reader, &source, 0, 2);
    check_read(&reader, &source, 4, 2);
    assert_eq!(source.reads(), [], "and kept");
}

#[test]
fn every_call_of_the_source_may_fail_and_a_second_time_goes_on_where_it_was() {
    let ranges = || WarmPlan::ranges([0..5, 7..12]).with_windows_at_once(2);
    for nth in 0.. {
        let (source, _, reader) = world(12, 3);
        source.fail(move |call| (call.index == nth).then(|| Fault::io("once")));
        let (done, told) = finish(warm(&reader, ranges()));
        let Err(error) = done else {
            assert_eq!(nth, 4, "as many calls as there are windows");
            break;
        };
        assert_eq!(error.message(), Some("once"));
        let cached = finish(reader.get_stats()).cached_blocks;
        assert_eq!(told.last(), Some(&(cached, cached)));
        let (done, told) = finish(warm(&reader, ranges()));
        assert_eq!(told[0], (cached, 0));
        assert_eq!(done.unwrap().fetched_blocks, 10 - cached);
        let failed = source.calls()[nth];
        for (lba, count) in (0..).zip(source.fetches()) {
            let wanted = usize::from(!(5..7).contains(&lba));
            let twice = usize::from(failed.touches(lba));
            assert_eq!(count, wanted + twice, "block {lba}, call {nth} failed");
        }
    }
}

#[test]
fn every_call_of_the_backend_may_fail_and_ok_means_that_all_is_there() {
    let mut failed = 0;
    for nth in 0.. {
        let (source, backend, reader) = world(12, 3);
        backend.fail(move |call| (call.index == nth).then_some(backend::Fault::Error));
        let (done, _) = finish(warm(&reader, WarmPlan::device()));
        let calls = backend.calls().len();
        backend.heal();
        match done {
            Err(error) => {
                failed += 1;
                assert_eq!(error.message(), Some("backend: cannot write"));
            }
            Ok(_) => assert_eq!(finish(reader.get_stats()).cached_blocks, 12),
        }
        finish(warm(&reader, WarmPlan::device())).0.unwrap();
        source.forget();
        check_read(&reader, &source, 0, 12);
        assert_eq!(source.reads(), []);
        if nth >= calls {
            break;
        }
    }
    assert_eq!(failed, 12, "three writes for each of four windows");
}

#[test]
fn a_fetch_that_fails_for_a_reader_is_no_error_of_a_wider_wish() {
    let (source, _, reader) = world(8, 8);
    source.gate.shut();
    let mut poller = Poller::new();
    let first = poller.spawn(async { read(&reader, 2, 2).await.map(|_| ()) });
    poller.run();
    let task = poller.spawn(async {
        warm(&reader, WarmPlan::ranges([2..4, 6..8]))
            .await
            .0
            .map(|_| ())
    });
    let same = poller.spawn(async { warm(&reader, WarmPlan::range(2..4)).await.0.map(|_| ()) });
    poller.run();
    source.fail(|call| (call.index == 0).then(|| Fault::io("once")));
    while source.gate.release_all() > 0 {
        poller.run();
    }
    assert!(poller.take(first).is_err());
    assert!(poller.take(same).is_err(), "it wanted just that");
    poller.take(task).unwrap();
}

// ---- pausing ----

#[test]
fn a_pause_finishes_what_is_under_way_and_begins_nothing() {
    let (source, _, reader) = world(20, 2);
    let pause = PauseSwitch::new();
    source.gate.shut();
    let mut poller = Poller::new();
    let wish = WarmPlan::device()
        .with_windows_at_once(2)
        .with_pause(&pause);
    let task = poller.spawn(warm(&reader, wish));
    poller.run();
    pause.pause();
    assert_eq!(held(&source), [(0, 2), (2, 2)]);
    source.gate.release_all();
    poller.run();
    assert_eq!(held(&source), [], "nothing is begun");
    assert_eq!(finish(reader.get_stats()).cached_blocks, 4, "it is stored");
    // Nothing is claimed either: whoever wants the next blocks fetches them.
    source.gate.open();
    source.forget();
    check_read(&reader, &source, 4, 3);
    assert_eq!(source.reads(), [(4, 3)]);
    pause.resume();
    poller.run_to_end();
    let (done, told) = poller.take(task);
    assert_eq!(done.unwrap().fetched_blocks, 17);
    // Blocks 4 to 6 were cached meanwhile.
    assert_eq!(told[..3], [(0, 0), (2, 2), (4, 4)]);
    assert_eq!(told.last(), Some(&(20, 17)));
    assert_eq!(source.fetches()[4..], [1; 16], "and is not fetched again");
}

#[test]
fn a_pause_stops_within_a_window_too() {
    let (source, _, reader) = world(8, 8);
    let pause = PauseSwitch::new();
    starve_background(&source);
    let mut poller = Poller::new();
    cache_blocks(&reader, &source, [7]);
    // A reader has one block of the window under way.
    source.gate.shut();
    let reading = poller.spawn(async {
        read(&reader, 3, 1).await.unwrap();
        None
    });
    poller.run();
    let wish = WarmPlan::device()
        .with_windows_at_once(1)
        .with_pause(&pause);
    let task = poller.spawn(async { Some(warm(&reader, wish).await) });
    poller.run();
    assert_eq!(held(&source), [(3, 1), (0, 3)]);
    pause.pause();
    source.gate.release_all();
    poller.run();
    assert!(poller.is_done(reading));
    assert_eq!(held(&source), [], "the rest of the window is not begun");
    pause.resume();
    poller.run();
    assert_eq!(held(&source), [(4, 3)]);
    source.gate.open();
    poller.run_to_end();
    assert!(poller.take(task).unwrap().0.is_ok());
}

#[test]
fn what_starts_paused_begins_when_it_is_resumed() {
    let (source, _, reader) = world(8, 2);
    let pause = PauseSwitch::new();
    pause.pause();
    pause.pause();
    let mut poller = Poller::new();
    let task = poller.spawn(warm(&reader, WarmPlan::device().with_pause(&pause)));
    poller.run();
    assert_eq!(source.reads(), []);
    assert!(pause.is_paused());
    // Resumed and paused again before it was polled, it still sleeps, and still wakes.
    pause.resume();
    pause.pause();
    poller.run();
    assert_eq!(source.reads(), []);
    pause.resume();
    poller.run_to_end();
    assert!(poller.take(task).0.is_ok());
    assert_eq!(source.fetches(), [1; 8]);
}

#[test]
fn what_is_all_there_does_not_wait_for_a_pause() {
    let (source, _, reader) = world(8, 2);
    let pause = PauseSwitch::new();
    check_read(&reader, &source, 0, 8);
    pause.pause();
    let wish = WarmPlan::device().with_pause(&pause);
    assert!(finish(warm(&reader, wish)).0.is_ok());
}

#[test]
fn a_pause_after_the_last_fetch_began_holds_nothing_up() {
    let (source, _, reader) = world(4, 2);
    let pause = PauseSwitch::new();
    source.gate.shut();
    let mut poller = Poller::new();
    let wish = WarmPlan::device().with_pause(&pause);
    let task = poller.spawn(warm(&reader, wish));
    poller.run();
    pause.pause();
    source.gate.open();
    poller.run_to_end();
    assert!(poller.take(task).0.is_ok());
}

#[test]
fn one_pause_holds_many_and_those_dropped_in_it_are_forgotten() {
    let (source, _, reader) = world(8, 2);
    let pause = PauseSwitch::new();
    pause.pause();
    let mut poller = Poller::new();
    let wish = |range| warm(&reader, WarmPlan::range(range).with_pause(&pause));
    let tasks = [0..4, 2..6, 5..8].map(|range| poller.spawn(wish(range)));
    poller.run();
    poller.cancel(tasks[1]);
    assert_eq!(source.reads(), []);
    check_read(&reader, &source, 3, 1);
    pause.clone().resume();
    poller.run_to_end();
    for task in [tasks[0], tasks[2]] {
        assert!(poller.take(task).0.is_ok());
    }
    assert_eq!(source.fetches(), [1, 1, 1, 1, 0, 1, 1, 1]);
}

#[test]
fn an_error_in_a_pause_ends_it() {
    let (source, _, reader) = world(8, 2);
    let pause = PauseSwitch::new();
    source.gate.shut();
    source.fail_block(2, "block 2 is bad");
    let mut poller = Poller::new();
    let wish = WarmPlan::device()
        .with_windows_at_once(2)
        .with_pause(&pause);
    let task = poller.spawn(warm(&reader, wish));
    poller.run();
    pause.pause();
    source.gate.open();
    poller.run_to_end();
    let (done, told) = poller.take(task);
    assert_eq!(done.unwrap_err().message(), Some("block 2 is bad"));
    assert_eq!(told.last(), Some(&(2, 2)));
}

#[test]
fn progress_may_pause_and_resume_what_it_tells_of() {
    let (source, _, reader) = world(8, 2);
    let pause = PauseSwitch::new();
    let wish = WarmPlan::device()
        .with_windows_at_once(1)
        .with_pause(&pause);
    let mut poller = Poller::new();
    let task = poller.spawn(reader.warm_with_progress(wish, |_| pause.pause()));
    for blocks in [0, 2, 4, 6] {
        poller.run();
        assert_eq!(finish(reader.get_stats()).cached_blocks, blocks);
        pause.resume();
    }
    poller.run_to_end();
    assert_eq!(poller.take(task).unwrap().done_blocks, 8);
    assert_eq!(source.reads(), [(0, 2), (2, 2), (4, 2), (6, 2)]);
}

#[test]
fn it_can_be_moved_to_another_thread_and_paused_from_there() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    fn is_shared<T: Send + Sync + 'static>() {}
    is_shared::<PauseSwitch>();
    is_shared::<WarmPlan>();
    let source = Source::new(21, BLOCK, 8);
    let opening = gibblox_cache::CachedBlockReader::new(source, MemoryCacheOps::new());
    let reader = finish(opening).unwrap();
    let pause = PauseSwitch::new();
    let mut told = 0;
    let warming = reader.warm_with_progress(WarmPlan::device().with_pause(&pause), |_| told += 1);
    assert!(finish(is_send(warming)).is_ok());
    assert_eq!(told, 2);
}

// ---- priority ----

/// The ways to cache ahead.
#[derive(Clone, Copy, Debug)]
enum Ahead {
    Warm,
    Ensure,
}

const AHEAD: [Ahead; 2] = [Ahead::Warm, Ahead::Ensure];

impl Ahead {
    /// Caches the whole device, nothing else.
    async fn run(self, reader: &Reader, blocks: u64) -> GibbloxResult<Vec<u8>> {
        match self {
            Self::Warm => reader.warm(WarmPlan::device()).await.map(|_| vec![]),
            Self::Ensure => {
                let all = reader.ensure_cached(0, blocks, ReadContext::BACKGROUND);
                all.await.map(|()| vec![])
            }
        }
    }
}

/// Reads in the foreground while the background starves, which needs exactly one call of its own.
#[track_caller]
fn check_own_call(reader: &Reader, source: &Source, lba: u64, blocks: u64) {
    let before = source.reads().len();
    check_read(reader, source, lba, blocks);
    assert_eq!(source.reads()[before..], [(lba, blocks)]);
}

#[test]
fn a_reader_takes_over_what_is_only_queued() {
    for ahead in AHEAD {
        let (source, _, reader) = world(64, 4);
        starve_background(&source);
        let mut poller = Poller::new();
        let task = poller.spawn(ahead.run(&reader, 64));
        poller.run();
        assert_eq!(held(&source), [(0, 4), (4, 4), (8, 4), (12, 4)]);
        for (lba, blocks) in [(40, 2), (16, 1), (63, 1), (17, 20)] {
            check_own_call(&reader, &source, lba, blocks);
        }
        while source.gate.release_all() > 0 {
            poller.run();
        }
        poller.take(task).unwrap();
        assert_eq!(
            source.fetches(),
            [1; 64],
            "{ahead:?} leaves out what is there"
        );
    }
}

#[test]
fn a_reader_waits_for_the_window_that_holds_its_blocks_and_for_no_other() {
    for ahead in AHEAD {
        let (source, _, reader) = world(64, 4);
        starve_background(&source);
        let mut poller = Poller::new();
        let task = poller.spawn(ahead.run(&reader, 64));
        poller.run();
        let before = source.reads().len();
        let reading = poller.spawn(read(&reader, 5, 2));
        poller.run();
        assert!(!poller.is_done(reading));
        assert_eq!(source.reads().len(), before, "nothing is fetched twice");
        assert_eq!(source.gate.release_where(|call| call.lba == 4), 1);
        poller.run();
        source.assert_bytes(5, &poller.take(reading).unwrap());
        assert_eq!(held(&source), [(0, 4), (8, 4), (12, 4), (16, 4)]);
        source.gate.open();
        poller.run_to_end();
        poller.take(task).unwrap();
        assert_eq!(source.fetches(), [1; 64]);
    }
}

#[test]
fn a_reader_of_both_fetches_what_is_queued_beside_what_is_under_way() {
    for ahead in AHEAD {
        let (source, _, reader) = world(64, 4);
        cache_blocks(&reader, &source, [18, 21]);
        starve_background(&source);
        let mut poller = Poller::new();
        let task = poller.spawn(ahead.run(&reader, 64));
        poller.run();
        source.forget();
        let reading = poller.spawn(read(&reader, 14, 12));
        poller.run();
        let own = [(16, 2), (19, 2), (22, 4)];
        assert_eq!(
            source.reads(),
            own,
            "all at once, whatever else it waits for"
        );
        assert_eq!(source.gate.release_where(|call| call.lba == 12), 1);
        poller.run();
        source.assert_bytes(14, &poller.take(reading).unwrap());
        source.gate.open();
        poller.run_to_end();
        poller.take(task).unwrap();
    }
}

#[test]
fn the_rest_of_a_window_is_queued_while_the_work_follows_a_reader() {
    for ahead in AHEAD {
        let (source, _, reader) = world(8, 8);
        source.gate.shut();
        let mut poller = Poller::new();
        let reading = poller.spawn(read(&reader, 0, 2));
        poller.run();
        let task = poller.spawn(ahead.run(&reader, 8));
        poller.run();
        assert_eq!(held(&source), [(0, 2)], "the work follows");
        let other = poller.spawn(read(&reader, 3, 2));
        poller.run();
        assert_eq!(held(&source), [(0, 2), (3, 2)]);
        assert_eq!(source.gate.release_where(|call| call.lba == 3), 1);
        poller.run();
        source.assert_bytes(3, &poller.take(other).unwrap());
        source.gate.release_all();
        poller.run();
        source.assert_bytes(0, &poller.take(reading).unwrap());
        while source.gate.release_all() > 0 {
            poller.run();
        }
        poller.take(task).unwrap();
        assert_eq!(source.reads(), [(0, 2), (3, 2), (2, 1), (5, 3)]);
    }
}

#[test]
fn a_reader_takes_over_what_is_left_after_an_error() {
    for ahead in AHEAD {
        let (source, _, reader) = world(64, 4);
        starve_background(&source);
        source.fail_block(4, "block 4 is bad");
        let mut poller = Poller::new();
        let task = poller.spawn(ahead.run(&reader, 64));
        poller.run();
        assert_eq!(source.gate.release_where(|call| call.lba == 4), 1);
        poller.run();
        assert!(!poller.is_done(task), "the others are under way");
        for (lba, blocks) in [(5, 3), (16, 8), (50, 14)] {
            check_own_call(&reader, &source, lba, blocks);
        }
        let reading = poller.spawn(read(&reader, 2, 1));
        poller.run();
        assert_eq!(source.gate.release_where(|call| call.lba == 0), 1);
        poller.run();
        source.assert_bytes(2, &poller.take(reading).unwrap());
        source.gate.open();
        poller.run_to_end();
        let error = poller.take(task).unwrap_err();
        assert_eq!(error.message(), Some("block 4 is bad"));
    }
}

#[test]
fn a_reader_waits_for_nothing_that_is_paused() {
    let (source, _, reader) = world(64, 4);
    let pause = PauseSwitch::new();
    starve_background(&source);
    let mut poller = Poller::new();
    let wish = WarmPlan::device()
        .with_windows_at_once(2)
        .with_pause(&pause);
    let task = poller.spawn(warm(&reader, wish));
    poller.run();
    pause.pause();
    assert_eq!(source.gate.release_where(|call| call.lba == 0), 1);
    poller.run();
    for (lba, blocks) in [(8, 4), (12, 1), (40, 24)] {
        check_own_call(&reader, &source, lba, blocks);
    }
    assert_eq!(held(&source), [(4, 4)]);
    pause.resume();
    poller.run();
    assert_eq!(held(&source), [(4, 4), (13, 3)]);
    source.gate.open();
    poller.run_to_end();
    poller.take(task).0.unwrap();
    assert_eq!(source.fetches(), [1; 64]);
}

#[test]
fn a_reader_that_waits_for_a_starving_fetch_takes_it_over_when_that_is_dropped() {
    for ahead in AHEAD {
        let (source, _, reader) = world(8, 4);
        starve_background(&source);
        let mut poller = Poller::new();
        let task = poller.spawn(ahead.run(&reader, 8));
        poller.run();
        let reading = poller.spawn(read(&reader, 1, 2));
        poller.run();
        assert!(!poller.is_done(reading));
        poller.cancel(task);
        poller.run();
        source.assert_bytes(1, &poller.take(reading).unwrap());
        assert_eq!(source.reads().last(), Some(&(1, 2)));
    }
}

#[test]
fn a_readers_miss_does_not_flush_what_the_background_has_put_off() {
    for ahead in AHEAD {
        let (source, backend) = (Source::new(21, BLOCK, 64), Backend::new());
        let config = CacheConfig::new()
            .with_window_bytes(4 * BLOCK)
            .with_flush_every_blocks(6);
        let reader = open_with(&source, &backend, config);
        backend.forget();
        starve_background(&source);
        let mut poller = Poller::new();
        let task = poller.spawn(ahead.run(&reader, 64));
        poller.run();
        for _ in 0..2 {
            source.gate.release_all();
            poller.run();
        }
        assert_eq!(finish(reader.get_stats()).cached_blocks, 32);
        check_read(&reader, &source, 63, 1);
        assert_eq!(backend.count(Op::Flush), 0, "{ahead:?}");
        // Its own blocks are flushed as ever, and all that was written with them.
        check_read(&reader, &source, 50, 5);
        assert_eq!(backend.count(Op::Flush), 1);
        source.gate.release_where(|call| call.lba < 40);
        poller.run();
        // What nobody is there to flush any more is the next writer's.
        poller.cancel(task);
        check_read(&reader, &source, 60, 1);
        assert_eq!(backend.count(Op::Flush), 2);
    }
}
