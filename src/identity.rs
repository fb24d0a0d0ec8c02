//! Who a cached reader or configuration is: the inner identity between `cached:(` and `)`.
//!
//! The text goes into the cache file, so that a file is never used for another source. The 32-bit ids are what
//! programs name their files by; they are short, so the file compares the whole text and never the id.

use alloc::string::String;
use core::fmt;

use gibblox_core::{
    BlockReader, BlockReaderConfigIdentity, GibbloxError, GibbloxResult, derive_block_identity_id,
    derive_config_identity_id,
};

use crate::error::invalid_input;

/// Writes the identity of a cached thing, given how the inner one writes its own.
pub(crate) fn write_cached(
    out: &mut dyn fmt::Write,
    inner: impl FnOnce(&mut dyn fmt::Write) -> fmt::Result,
) -> fmt::Result {
    out.write_str("cached:(")?;
    inner(out)?;
    out.write_str(")")
}

/// A configuration as it is called once it is cached. Gives [`derive_config_identity_id`] the text to hash.
struct CachedConfig<'a, C: ?Sized>(&'a C);

impl<C: BlockReaderConfigIdentity + ?Sized> BlockReaderConfigIdentity for CachedConfig<'_, C> {
    fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write_cached(out, |out| self.0.write_identity(out))
    }
}

/// The identity that `reader` has once it is cached: `cached:(` inner `)`.
///
/// This is the text that a cache file of this reader carries in its header.
pub fn cached_reader_identity_string<S: BlockReader + ?Sized>(reader: &S) -> String {
    let mut text = String::new();
    // Writing to a `String` cannot fail; an error here is the reader's own and leaves what it wrote so far, as
    // gibblox-core's `block_identity_string` does.
    let _ = write_cached(&mut text, |out| reader.write_identity(out));
    text
}

/// [`cached_reader_identity_string`], but an error where `reader` fails to write its own: what it wrote so far is no
/// identity, since another source may have failed at the same place.
pub(crate) fn checked_reader_identity_string<S: BlockReader + ?Sized>(
    reader: &S,
) -> GibbloxResult<String> {
    let mut text = String::new();
    write_cached(&mut text, |out| reader.write_identity(out)).map_err(|_| no_identity())?;
    Ok(text)
}

#[cold]
fn no_identity() -> GibbloxError {
    invalid_input("the source fails to write its identity")
}

/// Whether `identity` is the one that `reader` has once it is cached, without an allocation; an error where `reader` fails
/// to write its own.
pub(crate) fn is_cached_reader_identity<S: BlockReader + ?Sized>(
    reader: &S,
    identity: &str,
) -> GibbloxResult<bool> {
    let mut comparing = Comparing(Some(identity));
    write_cached(&mut comparing, |out| reader.write_identity(out)).map_err(|_| no_identity())?;
    Ok(comparing.0 == Some(""))
}

/// Compares what is written with a text: what of the text is left, and nothing once they differ.
struct Comparing<'a>(Option<&'a str>);

impl fmt::Write for Comparing<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.and_then(|rest| rest.strip_prefix(text));
        Ok(())
    }
}

/// The identity that a reader opened from `config` has once it is cached: `cached:(` inner `)`.
pub fn cached_config_identity_string<C: BlockReaderConfigIdentity + ?Sized>(config: &C) -> String {
    let mut text = String::new();
    let _ = write_cached(&mut text, |out| config.write_identity(out));
    text
}

/// A 32-bit name for the cache of `reader`, which has `total_blocks` blocks. Never zero.
///
/// gibblox-core's [`derive_block_identity_id`] over block size, `total_blocks` and the cached identity. Two sources
/// may share an id: it names files, it does not tell sources apart.
pub fn derive_cached_reader_identity_id<S: BlockReader + ?Sized>(
    reader: &S,
    total_blocks: u64,
) -> u32 {
    derive_block_identity_id(reader.block_size(), total_blocks, |out| {
        write_cached(out, |out| reader.write_identity(out))
    })
}

/// A 32-bit name for the cache of what `config` opens. Never zero.
///
/// gibblox-core's [`derive_config_identity_id`] over the cached identity.
pub fn derive_cached_config_identity_id<C: BlockReaderConfigIdentity + ?Sized>(config: &C) -> u32 {
    derive_config_identity_id(&CachedConfig(config))
}
