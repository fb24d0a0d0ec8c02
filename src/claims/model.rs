//! Every interleaving of two or three threads, explored by a model checker.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::task::Waker;
use loom::thread;

use super::*;

type Table = Claims<u32, ()>;

const RUN: Run = Run::block(0);

fn wait(table: &Table) -> Wait<'_, u32> {
    table.claim(RUN, ()).expect_err("it is held")
}

fn poll<'t>(wait: &mut Wait<'t, u32>) -> Option<Ended<'t, u32>> {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(wait).poll(&mut context) {
        Poll::Ready(ended) => Some(ended),
        Poll::Pending => None,
    }
}

fn is_empty(table: &Table) -> bool {
    table.table.with(|table| table.sorted.is_empty())
}

#[test]
fn a_token_that_meets_a_waiter_that_is_dropped_goes_to_the_next() {
    loom::model(|| {
        // `thread::spawn` wants what lives long enough.
        let table: &'static Table = Box::leak(Box::default());
        let held = table.claim(RUN, ()).expect("free");
        let first = wait(table);
        let mut second = wait(table);
        let dropping = thread::spawn(move || drop(first));
        let ending = thread::spawn(move || drop(held));
        dropping.join().expect("no panic");
        ending.join().expect("no panic");
        match poll(&mut second) {
            Some(Ended::Yours(held)) => assert_eq!(held.run(), RUN),
            other => panic!("{other:?}"),
        }
        assert!(is_empty(table));
    });
}

#[test]
fn a_waiter_that_is_dropped_alone_leaves_nothing_claimed() {
    loom::model(|| {
        let table: &'static Table = Box::leak(Box::default());
        let held = table.claim(RUN, ()).expect("free");
        let only = wait(table);
        let dropping = thread::spawn(move || drop(only));
        drop(held);
        dropping.join().expect("no panic");
        assert!(is_empty(table));
    });
}

#[test]
fn a_waiter_that_is_polled_meanwhile_misses_no_word() {
    loom::model(|| {
        let table: &'static Table = Box::leak(Box::default());
        let held = table.claim(RUN, ()).expect("free");
        let mut only = wait(table);
        let ending = thread::spawn(move || held.end(&7, |(), _| true));
        let early = poll(&mut only);
        ending.join().expect("no panic");
        match early.or_else(|| poll(&mut only)) {
            Some(Ended::Told(RUN, 7)) => {}
            other => panic!("{other:?}"),
        }
        assert!(is_empty(table));
    });
}

#[test]
fn a_range_that_is_let_go_has_one_holder_at_a_time() {
    loom::model(|| {
        let table: &'static Table = Box::leak(Box::default());
        let inside = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
        let enter = {
            let inside = Arc::clone(&inside);
            move |held: Held<'static, u32>| {
                use loom::sync::atomic::Ordering::SeqCst;
                assert_eq!(inside.fetch_add(1, SeqCst), 0, "alone");
                inside.fetch_sub(1, SeqCst);
                drop(held);
            }
        };
        let held = table.claim(RUN, ()).expect("free");
        let mut waiting = wait(table);
        let again = {
            let enter = enter.clone();
            // The task that lets go comes back at once, and may have to wait.
            thread::spawn(move || {
                drop(held);
                match table.claim(RUN, ()) {
                    Ok(held) => enter(held),
                    Err(mut wait) => {
                        if let Some(Ended::Yours(held)) = poll(&mut wait) {
                            enter(held);
                        }
                    }
                }
            })
        };
        if let Some(Ended::Yours(held)) = poll(&mut waiting) {
            enter(held);
        }
        again.join().expect("no panic");
        drop(waiting);
        assert!(is_empty(table));
    });
}

#[test]
fn a_claim_is_void_or_firm_when_its_range_is_taken() {
    loom::model(|| {
        let table: &'static Table = Box::leak(Box::default());
        let held = table.claim(RUN, ()).expect("free");
        let holding = thread::spawn(move || {
            let firm = held.make_firm();
            held.end(&7, |(), _| true);
            firm
        });
        let taken = table.take_or_wait(RUN);
        let waited = taken.is_err();
        let firm = holding.join().expect("no panic");
        match taken {
            Ok(taken) => drop(taken),
            Err(mut wait) => match poll(&mut wait) {
                Some(Ended::Yours(_)) => {}
                other => panic!("{other:?}"),
            },
        }
        assert!(firm || !waited, "what is void is not waited for");
        assert!(is_empty(table));
    });
}
