//! A file that is neither empty nor a cache file is not touched.

use crate::support::{Folder, Source, finish};
use gibblox_cache::{CachedBlockReader, FileCacheOps, FileCacheOptions};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

fn refuses(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("written");
    let error = FileCacheOps::open(path).expect_err("it is not a cache file");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.to_string().contains("is not a cache file"), "{error}");
    let error = FileCacheOptions::new().with_read_only(true).open(path);
    assert_eq!(
        error.map(drop).expect_err("nor to read").kind(),
        ErrorKind::InvalidData
    );
    assert!(fs::read(path).expect("read") == content, "it was touched");
}

#[test]
fn images_that_begin_with_zeros_are_left_alone() {
    let folder = Folder::new();
    let path = folder.join("victim.img");
    let image = |magic: &[u8], at: usize| {
        let mut image = vec![0; 64 << 10];
        image[at..at + magic.len()].copy_from_slice(magic);
        image[50_000..].fill(7);
        image
    };
    // ext4, EROFS, ISO 9660, btrfs, a partition table.
    refuses(&path, &image(&[0x53, 0xEF], 1080));
    refuses(&path, &image(&[0xE2, 0xE1, 0xF5, 0xE0], 1024));
    refuses(&path, &image(b"\x01CD001", 32_768));
    refuses(&path, &image(b"_BHRfS_M", 0x1_0040 - 4096));
    refuses(&path, &image(&[0x55, 0xAA], 510));
}

#[cfg(unix)]
#[test]
fn an_image_that_mkfs_made_is_left_alone() {
    let folder = Folder::new();
    let path = folder.join("ext4.img");
    fs::File::create(&path)
        .and_then(|file| file.set_len(4 << 20))
        .expect("created");
    let made = std::process::Command::new("mkfs.ext4")
        .arg("-q")
        .arg(&path)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: there is no mkfs.ext4 here");
        return;
    }
    let image = fs::read(&path).expect("read");
    refuses(&path, &image);
}

#[test]
fn a_blank_disk_is_left_alone_with_its_length() {
    let folder = Folder::new();
    let path = folder.join("blank.img");
    for len in [1, 8, 36, 512, 1 << 20] {
        refuses(&path, &vec![0; len]);
    }
}

#[test]
fn text_is_left_alone() {
    let folder = Folder::new();
    for content in [
        &b"x"[..],
        b"#!/bin/sh\n",
        b"GIBBLX",
        b"gibblx!\x02 and so on",
    ] {
        refuses(&folder.join("notes.txt"), content);
    }
}

#[test]
fn a_file_that_becomes_another_one_while_it_is_open_is_left_alone() {
    let folder = Folder::new();
    let path = folder.join("cache");
    let file = FileCacheOps::open(&path).expect("a new file");
    let image = vec![9; 10_000];
    fs::write(&path, &image).expect("written");
    let reader = CachedBlockReader::new(Source::new("a", 1), file);
    let reader = finish(reader).expect("a healthy source opens");
    finish(reader.ensure_cached(0, 1, gibblox_core::ReadContext::FOREGROUND))
        .expect_err("no cache");
    assert!(fs::read(&path).expect("read") == image);
}

#[test]
fn an_empty_file_and_every_step_of_a_rebuild_are_taken() {
    let folder = Folder::new();
    let path = folder.join("cache");
    fs::write(&path, b"").expect("written");
    drop(FileCacheOps::open(&path).expect("an empty file"));
    drop(FileCacheOps::open(&path).expect("one that was opened and not used"));

    let open = |identity| {
        let file = FileCacheOps::open(&path).expect("a cache file");
        finish(CachedBlockReader::new(Source::new(identity, 1), file)).expect("opens")
    };
    drop(open("a source with a long name"));
    // The magic is overwritten, and then the process dies.
    let mut content = fs::read(&path).expect("read");
    content[..8].fill(0);
    fs::write(&path, &content).expect("written");
    drop(FileCacheOps::open(&path).expect("an interrupted rebuild"));
    drop(open("a"));
    drop(FileCacheOps::open(&path).expect("a cache file"));
}
