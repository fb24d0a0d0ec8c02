//! Content addressing by the identity: the name of a source's file in a directory.

use alloc::format;
use alloc::string::String;
use std::io::{self, ErrorKind};

use gibblox_core::BlockReader;
use twox_hash::XxHash3_128;

use crate::identity::checked_reader_identity_string;

const SUFFIX: &str = ".gibblox";

/// The name of the file of `source`. Short enough for every file system, whatever the identity.
pub(crate) fn of<S: BlockReader + ?Sized>(source: &S) -> io::Result<String> {
    let identity = checked_reader_identity_string(source).map_err(|_| {
        io::Error::new(
            ErrorKind::InvalidInput,
            "the source fails to write its identity",
        )
    })?;
    let digits = XxHash3_128::oneshot_with_seed(source.block_size().into(), identity.as_bytes());
    Ok(format!("{digits:032x}{SUFFIX}"))
}

/// Whether `name` could be one that [`of`] gave.
pub(crate) fn is_one(name: &str) -> bool {
    name.strip_suffix(SUFFIX).is_some_and(|digits| {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        digits.len() == 32 && digits.bytes().all(is_digit)
    })
}
