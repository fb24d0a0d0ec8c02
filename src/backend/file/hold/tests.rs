//! Openers and deleters as threads of which one runs at a time, from one point to the next: in every order, and with a
//! deleter that is killed at every point.

use super::*;
use crate::backend::FileCacheOps;
use crate::backend::file::step::hooked;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::panic::AssertUnwindSafe;
use std::os::unix::fs::MetadataExt;
use std::panic::{catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

const BYTES: &[u8] = b"GIBBLX!, and what was cached";

/// Of what kind an actor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Opener,
    Deleter,
    Sweeper,
    /// Looks whether the file is in use.
    Asker,
}

#[derive(Debug)]
enum Outcome {
    Open(FileCacheOps),
    Deletion(Deletion),
    Nothing,
    Killed,
}

enum Event {
    Point,
    Waits,
    Ended(Box<Outcome>),
}

struct Killed;

fn act(role: Role, path: &Path) -> Outcome {
    match role {
        Role::Opener => Outcome::Open(FileCacheOps::open_held(path).expect("opens")),
        Role::Deleter => Outcome::Deletion(delete(path).expect("no error")),
        Role::Sweeper => {
            sweep(path).expect("no error");
            Outcome::Nothing
        }
        Role::Asker => {
            if let Some((file, _)) = look(path).expect("no error") {
                is_in_use(path, &file).expect("no error");
            }
            Outcome::Nothing
        }
    }
}

/// Runs the actors in the order that `choose` says: it is given how many could go on, and says which one does.
/// The first actor is killed at its point `killed_at`.
fn run(
    path: &Path,
    roles: &[Role],
    killed_at: Option<usize>,
    mut choose: impl FnMut(usize) -> usize,
) -> Vec<Outcome> {
    let (tell, events): (Sender<(usize, Event)>, Receiver<_>) = channel();
    let mut goes = Vec::new();
    let mut threads = Vec::new();
    for (index, role) in roles.iter().copied().enumerate() {
        let (go, wait) = channel::<()>();
        goes.push(Some(go));
        let (tell, path) = (tell.clone(), path.to_path_buf());
        threads.push(thread::spawn(move || {
            let events = tell.clone();
            hooked::set(move |waits| {
                let event = if waits { Event::Waits } else { Event::Point };
                let _ = events.send((index, event));
                if wait.recv().is_err() {
                    // Its files are closed while it unwinds, as when a process ends.
                    resume_unwind(Box::new(Killed));
                }
            });
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                step::point();
                act(role, &path)
            }));
            let outcome = outcome.unwrap_or_else(|panic| {
                assert!(panic.is::<Killed>());
                Outcome::Killed
            });
            let _ = tell.send((index, Event::Ended(Box::new(outcome))));
        }));
    }
    let mut outcomes: Vec<Option<Outcome>> = roles.iter().map(|_| None).collect();
    let mut waits = vec![false; roles.len()];
    let mut points = 0;
    let await_one = |waits: &mut [bool], outcomes: &mut [Option<Outcome>]| {
        let (index, event) = events.recv().expect("each thread tells");
        match event {
            Event::Point => waits[index] = false,
            Event::Waits => waits[index] = true,
            Event::Ended(outcome) => outcomes[index] = Some(*outcome),
        }
    };
    for _ in roles {
        await_one(&mut waits, &mut outcomes);
    }
    for _ in 0..500 {
        let live = |index: &usize| outcomes[*index].is_none();
        let mut ready: Vec<usize> = (0..roles.len())
            .filter(live)
            .filter(|index| !waits[*index])
            .collect();
        if ready.is_empty() {
            // All wait: it makes no difference which one finds out first.
            ready = (0..roles.len()).filter(live).take(1).collect();
        }
        let Some(&first) = ready.first() else {
            for thread in threads {
                thread.join().expect("no panic");
            }
            return outcomes.into_iter().flatten().collect();
        };
        let next = if ready.len() == 1 {
            first
        } else {
            ready[choose(ready.len())]
        };
        // What the others wait for may be so after this.
        waits.fill(false);
        let is_killed = next == 0 && killed_at == Some(points);
        points += usize::from(next == 0);
        if is_killed {
            goes[next] = None;
        } else {
            let go = goes[next].as_ref().expect("it lives");
            go.send(()).expect("it listens");
        }
        await_one(&mut waits, &mut outcomes);
    }
    panic!("it does not come to an end");
}

/// Runs `trial` with every sequence of choices.
fn in_every_order(mut trial: impl FnMut(&mut dyn FnMut(usize) -> usize)) -> usize {
    let mut choices: Vec<(usize, usize)> = Vec::new();
    let mut count = 0;
    loop {
        let mut at = 0;
        trial(&mut |options| {
            if at == choices.len() {
                choices.push((0, options));
            }
            assert_eq!(choices[at].1, options, "a run repeats itself");
            at += 1;
            choices[at - 1].0
        });
        count += 1;
        while let Some((choice, options)) = choices.pop() {
            if choice + 1 < options {
                choices.push((choice + 1, options));
                break;
            }
        }
        if choices.is_empty() {
            return count;
        }
    }
}

fn named(path: &Path) -> (u64, u64) {
    let found = fs::symlink_metadata(path).expect("it has its name");
    (found.dev(), found.ino())
}

/// What holds after any order: what is open has its name, and what was cached is in it unless it was deleted before.
fn check(path: &Path, outcomes: Vec<Outcome>) {
    let deleted = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Outcome::Deletion(Deletion::Done { .. })))
        .count();
    assert!(deleted <= 1, "{outcomes:?}");
    let was_killed = outcomes
        .iter()
        .any(|outcome| matches!(outcome, Outcome::Killed));
    let mut is_open = false;
    for outcome in &outcomes {
        let Outcome::Open(cache) = outcome else {
            continue;
        };
        is_open = true;
        let held = cache.array.file().metadata().expect("it is open");
        assert_eq!((held.dev(), held.ino()), named(path), "{outcomes:?}");
        let bytes = fs::read(path).expect("reads");
        assert!(
            bytes == BYTES || (bytes.is_empty() && (deleted == 1 || was_killed)),
            "{outcomes:?}"
        );
        if deleted == 1 {
            assert!(bytes.is_empty(), "it was deleted while it was open");
        }
    }
    if is_open {
        assert_eq!(delete(path).expect("no error"), Deletion::InUse);
        sweep(path).expect("no error");
        assert_eq!(delete(path).expect("no error"), Deletion::InUse);
    } else if !was_killed {
        assert_eq!(path.exists(), deleted == 0, "{outcomes:?}");
    }
    drop(outcomes);
    let left = if path.exists() {
        delete(path)
    } else {
        Ok(Deletion::Vanished)
    };
    sweep(path).expect("no error");
    assert!(left.is_ok_and(|left| left != Deletion::InUse));
    let folder = path.parent().expect("a folder");
    assert_eq!(fs::read_dir(folder).expect("reads").count(), 0);
}

struct Bench {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            path: folder.path().join("cache"),
            _folder: folder,
        }
    }

    fn lay(&self) -> &Path {
        fs::write(&self.path, BYTES).expect("writes");
        &self.path
    }
}

fn every_order_of(roles: &[Role], at_least: usize) {
    let bench = Bench::new();
    for has_lock_file in [false, true] {
        let count = in_every_order(|choose| {
            let path = bench.lay();
            if has_lock_file {
                fs::write(lock_path(path), []).expect("writes");
            }
            check(path, run(path, roles, None, choose));
        });
        assert!(count >= at_least, "only {count} orders");
    }
}

#[test]
fn a_file_that_is_opened_while_it_is_deleted_is_the_old_one_or_a_new_one_in_every_order() {
    every_order_of(&[Role::Deleter, Role::Opener], 300);
}

#[test]
fn two_deleters_delete_a_file_once_in_every_order() {
    every_order_of(&[Role::Deleter, Role::Deleter], 300);
}

#[test]
fn sweeping_and_asking_take_nothing_from_an_opener_in_every_order() {
    every_order_of(&[Role::Sweeper, Role::Opener], 30);
    every_order_of(&[Role::Asker, Role::Opener], 10);
}

#[test]
fn a_deleter_that_is_killed_at_any_point_leaves_what_can_be_opened_in_every_order() {
    let bench = Bench::new();
    for killed_at in 0..9 {
        in_every_order(|choose| {
            let path = bench.lay();
            let roles = [Role::Deleter, Role::Opener];
            check(path, run(path, &roles, Some(killed_at), choose));
        });
    }
}

#[test]
fn many_openers_and_deleters_agree_on_the_file_in_random_orders() {
    use Role::{Asker, Deleter, Opener, Sweeper};

    let bench = Bench::new();
    for roles in [
        &[Deleter, Opener, Deleter][..],
        &[Deleter, Opener, Opener],
        &[Deleter, Opener, Deleter, Sweeper, Opener, Asker],
    ] {
        for seed in 1..200_usize {
            let mut state = seed as u64;
            let path = bench.lay();
            let killed_at = (seed % 3 == 0).then_some(seed % 9);
            let outcomes = run(path, roles, killed_at, |options| {
                // A step of splitmix64.
                state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                mixed ^= mixed >> 27;
                usize::try_from(mixed % options as u64).expect("small")
            });
            check(path, outcomes);
        }
    }
}
