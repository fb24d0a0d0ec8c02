//! Shorter and longer again, at and beside the edges of what was written; and flushes, which change nothing.

use super::start::begin;
use super::{Kept, Suite};
use crate::backend::CacheOps;

/// Where bytes are written before the array is cut: each offset with its length.
const LAYOUTS: [&[(usize, usize)]; 6] = [
    &[(0, 10)],
    &[(100, 200), (300, 212)],
    &[(0, 4096), (4096, 4096), (8192, 100)],
    &[(700, 600), (900, 50)],
    &[(5, 1), (1000, 1)],
    &[(100_000, 200_000), (310_000, 300)],
];

pub(super) async fn lengths<C: CacheOps>(suite: &Suite, backend: &C) -> Kept {
    let mut twin = begin(suite, 4, backend, 400_000).await?;
    twin.resize(6000).await?;
    for layout in LAYOUTS {
        let ends = layout.iter().map(|(start, len)| start + len);
        let end = ends.max().unwrap_or(0);
        let edges = layout
            .iter()
            .flat_map(|(start, len)| [*start, start + len / 2, start + len]);
        let cuts = edges
            .chain([256, 4096, 262_144])
            .flat_map(|edge| [edge.saturating_sub(1), edge, edge + 1]);
        for cut in cuts {
            for grows_by_writing in [false, true] {
                twin.resize(0).await?;
                for &(start, len) in layout {
                    twin.put(start, len).await?;
                }
                twin.resize(cut).await?;
                if grows_by_writing {
                    twin.put(cut.max(end) + 20, 3).await?;
                } else {
                    twin.resize(end + 50).await?;
                    twin.resize(end + 50).await?;
                }
                twin.check_all().await?;
                // Into the bytes that are new, across the cut.
                twin.put(cut.saturating_sub(1), 2).await?;
                twin.check_all().await?;
            }
        }
    }
    Ok(())
}

pub(super) async fn flush<C: CacheOps>(suite: &Suite, backend: &C) -> Kept {
    let mut twin = begin(suite, 8, backend, 10_000).await?;
    twin.flush_and_check().await?;
    twin.fill().await?;
    twin.flush_and_check().await?;
    twin.flush_and_check().await?;
    twin.put(300, 600).await?;
    twin.flush_and_check().await?;
    twin.resize(500).await?;
    twin.flush_and_check().await
}
