//! What people report about caches like this one, family by family: faults that pass, waits without end, loops that never
//! yield, promises that a medium breaks.
//!
//! Each test sweeps a family: which call fails and how, where and how long a read is, which policy, whose file. What it
//! finds is gathered, so that a failure says how many of how many cases are wrong. The names that the crate gives to what
//! a test asks for are in [`today`] alone.

/// A bypassed backend is asked at once where the source is out of reach.
mod bypassed;
/// A source that refuses long reads is read in pieces, side by side, and each is kept.
mod caps;
/// `Ok` of a flush is true whatever failed before, and whichever task flushed beside it.
mod flushes;
/// A disk that was full at the first start costs few calls and few warnings, and is bypassed.
mod full_disk;
/// What one of many readers has found out the others need not find out again.
mod herds;
/// The limit of fetches is over all readers, and the foreground is next.
mod limits;
/// A backend that stored nothing does not serve zeros where blocks are compared.
mod lying;
mod medium;
/// Caching ahead ends with `Ok` beside any number of invalidations.
mod passes;
/// A read that failed is not damage (I8).
mod passing_fault;
/// What was dropped stays dropped after a rebuild, and a rebuild that failed begins anew.
mod rebuilds;
/// What was found by reading the code.
mod reviewed;
/// A scrub keeps what it cannot read, and says so.
mod scrub;
/// What a short file still holds is served, also where it cannot be repaired.
mod short_file;
/// Steps that no other test missed when they were taken out.
mod survivors;
mod today;
/// The next task of the same thread gets its turn.
mod turns;

use crate::support::backend::{Call, Fault, Op};
use crate::support::files::{file_of_ours, file_of_published};
use crate::support::source::Fault as SourceFault;
use crate::support::{Backend, Immediate, Source, finish, open, read};
use core::fmt;
use core::ops::Range;
use gibblox_cache::{CacheConfig, CacheOps, CachedBlockReader, OfflinePolicy, VerifyPolicy};
use gibblox_core::{BlockReader, GibbloxResult};
use std::sync::Arc;

/// Makes a file in which these blocks are cached.
type FileOf = fn(&Arc<Source>, Range<u64>) -> Vec<u8>;

/// Files of either crate.
const FILES: [(&str, FileOf); 2] = [
    ("ours", |source, blocks| file_of_ours(source, blocks)),
    ("0.0.1", |source, blocks| file_of_published(source, blocks)),
];

const POLICIES: [VerifyPolicy; 3] = [
    VerifyPolicy::OnFirstRead,
    VerifyPolicy::OnEveryRead,
    VerifyPolicy::Never,
];

/// How a read fails for once. What is no error looks like the end of the file.
const PASSING: [Fault; 3] = [Fault::Error, Fault::Empty, Fault::Short];

/// A reader over any backend.
type AnyReader = CachedBlockReader<Arc<Source>, Arc<dyn CacheOps>>;

/// Whose file a reader goes by, and how.
#[derive(Clone, Copy)]
struct Way {
    file: &'static str,
    file_of: FileOf,
    verify: VerifyPolicy,
    answers_now: bool,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = if self.answers_now { "at once" } else { "later" };
        write!(
            f,
            "a file of {}, {:?}, answers {answers}",
            self.file, self.verify
        )
    }
}

impl Way {
    fn all() -> Vec<Self> {
        let mut ways = Vec::new();
        for (file, file_of) in FILES {
            for verify in POLICIES {
                for answers_now in [false, true] {
                    ways.push(Self {
                        file,
                        file_of,
                        verify,
                        answers_now,
                    });
                }
            }
        }
        ways
    }

    /// Those whose file has checksums.
    fn checked() -> Vec<Self> {
        let all = Self::all().into_iter();
        all.filter(|way| way.file == "ours").collect()
    }

    fn config(&self) -> CacheConfig {
        CacheConfig::new()
            .with_verify(self.verify)
            .with_offline(OfflinePolicy::ServeCached)
    }

    fn open_with(
        &self,
        source: &Arc<Source>,
        backend: &Arc<Backend>,
        config: CacheConfig,
    ) -> GibbloxResult<AnyReader> {
        let backend = Arc::clone(backend);
        let cache: Arc<dyn CacheOps> = if self.answers_now {
            Arc::new(Immediate(backend))
        } else {
            backend
        };
        finish(CachedBlockReader::open(Arc::clone(source), cache, config))
    }

    fn open(&self, source: &Arc<Source>, backend: &Arc<Backend>) -> GibbloxResult<AnyReader> {
        self.open_with(source, backend, self.config())
    }
}

/// What a sweep found.
#[derive(Debug, Default)]
struct Findings {
    cases: usize,
    wrong: Vec<String>,
}

impl Findings {
    fn check(&mut self, is_right: bool, what: impl FnOnce() -> String) {
        self.cases += 1;
        if !is_right {
            self.wrong.push(what());
        }
    }

    /// Panics where anything was wrong.
    #[track_caller]
    fn end(self) {
        let Self { cases, wrong } = self;
        assert!(cases > 0, "nothing was tried");
        let first: Vec<_> = wrong.iter().take(3).collect();
        let count = wrong.len();
        assert!(
            count == 0,
            "{count} of {cases} cases are wrong, such as {first:#?}"
        );
    }
}

/// From now on nothing that is asked of `source` is answered.
fn cut_off(source: &Source) {
    source.fail(|_| Some(SourceFault::io("no route to the source")));
}

/// Reads each block of `blocks` for itself; how many of them come, with the right bytes.
fn served<C: CacheOps>(
    reader: &CachedBlockReader<Arc<Source>, C>,
    source: &Source,
    blocks: Range<u64>,
) -> u64 {
    let mut served = 0;
    for lba in blocks {
        if let Ok(bytes) = finish(read(reader, lba, 1)) {
            source.assert_bytes(lba, &bytes);
            served += 1;
        }
    }
    served
}

/// How many of `blocks` the next process over `file` has to fetch again. The source has to be well.
fn lost_in_file(file: &[u8], source: &Arc<Source>, blocks: Range<u64>) -> u64 {
    source.heal();
    source.forget();
    let reader = open(source, &Backend::with_bytes(file.to_vec()));
    let count = blocks.end - blocks.start;
    assert_eq!(served(&reader, source, blocks), count, "a well source");
    fetched_blocks(source)
}

/// How many blocks were read from `source`.
fn fetched_blocks(source: &Source) -> u64 {
    source.reads().iter().map(|(_, blocks)| blocks).sum()
}

/// How many blocks are valid.
fn cached_blocks<S: BlockReader, C: CacheOps>(reader: &CachedBlockReader<S, C>) -> u64 {
    finish(reader.get_stats()).cached_blocks
}

/// Each read that touches these bytes of the file fails.
fn bad_sector(bytes: Range<u64>) -> impl FnMut(&Call) -> Option<Fault> + Send + 'static {
    move |call| {
        let end = call.offset.saturating_add(call.len as u64);
        let touches = call.offset < bytes.end && bytes.start < end;
        (call.op == Op::Read && touches).then_some(Fault::Error)
    }
}

/// Of the calls for which `which` holds, that with this number fails.
fn fail_once(
    number: usize,
    fault: Fault,
    which: impl Fn(&Call) -> bool + Send + 'static,
) -> impl FnMut(&Call) -> Option<Fault> + Send + 'static {
    let mut seen = 0;
    move |call| {
        if !which(call) {
            return None;
        }
        seen += 1;
        (seen == number + 1).then_some(fault)
    }
}
