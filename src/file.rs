//! [`CacheFile`]: the cache file of one source. A write-once store of blocks with checksums, under a validity bitmap.
//!
//! ```text
//!   Closed ──open──► Open, with checksums: found or rebuilt
//!      ▲   └───────► Open, without:        a file of 0.0.1
//!      └─ a backend call failed while opening; a later read that misses tries again
//! ```
//!
//! A closed file has no valid block and takes none, so the reader above is slower and not broken. Backend errors leave
//! this room only to those who asked for the work: `open`, `store`, `flush`, `scrub`, `erase`, and what opens the file
//! for these.
//!
//! | part | what it does |
//! |---|---|
//! | [`open`] | finds or rebuilds the file |
//! | [`owner`] | says whether it may |
//! | [`read`] | reads blocks and compares them |
//! | [`compare`] | has one of many first readers compare |
//! | [`store`] | writes blocks and their bits |
//! | [`erase`] | makes what was dropped stay dropped |
//! | [`unkept`] | remembers what is written and not durable yet |
//! | [`version`] | says whose it is, and makes it another version's |
//! | [`stored`] | reads a header and measures a file, for these and for [`inspect`](mod@inspect) |
//!
//! # A flush that fails
//!
//! Nothing tells then what the medium kept, and reading it back may show either. So nothing stays trusted: each block
//! is compared again before it is served. A later flush that succeeds says nothing about what was written before the one
//! that failed, so that is kept in a list ([`unkept`]), and written again before a flush on request is called good.
//!
//! In a file without checksums there is nothing to compare with. What this process has read or written there is dropped
//! and fetched again, and the next process trusts the file as 0.0.1 would.
//!
//! # A backend that is bypassed
//!
//! Nothing counts as valid then, as in a closed file. A task that was in the middle of reading, storing or waiting to
//! open is refused its next call. That is no failure and takes nothing back; the bits stay as they are. After the bypass
//! blocks with checksums are compared again, for the same reason as after a flush that failed.
//!
//! # A source that has changed
//!
//! Nothing counts as valid then either, and nothing is stored, until the file is made one of the new version
//! ([`version`]). Its old blocks are not erased: the file is built anew under the new identity.

mod compare;
mod erase;
mod inspect;
mod open;
mod owner;
mod read;
mod retry;
mod store;
mod stored;
mod unkept;
mod version;

use alloc::string::String;
use core::convert::Infallible;

use gibblox_core::GibbloxResult;
use smallvec::SmallVec;

use crate::backend::CacheOps;
use crate::bitmap::{State, Validity};
use crate::bypass::{Probe, Turn};
use crate::claims::{Claims, Ended};
use crate::config::{BypassPolicy, RebuildPolicy, VerifyPolicy};
use crate::error::{bypassed, out_of_memory};
use crate::format::checksum::Checksums;
use crate::format::header::Header;
use crate::format::layout::Layout;
use crate::geometry::Geometry;
use crate::place::Places;
use crate::port::{Barrier, Calls, Port};
use crate::run::Run;
use crate::stats::{CacheState, Counts};
use crate::sync::{AtomicBool, AtomicUsize, Lock, Ordering};

use compare::Comparing;
use owner::Owner;
use retry::Retry;
use unkept::Unkept;
use version::Version;

pub(crate) use crate::bitmap::Flaw;
pub use inspect::{CacheFileInfo, HeaderDamage, Inspection, inspect};
pub(crate) use read::{Hit, Looked, NotValid};
pub(crate) use store::Rewritten;
pub(crate) use stored::stored_total_blocks;
pub(crate) use version::{Age, Named};

/// The cache file of one source.
#[derive(Debug)]
pub(crate) struct CacheFile<C> {
    port: Port<C>,
    geometry: Geometry,
    layout: Layout,
    places: Places,
    version: Version,
    verify: VerifyPolicy,
    rebuild: RebuildPolicy,
    validity: Validity,
    comparing: Comparing,
    /// One of the [states](Self::opened_as).
    state: AtomicUsize,
    /// Held while the file is opened, so that it is opened once.
    opening: async_lock::Mutex<()>,
    owner: Owner,
    /// A header of this process was written and is not known to be durable.
    header_is_due: AtomicBool,
    /// Who probes. There is one thing to claim.
    probing: Claims<bool>,
    /// When a read tries next to open the file.
    retry: Lock<Retry>,
    /// What the next flush has to make durable.
    unkept: Unkept,
    /// How often a flush failed or a bypass ended. Wraps.
    doubts: AtomicUsize,
    /// Who writes which bytes of the bitmap.
    bitmap_writers: Claims<Infallible>,
}

/// Checksums and bitmap bytes of a short run, without an allocation.
type Scratch = SmallVec<[u8; SHORT]>;

const SHORT: usize = 64;

fn zeroed(len: usize, what: &str) -> GibbloxResult<Scratch> {
    let mut scratch = Scratch::from_buf([0; SHORT]);
    if len > SHORT {
        scratch
            .try_reserve_exact(len - SHORT)
            .map_err(|_| out_of_memory(what))?;
        scratch.resize(len, 0);
    }
    scratch.truncate(len);
    Ok(scratch)
}

impl<C> CacheFile<C> {
    /// What a program is told of the cache.
    pub(crate) fn state(&self) -> CacheState {
        if self.age().is_outdated() {
            CacheState::SourceChanged
        } else if self.port.is_bypassed() {
            CacheState::Bypassed
        } else if self.state.load(Ordering::Acquire) == CLOSED {
            self.owner.closed_state()
        } else if self.port.is_failing() {
            CacheState::Failing
        } else {
            CacheState::Serving
        }
    }
}

impl Barrier for Validity {
    /// The change is open from before the first refused call until after the last, so a reader that is refused never
    /// takes its look for an undisturbed one. Openings and closings nest.
    fn raise(&self) {
        self.begin_change();
    }

    fn lower(&self) {
        self.end_change();
    }
}

impl<C: CacheOps> CacheFile<C> {
    /// Describes the cache file of the source `identity` on `backend`. No I/O: [`open`](Self::open) does that.
    pub(crate) fn new(
        backend: C,
        geometry: Geometry,
        identity: String,
        verify: VerifyPolicy,
        rebuild: RebuildPolicy,
        bypass: Option<BypassPolicy>,
    ) -> GibbloxResult<Self> {
        let header = Header::new(geometry, &identity)?;
        let layout = Layout::new(geometry, header.len_bytes())?;
        Ok(Self {
            places: Places::new(layout),
            validity: Validity::new(geometry.total_blocks())?,
            version: Version::new(identity),
            comparing: Comparing::default(),
            port: Port::new(backend, bypass),
            geometry,
            layout,
            verify,
            rebuild,
            state: AtomicUsize::new(CLOSED),
            opening: async_lock::Mutex::new(()),
            owner: Owner::default(),
            header_is_due: AtomicBool::new(false),
            probing: Claims::default(),
            retry: Lock::default(),
            unkept: Unkept::default(),
            doubts: AtomicUsize::new(0),
            bitmap_writers: Claims::default(),
        })
    }

    pub(crate) const fn counts(&self) -> &Counts {
        self.port.counts()
    }

    const fn calls(&self) -> Calls<'_, C, Validity> {
        self.port.calls(&self.validity)
    }

    // ---- whether there is a file, and whether it is asked ----

    /// What the open file is, or nothing.
    fn opened_as(&self) -> Option<Checksums> {
        match self.state.load(Ordering::Acquire) {
            CLOSED => None,
            LEGACY | LEGACY_SHORT => Some(Checksums::Absent),
            _ => Some(Checksums::Xxh3),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.opened_as().is_some()
    }

    /// Whether there is anything to compare blocks with.
    pub(crate) fn has_checksums(&self) -> bool {
        self.opened_as() == Some(Checksums::Xxh3)
    }

    /// An error where the backend is bypassed.
    pub(crate) fn check_used(&self) -> GibbloxResult<()> {
        self.port.check()
    }

    /// Opens the file where it is not open yet, and probes a backend that is bypassed. An error where the cache cannot
    /// be used: for a task that wants the cache itself.
    pub(crate) async fn ready(&self) -> GibbloxResult<()> {
        self.check_age()?;
        match self.port.turn_at_once() {
            Turn::Use => {}
            Turn::Pass => return Err(bypassed()),
            Turn::Probe(probe) => self.probe(probe).await?,
        }
        if self.is_open() {
            return Ok(());
        }
        self.open().await
    }

    /// Opens the file where it is not open yet and no other task is at it, and takes its turn at probing: for a read,
    /// which goes on without the cache. Whether to look there.
    pub(crate) async fn prepare(&self) -> bool {
        let used = match self.port.turn() {
            Turn::Use => true,
            Turn::Pass => false,
            // It was counted and logged where it failed, and the read goes past as those before it.
            Turn::Probe(probe) => self.probe(probe).await.is_ok(),
        };
        if used {
            self.open_unless_busy().await;
        } else {
            self.counts().bypassed_reads.add(1);
        }
        used
    }

    pub(crate) fn is_bypassed(&self) -> bool {
        self.port.is_bypassed()
    }

    /// Probes a bypassed backend now, for a read that has nowhere else to go. Whether it is used again. Of several such
    /// reads one probes, and the others hear how it went.
    pub(crate) async fn probe_at_once(&self) -> bool {
        let probing = match self.probing.claim(Run::block(0), ()) {
            Ok(probing) => probing,
            Err(wait) => match wait.await {
                Ended::Told(_, is_used) => return is_used,
                Ended::Yours(probing) => probing,
            },
        };
        let is_used = match self.port.turn_at_once() {
            Turn::Use => true,
            Turn::Pass => false,
            Turn::Probe(probe) => self.probe(probe).await.is_ok(),
        };
        probing.end(&is_used, |(), _| true);
        is_used
    }

    async fn probe(&self, probe: Probe<'_>) -> GibbloxResult<()> {
        let before = || {
            if self.has_checksums() {
                self.validity.distrust_all();
                self.doubt();
            }
        };
        self.calls().probe(probe, before).await
    }

    // ---- what is valid; nothing while the file is closed, though it may be half loaded, or bypassed ----

    pub(crate) fn shows_blocks(&self) -> bool {
        self.is_open() && !self.port.is_bypassed() && !self.age().is_outdated()
    }

    /// The state of the first block of `run`, and the longest beginning of `run` that shares it.
    pub(crate) fn state_at(&self, run: Run) -> (State, Run) {
        if self.shows_blocks() {
            self.validity.state_at(run)
        } else {
            (State::Missing, run)
        }
    }

    /// [`state_at`](Self::state_at), or an error while the backend is bypassed: for a task that would take that for a
    /// cache with nothing in it.
    pub(crate) fn known_state_at(&self, run: Run) -> GibbloxResult<(State, Run)> {
        // In this order: where it is bypassed from now on, the bits are what they were.
        self.check_used()?;
        self.check_age()?;
        if self.is_open() {
            Ok(self.validity.state_at(run))
        } else {
            Ok((State::Missing, run))
        }
    }

    /// How many blocks of `run` are valid.
    pub(crate) fn count_valid(&self, run: Run) -> u64 {
        if self.shows_blocks() {
            self.validity.count_valid(run)
        } else {
            0
        }
    }

    /// How many blocks are valid, or will be again when the backend is used again.
    pub(crate) fn valid_blocks(&self) -> u64 {
        if self.is_open() {
            self.validity.valid_blocks()
        } else {
            0
        }
    }

    /// Whether `run` can be served without comparing anything.
    #[inline]
    pub(crate) fn is_trusted(&self, run: Run) -> bool {
        self.verify != VerifyPolicy::OnEveryRead && self.validity.is_trusted(run)
    }

    // ---- durability ----

    /// Makes durable what was written. After an error nothing is trusted any more, so this refuses nothing: the caller
    /// has [checked](Self::check_used).
    ///
    /// True: all that was valid when this was called is durable, whatever failed before. False: a flush may have
    /// [lost](Self::lost_from) some of it before or meanwhile.
    ///
    /// Cancellation is strict: a dropped flush promises nothing, and what it covered is written again before a later flush
    /// promises anything.
    pub(crate) async fn flush(&self) -> GibbloxResult<bool> {
        let mended = self.mend_bits().await;
        let covering = self.unkept.begin();
        let asking = Asking(self);
        let result = self.calls().flush().await;
        asking.answered();
        if result.is_err() {
            match self.opened_as() {
                None => {}
                Some(Checksums::Xxh3) => self.validity.distrust_all(),
                Some(Checksums::Absent) => self.validity.drop_trusted(),
            }
            self.doubt();
        }
        result?;
        let kept = covering.kept();
        mended.map(|()| kept)
    }
}

/// A flush whose answer is not known. Dropped before it comes, what has checksums is compared again: the flush may have
/// failed.
struct Asking<'a, C: CacheOps>(&'a CacheFile<C>);

impl<C: CacheOps> Asking<'_, C> {
    fn answered(self) {
        core::mem::forget(self);
    }
}

impl<C: CacheOps> Drop for Asking<'_, C> {
    fn drop(&mut self) {
        if self.0.has_checksums() {
            self.0.validity.distrust_all();
        }
    }
}

/// The states of a file.
const CLOSED: usize = 0;
const LEGACY: usize = 1;
/// A file of 0.0.1 that is too short, and that the backend would not repair.
const LEGACY_SHORT: usize = 2;
const CHECKED: usize = 3;
