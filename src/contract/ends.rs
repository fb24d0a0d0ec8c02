//! The ends of the array, calls with nothing to do, and every small range.

use super::start::begin;
use super::twin::{MIDDLE, Twin};
use super::{Broken, Kept, Rule, Suite};
use crate::backend::CacheOps;
use alloc::format;

pub(super) async fn ends<C: CacheOps>(suite: &Suite, backend: &C) -> Kept {
    let mut twin = begin(suite, 1, backend, MIDDLE).await?;
    look_at_ends(&mut twin).await?;
    if twin.fixed {
        let (end, len) = (twin.end, twin.window.min(700));
        write_past(&mut twin, end, 1).await?;
        write_past(&mut twin, end.saturating_add(100_000), 10).await?;
        write_past(&mut twin, end - len as u64, len + 1).await?;
    }
    Ok(())
}

pub(super) async fn look_at_ends<C: CacheOps + ?Sized>(twin: &mut Twin<'_, C>) -> Kept {
    twin.check_all().await?;
    write_no_bytes(twin).await?;
    twin.check(twin.end + 5000, 10).await?;
    twin.put(0, 100).await?;
    for offset in [0, 50, 89, 90, 91, 99, 100, 101, 500] {
        for len in [0, 1, 10, 11, 20] {
            twin.check(twin.base + offset, len).await?;
        }
    }
    twin.put(100, 5).await?;
    write_no_bytes(twin).await?;
    for back in 0..5 {
        twin.check(twin.end.saturating_sub(back), 3).await?;
    }
    for offset in [9000, 5000] {
        twin.put(offset, 10).await?;
        twin.check_all().await?;
    }
    Ok(())
}

/// Writes of no bytes change nothing, wherever they are.
async fn write_no_bytes<C: CacheOps + ?Sized>(twin: &mut Twin<'_, C>) -> Kept {
    for offset in [0, 3, 104, 105, 106, 2000] {
        let offset = twin.base + offset;
        if let Err(error) = twin.try_write(offset, &[]).await {
            // Past the end of an array that keeps its size it may be refused.
            if !(twin.fixed && offset > twin.end) {
                return Err(twin.failed("a write of no bytes", &error));
            }
        }
        twin.note_write(offset, &[]);
        twin.check(offset, 0).await?;
        twin.check_all().await?;
    }
    Ok(())
}

/// A write that reaches past the end of an array that keeps its size.
async fn write_past<C: CacheOps>(twin: &mut Twin<'_, C>, offset: u64, len: usize) -> Kept {
    let end = twin.end;
    let data = twin.rng.bytes(len);
    if twin.try_write(offset, &data).await.is_ok() {
        let what = format!("a write of {len} bytes at {offset} is Ok in an array of {end} bytes");
        return Err(Broken::new(Rule::FixedSize, what));
    }
    // The error may leave any bytes in the part of the range that exists.
    let inside = usize::try_from(end.saturating_sub(offset)).unwrap_or(len);
    let data = twin.rng.bytes(inside.min(len));
    if !data.is_empty() {
        twin.write(offset, &data).await?;
    }
    twin.check_all().await
}

/// Every write of a few bytes, and every read of it.
pub(super) async fn every_small_range<C: CacheOps>(suite: &Suite, backend: &C) -> Kept {
    let mut twin = begin(suite, 2, backend, 12).await?;
    let window = twin.window;
    for start in 0..window {
        for len in 1..=window - start {
            // Into what is there, and into nothing.
            twin.fill().await?;
            twin.put(start, len).await?;
            for from in 0..=window {
                for count in 0..=window + 1 - from {
                    twin.check(twin.base + from as u64, count).await?;
                }
            }
            twin.resize(0).await?;
            twin.put(start, len).await?;
        }
    }
    Ok(())
}
