//! `MemoryCacheOps` over large devices and from several threads. The contract suite runs it through everything else.

use crate::support::{Rng, Source, finish, read};
use gibblox_cache::{CacheOps, CachedBlockReader, MemoryCacheOps};
use gibblox_core::BlockReader;
use std::sync::{Arc, Barrier};
use std::thread;

const TIB: u64 = 1 << 40;

fn bytes_at(memory: &MemoryCacheOps, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0x5A; len];
    let count = finish(memory.read_at(offset, &mut bytes)).unwrap();
    bytes.truncate(count);
    bytes
}

#[test]
fn offsets_of_terabytes_are_offsets_like_others() {
    let memory = MemoryCacheOps::new();
    finish(memory.set_len(8 * TIB)).unwrap();
    for offset in [0, TIB - 3, 4 * TIB, 8 * TIB - 6] {
        finish(memory.write_at(offset, b"abcdef")).unwrap();
    }
    for offset in [0, TIB - 3, 4 * TIB, 8 * TIB - 6] {
        assert_eq!(bytes_at(&memory, offset, 6), b"abcdef", "at {offset}");
    }
    assert_eq!(bytes_at(&memory, 4 * TIB - 2, 10), b"\0\0abcdef\0\0");
    assert_eq!(bytes_at(&memory, 8 * TIB - 2, 10), b"ef", "the end");
    assert_eq!(bytes_at(&memory, 5 * TIB, 3), [0; 3], "a hole");
    finish(memory.set_len(4 * TIB + 3)).unwrap();
    finish(memory.set_len(8 * TIB)).unwrap();
    assert_eq!(bytes_at(&memory, 4 * TIB, 6), b"abc\0\0\0", "cut off");
    assert_eq!(bytes_at(&memory, 8 * TIB - 6, 6), [0; 6], "gone");
}

#[test]
fn it_answers_at_once() {
    let memory = MemoryCacheOps::new();
    memory.write_now(10, b"abc").expect("at once").unwrap();
    let mut bytes = [0; 3];
    let read = memory.read_now(10, &mut bytes).expect("at once");
    assert_eq!((read.unwrap(), &bytes), (3, b"abc"));
}

#[test]
fn it_is_a_plain_array_under_random_work() {
    let mut rng = Rng::new(15);
    let memory = MemoryCacheOps::new();
    let mut plain: Vec<u8> = Vec::new();
    for step in 0..3000_u32 {
        let offset = rng.below(300_000) as usize;
        let most = 1 << rng.below(17);
        let len = rng.below(most) as usize;
        match rng.below(20) {
            0 => {
                finish(memory.set_len(offset as u64)).unwrap();
                plain.resize(offset, 0);
            }
            1..8 if len > 0 => {
                let data = vec![step as u8 | 1; len];
                finish(memory.write_at(offset as u64, &data)).unwrap();
                plain.resize(plain.len().max(offset + len), 0);
                plain[offset..offset + len].copy_from_slice(&data);
            }
            _ => {
                let start = plain.len().min(offset);
                let expected = &plain[start..plain.len().min(offset + len)];
                let read = bytes_at(&memory, offset as u64, len);
                assert!(read == expected, "step {step}: {len} from {offset}");
            }
        }
    }
}

#[test]
fn a_device_of_terabytes_can_be_wrapped_and_read_at_both_ends() {
    let source = Source::new(15, 1 << 20, 4 << 20);
    let opening = CachedBlockReader::new(Arc::clone(&source), MemoryCacheOps::new());
    let reader = finish(opening).unwrap();
    assert_eq!(finish(reader.total_blocks()).unwrap(), 4 << 20);
    for lba in [0, (4 << 20) - 1, 0, (4 << 20) - 1] {
        let bytes = finish(read(&reader, lba, 1)).unwrap();
        source.assert_bytes(lba, &bytes);
    }
    assert_eq!(source.reads().len(), 2);
}

#[test]
fn several_threads_read_and_write_their_parts() {
    const THREADS: usize = 4;
    const PART: u64 = 100_000;
    let memory = MemoryCacheOps::new();
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for part in 0..THREADS as u64 {
            let (memory, start) = (&memory, &start);
            scope.spawn(move || {
                start.wait();
                let mut rng = Rng::new(part);
                let mut mine = vec![0; PART as usize];
                for step in 0..300_u32 {
                    let at = rng.below(PART - 5000);
                    let len = rng.below(5000) as usize;
                    let here = at as usize..at as usize + len;
                    mine[here.clone()].fill(step as u8);
                    finish(memory.write_at(part * PART + at, &mine[here.clone()])).unwrap();
                    assert!(bytes_at(memory, part * PART + at, len) == mine[here]);
                }
            });
        }
    });
}
