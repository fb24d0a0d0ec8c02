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
        validity.publish(Run::block(0), since);
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
        validity.publish(block, validity.epoch());
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
            thread::spawn(move || validity.publish(Run::block(1), since))
        };
        assert_eq!(
            validity.publish(Run::block(0), since),
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
        validity.publish(block, validity.epoch());
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
        validity.publish(block, validity.epoch());
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
        validity.publish(block, validity.epoch());
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
