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

fn publish(validity: &Validity, run: Run) -> Published {
    validity.reserve(run).expect("memory for a chunk");
    validity.publish(run, run, validity.epoch())
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
        assert_eq!(publish(&validity, *run), Published::Trusted(run.blocks()));
        assert_eq!(publish(&validity, *run), Published::Trusted(0));
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
    let before = validity.epoch();
    publish(&validity, run);
    validity.distrust_all();
    assert!(!validity.is_trusted(run));
    assert_eq!(validity.count_valid(run), 1);
    // What was written before the flush that failed is not trusted when it is published after it.
    assert_eq!(validity.publish(run, run, before), Published::Untrusted(0));
    assert!(!validity.is_trusted(run));
    validity.trust(run, validity.epoch());
    assert!(validity.is_trusted(run));
    validity.drop_trusted();
    assert_eq!(validity.valid_blocks(), 0);
    validity.trust(run, validity.epoch());
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

/// What is unasked now.
fn unasked(validity: &Validity, run: Run) -> u64 {
    let words = validity.unasked.get();
    let count = |place: Place| {
        words
            .map_or(0, |words| words.at(place) & place.mask)
            .count_ones()
    };
    places(run).map(|place| u64::from(count(place))).sum()
}

/// Publishes `run`, of which only `asked` was asked for.
fn publish_around(validity: &Validity, run: Run, asked: Run) {
    validity.reserve(run).expect("memory for a chunk");
    let published = validity.publish(run, asked, validity.epoch());
    assert_eq!(published, Published::Trusted(run.blocks()));
}

fn take(validity: &Validity, run: Run) -> u64 {
    let before = validity.changes().expect("nothing changes");
    validity.take_unasked(run, before, true)
}

#[test]
fn what_nobody_asked_for_is_trusted_when_it_is_first_used_and_counted_once() {
    let runs = runs();
    for (index, run) in runs.iter().enumerate() {
        // Some part of it was asked for.
        let asked = run.from(run.start() + run.blocks() / 3).expect("not empty");
        let asked = asked.first(1 + index as u64 % 70);
        let validity = validity();
        publish_around(&validity, *run, asked);
        assert_eq!(validity.count_valid(*run), run.blocks());
        assert!(validity.is_trusted(asked));
        let outside = run.blocks() - asked.blocks();
        assert_eq!(unasked(&validity, *run), outside);
        assert_eq!(validity.is_trusted(*run), outside == 0);

        // Trusting does not take away that nobody asked for it.
        validity.trust(*run, validity.epoch());
        assert_eq!(validity.is_trusted(*run), outside == 0);
        assert_eq!(take(&validity, asked), 0);
        let first = run.first(1 + run.blocks() / 2);
        let rest = run.from(first.end());
        let of_first = take(&validity, first);
        assert!(validity.is_trusted(first));
        let of_rest = rest.map_or(0, |rest| take(&validity, rest));
        assert_eq!(of_first + of_rest, outside);
        assert!(validity.is_trusted(*run));
        assert_eq!(take(&validity, *run), 0, "once");
    }
}

#[test]
fn what_nobody_asked_for_is_not_trusted_after_a_failed_flush_nor_when_it_was_dropped() {
    let (run, asked) = (Run::block(3).until(9), Run::block(5));
    let distrusted = validity();
    publish_around(&distrusted, run, asked);
    let before = distrusted.epoch();
    distrusted.distrust_all();
    assert_eq!((unasked(&distrusted, run), take(&distrusted, run)), (0, 0));
    assert!(!distrusted.is_trusted(Run::block(3)));
    assert_eq!(distrusted.count_valid(run), run.blocks());
    // What was written before the flush that failed does not come to be trusted by its use either.
    distrusted.invalidate(run);
    let published = distrusted.publish(run, asked, before);
    assert_eq!(published, Published::Untrusted(run.blocks()));
    assert_eq!((unasked(&distrusted, run), take(&distrusted, run)), (0, 0));

    let dropped = validity();
    publish_around(&dropped, run, asked);
    assert_eq!(dropped.invalidate(Run::block(3)), 1);
    assert_eq!(unasked(&dropped, run), run.blocks() - 2);
    dropped.drop_trusted();
    assert_eq!((dropped.valid_blocks(), unasked(&dropped, run)), (0, 0));

    let cleared = validity();
    publish_around(&cleared, run, asked);
    cleared.clear();
    assert_eq!((cleared.valid_blocks(), unasked(&cleared, run)), (0, 0));
}

#[test]
fn a_use_that_was_disturbed_is_counted_but_not_trusted() {
    let (run, asked, used) = (Run::block(3).until(9), Run::block(5), Run::block(7));
    for (comparable, valid) in [(true, 1), (false, 0)] {
        let validity = validity();
        publish_around(&validity, run, asked);
        let before = validity.changes().expect("nothing changes");
        validity.invalidate(Run::block(100));
        assert_eq!(validity.take_unasked(used, before, comparable), 1);
        assert!(!validity.is_trusted(used));
        assert_eq!(validity.count_valid(used), valid);
        assert_eq!(take(&validity, used), 0, "once");
    }
}

#[test]
fn unasked_bits_take_memory_only_where_there_are_some() {
    let validity = Validity::new(1 << 24).expect("a directory");
    publish(&validity, Run::block(1 << 23));
    validity.distrust_all();
    assert!(validity.unasked.get().is_none());
    publish_around(&validity, Run::block(7).until(9), Run::block(7));
    assert_eq!(validity.unasked.get().map(Words::chunks), Some(1));
}
