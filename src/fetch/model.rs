//! Every interleaving of two threads, explored by a model checker.

use alloc::sync::Arc;
use loom::thread;

use super::*;
use crate::bitmap::Validity;

struct Shared {
    table: Fetches,
    validity: Validity,
}

fn shared() -> Arc<Shared> {
    let validity = Validity::new(4).expect("memory");
    let _ = validity.fill(Run::block(0)).expect("memory");
    Arc::new(Shared {
        table: Fetches::default(),
        validity,
    })
}

/// Claims block 0; where it leads, publishes, or is dropped in the middle. Returns whether it led.
fn read(shared: &Shared, dropped: bool) -> bool {
    let ask = Ask {
        route: Route::Cache,
        plan: &Plan::default(),
        most_claims: usize::MAX,
        is_rest: true,
    };
    let state_at = |run| shared.validity.state_at(run);
    let wanted = core::iter::once(Run::block(0));
    let claimed = shared.table.claim(wanted, ask, &mut None, state_at);
    let mut led = false;
    for claim in claimed.claims {
        if let Claim::Lead(fetch) = claim {
            led = true;
            if !dropped {
                let run = fetch.span();
                shared
                    .validity
                    .fill(run)
                    .expect("memory")
                    .publish(Some(run));
                fetch.leads().for_each(Lead::published);
            }
        }
    }
    led
}

#[test]
fn a_block_has_one_leader_and_is_fetched_once() {
    loom::model(|| {
        let shared = shared();
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || read(&shared, false))
        };
        let led = read(&shared, false);
        let other_led = other.join().expect("no panic");
        assert!(led ^ other_led, "exactly one fetched");
        assert_eq!(shared.validity.valid_blocks(), 1);
    });
}

#[test]
fn a_dropped_leader_leaves_nothing_claimed() {
    loom::model(|| {
        let shared = shared();
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || read(&shared, true))
        };
        read(&shared, true);
        other.join().expect("no panic");
        assert!(read(&shared, false), "it is there to be led");
    });
}
