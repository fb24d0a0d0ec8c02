//! Rebuilding: what was dropped stays dropped, and what failed once is done anew.

use super::medium::Forgetting;
use super::{FILES, Findings, cached_blocks};
use crate::support::files::Regions;
use crate::support::powercut::PowerCut;
use crate::support::{Backend, Source, finish, open, open_with, read};
use gibblox_cache::{CacheConfig, CachedBlockReader, VerifyPolicy};
use std::sync::Arc;

const BLOCK: u32 = 512;
const BLOCKS: u64 = 9;

/// How a file stops being one of its source.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// This byte of the header is damaged.
    Damaged(usize),
    /// Another source used it, with an identity that is as long, and cached so many blocks.
    Used(u64),
    /// The magic is zeros, as after a rebuild that was left in the middle.
    Blank,
}

/// What is left of `file` after it.
fn lose(file: &[u8], source: &Source, loss: Loss) -> Vec<u8> {
    let backend = Backend::with_bytes(file.to_vec());
    match loss {
        Loss::Damaged(byte) => backend.edit(|bytes| bytes[byte] ^= 0x20),
        Loss::Blank => backend.edit(|bytes| bytes[..28].fill(0)),
        Loss::Used(blocks) => {
            let other = Source::with_identity(77, BLOCK, BLOCKS, "source-6");
            assert_eq!(source.blocks(), other.blocks());
            let reader = open(&other, &backend);
            if blocks > 0 {
                finish(read(&reader, 0, blocks)).expect("a well source");
            }
        }
    }
    backend.bytes()
}

#[test]
fn what_was_dropped_stays_dropped_after_a_rebuild_and_a_power_cut() {
    let mut findings = Findings::default();
    for loss in [
        Loss::Damaged(0),
        Loss::Damaged(9),
        Loss::Damaged(29),
        Loss::Used(0),
        Loss::Used(1),
        Loss::Used(BLOCKS),
        Loss::Blank,
    ] {
        for whole in [true, false] {
            for fetched in 0..BLOCKS {
                let source = Source::new(5, BLOCK, BLOCKS);
                let file = super::file_of_ours(&source, 0..BLOCKS);
                let disk = PowerCut::new(lose(&file, &source, loss));
                let config = CacheConfig::new();
                let opening =
                    CachedBlockReader::open(Arc::clone(&source), Arc::clone(&disk), config);
                let reader = finish(opening).expect("a well source");
                source.renew();
                let dropped = if whole {
                    finish(reader.clear())
                } else {
                    finish(reader.invalidate(fetched, 1))
                };
                dropped.expect("a well disk");
                finish(read(&reader, fetched, 1)).expect("a well source");
                let cut = disk.cuts().pop().expect("the end");
                let mut images = 0;
                let mut old = 0;
                let few_enough = cut.every_image(1 << 12, |image| {
                    images += 1;
                    let reader = open(&source, &Backend::with_bytes(image.to_vec()));
                    let bytes = finish(read(&reader, fetched, 1)).expect("a well source");
                    old +=
                        usize::from(source.generations(fetched, &bytes) != [source.generation()]);
                });
                assert!(few_enough, "too many images");
                findings.check(old == 0, || {
                    format!("{loss:?}, all dropped {whole}, block {fetched}: old bytes in {old} of {images} images")
                });
            }
        }
    }
    findings.end();
}

#[test]
fn a_rebuild_that_is_tried_again_after_a_flush_that_forgot_leaves_no_bit_of_another_source() {
    let mut findings = Findings::default();
    for (file, file_of) in FILES {
        for verify in super::POLICIES {
            for failed in 0..6 {
                for reads in [0, 1, 3] {
                    let source = Source::new(5, BLOCK, 64);
                    let other = Source::with_identity(77, BLOCK, 64, "source-6");
                    let disk = Forgetting::new(file_of(&other, 0..64));
                    disk.fail(move |number| number == failed);
                    let config = CacheConfig::new().with_verify(verify);
                    let opening =
                        CachedBlockReader::open(Arc::clone(&source), Arc::clone(&disk), config);
                    let reader = finish(opening).expect("a well source");
                    // Each miss tries again. What is stored is flushed.
                    for lba in 0..reads {
                        finish(read(&reader, lba, 1)).expect("a well source");
                    }
                    let _ = finish(reader.flush_cache());
                    let _ = finish(reader.flush_cache());
                    let regions = Regions::of(&source);
                    let mut falsely_valid = 0;
                    let mut wrong = 0;
                    for image in disk.images() {
                        let is_ours = image.starts_with(b"GIBBLX!\x02");
                        let backend = Backend::with_bytes(image.clone());
                        let again = open_with(&source, &backend, config);
                        let valid = cached_blocks(&again);
                        if is_ours && image.len() >= regions.end {
                            falsely_valid = falsely_valid.max(valid.saturating_sub(reads));
                        }
                        let bytes = finish(read(&again, 0, 64)).expect("a well source");
                        // Without a comparison a bit may stand for zeros; it never stands for bytes of another source.
                        let theirs = other.bytes(0, 64);
                        let blocks = bytes
                            .chunks(BLOCK as usize)
                            .zip(theirs.chunks(BLOCK as usize));
                        wrong += blocks.filter(|(got, theirs)| got == theirs).count();
                        if verify != VerifyPolicy::Never {
                            source.assert_bytes(0, &bytes);
                        }
                    }
                    findings.check(falsely_valid == 0 && wrong == 0, || {
                        format!(
                            "over a file of {file}, {verify:?}, flush {failed} forgets, {reads} reads: \
                             {falsely_valid} falsely valid, {wrong} of the other source served"
                        )
                    });
                }
            }
        }
    }
    findings.end();
}
