//! The errors that this crate makes itself, in one wording each.

use alloc::format;

use gibblox_core::{GibbloxError, GibbloxErrorKind};

/// There is no memory for `what`.
#[cold]
pub(crate) fn out_of_memory(what: &str) -> GibbloxError {
    GibbloxError::with_message(GibbloxErrorKind::Other, format!("no memory for {what}"))
}

/// A call came back with fewer bytes than it had to.
#[cold]
pub(crate) fn short_read(who: &str, got: usize, asked: usize) -> GibbloxError {
    GibbloxError::with_message(
        GibbloxErrorKind::Io,
        format!("{who} returned {got} of {asked} bytes"),
    )
}

/// What the caller gave cannot be used.
#[cold]
pub(crate) fn invalid_input(message: &'static str) -> GibbloxError {
    GibbloxError::with_message(GibbloxErrorKind::InvalidInput, message)
}
