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

fn claim(table: &Fetches, wanted: Run) -> Divided<'_> {
    claim_by(table, wanted, &Plan::default(), state_at)
}

fn claim_by<'t>(
    table: &'t Fetches,
    wanted: Run,
    plan: &Plan,
    state_at: impl Fn(Run) -> (State, Run),
) -> Divided<'t> {
    claim_on(
        table,
        Route::Cache,
        core::iter::once(wanted),
        plan,
        state_at,
    )
    .claims
}

/// A claim by a request that wants nothing more.
fn claim_on<'t>(
    table: &'t Fetches,
    route: Route,
    wanted: impl Iterator<Item = Run>,
    plan: &Plan,
    state_at: impl Fn(Run) -> (State, Run),
) -> Claimed<'t> {
    let ask = Ask {
        route,
        plan,
        most_claims: usize::MAX,
        is_rest: true,
    };
    table.claim(wanted, ask, &mut None, state_at)
}

fn kinds(claims: &Divided<'_>) -> Vec<(char, u64, u64)> {
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

fn follows(claims: Divided<'_>) -> Vec<Follow<'_>> {
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
    let table = Fetches::default();
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

/// What the follow hears by now.
fn heard(follow: Follow<'_>) -> Option<Followed<'_>> {
    follow.outcome(state_at).now_or_never()
}

fn lead(mut claims: Divided<'_>) -> Fetch<'_> {
    match claims.pop() {
        Some(Claim::Lead(fetch)) if claims.is_empty() => fetch,
        other => panic!("{other:?}"),
    }
}

fn an_error() -> GibbloxError {
    GibbloxError::with_message(GibbloxErrorKind::Unsupported, "as it is")
}

#[test]
fn a_dropped_leader_hands_its_run_to_the_follower_that_came_first() {
    let table = Fetches::default();
    let led = lead(claim(&table, run(0, 2)));
    let mut followers = follows(claim(&table, run(0, 2)));
    followers.extend(follows(claim(&table, run(0, 2))));
    drop(led);
    let again = claim(&table, run(0, 2));
    assert_eq!(kinds(&again), [('f', 0, 2)], "who comes again is the last");
    let second = followers.pop().expect("two");
    let first = followers.pop().expect("two");
    let Some(Followed::Lead(fetch)) = heard(first) else {
        panic!("its turn");
    };
    assert_eq!((fetch.asked(), fetch.span()), (run(0, 2), run(0, 2)));
    let mut second = core::pin::pin!(second.outcome(state_at));
    assert!(second.as_mut().now_or_never().is_none(), "it waits");
    drop(fetch);
    assert!(matches!(second.now_or_never(), Some(Followed::Lead(_))));
    // That one was dropped as well.
    assert!(matches!(
        heard(follows(again).remove(0)),
        Some(Followed::Lead(_))
    ));
    assert_eq!(table.in_flight(), 0);
}

fn fail(claims: Divided<'_>) {
    for claim in claims {
        if let Claim::Lead(fetch) = claim {
            fetch.failed(&an_error());
        }
    }
}

/// Whether the leader's error is the follower's, which leads itself where it is not.
fn shares(follow: Follow<'_>) -> bool {
    match heard(follow) {
        Some(Followed::Ended(_, Outcome::Failed(error))) => {
            assert_eq!(error.kind(), GibbloxErrorKind::Unsupported);
            assert_eq!(error.message(), Some("as it is"));
            true
        }
        Some(Followed::Lead(_)) => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_leaders_error_is_that_of_who_wants_the_same_and_the_others_lead() {
    // What the leader wants, what the follower wants, and which of its follows share the leader's fate.
    let cases: [(Run, Run, &[bool]); 6] = [
        (run(0, 4), run(0, 4), &[true]),
        (run(0, 4), run(0, 3), &[false]),
        (run(0, 4), run(1, 2), &[false]),
        (run(0, 3), run(0, 4), &[false]),
        (run(0, 9), run(0, 9), &[true, true]),
        // What is valid in between does not matter: no task fetches it.
        (run(0, 9), run(0, 5), &[true]),
    ];
    for (leader, follower, expected) in cases {
        let table = Fetches::default();
        let led = claim(&table, leader);
        let followed = claim(&table, follower);
        fail(led);
        let shared: Vec<_> = follows(followed).into_iter().map(shares).collect();
        assert_eq!(shared, expected, "{leader:?} {follower:?}");
        assert_eq!(table.in_flight(), 0);
    }
    // Two leaders: the follower asks for more than each of them.
    let table = Fetches::default();
    let led = [claim(&table, run(0, 2)), claim(&table, run(2, 4))];
    let followed = claim(&table, run(0, 4));
    led.into_iter().for_each(fail);
    let shared: Vec<_> = follows(followed).into_iter().map(shares).collect();
    assert_eq!(shared, [false, false]);
}

#[test]
fn a_follower_that_moved_shares_the_fate_of_its_equal_only() {
    // The first follower wants this, the second that; whether the second takes the error of the first.
    for (first, second, expected) in [
        (run(0, 4), run(0, 4), true),
        (run(1, 3), run(1, 3), true),
        (run(0, 4), run(1, 3), false),
        // It wants more than the first has, and gets the rest at once where that comes first.
        (run(1, 2), run(1, 3), false),
    ] {
        let table = Fetches::default();
        let led = lead(claim(&table, run(0, 4)));
        let first = follows(claim(&table, first)).remove(0);
        let second = follows(claim(&table, second)).remove(0);
        drop(led);
        let Some(Followed::Lead(fetch)) = heard(first) else {
            panic!("its turn");
        };
        fetch.failed(&an_error());
        let shared = match heard(second) {
            Some(Followed::Ended(_, Outcome::Failed(_))) => true,
            Some(Followed::Lead(_)) => false,
            other => panic!("{other:?}"),
        };
        assert_eq!(shared, expected);
    }
}

#[test]
fn a_task_that_wants_its_blocks_stored_takes_an_error_for_its_own_only_if_it_wants_nothing_more() {
    for unstored in [false, true] {
        for is_all in [false, true] {
            let table = Fetches::default();
            let led = lead(claim(&table, run(0, 4)));
            let claim = table.claim_one(run(0, 4), is_all, &mut None, state_at);
            let Some(Claim::Follow(follow)) = claim else {
                panic!("{claim:?}");
            };
            if unstored {
                led.leads()
                    .for_each(|lead| lead.unstored(&an_error(), b"abcd"));
            } else {
                led.failed(&an_error());
            }
            match heard(follow) {
                Some(Followed::Ended(_, Outcome::Failed(_) | Outcome::Unstored(..))) => {
                    assert!(is_all);
                }
                Some(Followed::Lead(_)) => assert!(!is_all),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn bytes_that_could_not_be_stored_are_shared() {
    let table = Fetches::default();
    let led = lead(claim(&table, run(0, 4)));
    let all = follows(claim(&table, run(0, 4))).remove(0);
    let part = follows(claim(&table, run(1, 2))).remove(0);
    let gone = follows(claim(&table, run(1, 2)));
    drop(gone);
    led.leads()
        .for_each(|lead| lead.unstored(&an_error(), b"abcd"));
    for (follow, expected) in [(all, run(0, 4)), (part, run(1, 2))] {
        match heard(follow) {
            Some(Followed::Ended(part, Outcome::Unstored(_, unstored))) => {
                assert_eq!((part, unstored.run), (expected, run(0, 4)));
                assert_eq!(unstored.bytes.as_slice(), b"abcd");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn a_fetch_is_void_until_it_stores() {
    let table = Fetches::default();
    let led = lead(claim(&table, run(0, 4)));
    let other = lead(claim(&table, run(6, 8)));
    let before = follows(claim(&table, run(0, 2))).remove(0);
    let inside = follows(claim(&table, run(1, 4))).remove(0);
    let taken = table.take(run(2, 9)).now_or_never().expect("it is void");
    assert_eq!(taken.run(), run(2, 9), "and so is the other");
    assert!(other.leads().all(|lead| !lead.begin_store()));
    // The first follower has what was not taken; the other waits for that, having come after it.
    let Some(Followed::Lead(fetch)) = heard(before) else {
        panic!("it is free");
    };
    assert_eq!(fetch.span(), run(0, 2));
    assert!(led.leads().all(|lead| !lead.begin_store()));
    let mut inside = core::pin::pin!(inside.outcome(state_at));
    assert!(inside.as_mut().now_or_never().is_none());
    for lead in fetch.leads() {
        assert!(lead.begin_store());
        let mut more = core::pin::pin!(table.take(run(0, 4)));
        assert!(more.as_mut().now_or_never().is_none(), "it is stored now");
        lead.published();
        let first = more.now_or_never().expect("its turn");
        assert_eq!(first.run(), run(0, 2), "the rest is taken");
    }
    match inside.now_or_never() {
        Some(Followed::Ended(part, Outcome::Published)) => assert_eq!(part, run(1, 2)),
        other => panic!("{other:?}"),
    }
    drop(taken);
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn who_is_handed_what_has_become_valid_does_not_fetch_it() {
    let table = Fetches::default();
    let led = lead(claim(&table, run(0, 4)));
    let first = follows(claim(&table, run(0, 4))).remove(0);
    let second = follows(claim(&table, run(2, 4))).remove(0);
    drop(led);
    // The file was opened meanwhile, say: 0 and 1 are missing, 2 and 3 valid.
    let now = |run| state_of(0b1100, run);
    match first.outcome(now).now_or_never() {
        Some(Followed::Lead(fetch)) => {
            assert_eq!(fetch.span(), run(0, 2));
            match second.outcome(now).now_or_never() {
                Some(Followed::Valid(valid)) => assert_eq!(valid, run(2, 4)),
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn no_more_is_claimed_than_is_begun() {
    for most in 0..4 {
        let table = Fetches::new(most, u64::MAX);
        let wanted = [run(0, 1), run(2, 9)].into_iter();
        let claimed = claim_on(&table, Route::Cache, wanted, &Plan::default(), state_at);
        let all = [('l', 0, 1), ('l', 2, 4), ('v', 4, 6), ('l', 6, 9)];
        // What is valid needs no permit.
        let expected = &all[..[0, 1, 3, 4][most as usize]];
        assert_eq!(kinds(&claimed.claims), expected);
        assert_eq!(claimed.wants_permit, most < 3);
        assert_eq!(table.permits.free(), 0);
        drop(claimed);
        assert_eq!(table.permits.free(), most as usize, "all come back");
    }
}

#[test]
fn followers_that_were_dropped_do_not_pile_up() {
    let table = Fetches::default();
    let lead = claim(&table, run(0, 1));
    for _ in 0..10_000 {
        drop(claim(&table, run(0, 1)));
    }
    let kept = table.claims.first_line_len();
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
    let table = Fetches::default();
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
    let table = Fetches::default();
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
    drop(led);
    // The same request is not the same fetch; the same as the fetch is.
    for (wanted, shares) in [(run(9, 10), false), (run(8, 16), true)] {
        let led = lead(claim_by(&table, run(9, 10), &plan, missing));
        let follow = follows(claim(&table, wanted)).remove(0);
        led.failed(&an_error());
        let shared = matches!(heard(follow), Some(Followed::Ended(..)));
        assert_eq!(shared, shares, "{wanted:?}");
    }
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn runs_that_are_fetched_together_count_as_one_fetch() {
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
        let table = Fetches::new(most, u64::MAX);
        let claims = claim_on(&table, Route::Cache, wanted, &plan, every_second).claims;
        assert_eq!(kinds(&claims), expected);
        drop(claims);
    }
}

#[test]
fn no_fetch_is_longer_than_the_limit_whatever_it_is_widened_by() {
    // Each pattern of validity of 12 blocks, and each way of widening.
    let plans = [(0, 0, 0), (8, 0, 0), (0, 5, 0), (0, 0, 2), (8, 5, 2)];
    for (around_blocks, ahead_blocks, gap_blocks) in plans {
        for bits in 0..1_u64 << 12 {
            let most = 1 + bits % 5;
            let wanted = run(bits % 3, 12 - bits % 2);
            let plan = Plan {
                total_blocks: 12,
                around_blocks,
                ahead_blocks,
                end: wanted.end(),
                gap_blocks,
            };
            let table = Fetches::new(u32::MAX, most);
            let claims = claim_by(&table, wanted, &plan, |run| state_of(bits, run));
            let mut next = wanted.start();
            for claim in &claims {
                assert_eq!(claim.run().start(), next);
                next = claim.run().end();
                if let Claim::Lead(fetch) = claim {
                    assert!(fetch.span().blocks() <= most, "{most} {bits:b} {fetch:?}");
                }
            }
            assert_eq!(next, wanted.end());
            drop(claims);
            assert_eq!(table.in_flight(), 0);
        }
    }
}

#[test]
fn a_run_that_passes_on_is_no_longer_than_a_fetch() {
    let table = Fetches::new(u32::MAX, 2);
    // A task drops all of it; the follower wants all of it.
    let drops = table.take(run(0, 4)).now_or_never().expect("free");
    let follow = follows(claim(&table, run(0, 4))).remove(0);
    drop(drops);
    let Some(Followed::Lead(fetch)) = heard(follow) else {
        panic!("its turn");
    };
    assert_eq!(fetch.span(), run(0, 2));
    drop(fetch);
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn past_the_cache_followers_get_the_bytes_until_the_blocks_are_dropped() {
    let past = |table, wanted| {
        let missing = |run| (State::Missing, run);
        let wanted = core::iter::once(wanted);
        claim_on(table, Route::Past, wanted, &Plan::default(), missing).claims
    };
    let table = Fetches::default();
    let led = lead(past(&table, run(0, 4)));
    let mut followers = follows(past(&table, run(1, 3)));
    assert_eq!(
        kinds(&claim(&table, run(0, 4))),
        [('l', 0, 4)],
        "another table"
    );
    led.leads().for_each(|lead| lead.past(b"abcd"));
    match heard(followers.remove(0)) {
        Some(Followed::Ended(heard_of, Outcome::Past(brought))) => {
            assert_eq!((heard_of, brought.run), (run(1, 3), run(0, 4)));
            assert_eq!(brought.bytes.as_slice(), b"abcd");
        }
        other => panic!("{other:?}"),
    }
    // What was begun before a drop is not followed by a read that begins after it.
    let led = lead(past(&table, run(0, 4)));
    let follower = follows(past(&table, run(0, 4))).remove(0);
    drop(
        table
            .take(run(0, 4))
            .now_or_never()
            .expect("it waits for no fetch"),
    );
    assert_eq!(
        kinds(&past(&table, run(0, 4))),
        [('f', 0, 4)],
        "the follower is next"
    );
    let missing = |run| (State::Missing, run);
    let next = follower.outcome(missing).now_or_never();
    assert!(matches!(next, Some(Followed::Lead(_))));
    led.leads().for_each(|lead| lead.past(b"abcd"));
    drop(next);
    assert_eq!(table.in_flight(), 0);
}
