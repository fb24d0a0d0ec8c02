//! The errors that a reader makes itself, in one wording each. Errors of the source and of the backend pass unchanged;
//! the backends of this crate word their own.

use alloc::format;

use gibblox_core::{GibbloxError, GibbloxErrorKind};

/// The message of the error with which a read fails where the source has changed, of kind
/// [`Other`](gibblox_core::GibbloxErrorKind::Other). It stays as it is.
pub const SOURCE_CHANGED: &str = "the source has changed since it was cached";

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

/// The caller asked for blocks that the device does not have.
#[cold]
pub(crate) fn out_of_range() -> GibbloxError {
    GibbloxError::with_message(
        GibbloxErrorKind::OutOfRange,
        "the range reaches past the last block",
    )
}

/// The cache file is closed.
#[cold]
pub(crate) fn not_open() -> GibbloxError {
    io("the cache file could not be opened yet")
}

/// Another reader has the array, and there is no other one to be had.
#[cold]
pub(crate) fn taken() -> GibbloxError {
    io("another reader uses the cache for another source")
}

/// The array holds another cache, which is not to be overwritten.
#[cold]
pub(crate) fn kept() -> GibbloxError {
    io("the array holds another cache, which is not to be overwritten")
}

/// The source is not the one any more that it was.
#[cold]
pub(crate) fn source_changed() -> GibbloxError {
    GibbloxError::with_message(GibbloxErrorKind::Other, SOURCE_CHANGED)
}

/// The source has changed, and a reader cannot go on with what it is now, because of `what`.
#[cold]
pub(crate) fn not_renewed(what: &str) -> GibbloxError {
    GibbloxError::with_message(
        GibbloxErrorKind::InvalidInput,
        format!("the new version of the source takes a new reader: {what}"),
    )
}

/// Another process is building the file, or has it locked for a moment.
#[cold]
pub(crate) fn busy() -> GibbloxError {
    io("the cache file is being opened by another reader")
}

/// Nothing can be written to the backend.
#[cold]
pub(crate) fn read_only() -> GibbloxError {
    io("the cache backend is read-only")
}

/// No call is made to the backend.
#[cold]
pub(crate) fn bypassed() -> GibbloxError {
    io("the cache backend failed too often and is bypassed")
}

/// Blocks were written to a file without checksums, and nothing tells whether they arrived.
#[cold]
pub(crate) fn not_durable() -> GibbloxError {
    io("a flush failed while the blocks were stored")
}

/// A flush succeeded, and others failed beside it again and again.
#[cold]
pub(crate) fn not_kept() -> GibbloxError {
    io("a flush failed whenever what earlier ones had lost was written again")
}

/// Blocks were erased, and nothing tells whether that arrived.
#[cold]
pub(crate) fn not_erased() -> GibbloxError {
    io("a flush failed, or a bypass ended, while blocks were dropped")
}

#[cold]
fn io(message: &'static str) -> GibbloxError {
    GibbloxError::with_message(GibbloxErrorKind::Io, message)
}

/// The source answered, and is another one.
#[cold]
pub(crate) fn other_source(what: &str) -> GibbloxError {
    GibbloxError::with_message(
        GibbloxErrorKind::Other,
        format!("the source is not the one that is cached: {what}"),
    )
}
