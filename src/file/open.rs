//! Opening: a file that matches is used, anything else is rebuilt. The orders of writes are the format's.

use core::fmt;
use core::ops::Range;

use gibblox_core::GibbloxResult;
use tracing::{debug, warn};

use crate::backend::CacheOps;
use crate::bitmap::{Validity, any_set};
use crate::error::short_read;
use crate::format::checksum::Checksums;
use crate::format::header::{BEGUN, BEGUN_BYTES, Header, PREFIX_BYTES, Reason};
use crate::port::{Calls, ReadPieces};
use crate::sync::Ordering;
use crate::turn::yield_now;

use super::retry::Retry;
use super::stored::{Pieces, count_bits, has_byte, measure, read_header};
use super::{CHECKED, CacheFile, LEGACY, LEGACY_SHORT};

/// What becomes of a backend that holds no file of this source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Otherwise {
    /// It gets one, unless the policy keeps what is there.
    Rebuild,
    /// It gets one.
    Replace,
    Leave,
}

/// Whether an opening waits while another reader of the array opens its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    Yes,
    No,
}

/// What lies on the backend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The file of this source.
    Ours(Checksums),
    /// That of a source with the same identity and another size.
    Resized,
    /// That of another source.
    Other,
    /// None, for this reason.
    Nothing(Reason),
}

/// As the log shows it: the reason alone.
impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(_) => f.write_str("Ours"),
            Self::Resized => f.write_str("Resized"),
            Self::Other => f.write_str("Other"),
            Self::Nothing(reason) => reason.fmt(f),
        }
    }
}

impl<C: CacheOps> CacheFile<C> {
    /// Opens the file where it is not open yet: uses what is there, or rebuilds it.
    ///
    /// Cancellation is strict: a file that was left in the middle is closed, and opened from the beginning next time.
    pub(crate) async fn open(&self) -> GibbloxResult<()> {
        let _alone = self.opening.lock().await;
        self.open_alone(Otherwise::Rebuild, Waits::Yes).await
    }

    /// Opens the file if it is one of this source; what is there otherwise is not touched, and an error is returned.
    pub(crate) async fn open_found(&self) -> GibbloxResult<()> {
        let _alone = self.opening.lock().await;
        self.open_alone(Otherwise::Leave, Waits::Yes).await
    }

    /// [`open`](Self::open), unless another task is at it, or the last attempt failed a moment ago: a task that only
    /// reads does not wait for a sick backend.
    pub(super) async fn open_unless_busy(&self) {
        if self.is_open() || !self.retry.with(Retry::is_due) {
            return;
        }
        if let Some(_alone) = self.opening.try_lock() {
            // It was counted and logged where it failed, and the read goes on without the cache.
            let _ = self.open_alone(Otherwise::Rebuild, Waits::No).await;
        }
    }

    /// Whether blocks may be stored, and how.
    pub(super) fn stores_as(&self) -> Option<Checksums> {
        match self.state.load(Ordering::Acquire) {
            LEGACY_SHORT => None,
            _ => self.opened_as(),
        }
    }

    pub(super) async fn open_alone(&self, otherwise: Otherwise, waits: Waits) -> GibbloxResult<()> {
        if self.is_open() {
            return Ok(());
        }
        // The task before may have failed once too often. No other one makes calls while this goes on.
        self.check_used()?;
        // An earlier attempt may have got half way.
        self.validity.clear();
        let calls = self.calls().quiet();
        let failures_before = self.counts().backend_failures();
        let opened = self.open_owned(&calls, otherwise, waits).await;
        match opened {
            Ok(state) => {
                calls.settle(true);
                self.retry.with(core::mem::take);
                // Last: until here no block counts as valid, and none is stored.
                self.state.store(state, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                self.retry.with(Retry::failed);
                if self.counts().backend_failures() != failures_before {
                    calls.settle(false);
                }
                Err(error)
            }
        }
    }

    /// Whose file it is; asked again where it is not ours, since it is rebuilt then, and one answer is not a fact.
    pub(super) async fn find(
        &self,
        calls: &Calls<'_, C, Validity>,
        header: Header<'_>,
    ) -> GibbloxResult<Found> {
        match self.look_whose(calls, header).await? {
            Found::Ours(checksums) => Ok(Found::Ours(checksums)),
            Found::Resized | Found::Other | Found::Nothing(_) => {
                self.look_whose(calls, header).await
            }
        }
    }

    /// Whose file it looks like.
    async fn look_whose(
        &self,
        calls: &Calls<'_, C, Validity>,
        header: Header<'_>,
    ) -> GibbloxResult<Found> {
        let mut stored =
            match read_header(calls, header.len_bytes(), header.identity_bytes()).await? {
                Ok(stored) => stored,
                Err(Reason::LongIdentity(_)) => return Ok(Found::Other),
                Err(reason) => return Ok(Found::Nothing(reason)),
            };
        Ok(match stored.parsed() {
            Ok(parsed) if header.describes(&parsed) => Found::Ours(parsed.checksums),
            Ok(parsed) if header.is_of_same_source(&parsed) => Found::Resized,
            Ok(_) => Found::Other,
            Err(reason) => Found::Nothing(reason),
        })
    }

    /// Takes in the bitmap of a file whose header matches; the state that the file is in then.
    ///
    /// Of a file that is too short, what is missing is not valid, and the rest is served, also where the backend
    /// refuses to repair it. Without checksums nothing is stored there then: the file would grow over bits that claim
    /// its holes to be data (I6). With checksums a hole matches none.
    pub(super) async fn load(
        &self,
        calls: &Calls<'_, C, Validity>,
        checksums: Checksums,
    ) -> GibbloxResult<usize> {
        self.write_due_header(calls).await?;
        let (_, blocks) = measure(calls, &self.layout, checksums).await?;
        let complete = blocks == self.geometry.total_blocks();
        let bitmap = self.layout.bitmap();
        let mut pieces = Pieces::of(bitmap.clone())?;
        let mut repaired = Ok(());
        while let Some((at, piece)) = pieces.next() {
            let mut got = calls.read_some(at, piece).await?;
            if got < piece.len() {
                got = calls.read_some(at, piece).await?;
            }
            if got < piece.len() && blocks != 0 {
                // There is data further on, so this is no end.
                return Err(short_read("the cache backend", got, piece.len()));
            }
            if let Some(missing) = piece.get_mut(got..) {
                missing.fill(0);
            }
            let first_byte = at - bitmap.start;
            let ignored = self.validity.load(first_byte, piece, blocks)?;
            if ignored && !complete && repaired.is_ok() {
                self.validity.encode(first_byte, None, piece);
                repaired = calls.write(at, piece).await;
            }
            if !pieces.is_empty() {
                yield_now().await;
            }
        }
        if !complete && repaired.is_ok() {
            repaired = match calls.flush().await {
                Ok(()) => calls.set_len(self.layout.len(checksums)).await,
                Err(error) => Err(error),
            };
        }
        debug!(
            identity = self.named().identity(),
            cached_blocks = self.validity.valid_blocks(),
            checksums = ?checksums,
            complete,
            repaired = repaired.is_ok(),
            "opened the cache file"
        );
        Ok(match (checksums, repaired) {
            (Checksums::Xxh3, _) => CHECKED,
            (Checksums::Absent, Ok(())) => LEGACY,
            (Checksums::Absent, Err(_)) => LEGACY_SHORT,
        })
    }

    /// Makes an empty file of what is there. The order of writes is the format's.
    ///
    /// Cost: two flushes, a change of length and a look at the bitmap where there was nothing. Otherwise three flushes, two
    /// changes of length, and zeros over the bitmap; over the checksums too, on a backend that cannot be cut off (a
    /// partition).
    pub(super) async fn rebuild(
        &self,
        calls: &Calls<'_, C, Validity>,
        header: Header<'_>,
        why: Found,
    ) -> GibbloxResult<()> {
        debug!(identity = self.named().identity(), why = ?why, "rebuilding the cache file");
        let is_new = match why {
            Found::Nothing(Reason::Empty) => true,
            // As good as empty: a new file that was begun, and nothing after that.
            Found::Nothing(Reason::Blank) => !has_byte(calls, BEGUN_BYTES as u64).await?,
            _ => false,
        };
        if !is_new {
            self.tell_loss(calls, why).await;
            // What the old header described is about to be overwritten, and a loss of power may keep that and the
            // header (I6). Also where zeros are read: they may not have reached the medium. More than the magic is
            // overwritten, so that what is left shows that it was a cache file.
            calls.write(0, &BEGUN).await?;
            calls.flush().await?;
            // Old checksums match old blocks of the same source, so they must not come back beside a new bit. Only they
            // are cut off: another process may be serving this source from the data.
            calls.set_len(self.layout.sums().start).await?;
        }
        let is_cut = is_new || !has_byte(calls, self.layout.sums().start).await?;
        calls.set_len(self.layout.len(Checksums::Xxh3)).await?;
        if is_new {
            self.zero_where_set(calls, self.layout.bitmap()).await?;
        } else {
            // What is read there need not be what the medium holds: a flush may have failed before.
            self.zero(calls, self.layout.bitmap()).await?;
        }
        if !is_cut {
            self.zero(calls, self.layout.sums()).await?;
        }
        calls.flush().await?;
        // Until it is durable another attempt writes it again, though it may read what this one wrote.
        self.header_is_due.store(true, Ordering::Relaxed);
        self.write_header(calls, header).await
    }

    /// Writes the header and makes it durable.
    async fn write_header(
        &self,
        calls: &Calls<'_, C, Validity>,
        header: Header<'_>,
    ) -> GibbloxResult<()> {
        calls.write(0, &header.encode(Checksums::Xxh3)?).await?;
        calls.flush().await?;
        self.header_is_due.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the header durable where an earlier attempt to open wrote it and could not.
    pub(super) async fn write_due_header(
        &self,
        calls: &Calls<'_, C, Validity>,
    ) -> GibbloxResult<()> {
        if !self.header_is_due.load(Ordering::Relaxed) {
            return Ok(());
        }
        let named = self.named();
        self.write_header(calls, Header::new(self.geometry, named.identity())?)
            .await
    }

    /// Says whose cache is thrown away, and how much was in it, if any subscriber listens.
    async fn tell_loss(&self, calls: &Calls<'_, C, Validity>, why: Found) {
        if why == Found::Nothing(Reason::Blank) || !tracing::enabled!(tracing::Level::WARN) {
            return;
        }
        let stored = read_header(calls, PREFIX_BYTES, LONGEST_IDENTITY_BYTES).await;
        let Ok(Ok(mut stored)) = stored else {
            warn!(why = ?why, "what is no cache file of this version is overwritten with one");
            return;
        };
        let Ok(parsed) = stored.parsed() else {
            warn!(why = ?why, "a damaged cache file is thrown away");
            return;
        };
        // A file may claim any number of blocks: no more is read than is worth a line in a log.
        let blocks = parsed.geometry.total_blocks().min(COUNTED_BLOCKS);
        let lost_blocks = count_bits(calls, &parsed.layout, blocks).await;
        warn!(
            of = parsed.identity,
            lost_blocks = lost_blocks.unwrap_or_default(),
            "the cache of another source is thrown away"
        );
    }

    /// Writes zeros where `region` has anything else, which a new file does not.
    async fn zero_where_set(
        &self,
        calls: &Calls<'_, C, Validity>,
        region: Range<u64>,
    ) -> GibbloxResult<()> {
        let mut pieces = Pieces::of(region)?;
        while let Some((at, piece)) = pieces.next() {
            let got = calls.read_some(at, piece).await?;
            if got < piece.len() || any_set(piece) {
                piece.fill(0);
                calls.write(at, piece).await?;
            }
            if !pieces.is_empty() {
                yield_now().await;
            }
        }
        Ok(())
    }

    /// Writes zeros over `region`.
    async fn zero(&self, calls: &Calls<'_, C, Validity>, region: Range<u64>) -> GibbloxResult<()> {
        let mut pieces = Pieces::of(region)?;
        while let Some((at, piece)) = pieces.next() {
            calls.write(at, piece).await?;
            if !pieces.is_empty() {
                yield_now().await;
            }
        }
        Ok(())
    }
}

/// How many blocks are counted in order to say how much is lost.
const COUNTED_BLOCKS: u64 = 1 << 26;

/// The longest identity that is read in order to say whose cache is lost.
const LONGEST_IDENTITY_BYTES: u32 = 1 << 10;
