//! Every interleaving of two threads, explored by a model checker.

use loom::thread;
use std::sync::Arc;

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
