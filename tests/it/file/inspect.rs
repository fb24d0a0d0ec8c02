//! What a file says of itself, to somebody who has no source: any bytes are told for what they are, and only read.

use crate::support::backend::{Fault, Op};
use crate::support::files::{Regions, file_of_ours, file_of_published, identity};
use crate::support::poll::drop_after;
use crate::support::{Backend, Immediate, Source, finish, for_seeds, open};
use gibblox_cache::{
    CacheFileInfo, CacheOps, HeaderDamage, Inspection, cached_reader_identity_string,
};
use gibblox_core::GibbloxErrorKind;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

const BLOCK: u32 = 64;
const BLOCKS: u64 = 11;

fn source() -> Arc<Source> {
    Source::with_identity(7, BLOCK, BLOCKS, "inspected")
}

/// What is on a backend that holds `bytes`; it is only read.
#[track_caller]
fn inspect(bytes: &[u8]) -> Inspection {
    let backend = Backend::with_bytes(bytes.to_vec());
    let found = finish(gibblox_cache::inspect(&backend)).expect("a healthy backend");
    let calls = backend.calls();
    assert!(calls.iter().all(|call| call.op == Op::Read), "{calls:?}");
    assert!(calls.len() <= 64 + 5, "{} calls", calls.len());
    let immediate = finish(gibblox_cache::inspect(&Immediate(Arc::clone(&backend))));
    assert_eq!(immediate.expect("a healthy backend"), found);
    assert_eq!(backend.bytes(), bytes);
    found
}

#[track_caller]
fn info(bytes: &[u8]) -> CacheFileInfo {
    match inspect(bytes) {
        Inspection::Cache(info) => info,
        other => panic!("no cache file: {other:?}"),
    }
}

fn with(file: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    file
}

/// `file` with the header check that belongs to its other header bytes, where it has one.
fn with_header_check(file: &[u8], bitmap: usize) -> Vec<u8> {
    let mut hasher = Xxh3::new();
    hasher.update(&file[..9]);
    hasher.update(&file[12..bitmap]);
    with(file, 9, &hasher.digest().to_le_bytes()[..3])
}

#[test]
fn a_file_of_either_crate_is_told_as_its_reader_knows_it() {
    for_seeds(100, |rng| {
        let total = rng.below(300);
        let block_size = 1 << rng.below(10);
        let name_len = 1 + rng.index(3000);
        let source = Source::with_identity(7, block_size, total, &identity(name_len, "i"));
        let cached: Vec<_> = (0..total).filter(|_| rng.chance(40)).collect();
        let published = file_of_published(&source, cached.iter().copied());
        for file in [file_of_ours(&source, cached.iter().copied()), published] {
            let info = info(&file);
            assert_eq!(info.identity, cached_reader_identity_string(&source));
            assert_eq!((info.block_size, info.total_blocks), (block_size, total));
            assert_eq!(info.valid_blocks, cached.len() as u64);
            assert_eq!(info.present_blocks, total);
            assert!(info.is_complete());
            assert_eq!(info.has_checksums, file[8] == 1);
        }
    });
}

#[test]
fn a_long_bitmap_is_counted_in_pieces() {
    // More than 128 KiB of bits.
    let blocks = (1 << 20) + 77;
    let source = Source::new(7, 1, blocks);
    let backend = Backend::new();
    let reader = open(&source, &backend);
    for (lba, run) in [(0, 5), ((1 << 20) - 3, 9), (blocks - 1, 1)] {
        finish(crate::support::read(&reader, lba, run)).unwrap();
    }
    drop(reader);
    assert_eq!(info(&backend.bytes()).valid_blocks, 15);
}

#[test]
fn where_a_file_ends_is_told_and_what_is_missing_does_not_count() {
    let source = source();
    let regions = Regions::of(&source);
    for file in [
        file_of_ours(&source, 0..BLOCKS),
        file_of_published(&source, 0..BLOCKS),
    ] {
        for len in 0..file.len() {
            let found = inspect(&file[..len]);
            match len {
                0 => assert_eq!(found, Inspection::Blank),
                _ if len < regions.bitmap => {
                    assert_eq!(found, Inspection::Damaged(HeaderDamage::Truncated), "{len}");
                }
                _ => {
                    let info = info(&file[..len]);
                    assert!(!info.is_complete());
                    let reader = open(&source, &Backend::with_bytes(file[..len].to_vec()));
                    let cached = finish(reader.get_stats()).cached_blocks;
                    assert_eq!(info.valid_blocks, cached, "as an opener finds it");
                    assert_eq!(info.present_blocks, cached);
                }
            }
        }
        let longer = [file, vec![0xFF; 99]].concat();
        assert!(info(&longer).is_complete());
    }
}

#[test]
fn stray_bits_do_not_count() {
    let source = source();
    let regions = Regions::of(&source);
    let file = file_of_ours(&source, [1, 9]);
    for stray in 0..32 {
        let last = file[regions.bitmap + 1] | stray << 3;
        let info = info(&with(&file, regions.bitmap + 1, &[last]));
        assert_eq!(info.valid_blocks, 2);
    }
}

#[test]
fn each_header_byte_may_have_any_value_and_is_told_for_what_it_is() {
    let source = source();
    let bitmap = Regions::of(&source).bitmap;
    for file in [
        file_of_ours(&source, 0..3),
        file_of_published(&source, 0..3),
    ] {
        let has_checksums = file[8] == 1;
        let intact = inspect(&file);
        for offset in 0..bitmap {
            for value in 0..=u8::MAX {
                let damaged = with(&file, offset, &[value]);
                let found = inspect(&damaged);
                let expected = match offset {
                    _ if damaged == file => intact.clone(),
                    0..7 => Inspection::NotACache,
                    7 => Inspection::OtherVersion(value),
                    8..12 => Inspection::Damaged(HeaderDamage::Check),
                    // Other numbers may be impossible before they are compared, or be those of a header without a
                    // check.
                    _ => {
                        assert_ne!(found, intact, "byte {offset} is {value}");
                        let is_cache = matches!(found, Inspection::Cache(_));
                        assert!(!(is_cache && has_checksums), "byte {offset} is {value}");
                        let may_be = is_cache
                            || matches!(
                                found,
                                Inspection::Damaged(_) | Inspection::LongIdentity(_)
                            );
                        assert!(may_be, "byte {offset} is {value}: {found:?}");
                        continue;
                    }
                };
                assert_eq!(found, expected, "byte {offset} is {value}");
            }
        }
    }
}

#[test]
fn impossible_headers_are_told_even_where_the_check_fits() {
    let source = source();
    let bitmap = Regions::of(&source).bitmap;
    let ours = file_of_ours(&source, 0..3);
    let published = file_of_published(&source, 0..3);
    let of_both = |offset, bytes: &[u8]| {
        let checked = with_header_check(&with(&ours, offset, bytes), bitmap);
        [inspect(&checked), inspect(&with(&published, offset, bytes))]
    };
    for size in [0, 3, 65, u32::MAX] {
        let found = of_both(12, &u32::to_le_bytes(size));
        assert_eq!(
            found,
            [const { Inspection::Damaged(HeaderDamage::Geometry) }; 2]
        );
    }
    for total in [1 << 58, 1 << 63, u64::MAX] {
        let found = of_both(16, &u64::to_le_bytes(total));
        assert_eq!(
            found,
            [const { Inspection::Damaged(HeaderDamage::Geometry) }; 2]
        );
    }
    for len in [(64 << 10) + 1, 1 << 31, u32::MAX] {
        let found = of_both(24, &u32::to_le_bytes(len));
        assert_eq!(
            found,
            [const { Inspection::LongIdentity }; 2].map(|is| is(len))
        );
    }
    let found = of_both(24, &u32::to_le_bytes(64 << 10));
    assert_eq!(
        found,
        [const { Inspection::Damaged(HeaderDamage::Truncated) }; 2]
    );
    let found = of_both(bitmap - 1, &[0xFF]);
    assert_eq!(
        found,
        [const { Inspection::Damaged(HeaderDamage::Identity) }; 2]
    );
}

#[test]
fn what_is_no_cache_file_is_told_apart() {
    assert_eq!(inspect(&[]), Inspection::Blank);
    for zeros in [1, 7, 8, 28, 5000] {
        assert_eq!(inspect(&vec![0; zeros]), Inspection::Blank);
        let mut rebuilding = vec![0; zeros];
        rebuilding.extend([0; 8]);
        rebuilding.extend(&file_of_ours(&source(), 0..3)[8..]);
        assert_eq!(inspect(&rebuilding), Inspection::Blank);
    }
    for other in [
        &b"\x7FELF"[..],
        b"GIBBLY!\x02",
        b"G\0",
        &[0, 0, 0, 0, 0, 0, 0, 1],
    ] {
        assert_eq!(inspect(other), Inspection::NotACache);
    }
    assert_eq!(inspect(b"GIBBLX!\x01"), Inspection::OtherVersion(1));
    assert_eq!(
        inspect(b"GIBBLX!"),
        Inspection::Damaged(HeaderDamage::Truncated)
    );
}

#[test]
fn any_bytes_are_safe() {
    let source = source();
    let file = file_of_ours(&source, 0..5);
    let published = file_of_published(&source, 0..5);
    for_seeds(3000, |rng| {
        let mut bytes = match rng.below(3) {
            0 => (0..rng.index(300)).map(|_| rng.next() as u8).collect(),
            1 => file.clone(),
            _ => published.clone(),
        };
        for _ in 0..rng.below(8) {
            if !bytes.is_empty() {
                let at = rng.index(bytes.len().min(60));
                bytes[at] = rng.next() as u8;
            }
        }
        if rng.chance(30) {
            bytes.truncate(rng.index(bytes.len() + 1));
        }
        if rng.chance(50) && bytes.len() > 46 {
            bytes = with_header_check(&bytes, 28 + usize::from(bytes[24]).min(bytes.len() - 28));
        }
        inspect(&bytes);
    });
}

#[test]
fn a_sick_backend_is_its_own_error_and_no_finding() {
    let file = file_of_ours(&source(), 0..5);
    let calls = {
        let backend = Backend::with_bytes(file.clone());
        finish(gibblox_cache::inspect(&backend)).unwrap();
        backend.calls().len()
    };
    assert_eq!(calls, 4, "prefix, identity, last byte, bitmap");
    for index in 0..calls {
        let backend = Backend::with_bytes(file.clone());
        backend.fail(move |call| (call.index == index).then_some(Fault::Error));
        let error = finish(gibblox_cache::inspect(&backend)).unwrap_err();
        assert_eq!(error.message(), Some("backend: cannot read"));
    }
}

/// A backend that claims to have read more than it was asked for.
struct Boastful;

#[async_trait::async_trait]
impl CacheOps for Boastful {
    async fn read_at(&self, _: u64, out: &mut [u8]) -> gibblox_core::GibbloxResult<usize> {
        Ok(out.len() + 1)
    }

    async fn write_at(&self, _: u64, _: &[u8]) -> gibblox_core::GibbloxResult<()> {
        panic!("nothing is written");
    }

    async fn set_len(&self, _: u64) -> gibblox_core::GibbloxResult<()> {
        panic!("nothing is written");
    }

    async fn flush(&self) -> gibblox_core::GibbloxResult<()> {
        panic!("nothing is written");
    }
}

#[test]
fn a_count_beyond_the_buffer_is_an_error() {
    let error = finish(gibblox_cache::inspect(&Boastful)).unwrap_err();
    assert_eq!(error.kind(), GibbloxErrorKind::Io);
    let erased: &dyn CacheOps = &Boastful;
    finish(gibblox_cache::inspect(erased)).unwrap_err();
}

#[test]
fn inspecting_can_be_dropped_anywhere() {
    let file = file_of_ours(&source(), 0..5);
    for polls in 0.. {
        let backend = Backend::with_bytes(file.clone());
        backend.gate.once();
        let done = drop_after(gibblox_cache::inspect(&backend), polls);
        backend.gate.open();
        assert_eq!(
            finish(gibblox_cache::inspect(&backend)).unwrap(),
            inspect(&file)
        );
        if done {
            assert!(polls > 3, "no await was the last");
            break;
        }
    }
}
