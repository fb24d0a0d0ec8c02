//! Permissions, links, and what is no regular file.

use crate::support::{Folder, Source, finish};
use gibblox_cache::{CacheOps, CachedBlockReader, FileCacheOps, FileCacheOptions};
use gibblox_core::{BlockReader, ReadContext};
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

#[test]
fn a_new_file_is_for_its_owner_alone_and_an_old_one_stays_as_it_is() {
    let folder = Folder::new();
    let path = folder.join("cache");
    drop(FileCacheOps::open(&path).expect("a new file"));
    let mode = || fs::metadata(&path).expect("there").permissions().mode() & 0o7777;
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("mine");
    drop(FileCacheOps::open(&path).expect("an old file"));
    assert_eq!(mode(), 0o640);
}

#[test]
fn a_link_is_followed_to_a_file_and_nothing_is_created_through_one() {
    let folder = Folder::new();
    let (link, target) = (folder.join("link"), folder.join("target"));
    symlink(&target, &link).expect("linked");
    let error = FileCacheOps::open(&link).expect_err("a link to nothing");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(!target.exists(), "it was created through the link");

    drop(FileCacheOps::open(&target).expect("a new file"));
    let file = FileCacheOps::open(&link).expect("a link to a cache file");
    assert_eq!(file.path(), target.canonicalize().expect("there"));

    // A file of the same kind as before, but what it holds is not a cache.
    fs::write(&target, b"precious").expect("written");
    FileCacheOps::open(&link).expect_err("not a cache file");
    assert_eq!(fs::read(&target).expect("there"), b"precious");
}

#[test]
fn a_renewed_file_replaces_what_the_link_leads_to_and_not_the_link() {
    let folder = Folder::new();
    let (link, target) = (folder.join("link"), folder.join("target"));
    drop(FileCacheOps::open(&target).expect("a new file"));
    symlink(&target, &link).expect("linked");
    let before = fs::metadata(&target).expect("there").ino();
    let file = FileCacheOps::open(&link).expect("a link to a cache file");
    assert!(finish(file.renew()).expect("renews"));
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert_ne!(fs::metadata(&link).expect("there").ino(), before);
}

#[test]
fn in_a_directory_a_link_is_refused() {
    let folder = Folder::new();
    let source = Source::new("a", 1);
    let victim = folder.join("victim");
    drop(FileCacheOps::open(&victim).expect("a cache file"));
    let name = FileCacheOps::name_of(&*source).expect("a name");
    symlink(&victim, folder.join(&name)).expect("linked");
    FileCacheOps::open_in(folder.path(), &*source).expect_err("the name can be guessed");
}

#[test]
fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let folder = Folder::new();
    let pipe = folder.join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("coreutils").success());
    for path in [pipe.as_path(), "/dev/null".as_ref()] {
        let error = FileCacheOps::open(path).expect_err("no offsets");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    FileCacheOps::open(folder.path()).expect_err("a directory");
    FileCacheOps::open(folder.join("no/such/directory")).expect_err("no directory");
    FileCacheOps::open("").expect_err("no name");
}

#[test]
fn a_file_opened_for_reading_serves_what_it_has_and_takes_nothing() {
    let folder = Folder::new();
    let path = folder.join("cache");
    let read_only = FileCacheOptions::new().with_read_only(true);
    assert_eq!(
        read_only
            .open(&path)
            .map(drop)
            .expect_err("not there")
            .kind(),
        ErrorKind::NotFound
    );
    let source = Source::new("a", 1);
    {
        let file = FileCacheOps::open(&path).expect("a new file");
        let reader = finish(CachedBlockReader::new(source.clone(), file)).expect("opens");
        finish(reader.ensure_cached(0, 8, ReadContext::FOREGROUND)).expect("caches");
    }
    let before = fs::read(&path).expect("read");
    let file = read_only.open(&path).expect("a cache file");
    assert!(file.is_read_only());
    finish(file.write_at(0, b"x")).expect_err("for reading");
    finish(file.set_len(1)).expect_err("for reading");
    assert!(!finish(file.renew()).expect("no error"));
    finish(file.flush()).expect("nothing to flush");

    let fetched = source.fetched_blocks();
    let reader = finish(CachedBlockReader::new(source.clone(), file)).expect("opens");
    let mut buf = vec![0; 16 * 4096];
    for _ in 0..100 {
        finish(reader.read_blocks(0, &mut buf, ReadContext::FOREGROUND)).expect("reads");
        assert!(buf.iter().all(|byte| *byte == 1));
    }
    assert_eq!(finish(reader.get_stats()).cached_blocks, 8);
    assert_eq!(
        reader.counters().backend_failures(),
        0,
        "nothing was tried that cannot be"
    );
    assert_eq!(
        source.fetched_blocks() - fetched,
        100 * 8,
        "what is cached is served"
    );
    assert!(fs::read(&path).expect("read") == before);
}

/// Root may write everything, so what cannot be written is a file system here.
#[test]
fn a_file_on_a_read_only_file_system_is_opened_for_reading() {
    let folder = Folder::new();
    let path = folder.join("cache");
    drop(FileCacheOps::open(&path).expect("a new file"));
    let run = |program: &str, args: &[&str]| {
        let folder = folder.path().to_str().expect("text");
        Command::new(program)
            .args(args)
            .arg(folder)
            .status()
            .is_ok_and(|status| status.success())
    };
    let place = folder.path().to_str().expect("text");
    if !run("mount", &["--bind", place]) {
        println!("skipped: mounting is not allowed here");
        return;
    }
    let read_only = run("mount", &["-o", "remount,bind,ro"]);
    let opened = FileCacheOps::open(&path).map(|file| file.is_read_only());
    let absent = FileCacheOps::open(folder.join("other")).map(drop);
    assert!(run("umount", &[]) && read_only);
    assert!(opened.expect("opened"));
    assert_eq!(
        absent.expect_err("nothing can be created").kind(),
        ErrorKind::ReadOnlyFilesystem
    );
}

/// Another user's file: not to be written, or not even to be read.
#[test]
fn a_file_of_another_user_is_opened_as_far_as_that_user_lets_it() {
    let folder = Folder::new();
    let path = folder.join("cache");
    drop(FileCacheOps::open(&path).expect("a new file"));
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("mine");
    let attempt = |mode| {
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("mine");
        let child = std::env::current_exe().expect("a path");
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(child)
            .args(["--exact", "access::opens_as_another_user", "--nocapture"])
            .env(OTHER, &path)
            .output();
        output
            .ok()
            .filter(|output| output.status.success())
            .map(|output| {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.split("it said: ").nth(1).map_or(text.clone(), |said| {
                    said.lines().next().unwrap_or("").into()
                })
            })
    };
    let Some(said) = attempt(0o644) else {
        println!("skipped: this test binary cannot be run as another user here");
        return;
    };
    assert_eq!(said, "read only");
    assert_eq!(attempt(0o600).as_deref(), Some("PermissionDenied"));
    assert_eq!(attempt(0o666).as_deref(), Some("read and write"));
}

const OTHER: &str = "GIBBLOX_TEST_OTHER";

#[test]
fn opens_as_another_user() {
    let Some(path) = std::env::var_os(OTHER) else {
        return;
    };
    match FileCacheOps::open(path) {
        Ok(file) if file.is_read_only() => println!("it said: read only"),
        Ok(_) => println!("it said: read and write"),
        Err(error) => println!("it said: {:?}", error.kind()),
    }
}
