//! Every part begins here: the backend is as empty, or as long, as the suite was told.

use alloc::format;

use super::twin::Twin;
use super::{Broken, Kept, Rule, Suite};
use crate::backend::CacheOps;

/// The twin of a new `backend` for the part of the suite that has this number; parts differ in what chance gives them.
/// Up to `window` bytes of the array are used.
pub(super) async fn begin<'a, C: CacheOps + ?Sized>(
    suite: &Suite,
    part: u64,
    backend: &'a C,
    window: usize,
) -> Result<Twin<'a, C>, Broken> {
    let rng = suite.rng(part);
    let Some(len) = suite.fixed else {
        is_there(backend, 0, 0).await?;
        let window = usize::try_from(suite.max_len).map_or(window, |most| window.min(most));
        return Ok(Twin::empty(backend, 0, window, rng));
    };
    if let Some(last) = len.checked_sub(1) {
        is_there(backend, last, 1).await?;
    }
    is_there(backend, len, 0).await?;
    Twin::fixed(backend, len, window, rng).await
}

/// Whether a read of one byte at `offset` gives as many as `wanted`.
async fn is_there<C: CacheOps + ?Sized>(backend: &C, offset: u64, wanted: usize) -> Kept {
    let found = match backend.read_at(offset, &mut [0]).await {
        Ok(found) if found == wanted => return Ok(()),
        Ok(found) => found,
        Err(error) => {
            let what = format!("a read of one byte at {offset} failed: {error}");
            return Err(Broken::new(Rule::Succeeds, what));
        }
    };
    // A backend that has bytes everywhere does not know its end.
    let endless = found > 1 || matches!(backend.read_at(1 << 62, &mut [0]).await, Ok(1..));
    let rule = if endless { Rule::Ends } else { Rule::Starts };
    let what = format!("a read of one byte at {offset} gave {found} in the beginning");
    Err(Broken::new(rule, what))
}
