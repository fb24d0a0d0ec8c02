//! A source whose bytes change while it is read, and a reader that goes on with what it is then.

use crate::support::backend::Op;
use crate::support::poll::drop_after;
use crate::support::powercut::PowerCut;
use crate::support::source::Fault;
use crate::support::{Backend, Poller, Rng, Source, finish, for_seeds, read};
use async_trait::async_trait;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use gibblox_cache::{
    CacheConfig, CacheOps, CacheState, CachedBlockReader, Inspection, MemoryCacheOps,
    SOURCE_CHANGED, SourceVersion, VerifyPolicy, Versioned, WarmPlan,
    cached_reader_identity_string, inspect,
};
use gibblox_core::{
    BlockReader, GibbloxErrorKind, GibbloxResult, ReadContext, block_identity_string,
};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

const BLOCK: u32 = 64;
const BLOCKS: u64 = 12;

/// A source that says with each answer which version its bytes are of, as a server does by its `ETag`.
struct Tagging {
    source: Arc<Source>,
    version: SourceVersion,
}

fn tag(generation: u64) -> String {
    format!("\"v{generation}\"")
}

#[async_trait]
impl BlockReader for Tagging {
    fn block_size(&self) -> u32 {
        self.source.block_size()
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        self.source.total_blocks().await
    }

    fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.source.write_identity(out)
    }

    async fn read_blocks(
        &self,
        lba: u64,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<usize> {
        let generation = self.source.generation();
        let answer = self.source.read_blocks(lba, buf, ctx).await;
        self.version.set(tag(generation));
        answer
    }
}

type Reader<C> = CachedBlockReader<Versioned<Tagging>, C>;

fn source() -> Arc<Source> {
    Source::with_identity(3, BLOCK, BLOCKS, "far-away")
}

fn versioned(source: &Arc<Source>) -> (SourceVersion, Versioned<Tagging>) {
    let version = SourceVersion::new(tag(source.generation()));
    let tagging = Tagging {
        source: Arc::clone(source),
        version: version.clone(),
    };
    (version.clone(), Versioned::new(tagging, version))
}

fn open_as<C: CacheOps>(source: &Arc<Source>, cache: C, config: CacheConfig) -> Reader<C> {
    let opening = CachedBlockReader::open(versioned(source).1, cache, config);
    finish(opening).expect("a healthy source opens")
}

fn open<C: CacheOps>(source: &Arc<Source>, cache: C) -> Reader<C> {
    open_as(source, cache, CacheConfig::new())
}

#[track_caller]
fn assert_changed<T>(result: GibbloxResult<T>) {
    let error = result.map(|_| ()).expect_err("the source has changed");
    assert_eq!(error.kind(), GibbloxErrorKind::Other);
    assert_eq!(error.message(), Some(SOURCE_CHANGED));
}

#[track_caller]
fn check<C: CacheOps>(reader: &Reader<C>, source: &Source, lba: u64, blocks: u64) {
    source.assert_bytes(lba, &finish(read(reader, lba, blocks)).expect("reads"));
}

#[test]
fn two_pairs_of_name_and_version_never_give_one_identity() {
    let texts = [
        "",
        ")",
        ";",
        "a",
        "a)",
        "named:(",
        "versioned:(",
        "a;b",
        "00",
        ");",
    ];
    let image = || Source::with_identity(1, BLOCK, 1, "image");
    let digest = "0123456789abcdef0123456789abcdef";
    let mut seen = HashMap::new();
    let mut add = |identity: String, of: String| {
        assert!(!identity.contains("secret"), "{identity}");
        if let Some(before) = seen.insert(identity, of.clone()) {
            panic!("{before} and {of}");
        }
    };
    for name in texts {
        for (suffix, tail) in [("", String::new()), (";", format!(";{digest})"))] {
            let name = format!("{name}{tail}");
            let named = Versioned::named(image(), &*name);
            add(block_identity_string(&named), format!("{name}{suffix}"));
            for version in texts.into_iter().chain(["secret"]) {
                let both = Versioned::named(image(), &*name).with_version(version);
                add(block_identity_string(&both), format!("{name} {version}"));
            }
        }
    }
    for version in texts {
        let identity = block_identity_string(&Versioned::new(image(), version));
        assert_eq!(identity.len(), "versioned:(image;)".len() + 32);
        add(identity, format!("image {version}"));
    }
}

#[test]
fn an_identity_is_the_text_of_the_documentation() {
    let image = || Source::with_identity(1, BLOCK, 1, "image");
    // Computed with the reference implementation of XXH3.
    assert_eq!(
        block_identity_string(&Versioned::new(image(), "")),
        "versioned:(image;99aa06d3014798d86001c324468d497f)"
    );
    assert_eq!(
        block_identity_string(&Versioned::named(image(), "disk")),
        "named:(disk)"
    );
}

#[test]
fn a_version_that_is_set_to_what_it_is_has_not_changed() {
    let (version, _) = versioned(&source());
    assert!(!version.set(tag(0)));
    assert!(version.clone().set("other"));
    assert_eq!(version.current(), "other");
    assert!(!format!("{version:?}").contains("other"));
}

#[test]
fn what_is_fetched_across_a_change_is_not_stored_and_its_reads_fail() {
    for verify in [VerifyPolicy::OnFirstRead, VerifyPolicy::OnEveryRead] {
        let (source, backend) = (source(), Backend::new());
        let reader = open_as(
            &source,
            Arc::clone(&backend),
            CacheConfig::new().with_verify(verify),
        );
        check(&reader, &source, 0, 4);
        let before = backend.bytes();
        source.renew();
        // Some of it is cached, so that bytes of two versions would meet in one buffer.
        assert_changed(finish(read(&reader, 2, 4)));
        assert_eq!(backend.bytes(), before, "nothing was stored");
        assert_eq!(reader.state(), CacheState::SourceChanged);
        for lba in 0..BLOCKS {
            assert_changed(finish(read(&reader, lba, 1)));
        }
        assert_changed(finish(reader.ensure_cached(0, 1, ReadContext::BACKGROUND)));
        assert_changed(finish(reader.warm(WarmPlan::device())));
        assert_changed(finish(reader.scrub()));
        assert_changed(finish(reader.flush_cache()));
        assert_changed(finish(reader.clear()));
        assert_eq!(reader.cached_runs().next(), None);
        assert_eq!(backend.bytes(), before, "and nothing was written");
        assert_eq!(source.reads().len(), 2, "nor fetched");
        // The file itself is still a sound one of the version before.
        source.forget();
        let old = Versioned::new(Arc::clone(&source), tag(0));
        let old = finish(CachedBlockReader::new(old, backend)).unwrap();
        assert_eq!(finish(read(&old, 0, 4)).unwrap(), source.bytes_of(0, 0, 4));
        assert_eq!(source.reads(), []);
    }
}

#[test]
fn everyone_who_waits_for_a_fetch_across_a_change_is_told() {
    let source = source();
    let reader = open(&source, MemoryCacheOps::new());
    source.gate.shut();
    let mut poller = Poller::new();
    let tasks: Vec<_> = [(0, 4), (0, 4), (1, 1), (2, 4)]
        .into_iter()
        .map(|(lba, blocks)| poller.spawn(read(&reader, lba, blocks)))
        .collect();
    poller.run();
    source.renew();
    source.gate.open();
    poller.run_to_end();
    // The first answers were of the old version, and so right.
    for (task, (lba, blocks)) in tasks.into_iter().zip([(0, 4), (0, 4), (1, 1), (2, 4)]) {
        match poller.take(task) {
            Ok(bytes) => assert_eq!(bytes, source.bytes_of(0, lba, blocks)),
            error => assert_changed(error),
        }
    }
}

#[test]
fn a_renewed_reader_serves_and_caches_the_new_version() {
    for cached in [0, 1, BLOCKS] {
        let (source, backend) = (source(), Backend::new());
        let (version, versioned) = versioned(&source);
        let reader = finish(CachedBlockReader::new(versioned, Arc::clone(&backend))).unwrap();
        if cached > 0 {
            check(&reader, &source, 0, cached);
        }
        source.renew();
        if cached < BLOCKS {
            assert_changed(finish(read(&reader, BLOCKS - 1, 1)));
        }
        // Where all is cached, the program has heard of it otherwise.
        version.set(tag(1));
        assert_eq!(reader.state(), CacheState::SourceChanged);
        finish(reader.renew_source()).unwrap();
        assert_eq!(reader.state(), CacheState::Serving);
        assert_eq!(reader.cached_runs().next(), None);
        source.forget();
        for _ in 0..2 {
            for lba in 0..BLOCKS {
                check(&reader, &source, lba, 1);
            }
        }
        assert!(source.fetches().iter().all(|fetches| *fetches == 1));
        let Inspection::Cache(info) = finish(inspect(&backend)).unwrap() else {
            panic!("a cache file");
        };
        let now = Versioned::new(Arc::clone(&source), tag(1));
        assert_eq!(info.identity, cached_reader_identity_string(&now));
        assert_eq!(info.valid_blocks, BLOCKS);
        // The next process has all of it.
        source.forget();
        let next = open(&source, Backend::with_bytes(backend.bytes()));
        check(&next, &source, 0, BLOCKS);
        assert_eq!(source.reads(), []);
    }
}

#[test]
fn a_source_that_is_again_what_it_was_has_its_cache_again() {
    let source = source();
    let (version, versioned) = versioned(&source);
    let reader = finish(CachedBlockReader::new(versioned, Backend::new())).unwrap();
    check(&reader, &source, 0, BLOCKS);
    version.set("of a mirror");
    assert_eq!(reader.state(), CacheState::SourceChanged);
    version.set(tag(0));
    assert_changed(finish(read(&reader, 0, 1)));
    finish(reader.renew_source()).unwrap();
    assert_eq!(reader.state(), CacheState::Serving);
    source.forget();
    check(&reader, &source, 0, BLOCKS);
    assert_eq!(source.reads(), []);
}

#[test]
fn a_source_that_changes_and_changes_back_within_one_read_is_noticed() {
    let source = source();
    let (version, versioned) = versioned(&source);
    let reader = finish(CachedBlockReader::new(versioned, Backend::new())).unwrap();
    source.gate.shut();
    let mut poller = Poller::new();
    let task = poller.spawn(read(&reader, 0, 1));
    poller.run();
    version.set("between");
    version.set(tag(0));
    source.gate.open();
    poller.run_to_end();
    assert_changed(poller.take(task));
    assert!(!reader.is_cached(0, 1).unwrap());
}

#[test]
fn out_of_reach_is_not_changed() {
    let source = source();
    let reader = open(&source, Backend::new());
    check(&reader, &source, 0, 4);
    source.fail(|_| Some(Fault::io("no route")));
    let error = finish(read(&reader, 0, 8)).unwrap_err();
    assert_eq!(error.message(), Some("no route"));
    assert_eq!(
        finish(reader.renew_source()).unwrap_err().message(),
        Some("no route")
    );
    assert_eq!(reader.state(), CacheState::Serving);
    check(&reader, &source, 0, 4);
}

/// A source that says who it is as it is told.
struct Named {
    source: Arc<Source>,
    fails: AtomicBool,
    grows: AtomicBool,
}

#[async_trait]
impl BlockReader for Named {
    fn block_size(&self) -> u32 {
        self.source.block_size()
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        self.source.total_blocks().await
    }

    fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str("half of ")?;
        if self.fails.load(Ordering::SeqCst) {
            return Err(fmt::Error);
        }
        out.write_str("it")?;
        if self.grows.load(Ordering::SeqCst) {
            out.write_char('!')?;
        }
        Ok(())
    }

    async fn read_blocks(
        &self,
        lba: u64,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<usize> {
        self.source.read_blocks(lba, buf, ctx).await
    }
}

#[test]
fn a_source_that_does_not_say_who_it_is_is_not_stored_and_has_not_changed() {
    let (source, backend) = (source(), Backend::new());
    let named = Arc::new(Named {
        source: Arc::clone(&source),
        fails: AtomicBool::new(false),
        grows: AtomicBool::new(false),
    });
    let reader = finish(CachedBlockReader::new(
        Arc::clone(&named),
        Arc::clone(&backend),
    ))
    .unwrap();
    finish(read(&reader, 0, 1)).unwrap();
    let before = backend.bytes();
    source.gate.shut();
    let mut poller = Poller::new();
    let task = poller.spawn(read(&reader, 1, 1));
    poller.run();
    named.fails.store(true, Ordering::SeqCst);
    source.gate.open();
    poller.run_to_end();
    assert_eq!(
        poller.take(task).unwrap_err().kind(),
        GibbloxErrorKind::InvalidInput
    );
    finish(read(&reader, 1, 1)).unwrap_err();
    assert_eq!(backend.bytes(), before);
    assert_eq!(reader.state(), CacheState::Serving);
    finish(read(&reader, 0, 1)).unwrap();
    named.fails.store(false, Ordering::SeqCst);
    source.assert_bytes(1, &finish(read(&reader, 1, 1)).unwrap());

    // A new version whose identity has another length does not fit into the file.
    named.grows.store(true, Ordering::SeqCst);
    assert_changed(finish(read(&reader, 2, 1)));
    let refused = finish(reader.renew_source()).unwrap_err();
    assert_eq!(refused.kind(), GibbloxErrorKind::InvalidInput);
    assert_eq!(reader.state(), CacheState::SourceChanged);
}

#[test]
fn a_source_that_writes_its_version_itself_is_compared_after_its_answer_too() {
    let (source, backend) = (source(), Backend::new());
    let named = Arc::new(Named {
        source: Arc::clone(&source),
        fails: AtomicBool::new(false),
        grows: AtomicBool::new(false),
    });
    let reader = finish(CachedBlockReader::new(
        Arc::clone(&named),
        Arc::clone(&backend),
    ))
    .unwrap();
    let before = backend.bytes();
    source.gate.shut();
    let mut poller = Poller::new();
    let tasks =
        [(0, 4), (1, 1), (2, 2)].map(|(lba, blocks)| poller.spawn(read(&reader, lba, blocks)));
    poller.run();
    named.grows.store(true, Ordering::SeqCst);
    source.gate.open();
    poller.run_to_end();
    for task in tasks {
        assert_changed(poller.take(task));
    }
    assert_eq!(
        source.reads(),
        [(0, 4)],
        "those who follow do not ask again"
    );
    assert_eq!(backend.bytes(), before);
}

#[test]
fn another_reader_of_the_array_keeps_it() {
    let (source, backend) = (source(), Arc::new(MemoryCacheOps::new()));
    let (version, first) = versioned(&source);
    let first = finish(CachedBlockReader::new(first, Arc::clone(&backend))).unwrap();
    let second = open(&source, Arc::clone(&backend));
    check(&first, &source, 0, BLOCKS);
    for lba in 0..BLOCKS {
        check(&second, &source, lba, 1);
    }
    source.renew();
    version.set(tag(1));
    finish(first.renew_source()).unwrap();
    assert_eq!(first.state(), CacheState::Taken);
    check(&first, &source, 0, BLOCKS);
    let old = finish(read(&second, 0, BLOCKS)).unwrap();
    assert_eq!(old, source.bytes_of(0, 0, BLOCKS), "nothing is mixed in");
    drop(second);
    for _ in 0..3 {
        check(&first, &source, 0, BLOCKS);
    }
    assert_eq!(first.state(), CacheState::Serving);
}

#[test]
fn a_renewal_beside_a_sick_backend_leaves_a_reader_without_a_cache() {
    let (source, backend) = (source(), Backend::new());
    let (version, versioned) = versioned(&source);
    let reader = finish(CachedBlockReader::new(versioned, Arc::clone(&backend))).unwrap();
    check(&reader, &source, 0, BLOCKS);
    source.renew();
    version.set(tag(1));
    backend.fail_all(Op::Write);
    finish(reader.renew_source()).unwrap();
    assert_eq!(reader.state(), CacheState::NotOpen);
    check(&reader, &source, 0, BLOCKS);
    backend.heal();
    for _ in 0..9 {
        check(&reader, &source, 0, BLOCKS);
    }
    assert_eq!(reader.state(), CacheState::Serving);
}

#[test]
fn a_renewal_that_is_dropped_can_be_done_again() {
    let mut polls = 0;
    loop {
        let (source, backend) = (source(), Backend::new());
        let (version, versioned) = versioned(&source);
        let reader = finish(CachedBlockReader::new(versioned, Arc::clone(&backend))).unwrap();
        check(&reader, &source, 0, BLOCKS);
        source.renew();
        version.set(tag(1));
        backend.gate.once();
        let done = drop_after(reader.renew_source(), polls);
        backend.gate.open();
        if !done {
            assert_eq!(reader.state(), CacheState::SourceChanged);
            assert_changed(finish(read(&reader, 0, 1)));
            finish(reader.renew_source()).unwrap();
        }
        for _ in 0..3 {
            check(&reader, &source, 0, BLOCKS);
        }
        assert_eq!(reader.state(), CacheState::Serving);
        if done {
            break;
        }
        polls += 1;
    }
    assert!(polls > 8, "{polls}");
}

#[test]
fn in_no_image_of_a_power_cut_are_old_blocks_those_of_the_new_version() {
    let source = source();
    let disk = PowerCut::new(Vec::new());
    let (version, versioned) = versioned(&source);
    let reader = finish(CachedBlockReader::new(versioned, Arc::clone(&disk))).unwrap();
    check(&reader, &source, 0, BLOCKS);
    finish(reader.flush_cache()).unwrap();
    let first = disk.cuts().len() - 1;
    source.renew();
    version.set(tag(1));
    finish(reader.renew_source()).unwrap();
    for lba in [0, 5] {
        check(&reader, &source, lba, 1);
    }
    let mut images = HashSet::new();
    for cut in &disk.cuts()[first..] {
        let few_enough = cut.every_image(1 << 16, |image| {
            if !images.insert(image.to_vec()) {
                return;
            }
            for generation in 0..2 {
                // Which version it is said to be decides what is right; what is fetched is always the newest.
                let backend = Backend::with_bytes(image.to_vec());
                let source = Arc::clone(&source);
                let one = Versioned::new(source.clone(), tag(generation));
                let reader = finish(CachedBlockReader::new(one, backend)).unwrap();
                for lba in 0..BLOCKS {
                    source.forget();
                    let bytes = finish(read(&reader, lba, 1)).unwrap();
                    let was_cached = source.reads().is_empty();
                    let of = if was_cached { generation } else { 1 };
                    assert_eq!(bytes, source.bytes_of(of, lba, 1), "block {lba}");
                }
            }
        });
        assert!(few_enough);
    }
    assert!(images.len() > 20, "{}", images.len());
}

#[test]
fn whatever_happens_at_once_no_read_mixes_two_versions_and_no_block_is_stored_under_another() {
    for_seeds(300, life);
}

enum Did {
    Read(u64, GibbloxResult<Vec<u8>>),
    Renewed(GibbloxResult<()>),
    Warmed(GibbloxResult<()>),
}

fn life(rng: &mut Rng) {
    let (source, backend) = (source(), Backend::new());
    let (version, versioned) = versioned(&source);
    let config = CacheConfig::new().with_window_bytes(3 * BLOCK);
    let reader = finish(CachedBlockReader::open(
        versioned,
        Arc::clone(&backend),
        config,
    ))
    .unwrap();
    source.gate.shut();
    backend.gate.shut();
    let mut poller = Poller::new();
    let judge = |did| match did {
        Did::Read(lba, Ok(bytes)) => {
            let generations = source.generations(lba, &bytes);
            assert!(
                generations.windows(2).all(|pair| pair[0] == pair[1]),
                "{generations:?}"
            );
        }
        Did::Read(_, Err(error)) | Did::Renewed(Err(error)) | Did::Warmed(Err(error)) => {
            assert_eq!(error.message(), Some(SOURCE_CHANGED));
        }
        Did::Renewed(Ok(())) | Did::Warmed(Ok(())) => {}
    };
    for _ in 0..120 {
        match rng.below(12) {
            0..=3 => {
                let lba = rng.below(BLOCKS);
                let blocks = 1 + rng.below(BLOCKS - lba);
                let reading = read(&reader, lba, blocks);
                poller.spawn(either(async move { Did::Read(lba, reading.await) }));
            }
            4 if source.generation() < 6 => {
                let now = source.renew();
                if rng.below(3) == 0 {
                    version.set(tag(now));
                }
            }
            5 => {
                poller.spawn(either(async { Did::Renewed(reader.renew_source().await) }));
            }
            6 => {
                let warming = reader.ensure_cached(0, BLOCKS, ReadContext::BACKGROUND);
                poller.spawn(either(async { Did::Warmed(warming.await) }));
            }
            7 => {
                if let Some((ticket, _)) = source.gate.held().into_iter().next() {
                    source.gate.release(ticket);
                }
            }
            8 => {
                let pending = poller.pending();
                if !pending.is_empty() && rng.below(4) == 0 {
                    poller.cancel(pending[rng.below(pending.len() as u64) as usize]);
                }
            }
            _ => {
                let held = backend.gate.held();
                if !held.is_empty() {
                    backend
                        .gate
                        .release(held[rng.below(held.len() as u64) as usize].0);
                }
            }
        }
        if rng.below(2) == 0 {
            poller.run();
            poller
                .take_done()
                .into_iter()
                .for_each(|(_, did)| judge(did));
        }
    }
    source.gate.open();
    backend.gate.open();
    poller.run_to_end();
    poller
        .take_done()
        .into_iter()
        .for_each(|(_, did)| judge(did));
    drop(poller);
    // The file holds under each version what that version was.
    for generation in 0..=source.generation() {
        let one = Versioned::new(Arc::clone(&source), tag(generation));
        let copy = Backend::with_bytes(backend.bytes());
        let one = finish(CachedBlockReader::new(one, copy)).unwrap();
        for lba in 0..BLOCKS {
            source.forget();
            let bytes = finish(read(&one, lba, 1)).unwrap();
            if source.reads().is_empty() {
                assert_eq!(bytes, source.bytes_of(generation, lba, 1));
            }
        }
    }
    // And the reader goes on.
    version.set(tag(source.generation()));
    finish(reader.renew_source()).unwrap();
    for _ in 0..3 {
        check(&reader, &source, 0, BLOCKS);
    }
    assert_eq!(reader.state(), CacheState::Serving);
}

fn either<'a>(
    did: impl Future<Output = Did> + Send + 'a,
) -> core::pin::Pin<Box<dyn Future<Output = Did> + Send + 'a>> {
    Box::pin(did)
}
