//! Real threads: a runtime with two workers and many tasks, and threads that all want the same at once.

use crate::support::{Backend, Rng, Source, finish, open_with, read, scale};
use gibblox_cache::{CacheConfig, CacheOps, CachedBlockReader, MemoryCacheOps};
use gibblox_core::ReadContext;
use std::sync::{Arc, Barrier};
use std::thread;
use tokio::runtime::{Builder, Runtime};

const BLOCK: u32 = 64;
const BLOCKS: u64 = 200;
const TASKS: u64 = 64;

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap()
}

fn config() -> CacheConfig {
    CacheConfig::new()
        .with_flush_every_blocks(16)
        .with_window_bytes(8 * BLOCK)
        .with_fetches_at_once(4)
}

/// What one task does: a bit of everything, compared with the source.
async fn work<C: CacheOps>(reader: &CachedBlockReader<Arc<Source>, C>, source: &Source, seed: u64) {
    let mut rng = Rng::new(seed);
    for _ in 0..30 {
        let (lba, blocks) = rng.run(BLOCKS, 24);
        match rng.below(20) {
            0 => reader.flush_cache().await.unwrap(),
            1 => {
                let report = reader.scrub().await.unwrap();
                assert_eq!(report.dropped_blocks, 0, "{report:?}");
            }
            2 | 3 => {
                let done = reader.ensure_cached(lba, blocks, ReadContext::BACKGROUND);
                done.await.unwrap();
            }
            _ => source.assert_bytes(lba, &read(reader, lba, blocks).await.unwrap()),
        }
    }
}

fn many_tasks<C: CacheOps + 'static>(
    source: &Arc<Source>,
    reader: &Arc<CachedBlockReader<Arc<Source>, C>>,
) {
    runtime().block_on(async {
        let tasks: Vec<_> = (0..TASKS)
            .map(|seed| {
                let (reader, source) = (Arc::clone(reader), Arc::clone(source));
                tokio::spawn(async move { work(&reader, &source, seed).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    let twice = source.fetches().iter().any(|count| *count > 1);
    assert!(!twice, "each block is fetched once: {:?}", source.fetches());
    let stats = finish(reader.get_stats());
    let fetched = source.fetches().iter().sum::<usize>() as u64;
    assert_eq!(stats.cached_blocks, fetched);
    assert!(stats.total_hits + stats.total_misses > 0);
}

#[test]
fn two_workers_with_many_tasks_read_what_is_right_and_fetch_it_once() {
    let (source, backend) = (Source::new(16, BLOCK, BLOCKS), Backend::new());
    let reader = open_with(&source, &backend, config());
    source.gate.once();
    backend.gate.once();
    many_tasks(&source, &Arc::new(reader));
    backend.gate.open();
    let left_behind = Backend::with_bytes(backend.bytes());
    let next = open_with(&source, &left_behind, config());
    source.gate.open();
    source.assert_bytes(0, &finish(read(&next, 0, BLOCKS)).unwrap());
}

#[test]
fn two_workers_with_many_tasks_work_in_memory() {
    let source = Source::new(16, BLOCK, BLOCKS);
    let opening = CachedBlockReader::open(Arc::clone(&source), MemoryCacheOps::new(), config());
    many_tasks(&source, &Arc::new(finish(opening).unwrap()));
}

#[test]
fn tasks_that_are_aborted_on_other_threads_leave_nobody_waiting() {
    for round in 0..10 * scale() {
        let (source, backend) = (Source::new(16, BLOCK, BLOCKS), Backend::new());
        let reader = Arc::new(open_with(&source, &backend, config()));
        source.gate.once();
        backend.gate.once();
        runtime().block_on(async {
            let mut rng = Rng::new(round);
            let tasks: Vec<_> = (0..TASKS)
                .map(|seed| {
                    let seed = round * TASKS + seed;
                    let (reader, source) = (Arc::clone(&reader), Arc::clone(&source));
                    tokio::spawn(async move { work(&reader, &source, seed).await })
                })
                .collect();
            for task in &tasks {
                if rng.chance(50) {
                    tokio::task::yield_now().await;
                    task.abort();
                }
            }
            for task in tasks {
                if let Err(error) = task.await {
                    assert!(error.is_cancelled(), "{error}");
                }
            }
        });
        source.gate.open();
        backend.gate.open();
        source.assert_bytes(0, &finish(read(&reader, 0, BLOCKS)).unwrap());
        let left_behind = Backend::with_bytes(backend.bytes());
        let next = open_with(&source, &left_behind, config());
        source.assert_bytes(0, &finish(read(&next, 0, BLOCKS)).unwrap());
    }
}

/// Wakes the thread that waits in [`block_on`].
struct Unpark(thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future that may wait for another thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = core::pin::pin!(future);
    let waker = Arc::new(Unpark(thread::current())).into();
    loop {
        let mut cx = core::task::Context::from_waker(&waker);
        if let core::task::Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        thread::park();
    }
}

#[test]
fn between_looking_and_claiming_no_other_fetch_slips_in() {
    // Both threads run down the same blocks. One that looked before the other published, and claims afterwards, has
    // to notice it.
    const LAST: u64 = 3000;
    for round in 0..4 * scale() {
        let source = Source::new(round, 8, LAST);
        let opening = CachedBlockReader::new(Arc::clone(&source), MemoryCacheOps::new());
        let reader = finish(opening).unwrap();
        let start = Barrier::new(2);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    start.wait();
                    for lba in 0..LAST {
                        source.assert_bytes(lba, &block_on(read(&reader, lba, 1)).unwrap());
                    }
                });
            }
        });
        let twice = source.fetches().iter().filter(|count| **count > 1).count();
        assert_eq!(twice, 0, "blocks that were fetched twice");
        let stats = finish(reader.get_stats());
        assert_eq!(stats.total_hits + stats.total_misses, 2 * LAST);
        let counters = reader.counters();
        assert_eq!(counters.served_blocks, 2 * LAST);
        assert_eq!(counters.fetched_blocks, LAST);
        assert_eq!(stats.cached_blocks, LAST);
    }
}
