//! Fetches that bring more than was missing and asked for.
//!
//! What is read across a gap lies in the caller's buffer all the same. What is read around a request or ahead of it does
//! not, and goes through memory of its own, from which the caller's part is copied.
//!
//! The rest is nobody's business: where it cannot be had, be it that the source fails or that there is no memory, the
//! leads are dropped, so that followers look for themselves, and what was asked for is fetched alone.

use alloc::vec::Vec;

use gibblox_core::{BlockReader, ReadContext};
use tracing::{debug, trace};

use crate::backend::CacheOps;
use crate::fetch::Fetch;

use super::{CachedBlockReader, sized};

/// A wider fetch did not come about.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooWide;

impl<S, C> CachedBlockReader<S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    /// Fetches what `fetch` claimed and what lies between, and stores what was missing. `buf` gets what was asked for.
    ///
    /// Cancellation is strict; what is led goes to whoever claims it next.
    pub(super) async fn fetch_wide(
        &self,
        fetch: Fetch<'_>,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> Result<(), TooWide> {
        let (span, asked) = (fetch.span(), fetch.asked());
        trace!(
            lba = span.start(),
            blocks = span.blocks(),
            asked_lba = asked.start(),
            asked_blocks = asked.blocks(),
            "fetching more than was asked for"
        );
        let mut memory = Vec::new();
        let bytes = if span == asked {
            &mut *buf
        } else {
            let len = self.geometry.len_bytes(span.blocks());
            sized(&mut memory, len).map_err(|_| TooWide)?
        };
        if let Err(error) = self.read_source(span, bytes, ctx).await {
            debug!(
                lba = span.start(),
                blocks = span.blocks(),
                %error,
                "a wider fetch failed; what was asked for is fetched alone"
            );
            return Err(TooWide);
        }
        let counts = self.file.counts();
        counts.unasked_fetched_blocks.add(fetch.unasked_blocks());
        counts.refetched_blocks.add(fetch.gap_blocks());
        // That the backend did not take them is no concern of a read that has its bytes.
        let _ = if span == asked {
            self.store(fetch, buf).await
        } else {
            let from = self.geometry.len_bytes(asked.start() - span.start());
            let wanted = memory.get(from..).and_then(|bytes| bytes.get(..buf.len()));
            buf.copy_from_slice(wanted.unwrap_or_default());
            self.store(fetch, &memory).await
        };
        Ok(())
    }
}
