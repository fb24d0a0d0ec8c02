use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use super::words::CHUNK_BLOCKS;
use super::*;

/// Across a chunk's end and a word's, and not a multiple of either.
const TOTAL: u64 = CHUNK_BLOCKS + 2 * WORD_BITS + 5;

/// The lbas around which something changes.
fn edges() -> Vec<u64> {
    [0, WORD_BITS, CHUNK_BLOCKS, CHUNK_BLOCKS + WORD_BITS, TOTAL]
        .into_iter()
        .flat_map(|edge| edge.saturating_sub(2)..=(edge + 2).min(TOTAL))
        .collect()
}

fn runs() -> Vec<Run> {
    let edges = edges();
    edges
        .iter()
        .flat_map(|start| edges.iter().filter_map(|end| Run::new(*start, *end)))
        .collect()
}

fn set(run: Run) -> impl Iterator<Item = u64> {
    run.start()..run.end()
}

fn validity() -> Validity {
    Validity::new(TOTAL).expect("memory for a small device")
}

const fn published(newly_blocks: u64, is_trusted: bool) -> Published {
    Published {
        newly_blocks,
        is_trusted,
    }
}

fn publish(validity: &Validity, run: Run) -> Published {
    validity
        .fill(run)
        .expect("memory for a chunk")
        .publish(Some(run))
}

/// Asks everything that there is to ask of `run`, and compares with the sets.
fn agree(validity: &Validity, valid: &BTreeSet<u64>, trusted: &BTreeSet<u64>, run: Run) {
    assert_eq!(
        validity.is_trusted(run),
        set(run).all(|lba| trusted.contains(&lba)),
        "{run:?}"
    );
    let count = valid.range(run.start()..run.end()).count() as u64;
    assert_eq!(validity.count_valid(run), count, "{run:?}");
    let (state, part) = validity.state_at(run);
    let first = valid.contains(&run.start());
    assert_eq!(state == State::Valid, first, "{run:?}");
    let end = set(run)
        .find(|lba| valid.contains(lba) != first)
        .unwrap_or(run.end());
    assert_eq!((part.start(), part.end()), (run.start(), end), "{run:?}");
}

#[test]
fn every_run_around_an_edge_agrees_with_a_set() {
    let runs = runs();
    for (index, run) in runs.iter().enumerate() {
        let validity = validity();
        assert_eq!(publish(&validity, *run), published(run.blocks(), true));
        // Filled once more, it is not valid meanwhile.
        assert_eq!(publish(&validity, *run), published(run.blocks(), true));
        let mut valid: BTreeSet<u64> = set(*run).collect();
        // Another run out of all of them, a different one for each.
        let other = runs[index * 7919 % runs.len()];
        let expected = set(other).filter(|lba| valid.contains(lba)).count() as u64;
        assert_eq!(validity.invalidate(other), expected);
        valid.retain(|lba| *lba < other.start() || *lba >= other.end());
        assert_eq!(validity.valid_blocks(), valid.len() as u64);
        for asked in runs.iter().skip(index % 5).step_by(5) {
            agree(&validity, &valid, &valid, *asked);
        }
    }
}

#[test]
fn the_bytes_of_the_file_come_back() {
    for run in runs() {
        let validity = validity();
        publish(&validity, run);
        let mut bytes = vec![0; usize::try_from(TOTAL.div_ceil(8)).expect("small")];
        validity.encode(0, None, &mut bytes);
        for lba in 0..TOTAL {
            let at = usize::try_from(lba / 8).expect("small");
            let bit = bytes[at] >> (lba % 8) & 1 == 1;
            assert_eq!(bit, lba >= run.start() && lba < run.end(), "{run:?} {lba}");
        }
        let loaded = self::validity();
        assert!(!loaded.load(0, &bytes, TOTAL).expect("memory"));
        let valid: BTreeSet<u64> = set(run).collect();
        agree(&loaded, &valid, &BTreeSet::new(), run);
        assert_eq!(loaded.valid_blocks(), run.blocks());

        // Any part of the bitmap is the same bytes, and a run on top is as if it were published.
        for first in 0..20.min(bytes.len()) {
            let mut part = vec![0xFF; 3];
            validity.encode(first as u64, None, &mut part);
            assert_eq!(part, bytes[first..first + 3]);
        }
        let empty = self::validity();
        let mut on_top = vec![0; bytes.len()];
        empty.encode(0, Some(run), &mut on_top);
        assert_eq!(on_top, bytes);
    }
}

#[test]
fn bits_behind_the_limit_do_not_count() {
    let all = vec![0xFF; usize::try_from(TOTAL.div_ceil(8)).expect("small")];
    for limit in edges() {
        let validity = validity();
        let ignored = validity.load(0, &all, limit).expect("memory");
        assert!(ignored, "there are stray bits behind the last block");
        assert_eq!(validity.valid_blocks(), limit);
    }
}

#[test]
fn trust_ends_with_a_failed_flush() {
    let run = Run::block(3);
    let validity = validity();
    publish(&validity, run);
    validity.distrust_all();
    assert!(!validity.is_trusted(run));
    assert_eq!(validity.count_valid(run), 1);
    // What was written before the flush that failed is not trusted when it is published after it.
    let filling = validity.fill(run).expect("memory for a chunk");
    validity.distrust_all();
    assert_eq!(filling.publish(Some(run)), published(1, false));
    assert!(!validity.is_trusted(run));
    // Nor is what was looked at before.
    let look = validity.look(run).expect("valid");
    validity.distrust_all();
    look.settle(&[], true);
    assert!(!validity.is_trusted(run));
    validity.look(run).expect("valid").settle(&[], true);
    assert!(validity.is_trusted(run));
    let look = validity.look(run).expect("valid");
    validity.drop_trusted();
    assert_eq!(validity.valid_blocks(), 0);
    look.settle(&[], true);
    assert!(
        !validity.is_trusted(run),
        "what is not valid is never trusted"
    );
}

#[test]
fn memory_follows_what_is_valid() {
    let validity = Validity::new(1 << 24).expect("a directory");
    publish(&validity, Run::block(1 << 23));
    assert_eq!((validity.valid.chunks(), validity.trusted.chunks()), (1, 1));
    let loaded = Validity::new(1 << 24).expect("a directory");
    loaded.load(1 << 20, &[1], u64::MAX).expect("memory");
    assert_eq!((loaded.valid.chunks(), loaded.trusted.chunks()), (1, 0));
    assert!(Validity::new(u64::MAX).is_err(), "an error, not an abort");
}

#[test]
fn what_no_reader_asked_for_is_valid_and_trusted_once_it_was_compared() {
    let runs = runs();
    for (index, run) in runs.iter().enumerate() {
        // Some part of it was asked for.
        let asked = run.from(run.start() + run.blocks() / 3).expect("not empty");
        let asked = asked.first(1 + index as u64 % 70);
        let validity = validity();
        let filling = validity.fill(*run).expect("memory for a chunk");
        let published = filling.publish(Some(asked));
        assert_eq!(published.newly_blocks, run.blocks());
        assert_eq!(validity.count_valid(*run), run.blocks());
        assert!(validity.is_trusted(asked));
        assert_eq!(validity.is_trusted(*run), asked == *run);
        let look = validity.look(*run).expect("valid");
        look.settle(&[], true);
        assert!(validity.is_trusted(*run));
    }
}

#[test]
fn a_look_trusts_what_matches_drops_what_does_not_if_that_is_certain_and_keeps_what_is_unread() {
    let run = Run::block(3).until(9);
    for is_certain in [false, true] {
        let validity = validity();
        publish(&validity, run);
        validity.distrust_all();
        let look = validity.look(run).expect("valid");
        assert!(!look.is_trusted() && !look.is_disturbed());
        let flaw = |run, is_wrong| Flaw { run, is_wrong };
        let wrong = Run::block(5).until(7);
        look.settle(&[flaw(Run::block(3), false), flaw(wrong, true)], is_certain);
        for lba in 3..9 {
            let is_wrong = [5, 6].contains(&lba);
            let block = Run::block(lba);
            assert_eq!(validity.is_trusted(block), lba != 3 && !is_wrong, "{lba}");
            let valid = u64::from(!is_wrong || !is_certain);
            assert_eq!(validity.count_valid(block), valid, "{lba}");
        }
    }
}

#[test]
fn a_look_or_a_sight_is_disturbed_by_any_loss() {
    let run = Run::block(3);
    let losses: [fn(&Validity); 4] = [
        |validity| _ = validity.invalidate(Run::block(100)),
        Validity::distrust_all,
        Validity::drop_trusted,
        |validity| _ = validity.fill(Run::block(3)),
    ];
    for loss in losses {
        let validity = validity();
        publish(&validity, run);
        let sight = validity.sight(run).expect("trusted");
        let look = validity.look(run).expect("valid");
        assert!(validity.is_still(sight) && !look.is_disturbed());
        loss(&validity);
        assert!(!validity.is_still(sight) && look.is_disturbed());
    }
    let validity = validity();
    publish(&validity, run);
    validity.begin_change();
    assert!(validity.sight(run).is_none());
    assert!(validity.look(run).is_some_and(|look| look.is_disturbed()));
    validity.end_change();
    assert!(validity.sight(run).is_some());
}
