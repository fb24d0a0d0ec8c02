use alloc::vec;
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
    claim_by(table, wanted, &Plan::default(), state_at)
}

fn claim_by<'t>(
    table: &'t FlightTable,
    wanted: Run,
    plan: &Plan,
    state_at: impl Fn(Run) -> (State, Run),
) -> Claims<'t> {
    table.claim(core::iter::once(wanted), usize::MAX, plan, state_at)
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
    let Some(Claim::Lead(fetch)) = claims.pop() else {
        panic!("nobody else leads");
    };
    let error = GibbloxError::with_message(GibbloxErrorKind::Unsupported, "as it is");
    fetch.finish(&Outcome::Failed(error));
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
        let claims = table.claim(
            [run(0, 1), run(2, 9)].into_iter(),
            most,
            &Plan::default(),
            state_at,
        );
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
    assert_eq!(both.now_or_never().expect("all are gone").span(), run(0, 9));
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

/// Blocks of a device that is small enough to try everything.
const SMALL: u64 = 7;

/// The state of the first of the blocks of a run, and how many share it, by looking at each of them.
fn state_of(valid: u64, run: Run) -> (State, Run) {
    let bit = |lba: u64| valid >> lba & 1;
    let first = bit(run.start());
    let end = (run.start()..run.end()).find(|lba| bit(*lba) != first);
    let part = Run::new(run.start(), end.unwrap_or(run.end())).expect("not empty");
    let state = [State::Missing, State::Valid][usize::from(first == 1)];
    (state, part)
}

/// One fetch: what of the request it serves, and the runs that it leads.
type Expected = ((u64, u64), Vec<(u64, u64)>);

/// Which fetches a request leads, block by block: the naive twin of plan and claims.
fn naive(request: (u64, u64), valid: u64, flying: u64, plan: &Plan) -> Vec<Expected> {
    let free = |lba: u64| lba < SMALL && (valid | flying) >> lba & 1 == 0;
    let mut fetches: Vec<Expected> = Vec::new();
    let (mut lba, end) = request;
    while lba < end {
        if !free(lba) {
            lba += 1;
            continue;
        }
        let start = lba;
        while lba < end && free(lba) {
            lba += 1;
        }
        let mut led = (start, lba);
        let around = plan.around_blocks.max(1);
        let small = lba - start < around;
        while small && led.0 % around != 0 && free(led.0 - 1) {
            led.0 -= 1;
        }
        let around_end = if small {
            lba.next_multiple_of(around)
        } else {
            lba
        };
        let ahead_end = if lba == end {
            end + plan.ahead_blocks
        } else {
            lba
        };
        while led.1 < around_end.max(ahead_end) && free(led.1) {
            led.1 += 1;
        }
        match fetches.last_mut() {
            Some((asked, leads))
                if (asked.1..start).all(|lba| valid >> lba & 1 == 1)
                    && start - asked.1 <= plan.gap_blocks =>
            {
                asked.1 = lba;
                leads.push(led);
            }
            _ => fetches.push(((start, lba), vec![led])),
        }
    }
    fetches
}

/// Plans that differ in each of their limits; the end is the request's.
fn plans() -> impl Iterator<Item = Plan> {
    (0..5 * 4 * 3_usize).map(|index| Plan {
        total_blocks: SMALL,
        around_blocks: index as u64 % 5,
        ahead_blocks: [0, 1, 3, 9][index / 5 % 4],
        end: 0,
        gap_blocks: index as u64 / 20,
    })
}

/// Claims a request beside a run in flight, compares with the naive twin, and adds up what is fetched: what was asked
/// for, what was not, and gaps.
fn compare_with_naive(
    request: Run,
    valid: u64,
    other: Option<Run>,
    plan: &Plan,
    sums: &mut [u64; 3],
) {
    let table = FlightTable::default();
    let missing = |run| (State::Missing, run);
    let other_led = other.map(|other| claim_by(&table, other, &Plan::default(), missing));
    let claims = claim_by(&table, request, plan, |run| state_of(valid, run));
    let pair = |run: Run| (run.start(), run.end());
    let mut at = request.start();
    let mut fetches = Vec::new();
    for claim in claims {
        assert_eq!(claim.run().start(), at, "covered, in order");
        at = claim.run().end();
        let Claim::Lead(fetch) = claim else { continue };
        sums[0] += fetch.asked().blocks();
        sums[1] += fetch.unasked_blocks();
        sums[2] += fetch.gap_blocks();
        let most = fetch.asked().blocks() + plan.ahead_blocks + 2 * plan.around_blocks;
        assert!(fetch.span().blocks() <= most, "bounded");
        let (asked, span, exact) = (pair(fetch.asked()), pair(fetch.span()), fetch.is_exact());
        let runs: Vec<_> = fetch.leads().map(|lead| pair(lead.run())).collect();
        assert_eq!((runs[0].0, runs[runs.len() - 1].1), span);
        assert_eq!(exact, runs == [asked]);
        fetches.push((asked, runs));
    }
    assert_eq!(at, request.end(), "all of it");
    drop(other_led);
    assert_eq!(table.in_flight(), 0);
    let flying = other.map_or(0, |other| (1 << other.end()) - (1 << other.start()));
    let expected = naive(pair(request), valid, flying, plan);
    let case = || std::format!("{request:?} of {valid:b}, {flying:b} in flight, {plan:?}");
    assert_eq!(fetches, expected, "{}", case());
}

#[test]
fn every_plan_for_every_request_over_every_cache_is_the_naive_one() {
    let mut sums = [0; 3];
    // Nothing in flight, and runs at the beginning, in the middle and at the end.
    for other in [None, Run::new(0, 1), Run::new(2, 4), Run::new(5, 7)] {
        for plan in plans() {
            let is_clear = |valid: &u64| {
                other.is_none_or(|other| {
                    (other.start()..other.end()).all(|lba| valid >> lba & 1 == 0)
                })
            };
            for valid in (0..1 << SMALL).filter(is_clear) {
                for start in 0..SMALL {
                    for end in start + 1..=SMALL {
                        let plan = Plan { end, ..plan };
                        compare_with_naive(run(start, end), valid, other, &plan, &mut sums);
                    }
                }
            }
        }
    }
    assert!(sums.iter().all(|blocks| *blocks > 1000), "{sums:?}");
}

#[test]
fn who_wants_some_of_what_is_fetched_unasked_follows() {
    let table = FlightTable::default();
    let plan = Plan {
        total_blocks: 100,
        around_blocks: 8,
        end: 10,
        ..Plan::default()
    };
    let missing = |run| (State::Missing, run);
    let led = claim_by(&table, run(9, 10), &plan, missing);
    assert_eq!(kinds(&led), [('l', 9, 10)], "of the request, this");
    let others = claim(&table, run(0, 20));
    let expected = [
        ('l', 0, 4),
        ('v', 4, 6),
        ('l', 6, 8),
        ('f', 8, 16),
        ('l', 16, 20),
    ];
    assert_eq!(kinds(&others), expected);
    drop(others);
    // The same request is not the same fetch; the same as the fetch is.
    for (wanted, shares) in [(run(9, 10), false), (run(8, 16), true)] {
        let follow = follows(claim(&table, wanted)).remove(0);
        assert_eq!(follow.shares_fate(), shares, "{wanted:?}");
    }
    drop(led);
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn runs_that_are_fetched_together_count_as_one_fetch() {
    let table = FlightTable::default();
    let plan = Plan {
        gap_blocks: 1,
        ..Plan::default()
    };
    // Every second block is valid, and one more in the middle.
    let every_second = |run| state_of(0b10_1010_1101_0101, run);
    for (most, expected) in [
        (1, &[('v', 0, 1), ('l', 1, 6), ('v', 6, 8)][..]),
        (
            2,
            &[
                ('v', 0, 1),
                ('l', 1, 6),
                ('v', 6, 8),
                ('l', 8, 13),
                ('v', 13, 14),
            ][..],
        ),
    ] {
        let wanted = core::iter::once(run(0, 14));
        let claims = table.claim(wanted, most, &plan, every_second);
        assert_eq!(kinds(&claims), expected);
        drop(claims);
    }
    assert_eq!(table.in_flight(), 0);
}
