//! A directory of cache files: its budget, what it lists, and what it leaves alone.

use crate::support::child::Child;
use crate::support::{BLOCK, BLOCKS, Folder, Source, finish, read_byte};
use gibblox_cache::{
    CacheDir, CacheDirEntry, CacheDirOptions, CacheState, CachedBlockReader, FileCacheOps,
    Inspection,
};
use gibblox_core::ReadContext;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

type Reader = CachedBlockReader<Arc<Source>, FileCacheOps>;

fn name_of(identity: &str) -> String {
    FileCacheOps::name_of(&*Source::new(identity, 0)).expect("a name")
}

fn open(dir: &CacheDir, identity: &str) -> (Arc<Source>, Reader) {
    let source = Source::new(identity, identity.as_bytes()[0]);
    let cache = dir.cache_for(&*source).expect("opens");
    let reader = finish(CachedBlockReader::new(source.clone(), cache));
    (source, reader.expect("a healthy source opens"))
}

/// Caches so many blocks of a source, and closes its file.
fn fill(dir: &CacheDir, identity: &str, blocks: u64) {
    let (_, reader) = open(dir, identity);
    finish(reader.ensure_cached(0, blocks, ReadContext::FOREGROUND)).expect("caches");
}

/// Makes the file of a source as old as that.
fn age(dir: &CacheDir, identity: &str, seconds: u64) {
    let file = File::options()
        .write(true)
        .open(dir.path().join(name_of(identity)))
        .expect("there");
    let time = SystemTime::now() - Duration::from_secs(seconds);
    file.set_modified(time).expect("mine");
}

fn list(dir: &CacheDir) -> Vec<CacheDirEntry> {
    dir.list().expect("lists")
}

/// Which of the identities have a file.
fn left(dir: &CacheDir, identities: &str) -> String {
    identities
        .chars()
        .filter(|identity| dir.path().join(name_of(&identity.to_string())).exists())
        .collect()
}

fn with_budget(path: &Path, max_bytes: u64) -> CacheDir {
    let options = CacheDirOptions::new().with_max_bytes(max_bytes);
    options.open(path).expect("opens")
}

fn bytes(dir: &CacheDir) -> u64 {
    list(dir).iter().map(|entry| entry.bytes_on_disk).sum()
}

#[test]
fn the_least_recently_used_files_go_first_and_no_more_than_must() {
    let folder = Folder::new();
    let dir = CacheDir::open(folder.path()).expect("opens");
    for identity in ["a", "b", "c", "d"] {
        fill(&dir, identity, BLOCKS);
    }
    for (identity, seconds) in [("a", 300), ("b", 400), ("c", 100), ("d", 200)] {
        age(&dir, identity, seconds);
    }
    let whole = bytes(&dir);
    let trimmed = dir.trim().expect("no budget");
    assert_eq!((trimmed.deleted_files, trimmed.bytes_on_disk), (0, whole));

    let trimmed = with_budget(folder.path(), whole).trim().expect("trims");
    assert_eq!((trimmed.deleted_files, trimmed.files), (0, 4));
    let trimmed = with_budget(folder.path(), whole - 1).trim().expect("trims");
    assert_eq!((trimmed.deleted_files, trimmed.files), (1, 3));
    assert_eq!(trimmed.deleted_bytes + trimmed.bytes_on_disk, whole);
    assert_eq!(left(&dir, "abcd"), "acd");

    // To be opened is to be used, and so is to be closed.
    let one = whole / 4;
    let (_, reader) = open(&dir, "a");
    age(&dir, "a", 500);
    drop(reader);
    with_budget(folder.path(), one).trim().expect("trims");
    assert_eq!(left(&dir, "abcd"), "a");
    let file = dir.path().join(name_of("a"));
    age(&dir, "a", 500);
    let _open = open(&dir, "a");
    let used = fs::metadata(file).expect("there").modified();
    let age = SystemTime::now().duration_since(used.expect("a time"));
    assert!(age.is_ok_and(|age| age < Duration::from_secs(400)));
}

#[test]
fn opening_a_file_trims_the_others_to_the_budget() {
    let folder = Folder::new();
    let dir = CacheDir::open(folder.path()).expect("opens");
    for identity in ["a", "b", "c"] {
        fill(&dir, identity, BLOCKS);
    }
    age(&dir, "b", 100);
    let budget = bytes(&dir) * 2 / 3;
    let bounded = with_budget(folder.path(), budget);
    assert_eq!(bounded.max_bytes(), Some(budget));
    // The one that is opened is not among them, however old it is.
    let (source, reader) = open(&bounded, "b");
    let after = left(&dir, "abc");
    assert!(after == "bc" || after == "ab", "{after}");
    assert_eq!(read_byte(&reader, 3), b'b');
    assert_eq!(source.fetched_blocks(), 0);
}

#[test]
fn a_file_that_is_open_is_deleted_by_nothing_with_a_reader_or_without() {
    let folder = Folder::new();
    let dir = with_budget(folder.path(), 0);
    let mut child = Child::start();
    child.tell(&format!("dir {}", folder.path().display()));
    for (holder, with_reader) in [(0, false), (0, true), (1, false), (1, true)] {
        fill(&CacheDir::open(folder.path()).expect("opens"), "a", BLOCKS);
        let source = Source::new("a", b'a');
        let mut mine = None;
        if holder == 0 {
            let cache = dir.cache_for(&*source).expect("opens");
            if with_reader {
                let reader = finish(CachedBlockReader::new(source.clone(), cache));
                mine = Some((None, Some(reader.expect("opens"))));
            } else {
                mine = Some((Some(cache), None));
            }
        } else {
            assert_eq!(child.tell("cache a"), "opened");
            if with_reader {
                assert_eq!(child.tell("reader a"), "Serving");
            }
        }
        let trimmed = dir.trim().expect("trims");
        assert_eq!((trimmed.deleted_files, trimmed.files), (0, 1));
        assert!(trimmed.bytes_on_disk > 0 && trimmed.failed.is_empty());
        let cleared = dir.clear().expect("clears");
        assert_eq!((cleared.deleted_files, cleared.files), (0, 1));
        let error = dir.remove(&name_of("a")).expect_err("it is in use");
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        assert!(list(&dir)[0].is_in_use);

        // What was in it is still there.
        let (source, reader) = open(&dir, "a");
        assert_eq!(read_byte(&reader, 5), b'a');
        assert_eq!(source.fetched_blocks(), 0);
        drop((reader, mine));
        if holder == 1 {
            assert_eq!(child.tell("close"), "closed");
            child.tell(&format!("dir {}", folder.path().display()));
        }
        assert!(!list(&dir)[0].is_in_use);
        assert_eq!(dir.trim().expect("trims").deleted_files, 1);
        assert_eq!(list(&dir).len(), 0);
        assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), 0);
    }
}

#[test]
fn a_file_of_a_process_that_was_killed_is_free() {
    let folder = Folder::new();
    let dir = CacheDir::open(folder.path()).expect("opens");
    let mut child = Child::start();
    child.tell(&format!("dir {}", folder.path().display()));
    assert_eq!(child.tell("cache a"), "opened");
    assert_eq!(child.tell("reader a"), "Serving");
    assert_eq!(child.tell("warm"), "warm");
    child.kill();
    assert!(!list(&dir)[0].is_in_use);
    let (source, reader) = open(&dir, "a");
    finish(reader.ensure_cached(0, BLOCKS, ReadContext::FOREGROUND)).expect("compares");
    assert_eq!(source.fetched_blocks(), 0, "what it cached is served");
    drop(reader);
    assert!(dir.remove(&name_of("a")).expect("nobody has it"));
    assert!(!dir.remove(&name_of("a")).expect("it has gone"));
}

#[test]
fn a_reader_that_came_by_the_path_keeps_its_file_too() {
    let folder = Folder::new();
    let dir = CacheDir::open(folder.path()).expect("opens");
    let source = Source::new("a", b'a');
    let cache = FileCacheOps::open_in(folder.path(), &*source).expect("opens");
    let reader = finish(CachedBlockReader::new(source.clone(), cache)).expect("opens");
    assert_eq!(reader.state(), CacheState::Serving);
    assert!(list(&dir)[0].is_in_use);
    let cleared = dir.clear().expect("clears");
    assert_eq!((cleared.deleted_files, cleared.files), (0, 1));
    assert_eq!(read_byte(&reader, 0), b'a');
    drop(reader);
    assert!(!list(&dir)[0].is_in_use);
    assert_eq!(dir.clear().expect("clears").deleted_files, 1);
}

#[test]
fn two_sources_and_two_versions_of_one_have_a_file_each() {
    let folder = Folder::new();
    let dir = CacheDir::open(folder.path()).expect("opens");
    let (_, old) = open(&dir, "1 of a");
    let (_, new) = open(&dir, "2 of a");
    let (_, again) = open(&dir, "1 of a");
    for lba in 0..BLOCKS {
        assert_eq!(read_byte(&old, lba), b'1');
        assert_eq!(read_byte(&new, lba), b'2');
        assert_eq!(read_byte(&again, lba), b'1');
    }
    assert_eq!(list(&dir).len(), 2);
}

#[test]
fn the_list_says_what_is_there() {
    let folder = Folder::new();
    let dir = CacheDir::open(folder.path()).expect("opens");
    fill(&dir, "a", 5);
    fill(&dir, "b", BLOCKS);
    fs::write(
        dir.path().join(name_of("c")),
        b"GIBBLX!\x07, of another time",
    )
    .expect("writes");
    let _open = open(&dir, "b");
    let files = list(&dir);
    assert!(files.is_sorted_by(|a, b| a.name < b.name));
    let of = |identity: &str| {
        let name = name_of(identity);
        files
            .iter()
            .find(|entry| entry.name == name)
            .expect("listed")
    };
    for (identity, blocks, is_in_use) in [("a", 5, false), ("b", BLOCKS, true)] {
        let entry = of(identity);
        let Ok(Inspection::Cache(info)) = &entry.inspection else {
            panic!("{entry:?}");
        };
        assert_eq!(info.identity, format!("cached:({identity})"));
        assert_eq!((info.block_size, info.total_blocks), (BLOCK, BLOCKS));
        assert_eq!(info.valid_blocks, blocks);
        assert_eq!(entry.format_version(), Some(2));
        assert_eq!(entry.is_in_use, is_in_use);
        assert_eq!(entry.path, dir.path().join(&entry.name));
        let found = fs::metadata(&entry.path).expect("there");
        assert_eq!(entry.last_use, found.modified().ok());
        assert!(entry.bytes_on_disk >= blocks * u64::from(BLOCK));
        #[cfg(unix)]
        {
            let blocks = std::os::unix::fs::MetadataExt::blocks(&found);
            assert_eq!(entry.bytes_on_disk, blocks * 512);
        }
    }
    // `ls` shows both as equally long.
    #[cfg(unix)]
    assert!(of("a").bytes_on_disk < of("b").bytes_on_disk / 2);
    let entry = of("c");
    assert!(matches!(entry.inspection, Ok(Inspection::OtherVersion(7))));
    assert_eq!(entry.format_version(), Some(7));
    assert_eq!(files.len(), 3);
}

#[test]
fn what_is_none_of_ours_is_not_listed_not_counted_and_not_deleted() {
    let folder = Folder::new();
    let dir = with_budget(folder.path(), 0);
    let (foreign, strange) = (name_of("foreign"), name_of("folder"));
    let precious = vec![7; 1 << 20];
    let mut kept: Vec<PathBuf> = Vec::new();
    for name in [
        "notes.txt",
        "x.gibblox",
        &foreign,
        &format!("{foreign}.use"),
        &format!("{foreign}.bak"),
        &foreign.to_uppercase(),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, &precious).expect("writes");
        kept.push(path);
    }
    fs::create_dir(dir.path().join(&strange)).expect("creates");
    fill(&CacheDir::open(folder.path()).expect("opens"), "a", 1);

    assert_eq!(list(&dir).len(), 1);
    let error = dir.remove(&foreign).expect_err("it is no cache");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    for name in ["", "notes.txt", "..", "x.gibblox", &format!("../{foreign}")] {
        let error = dir.remove(name).expect_err("no name of a cache");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    let error = dir.cache_for(&*Source::new("foreign", 0));
    assert_eq!(
        error.map(drop).expect_err("no cache").kind(),
        ErrorKind::InvalidData
    );
    let trimmed = dir.trim().expect("trims");
    assert_eq!((trimmed.deleted_files, trimmed.files), (1, 0));
    assert!(trimmed.failed.is_empty(), "{trimmed:?}");
    assert_eq!(dir.clear().expect("clears").deleted_files, 0);
    for path in kept {
        assert!(
            fs::read(&path).is_ok_and(|bytes| bytes == precious),
            "{path:?}"
        );
    }
    assert!(dir.path().join(strange).is_dir());

    // A large one does not push out what is ours.
    fill(&CacheDir::open(folder.path()).expect("opens"), "a", 1);
    let bounded = with_budget(folder.path(), 1 << 20);
    assert_eq!(bounded.trim().expect("trims").deleted_files, 0);
    assert_eq!(list(&dir).len(), 1);
}

#[cfg(unix)]
#[test]
fn links_are_not_followed_and_not_deleted() {
    use std::os::unix::fs::symlink;

    let folder = Folder::new();
    let elsewhere = CacheDir::open(folder.join("elsewhere")).expect("opens");
    fill(&elsewhere, "a", BLOCKS);
    let target = elsewhere.path().join(name_of("a"));
    let dir = with_budget(&folder.join("images"), 0);
    let (link, lock) = (dir.path().join(name_of("a")), name_of("b") + ".use");
    symlink(&target, &link).expect("linked");
    symlink(folder.join("nothing"), dir.path().join(&lock)).expect("linked");

    assert_eq!(list(&dir).len(), 0);
    dir.cache_for(&*Source::new("a", 0))
        .map(drop)
        .expect_err("a link");
    dir.cache_for(&*Source::new("b", 0))
        .map(drop)
        .expect_err("a link");
    assert!(!folder.join("nothing").exists());
    dir.remove(&name_of("a")).expect_err("a link");
    dir.trim().expect("trims");
    assert_eq!(dir.clear().expect("clears").deleted_files, 0);
    assert!(fs::symlink_metadata(&link).is_ok_and(|found| found.is_symlink()));
    assert!(fs::symlink_metadata(dir.path().join(lock)).is_ok_and(|found| found.is_symlink()));
    assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 2);
    assert!(target.exists());
}

#[cfg(unix)]
#[test]
fn a_directory_that_is_made_is_for_its_owner_alone_and_so_is_what_is_put_there() {
    use std::os::unix::fs::PermissionsExt;

    let folder = Folder::new();
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    let dir = CacheDir::open(folder.join("a/b")).expect("opens");
    assert_eq!(mode(&folder.join("a")), 0o700);
    assert_eq!(mode(dir.path()), 0o700);
    let _open = open(&dir, "a");
    for entry in fs::read_dir(dir.path()).expect("reads") {
        assert_eq!(mode(&entry.expect("an entry").path()), 0o600);
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).expect("mine");
    CacheDir::open(dir.path()).expect("opens");
    assert_eq!(mode(dir.path()), 0o750);
    fs::write(folder.join("file"), b"").expect("writes");
    CacheDir::open(folder.join("file")).expect_err("no directory");
}

#[cfg(unix)]
const OTHER: &str = "GIBBLOX_TEST_OTHER_DIR";

/// Root is let in everywhere, so the other user is the one that looks.
#[cfg(unix)]
#[test]
fn a_file_of_another_user_is_an_error_for_itself_alone() {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    let folder = Folder::new();
    let dir = CacheDir::open(folder.path()).expect("opens");
    fill(&dir, "a", BLOCKS);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("mine");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(std::env::current_exe().expect("a path"))
        .args(["--exact", "dir::uses_it_as_another_user", "--nocapture"])
        .env(OTHER, folder.path())
        .output();
    match output {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("it came through") => {}
        Ok(output) if output.status.code() == Some(101) => panic!("{output:?}"),
        _ => println!("skipped: this test binary cannot be run as another user here"),
    }
    assert!(dir.path().join(name_of("a")).exists());
}

#[cfg(unix)]
#[test]
fn uses_it_as_another_user() {
    let Some(path) = std::env::var_os(OTHER) else {
        return;
    };
    let dir = with_budget(path.as_ref(), 0);
    fill(&dir, "b", BLOCKS);
    let files = list(&dir);
    assert_eq!(files.len(), 2);
    for entry in files {
        let is_mine = entry.name == name_of("b");
        assert_eq!(entry.inspection.is_ok(), is_mine);
    }
    let trimmed = dir.trim().expect("trims");
    assert_eq!((trimmed.deleted_files, trimmed.files), (1, 0));
    assert_eq!(trimmed.failed.len(), 1);
    assert_eq!(trimmed.failed[0].0, name_of("a"));
    assert_eq!(trimmed.failed[0].1.kind(), ErrorKind::PermissionDenied);
    println!("it came through");
}

#[cfg(unix)]
#[test]
fn a_directory_on_a_read_only_file_system_serves_what_it_has() {
    use std::process::Command;

    let folder = Folder::new();
    let dir = with_budget(folder.path(), 0);
    fill(&CacheDir::open(folder.path()).expect("opens"), "a", BLOCKS);
    // A plain copy of a directory has no lock files.
    fs::remove_file(dir.path().join(name_of("a") + ".use")).expect("removes");
    let run = |program: &str, args: &[&str]| {
        Command::new(program)
            .args(args)
            .arg(folder.path())
            .status()
            .is_ok_and(|status| status.success())
    };
    let place = folder.path().to_str().expect("text");
    if !run("mount", &["--bind", place]) {
        println!("skipped: mounting is not allowed here");
        return;
    }
    let read_only = run("mount", &["-o", "remount,bind,ro"]);
    let outcome = std::panic::catch_unwind(|| {
        let (source, reader) = open(&dir, "a");
        let byte = read_byte(&reader, 9);
        let trimmed = dir.trim().expect("looks");
        (
            byte,
            source.fetched_blocks(),
            trimmed.failed.len(),
            list(&dir).len(),
        )
    });
    assert!(run("umount", &[]) && read_only);
    assert_eq!(outcome.expect("no panic"), (b'a', 0, 1, 1));
}
