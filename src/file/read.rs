//! Reading: an optimistic read under the bitmap's seqlock, compared with checksums where it is not trusted yet.
//!
//! ```text
//!   look ──► bytes ──► checksums, if any of the run has to be compared ──► settle
//!     ▲                                                                      │
//!     └────────── blocks lost what they had meanwhile; once ─────────────────┘
//! ```
//!
//! Bytes go straight into the caller's buffer. What does not match its checksum is dropped and named, so that the caller
//! fetches it. While a read waits for the backend, another task may drop a block, fetch it again and overwrite it, and
//! that write may fail and leave garbage. So a read is believed only if no block lost what it had meanwhile, or if it
//! matches its checksums. Otherwise it looks once more and compares everything.

use gibblox_core::GibbloxResult;
use smallvec::{SmallVec, smallvec};
use tracing::warn;

use crate::backend::CacheOps;
use crate::bitmap::{Look, Sight};
use crate::config::VerifyPolicy;
use crate::error::short_read;
use crate::format::checksum::SUM_BYTES;
use crate::format::layout::Layout;
use crate::place::pieces;
use crate::port::Unread;
use crate::run::Run;

use super::{CacheFile, zeroed};

/// How often a run is looked at where blocks are dropped meanwhile: the second time everything is compared.
const LOOKS: usize = 2;

/// A run that was found trusted, hence one backend read away.
pub(crate) type Hit = Sight;

/// Runs that have to be fetched. Mostly none.
pub(crate) type Unreadable = SmallVec<[Run; 1]>;

/// Which blocks of a read are compared with their checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    /// What the policy asks for.
    AsConfigured,
    Everything,
}

/// How reading a run went.
#[derive(Debug)]
pub(crate) struct Looked {
    /// What could not be read or did not match. What `buf` holds of it is of no use.
    pub(crate) bad: Unreadable,
    /// Whether `bad` is certain, and no longer valid. Otherwise blocks were dropped meanwhile, maybe these.
    pub(crate) settled: bool,
}

/// A run lost blocks since it was found valid: the caller looks again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotValid;

/// How scrubbing a run went.
#[derive(Debug)]
pub(crate) struct Scrubbed {
    pub(crate) dropped_blocks: u64,
    /// Whether the file knows what was dropped.
    pub(crate) written: GibbloxResult<()>,
}

impl<C: CacheOps> CacheFile<C> {
    // ---- plain hits ----

    /// Looks at `run` for a plain hit: all of it trusted, and in one piece.
    #[inline]
    pub(crate) fn find_trusted(&self, run: Run) -> Option<Hit> {
        if self.verify == VerifyPolicy::OnEveryRead || self.places.data(run).run != run {
            return None;
        }
        self.validity.sight(run)
    }

    /// Whether no block has begun to lose what it had since `hit` was found. A bypass counts as if all had.
    #[inline]
    pub(crate) fn is_still(&self, hit: Hit) -> bool {
        self.validity.is_still(hit)
    }

    /// Whether hits are likely to be answered at once. Asking is right either way.
    #[inline]
    pub(crate) fn answers_at_once(&self) -> bool {
        self.port.answers_now()
    }

    /// Reads a hit where the backend can answer at once; `Some(false)` as in [`read_hit`](Self::read_hit).
    #[inline]
    pub(crate) fn read_hit_now(&self, hit: Hit, buf: &mut [u8]) -> Option<bool> {
        let offset = self.places.data(hit.run()).offset_bytes;
        let answer = self.port.hit_now(offset, buf)?;
        Some(self.finish_hit(hit, buf.len(), answer))
    }

    /// Reads a hit. `false` where the backend failed, where it answered short, or where blocks lost what they had
    /// meanwhile: the run is to be read with all that follows.
    ///
    /// Cost: one backend read.
    pub(crate) async fn read_hit(&self, hit: Hit, buf: &mut [u8]) -> bool {
        let offset = self.places.data(hit.run()).offset_bytes;
        let answer = self.port.hit(offset, buf).await;
        self.finish_hit(hit, buf.len(), answer)
    }

    #[inline]
    fn finish_hit(&self, hit: Hit, asked: usize, answer: GibbloxResult<usize>) -> bool {
        match answer {
            Ok(got) if got == asked => self.validity.is_still(hit),
            answer => {
                self.lost_hit(hit, asked, answer);
                false
            }
        }
    }

    /// The blocks stay as they are until the long way fails too. A short answer is told there.
    #[cold]
    fn lost_hit(&self, hit: Hit, asked: usize, answer: GibbloxResult<usize>) {
        let error = match answer {
            Ok(got) if got < asked => return,
            Ok(got) => short_read("the cache backend", got, asked),
            Err(error) => error,
        };
        let offset = self.places.data(hit.run()).offset_bytes;
        self.calls().hit_failed(offset, &error);
    }

    // ---- everything that is no plain hit ----

    /// Reads `run`, which was valid, into `buf`, and compares what is not trusted.
    ///
    /// Cost: one backend read a piece, and one more for the checksums where anything has to be compared. Again, a
    /// bounded number of times, where blocks were dropped meanwhile.
    pub(crate) async fn read(&self, run: Run, buf: &mut [u8]) -> Result<Looked, NotValid> {
        self.look(run, buf, Compare::AsConfigured).await
    }

    /// Reads `run`, which was valid, into `buf`, which is as long, and compares all of it. What is dropped is dropped
    /// in the file too. Returns how many blocks that were.
    ///
    /// Cost: as [`read`](Self::read), and one write where anything is dropped.
    pub(crate) async fn scrub(&self, run: Run, buf: &mut [u8]) -> Result<Scrubbed, NotValid> {
        let Looked { bad, settled } = self.look(run, buf, Compare::Everything).await?;
        if !settled && !bad.is_empty() {
            return Err(NotValid);
        }
        let mut written = Ok(());
        if !bad.is_empty() {
            written = self.write_bits(run).await;
        }
        Ok(Scrubbed {
            dropped_blocks: bad.iter().map(|run| run.blocks()).sum(),
            written,
        })
    }

    async fn look(&self, run: Run, buf: &mut [u8], compare: Compare) -> Result<Looked, NotValid> {
        for looked_before in (0..LOOKS).map(|look| look > 0) {
            let look = self.validity.look(run).ok_or(NotValid)?;
            // Where one block has to be compared, all of the run are: what is trusted when its bytes arrive may have
            // been repaired since they were read. After a look that was disturbed comparing tells more than looking.
            let comparing = self.has_checksums()
                && (looked_before || compare == Compare::Everything || self.must_compare(look));
            let read = match self.read_data(run, buf).await {
                Ok(()) if comparing => self.find_mismatches(run, buf).await,
                Ok(()) => Ok(Unreadable::new()),
                Err(why) => Err(why),
            };
            let settled = !look.is_disturbed();
            // Not before: a bypass that this begins is no reason to keep what could not be read.
            self.calls().settle(read.as_ref().map(drop));
            match read {
                // What matches is right, whatever happened meanwhile; what does not may have been repaired.
                Ok(bad) if settled || comparing => {
                    if settled {
                        bad.iter().for_each(|run| self.mismatched(*run));
                    }
                    look.settle(&bad, settled);
                    return Ok(Looked { bad, settled });
                }
                Err(why) if settled => {
                    look.drop_all();
                    if matches!(why, Unread::Short(_)) {
                        self.truncated().await;
                    }
                    return Ok(Looked {
                        bad: smallvec![run],
                        settled,
                    });
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(Looked {
            bad: smallvec![run],
            settled: false,
        })
    }

    /// Whether the policy wants a run compared before it is served.
    fn must_compare(&self, look: Look<'_>) -> bool {
        match self.verify {
            VerifyPolicy::OnFirstRead => !look.is_trusted(),
            VerifyPolicy::OnEveryRead => true,
            VerifyPolicy::Never => self.validity.was_distrusted() && !look.is_trusted(),
        }
    }

    /// The data of `run`, into `buf`, which is as long.
    async fn read_data(&self, run: Run, mut buf: &mut [u8]) -> Result<(), Unread> {
        for piece in pieces(run, |run| self.places.data(run)) {
            let len = self.geometry.len_bytes(piece.run.blocks());
            let Some((part, rest)) = core::mem::take(&mut buf).split_at_mut_checked(len) else {
                break;
            };
            self.calls().read_all(piece.offset_bytes, part).await?;
            buf = rest;
        }
        Ok(())
    }

    /// The blocks of `run`, which `buf` holds, that differ from their checksums.
    async fn find_mismatches(&self, run: Run, buf: &[u8]) -> Result<Unreadable, Unread> {
        let mut bad = Unreadable::new();
        let mut blocks = (run.start()..).zip(buf.chunks_exact(self.geometry.len_bytes(1)));
        for piece in pieces(run, |run| self.places.sums(run)) {
            let sums = zeroed(Layout::sums_len(piece.run), "checksums");
            let mut sums = sums.map_err(Unread::Refused)?;
            self.calls().read_all(piece.offset_bytes, &mut sums).await?;
            for (sum, (lba, block)) in sums.chunks_exact(SUM_BYTES).zip(&mut blocks) {
                if self.hasher.sum(lba, block) == sum {
                    continue;
                }
                let block_run = Run::block(lba);
                let joined = bad.last().and_then(|last| last.join(block_run));
                match (bad.last_mut(), joined) {
                    (Some(last), Some(joined)) => *last = joined,
                    _ => bad.push(block_run),
                }
            }
        }
        Ok(bad)
    }

    /// The file became shorter while it was open, and the next write makes it longer again, with a hole.
    ///
    /// A hole matches no checksum, so it is enough to compare everything again. Without checksums nothing is valid any
    /// more, here and, as far as the backend lets it, in the file.
    #[cold]
    async fn truncated(&self) {
        if self.has_checksums() {
            self.validity.distrust_all();
            return;
        }
        if let Some(device) = Run::new(0, self.geometry.total_blocks()) {
            self.invalidate(device);
            let _ = self.erase(device).await;
        }
    }

    #[cold]
    fn mismatched(&self, run: Run) {
        self.counts().mismatched_blocks.add(run.blocks());
        warn!(
            lba = run.start(),
            blocks = run.blocks(),
            "cached blocks do not match their checksums and are fetched again"
        );
    }
}
