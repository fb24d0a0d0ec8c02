use core::cell::Cell;

use super::*;

const LIMITS: BypassPolicy = BypassPolicy {
    after_failures: 2,
    probe_after_reads: 2,
};

#[derive(Clone, Copy, Debug)]
enum Event {
    Failure,
    Success,
    PlainHit,
    Read,
    Wish,
    Answered,
    StillFails,
    Dropped,
}

const EVENTS: [Event; 8] = [
    Event::Failure,
    Event::Success,
    Event::PlainHit,
    Event::Read,
    Event::Wish,
    Event::Answered,
    Event::StillFails,
    Event::Dropped,
];

/// What the documentation says, said again as plainly as it goes.
#[derive(Default)]
struct Naive {
    row: u32,
    bypassed: bool,
    passed: u32,
    due: bool,
    probing: bool,
}

impl Naive {
    /// Whether the bypass was just entered.
    fn failure(&mut self) -> bool {
        if self.bypassed {
            return false;
        }
        self.row += 1;
        self.bypassed = self.row == LIMITS.after_failures;
        (self.passed, self.due) = (0, false);
        self.bypassed
    }

    /// Whether the caller probes; nothing where it uses the backend.
    fn turn(&mut self, at_once: bool) -> Option<bool> {
        if !self.bypassed {
            return None;
        }
        let probes =
            !self.probing && (at_once || self.due || self.passed == LIMITS.probe_after_reads);
        if probes {
            self.probing = true;
        } else if !self.probing {
            self.passed += 1;
        }
        Some(probes)
    }
}

/// Plays `events` on both. Events that cannot happen are left out.
fn play(events: &[Event]) {
    let bypass = Bypass::new(Some(LIMITS));
    let mut naive = Naive::default();
    let (held, mut hits) = (Cell::new(0), 0);
    let mut probe = None;
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Failure => {
                let entered = bypass.failed(|| hits, || held.set(held.get() + 1));
                assert_eq!(entered, naive.failure(), "{at} of {events:?}");
            }
            Event::Success => {
                bypass.succeeded();
                naive.row = 0;
            }
            Event::PlainHit => {
                hits += 1;
                naive.row = 0;
            }
            Event::Read | Event::Wish => {
                let at_once = matches!(event, Event::Wish);
                let turn = if at_once {
                    bypass.turn_at_once()
                } else {
                    bypass.turn()
                };
                let probes = match turn {
                    Turn::Use => None,
                    Turn::Pass => Some(false),
                    Turn::Probe(new) => {
                        assert!(probe.replace(new).is_none(), "{at} of {events:?}");
                        Some(true)
                    }
                };
                assert_eq!(probes, naive.turn(at_once), "{at} of {events:?}");
            }
            Event::Answered | Event::StillFails | Event::Dropped => {
                let Some(probe) = probe.take() else {
                    continue;
                };
                naive.probing = false;
                match event {
                    Event::Answered => {
                        probe.answered(|| held.set(held.get() - 1));
                        (naive.bypassed, naive.row) = (false, 0);
                    }
                    Event::StillFails => {
                        probe.failed();
                        (naive.passed, naive.due) = (0, false);
                    }
                    _ => {
                        drop(probe);
                        naive.due = true;
                    }
                }
            }
        }
        assert_eq!(bypass.is_on(), naive.bypassed, "{at} of {events:?}");
        let failing = naive.row != 0 && !naive.bypassed;
        assert_eq!(bypass.is_failing(|| hits), failing, "{at} of {events:?}");
        assert_eq!(held.get(), i32::from(naive.bypassed), "{at} of {events:?}");
    }
}

#[test]
fn whatever_happens_in_whatever_order_it_does_as_documented() {
    const LONGEST: u32 = 7;
    for number in 0..EVENTS.len().pow(LONGEST) {
        let mut rest = number;
        let events = [(); LONGEST as usize].map(|()| {
            let event = EVENTS[rest % EVENTS.len()];
            rest /= EVENTS.len();
            event
        });
        play(&events);
    }
}

#[test]
fn without_limits_nothing_is_ever_bypassed_and_a_row_is_known() {
    let bypass = Bypass::new(None);
    for _ in 0..1000 {
        let entered = bypass.failed(|| 7, || unreachable!("no change"));
        assert!(!entered && !bypass.is_on());
        assert!(bypass.is_failing(|| 7), "until something succeeds");
        assert!(!bypass.is_failing(|| 8), "as a plain hit does");
        assert!(matches!(bypass.turn(), Turn::Use));
    }
    bypass.succeeded();
    assert!(!bypass.is_failing(|| 7));
}
