//! Readers-writer locking of an array while its file is opened: who may use it, who may reset it, and who goes without.
//!
//! ```text
//!   join the tenants ── of another identity? ──► go without
//!        │
//!        ├─ not the first one ───────────► use what the others have, or go without
//!        ▼
//!   lock Sole ── granted ──► use it, or rebuild it ──► lock Shared ──► look at the header again
//!        │ refused
//!        ▼
//!   lock Shared ─ granted ─► ours: use it, with others
//!                            another source's: renew, and begin again; or go without
//!                            none yet: another process is about to build it, begin again
//! ```
//!
//! A file is reset only under a sole lock, and a reader keeps a shared one while it lives, so no file is reset under a
//! live reader. A lock that changes its mode may be lost in between, so the header is read after it has changed. A
//! reader that is refused keeps no lock: of two that want the same, one gets it.
//!
//! A reader that goes without tries again as after any failure to open: less and less often when it misses.
//!
//! # Sharing
//!
//! Readers of one identity share a file without telling each other what they store. Each trusts what it wrote or compared,
//! as if the others were earlier processes. A reader that knows of others writes the bits of its own blocks and leaves those
//! beside them as the file has them. The first of several processes does not know: what others store beside its blocks
//! may be fetched again by the process after them.
//!
//! # What was not done
//!
//! Waiting for a lock for long: it takes a thread or a timer. Asking before each write whether the file is still there: a lock that
//! is kept answers that once.

use alloc::format;

use gibblox_core::GibbloxResult;
use tracing::{debug, warn};

use crate::backend::{CacheOps, LockMode, LockOutcome, Tenant};
use crate::bitmap::Validity;
use crate::config::RebuildPolicy;
use crate::error::{busy, kept, not_open, read_only, taken};
use crate::format::header::{Header, Reason};
use crate::port::{Calls, ReadPieces};
use crate::run::Run;
use crate::stats::CacheState;
use crate::sync::{AtomicBool, Lock, Ordering};
use crate::turn::yield_now;

use super::open::{Found, Otherwise, Waits};
use super::{CHECKED, CacheFile, zeroed};

/// How often an opening begins again because another process is at the same.
const TRIES: usize = 8;

/// One reader's right to the array.
#[derive(Debug, Default)]
pub(super) struct Owner {
    /// While the file is open, where the backend knows its tenants.
    tenant: Lock<Option<Tenant>>,
    /// Whether another reader had the file open when this one opened it.
    is_second: AtomicBool,
    /// Whether another reader has the array, as the last attempt to open found.
    is_refused: AtomicBool,
    /// Whether the policy keeps what is there, as the last attempt to open found.
    is_kept: AtomicBool,
}

impl Owner {
    /// What a program is told of a file that is not open.
    pub(super) fn closed_state(&self) -> CacheState {
        if self.is_refused.load(Ordering::Relaxed) {
            CacheState::Taken
        } else if self.is_kept.load(Ordering::Relaxed) {
            CacheState::Kept
        } else {
            CacheState::NotOpen
        }
    }

    /// Gives up the array.
    pub(super) fn leave(&self) {
        let tenant = self.tenant.with(Option::take);
        // Outside of the lock: the backend may have something to do when the last tenant leaves.
        drop(tenant);
    }

    /// Whether other readers may write to the file.
    pub(super) fn shares(&self) -> bool {
        self.is_second.load(Ordering::Relaxed)
            || self
                .tenant
                .with(|tenant| tenant.as_ref().is_some_and(|tenant| !tenant.is_alone()))
    }
}

/// What an opening came to.
enum Outcome {
    Open(usize),
    /// Another reader has the array, for as long as it lives.
    Taken,
    /// The policy keeps what is there.
    Kept,
    /// Another process is just building the file, or this source's is not there and may not be built.
    NotNow,
}

impl<C: CacheOps> CacheFile<C> {
    /// Uses or rebuilds what is on the backend, as far as other readers of it let this one. Returns the state that
    /// the file is in then.
    ///
    /// Cancellation is strict: a place among the tenants, and the lock, are given back.
    pub(super) async fn open_owned(
        &self,
        calls: &Calls<'_, C, Validity>,
        otherwise: Otherwise,
        waits: Waits,
    ) -> GibbloxResult<usize> {
        let named = self.named();
        let header = Header::new(self.geometry, named.identity())?;
        let tenant = match self.port.tenants() {
            None => None,
            Some(tenants) => {
                let geometry = self.geometry;
                let (size, blocks) = (geometry.block_size(), geometry.total_blocks());
                let who = format!("{size} {blocks} {}", named.identity());
                let Some(tenant) = tenants.join(&who)? else {
                    return Err(self.refused("another reader in this process"));
                };
                Some(tenant)
            }
        };
        let outcome = {
            let alone = match (&tenant, waits) {
                (None, _) => None,
                (Some(tenant), Waits::Yes) => Some(tenant.opens_alone().await),
                (Some(tenant), Waits::No) => Some(tenant.opens_alone_now().ok_or_else(busy)?),
            };
            let is_first = tenant.as_ref().is_none_or(Tenant::is_first);
            let outcome = if is_first {
                self.open_first(calls, header, otherwise, waits).await
            } else {
                self.open_beside(calls, header).await
            };
            if let (Some(tenant), Ok(Outcome::Open(_))) = (&tenant, &outcome) {
                // The next one to open finds that this one has the lock.
                tenant.has_opened();
            }
            drop(alone);
            outcome?
        };
        match outcome {
            Outcome::Open(state) => {
                // It is opened once, or has left, so there is none yet.
                self.owner.tenant.with(|place| *place = tenant);
                self.owner.is_kept.store(false, Ordering::Relaxed);
                if self.owner.is_refused.swap(false, Ordering::Relaxed) {
                    debug!("the cache file is used: the reader that had it has gone");
                }
                Ok(state)
            }
            Outcome::Taken => Err(self.refused("another process")),
            Outcome::Kept => Err(self.kept()),
            Outcome::NotNow if self.port.is_read_only() => Err(read_only()),
            Outcome::NotNow if otherwise == Otherwise::Leave => Err(not_open()),
            Outcome::NotNow => Err(busy()),
        }
    }

    #[cold]
    fn refused(&self, by: &str) -> gibblox_core::GibbloxError {
        if !self.owner.is_refused.swap(true, Ordering::Relaxed) {
            warn!(
                identity = self.named().identity(),
                "reading without a cache: {by} uses the array for another source"
            );
        }
        taken()
    }

    #[cold]
    fn kept(&self) -> gibblox_core::GibbloxError {
        if !self.owner.is_kept.swap(true, Ordering::Relaxed) {
            let (size, blocks) = (self.geometry.block_size(), self.geometry.total_blocks());
            warn!(
                identity = self.named().identity(),
                block_size = size,
                blocks,
                "reading without a cache: the array holds another one, which is not to be overwritten"
            );
        }
        kept()
    }

    /// Whether what was found stays as it is, though it is no file of this source.
    fn keeps(&self, otherwise: Otherwise, found: Found) -> bool {
        otherwise == Otherwise::Rebuild
            && match found {
                Found::Resized => self.rebuild != RebuildPolicy::Always,
                Found::Other => self.rebuild == RebuildPolicy::Never,
                Found::Ours(_) | Found::Nothing(_) => false,
            }
    }

    /// Opens beside other tenants of the same identity: they have the lock, and may not lose what they have.
    async fn open_beside(
        &self,
        calls: &Calls<'_, C, Validity>,
        header: Header<'_>,
    ) -> GibbloxResult<Outcome> {
        self.owner.is_second.store(true, Ordering::Relaxed);
        self.open_unlocked(calls, header, Otherwise::Leave).await
    }

    /// Opens as the only tenant.
    async fn open_first(
        &self,
        calls: &Calls<'_, C, Validity>,
        header: Header<'_>,
        otherwise: Otherwise,
        waits: Waits,
    ) -> GibbloxResult<Outcome> {
        let may_rebuild = otherwise != Otherwise::Leave && !self.port.is_read_only();
        let mut outcome = Outcome::NotNow;
        for _ in 0..TRIES {
            match self.port.lock(LockMode::Sole).await {
                LockOutcome::Unknown => {
                    return self.open_unlocked(calls, header, otherwise).await;
                }
                LockOutcome::Granted => {
                    let found = self.find(calls, header).await?;
                    if !matches!(found, Found::Ours(_)) {
                        if !may_rebuild {
                            return Ok(Outcome::NotNow);
                        }
                        if self.keeps(otherwise, found) {
                            return Ok(Outcome::Kept);
                        }
                        self.rebuild(calls, header, found).await?;
                    }
                    if self.port.lock(LockMode::Shared).await == LockOutcome::Granted {
                        if let Found::Ours(checksums) = self.find(calls, header).await? {
                            self.owner.is_second.store(false, Ordering::Relaxed);
                            return self.load(calls, checksums).await.map(Outcome::Open);
                        }
                    }
                }
                LockOutcome::Refused => {
                    let lock = self.port.lock(LockMode::Shared).await;
                    if lock != LockOutcome::Refused {
                        match self.find(calls, header).await? {
                            Found::Ours(checksums) => {
                                self.owner.is_second.store(true, Ordering::Relaxed);
                                return self.load(calls, checksums).await.map(Outcome::Open);
                            }
                            _ if !may_rebuild => return Ok(Outcome::NotNow),
                            found if self.keeps(otherwise, found) => return Ok(Outcome::Kept),
                            // It is being built, and the next look finds whose it is.
                            Found::Nothing(Reason::Empty | Reason::Blank | Reason::Truncated) => {}
                            Found::Resized | Found::Other | Found::Nothing(_) => {
                                match self.port.renew().await {
                                    Ok(true) => {}
                                    Ok(false) => return Ok(Outcome::Taken),
                                    Err(error) => {
                                        debug!(%error, "there is no fresh array to be had");
                                        outcome = Outcome::Taken;
                                    }
                                }
                            }
                        }
                    }
                }
            }
            match waits {
                // The other process flushes what it builds. A flush of the same file here ends at about that time.
                Waits::Yes => drop(calls.flush().await),
                Waits::No => {}
            }
            yield_now().await;
        }
        Ok(outcome)
    }

    /// Opens without asking for a lock.
    async fn open_unlocked(
        &self,
        calls: &Calls<'_, C, Validity>,
        header: Header<'_>,
        otherwise: Otherwise,
    ) -> GibbloxResult<Outcome> {
        let may_rebuild = otherwise != Otherwise::Leave && !self.port.is_read_only();
        match self.find(calls, header).await? {
            Found::Ours(checksums) => self.load(calls, checksums).await.map(Outcome::Open),
            _ if !may_rebuild => Ok(Outcome::NotNow),
            found if self.keeps(otherwise, found) => Ok(Outcome::Kept),
            found => {
                self.rebuild(calls, header, found).await?;
                Ok(Outcome::Open(CHECKED))
            }
        }
    }

    /// Of `bits`, which are to be written at the byte `first` of the bitmap, takes only those of `run`, where other
    /// readers may have set the others.
    pub(super) async fn keep_bits_of_others(
        &self,
        first: u64,
        run: Run,
        bits: &mut [u8],
    ) -> GibbloxResult<()> {
        if !self.owner.shares() {
            return Ok(());
        }
        let mut found = zeroed(bits.len(), "bits")?;
        let offset = self.layout.bitmap().start + first;
        self.calls().read_some(offset, &mut found).await?;
        for (index, (bits, found)) in (0..).zip(bits.iter_mut().zip(found)) {
            let of_run = bits_of(run, first.saturating_add(index).saturating_mul(8));
            *bits = (*bits & of_run) | (found & !of_run);
        }
        Ok(())
    }
}

/// The bits of a byte whose first one is that of block `lba` that belong to blocks of `run`.
fn bits_of(run: Run, lba: u64) -> u8 {
    let bit = |bound: u64| bound.saturating_sub(lba).min(8);
    let below = |bit: u64| ((1_u16 << bit) - 1).to_le_bytes()[0];
    below(bit(run.end())) & !below(bit(run.start()))
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;

    #[test]
    fn the_bits_of_a_run_are_its_own_and_no_others() {
        for start in 0..40 {
            for end in start + 1..40 {
                let run = Run::new(start, end).expect("not empty");
                for byte in 0..6 {
                    let expected = (0..8)
                        .filter(|bit| (start..end).contains(&(byte * 8 + bit)))
                        .fold(0, |bits, bit| bits | 1 << bit);
                    assert_eq!(bits_of(run, byte * 8), expected);
                }
            }
        }
    }
}
