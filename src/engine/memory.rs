//! Memory for a window or a wider fetch: a buffer that grows, or an error where there is none.

use alloc::vec::Vec;

use gibblox_core::GibbloxResult;

use crate::error::out_of_memory;

/// `len` bytes of `buf`, which grows where it has to.
pub(super) fn sized(buf: &mut Vec<u8>, len: usize) -> GibbloxResult<&mut [u8]> {
    if buf.len() < len {
        buf.try_reserve_exact(len - buf.len())
            .map_err(|_| out_of_memory("a window"))?;
        buf.resize(len, 0);
    }
    Ok(buf.get_mut(..len).unwrap_or_default())
}
