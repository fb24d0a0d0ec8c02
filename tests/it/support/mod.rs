//! A source, a backend, a poller and an oracle that do what the test says, and nothing by themselves.

pub(crate) mod backend;
pub(crate) mod chance;
pub(crate) mod files;
pub(crate) mod gate;
pub(crate) mod log;
pub(crate) mod oracle;
pub(crate) mod poll;
pub(crate) mod powercut;
pub(crate) mod published;
pub(crate) mod rng;
pub(crate) mod source;
pub(crate) mod world;

pub(crate) use backend::{Backend, Immediate};
pub(crate) use chance::run_by_chance;
pub(crate) use oracle::Oracle;
pub(crate) use poll::{Poller, finish, polls_to_finish};
pub(crate) use rng::{Rng, for_seeds, scale};
pub(crate) use source::Source;
pub(crate) use world::World;

use gibblox_cache::{CacheConfig, CacheCounters, CacheOps, CachedBlockReader};
use gibblox_core::{BlockReader, GibbloxResult, ReadContext};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The reader that most tests use.
pub(crate) type Reader = CachedBlockReader<Arc<Source>, Arc<Backend>>;

/// Locks, also after a test caught a panic under the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens with the defaults; nothing may be held back by a gate.
pub(crate) fn open(source: &Arc<Source>, backend: &Arc<Backend>) -> Reader {
    open_with(source, backend, CacheConfig::new())
}

/// Opens with `config`; nothing may be held back by a gate.
pub(crate) fn open_with(
    source: &Arc<Source>,
    backend: &Arc<Backend>,
    config: CacheConfig,
) -> Reader {
    finish(CachedBlockReader::open(
        Arc::clone(source),
        Arc::clone(backend),
        config,
    ))
    .expect("a healthy source opens")
}

/// Reads `blocks` blocks from `lba` on into a buffer of its own, which starts out as garbage.
pub(crate) async fn read<S, C>(
    reader: &CachedBlockReader<S, C>,
    lba: u64,
    blocks: u64,
) -> GibbloxResult<Vec<u8>>
where
    S: BlockReader,
    C: CacheOps,
{
    let mut buf = vec![0xC3; blocks as usize * reader.block_size() as usize];
    let read = reader
        .read_blocks(lba, &mut buf, ReadContext::FOREGROUND)
        .await?;
    assert_eq!(read, buf.len(), "a read that is Ok is whole");
    Ok(buf)
}

/// Reads and compares with what the source holds.
#[track_caller]
pub(crate) fn check_read<C: CacheOps>(
    reader: &CachedBlockReader<Arc<Source>, C>,
    source: &Source,
    lba: u64,
    blocks: u64,
) {
    let bytes = finish(read(reader, lba, blocks)).expect("a healthy source reads");
    source.assert_bytes(lba, &bytes);
}

/// Makes the given blocks valid, each by a read of its own.
#[track_caller]
pub(crate) fn cache_blocks<C: CacheOps>(
    reader: &CachedBlockReader<Arc<Source>, C>,
    source: &Source,
    blocks: impl IntoIterator<Item = u64>,
) {
    for lba in blocks {
        check_read(reader, source, lba, 1);
    }
}

/// Compares what the only reader of `backend` counted with what arrived there. Nothing is under way.
#[track_caller]
pub(crate) fn assert_calls_are_counted(backend: &Backend, counters: &CacheCounters) {
    let count = |op| backend.count(op) as u64;
    assert_eq!(counters.backend_reads, count(backend::Op::Read), "reads");
    let writes = count(backend::Op::Write) + count(backend::Op::SetLen);
    assert_eq!(counters.backend_writes, writes, "writes");
    assert_eq!(
        counters.backend_flushes,
        count(backend::Op::Flush),
        "flushes"
    );
}
