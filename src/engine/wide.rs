//! Fetches that bring more than was missing and asked for: around a request, ahead of it, or across a gap.
//!
//! Blocks of a gap lie within the caller's buffer. Blocks around a request or ahead of it do not, so such a fetch goes
//! through memory of its own, from which the caller's part is copied.
//!
//! The extra blocks are a bonus. If the wide read fails or there is no memory, its claims are released, the followers
//! look for themselves, and the request is fetched exactly. If that succeeds, the policy remembers where the wide one
//! failed.

use alloc::vec::Vec;

use gibblox_core::{BlockReader, ReadContext};
use tracing::{debug, trace};

use crate::backend::CacheOps;
use crate::fetch::Fetch;
use crate::run::Run;

use super::fetching::Fetching;
use super::memory::sized;

/// A wider fetch did not come about.
#[derive(Clone, Copy, Debug)]
pub(super) enum TooWide {
    NoMemory,
    /// The source did not bring all of this.
    Failed(Run),
}

impl<S, C> Fetching<'_, S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    /// Fetches what `fetch` claimed and what lies between, and stores what was missing. `buf` gets what was asked for.
    ///
    /// Cancellation is strict; what is led goes to the next task that claims it.
    pub(super) async fn fetch_wide(
        &self,
        mut fetch: Fetch<'_>,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> Result<(), TooWide> {
        let _permit = fetch.take_permit();
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
            let len = self.geometry().len_bytes(span.blocks());
            sized(&mut memory, len).map_err(|_| TooWide::NoMemory)?
        };
        if let Err(error) = self.read_source(span, bytes, ctx).await {
            debug!(
                lba = span.start(),
                blocks = span.blocks(),
                %error,
                "a wider fetch failed; what was asked for is fetched alone"
            );
            return Err(TooWide::Failed(span));
        }
        let counts = self.counts();
        counts.unasked_fetched_blocks.add(fetch.unasked_blocks());
        counts.refetched_blocks.add(fetch.gap_blocks());
        // A read that has its bytes does not mind whether the backend took them.
        let _ = if span == asked {
            self.store(fetch, buf).await
        } else {
            let from = self.geometry().len_bytes(asked.start() - span.start());
            let wanted = memory.get(from..).and_then(|bytes| bytes.get(..buf.len()));
            buf.copy_from_slice(wanted.unwrap_or_default());
            self.store(fetch, &memory).await
        };
        Ok(())
    }
}
