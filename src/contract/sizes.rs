//! Writes of many sizes: over nothing, over the same bytes, and over parts of each other.

use super::start::begin;
use super::twin::MIDDLE;
use super::{Kept, Suite};
use crate::backend::CacheOps;

/// Around every piece that an implementation may cut an array into: bytes, words, sectors, pages, chunks.
const SIZES: [usize; 29] = [
    1, 2, 3, 7, 8, 9, 63, 64, 65, 255, 256, 257, 511, 512, 513, 1000, 4095, 4096, 4097, 65_535,
    65_536, 65_537, 262_143, 262_144, 262_145, 1_048_575, 1_048_576, 1_048_577, 1_300_001,
];

pub(super) async fn sizes<C: CacheOps>(suite: &Suite, backend: &C) -> Kept {
    let mut twin = begin(suite, 3, backend, Suite::MOST).await?;
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
            let data = twin.rng.bytes(size);
            twin.put_data(shift, &data).await?;
            twin.put_data(shift, &data).await?;
            // The first byte, the last one, a part in the middle, and across both edges.
            for (offset, len) in [
                (shift, 1),
                (shift + size - 1, 1),
                (shift + size / 3, size.div_ceil(3)),
                (shift.saturating_sub(3), 7.min(size + 3)),
                ((shift + size).saturating_sub(2), 7),
            ] {
                twin.put(offset, len).await?;
            }
            // The old bytes again, then bytes that begin as they do and end with zeros.
            twin.put_data(shift, &data).await?;
            let mut other = data;
            other[size / 2..].fill(0);
            twin.put_data(shift, &other).await?;
        }
        twin.check_all().await?;
        if twin.rng.below(3) == 0 {
            let len = twin.rng.index(size);
            twin.resize(len).await?;
        }
    }
    Ok(())
}
