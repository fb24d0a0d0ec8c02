//! What the suite does, part by part. Each has a backend of its own.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use gibblox_core::GibbloxResult;

use super::calls::{Call, give_up_after, side_by_side, turn};
use super::rng::Rng;
use super::twin::{Twin, Way};
use super::{Broken, Rule, Suite};
use crate::backend::CacheOps;

/// Around everything that an implementation may cut into pieces: bytes, words, sectors, pages, chunks.
const SIZES: [usize; 29] = [
    1, 2, 3, 7, 8, 9, 63, 64, 65, 255, 256, 257, 511, 512, 513, 1000, 4095, 4096, 4097, 65_535,
    65_536, 65_537, 262_143, 262_144, 262_145, 1_048_575, 1_048_576, 1_048_577, 1_300_001,
];

/// A size that some parts use: more than a few pages, and quick to compare.
pub(super) const MIDDLE: usize = 70_000;

/// Where the parts that look far out do so: at the end of all offsets, at 1 TiB, and across 4 GiB.
///
/// The farthest comes first, so that a backend without holes says that it cannot, and does not try to allocate what
/// the machine might even have.
pub(super) const FAR: [u64; 3] = [u64::MAX - 4_000_000, (1 << 40) + 123, (1 << 32) - 35_000];

/// Looks whether `make` gives out what the suite was told, and begins.
async fn begin<'a, C: CacheOps + ?Sized>(
    suite: &Suite,
    backend: &'a C,
    window: usize,
    rng: &mut Rng,
) -> Result<Twin<'a, C>, Broken> {
    let Some(len) = suite.fixed else {
        is_there(backend, 0, 0).await?;
        let window = usize::try_from(suite.max_len).map_or(window, |most| window.min(most));
        return Ok(Twin::empty(backend, 0, window));
    };
    if let Some(last) = len.checked_sub(1) {
        is_there(backend, last, 1).await?;
    }
    is_there(backend, len, 0).await?;
    Twin::fixed(backend, len, window, rng).await
}

/// Whether a read of one byte at `offset` gives as many as `wanted`, in the beginning.
async fn is_there<C: CacheOps + ?Sized>(
    backend: &C,
    offset: u64,
    wanted: usize,
) -> Result<(), Broken> {
    let found = match backend.read_at(offset, &mut [0]).await {
        Ok(found) if found == wanted => return Ok(()),
        Ok(found) => found,
        Err(error) => {
            let what = format!("a read of one byte at {offset} failed: {error}");
            return Err(Broken::new(Rule::Succeeds, what));
        }
    };
    // One that has bytes everywhere does not know its end.
    let endless = found > 1 || matches!(backend.read_at(1 << 62, &mut [0]).await, Ok(1..));
    let rule = if endless { Rule::Ends } else { Rule::Starts };
    let what = format!("a read of one byte at {offset} gave {found} in the beginning");
    Err(Broken::new(rule, what))
}

impl<C: CacheOps + ?Sized> Twin<'_, C> {
    /// Where `offset` of the window lies, if `len` bytes fit there.
    fn place(&self, offset: usize, len: usize) -> Option<u64> {
        let fits = offset.checked_add(len)? <= self.window();
        fits.then(|| self.base() + offset as u64)
    }

    /// Writes new bytes where they fit into the window, and compares everything around them.
    async fn put(&mut self, rng: &mut Rng, offset: usize, len: usize) -> Result<(), Broken> {
        let data = rng.bytes(len);
        self.put_data(offset, &data).await
    }

    async fn put_data(&mut self, offset: usize, data: &[u8]) -> Result<(), Broken> {
        let Some(at) = self.place(offset, data.len()) else {
            return Ok(());
        };
        self.write(at, data).await?;
        let start = at.saturating_sub(600).max(self.base());
        let before = usize::try_from(at - start).unwrap_or(0);
        self.check(start, before + data.len() + 1200).await
    }

    /// A new length of the window, where it fits.
    async fn resize(&mut self, len: usize) -> Result<(), Broken> {
        let Some(len) = self.place(len, 0) else {
            return Ok(());
        };
        self.set_len(len).await?;
        self.check_all().await
    }

    /// Makes the window as long as it may be, with bytes in it.
    async fn fill(&mut self, rng: &mut Rng) -> Result<(), Broken> {
        let data = rng.bytes(self.window());
        self.write(self.base(), &data).await
    }

    /// A write that reaches past the end of an array that keeps its size.
    async fn write_past(&mut self, rng: &mut Rng, offset: u64, len: usize) -> Result<(), Broken> {
        let data = rng.bytes(len);
        if self.try_write(offset, &data).await.is_ok() {
            let end = self.end();
            let what =
                format!("a write of {len} bytes at {offset} is Ok in an array of {end} bytes");
            return Err(Broken::new(Rule::FixedSize, what));
        }
        // What the error leaves in the range is anybody's guess.
        let inside = usize::try_from(self.end().saturating_sub(offset)).unwrap_or(len);
        let data = rng.bytes(inside.min(len));
        if !data.is_empty() {
            self.write(offset, &data).await?;
        }
        self.check_all().await
    }
}

/// Writes with nothing to write, which change nothing, wherever they are.
async fn write_no_bytes<C: CacheOps + ?Sized>(twin: &mut Twin<'_, C>) -> Result<(), Broken> {
    for offset in [0, 3, 104, 105, 106, 2000] {
        let offset = twin.base() + offset;
        if let Err(error) = twin.try_write(offset, &[]).await {
            // Outside of an array that keeps its size it may be refused.
            if !(twin.is_fixed() && offset > twin.end()) {
                return Err(twin.failed("a write of no bytes", &error));
            }
        }
        twin.note_write(offset, &[]);
        twin.check(offset, 0).await?;
        twin.check_all().await?;
    }
    Ok(())
}

/// The ends of the array, and calls with nothing to do.
async fn look_at_ends<C: CacheOps + ?Sized>(
    twin: &mut Twin<'_, C>,
    rng: &mut Rng,
) -> Result<(), Broken> {
    twin.check_all().await?;
    write_no_bytes(twin).await?;
    twin.check(twin.end() + 5000, 10).await?;
    twin.put(rng, 0, 100).await?;
    for offset in [0, 50, 89, 90, 91, 99, 100, 101, 500] {
        for len in [0, 1, 10, 11, 20] {
            twin.check(twin.base() + offset, len).await?;
        }
    }
    twin.put(rng, 100, 5).await?;
    write_no_bytes(twin).await?;
    for back in 0..5 {
        let end = twin.end();
        twin.check(end.saturating_sub(back), 3).await?;
    }
    twin.put(rng, 9000, 10).await?;
    twin.check_all().await?;
    twin.put(rng, 5000, 10).await?;
    twin.check_all().await
}

pub(super) async fn ends<C: CacheOps>(suite: &Suite, backend: &C) -> Result<(), Broken> {
    let mut rng = suite.rng(1);
    let mut twin = begin(suite, backend, MIDDLE, &mut rng).await?;
    look_at_ends(&mut twin, &mut rng).await?;
    if twin.is_fixed() {
        let end = twin.end();
        twin.write_past(&mut rng, end, 1).await?;
        twin.write_past(&mut rng, end.saturating_add(100_000), 10)
            .await?;
        let len = 700.min(twin.window());
        twin.write_past(&mut rng, end - len as u64, len + 1).await?;
    }
    Ok(())
}

/// Every write of a few bytes, and every read of it.
pub(super) async fn every_small_range<C: CacheOps>(
    suite: &Suite,
    backend: &C,
) -> Result<(), Broken> {
    const SIZE: usize = 12;
    let mut rng = suite.rng(2);
    let mut twin = begin(suite, backend, SIZE, &mut rng).await?;
    let window = twin.window();
    for start in 0..window {
        for len in 1..=window - start {
            // Into what is there, and into nothing.
            twin.fill(&mut rng).await?;
            twin.put(&mut rng, start, len).await?;
            for from in 0..=window {
                for count in 0..=window + 1 - from {
                    twin.check(twin.base() + from as u64, count).await?;
                }
            }
            twin.resize(0).await?;
            twin.put(&mut rng, start, len).await?;
        }
    }
    Ok(())
}

/// Writes of many sizes, over nothing, over the same, and over parts of each other.
pub(super) async fn sizes<C: CacheOps>(suite: &Suite, backend: &C) -> Result<(), Broken> {
    let mut rng = suite.rng(3);
    let mut twin = begin(suite, backend, Suite::MOST, &mut rng).await?;
    for size in SIZES {
        let shifts: &[usize] = if size > MIDDLE {
            &[1, 511]
        } else {
            &[0, 1, 255, 300, 511, 4095]
        };
        for &shift in shifts {
            if twin.place(shift, size + 5).is_none() {
                continue;
            }
            let data = rng.bytes(size);
            twin.put_data(shift, &data).await?;
            twin.put_data(shift, &data).await?;
            // Less than all of it, and its two edges.
            twin.put(&mut rng, shift, 1).await?;
            twin.put(&mut rng, shift + size - 1, 1).await?;
            twin.put(&mut rng, shift + size / 3, size.div_ceil(3))
                .await?;
            twin.put(&mut rng, shift.saturating_sub(3), 7.min(size + 3))
                .await?;
            twin.put(&mut rng, (shift + size).saturating_sub(2), 7)
                .await?;
            // The old bytes again, over pieces; then others that begin as they do, and zeros.
            twin.put_data(shift, &data).await?;
            let mut other = data;
            other[size / 2..].fill(0);
            twin.put_data(shift, &other).await?;
        }
        twin.check_all().await?;
        if rng.below(3) == 0 {
            twin.resize(rng.index(size)).await?;
        }
    }
    Ok(())
}

/// Shorter and longer again, at and beside the edges of what was written.
pub(super) async fn lengths<C: CacheOps>(suite: &Suite, backend: &C) -> Result<(), Broken> {
    let mut rng = suite.rng(4);
    let mut twin = begin(suite, backend, 400_000, &mut rng).await?;
    twin.resize(6000).await?;
    let layouts: [&[(usize, usize)]; 6] = [
        &[(0, 10)],
        &[(100, 200), (300, 212)],
        &[(0, 4096), (4096, 4096), (8192, 100)],
        &[(700, 600), (900, 50)],
        &[(5, 1), (1000, 1)],
        &[(100_000, 200_000), (310_000, 300)],
    ];
    for pieces in layouts {
        let end = pieces.iter().map(|(start, len)| start + len).max();
        let end = end.unwrap_or(0);
        let edges = pieces
            .iter()
            .flat_map(|(start, len)| [*start, start + len / 2, start + len]);
        for edge in edges.chain([256, 4096, 262_144]) {
            for cut in [edge.saturating_sub(1), edge, edge + 1] {
                for grows_by_writing in [false, true] {
                    twin.resize(0).await?;
                    for (start, len) in pieces {
                        twin.put(&mut rng, *start, *len).await?;
                    }
                    twin.resize(cut).await?;
                    if grows_by_writing {
                        twin.put(&mut rng, cut.max(end) + 20, 3).await?;
                    } else {
                        twin.resize(end + 50).await?;
                        twin.resize(end + 50).await?;
                    }
                    twin.check_all().await?;
                    // Into the bytes that are new, across the cut.
                    twin.put(&mut rng, cut.saturating_sub(1), 2).await?;
                    twin.check_all().await?;
                }
            }
        }
    }
    Ok(())
}

/// `steps` calls that chance chooses, each of which is followed by a look at everything.
async fn random_calls<C: CacheOps + ?Sized>(
    twin: &mut Twin<'_, C>,
    rng: &mut Rng,
    steps: usize,
) -> Result<(), Broken> {
    // Near these something begins or ends, so there is more to get wrong.
    let mut edges = [0; 8];
    let mut flushes_left = 3;
    for step in 0..steps {
        let window = twin.window();
        let offset = match rng.below(3) {
            0 => rng.index(window),
            _ => (edges[rng.index(edges.len())] + rng.index(3)).saturating_sub(1),
        };
        let offset = offset.min(window.saturating_sub(1));
        match rng.below(16) {
            0..=8 => {
                let len = rng.size(window - offset).min(window - offset);
                let at = twin.base() + offset as u64;
                let mut data = rng.bytes(len);
                match rng.below(6) {
                    // What is there already, as far as there is something, or all of it but one byte.
                    kind @ 0..=1 => {
                        let old = twin.expected(at, len);
                        data[..old.len()].copy_from_slice(&old);
                        if let Some(byte) = data.get_mut(rng.index(len)).filter(|_| kind == 1) {
                            *byte ^= 0x55;
                        }
                    }
                    2 => data.fill(0),
                    _ => {}
                }
                twin.write(at, &data).await?;
                edges[step % 8] = offset;
                edges[(step + 1) % 8] = offset + len;
            }
            9..=11 => twin.set_len(twin.base() + offset as u64).await?,
            12 if flushes_left > 0 => {
                flushes_left -= 1;
                twin.flush().await?;
            }
            _ => {
                let len = 1 + rng.index(window);
                twin.check(twin.base() + offset as u64, len).await?;
            }
        }
        twin.check_all().await?;
        let from = rng.index(window);
        let len = rng.size(window);
        twin.check(twin.base() + from as u64, len).await?;
    }
    Ok(())
}

pub(super) async fn random<C: CacheOps>(
    suite: &Suite,
    backend: &C,
    window: usize,
    steps: usize,
) -> Result<(), Broken> {
    let mut rng = suite.rng(5 + window as u64);
    let mut twin = begin(suite, backend, window, &mut rng).await?;
    random_calls(&mut twin, &mut rng, steps).await
}

/// Around `base`, which is far out. A backend that does not reach there says so, and nothing else happens.
pub(super) async fn far<C: CacheOps>(suite: &Suite, backend: &C, base: u64) -> Result<(), Broken> {
    let mut rng = suite.rng(base);
    let near = rng.bytes(50);
    let mut first = begin(suite, backend, 50, &mut rng).await?;
    first.blame(Rule::Far);
    first.write(0, &near).await?;
    let mut twin = Twin::empty(backend, base, MIDDLE);
    twin.blame(Rule::Far);
    let data = rng.bytes(1000);
    if twin.try_write(base, &data).await.is_err() {
        return first.check(0, 50).await;
    }
    twin.note_write(base, &data);
    twin.check_all().await?;
    first.check(0, 50).await?;
    twin.check(base / 2, 100).await?;
    twin.check(1000, 100).await?;
    random_calls(&mut twin, &mut rng, 40).await?;
    first.check(0, 50).await
}

/// The end of all offsets.
pub(super) async fn overflow<C: CacheOps>(suite: &Suite, backend: &C) -> Result<(), Broken> {
    let mut rng = suite.rng(6);
    let mut twin = begin(suite, backend, 50, &mut rng).await?;
    twin.blame(Rule::Far);
    twin.fill(&mut rng).await?;
    for offset in [
        u64::MAX,
        u64::MAX - 5,
        u64::MAX - 10,
        1 << 63,
        (1 << 63) - 5,
    ] {
        // It has to be behind the end, or an offset that does not exist.
        if let Ok(count @ 1..) = backend.read_at(offset, &mut [0; 10]).await {
            let what = format!("read_at({offset}, 10 bytes) gave {count} bytes of a short array");
            return Err(Broken::new(Rule::Far, what));
        }
    }
    for offset in [u64::MAX, u64::MAX - 5, u64::MAX - 8] {
        if backend.write_at(offset, &[7; 10]).await.is_ok() {
            let what = format!("write_at({offset}, 10 bytes) is Ok, and ends past 2^64");
            return Err(Broken::new(Rule::Far, what));
        }
        let start = twin.base();
        twin.check(start, twin.window()).await?;
    }
    Ok(())
}

/// Different bytes at every power of two that the backend reaches: none of these places is another.
pub(super) async fn powers<C: CacheOps>(suite: &Suite, backend: &C) -> Result<(), Broken> {
    let mut rng = suite.rng(7);
    begin(suite, backend, 0, &mut rng).await?;
    let most = suite.fixed.unwrap_or(suite.max_len);
    let mut stamps = Vec::new();
    for offset in (3..64).map(|power| 1_u64 << power) {
        let stamp = rng.bytes(8);
        if offset + 8 > most || backend.write_at(offset, &stamp).await.is_err() {
            break;
        }
        stamps.push((offset, stamp));
    }
    for (offset, stamp) in stamps {
        let mut found = [0; 8];
        let read = backend.read_at(offset, &mut found).await;
        if !matches!(read, Ok(8)) || found != stamp[..] {
            let what = format!(
                "8 bytes written at {offset} are not there after others were written farther out: {read:?}"
            );
            return Err(Broken::new(Rule::Far, what));
        }
    }
    Ok(())
}

pub(super) async fn flush<C: CacheOps>(suite: &Suite, backend: &C) -> Result<(), Broken> {
    let mut rng = suite.rng(8);
    let mut twin = begin(suite, backend, 10_000, &mut rng).await?;
    twin.flush().await?;
    twin.check_all().await?;
    twin.fill(&mut rng).await?;
    for _ in 0..2 {
        twin.flush().await?;
        twin.check_all().await?;
    }
    twin.put(&mut rng, 300, 600).await?;
    twin.flush().await?;
    twin.check_all().await?;
    twin.resize(500).await?;
    twin.flush().await?;
    twin.check_all().await
}

/// What one of the calls that are under way at once has done.
enum Done {
    Wrote(GibbloxResult<()>),
    Read(GibbloxResult<usize>, Vec<u8>),
}

/// Reads, writes and flushes at once. No two writes touch the same byte, but they touch neighbours.
pub(super) async fn at_the_same_time<C: CacheOps>(
    suite: &Suite,
    backend: &C,
) -> Result<(), Broken> {
    let mut rng = suite.rng(9);
    let mut twin = begin(suite, backend, MIDDLE, &mut rng).await?;
    twin.blame(Rule::SideBySide);
    for round in 0..12 {
        if round % 4 == 3 {
            // Now they grow the array as well.
            twin.set_len(twin.base()).await?;
        } else {
            twin.fill(&mut rng).await?;
        }
        let mut parts = Vec::new();
        let mut start = 0;
        while start < twin.window() {
            let len = rng.size(1500).min(twin.window() - start);
            parts.push((twin.base() + start as u64, len));
            start += len;
        }
        // Each is left alone, read, written, or both.
        let kinds: Vec<u64> = parts.iter().map(|_| rng.below(6)).collect();
        let new: Vec<_> = parts.iter().map(|(_, len)| rng.bytes(*len)).collect();
        let mut calls: Vec<Call<'_, Done>> = Vec::new();
        // What the reads must find: of a range that is being written, nothing is known.
        let mut expected = Vec::new();
        for ((&(offset, len), kind), new) in parts.iter().zip(&kinds).zip(&new) {
            if matches!(kind, 1..=3) {
                calls.push(Box::pin(async move {
                    Done::Wrote(backend.write_at(offset, new).await)
                }));
                expected.push(None);
            }
            if matches!(kind, 3..=5) {
                calls.push(Box::pin(async move {
                    let mut out = vec![0x5A; len];
                    let read = backend.read_at(offset, &mut out).await;
                    Done::Read(read, out)
                }));
                let known = *kind != 3 && round % 4 != 3;
                expected.push(known.then(|| twin.expected(offset, len)));
            }
        }
        if round % 3 == 0 {
            calls.push(Box::pin(async { Done::Wrote(backend.flush().await) }));
            expected.push(None);
        }
        for (done, expected) in side_by_side(&mut rng, calls)
            .await
            .into_iter()
            .zip(expected)
        {
            match done {
                Done::Wrote(Err(error)) | Done::Read(Err(error), _) => {
                    return Err(
                        twin.failed("one of several calls that were under way at once", &error)
                    );
                }
                Done::Read(Ok(count), out) => {
                    let Some(expected) = expected else { continue };
                    if out.get(..count) != Some(&expected[..]) {
                        let what = format!(
                            "a read of {} bytes gave other bytes while others were written beside them",
                            out.len()
                        );
                        return Err(Broken::new(Rule::SideBySide, what));
                    }
                }
                Done::Wrote(Ok(())) => {}
            }
        }
        for ((&(offset, _), kind), new) in parts.iter().zip(&kinds).zip(&new) {
            if matches!(kind, 1..=3) {
                twin.note_write(offset, new);
            }
        }
        twin.check_all().await?;
    }
    Ok(())
}

/// A few rounds in which something that goes on would show.
async fn nothing_goes_on<C: CacheOps>(twin: &mut Twin<'_, C>) -> Result<(), Broken> {
    for round in 0..3 {
        twin.check_all().await?;
        if round == 1 {
            twin.flush().await?;
        }
        for _ in 0..5 {
            turn().await;
        }
    }
    twin.check_all().await
}

/// Calls that are dropped after some polls.
pub(super) async fn dropped<C: CacheOps>(suite: &Suite, backend: &C) -> Result<(), Broken> {
    let mut rng = suite.rng(10);
    let mut twin = begin(suite, backend, MIDDLE, &mut rng).await?;
    twin.blame(Rule::Dropped);
    let backend = twin.backend();
    for polls in 0..4 {
        for (offset, len) in [(200, 100), (1000, 30_000), (0, 1), (990, 600)] {
            for write_over in [false, true] {
                if twin.place(offset, len).is_none() {
                    continue;
                }
                twin.resize(1500).await?;
                twin.put(&mut rng, 0, 1500).await?;
                let at = twin.base() + offset as u64;
                let new = rng.bytes(len);
                match give_up_after(backend.write_at(at, &new), polls).await {
                    Some(Ok(())) => twin.note_write(at, &new),
                    Some(Err(error)) => return Err(twin.failed("write_at", &error)),
                    None if write_over => twin.put(&mut rng, offset, len).await?,
                    None => twin.settle(at, &new).await?,
                }
                nothing_goes_on(&mut twin).await?;
            }
        }
        for len in [0, 700, 5000] {
            twin.resize(1500).await?;
            twin.put(&mut rng, 0, 1500).await?;
            let Some(len) = twin.place(len, 0) else {
                continue;
            };
            match give_up_after(backend.set_len(len), polls).await {
                Some(Ok(())) => twin.note_len(len),
                Some(Err(error)) => return Err(twin.failed("set_len", &error)),
                None => twin.settle_len(len).await?,
            }
            nothing_goes_on(&mut twin).await?;
        }
        let mut out = vec![0; 700];
        give_up_after(backend.read_at(twin.base(), &mut out), polls).await;
        give_up_after(backend.flush(), polls).await;
        nothing_goes_on(&mut twin).await?;
    }
    Ok(())
}

/// What is answered at once is what would have been answered later.
pub(super) async fn at_once<C: CacheOps>(suite: &Suite, backend: &C) -> Result<(), Broken> {
    let mut rng = suite.rng(11);
    let mut twin = begin(suite, backend, MIDDLE, &mut rng).await?;
    twin.blame(Rule::AtOnce);
    twin.go(Way::AtOnce);
    look_at_ends(&mut twin, &mut rng).await?;
    random_calls(&mut twin, &mut rng, 150).await
}

/// An `Arc` of the backend is the backend.
pub(super) async fn shared<C: CacheOps>(suite: &Suite, backend: C) -> Result<(), Broken> {
    let mut rng = suite.rng(12);
    let shared = Arc::new(backend);
    let mut twin = begin(suite, &shared, 3000, &mut rng).await?;
    twin.blame(Rule::Shared);
    for way in [Way::Waiting, Way::AtOnce, Way::Waiting] {
        twin.go(way);
        random_calls(&mut twin, &mut rng, 30).await?;
    }
    twin.fill(&mut rng).await?;
    twin.flush().await?;
    let expected = twin.expected(twin.base(), twin.window());
    let mut found = vec![0; expected.len()];
    let read = C::read_at(&shared, twin.base(), &mut found).await;
    if !matches!(read, Ok(count) if count == expected.len()) || found != expected {
        let what = "what was written through an Arc is not in the backend".into();
        return Err(Broken::new(Rule::Shared, what));
    }
    Ok(())
}
