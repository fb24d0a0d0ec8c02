//! Every interleaving of two threads, explored by a model checker.

use alloc::sync::Arc;
use loom::thread;

use super::*;

fn shared() -> Arc<Validity> {
    let validity = Validity::new(4).expect("memory");
    // The words are there: allocating them is no matter of orderings here.
    let _ = validity.fill(Run::block(0)).expect("memory");
    Arc::new(validity)
}

fn publish(validity: &Validity, block: Run) {
    let filling = validity.fill(block).expect("memory");
    filling.publish(Some(block));
}

/// Believes `block`, as a reader does that compared it.
fn settle(validity: &Validity, block: Run) {
    if let Some(look) = validity.look(block) {
        look.settle(&[], !look.is_disturbed());
    }
}

#[test]
fn what_was_written_before_a_failed_flush_is_never_left_trusted() {
    loom::model(|| {
        let validity = shared();
        let filling = validity.fill(Run::block(0)).expect("memory");
        let flusher = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || validity.distrust_all())
        };
        filling.publish(Some(Run::block(0)));
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
        publish(&validity, block);
        validity.distrust_all();
        let dropper = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || validity.invalidate(block))
        };
        settle(&validity, block);
        dropper.join().expect("no panic");
        assert!(!validity.is_trusted(block));
        assert_eq!(validity.valid_blocks(), 0);
    });
}

#[test]
fn neighbours_in_one_word_do_not_lose_each_other() {
    loom::model(|| {
        let validity = shared();
        let fill = |validity: &Validity, lba| {
            let block = Run::block(lba);
            let published = validity.fill(block).expect("memory").publish(Some(block));
            assert_eq!((published.newly_blocks, published.is_trusted), (1, true));
        };
        let other = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || fill(&validity, 1))
        };
        fill(&validity, 0);
        other.join().expect("no panic");
        assert!(Run::new(0, 2).is_some_and(|both| validity.is_trusted(both)));
    });
}

#[test]
fn a_run_is_not_called_valid_for_a_block_that_was() {
    loom::model(|| {
        let validity = shared();
        let block = Run::block(0);
        publish(&validity, block);
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
        publish(&validity, block);
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
        if let Some(sight) = validity.sight(block) {
            let got = *bytes.lock().expect("no panic");
            assert!(got == 1 || !validity.is_still(sight), "garbage is served");
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
        publish(&validity, block);
        let flusher = {
            let validity = Arc::clone(&validity);
            thread::spawn(move || validity.drop_trusted())
        };
        settle(&validity, block);
        flusher.join().expect("no panic");
        let place = first_place(block);
        assert_eq!(validity.trusted.at(place) & !validity.valid.at(place), 0);
    });
}
