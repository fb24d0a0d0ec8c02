use alloc::vec::Vec;

use futures_util::FutureExt;
use gibblox_core::GibbloxErrorKind;

use super::*;

fn run(start: u64, end: u64) -> Run {
    Run::new(start, end).expect("not empty")
}

/// Blocks 4 and 5 are valid.
fn state_at(run: Run) -> (State, Run) {
    let (state, end) = match run.start() {
        0..4 => (State::Missing, 4),
        4..6 => (State::Valid, 6),
        _ => (State::Missing, u64::MAX),
    };
    (
        state,
        Run::new(run.start(), end.min(run.end())).expect("not empty"),
    )
}

fn claim(table: &FlightTable, wanted: Run) -> Claims<'_> {
    table.claim(core::iter::once(wanted), usize::MAX, state_at)
}

fn kinds(claims: &Claims<'_>) -> Vec<(char, u64, u64)> {
    claims
        .iter()
        .map(|claim| {
            let kind = match claim {
                Claim::Valid(_) => 'v',
                Claim::Lead(_) => 'l',
                Claim::Follow(_) => 'f',
            };
            (kind, claim.run().start(), claim.run().end())
        })
        .collect()
}

fn follows(claims: Claims<'_>) -> Vec<Follow> {
    claims
        .into_iter()
        .filter_map(|claim| match claim {
            Claim::Follow(follow) => Some(follow),
            _ => None,
        })
        .collect()
}

#[test]
fn claims_cover_what_is_wanted_in_order() {
    let table = FlightTable::default();
    let first = claim(&table, run(2, 8));
    assert_eq!(kinds(&first), [('l', 2, 4), ('v', 4, 6), ('l', 6, 8)]);
    let second = claim(&table, run(0, 10));
    assert_eq!(
        kinds(&second),
        [
            ('l', 0, 2),
            ('f', 2, 4),
            ('v', 4, 6),
            ('f', 6, 8),
            ('l', 8, 10)
        ]
    );
    assert_eq!(table.in_flight(), 4);
    drop(first);
    drop(second);
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn a_dropped_leader_tells_its_followers_and_leaves() {
    let table = FlightTable::default();
    let lead = claim(&table, run(0, 2));
    let mut followers = follows(claim(&table, run(0, 2)));
    let mut outcome = core::pin::pin!(followers.remove(0).outcome());
    assert!(outcome.as_mut().now_or_never().is_none(), "it waits");
    drop(lead);
    assert!(matches!(outcome.now_or_never(), Some(None)));
    assert_eq!(kinds(&claim(&table, run(0, 2))), [('l', 0, 2)]);
}

#[test]
fn the_leaders_error_is_that_of_who_wants_the_same_and_of_nobody_else() {
    // What the leader wants, what the follower wants, and which of its follows share the leader's fate.
    let cases: [(Run, Run, &[bool]); 6] = [
        (run(0, 4), run(0, 4), &[true]),
        (run(0, 4), run(0, 3), &[false]),
        (run(0, 4), run(1, 2), &[false]),
        (run(0, 3), run(0, 4), &[false]),
        (run(0, 9), run(0, 9), &[true, true]),
        // What is valid in between does not matter: nobody fetches it.
        (run(0, 9), run(0, 5), &[true]),
    ];
    for (leader, follower, expected) in cases {
        let table = FlightTable::default();
        let led = claim(&table, leader);
        let shares: Vec<_> = follows(claim(&table, follower))
            .iter()
            .map(Follow::shares_fate)
            .collect();
        assert_eq!(shares, expected, "{leader:?} {follower:?}");
        drop(led);
    }
    // Two leaders: the follower asks for more than each of them.
    let table = FlightTable::default();
    let led = (claim(&table, run(0, 2)), claim(&table, run(2, 4)));
    let shares: Vec<_> = follows(claim(&table, run(0, 4)))
        .iter()
        .map(Follow::shares_fate)
        .collect();
    assert_eq!(shares, [false, false]);
    drop(led);
}

#[test]
fn outcomes_reach_followers_as_they_are() {
    let table = FlightTable::default();
    let mut claims = claim(&table, run(0, 2));
    let follow = follows(claim(&table, run(0, 2))).remove(0);
    let Some(Claim::Lead(lead)) = claims.pop() else {
        panic!("nobody else leads");
    };
    let error = GibbloxError::with_message(GibbloxErrorKind::Unsupported, "as it is");
    lead.finish(&Outcome::Failed(error));
    match follow.outcome().now_or_never() {
        Some(Some(Outcome::Failed(error))) => {
            assert_eq!(error.kind(), GibbloxErrorKind::Unsupported);
            assert_eq!(error.message(), Some("as it is"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn no_more_is_claimed_than_is_begun() {
    let table = FlightTable::default();
    for most in 1..4 {
        let claims = table.claim([run(0, 1), run(2, 9)].into_iter(), most, state_at);
        let all = [('l', 0, 1), ('l', 2, 4), ('v', 4, 6), ('l', 6, 9)];
        assert_eq!(kinds(&claims), all[..[1, 2, 4][most - 1]]);
    }
}

#[test]
fn only_one_is_alone() {
    let table = FlightTable::default();
    let first = table.alone(run(2, 4)).now_or_never().expect("nobody else");
    let other = table.alone(run(4, 6)).now_or_never().expect("elsewhere");
    let mut both = core::pin::pin!(table.alone(run(0, 9)));
    assert!(both.as_mut().now_or_never().is_none());
    assert_eq!(table.in_flight(), 2, "nothing is held while waiting");
    drop(first);
    assert!(both.as_mut().now_or_never().is_none());
    drop(other);
    assert_eq!(both.now_or_never().expect("all are gone").run(), run(0, 9));
}

#[test]
fn followers_that_were_dropped_do_not_pile_up() {
    let table = FlightTable::default();
    let lead = claim(&table, run(0, 1));
    for _ in 0..10_000 {
        drop(claim(&table, run(0, 1)));
    }
    let kept = table
        .flights
        .with(|flights| flights.sorted[0].followers.len());
    assert!(kept < 16, "{kept}");
    drop(lead);
}
