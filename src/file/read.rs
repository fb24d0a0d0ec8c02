//! Reading: an optimistic read under the bitmap's seqlock, compared with checksums where it is not trusted yet.
//!
//! ```text
//!   look ──► bytes ──► checksums, if any of the run has to be compared ──► settle
//!     ▲        └─ failed: both halves, their halves, … single blocks ────────►│
//!     └────────── blocks lost what they had meanwhile; once ──────────────────┘
//! ```
//!
//! Bytes go straight into the caller's buffer. A block that does not match its checksum is dropped and named, so that the
//! caller fetches it. A block that could not be read is named too, and stays as it is (I8): the read may have failed for
//! a moment. A read of several blocks that fails is tried in smaller pieces, so that a bad sector costs one block. A
//! backend of which no piece can be read is left alone after a few.
//!
//! While a read waits for the backend, another task may drop a block, fetch it again and overwrite it, and that write
//! may fail and leave garbage. So a read is believed only if no block lost what it had meanwhile, or if it matches its
//! checksums. Of tasks that read a run for the first time at once [one compares it](super::compare). Otherwise it looks once more and compares everything.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use gibblox_core::{GibbloxError, GibbloxResult};
use smallvec::{SmallVec, smallvec};
use tracing::{debug, warn};

use crate::backend::CacheOps;
use crate::bitmap::{Flaw, Look, Sight};
use crate::config::VerifyPolicy;
use crate::error::{bypassed, short_read};
use crate::format::checksum::{Checksums, SUM_BYTES};
use crate::format::layout::Layout;
use crate::place::pieces;
use crate::port::Unread;
use crate::run::Run;

use super::compare::Turn;
use super::stored::measure;
use super::{CacheFile, zeroed};

/// How often a run is looked at where blocks are dropped meanwhile: the second time everything is compared.
const LOOKS: usize = 2;

/// A run that was found trusted, hence one backend read away.
pub(crate) type Hit = Sight;

/// Parts of a run that are not to be believed, in order. Mostly none.
pub(crate) type Flaws = SmallVec<[Flaw; 1]>;

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
    pub(crate) flaws: Flaws,
    /// Whether what [is wrong](Flaw::is_wrong) is certain, and no longer valid. Otherwise blocks were dropped meanwhile,
    /// maybe these.
    pub(crate) settled: bool,
    /// Why the first block was not read that was not read.
    pub(crate) error: Option<GibbloxError>,
}

/// A run lost blocks since it was found valid: the caller looks again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotValid;

/// How scrubbing a run went.
#[derive(Debug)]
pub(crate) struct Scrubbed {
    pub(crate) dropped_blocks: u64,
    /// Blocks that could not be read, and were kept.
    pub(crate) unread_blocks: u64,
    /// Whether all could be read, and the file knows what was dropped.
    pub(crate) result: GibbloxResult<()>,
}

/// What reading a run piece by piece found.
#[derive(Debug, Default)]
struct Findings {
    flaws: Flaws,
    error: Option<GibbloxError>,
    /// Whether a block was not there twice: the file is shorter than it was.
    is_short: bool,
    /// Whether anything was read.
    any_read: bool,
}

impl Findings {
    fn wrong(&mut self, run: Run) {
        self.add(run, true);
    }

    fn unread(&mut self, run: Run, why: Unread) {
        self.add(run, false);
        self.error.get_or_insert(why.into_error());
    }

    fn add(&mut self, run: Run, is_wrong: bool) {
        self.flaws.push(Flaw { run, is_wrong });
        self.join_last();
    }

    /// Makes one of the last two, where they adjoin and are of one kind.
    fn join_last(&mut self) {
        if let [.., before, last] = self.flaws.as_mut_slice() {
            if let Some(joined) = before.run.join(last.run) {
                if before.is_wrong == last.is_wrong {
                    before.run = joined;
                    self.flaws.pop();
                }
            }
        }
    }

    /// Brings the flaws into order.
    fn sort(&mut self) {
        let mut flaws = core::mem::take(&mut self.flaws);
        flaws.sort_unstable_by_key(|flaw| flaw.run.start());
        flaws
            .iter()
            .for_each(|flaw| self.add(flaw.run, flaw.is_wrong));
    }
}

/// So many pieces that fail, with nothing read before, and the rest is not tried.
const FAILURES: usize = 8;

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
    /// in the file too. What cannot be read stays.
    ///
    /// Cost: as [`read`](Self::read), and one write where anything is dropped.
    pub(crate) async fn scrub(&self, run: Run, buf: &mut [u8]) -> Result<Scrubbed, NotValid> {
        let looked = self.look(run, buf, Compare::Everything).await?;
        let blocks = |is_wrong| {
            let flaws = looked.flaws.iter();
            let flaws = flaws.filter(|flaw| flaw.is_wrong == is_wrong);
            flaws.map(|flaw| flaw.run.blocks()).sum()
        };
        let (dropped_blocks, unread_blocks) = (blocks(true), blocks(false));
        if !looked.settled && dropped_blocks != 0 {
            return Err(NotValid);
        }
        let mut result = looked.error.map_or(Ok(()), Err);
        if dropped_blocks != 0 {
            result = self.write_bits(run).await.and(result);
        }
        Ok(Scrubbed {
            dropped_blocks,
            unread_blocks,
            result,
        })
    }

    /// Reads `run`, which was valid, into `buf`, which is as long, and compares all of it.
    pub(super) async fn look_at_all(&self, run: Run, buf: &mut [u8]) -> Result<Looked, NotValid> {
        self.look(run, buf, Compare::Everything).await
    }

    async fn look(&self, run: Run, buf: &mut [u8], compare: Compare) -> Result<Looked, NotValid> {
        for looked_before in (0..LOOKS).map(|look| look > 0) {
            let look = self.validity.look(run).ok_or(NotValid)?;
            // Where one block has to be compared, all of the run are: what is trusted when its bytes arrive may have
            // been repaired since they were read. After a look that was disturbed comparing tells more than looking.
            let comparing = self.has_checksums()
                && (looked_before || compare == Compare::Everything || self.must_compare(look));
            let is_first_read = comparing
                && !looked_before
                && compare == Compare::AsConfigured
                && self.verify != VerifyPolicy::OnEveryRead;
            let mut found = Findings::default();
            let mut turn = None;
            let read = if is_first_read {
                self.read_first(look, run, buf, &mut turn, &mut found).await
            } else {
                let read = self.read_piece(run, buf, comparing, &mut found).await;
                read.map(|()| comparing)
            };
            let mut compared = comparing;
            match read {
                Ok(was_compared) => compared = was_compared,
                Err(Unread::Refused(error)) => found.unread(run, Unread::Refused(error)),
                // Boxed, since it is rare, and would make the future of every read larger.
                Err(why) => {
                    Box::pin(self.read_smaller(run, buf, comparing, why, &mut found)).await;
                }
            }
            let settled = !look.is_disturbed();
            // What matches is right, whatever happened meanwhile. What does not, or could not be read, may have been
            // repaired.
            if settled || compared && found.error.is_none() {
                if settled {
                    let wrong = found.flaws.iter().filter(|flaw| flaw.is_wrong);
                    wrong.for_each(|flaw| self.mismatched(flaw.run));
                }
                look.settle(&found.flaws, settled);
                // Those who wait find the run trusted now, or its bad blocks dropped.
                if let Some(turn) = turn {
                    turn.done();
                }
                if found.is_short {
                    Box::pin(self.truncated(&mut found)).await;
                }
                return Ok(Looked {
                    flaws: found.flaws,
                    settled,
                    error: found.error,
                });
            }
        }
        Ok(Looked {
            flaws: smallvec![Flaw {
                run,
                is_wrong: true
            }],
            settled: false,
            error: None,
        })
    }

    /// Reads `run` into `buf`, which is as long, and compares it unless it is trusted by then, since another task has
    /// compared it. Whether it did. `turn` is to be kept until what was found is settled.
    async fn read_first<'c>(
        &'c self,
        look: Look<'_>,
        run: Run,
        buf: &mut [u8],
        turn: &mut Option<Turn<'c>>,
        found: &mut Findings,
    ) -> Result<bool, Unread> {
        self.read_data(run, buf).await?;
        if !look.is_trusted() {
            *turn = Some(self.comparing.turn(run).await);
        }
        let compares = !look.is_trusted();
        if compares {
            let read = self.find_mismatches(run, buf, found).await;
            if read.is_err() {
                // The others try for themselves.
                if let Some(turn) = turn.take() {
                    turn.done();
                }
            }
            read?;
        }
        found.any_read = true;
        Ok(compares)
    }

    /// Reads `run`, of which reading all at once failed, in smaller pieces.
    ///
    /// Level by level, not depth first: beside a bad sector each piece that fails is then followed by one that succeeds,
    /// so it does not look like a backend that fails again and again.
    async fn read_smaller(
        &self,
        run: Run,
        buf: &mut [u8],
        comparing: bool,
        why: Unread,
        found: &mut Findings,
    ) {
        let mut rest: VecDeque<Run> = VecDeque::new();
        let mut failures = 0;
        let mut failed = Some((run, why));
        if run.blocks() == 1 && matches!(failed, Some((_, Unread::Short(_)))) {
            failed = None;
            rest.push_back(run);
        }
        loop {
            if let Some((part, why)) = failed.take() {
                failures += 1;
                let gives_up = matches!(why, Unread::Refused(_))
                    || failures >= FAILURES && !found.any_read
                    || rest.try_reserve(2).is_err();
                if let Some((first, second)) = part.halves().filter(|_| !gives_up) {
                    rest.extend([first, second]);
                } else {
                    found.is_short |= matches!(why, Unread::Short(_)) && part.blocks() == 1;
                    found.unread(part, why);
                }
                if gives_up {
                    let error = found.error.clone().unwrap_or_else(bypassed);
                    for part in core::mem::take(&mut rest) {
                        found.unread(part, Unread::Refused(error.clone()));
                    }
                }
            }
            let Some(part) = rest.pop_front() else {
                break;
            };
            let from = self.geometry.len_bytes(part.start() - run.start());
            let len = self.geometry.len_bytes(part.blocks());
            let piece = buf.get_mut(from..).and_then(|buf| buf.get_mut(..len));
            let piece = piece.unwrap_or_default();
            let mut tried = self.read_piece(part, piece, comparing, found).await;
            if part.blocks() == 1 && matches!(tried, Err(Unread::Short(_))) {
                // One short answer is not a fact.
                tried = self.read_piece(part, piece, comparing, found).await;
            }
            failed = tried.err().map(|why| (part, why));
        }
        found.sort();
    }

    /// Whether the policy wants a run compared before it is served.
    fn must_compare(&self, look: Look<'_>) -> bool {
        match self.verify {
            VerifyPolicy::OnFirstRead | VerifyPolicy::OnFirstReadOfStored => !look.is_trusted(),
            VerifyPolicy::OnEveryRead => true,
            VerifyPolicy::Never => self.validity.was_distrusted() && !look.is_trusted(),
        }
    }

    /// Reads `run` into `buf`, which is as long, and compares it if that is wanted.
    async fn read_piece(
        &self,
        run: Run,
        buf: &mut [u8],
        comparing: bool,
        found: &mut Findings,
    ) -> Result<(), Unread> {
        self.read_data(run, buf).await?;
        if comparing {
            self.find_mismatches(run, buf, found).await?;
        }
        found.any_read = true;
        Ok(())
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

    /// The blocks of `run`, which `buf` holds, that differ from their checksums. Nothing is found where these cannot be
    /// read.
    async fn find_mismatches(
        &self,
        run: Run,
        buf: &[u8],
        found: &mut Findings,
    ) -> Result<(), Unread> {
        let sums = zeroed(Layout::sums_len(run), "checksums");
        let mut sums = sums.map_err(Unread::Refused)?;
        let mut rest = sums.as_mut_slice();
        for piece in pieces(run, |run| self.places.sums(run)) {
            let len = Layout::sums_len(piece.run);
            let Some((part, behind)) = core::mem::take(&mut rest).split_at_mut_checked(len) else {
                break;
            };
            self.calls().read_all(piece.offset_bytes, part).await?;
            rest = behind;
        }
        let hasher = self.hasher();
        let blocks = buf.chunks_exact(self.geometry.len_bytes(1));
        let sums = sums.chunks_exact(SUM_BYTES);
        for ((lba, block), sum) in (run.start()..).zip(blocks).zip(sums) {
            if hasher.sum(lba, block) != sum {
                found.wrong(Run::block(lba));
            }
        }
        Ok(())
    }

    /// A block was not there twice: the file may have become shorter while it was open, and the next write makes it longer
    /// again, with a hole. What lies past its end is dropped; an array without a byte is taken for a sick one.
    ///
    /// A hole matches no checksum, so it is enough to compare what is left again. Without checksums the bits of what is
    /// missing are cleared in the file, as far as the backend lets it.
    #[cold]
    async fn truncated(&self, found: &mut Findings) {
        let Some(checksums) = self.opened_as() else {
            return;
        };
        let measured = measure(&self.calls().quiet(), &self.layout, checksums).await;
        let Ok((1.., blocks)) = measured else {
            return;
        };
        let Some(missing) = Run::new(blocks, self.geometry.total_blocks()) else {
            return;
        };
        warn!(
            first_lba = missing.start(),
            "the cache file became shorter; what is missing is not valid any more"
        );
        self.validity.invalidate(missing);
        for flaw in &mut found.flaws {
            flaw.is_wrong |= flaw.run.start() >= missing.start();
        }
        if found.flaws.iter().all(|flaw| flaw.is_wrong) {
            // Nothing is there that could not be read.
            found.error = None;
        }
        if checksums == Checksums::Xxh3 {
            self.validity.distrust_all();
        } else {
            let _ = self.erase(missing).await;
        }
    }

    /// Told again whenever their number has doubled, so that a damaged disk does not fill the log.
    #[cold]
    fn mismatched(&self, run: Run) {
        let (lba, blocks) = (run.start(), run.blocks());
        let before = self.counts().mismatched_blocks.get();
        self.counts().mismatched_blocks.add(blocks);
        let so_far = before.saturating_add(blocks);
        if before == 0 || before.ilog2() != so_far.ilog2() {
            warn!(
                lba,
                blocks, so_far, "cached blocks do not match their checksums and are fetched again"
            );
        } else {
            debug!(
                lba,
                blocks, so_far, "cached blocks do not match their checksums"
            );
        }
    }
}
