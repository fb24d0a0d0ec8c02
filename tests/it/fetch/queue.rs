//! A task that waits has a place in line: no task that wants the same again and again keeps it from ending, and those
//! who wait together share one fetch.

use crate::support::backend::Op;
use crate::support::gate::Mode;
use crate::support::{Backend, Poller, Reader, Source, check_read, open, read};
use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use gibblox_cache::WarmPlan;
use gibblox_core::{GibbloxResult, ReadContext};
use std::sync::Arc;

const BLOCK: u32 = 16;
const BLOCKS: u64 = 32;

/// The block that is in trouble.
const BAD: u64 = 5;

/// How often a stubborn task tries before it gives up. A task that ends only then was kept from ending.
const TRIES: usize = 2_000;

/// How often a stubborn task may have been served before the task that waited.
const FEW: usize = 8;

type Got = GibbloxResult<Vec<u8>>;

/// Why a block is asked for again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The source fails.
    Failing,
    /// The backend takes nothing, and each read is `Ok`.
    Unstored,
    /// The read is dropped.
    Dropped,
}

const TROUBLES: [Trouble; 3] = [Trouble::Failing, Trouble::Unstored, Trouble::Dropped];

struct World {
    source: Arc<Source>,
    backend: Arc<Backend>,
    reader: Reader,
}

impl World {
    fn new() -> Self {
        let (source, backend) = (Source::new(31, BLOCK, BLOCKS), Backend::new());
        let reader = open(&source, &backend);
        Self {
            source,
            backend,
            reader,
        }
    }

    fn in_trouble(trouble: Trouble) -> Self {
        let world = Self::new();
        // Each call is pending once, so that tasks meet in its middle.
        world.source.gate.once();
        world.backend.gate.once();
        match trouble {
            Trouble::Failing => world.source.fail_block(BAD, "a bad block"),
            Trouble::Unstored => world.backend.fail_all(Op::Write),
            Trouble::Dropped => {}
        }
        world
    }

    /// Reads `lba` again in the poll in which the last read of it ended.
    async fn stubborn(&self, lba: u64, trouble: Trouble, tries: &Cell<usize>) -> Got {
        while tries.get() < TRIES {
            let mut reading = pin!(read(&self.reader, lba, 1));
            if trouble == Trouble::Dropped {
                poll_fn(|cx| {
                    let _ = reading.as_mut().poll(cx);
                    Poll::Ready(())
                })
                .await;
                let mut waited = false;
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    if core::mem::replace(&mut waited, true) {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
            } else {
                let _ = reading.await;
            }
            tries.set(tries.get() + 1);
        }
        Ok(Vec::new())
    }
}

/// What a task that waits got, beside tasks that ask for these blocks again and again.
#[track_caller]
fn beside_stubborn<'a, F>(
    world: &'a World,
    trouble: Trouble,
    blocks: &[u64],
    waits: impl FnOnce(&'a World) -> F,
) -> Got
where
    F: Future<Output = Got> + 'a,
{
    let tries: Vec<_> = blocks.iter().map(|_| Cell::new(0)).collect();
    let mut poller = Poller::new();
    for (lba, tries) in blocks.iter().zip(&tries) {
        poller.spawn(world.stubborn(*lba, trouble, tries));
    }
    for id in poller.woken() {
        poller.poll(id);
    }
    let waiting = poller.spawn(waits(world));
    while !poller.is_done(waiting) {
        let woken = poller.woken();
        assert!(!woken.is_empty(), "stuck");
        for id in woken {
            poller.poll(id);
        }
        for tries in &tries {
            assert!(
                tries.get() < FEW + BLOCKS as usize * FEW,
                "{trouble:?}: it is kept waiting"
            );
        }
    }
    poller.take(waiting)
}

#[test]
fn clear_ends_beside_a_block_that_is_read_again_and_again() {
    for trouble in TROUBLES {
        for blocks in [&[BAD][..], &[BAD, BAD, BAD + 1]] {
            let world = World::in_trouble(trouble);
            // With an error where nothing can be written; but it ends.
            let got = beside_stubborn(&world, trouble, blocks, |world| async {
                world.reader.clear().await.map(|()| Vec::new())
            });
            assert!(got.is_ok() || trouble == Trouble::Unstored, "{got:?}");
        }
    }
}

#[test]
fn a_read_ends_beside_one_that_is_made_again_and_again() {
    for trouble in TROUBLES {
        let world = World::in_trouble(trouble);
        let got = beside_stubborn(&world, trouble, &[BAD], |world| read(&world.reader, BAD, 1));
        match got {
            Ok(bytes) => world.source.assert_bytes(BAD, &bytes),
            Err(error) => assert_eq!(error.message(), Some("a bad block")),
        }
    }
}

#[test]
fn a_read_of_two_blocks_ends_with_the_error_beside_reads_of_each_again_and_again() {
    for (first, both) in [(0, false), (3, true), (5, true)] {
        let world = World::in_trouble(Trouble::Failing);
        world.source.fail(|call| {
            let bad = call.touches(BAD) || call.touches(BAD + 1);
            bad.then(|| crate::support::source::Fault::io("a bad block"))
        });
        let blocks = [BAD, BAD + 1];
        let got = beside_stubborn(&world, Trouble::Failing, &blocks, |world| {
            read(
                &world.reader,
                first,
                if both { BAD + 2 - first } else { BAD + 1 },
            )
        });
        assert_eq!(got.unwrap_err().message(), Some("a bad block"));
    }
}

#[test]
fn a_warming_of_the_device_ends_with_the_error_beside_one_block_that_is_read_again_and_again() {
    for (trouble, message) in [
        (Trouble::Failing, "a bad block"),
        (Trouble::Unstored, "backend: "),
    ] {
        let world = World::in_trouble(trouble);
        let got = beside_stubborn(&world, trouble, &[BAD], |world| async {
            let warmed = world.reader.warm(WarmPlan::device()).await;
            warmed.map(|_| Vec::new())
        });
        let error = got.unwrap_err();
        assert!(error.message().unwrap().starts_with(message), "{error}");
    }
    let world = World::in_trouble(Trouble::Dropped);
    beside_stubborn(&world, Trouble::Dropped, &[BAD], |world| async {
        let ensured = world
            .reader
            .ensure_cached(0, BLOCKS, ReadContext::BACKGROUND);
        ensured.await.map(|()| Vec::new())
    })
    .unwrap();
}

#[test]
fn clear_waits_for_no_source() {
    let world = World::new();
    world.source.gate.set(|call| {
        if call.touches(BAD) {
            Mode::Shut
        } else {
            Mode::Open
        }
    });
    let mut poller = Poller::new();
    let reading = poller.spawn(read(&world.reader, BAD - 1, 3));
    let following = poller.spawn(read(&world.reader, BAD, 1));
    poller.run();
    let clearing = poller.spawn(async { world.reader.clear().await.map(|()| Vec::new()) });
    poller.run();
    poller.take(clearing).unwrap();
    // The follower asks for itself now, and what it gets is kept.
    assert_eq!(world.source.reads(), [(BAD - 1, 3), (BAD, 1)]);
    world.source.gate.open();
    poller.run_to_end();
    for (id, lba) in [(reading, BAD - 1), (following, BAD)] {
        world.source.assert_bytes(lba, &poller.take(id).unwrap());
    }
    assert!(
        world
            .reader
            .cached_runs()
            .eq(core::iter::once(BAD..BAD + 1))
    );
}

#[test]
fn readers_of_what_cannot_be_stored_share_one_fetch() {
    for prefetched in [false, true] {
        let world = World::new();
        world.backend.fail_all(Op::Write);
        world.source.gate.shut();
        let mut poller = Poller::new();
        if prefetched {
            poller.spawn(async {
                let ensured = world.reader.ensure_cached(4, 4, ReadContext::BACKGROUND);
                ensured.await.unwrap_err();
                Ok(Vec::new())
            });
        } else {
            poller.spawn(read(&world.reader, 4, 4));
        }
        poller.run();
        let readers: Vec<_> = (0..16)
            .map(|reader| {
                let (lba, blocks) = [(4, 4), (4, 1), (5, 2), (7, 1)][reader % 4];
                (poller.spawn(read(&world.reader, lba, blocks)), lba)
            })
            .collect();
        poller.run();
        world.source.gate.open();
        poller.run_to_end();
        for (id, lba) in readers {
            world.source.assert_bytes(lba, &poller.take(id).unwrap());
        }
        assert_eq!(world.source.reads(), [(4, 4)]);
    }
}

#[test]
fn a_task_that_wants_blocks_stored_gets_the_backends_error_from_the_fetch_that_it_followed() {
    let world = World::new();
    world.backend.fail_all(Op::Write);
    world.source.gate.shut();
    let mut poller = Poller::new();
    poller.spawn(read(&world.reader, 4, 4));
    poller.run();
    let ensuring = poller.spawn(async {
        let ensured = world.reader.ensure_cached(4, 4, ReadContext::BACKGROUND);
        ensured.await.map(|()| Vec::new())
    });
    poller.run();
    world.source.gate.open();
    poller.run_to_end();
    let error = poller.take(ensuring).unwrap_err();
    assert!(error.message().unwrap().starts_with("backend: "), "{error}");
    assert_eq!(world.source.reads(), [(4, 4)]);
}

#[test]
fn readers_of_a_fetch_whose_blocks_are_dropped_fetch_them_once_more() {
    // Dropped while it is fetched, and while it is stored: after the readers have read what was stored, and before.
    for (storing, early) in [(false, false), (true, false), (true, true)] {
        let world = World::new();
        let mut poller = Poller::new();
        world.source.gate.shut();
        let readers: Vec<_> = (0..64)
            .map(|_| poller.spawn(read(&world.reader, BAD, 1)))
            .collect();
        poller.run();
        if storing {
            world.backend.gate.shut();
            world.source.gate.release_all();
            poller.run();
            assert_eq!(world.backend.gate.held().len(), 1, "it is being stored");
        }
        world.source.renew();
        let dropping = poller.spawn(async {
            let dropped = world.reader.invalidate(BAD, 1).await;
            dropped.map(|()| Vec::new())
        });
        poller.run();
        assert_eq!(poller.is_done(dropping), !storing);
        world.source.gate.open();
        world.backend.gate.open();
        if early {
            assert!(poller.poll(readers[0]), "it has stored");
            assert!(poller.poll(dropping), "it is its turn");
        }
        poller.run_to_end();
        poller.take(dropping).unwrap();
        for id in readers {
            let bytes = poller.take(id).unwrap();
            assert_eq!(bytes.len(), BLOCK as usize);
            world.source.generations(BAD, &bytes);
        }
        assert!(
            world.source.reads().len() <= 2,
            "{}",
            world.source.reads().len()
        );
        world.source.forget();
        check_read(&world.reader, &world.source, BAD, 1);
        let fetched = world.source.reads().len();
        assert!(fetched <= usize::from(storing), "the last fetch is kept");
    }
}

#[test]
fn a_read_ends_beside_two_that_drop_its_block_in_turn() {
    let world = World::new();
    world.source.gate.once();
    world.backend.gate.once();
    let dropped = Cell::new(0);
    let mut poller = Poller::new();
    for _ in 0..2 {
        poller.spawn(async {
            while dropped.get() < TRIES {
                world.reader.invalidate(BAD, 1).await?;
                dropped.set(dropped.get() + 1);
            }
            Ok(Vec::new())
        });
    }
    for id in poller.woken() {
        poller.poll(id);
    }
    let reading = poller.spawn(read(&world.reader, BAD, 1));
    while !poller.is_done(reading) {
        for id in poller.woken() {
            poller.poll(id);
        }
        assert!(dropped.get() < TRIES, "it is kept waiting");
    }
    assert!(dropped.get() < FEW, "{}", dropped.get());
    world
        .source
        .assert_bytes(BAD, &poller.take(reading).unwrap());
}

#[test]
fn tasks_that_wait_for_a_dropped_leader_lead_in_the_order_in_which_they_came() {
    let world = World::new();
    world.source.gate.shut();
    let mut poller = Poller::new();
    let readers: Vec<_> = (0..5)
        .map(|_| poller.spawn(read(&world.reader, BAD, 1)))
        .collect();
    poller.run();
    for (count, id) in readers[..4].iter().enumerate() {
        assert_eq!(world.source.reads().len(), count + 1);
        poller.cancel(*id);
        // The next was not polled yet, and a newcomer waits behind all.
        let newcomer = poller.spawn(read(&world.reader, BAD, 1));
        poller.poll(newcomer);
        poller.cancel(newcomer);
        assert_eq!(world.source.reads().len(), count + 1);
        assert_eq!(poller.woken(), [readers[count + 1]]);
        poller.run();
    }
    world.source.gate.open();
    poller.run_to_end();
    world
        .source
        .assert_bytes(BAD, &poller.take(readers[4]).unwrap());
}
