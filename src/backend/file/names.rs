//! Content addressing by the identity: the name of a source's file in a directory.

use alloc::format;
use alloc::string::String;
use std::io::{self, ErrorKind};

use gibblox_core::BlockReader;
use twox_hash::XxHash3_128;

use crate::identity::checked_reader_identity_string;

/// The name of the file of `source`. Short enough for every file system, whatever the identity.
pub(super) fn of<S: BlockReader + ?Sized>(source: &S) -> io::Result<String> {
    let identity = checked_reader_identity_string(source).map_err(|_| {
        io::Error::new(
            ErrorKind::InvalidInput,
            "the source fails to write its identity",
        )
    })?;
    let digits = XxHash3_128::oneshot_with_seed(source.block_size().into(), identity.as_bytes());
    Ok(format!("{digits:032x}.gibblox"))
}
