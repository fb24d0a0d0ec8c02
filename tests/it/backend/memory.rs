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

#[test]
fn neighbours_that_overwrite_one_piece_do_not_lose_each_other() {
    const PART: usize = 3000;
    for round in 0..300 {
        let memory = Arc::new(MemoryCacheOps::new());
        finish(memory.write_at(77, &[9; 3 * PART])).unwrap();
        let barrier = Arc::new(Barrier::new(2));
        let write = |part: usize| {
            let (memory, barrier) = (Arc::clone(&memory), Arc::clone(&barrier));
            move || {
                barrier.wait();
                let data = vec![part as u8; PART];
                finish(memory.write_at(77 + (part * PART) as u64, &data)).unwrap();
            }
        };
        let other = thread::spawn(write(2));
        write(0)();
        other.join().unwrap();
        let bytes = bytes_at(&memory, 77, 3 * PART);
        for (part, expected) in [(0, 0), (1, 9), (2, 2)] {
            let part = &bytes[part * PART..][..PART];
            assert!(part.iter().all(|byte| *byte == expected), "round {round}");
        }
    }
}

#[test]
fn writes_that_overlapped_at_the_same_time_do_not_hide_what_is_written_later() {
    const UNIT: usize = 4096;
    for round in 0..300 {
        let memory = Arc::new(MemoryCacheOps::new());
        let barrier = Arc::new(Barrier::new(2));
        let write = |part: usize| {
            let (memory, barrier) = (Arc::clone(&memory), Arc::clone(&barrier));
            move || {
                let data = vec![part as u8; 2 * UNIT];
                barrier.wait();
                finish(memory.write_at((part * UNIT) as u64, &data)).unwrap();
            }
        };
        let other = thread::spawn(write(1));
        write(0)();
        other.join().unwrap();
        finish(memory.write_at(UNIT as u64, &[9; UNIT])).unwrap();
        let bytes = bytes_at(&memory, 0, 3 * UNIT);
        for (part, expected) in [(0, 0), (1, 9), (2, 1)] {
            let part = &bytes[part * UNIT..][..UNIT];
            assert!(part.iter().all(|byte| *byte == expected), "round {round}");
        }
        let bytes = bytes_at(&memory, 0, 2 * UNIT);
        assert!(bytes[UNIT..].iter().all(|byte| *byte == 9), "round {round}");
    }
}

#[test]
fn the_same_bytes_again_change_nothing_and_other_bytes_are_seen() {
    let memory = MemoryCacheOps::new();
    let mut expected: Vec<u8> = (0..300_000_u32).map(|index| (index % 251) as u8).collect();
    finish(memory.write_at(1001, &expected)).unwrap();
    finish(memory.write_at(1001 + 70_000, &expected[70_000..200_000])).unwrap();
    assert!(bytes_at(&memory, 1001, 300_000) == expected);
    for at in [0, 4095, 123_456, 299_999] {
        expected[at] ^= 0xFF;
        finish(memory.write_at(1001 + at as u64, &expected[at..=at])).unwrap();
        assert!(bytes_at(&memory, 1001, 300_000) == expected, "at {at}");
    }
}
