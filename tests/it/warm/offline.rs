//! Opening without the source: what is cached is served, and nothing of another source is mixed in.

use crate::support::backend::{Fault as BackendFault, Op};
use crate::support::files::{Regions, file_of_ours, file_of_published, identity};
use crate::support::poll::drop_after;
use crate::support::powercut::PowerCut;
use crate::support::source::{Call, Fault, Op as SourceOp};
use crate::support::{Backend, Poller, Source, finish, lock, read};
use async_trait::async_trait;
use core::fmt;
use gibblox_cache::{CacheConfig, CacheOps, CachedBlockReader, OfflinePolicy, WiderFetches};
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext};
use std::sync::{Arc, Mutex};

const BLOCK: u32 = 64;
const BLOCKS: u64 = 11;
/// The blocks that an earlier process cached.
const CACHED: core::ops::Range<u64> = 2..6;

/// Where a source is, or another one that answers in its place.
struct Remote(Mutex<Arc<Source>>);

impl Remote {
    fn of(source: &Arc<Source>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Arc::clone(source))))
    }

    fn now(&self) -> Arc<Source> {
        Arc::clone(&lock(&self.0))
    }

    /// From now on it is `source` that answers.
    fn becomes(&self, source: &Arc<Source>) {
        *lock(&self.0) = Arc::clone(source);
    }
}

#[async_trait]
impl BlockReader for Remote {
    fn block_size(&self) -> u32 {
        self.now().block_size()
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        self.now().total_blocks().await
    }

    fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.now().write_identity(out)
    }

    async fn read_blocks(
        &self,
        lba: u64,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<usize> {
        self.now().read_blocks(lba, buf, ctx).await
    }
}

fn source() -> Arc<Source> {
    Source::with_identity(3, BLOCK, BLOCKS, "far-away")
}

fn no_route() -> GibbloxError {
    GibbloxError::with_message(GibbloxErrorKind::Unsupported, "no route to the source")
}

fn is_no_route(error: &GibbloxError) -> bool {
    error.kind() == GibbloxErrorKind::Unsupported
        && error.message() == Some("no route to the source")
}

/// Nothing that is asked of `source` is answered.
fn cut_off(source: &Source) {
    source.fail(|_| Some(Fault::Error(no_route())));
}

fn sizes(source: &Source) -> usize {
    let calls = source.calls();
    calls
        .iter()
        .filter(|call| call.op == SourceOp::Size)
        .count()
}

fn config() -> CacheConfig {
    CacheConfig::new().with_offline(OfflinePolicy::ServeCached)
}

type Reader<C> = CachedBlockReader<Arc<Remote>, C>;

fn try_open<C: CacheOps>(
    remote: &Arc<Remote>,
    cache: C,
    config: CacheConfig,
) -> GibbloxResult<Reader<C>> {
    finish(CachedBlockReader::open(Arc::clone(remote), cache, config))
}

/// A reader that was opened while its source could not be reached.
fn offline(file: Vec<u8>) -> (Arc<Source>, Arc<Remote>, Arc<Backend>, Reader<Arc<Backend>>) {
    let (source, backend) = (source(), Backend::with_bytes(file));
    let remote = Remote::of(&source);
    cut_off(&source);
    let reader = try_open(&remote, Arc::clone(&backend), config()).expect("there is a file");
    assert!(reader.is_offline());
    source.forget();
    (source, remote, backend, reader)
}

/// Reads every block for itself: those that are cached are right, the others fail as `fails` says.
fn check_cached<C: CacheOps>(
    reader: &Reader<C>,
    source: &Source,
    fails: impl Fn(&GibbloxError) -> bool,
) {
    for lba in 0..BLOCKS {
        match finish(read(reader, lba, 1)) {
            Ok(bytes) => {
                assert!(CACHED.contains(&lba), "block {lba} came from somewhere");
                source.assert_bytes(lba, &bytes);
            }
            Err(error) => {
                assert!(!CACHED.contains(&lba), "block {lba} is cached: {error}");
                assert!(fails(&error), "{error}");
            }
        }
    }
}

/// Everything is read as if the source had never been away.
fn check_all<C: CacheOps>(reader: &Reader<C>, source: &Source) {
    source.forget();
    source.assert_bytes(
        0,
        &finish(read(reader, 0, BLOCKS)).expect("the source is back"),
    );
    assert!(!reader.is_offline());
    assert_eq!(
        source.reads(),
        [(0, 2), (6, 5)],
        "what is cached is not fetched"
    );
    source.forget();
    source.assert_bytes(0, &finish(read(reader, 0, BLOCKS)).expect("all is cached"));
    assert_eq!(source.calls(), []);
}

fn files() -> [Vec<u8>; 2] {
    [
        file_of_ours(&source(), CACHED),
        file_of_published(&source(), CACHED),
    ]
}

#[test]
fn what_is_cached_is_served_and_the_rest_is_the_error_of_the_source() {
    for file in files() {
        let (source, _, backend, reader) = offline(file.clone());
        assert_eq!(finish(reader.total_blocks()).unwrap(), BLOCKS);
        assert_eq!(reader.block_size(), BLOCK);
        assert!(reader.cached_runs().eq(core::iter::once(CACHED)));
        check_cached(&reader, &source, is_no_route);
        let error = finish(read(&reader, 0, BLOCKS)).unwrap_err();
        assert!(is_no_route(&error));
        let ctx = ReadContext::BACKGROUND;
        finish(reader.ensure_cached(CACHED.start, 4, ctx)).unwrap();
        assert!(is_no_route(
            &finish(reader.ensure_cached(0, BLOCKS, ctx)).unwrap_err()
        ));
        finish(reader.flush_cache()).unwrap();
        assert_eq!(finish(reader.scrub()).unwrap().dropped_blocks, 0);
        assert_eq!(
            source.reads(),
            [],
            "nobody is read who did not say who it is"
        );
        assert!(reader.is_offline());
        assert_eq!(backend.bytes(), file, "nothing was written");
    }
}

#[test]
fn blocks_are_compared_as_ever() {
    let source = source();
    let mut file = file_of_ours(&source, CACHED);
    file[Regions::of(&source).data + 3 * BLOCK as usize] ^= 1;
    let (source, _, _, reader) = offline(file);
    let error = finish(read(&reader, 3, 1)).unwrap_err();
    assert!(is_no_route(&error), "a block that does not match is a miss");
    source.assert_bytes(4, &finish(read(&reader, 4, 2)).unwrap());
}

#[test]
fn once_the_source_is_back_all_is_as_ever() {
    for file in files() {
        let (source, _, backend, reader) = offline(file);
        check_cached(&reader, &source, is_no_route);
        source.heal();
        check_all(&reader, &source);
        drop(reader);
        let reader = try_open(&Remote::of(&source), backend, CacheConfig::new()).unwrap();
        source.forget();
        source.assert_bytes(0, &finish(read(&reader, 0, BLOCKS)).unwrap());
        assert_eq!(source.reads(), [], "the next process finds all of it");
    }
}

#[test]
fn the_source_is_asked_once_and_before_anything_is_fetched() {
    let (source, _, _, reader) = offline(files()[0].clone());
    source.heal();
    finish(read(&reader, 0, BLOCKS)).unwrap();
    let ops: Vec<_> = source.calls().iter().map(|call| call.op).collect();
    assert_eq!(ops, [SourceOp::Size, SourceOp::Read, SourceOp::Read]);
}

#[test]
fn many_who_miss_at_once_ask_once() {
    for answers in [false, true] {
        let (source, _, _, reader) = offline(files()[0].clone());
        source.gate.shut();
        let mut poller = Poller::new();
        let readers: Vec<_> = [0, 1, 6, 7, 8, 9, 10, 0, 1]
            .map(|lba| poller.spawn(read(&reader, lba, 1)))
            .into();
        poller.run();
        assert_eq!(source.calls().len(), 1, "the others wait for the answer");
        if answers {
            source.heal();
        }
        source.gate.open();
        poller.run_to_end();
        assert_eq!(sizes(&source), 1);
        for id in readers {
            match poller.take(id) {
                Ok(_) => assert!(answers),
                Err(error) => assert!(!answers && is_no_route(&error)),
            }
        }
    }
}

#[test]
fn where_more_is_fetched_than_was_asked_for_a_read_asks_once_too() {
    let wider = WiderFetches::new();
    for widened in [
        wider.with_around_bytes(4 * BLOCK),
        wider.with_ahead_bytes(4 * BLOCK).with_ahead_after_reads(2),
        wider.with_gap_blocks(4),
    ] {
        let widened = config().with_wider_fetches(widened);
        let (source, backend) = (source(), Backend::with_bytes(files()[0].clone()));
        let remote = Remote::of(&source);
        cut_off(&source);
        let reader = try_open(&remote, backend, widened).expect("there is a file");
        // So that all that is missing of a read waits for one answer.
        source.gate.once();
        for (lba, blocks) in [(7, 1), (8, 1), (9, 1), (0, BLOCKS)] {
            source.forget();
            assert!(is_no_route(
                &finish(read(&reader, lba, blocks)).unwrap_err()
            ));
            assert_eq!(sizes(&source), 1, "{widened:?}");
        }
        source.heal();
        for lba in 0..BLOCKS {
            source.assert_bytes(lba, &finish(read(&reader, lba, 1)).unwrap());
        }
        // Block 0 made contact, and from then on all is as ever.
        let counters = reader.counters();
        assert_eq!(
            counters.unasked_fetched_blocks > 0,
            widened.wider_fetches().gap_blocks() == 0
        );
    }
}

#[test]
fn whoever_asks_may_be_dropped_and_another_asks() {
    let (source, _, _, reader) = offline(files()[0].clone());
    source.heal();
    source.gate.shut();
    let mut poller = Poller::new();
    let first = poller.spawn(read(&reader, 0, 1));
    let second = poller.spawn(read(&reader, 1, 1));
    poller.run();
    poller.cancel(first);
    poller.run();
    assert_eq!(sizes(&source), 2);
    source.gate.open();
    poller.run_to_end();
    poller.take(second).unwrap();
    check_all_but(&reader, &source);
}

/// All is readable, whatever was fetched already.
fn check_all_but<C: CacheOps>(reader: &Reader<C>, source: &Source) {
    source.assert_bytes(
        0,
        &finish(read(reader, 0, BLOCKS)).expect("the source is back"),
    );
    assert!(!reader.is_offline());
}

#[test]
fn reading_and_opening_can_be_dropped_anywhere() {
    for file in files() {
        for is_back in [false, true] {
            for polls in 0.. {
                let (source, _, backend, reader) = offline(file.clone());
                if is_back {
                    source.heal();
                }
                source.gate.once();
                backend.gate.once();
                let done = drop_after(read(&reader, 0, BLOCKS), polls);
                source.gate.open();
                backend.gate.open();
                if !is_back {
                    check_cached(&reader, &source, is_no_route);
                    source.heal();
                }
                check_all_but(&reader, &source);
                if done {
                    assert!(polls > 1, "no await was the last");
                    break;
                }
            }
        }
        for polls in 0.. {
            let (source, backend) = (source(), Backend::with_bytes(file.clone()));
            let remote = Remote::of(&source);
            cut_off(&source);
            source.gate.once();
            backend.gate.once();
            let opening =
                CachedBlockReader::open(Arc::clone(&remote), Arc::clone(&backend), config());
            let done = drop_after(opening, polls);
            source.gate.open();
            backend.gate.open();
            assert_eq!(backend.bytes(), file);
            let reader = try_open(&remote, backend, config()).unwrap();
            check_cached(&reader, &source, is_no_route);
            if done {
                assert!(polls > 4, "no await was the last");
                break;
            }
        }
    }
}

/// Sources that answer in the place of the one that is cached.
fn impostors() -> [Arc<Source>; 4] {
    [
        Source::with_identity(4, BLOCK, BLOCKS + 1, "far-away"),
        Source::with_identity(4, BLOCK, BLOCKS - 1, "far-away"),
        Source::with_identity(4, BLOCK, BLOCKS, "elsewhere"),
        Source::with_identity(4, BLOCK * 2, BLOCKS, "far-away"),
    ]
}

#[test]
fn a_source_that_has_changed_is_an_error_and_nothing_of_it_is_mixed_in() {
    for file in files() {
        for other in impostors() {
            let (source, remote, backend, reader) = offline(file.clone());
            remote.becomes(&other);
            let has_changed = |error: &GibbloxError| {
                error.kind() == GibbloxErrorKind::Other
                    && error.message().is_some_and(|message| {
                        message.starts_with("the source is not the one that is cached")
                    })
            };
            check_cached(&reader, &source, has_changed);
            assert_eq!(other.reads(), [], "no block of it is fetched");
            assert!(reader.is_offline());
            assert_eq!(backend.bytes(), file, "the file is not reset");
            // Whatever answered in between, the source itself is believed when it is back.
            remote.becomes(&source);
            check_cached(&reader, &source, is_no_route);
            source.heal();
            check_all(&reader, &source);
        }
    }
}

#[test]
fn without_a_file_of_its_own_opening_is_the_error_of_the_source_and_touches_nothing() {
    let own = file_of_ours(&source(), CACHED);
    let published = file_of_published(&source(), CACHED);
    let regions = Regions::of(&source());
    let mut contents = vec![
        Vec::new(),
        vec![0; 500],
        vec![0xFF; 500],
        own[..regions.bitmap].to_vec(),
        own[..20].to_vec(),
        // Without a check of the header only the length tells whether it is whole.
        published[..published.len() - 1].to_vec(),
        [&published[..], &[0]].concat(),
    ];
    for other in [
        Source::with_identity(3, BLOCK, BLOCKS, "far-awaz"),
        Source::with_identity(3, BLOCK, BLOCKS, "far-away-too"),
        Source::with_identity(3, BLOCK, BLOCKS, &identity(100_000, "far-away")),
        Source::with_identity(3, BLOCK * 2, BLOCKS, "far-away"),
    ] {
        contents.push(file_of_ours(&other, CACHED));
        contents.push(file_of_published(&other, CACHED));
    }
    for offset in 0..regions.bitmap {
        let mut damaged = own.clone();
        damaged[offset] ^= 0x10;
        contents.push(damaged);
        let mut damaged = published.clone();
        damaged[offset] ^= 0x10;
        contents.push(damaged);
    }
    for bytes in contents {
        let (source, backend) = (source(), Backend::with_bytes(bytes.clone()));
        cut_off(&source);
        let opened = try_open(&Remote::of(&source), Arc::clone(&backend), config());
        let error = opened.map(drop).unwrap_err();
        assert!(is_no_route(&error), "{error}");
        assert!(backend.calls().iter().all(|call| call.op == Op::Read));
        assert_eq!(backend.bytes(), bytes);
    }
}

#[test]
fn a_truncated_file_with_checksums_serves_what_is_left() {
    let own = file_of_ours(&source(), CACHED);
    let regions = Regions::of(&source());
    for len in regions.data..own.len() {
        let (source, _, _, reader) = offline(own[..len].to_vec());
        let left = (len.saturating_sub(regions.checksums) / 8) as u64;
        for lba in 0..BLOCKS {
            match finish(read(&reader, lba, 1)) {
                Ok(bytes) => source.assert_bytes(lba, &bytes),
                Err(error) => {
                    assert!(is_no_route(&error));
                    assert!(
                        lba >= left || !CACHED.contains(&lba),
                        "block {lba} is there"
                    );
                }
            }
        }
        source.heal();
        check_all_but(&reader, &source);
    }
}

#[test]
fn whatever_backend_call_fails_while_opening_the_error_is_that_of_the_source() {
    for file in files() {
        let (_, _, backend, _) = offline(file.clone());
        let calls = backend.calls().len();
        for index in 0..calls {
            for fault in [BackendFault::Error, BackendFault::Short] {
                let (source, backend) = (source(), Backend::with_bytes(file.clone()));
                cut_off(&source);
                backend.fail(move |call| (call.index == index).then_some(fault));
                match try_open(&Remote::of(&source), Arc::clone(&backend), config()) {
                    Err(error) => {
                        assert!(is_no_route(&error), "call {index}: {error}");
                        assert_eq!(backend.bytes(), file);
                    }
                    Ok(reader) => {
                        // A short answer means that there is no more of the file.
                        assert_eq!(fault, BackendFault::Short, "call {index}");
                        for lba in 0..BLOCKS {
                            if let Ok(bytes) = finish(read(&reader, lba, 1)) {
                                source.assert_bytes(lba, &bytes);
                            }
                        }
                    }
                }
                let mut written = backend.calls();
                written.retain(|call| call.op == Op::Write && call.offset == 0);
                assert_eq!(written, [], "call {index}: the file is not rebuilt");
            }
        }
    }
}

#[test]
fn by_default_a_source_that_cannot_be_reached_cannot_be_opened() {
    assert_eq!(CacheConfig::new().offline(), OfflinePolicy::Fail);
    let (source, backend) = (source(), Backend::with_bytes(files()[0].clone()));
    cut_off(&source);
    let opened = try_open(
        &Remote::of(&source),
        Arc::clone(&backend),
        CacheConfig::new(),
    );
    assert!(is_no_route(&opened.map(drop).unwrap_err()));
    assert_eq!(backend.calls(), []);
}

#[test]
fn a_source_that_answers_is_opened_as_ever_whatever_the_policy() {
    for file in [
        Vec::new(),
        files()[0].clone(),
        file_of_ours(&impostors()[2], CACHED),
    ] {
        let plain = {
            let (source, backend) = (source(), Backend::with_bytes(file.clone()));
            try_open(
                &Remote::of(&source),
                Arc::clone(&backend),
                CacheConfig::new(),
            )
            .unwrap();
            (source.calls(), backend.calls().len(), backend.bytes())
        };
        let (source, backend) = (source(), Backend::with_bytes(file));
        let reader = try_open(&Remote::of(&source), Arc::clone(&backend), config()).unwrap();
        assert!(!reader.is_offline());
        assert_eq!(
            (source.calls(), backend.calls().len(), backend.bytes()),
            plain
        );
        finish(read(&reader, 0, BLOCKS)).unwrap();
        assert_eq!(sizes(&source), 1, "it is not asked again");
    }
}

#[test]
fn a_device_without_blocks_can_be_opened() {
    let source = Source::with_identity(3, BLOCK, 0, "far-away");
    let backend = Backend::with_bytes(file_of_ours(&source, 0..0));
    cut_off(&source);
    let reader = try_open(&Remote::of(&source), backend, config()).unwrap();
    assert_eq!(finish(reader.total_blocks()).unwrap(), 0);
}

#[test]
fn a_panic_of_the_source_while_it_is_asked_leaves_nobody_waiting() {
    let (source, _, _, reader) = offline(files()[0].clone());
    let mut asked = false;
    source.fail(move |_: &Call| (!core::mem::replace(&mut asked, true)).then_some(Fault::Panic));
    source.gate.shut();
    let mut poller = Poller::new();
    let first = poller.spawn(read(&reader, 0, 1));
    let second = poller.spawn(read(&reader, 1, 1));
    poller.run();
    source.gate.open();
    poller.poll_panicking(first);
    poller.run_to_end();
    poller.take(second).unwrap();
    check_all_but(&reader, &source);
}

#[test]
fn after_a_power_cut_what_was_fetched_before_and_after_the_source_was_back_is_right() {
    let source = source();
    let disk = PowerCut::new(file_of_ours(&source, CACHED));
    cut_off(&source);
    let remote = Remote::of(&source);
    let reader = try_open(&remote, Arc::clone(&disk), config()).unwrap();
    finish(read(&reader, 0, 1)).unwrap_err();
    source.heal();
    finish(read(&reader, 0, 3)).unwrap();
    let mut images = 0;
    for cut in disk.cuts() {
        let few_enough = cut.every_image(1 << 16, |image| {
            images += 1;
            // Offline again: what is served of it is right.
            let (source, _, _, reader) = offline(image.to_vec());
            for lba in 0..BLOCKS {
                match finish(read(&reader, lba, 1)) {
                    Ok(bytes) => source.assert_bytes(lba, &bytes),
                    Err(error) => assert!(!CACHED.contains(&lba) && is_no_route(&error)),
                }
            }
        });
        assert!(few_enough, "too many images of one cut");
    }
    assert!(images > 4, "only {images} images");
}
