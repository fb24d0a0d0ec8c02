//! A backend beside a vector that holds what the backend must hold.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use gibblox_core::{GibbloxError, GibbloxResult};

use super::rng::Rng;
use super::{Broken, Kept, Rule};
use crate::backend::CacheOps;

/// A size that several parts use: more than a few pages, and quick to compare.
pub(super) const MIDDLE: usize = 70_000;

/// What changed the array last. It is to blame for a byte that is not what it should be.
#[derive(Clone, Debug)]
enum Change {
    Nothing,
    Write(Range<u64>),
    SetLen(u64),
    Flush,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing was changed"),
            Self::Write(range) => {
                let len = range.end - range.start;
                write!(f, "a write of {len} bytes at {}", range.start)
            }
            Self::SetLen(len) => write!(f, "set_len({len})"),
            Self::Flush => f.write_str("a flush"),
        }
    }
}

/// How the bytes get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// `read_at` and `write_at`.
    Waiting,
    /// `read_now` and `write_now` first.
    AtOnce,
}

/// A backend, and a vector that does the same.
///
/// The vector begins at `base`: the array before it is a hole, or in a backend that keeps its size not looked at.
pub(super) struct Twin<'a, C: ?Sized> {
    pub(super) rng: Rng,
    backend: &'a C,
    pub(super) base: u64,
    /// How many bytes from `base` on are used.
    pub(super) window: usize,
    bytes: Vec<u8>,
    /// Where the array ends: before `base`, perhaps, until the first write.
    pub(super) end: u64,
    /// The array keeps its size.
    pub(super) fixed: bool,
    pub(super) way: Way,
    /// The rule to name, where it does not follow from what was changed last.
    pub(super) rule: Option<Rule>,
    change: Change,
    /// Where the array ended before the last change.
    end_before: u64,
    /// What buffers hold before they are read into. Another byte each time, so that none hides for long.
    filler: u8,
}

impl<'a, C: CacheOps + ?Sized> Twin<'a, C> {
    /// Of a backend that is empty and grows.
    pub(super) fn empty(backend: &'a C, base: u64, window: usize, rng: Rng) -> Self {
        Self {
            rng,
            backend,
            base,
            window,
            bytes: Vec::new(),
            end: 0,
            fixed: false,
            way: Way::Waiting,
            rule: None,
            change: Change::Nothing,
            end_before: 0,
            filler: 0,
        }
    }

    /// Of a backend that keeps its size of `len` bytes. Looks at its last `most` bytes, which it writes first, since
    /// anything may be in them.
    pub(super) async fn fixed(
        backend: &'a C,
        len: u64,
        most: usize,
        rng: Rng,
    ) -> Result<Self, Broken> {
        let base = len.saturating_sub(most as u64);
        let window = usize::try_from(len - base).unwrap_or(most);
        let mut twin = Self::empty(backend, base, window, rng);
        twin.fixed = true;
        twin.fill().await?;
        (twin.end, twin.end_before) = (len, len);
        Ok(twin)
    }

    /// Where `offset` of the window lies in the array, if `len` bytes fit into the window there.
    pub(super) fn place(&self, offset: usize, len: usize) -> Option<u64> {
        let fits = offset.checked_add(len)? <= self.window;
        fits.then(|| self.base + offset as u64)
    }

    fn broken(&self, otherwise: Rule, what: String) -> Broken {
        Broken::new(self.rule.unwrap_or(otherwise), what)
    }

    /// A call failed that had no reason to.
    pub(super) fn failed(&self, call: &str, error: &GibbloxError) -> Broken {
        self.broken(Rule::Succeeds, format!("{call} failed: {error}"))
    }

    /// What a read of `len` bytes at `offset` must give.
    pub(super) fn expected(&self, offset: u64, len: usize) -> Vec<u8> {
        let left = self.end.saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(len)];
        // Where the vector lies in what is read, and what is read in the vector: one of them begins at its own start.
        let to = usize::try_from(self.base.saturating_sub(offset)).unwrap_or(usize::MAX);
        let from = usize::try_from(offset.saturating_sub(self.base)).unwrap_or(usize::MAX);
        if let (Some(to), Some(from)) = (bytes.get_mut(to..), self.bytes.get(from..)) {
            let count = to.len().min(from.len());
            to[..count].copy_from_slice(&from[..count]);
        }
        bytes
    }

    /// Takes note of a write that was done.
    pub(super) fn note_write(&mut self, offset: u64, data: &[u8]) {
        let range = offset..offset.saturating_add(data.len() as u64);
        self.end_before = self.end;
        if !data.is_empty() {
            let start = usize::try_from(offset.saturating_sub(self.base)).unwrap_or(usize::MAX);
            let end = start.saturating_add(data.len());
            if self.bytes.len() < end {
                self.bytes.resize(end, 0);
            }
            if let Some(place) = self.bytes.get_mut(start..end) {
                place.copy_from_slice(data);
            }
            self.end = self.end.max(range.end);
        }
        self.change = Change::Write(range);
    }

    /// Takes note of a new length.
    pub(super) fn note_len(&mut self, len: u64) {
        self.end_before = self.end;
        if !self.fixed {
            let kept = usize::try_from(len.saturating_sub(self.base)).unwrap_or(usize::MAX);
            self.bytes.resize(kept, 0);
            self.end = len;
        }
        self.change = Change::SetLen(len);
    }

    /// Writes and lets the backend say what came of it, without taking note.
    pub(super) async fn try_write(&mut self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        let at_once = match self.way {
            Way::Waiting => None,
            Way::AtOnce => self.backend.write_now(offset, data),
        };
        match at_once {
            Some(written) => written,
            None => self.backend.write_at(offset, data).await,
        }
    }

    /// Writes, which must succeed.
    pub(super) async fn write(&mut self, offset: u64, data: &[u8]) -> Kept {
        if self.way == Way::AtOnce {
            match self.backend.write_now(offset, data) {
                Some(Ok(())) => {
                    self.note_write(offset, data);
                    return Ok(());
                }
                Some(Err(error)) => return Err(self.failed("write_now", &error)),
                // Nothing may have been written, then.
                None => self.check_all().await?,
            }
        }
        if let Err(error) = self.backend.write_at(offset, data).await {
            let call = format!("write_at({offset}, {} bytes)", data.len());
            return Err(self.failed(&call, &error));
        }
        self.note_write(offset, data);
        Ok(())
    }

    /// Changes the length, which must succeed.
    pub(super) async fn set_len(&mut self, len: u64) -> Kept {
        if let Err(error) = self.backend.set_len(len).await {
            // A backend that keeps its size may say that this does not fit; it has to leave everything as it is.
            if !(self.fixed && len > self.end) {
                return Err(self.failed(&format!("set_len({len})"), &error));
            }
        }
        self.note_len(len);
        Ok(())
    }

    /// Flushes, which must succeed.
    pub(super) async fn flush(&mut self) -> Kept {
        if let Err(error) = self.backend.flush().await {
            return Err(self.failed("flush", &error));
        }
        self.end_before = self.end;
        self.change = Change::Flush;
        Ok(())
    }

    pub(super) async fn flush_and_check(&mut self) -> Kept {
        self.flush().await?;
        self.check_all().await
    }

    /// Makes the window as long as it may be, with new bytes in it.
    pub(super) async fn fill(&mut self) -> Kept {
        let data = self.rng.bytes(self.window);
        self.write(self.base, &data).await
    }

    /// Writes `len` new bytes at `offset` of the window, where they fit, and compares everything around them.
    pub(super) async fn put(&mut self, offset: usize, len: usize) -> Kept {
        let data = self.rng.bytes(len);
        self.put_data(offset, &data).await
    }

    pub(super) async fn put_data(&mut self, offset: usize, data: &[u8]) -> Kept {
        let Some(at) = self.place(offset, data.len()) else {
            return Ok(());
        };
        self.write(at, data).await?;
        let start = at.saturating_sub(600).max(self.base);
        let before = usize::try_from(at - start).unwrap_or(0);
        self.check(start, before + data.len() + 1200).await
    }

    /// Makes the window `len` bytes long, where it may be that long.
    pub(super) async fn resize(&mut self, len: usize) -> Kept {
        let Some(len) = self.place(len, 0) else {
            return Ok(());
        };
        self.set_len(len).await?;
        self.check_all().await
    }

    /// A buffer of `len` bytes with something in it.
    fn buffer(&mut self, len: usize) -> Vec<u8> {
        self.filler = self.filler.wrapping_mul(5).wrapping_add(0x35);
        vec![self.filler; len]
    }

    /// Reads, which must succeed; what lies past the returned count is cut off.
    pub(super) async fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, Broken> {
        let mut out = self.buffer(len);
        let read = self.backend.read_at(offset, &mut out).await;
        self.finish_read("read_at", offset, out, read)
    }

    fn finish_read(
        &self,
        name: &str,
        offset: u64,
        mut out: Vec<u8>,
        read: GibbloxResult<usize>,
    ) -> Result<Vec<u8>, Broken> {
        let len = out.len();
        match read {
            Ok(count) if count <= len => {
                out.truncate(count);
                Ok(out)
            }
            Ok(count) => {
                let what =
                    format!("{name}({offset}, {len} bytes) says that it has read {count} bytes");
                Err(self.broken(Rule::Ends, what))
            }
            Err(error) => Err(self.failed(&format!("{name}({offset}, {len} bytes)"), &error)),
        }
    }

    /// Reads `len` bytes at `offset` and compares how many and which they are.
    pub(super) async fn check(&mut self, offset: u64, len: usize) -> Kept {
        if self.way == Way::AtOnce {
            let mut out = self.buffer(len);
            if let Some(read) = self.backend.read_now(offset, &mut out) {
                let found = self.finish_read("read_now", offset, out, read)?;
                self.compare("read_now", offset, len, &found).await?;
            }
        }
        let found = self.read(offset, len).await?;
        self.compare("read_at", offset, len, &found).await
    }

    async fn compare(&self, name: &str, offset: u64, len: usize, found: &[u8]) -> Kept {
        let expected = self.expected(offset, len);
        if found == expected {
            return Ok(());
        }
        let change = &self.change;
        let mut pairs = found.iter().zip(&expected).enumerate();
        if let Some((index, (found, expected))) =
            pairs.find(|(_, (found, expected))| found != expected)
        {
            let at = offset + index as u64;
            let rule = match change {
                Change::Write(range) if range.is_empty() => Rule::NoBytes,
                Change::Write(range) if range.contains(&at) => Rule::ReadsBack,
                _ if at >= self.end_before => Rule::NewBytes,
                Change::Nothing | Change::Write(_) => Rule::Outside,
                Change::SetLen(_) => Rule::Length,
                Change::Flush => Rule::Flush,
            };
            let what = format!(
                "byte {at} is {found:#04x} in {name}({offset}, {len} bytes) and was to be {expected:#04x}, after {change}"
            );
            return Err(self.broken(rule, what));
        }
        let rule = match change {
            Change::Write(range) if range.is_empty() => Rule::NoBytes,
            Change::SetLen(_) => Rule::Length,
            Change::Flush => Rule::Flush,
            // The first byte that is missing: was it never written, or is it there and not read?
            Change::Write(range) if range.contains(&(offset + found.len() as u64)) => {
                let missing = offset + found.len() as u64;
                match self.backend.read_at(missing, &mut [0]).await {
                    Ok(0) => Rule::ReadsBack,
                    _ => Rule::Ends,
                }
            }
            Change::Nothing | Change::Write(_) => Rule::Ends,
        };
        let (found, expected) = (found.len(), expected.len());
        let what = format!(
            "{name}({offset}, {len} bytes) gave {found} bytes and was to give {expected}, after {change}"
        );
        Err(self.broken(rule, what))
    }

    /// Compares everything, and that nothing is behind it. In front of `base` the last bytes are looked at.
    pub(super) async fn check_all(&mut self) -> Kept {
        let before = if self.fixed { 0 } else { self.base.min(100) };
        let len = usize::try_from(before).unwrap_or(0) + self.bytes.len();
        self.check(self.base - before, len.saturating_add(10)).await
    }

    /// Takes for right what the backend holds of `range`, where each byte is the old one or that of `new`: what a write
    /// may leave that was given up.
    pub(super) async fn settle(&mut self, offset: u64, new: &[u8]) -> Kept {
        let old = self.expected(offset, new.len());
        let found = self.read(offset, new.len()).await?;
        let is_either = found.len() >= old.len()
            && found.iter().enumerate().all(|(index, byte)| {
                // A part of a growing write may leave zeros, which new bytes are.
                *byte == old.get(index).copied().unwrap_or(0) || new.get(index) == Some(byte)
            });
        if !is_either {
            let what = format!(
                "a write of {} bytes at {offset} that was dropped left bytes that are neither the old nor the new ones",
                new.len()
            );
            return Err(self.broken(Rule::Dropped, what));
        }
        self.note_write(offset, &found);
        Ok(())
    }

    /// Takes for right the length that the backend has, where it is between the present one and `len`: what a `set_len`
    /// may leave that was given up.
    pub(super) async fn settle_len(&mut self, len: u64) -> Kept {
        let longest = self.end.max(len) - self.base;
        let room = usize::try_from(longest).unwrap_or(usize::MAX);
        let found = self.base + self.read(self.base, room).await?.len() as u64;
        if found < self.end.min(len) {
            let what = format!("set_len({len}) that was dropped left {found} bytes");
            return Err(self.broken(Rule::Dropped, what));
        }
        self.note_len(found);
        Ok(())
    }
}
