//! Holes for zeros.

use crate::support::{Folder, finish};
use gibblox_cache::{CacheOps, FileCacheOps};

#[test]
fn zeros_are_a_hole_or_are_refused_and_the_bytes_beside_them_stay() {
    let folder = Folder::new();
    let file = FileCacheOps::open(folder.join("cache")).expect("opens");
    let len = 1 << 20;
    finish(file.write_at(0, &vec![0xAB; len])).expect("written");
    // Neither end is where a page ends.
    let (start, end) = (4097, 900_001);
    let punched = finish(file.write_zeros(start as u64, (end - start) as u64)).expect("no error");
    assert_eq!(
        punched,
        cfg!(target_os = "linux"),
        "the temporary directory has holes"
    );
    let mut bytes = vec![1; len];
    assert_eq!(finish(file.read_at(0, &mut bytes)).expect("read"), len);
    let wanted = if punched { 0 } else { 0xAB };
    assert!(bytes[..start].iter().all(|byte| *byte == 0xAB));
    assert!(bytes[start..end].iter().all(|byte| *byte == wanted));
    assert!(bytes[end..].iter().all(|byte| *byte == 0xAB));
    // Past the end they would have to make the file longer.
    assert!(!finish(file.write_zeros(len as u64 - 1, 2)).expect("no error"));
    assert!(!finish(file.write_zeros(u64::MAX, 2)).expect("no error"));
    assert_eq!(finish(file.read_at(len as u64, &mut [0])).expect("read"), 0);
    assert!(finish(file.write_zeros(7, 0)).is_ok());
}

#[cfg(target_os = "linux")]
#[test]
fn a_hole_gives_its_room_back() {
    use std::os::unix::fs::MetadataExt;
    let folder = Folder::new();
    let path = folder.join("cache");
    let file = FileCacheOps::open(&path).expect("opens");
    finish(file.write_at(0, &vec![0xAB; 1 << 20])).expect("written");
    finish(file.flush()).expect("flushed");
    let taken = || std::fs::metadata(&path).expect("there").blocks() * 512;
    let before = taken();
    assert!(finish(file.write_zeros(0, 1 << 20)).expect("no error"));
    assert!(
        before >= 1 << 20 && taken() < 64 << 10,
        "{before} bytes, then {}",
        taken()
    );
}
