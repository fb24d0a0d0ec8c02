//! No reader serves another source's bytes because of who else opened the array, in any order, in one process and between
//! processes.

use crate::support::child::Child;
use crate::support::{BLOCKS, Folder, Source, finish, read_byte};
use gibblox_cache::{CacheOps, CacheState, CachedBlockReader, FileCacheOps, MemoryCacheOps};
use gibblox_core::{BlockReader, GibbloxErrorKind, GibbloxResult, ReadContext};
use std::fs;
use std::path::Path;
use std::sync::Arc;

type Reader<C> = CachedBlockReader<Arc<Source>, C>;

fn open<C: CacheOps>(identity: &str, cache: C) -> (Arc<Source>, Reader<C>) {
    let source = Source::new(identity, identity.as_bytes()[0]);
    let reader = finish(CachedBlockReader::new(source.clone(), cache));
    (source, reader.expect("a healthy source opens"))
}

fn warm<C: CacheOps>(reader: &Reader<C>, start: u64, end: u64) -> GibbloxResult<()> {
    finish(reader.ensure_cached(start, end - start, ReadContext::FOREGROUND))
}

fn cached<C: CacheOps>(reader: &Reader<C>) -> u64 {
    finish(reader.get_stats()).cached_blocks
}

fn file(path: &Path) -> Arc<FileCacheOps> {
    Arc::new(FileCacheOps::open(path).expect("opens"))
}

/// A second identity over one array, while the reader of the first one lives, and afterwards.
fn the_later_one_goes_without<C: CacheOps>(array: &Arc<C>) {
    let (_, old) = open("1", Arc::clone(array));
    warm(&old, 0, BLOCKS).expect("cached");
    let (source, new) = open("2", Arc::clone(array));
    assert_eq!(new.state(), CacheState::Taken);
    let error = warm(&new, 0, BLOCKS).expect_err("there is no cache for it");
    assert!(error.to_string().contains("another reader"), "{error}");
    for lba in 0..BLOCKS {
        assert_eq!(read_byte(&old, lba), b'1');
        assert_eq!(read_byte(&new, lba), b'2');
    }
    assert_eq!(cached(&new), 0);
    // What the new one would have is what the old one has, and not a block less.
    assert_eq!(cached(&old), BLOCKS);

    drop(old);
    // It finds out by itself, when it misses.
    let mut reads = 0;
    while new.state() == CacheState::Taken {
        assert_eq!(read_byte(&new, reads % BLOCKS), b'2');
        reads += 1;
        assert!(reads < 2000, "it never tries again");
    }
    warm(&new, 0, BLOCKS).expect("cached");
    let before = source.fetched_blocks();
    assert_eq!(read_byte(&new, 7), b'2');
    assert_eq!(source.fetched_blocks(), before);
}

#[test]
fn memory_is_not_reset_under_a_live_reader() {
    the_later_one_goes_without(&Arc::new(MemoryCacheOps::new()));
}

#[test]
fn a_file_is_not_reset_under_a_live_reader() {
    let folder = Folder::new();
    the_later_one_goes_without(&file(&folder.join("cache")));
}

/// Two readers of one identity over one array.
fn the_later_one_finds_what_the_first_has<C: CacheOps>(first: C, second: C, third: impl Fn() -> C) {
    let (_, first) = open("1", first);
    warm(&first, 0, 20).expect("cached");
    let (source, second) = open("1", second);
    assert_eq!(cached(&second), 20);
    for lba in 0..20 {
        assert_eq!(read_byte(&second, lba), b'1');
    }
    assert_eq!(source.fetched_blocks(), 0);
    // Bits of one byte, from both.
    warm(&first, 20, 22).expect("cached");
    warm(&second, 22, 30).expect("cached");
    drop((first, second));
    let (source, third) = open("1", third());
    assert_eq!(cached(&third), 30);
    warm(&third, 0, 30).expect("cached");
    assert_eq!(source.fetched_blocks(), 0);
}

#[test]
fn two_readers_of_one_source_share_memory() {
    let array = Arc::new(MemoryCacheOps::new());
    let view = || Arc::clone(&array);
    the_later_one_finds_what_the_first_has(view(), view(), view);
}

#[test]
fn two_readers_of_one_source_share_a_file() {
    let folder = Folder::new();
    let array = file(&folder.join("cache"));
    let view = || Arc::clone(&array);
    the_later_one_finds_what_the_first_has(view(), view(), view);
}

#[test]
fn two_objects_on_one_path_share_it_for_one_source() {
    let folder = Folder::new();
    let path = folder.join("cache");
    the_later_one_finds_what_the_first_has(file(&path), file(&path), || file(&path));
}

#[test]
fn two_processes_of_one_source_share_a_file_and_lose_nothing_of_each_other() {
    let folder = Folder::new();
    let path = folder.join("cache");
    let (_, first) = open("1", file(&path));
    warm(&first, 0, 20).expect("cached");
    let mut child = Child::start();
    assert_eq!(child.open(&path), "opened");
    assert_eq!(child.tell("reader 1"), "Serving");
    for lba in 0..20 {
        assert_eq!(child.tell(&format!("get {lba}")), "1");
    }
    assert_eq!(child.tell("fetched"), "0");
    // The first one stores beside what the second one knows of; the second one stores in the same bytes of the bitmap.
    warm(&first, 20, 21).expect("cached");
    assert_eq!(child.tell("warm 22 40"), "warm");
    child.kill();
    drop(first);
    let (source, third) = open("1", file(&path));
    assert_eq!(cached(&third), 39);
    warm(&third, 0, 21).expect("cached");
    assert_eq!(source.fetched_blocks(), 0);
}

#[cfg(unix)]
#[test]
fn another_version_in_another_process_gets_a_fresh_file_and_the_next_start_finds_that() {
    let folder = Folder::new();
    let path = folder.join("cache");
    let mut child = Child::start();
    assert_eq!(child.open(&path), "opened");
    assert_eq!(child.tell("reader 1"), "Serving");
    assert_eq!(child.tell("warm"), "warm");

    let (_, new) = open("2", file(&path));
    assert_eq!(new.state(), CacheState::Serving);
    warm(&new, 0, BLOCKS).expect("cached");
    for lba in 0..BLOCKS {
        assert_eq!(read_byte(&new, lba), b'2');
        assert_eq!(child.tell(&format!("get {lba}")), "1");
    }
    assert_eq!(
        child.tell("fetched"),
        BLOCKS.to_string(),
        "it keeps its cache"
    );
    child.kill();
    drop(new);
    let (source, new) = open("2", file(&path));
    warm(&new, 0, BLOCKS).expect("cached");
    assert_eq!(source.fetched_blocks(), 0);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

#[cfg(windows)]
#[test]
fn another_version_in_another_process_goes_without() {
    let folder = Folder::new();
    let path = folder.join("cache");
    let mut child = Child::start();
    assert_eq!(child.open(&path), "opened");
    assert_eq!(child.tell("reader 1"), "Serving");
    assert_eq!(child.tell("warm"), "warm");
    let (_, new) = open("2", file(&path));
    assert_eq!(new.state(), CacheState::Taken);
    assert_eq!(read_byte(&new, 3), b'2');
    assert_eq!(child.tell("get 3"), "1");
    child.kill();
    warm(&new, 0, BLOCKS).expect("it is alone now");
}

#[test]
fn a_file_of_another_version_is_reset_when_no_reader_is_left() {
    let folder = Folder::new();
    let path = folder.join("cache");
    for end in ["close", "kill"] {
        let mut child = Child::start();
        assert_eq!(child.open(&path), "opened");
        assert_eq!(child.tell("reader 1"), "Serving");
        assert_eq!(child.tell("warm"), "warm");
        // Its object may stay, as long as it has no reader.
        let idle = file(&path);
        if end == "close" {
            assert_eq!(child.tell(end), "closed");
        } else {
            child.kill();
        }
        let (_, new) = open("2", file(&path));
        assert_eq!((new.state(), cached(&new)), (CacheState::Serving, 0));
        warm(&new, 0, 9).expect("cached");
        drop(new);
        let (_, new) = open("2", idle);
        assert_eq!(cached(&new), 9);
    }
}

/// Warms; waits while another process or thread builds the file.
fn warm_in_time<C: CacheOps>(reader: &Reader<C>, start: u64, end: u64) -> bool {
    for _ in 0..1_000_000 {
        match warm(reader, start, end) {
            Ok(()) => return true,
            Err(error) if error.to_string().contains("being opened") => std::thread::yield_now(),
            Err(error) => {
                assert_eq!(reader.state(), CacheState::Taken, "{error}");
                return false;
            }
        }
    }
    panic!("it is being opened for ever");
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Opens, reads, warms, flushes and drops readers of three identities at random, each on one of `arrays`. Returns how often a
/// cache was of use.
fn in_any_order<C: CacheOps + Clone>(seed: u64, arrays: &[C], steps: u32) -> u32 {
    let mut rng = Rng(seed);
    let mut readers: Vec<Option<(u8, Reader<C>)>> = (0..4).map(|_| None).collect();
    let mut used = 0;
    for _ in 0..steps {
        let at = rng.below(readers.len() as u64) as usize;
        let slot = &mut readers[at];
        match (rng.below(8), &slot) {
            (_, None) => {
                let identity = ["1", "2", "3"][rng.below(3) as usize];
                let array = arrays[rng.below(arrays.len() as u64) as usize].clone();
                *slot = Some((identity.as_bytes()[0], open(identity, array).1));
            }
            (0, _) => *slot = None,
            (1, Some((_, reader))) => drop(finish(reader.flush_cache())),
            (2, Some((_, reader))) => {
                let start = rng.below(BLOCKS);
                let end = start + 1 + rng.below(BLOCKS - start);
                used += u32::from(warm_in_time(reader, start, end));
            }
            (_, Some((value, reader))) => {
                assert_eq!(read_byte(reader, rng.below(BLOCKS)), *value, "seed {seed}");
            }
        }
    }
    used
}

#[test]
fn no_order_of_readers_over_memory_gives_a_wrong_byte() {
    for seed in 0..20 {
        assert_ne!(
            in_any_order(seed, &[Arc::new(MemoryCacheOps::new())], 400),
            0
        );
    }
}

#[test]
fn no_order_of_readers_over_a_file_gives_a_wrong_byte() {
    for seed in 0..10 {
        let folder = Folder::new();
        let path = folder.join("cache");
        assert_ne!(in_any_order(seed, &[file(&path)], 200), 0);
        let arrays = [file(&path), file(&path), file(&path)];
        assert_ne!(in_any_order(seed, &arrays, 200), 0);
    }
}

#[test]
fn threads_that_open_one_path_for_several_sources_read_right_bytes() {
    let folder = Folder::new();
    let path = folder.join("cache");
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let path = &path;
            scope.spawn(move || in_any_order(seed, &[file(path), file(path)], 100));
        }
    });
}

#[test]
fn processes_that_are_killed_at_any_time_leave_right_bytes() {
    let folder = Folder::new();
    let path = folder.join("cache");
    let mut used = 0;
    for round in 0..10 {
        let mut children: Vec<_> = (0..2).map(|_| Child::start()).collect();
        for child in &mut children {
            assert_eq!(child.open(&path), "opened");
            assert_eq!(child.tell("churn"), "begun");
        }
        // Meanwhile this process does the same.
        used += in_any_order(round, &[file(&path)], 100);
        children.into_iter().for_each(Child::kill);
        let (_, reader) = open("4", file(&path));
        assert_eq!(
            reader.state(),
            CacheState::Serving,
            "no lock outlives its process"
        );
        warm(&reader, 0, BLOCKS).expect("cached");
        assert_eq!(read_byte(&reader, round), b'4');
    }
    assert!(
        used > 0 || cfg!(windows),
        "a cache was of no use beside other processes"
    );
}

struct Nameless;

#[async_trait::async_trait]
impl BlockReader for Nameless {
    fn block_size(&self) -> u32 {
        512
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        Ok(8)
    }

    fn write_identity(&self, _: &mut dyn std::fmt::Write) -> std::fmt::Result {
        Err(std::fmt::Error)
    }

    async fn read_blocks(&self, _: u64, buf: &mut [u8], _: ReadContext) -> GibbloxResult<usize> {
        Ok(buf.len())
    }
}

#[test]
fn a_source_that_cannot_say_who_it_is_gets_no_cache() {
    let reader = finish(CachedBlockReader::new(Nameless, MemoryCacheOps::new()));
    let error = reader.map(drop).expect_err("two of them would share it");
    assert_eq!(error.kind(), GibbloxErrorKind::InvalidInput);
    let folder = Folder::new();
    let file = FileCacheOps::open_in(folder.path(), &Nameless);
    let error = file
        .map(drop)
        .expect_err("two of them would share its name");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}
