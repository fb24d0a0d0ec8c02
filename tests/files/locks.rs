//! What [`CacheOps::lock`] and [`CacheOps::renew`] say between objects and between processes.

use crate::support::child::Child;
use crate::support::{Folder, finish};
use gibblox_cache::{CacheOps, FileCacheOps, LockMode, LockOutcome};
#[cfg(unix)]
use std::fs;

fn lock(file: &FileCacheOps, mode: LockMode) -> LockOutcome {
    finish(file.lock(mode))
}

#[test]
fn two_objects_on_one_path_exclude_each_other() {
    let folder = Folder::new();
    let open = || FileCacheOps::open(folder.join("cache")).expect("opens");
    let (first, second) = (open(), open());
    assert_eq!(lock(&first, LockMode::Sole), LockOutcome::Granted);
    assert_eq!(lock(&second, LockMode::Shared), LockOutcome::Refused);
    assert_eq!(lock(&second, LockMode::Sole), LockOutcome::Refused);
    assert_eq!(lock(&first, LockMode::Shared), LockOutcome::Granted);
    assert_eq!(lock(&second, LockMode::Sole), LockOutcome::Refused);
    assert_eq!(lock(&second, LockMode::Shared), LockOutcome::Granted);
    assert_eq!(lock(&first, LockMode::Sole), LockOutcome::Refused);
    // Who is refused holds nothing, so two that both want more do not stand in each other's way for ever.
    assert_eq!(lock(&second, LockMode::Sole), LockOutcome::Granted);
    drop(second);
    assert_eq!(lock(&first, LockMode::Sole), LockOutcome::Granted);
}

#[test]
fn a_lock_ends_with_its_process_however_that_ends() {
    let folder = Folder::new();
    let path = folder.join("cache");
    for mode in ["shared", "sole"] {
        let file = FileCacheOps::open(&path).expect("opens");
        let mut child = Child::start();
        assert_eq!(child.open(&path), "opened");
        assert_eq!(child.tell(mode), "Granted");
        assert_eq!(lock(&file, LockMode::Sole), LockOutcome::Refused);
        child.kill();
        assert_eq!(lock(&file, LockMode::Sole), LockOutcome::Granted);
        assert_eq!(lock(&file, LockMode::Shared), LockOutcome::Granted);
        let mut child = Child::start();
        assert_eq!(child.open(&path), "opened");
        assert_eq!(child.tell("sole"), "Refused");
        assert_eq!(child.tell("shared"), "Granted");
        assert_eq!(child.tell("close"), "closed");
        assert_eq!(lock(&file, LockMode::Sole), LockOutcome::Granted);
    }
}

#[test]
fn an_object_that_only_lies_there_stands_in_nobodys_way() {
    let folder = Folder::new();
    let open = || FileCacheOps::open(folder.join("cache")).expect("opens");
    let _idle = open();
    assert_eq!(lock(&open(), LockMode::Sole), LockOutcome::Granted);
}

#[cfg(unix)]
mod renewing {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_renewed_file_is_fresh_and_the_other_process_keeps_what_it_has() {
        let folder = Folder::new();
        let path = folder.join("cache");
        let mut child = Child::start();
        assert_eq!(child.open(&path), "opened");
        assert_eq!(child.tell("write GIBBLX! the child's"), "Ok(())");
        assert_eq!(child.tell("shared"), "Granted");

        let file = FileCacheOps::open(&path).expect("opens");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mine");
        assert!(finish(file.renew()).expect("renews"));
        assert_eq!(lock(&file, LockMode::Sole), LockOutcome::Granted);
        finish(file.write_at(0, b"GIBBLX! the parent's")).expect("written");
        assert!(child.tell("read").starts_with("GIBBLX! the child's"));
        assert!(
            fs::read(&path)
                .expect("there")
                .starts_with(b"GIBBLX! the parent's")
        );
        assert_eq!(
            fs::metadata(&path).expect("there").permissions().mode() & 0o7777,
            0o600
        );
        let names = fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(names, 1, "nothing else is left");
    }

    #[test]
    fn who_comes_late_moves_to_the_renewed_file_and_makes_no_third() {
        let folder = Folder::new();
        let path = folder.join("cache");
        let open = || FileCacheOps::open(&path).expect("opens");
        let (old, first, second, third) = (open(), open(), open(), open());
        assert_eq!(lock(&old, LockMode::Shared), LockOutcome::Granted);
        assert!(finish(first.renew()).expect("renews"));
        finish(first.write_at(0, b"GIBBLX! first")).expect("written");
        let inode = fs::metadata(&path).expect("there").ino();
        assert_eq!(lock(&first, LockMode::Shared), LockOutcome::Granted);

        assert!(finish(second.renew()).expect("moves"));
        assert_eq!(lock(&second, LockMode::Sole), LockOutcome::Refused);
        assert_eq!(lock(&third, LockMode::Shared), LockOutcome::Granted);
        for file in [&second, &third] {
            let mut bytes = [0; 13];
            finish(file.read_at(0, &mut bytes)).expect("reads");
            assert_eq!(&bytes, b"GIBBLX! first");
        }
        assert_eq!(fs::metadata(&path).expect("there").ino(), inode);
    }

    #[test]
    fn a_file_that_was_deleted_is_created_anew_for_the_next_reader() {
        let folder = Folder::new();
        let path = folder.join("cache");
        let file = FileCacheOps::open(&path).expect("opens");
        fs::remove_file(&path).expect("mine");
        assert_eq!(lock(&file, LockMode::Sole), LockOutcome::Granted);
        finish(file.write_at(0, b"GIBBLX! new")).expect("written");
        assert!(
            fs::read(&path)
                .expect("there again")
                .starts_with(b"GIBBLX! new")
        );
    }

    #[test]
    fn what_took_the_name_and_is_no_cache_is_left_alone() {
        let folder = Folder::new();
        let (path, image) = (folder.join("cache"), folder.join("image"));
        let file = FileCacheOps::open(&path).expect("opens");
        fs::write(&image, vec![0; 5000]).expect("written");
        fs::rename(&image, &path).expect("mine");
        assert_eq!(lock(&file, LockMode::Sole), LockOutcome::Refused);
        assert!(finish(file.renew()).is_err());
        assert!(fs::read(&path).expect("there") == vec![0; 5000]);
    }

    #[test]
    fn a_process_that_is_killed_while_it_renews_is_no_obstacle() {
        let folder = Folder::new();
        let path = folder.join("cache");
        for _ in 0..20 {
            let mut child = Child::start();
            assert_eq!(child.open(&path), "opened");
            assert_eq!(child.tell("renew again and again"), "true");
            child.kill();
            let file = FileCacheOps::open(&path).expect("opens");
            assert!(finish(file.renew()).expect("renews"));
            assert_eq!(lock(&file, LockMode::Sole), LockOutcome::Granted);
            let names = fs::read_dir(folder.path()).expect("a folder").count();
            assert_eq!(names, 1, "what the child left is gone");
        }
    }
}
