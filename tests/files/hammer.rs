//! A directory that eight processes use as they like, and that are killed in the middle of it.

use crate::support::child::{ANSWER, Child};
use crate::support::{BLOCKS, Folder, Source, finish, read_byte};
use gibblox_cache::{
    CacheDir, CacheDirOptions, CacheState, CachedBlockReader, FileCacheOps, Inspection,
};
use gibblox_core::ReadContext;
use std::fs;
use std::io::{ErrorKind, Write, stdout};
use std::path::PathBuf;
use std::sync::Arc;

const IDENTITIES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Some two files of the six, once they are full.
const BUDGET: u64 = 600 << 10;

const CHILDREN: usize = 8;
/// Processes start slowly under Wine.
const KILLS: usize = if cfg!(windows) { 16 } else { 64 };

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// Which file a path leads to.
fn which(path: &PathBuf) -> Option<u64> {
    #[cfg(unix)]
    return fs::symlink_metadata(path)
        .ok()
        .map(|found| std::os::unix::fs::MetadataExt::ino(&found));
    #[cfg(windows)]
    return fs::symlink_metadata(path).ok().map(|_| 0);
}

fn byte_of(identity: &str) -> u8 {
    identity.as_bytes()[0]
}

struct Open {
    source: Arc<Source>,
    reader: CachedBlockReader<Arc<Source>, FileCacheOps>,
    path: PathBuf,
    /// The file, and the block that it was seen to have.
    kept: Option<(u64, u64)>,
}

impl Open {
    fn new(dir: &CacheDir, identity: &str, rng: &mut Rng) -> Self {
        let source = Source::new(identity, byte_of(identity));
        let cache = dir.cache_for(&*source).expect("opens");
        let path = cache.path().to_path_buf();
        let reader = CachedBlockReader::new(source.clone(), cache);
        let reader = finish(reader).expect("a healthy source opens");
        let mut open = Self {
            source,
            reader,
            path,
            kept: None,
        };
        if open.reader.state() == CacheState::Serving {
            let file = which(&open.path).expect("a file that is open has its name");
            let start = rng.below(BLOCKS as usize) as u64;
            let blocks = 1 + rng.below((BLOCKS - start) as usize) as u64;
            let warm = open
                .reader
                .ensure_cached(start, blocks, ReadContext::FOREGROUND);
            finish(warm).expect("there is a cache, and room");
            open.kept = Some((file, start));
        }
        open
    }

    fn check(&self, rng: &mut Rng) {
        let lba = rng.below(BLOCKS as usize) as u64;
        assert_eq!(read_byte(&self.reader, lba), byte_of(&self.source.identity));
        if let Some((file, lba)) = self.kept {
            assert_eq!(which(&self.path), Some(file), "an open file was lost");
            let before = self.source.fetched_blocks();
            read_byte(&self.reader, lba);
            assert_eq!(self.source.fetched_blocks(), before, "a block was lost");
        }
    }
}

/// What each process does, until it is killed.
pub(crate) fn hammer(order: &str) -> ! {
    let (seed, path) = order.split_once(' ').expect("a seed and a path");
    let mut rng = Rng(seed.parse().expect("a number"));
    let dir = CacheDirOptions::new().with_max_bytes(BUDGET);
    let dir = dir.open(path).expect("opens");
    let mut open: Vec<Open> = Vec::new();
    loop {
        let identity = IDENTITIES[rng.below(IDENTITIES.len())];
        match rng.below(12) {
            0 => {
                let trimmed = dir.trim().expect("trims");
                assert!(trimmed.failed.is_empty(), "{trimmed:?}");
            }
            1 => {
                for entry in dir.list().expect("lists") {
                    let is_open = open.iter().any(|open| open.path == entry.path);
                    assert!(entry.is_in_use || !is_open, "{entry:?}");
                    entry.inspection.expect("reads");
                }
            }
            2 => {
                let name = FileCacheOps::name_of(&*Source::new(identity, 0)).expect("a name");
                let is_open = open.iter().any(|open| open.source.identity == identity);
                match dir.remove(&name) {
                    Ok(_) => assert!(!is_open, "an open file was removed"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}"),
                }
            }
            3 => {
                let trimmed = dir.clear().expect("clears");
                assert!(trimmed.failed.is_empty(), "{trimmed:?}");
            }
            4..8 if !open.is_empty() => drop(open.swap_remove(rng.below(open.len()))),
            _ if open.len() < 2 => open.push(Open::new(&dir, identity, &mut rng)),
            _ => {}
        }
        for open in &open {
            open.check(&mut rng);
        }
        let kept = open.iter().filter(|open| open.kept.is_some()).count();
        println!("{ANSWER}{kept}");
        stdout().flush().expect("the parent listens");
    }
}

#[test]
fn eight_processes_that_are_killed_at_random_read_no_wrong_byte_and_lose_no_open_file() {
    let folder = Folder::new();
    let path = folder.join("images");
    let mut seeds = 0..;
    let mut start = || {
        let mut child = Child::start();
        let seed: u64 = seeds.next().expect("another number");
        child
            .tell(&format!("hammer {seed} {}", path.display()))
            .parse::<usize>()
            .expect("a count");
        child
    };
    let mut children: Vec<Child> = (0..CHILDREN).map(|_| start()).collect();
    let mut rng = Rng(7);
    let mut kept = 0;
    for _ in 0..KILLS {
        let chosen = rng.below(CHILDREN);
        for _ in 0..rng.below(30) {
            let said = children[chosen].hear().expect("it does not fail");
            kept += said.parse::<usize>().expect("a count");
        }
        assert!(children.iter_mut().all(Child::is_alive));
        std::mem::replace(&mut children[chosen], start()).kill();
    }
    assert!(kept > KILLS, "no file was open: {kept}");
    assert!(children.iter_mut().all(Child::is_alive));
    for child in children {
        child.kill();
    }

    let dir = CacheDirOptions::new().with_max_bytes(BUDGET);
    let dir = dir.open(&path).expect("opens");
    let trimmed = dir.trim().expect("trims");
    assert!(trimmed.failed.is_empty(), "{trimmed:?}");
    let found = dir.list().expect("lists");
    assert!(found.iter().all(|entry| !entry.is_in_use));
    let bytes = found.iter().map(|entry| entry.bytes_on_disk).sum::<u64>();
    assert!(bytes <= BUDGET, "{bytes}");
    assert_eq!(bytes, trimmed.bytes_on_disk);
    let is_cache = |inspection: &Inspection| {
        matches!(
            inspection,
            Inspection::Cache(_) | Inspection::Blank | Inspection::Damaged(_)
        )
    };
    assert!(
        found
            .iter()
            .all(|entry| entry.inspection.as_ref().is_ok_and(is_cache))
    );
    for identity in IDENTITIES {
        let open = Open::new(&dir, identity, &mut rng);
        assert!(open.kept.is_some(), "it is the only one");
        for lba in 0..BLOCKS {
            assert_eq!(read_byte(&open.reader, lba), byte_of(identity));
        }
    }
    let cleared = dir.clear().expect("clears");
    assert_eq!((cleared.files, cleared.bytes_on_disk), (0, 0));
    dir.trim().expect("sweeps");
    assert_eq!(fs::read_dir(&path).expect("reads").count(), 0);
}
