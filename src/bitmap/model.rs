//! Every interleaving of two threads, explored by a model checker.

use alloc::sync::Arc;
use loom::thread;

use super::*;

fn shared() -> Arc<Validity> {
    let validity = Validity::new(4).expect("memory");
    validity.reserve(Run::block(0)).expect("memory");
    Arc::new(validity)
}

#[test]
fn what_was_written_before_a_failed_flush_is_never_left_trusted() {
    loom::model(|| {
        let validity = shared();
        let since = validity.epoch();
        let flusher = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || validity.distrust_all())
        };
        validity.publish(Run::block(0), Run::block(0), since);
        flusher.join().expect("no panic");
        assert!(!validity.is_trusted(Run::block(0)));
        assert_eq!(validity.valid_blocks(), 1);
    });
}

#[test]
fn nothing_is_left_trusted_but_not_valid() {
    loom::model(|| {
        let validity = shared();
        let block = Run::block(0);
        validity.publish(block, block, validity.epoch());
        validity.distrust_all();
        let dropper = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || validity.invalidate(block))
        };
        validity.trust(block, validity.epoch());
        dropper.join().expect("no panic");
        assert!(!validity.is_trusted(block));
        assert_eq!(validity.valid_blocks(), 0);
    });
}

#[test]
fn neighbours_in_one_word_do_not_lose_each_other() {
    loom::model(|| {
        let validity = shared();
        let since = validity.epoch();
        let other = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || validity.publish(Run::block(1), Run::block(1), since))
        };
        assert_eq!(
            validity.publish(Run::block(0), Run::block(0), since),
            Published::Trusted(1)
        );
        assert_eq!(other.join().expect("no panic"), Published::Trusted(1));
        assert!(Run::new(0, 2).is_some_and(|both| validity.is_trusted(both)));
    });
}

#[test]
fn a_run_is_not_called_valid_for_a_block_that_was() {
    loom::model(|| {
        let validity = shared();
        let block = Run::block(0);
        validity.publish(block, block, validity.epoch());
        let dropper = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || validity.invalidate(block))
        };
        let (state, part) = validity.state_at(Run::new(0, 4).expect("not empty"));
        assert!(
            state == State::Missing || part == block,
            "the others never were"
        );
        dropper.join().expect("no panic");
    });
}

#[test]
fn bytes_that_are_believed_were_not_being_overwritten() {
    loom::model(|| {
        let validity = shared();
        let block = Run::block(0);
        validity.publish(block, block, validity.epoch());
        // 1: the source's bytes. 2: what a write that failed left behind.
        let bytes = Arc::new(loom::sync::Mutex::new(1));
        let dropper = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || validity.invalidate(block))
        };
        let leader = {
            let (validity, bytes) = (Arc::clone(&validity), Arc::clone(&bytes));
            thread::spawn(move || {
                if validity.count_valid(block) == 0 {
                    *bytes.lock().expect("no panic") = 2;
                }
            })
        };
        let before = validity.changes();
        if let Some(before) = before.filter(|_| validity.is_trusted(block)) {
            let got = *bytes.lock().expect("no panic");
            assert!(got == 1 || !validity.unchanged(before), "garbage is served");
        }
        dropper.join().expect("no panic");
        leader.join().expect("no panic");
    });
}

#[test]
fn what_a_failed_flush_dropped_is_not_left_trusted() {
    loom::model(|| {
        let validity = shared();
        let block = Run::block(0);
        validity.publish(block, block, validity.epoch());
        let flusher = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || validity.drop_trusted())
        };
        validity.trust(block, validity.epoch());
        flusher.join().expect("no panic");
        let place = first_place(block);
        assert_eq!(validity.trusted.at(place) & !validity.valid.at(place), 0);
    });
}

/// A device of which block 0 was asked for and block 1 fetched unasked, or will be.
fn around() -> (Arc<Validity>, Run, Run, Run) {
    let validity = Validity::new(4).expect("memory");
    let run = Run::new(0, 2).expect("not empty");
    validity.reserve(run).expect("memory");
    // The words are there: allocating them is no matter of orderings here.
    validity.set_unasked(run, validity.epoch());
    validity.invalidate(run);
    (Arc::new(validity), run, Run::block(0), Run::block(1))
}

/// Every interleaving in which threads are interrupted so often at most: without a limit these models take hours.
fn model_interrupted(times: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(times);
    builder.check(model);
}

/// Uses a block as a reader does, with something to compare with or without.
fn take_from(validity: &Validity, block: Run, comparable: bool) -> u64 {
    let Some(before) = validity.changes() else {
        return 0;
    };
    if validity.count_valid(block) == 0 {
        return 0;
    }
    validity.take_unasked(block, before, comparable)
}

fn take(validity: &Validity, block: Run) -> u64 {
    take_from(validity, block, true)
}

#[test]
fn an_unasked_block_is_used_once() {
    loom::model(|| {
        let (validity, run, asked, unasked) = around();
        validity.publish(run, asked, validity.epoch());
        let other = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || take(&validity, unasked))
        };
        let taken = take(&validity, unasked);
        assert_eq!(taken + other.join().expect("no panic"), 1);
        assert!(validity.is_trusted(run), "without a comparison");
    });
}

#[test]
fn an_unasked_block_that_is_used_while_a_flush_fails_is_not_left_trusted() {
    loom::model(|| {
        let (validity, run, asked, unasked) = around();
        validity.publish(run, asked, validity.epoch());
        let flusher = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || validity.distrust_all())
        };
        take(&validity, unasked);
        flusher.join().expect("no panic");
        assert!(!validity.is_trusted(unasked));
        assert_eq!(take(&validity, unasked), 0, "it is to be compared");
    });
}

#[test]
fn an_unasked_block_that_is_published_while_a_flush_fails_is_not_trusted_by_its_use() {
    model_interrupted(3, || {
        let (validity, run, asked, unasked) = around();
        let since = validity.epoch();
        let flusher = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || validity.distrust_all())
        };
        let user = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || take(&validity, unasked))
        };
        validity.publish(run, asked, since);
        flusher.join().expect("no panic");
        user.join().expect("no panic");
        take(&validity, unasked);
        assert!(!validity.is_trusted(unasked));
    });
}

#[test]
fn an_unasked_block_that_is_used_while_it_is_dropped_is_not_left_trusted() {
    loom::model(|| {
        let (validity, run, asked, unasked) = around();
        validity.publish(run, asked, validity.epoch());
        let dropper = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || validity.invalidate(unasked))
        };
        take(&validity, unasked);
        dropper.join().expect("no panic");
        let place = first_place(unasked);
        assert_eq!(validity.trusted.at(place) & place.mask, 0);
        let words = validity.unasked.get().expect("there are some");
        assert_eq!(words.at(place) & place.mask, 0);
    });
}

#[test]
fn what_a_failed_flush_drops_is_not_left_valid_though_nobody_asked_for_it() {
    model_interrupted(4, || {
        let (validity, run, asked, unasked) = around();
        validity.publish(run, asked, validity.epoch());
        let flusher = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || validity.drop_trusted())
        };
        take_from(&validity, unasked, false);
        flusher.join().expect("no panic");
        assert_eq!(validity.valid_blocks(), 0);
        assert!(!validity.is_trusted(unasked));
    });
}
