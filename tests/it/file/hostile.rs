//! Hostile files: whatever a file holds, it is used or rebuilt, and every block is the source's.

use crate::support::files::{Regions, check_file, file_of_ours, file_of_published};
use crate::support::{Backend, Source, check_read, finish, for_seeds, open, open_with};
use core::ops::Range;
use gibblox_cache::{CacheConfig, VerifyPolicy};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// The corpus of the fuzz target runs as an ordinary test, too.
#[path = "../../fuzz/run.rs"]
mod run;

/// The source whose small files are damaged here: 11 blocks, so that the bitmap has stray bits.
fn source() -> Arc<Source> {
    Source::with_identity(7, 64, 11, "hostile")
}

/// Another source whose files have the same layout.
fn other_source() -> Arc<Source> {
    Source::with_identity(8, 64, 11, "unknown")
}

fn full(source: &Arc<Source>) -> Vec<u8> {
    file_of_ours(source, 0..source.blocks())
}

fn half(source: &Arc<Source>) -> Vec<u8> {
    file_of_ours(source, (0..source.blocks()).step_by(2))
}

fn full_of_published(source: &Arc<Source>) -> Vec<u8> {
    file_of_published(source, 0..source.blocks())
}

/// Files of either crate, all and some of their blocks cached.
fn files(source: &Arc<Source>) -> [Vec<u8>; 3] {
    [full(source), half(source), full_of_published(source)]
}

/// `file` with `bytes` at `offset`.
fn with(file: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    file
}

/// `file` with the header check that belongs to its other header bytes.
fn with_header_check(file: &[u8], source: &Arc<Source>) -> Vec<u8> {
    let mut hasher = Xxh3::new();
    hasher.update(&file[..9]);
    hasher.update(&file[12..Regions::of(source).bitmap]);
    with(file, 9, &hasher.digest().to_le_bytes()[..3])
}

#[test]
fn a_file_whose_header_has_another_value_in_any_byte_is_rebuilt() {
    let source = source();
    for file in [half(&source), full_of_published(&source)] {
        for offset in 0..Regions::of(&source).bitmap {
            for value in 0..=u8::MAX {
                let damaged = with(&file, offset, &[value]);
                if damaged != file {
                    let reader = open(&source, &Backend::with_bytes(damaged.clone()));
                    assert_eq!(
                        finish(reader.get_stats()).cached_blocks,
                        0,
                        "byte {offset} is {value}"
                    );
                }
                check_file(&damaged, &source);
            }
        }
    }
}

#[test]
fn each_header_byte_may_have_any_value_with_a_header_check_that_fits() {
    let source = source();
    let file = half(&source);
    for offset in (0..9).chain(12..Regions::of(&source).bitmap) {
        for value in [
            0,
            1,
            2,
            3,
            0x7F,
            0x80,
            0xFF,
            file[offset] ^ 1,
            file[offset] ^ 0x80,
        ] {
            let damaged = with(&file, offset, &[value]);
            check_file(&with_header_check(&damaged, &source), &source);
        }
    }
}

#[test]
fn each_header_field_may_be_extreme() {
    let source = source();
    for file in files(&source) {
        for size in [0, 1, 63, 65, 128, 1 << 31, u32::MAX] {
            let damaged = with(&file, 12, &u32::to_le_bytes(size));
            check_file(&damaged, &source);
            check_file(&with_header_check(&damaged, &source), &source);
        }
        for total in [0, 1, 10, 12, 1 << 32, 1 << 63, u64::MAX - 1, u64::MAX] {
            let damaged = with(&file, 16, &u64::to_le_bytes(total));
            check_file(&damaged, &source);
            check_file(&with_header_check(&damaged, &source), &source);
        }
        for len in [0, 1, 15, 17, 1 << 16, 1 << 31, u32::MAX] {
            let damaged = with(&file, 24, &u32::to_le_bytes(len));
            check_file(&damaged, &source);
            check_file(&with_header_check(&damaged, &source), &source);
        }
    }
}

#[test]
fn a_file_may_end_anywhere() {
    let source = source();
    for file in files(&source) {
        for len in 0..file.len() {
            check_file(&file[..len], &source);
        }
    }
}

#[test]
fn what_a_short_file_still_has_is_used() {
    let source = source();
    let regions = Regions::of(&source);
    let last_gone = regions.end - 8;
    for (file, len) in [
        (full(&source), last_gone),
        (full_of_published(&source), regions.checksums - 64),
    ] {
        let reader = open(&source, &Backend::with_bytes(file[..len].to_vec()));
        source.forget();
        check_read(&reader, &source, 0, source.blocks());
        assert_eq!(source.reads(), [(10, 1)], "only the last block is missing");
    }
}

#[test]
fn any_one_bit_of_our_file_may_be_flipped() {
    let source = source();
    for file in [full(&source), half(&source)] {
        for bit in 0..file.len() * 8 {
            check_file(
                &with(&file, bit / 8, &[file[bit / 8] ^ 1 << (bit % 8)]),
                &source,
            );
        }
    }
}

#[test]
fn a_flipped_bit_is_counted_and_costs_one_fetch() {
    let source = source();
    let file = full(&source);
    let regions = Regions::of(&source);
    for (offset, lba) in [(regions.data + 3 * 64, 3), (regions.checksums + 5 * 8, 5)] {
        let reader = open(
            &source,
            &Backend::with_bytes(with(&file, offset, &[!file[offset]])),
        );
        source.forget();
        check_read(&reader, &source, 0, source.blocks());
        assert_eq!(source.reads(), [(lba, 1)]);
        assert_eq!(reader.counters().checksum_mismatched_blocks, 1);
    }
}

#[test]
fn bits_of_blocks_that_were_never_written_do_not_count() {
    let source = source();
    let regions = Regions::of(&source);
    for file in [file_of_ours(&source, []), half(&source)] {
        for bits in 0..1 << 11_u16 {
            check_file(
                &with(&file, regions.bitmap, &u16::to_le_bytes(bits)),
                &source,
            );
        }
    }
}

#[test]
fn stray_bits_past_the_last_block_do_not_count() {
    let source = source();
    let regions = Regions::of(&source);
    let files = [full, half, full_of_published, |source: &_| {
        file_of_published(source, [0, 9])
    }];
    for (file, cached) in files
        .map(|file_of| file_of(&source))
        .iter()
        .zip([11, 6, 11, 2])
    {
        for stray in 0..32 {
            let damaged = with(
                file,
                regions.bitmap + 1,
                &[file[regions.bitmap + 1] | stray << 3],
            );
            let reader = open(&source, &Backend::with_bytes(damaged.clone()));
            assert_eq!(finish(reader.get_stats()).cached_blocks, cached);
            check_file(&damaged, &source);
        }
    }
}

#[test]
fn blocks_may_be_swapped_with_and_without_their_checksums() {
    let source = source();
    let file = full(&source);
    let regions = Regions::of(&source);
    let swap = |file: &[u8], at: usize, len: usize, a: usize, b: usize| {
        let (a, b) = (at + a * len, at + b * len);
        with(&with(file, a, &file[b..b + len]), b, &file[a..a + len])
    };
    for a in 0..11 {
        for b in 0..a {
            let blocks = swap(&file, regions.data, 64, a, b);
            check_file(&blocks, &source);
            check_file(&swap(&blocks, regions.checksums, 8, a, b), &source);
            check_file(&swap(&file, regions.checksums, 8, a, b), &source);
        }
    }
}

#[test]
fn the_file_of_another_source_may_be_spliced_in() {
    let (source, other) = (source(), other_source());
    let (file, foreign) = (full(&source), full(&other));
    assert_eq!(file.len(), foreign.len(), "both have the same layout");
    let Regions {
        bitmap,
        data,
        checksums,
        end,
    } = Regions::of(&source);
    let nothing = || 0..0;
    let splice = |part: Range<usize>, more: Range<usize>| {
        let mut spliced = file.clone();
        spliced[part.clone()].copy_from_slice(&foreign[part]);
        spliced[more.clone()].copy_from_slice(&foreign[more]);
        check_file(&spliced, &source);
        check_file(&spliced, &other);
    };
    splice(data..checksums, nothing());
    splice(checksums..end, nothing());
    splice(bitmap..end, nothing());
    splice(0..bitmap, nothing());
    for lba in 0..11 {
        let block = data + lba * 64..data + (lba + 1) * 64;
        let checksum = checksums + lba * 8..checksums + (lba + 1) * 8;
        splice(block.clone(), nothing());
        splice(checksum.clone(), nothing());
        splice(block, checksum);
    }
    for boundary in 0..=end {
        splice(0..boundary, nothing());
        splice(boundary..end, nothing());
    }
}

#[test]
fn a_file_of_any_length_may_hold_one_byte_value_only() {
    let source = source();
    let longest = Regions::of(&source).end + 70;
    for value in [0, 1, 0x47, 0xAA, 0xFF] {
        for len in 0..longest {
            check_file(&vec![value; len], &source);
        }
    }
}

#[test]
fn a_header_may_stand_in_front_of_anything() {
    let source = source();
    let regions = Regions::of(&source);
    for_seeds(500, |rng| {
        let mut file: Vec<u8> = (0..rng.index(2 * regions.end))
            .map(|_| rng.next() as u8)
            .collect();
        check_file(&file, &source);
        let header = &full(&source)[..regions.bitmap];
        file.splice(..header.len().min(file.len()), header.iter().copied());
        check_file(&file, &source);
    });
}

#[test]
fn any_damage_to_our_file_is_healed() {
    let (source, other) = (source(), other_source());
    let foreign = full(&other);
    for_seeds(2_000, |rng| {
        let mut file = if rng.chance(50) {
            full(&source)
        } else {
            half(&source)
        };
        for _ in 0..=rng.below(6) {
            let start = rng.index(file.len());
            let end = file.len().min(start + 1 + rng.index(200));
            match rng.below(7) {
                0 => file[start] ^= 1 << rng.below(8),
                1 => file[start..end].fill(0),
                2 => file[start..end].fill(rng.next() as u8),
                3 => drop(file.drain(start..end)),
                4 => drop(file.splice(start..start, vec![rng.next() as u8; end - start])),
                5 => {
                    let from = rng.index(file.len() - (end - start) + 1);
                    file.copy_within(from..from + end - start, start);
                }
                _ => {
                    let end = end.min(foreign.len()).max(start.min(foreign.len()));
                    file[start.min(foreign.len())..end]
                        .copy_from_slice(&foreign[start.min(foreign.len())..end]);
                }
            }
            if file.is_empty() {
                break;
            }
        }
        check_file(&file, &source);
        check_file(&file, &other);
    });
}

#[test]
fn a_file_may_go_on_behind_its_end() {
    let source = source();
    for file in files(&source) {
        for more in [1, 7, 8, 88, 512, 5_000] {
            for value in [0, 0xFF] {
                let mut longer = file.clone();
                longer.resize(file.len() + more, value);
                check_file(&longer, &source);
                let reader = open(&source, &Backend::with_bytes(longer));
                source.forget();
                let valid = finish(reader.get_stats()).cached_blocks;
                check_read(&reader, &source, 0, source.blocks());
                let fetched: usize = source.fetches().iter().sum();
                assert_eq!(
                    fetched as u64,
                    source.blocks() - valid,
                    "what is cached is used"
                );
            }
        }
    }
}

#[test]
fn a_file_may_shrink_under_a_reader() {
    let source = source();
    for file in files(&source) {
        for len in 0..=file.len() {
            for read_before in [false, true] {
                let backend = Backend::with_bytes(file.clone());
                let reader = open(&source, &backend);
                if read_before {
                    check_read(&reader, &source, 0, source.blocks());
                }
                backend.edit(|bytes| bytes.truncate(len));
                // From the end, so that what is fetched again makes the file long again, with a hole in it: neither
                // this process nor the next takes it for data.
                check_read(&reader, &source, source.blocks() - 1, 1);
                check_file(&backend.bytes(), &source);
                for lba in (0..source.blocks()).rev() {
                    check_read(&reader, &source, lba, 1);
                }
                check_read(&reader, &source, 0, source.blocks());
            }
        }
    }
}

#[test]
fn a_reader_that_compares_on_every_read_serves_right_bytes_whatever_becomes_of_its_file() {
    let (source, other) = (source(), other_source());
    let config = CacheConfig::new().with_verify(VerifyPolicy::OnEveryRead);
    for_seeds(300, |rng| {
        let backend = Backend::with_bytes(half(&source));
        let reader = open_with(&source, &backend, config);
        for _ in 0..8 {
            let at = rng.index(1_000);
            let damage = rng.below(6);
            let garbage = rng.next() as u8;
            backend.edit(|bytes| match damage {
                0 => bytes.truncate(at),
                1 => bytes.resize(bytes.len() + at, garbage),
                2 => bytes.fill(garbage),
                3 => bytes
                    .iter_mut()
                    .skip(at)
                    .take(100)
                    .for_each(|byte| *byte = garbage),
                4 => bytes.clear(),
                _ => *bytes = full(&other),
            });
            let (lba, blocks) = rng.run(source.blocks(), source.blocks());
            check_read(&reader, &source, lba, blocks);
        }
        check_file(&backend.bytes(), &source);
    });
}

#[test]
fn the_corpus_of_the_fuzz_target_runs_clean() {
    let corpus = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fuzz/corpus/open_and_run"
    );
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus is a directory") {
        let path = entry.expect("the corpus can be listed").path();
        println!("{}", path.display());
        run::open_and_run(&std::fs::read(path).expect("the input can be read"));
        inputs += 1;
    }
    assert!(inputs > 0, "the corpus is empty");
}

#[test]
fn any_input_of_the_fuzz_target_runs_clean() {
    for_seeds(300, |rng| {
        let input: Vec<u8> = (0..rng.index(600)).map(|_| rng.next() as u8).collect();
        run::open_and_run(&input);
    });
}
