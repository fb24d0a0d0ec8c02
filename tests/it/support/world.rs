//! The world of a test: a source, a backend, and a reader over both.

use super::backend::{Call, Fault};
use super::{Backend, Immediate, Poller, Reader, Source, cache_blocks, check_read, finish, open};
use core::ops::Range;
use gibblox_cache::{CacheConfig, CacheOps, CachedBlockReader};
use gibblox_core::{GibbloxResult, ReadContext};
use std::sync::Arc;

/// What the bytes of each source follow from.
pub(crate) const SEED: u64 = 5;

/// A reader with what lies above and below it.
pub(crate) struct World<C = Arc<Backend>> {
    pub(crate) source: Arc<Source>,
    pub(crate) backend: Arc<Backend>,
    pub(crate) reader: CachedBlockReader<Arc<Source>, C>,
}

/// A world that is not there yet. Nothing is held by a gate while it is made.
#[derive(Clone)]
pub(crate) struct Plan {
    block_size: u32,
    blocks: u64,
    config: CacheConfig,
    backend: Option<Arc<Backend>>,
    found: Vec<u64>,
    damaged: Option<u64>,
    cached: Vec<Range<u64>>,
    remembers: bool,
}

impl World {
    /// A device of `blocks` blocks of 16 bytes, an empty backend, and a reader with the defaults.
    pub(crate) fn of(blocks: u64) -> Plan {
        Plan {
            block_size: 16,
            blocks,
            config: CacheConfig::new(),
            backend: None,
            found: Vec::new(),
            damaged: None,
            cached: Vec::new(),
            remembers: false,
        }
    }
}

impl Plan {
    pub(crate) fn block(mut self, bytes: u32) -> Self {
        self.block_size = bytes;
        self
    }

    pub(crate) fn config(mut self, config: CacheConfig) -> Self {
        self.config = config;
        self
    }

    /// The reader finds this backend.
    pub(crate) fn over(mut self, backend: Arc<Backend>) -> Self {
        self.backend = Some(backend);
        self
    }

    /// The backend fails as this says, from the first call that opens it.
    pub(crate) fn failing(
        self,
        fault_of: impl FnMut(&Call) -> Option<Fault> + Send + 'static,
    ) -> Self {
        let backend = self.backend.clone().unwrap_or_else(Backend::new);
        backend.fail(fault_of);
        self.over(backend)
    }

    /// The reader finds a file in which an earlier process cached these blocks, each by a read of its own.
    pub(crate) fn found(mut self, blocks: impl IntoIterator<Item = u64>) -> Self {
        self.found = blocks.into_iter().collect();
        self
    }

    /// One of the blocks that it finds is damaged.
    pub(crate) fn damaged(mut self, lba: u64) -> Self {
        self.damaged = Some(lba);
        self
    }

    /// The reader itself has cached this run by one read, and trusts it. May be called again.
    pub(crate) fn cached(mut self, run: Range<u64>) -> Self {
        self.cached.push(run);
        self
    }

    /// The reader itself has cached each of these blocks by a read of its own.
    pub(crate) fn cached_singly(self, blocks: impl IntoIterator<Item = u64>) -> Self {
        let blocks = blocks.into_iter();
        blocks.fold(self, |plan, lba| plan.cached(lba..lba + 1))
    }

    /// The calls that make the world are remembered. Else the first call of a test is number 0.
    pub(crate) fn remembering(mut self) -> Self {
        self.remembers = true;
        self
    }

    pub(crate) fn open(self) -> World {
        self.open_as(Arc::clone)
    }

    /// Over a backend that answers at once.
    pub(crate) fn open_immediate(self) -> World<Immediate> {
        self.open_as(|backend| Immediate(Arc::clone(backend)))
    }

    /// The world in pieces, for a test that needs no more of it.
    pub(crate) fn parts(self) -> (Arc<Source>, Arc<Backend>, Reader) {
        let world = self.open();
        (world.source, world.backend, world.reader)
    }

    fn open_as<C: CacheOps>(self, cache_of: impl Fn(&Arc<Backend>) -> C) -> World<C> {
        let source = Source::new(SEED, self.block_size, self.blocks);
        let backend = self.backend.unwrap_or_else(Backend::new);
        if !self.found.is_empty() {
            cache_blocks(&open(&source, &backend), &source, self.found);
        }
        if let Some(lba) = self.damaged {
            backend.damage(&source.bytes(lba, 1));
        }
        let opening = CachedBlockReader::open(Arc::clone(&source), cache_of(&backend), self.config);
        let reader = finish(opening).expect("a healthy source opens");
        let world = World {
            source,
            backend,
            reader,
        };
        for run in self.cached {
            world.read(run.start, run.end - run.start);
        }
        if !self.remembers {
            world.forget();
        }
        world
    }
}

impl<C: CacheOps> World<C> {
    /// Forgets the calls so far.
    pub(crate) fn forget(&self) {
        self.backend.forget();
        self.source.forget();
    }

    /// Reads and compares with what the source holds.
    #[track_caller]
    pub(crate) fn read(&self, lba: u64, blocks: u64) {
        check_read(&self.reader, &self.source, lba, blocks);
    }

    /// Caches ahead.
    pub(crate) fn ensure(&self, lba: u64, blocks: u64) -> GibbloxResult<()> {
        finish(
            self.reader
                .ensure_cached(lba, blocks, ReadContext::BACKGROUND),
        )
    }

    pub(crate) fn flush(&self) -> GibbloxResult<()> {
        finish(self.reader.flush_cache())
    }

    /// The runs that were fetched, in order.
    #[track_caller]
    pub(crate) fn assert_fetched<const N: usize>(&self, runs: [(u64, u64); N], why: &str) {
        assert_eq!(self.source.reads(), runs, "{why}");
    }

    /// How many calls the backend got.
    pub(crate) fn calls(&self) -> usize {
        self.backend.calls().len()
    }

    /// How many blocks are valid.
    pub(crate) fn cached_blocks(&self) -> u64 {
        finish(self.reader.get_stats()).cached_blocks
    }

    /// The runs that are valid.
    #[track_caller]
    pub(crate) fn assert_cached(&self, runs: impl IntoIterator<Item = Range<u64>>) {
        assert!(self.reader.cached_runs().eq(runs));
    }

    /// Lets everything go that is held, so many times.
    pub(crate) fn let_calls_go<T>(&self, poller: &mut Poller<'_, T>, times: usize) {
        poller.run();
        for _ in 0..times {
            self.source.gate.release_all();
            self.backend.gate.release_all();
            poller.run();
        }
    }

    /// Lets everything through, from now on and whatever is held.
    pub(crate) fn open_gates(&self) {
        self.source.gate.open();
        self.backend.gate.open();
    }
}
