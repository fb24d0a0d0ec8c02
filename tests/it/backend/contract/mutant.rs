//! Backends that each do one thing wrong.

use super::refused;
use crate::support::lock;
use async_trait::async_trait;
use core::future::poll_fn;
use core::task::Poll;
use gibblox_cache::contract::Rule;
use gibblox_cache::{CacheOps, LockMode, LockOutcome, MemoryCacheOps, Tenants};
use gibblox_core::GibbloxResult;
use std::sync::Mutex;

/// What is wrong, and the rule that it breaks.
pub(super) const MUTANTS: [(Wrong, Rule); 48] = [
    (Wrong::HasBytes, Rule::Starts),
    (Wrong::FailsBeyondTheEnd, Rule::Succeeds),
    (Wrong::FailsLargeWrites, Rule::Succeeds),
    (Wrong::FailsSetLen, Rule::Succeeds),
    (Wrong::FailsFlush, Rule::Succeeds),
    (Wrong::LosesTheEndOfLargeWrites, Rule::ReadsBack),
    (Wrong::LosesWhatCrossesAChunk, Rule::ReadsBack),
    (Wrong::SkipsWhatBeginsAlike, Rule::ReadsBack),
    (Wrong::SkipsWhatBeginsAndEndsAlike, Rule::ReadsBack),
    (Wrong::WritesWhenFlushed, Rule::ReadsBack),
    (Wrong::WritesEvenOffsets, Rule::Outside),
    (Wrong::WritesWholeSectors, Rule::Outside),
    (Wrong::ForgetsTheRestOfAPiece, Rule::Outside),
    (Wrong::ReadsAPage, Rule::Ends),
    (Wrong::ReadsPastTheEnd, Rule::Ends),
    (Wrong::CountsOneMore, Rule::Ends),
    (Wrong::LosesTheLastByte, Rule::Ends),
    (Wrong::HasGarbageInHoles, Rule::NewBytes),
    (Wrong::KeepsWhatWasCutOff, Rule::NewBytes),
    (Wrong::KeepsAByteThatWasCutOff, Rule::NewBytes),
    (Wrong::IgnoresSetLen, Rule::Length),
    (Wrong::NeverShrinks, Rule::Length),
    (Wrong::RoundsLengths, Rule::Length),
    (Wrong::ClearsInSetLen, Rule::Length),
    (Wrong::GrowsByNoBytes, Rule::NoBytes),
    (Wrong::CutsAtNoBytes, Rule::NoBytes),
    (Wrong::ClearsInFlush, Rule::Flush),
    (Wrong::MixesSectors, Rule::SideBySide),
    (Wrong::HasACursor, Rule::SideBySide),
    (Wrong::MovesACursor, Rule::SideBySide),
    (Wrong::GoesOn, Rule::Dropped),
    (Wrong::GoesOnInSetLen, Rule::Dropped),
    (Wrong::ErasesFirst, Rule::Dropped),
    (Wrong::AnswersNothing, Rule::AtOnce),
    (Wrong::AnswersTooMuch, Rule::AtOnce),
    (Wrong::AnswersAnError, Rule::AtOnce),
    (Wrong::TakesAndLoses, Rule::AtOnce),
    (Wrong::TakesHalf, Rule::AtOnce),
    (Wrong::Has32Bits, Rule::Far),
    (Wrong::SwallowsOverflow, Rule::Far),
    (Wrong::Wraps, Rule::Far),
    (Wrong::ForgetsZeros, Rule::Zeros),
    (Wrong::ZerosOneMore, Rule::Zeros),
    (Wrong::ZerosAndDenies, Rule::Zeros),
    (Wrong::IsNotFree, Rule::Owner),
    (Wrong::RefusesItself, Rule::Owner),
    (Wrong::ClearsWhenLocked, Rule::Owner),
    (Wrong::RenewsNothing, Rule::Renew),
];

/// What a backend does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    HasBytes,
    FailsBeyondTheEnd,
    FailsLargeWrites,
    FailsSetLen,
    FailsFlush,
    LosesTheEndOfLargeWrites,
    LosesWhatCrossesAChunk,
    SkipsWhatBeginsAlike,
    SkipsWhatBeginsAndEndsAlike,
    WritesWhenFlushed,
    WritesEvenOffsets,
    WritesWholeSectors,
    ForgetsTheRestOfAPiece,
    ReadsAPage,
    ReadsPastTheEnd,
    CountsOneMore,
    LosesTheLastByte,
    HasGarbageInHoles,
    KeepsWhatWasCutOff,
    KeepsAByteThatWasCutOff,
    IgnoresSetLen,
    NeverShrinks,
    RoundsLengths,
    ClearsInSetLen,
    GrowsByNoBytes,
    CutsAtNoBytes,
    ClearsInFlush,
    MixesSectors,
    HasACursor,
    MovesACursor,
    GoesOn,
    GoesOnInSetLen,
    ErasesFirst,
    AnswersNothing,
    AnswersTooMuch,
    AnswersAnError,
    TakesAndLoses,
    TakesHalf,
    Has32Bits,
    SwallowsOverflow,
    Wraps,
    ForgetsZeros,
    ZerosOneMore,
    ZerosAndDenies,
    IsNotFree,
    RefusesItself,
    ClearsWhenLocked,
    RenewsNothing,
}

/// A backend that does one thing wrong, and all else right.
pub(super) struct Mutant {
    wrong: Wrong,
    inner: MemoryCacheOps,
    tenants: [Tenants; 2],
    /// What some of them have to remember.
    state: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    len: u64,
    cursor: u64,
    pieces: Vec<(u64, usize)>,
    /// What is done some calls later.
    later: Vec<(u32, Job)>,
}

#[derive(Clone)]
enum Job {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl Mutant {
    pub(super) fn new(wrong: Wrong) -> Self {
        let mutant = Self {
            wrong,
            inner: MemoryCacheOps::new(),
            tenants: [Tenants::new(), Tenants::new()],
            state: Mutex::default(),
        };
        if wrong == Wrong::HasBytes {
            mutant.inner.write_now(0, &[1, 2, 3]).unwrap().unwrap();
        }
        mutant
    }

    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == wrong
    }

    fn offset(&self, offset: u64) -> u64 {
        match self.wrong {
            Wrong::Has32Bits => offset & 0xFFFF_FFFF,
            _ => offset,
        }
    }

    fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let count = self.inner.read_now(offset, &mut bytes).unwrap().unwrap();
        bytes.truncate(count);
        bytes
    }

    fn put(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.inner.write_now(offset, data).unwrap()
    }

    /// Does what is due after this call.
    async fn work(&self) {
        let due: Vec<_> = {
            let mut state = lock(&self.state);
            for (left, _) in &mut state.later {
                *left -= 1;
            }
            let due = state.later.iter().filter(|(left, _)| *left == 0);
            let due = due.map(|(_, job)| job.clone()).collect();
            state.later.retain(|(left, _)| *left != 0);
            due
        };
        for job in due {
            match job {
                Job::Write(offset, data) => self.put(offset, &data).unwrap(),
                Job::SetLen(len) => self.inner.set_len(len).await.unwrap(),
            }
        }
    }

    /// Remembers to do it, unless the call comes to its end first.
    async fn sooner_or_later(&self, job: Job) {
        lock(&self.state).later.push((4, job));
        pause().await;
        lock(&self.state).later.pop();
    }

    /// What pauses in the middle of a write.
    async fn write_with_a_pause(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        let end = offset + data.len() as u64;
        match self.wrong {
            Wrong::MixesSectors => {
                let start = offset & !511;
                let len = (end.next_multiple_of(512) - start) as usize;
                let mut sectors = self.bytes(start, len);
                pause().await;
                let within = (offset - start) as usize;
                let needed = within + data.len();
                if sectors.len() < needed && !data.is_empty() {
                    sectors.resize(needed, 0);
                }
                if let Some(place) = sectors.get_mut(within..needed) {
                    place.copy_from_slice(data);
                }
                self.put(start, &sectors)
            }
            Wrong::MovesACursor => {
                lock(&self.state).cursor = offset;
                pause().await;
                let cursor = lock(&self.state).cursor;
                self.put(cursor, data)
            }
            Wrong::GoesOn => {
                self.sooner_or_later(Job::Write(offset, data.to_vec()))
                    .await;
                self.put(offset, data)
            }
            Wrong::ErasesFirst => {
                self.put(offset, &vec![0xFF; data.len()])?;
                pause().await;
                self.put(offset, data)
            }
            _ => self.put(offset, data),
        }
    }
}

#[async_trait]
impl CacheOps for Mutant {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.work().await;
        let mut offset = self.offset(offset);
        if self.is(Wrong::HasACursor) {
            lock(&self.state).cursor = offset;
            pause().await;
            offset = lock(&self.state).cursor;
        }
        let room = out.len();
        let count = self.inner.read_at(offset, out).await?;
        Ok(match self.wrong {
            Wrong::FailsBeyondTheEnd if count == 0 && room > 0 && offset != 0 => {
                return Err(refused("nothing there"));
            }
            Wrong::ReadsAPage => count.min(5000),
            Wrong::ReadsPastTheEnd => room,
            Wrong::CountsOneMore => count + 1,
            Wrong::LosesTheLastByte if count < room => count.saturating_sub(1),
            Wrong::KeepsWhatWasCutOff | Wrong::KeepsAByteThatWasCutOff => {
                let left = lock(&self.state).len.saturating_sub(offset);
                count.min(left as usize)
            }
            _ => count,
        })
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.work().await;
        let offset = self.offset(offset);
        let old_len = lock(&self.state).len;
        let Some(end) = offset.checked_add(data.len() as u64) else {
            match self.wrong {
                Wrong::SwallowsOverflow => return Ok(()),
                Wrong::Wraps => self.put(0, &data[(u64::MAX - offset) as usize..])?,
                _ => {}
            }
            return Err(refused("it ends past 2^64"));
        };
        if !data.is_empty() {
            let mut state = lock(&self.state);
            state.len = old_len.max(end);
        }
        let there = self.bytes(offset, data.len());
        match self.wrong {
            Wrong::FailsLargeWrites if data.len() > 1_000_000 => Err(refused("too large")),
            Wrong::LosesTheEndOfLargeWrites if data.len() > 1 << 20 => {
                self.put(offset, &data[..data.len() - 1])
            }
            Wrong::LosesWhatCrossesAChunk => {
                let left = 262_144 - (offset % 262_144) as usize;
                self.put(offset, &data[..left.min(data.len())])
            }
            Wrong::SkipsWhatBeginsAlike
                if there.len() == data.len() && there.first() == data.first() =>
            {
                Ok(())
            }
            Wrong::SkipsWhatBeginsAndEndsAlike
                if there.len() == data.len()
                    && there.first() == data.first()
                    && there.last() == data.last() =>
            {
                Ok(())
            }
            Wrong::WritesWhenFlushed => {
                let mut state = lock(&self.state);
                state
                    .later
                    .push((u32::MAX, Job::Write(offset, data.to_vec())));
                Ok(())
            }
            Wrong::WritesEvenOffsets if !data.is_empty() => self.put(offset & !1, data),
            Wrong::WritesWholeSectors if !data.is_empty() && end % 512 != 0 => {
                self.put(offset, data)?;
                let rest = 512 - end % 512;
                let rest = rest.min(old_len.saturating_sub(end));
                self.put(end, &vec![0; rest as usize])
            }
            Wrong::ForgetsTheRestOfAPiece if !data.is_empty() => {
                let longer = {
                    let mut state = lock(&self.state);
                    let piece = state.pieces.iter().position(|piece| piece.0 == offset);
                    let longer = piece.map(|index| state.pieces.swap_remove(index).1);
                    state.pieces.push((offset, data.len()));
                    longer.unwrap_or(0).saturating_sub(data.len())
                };
                self.put(offset, data)?;
                self.put(
                    end,
                    &vec![0; longer.min(old_len.saturating_sub(end) as usize)],
                )
            }
            Wrong::HasGarbageInHoles
                if offset > old_len && offset - old_len < 100_000 && !data.is_empty() =>
            {
                self.put(old_len, &vec![0xFF; (offset - old_len) as usize])?;
                self.put(offset, data)
            }
            Wrong::GrowsByNoBytes if data.is_empty() && offset > old_len => {
                self.inner.set_len(offset).await
            }
            Wrong::CutsAtNoBytes if data.is_empty() => {
                lock(&self.state).len = offset;
                self.inner.set_len(offset).await
            }
            _ => self.write_with_a_pause(offset, data).await,
        }
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.work().await;
        let len = self.offset(len);
        let old_len = {
            let mut state = lock(&self.state);
            state.pieces.clear();
            core::mem::replace(&mut state.len, len)
        };
        match self.wrong {
            Wrong::FailsSetLen => Err(refused("no")),
            Wrong::IgnoresSetLen => Ok(()),
            Wrong::NeverShrinks if len < old_len => {
                lock(&self.state).len = old_len;
                Ok(())
            }
            Wrong::RoundsLengths => self.inner.set_len(len.next_multiple_of(512)).await,
            Wrong::ClearsInSetLen => {
                self.inner.set_len(0).await?;
                self.inner.set_len(len).await
            }
            Wrong::KeepsWhatWasCutOff if len < old_len => Ok(()),
            Wrong::KeepsAByteThatWasCutOff if len < old_len => self.inner.set_len(len + 1).await,
            Wrong::GoesOnInSetLen => {
                self.sooner_or_later(Job::SetLen(len)).await;
                self.inner.set_len(len).await
            }
            _ => self.inner.set_len(len).await,
        }
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.work().await;
        match self.wrong {
            Wrong::FailsFlush => Err(refused("no")),
            Wrong::ClearsInFlush => self.inner.set_len(0).await,
            _ => Ok(()),
        }
    }

    fn read_now(&self, offset: u64, out: &mut [u8]) -> Option<GibbloxResult<usize>> {
        match self.wrong {
            Wrong::AnswersNothing => Some(Ok(0)),
            Wrong::AnswersTooMuch => {
                let read = self.inner.read_now(offset, out);
                read.map(|read| read.map(|_| out.len()))
            }
            Wrong::AnswersAnError if offset > 50_000 => Some(Err(refused("not here"))),
            _ => None,
        }
    }

    async fn write_zeros(&self, offset: u64, len: u64) -> GibbloxResult<bool> {
        match self.wrong {
            Wrong::ForgetsZeros => Ok(true),
            Wrong::ZerosOneMore => {
                self.write_at(offset, &vec![0; len as usize + 1]).await?;
                Ok(true)
            }
            Wrong::ZerosAndDenies => {
                self.write_at(offset, &vec![0; len as usize]).await?;
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    fn tenants(&self) -> Option<&Tenants> {
        if self.is(Wrong::IsNotFree) {
            let mut state = lock(&self.state);
            state.later.push((u32::MAX, Job::SetLen(0)));
            return self.tenants.get(state.later.len() % 2);
        }
        None
    }

    async fn lock(&self, mode: LockMode) -> LockOutcome {
        match (self.wrong, mode) {
            (Wrong::RefusesItself, LockMode::Shared) => LockOutcome::Refused,
            (Wrong::ClearsWhenLocked, LockMode::Sole) => {
                let cleared = self.inner.set_len(0).await;
                cleared.map_or(LockOutcome::Unknown, |()| LockOutcome::Granted)
            }
            _ => LockOutcome::Unknown,
        }
    }

    async fn renew(&self) -> GibbloxResult<bool> {
        Ok(self.is(Wrong::RenewsNothing))
    }

    fn write_now(&self, offset: u64, data: &[u8]) -> Option<GibbloxResult<()>> {
        match self.wrong {
            Wrong::TakesAndLoses => Some(Ok(())),
            Wrong::TakesHalf => {
                self.put(offset, &data[..data.len() / 2]).unwrap();
                None
            }
            _ => None,
        }
    }
}

/// Pending once.
async fn pause() {
    let mut paused = false;
    poll_fn(|context| {
        if paused {
            return Poll::Ready(());
        }
        paused = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
