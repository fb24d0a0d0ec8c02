//! [`Versioned`]: a validator in the identity of a source, and [`SourceVersion`], by which it is told that it changed.
//!
//! The version enters the identity as a digest. So the identity, and with it the layout of the file, has one length whatever
//! the version says, and a version that should not be read is not written out.
//!
//! | made by | identity |
//! |---|---|
//! | `new(source, version)` | `versioned:(` source `;` digest `)` |
//! | `named(source, name)` | `named:(` name `)` |
//! | `named(source, name).with_version(version)` | `versioned:(named:(` name `);` digest `)` |
//!
//! Nothing is escaped, since nothing has to be: what stands behind a name or a source has a fixed length, so two different
//! pairs of name and version never give one text, as far as 128 bits tell versions apart.
//!
//! # What was not done
//!
//! Asking the source by a trait of its own: it would have to be passed through every wrapper in between, while every wrapper
//! passes an identity on.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use async_trait::async_trait;
use gibblox_core::{BlockReader, GibbloxResult, ReadContext};
use twox_hash::XxHash3_128;

use crate::error::source_changed;
use crate::sync::{AtomicUsize, Lock, Ordering};

/// What the bytes of a source are called at this moment: its `ETag`, a digest, a date. A handle that is shared: clones are
/// the same version.
///
/// The source, or the program, keeps one clone and [sets](Self::set) it as soon as an answer shows another version;
/// [`Versioned`] has the other one.
///
/// ```
/// use gibblox_cache::SourceVersion;
///
/// let version = SourceVersion::new("\"33a64df5\"");
/// let kept_by_source = version.clone();
/// assert!(!kept_by_source.set("\"33a64df5\"")); // what it was
/// assert!(kept_by_source.set("\"9e107d9d\""));
/// assert_eq!(version.current(), "\"9e107d9d\"");
/// ```
#[derive(Clone)]
pub struct SourceVersion(Arc<Shared>);

struct Shared {
    /// How often it was set to something else. Changed under the lock.
    changes: AtomicUsize,
    now: Lock<Now>,
}

struct Now {
    text: String,
    digest: [u8; DIGEST_CHARS],
}

const DIGEST_CHARS: usize = 32;

impl Now {
    fn of(text: String) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let hash = XxHash3_128::oneshot(text.as_bytes());
        let mut digest = [0; DIGEST_CHARS];
        for (at, digit) in (0_u32..).zip(digest.iter_mut().rev()) {
            let nibble = (hash >> (4 * at)) & 0xF;
            *digit = DIGITS.get(nibble as usize).copied().unwrap_or(b'0');
        }
        Self { text, digest }
    }
}

impl SourceVersion {
    /// The version `text`. Any text will do, also an empty one.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Shared {
            changes: AtomicUsize::new(0),
            now: Lock::new(Now::of(text.into())),
        }))
    }

    /// From now on the version is `text`; whether it was another one.
    ///
    /// A source sets it before it returns what an answer of the new version brought. Readers notice when they next go to the
    /// source, when their source answers, or when their [`state`](crate::CachedBlockReader::state) is asked for.
    pub fn set(&self, text: impl Into<String>) -> bool {
        let next = Now::of(text.into());
        let before = self.0.now.with(|now| {
            if now.text == next.text {
                return None;
            }
            let before = core::mem::replace(now, next);
            self.0.changes.fetch_add(1, Ordering::AcqRel);
            Some(before)
        });
        before.is_some()
    }

    /// What it is now.
    #[must_use]
    pub fn current(&self) -> String {
        self.0.now.with(|now| now.text.clone())
    }

    fn digest(&self) -> [u8; DIGEST_CHARS] {
        self.0.now.with(|now| now.digest)
    }

    fn changes(&self) -> usize {
        self.0.changes.load(Ordering::Acquire)
    }
}

/// Shows the digest, and not the text, which may be a secret.
impl fmt::Debug for SourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = self.digest();
        let digest = core::str::from_utf8(&digest).unwrap_or_default();
        f.debug_tuple("SourceVersion").field(&digest).finish()
    }
}

impl From<String> for SourceVersion {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for SourceVersion {
    fn from(text: &str) -> Self {
        Self::new(text.to_owned())
    }
}

/// A source with a version in its identity, or with a name in the place of it, or both.
///
/// The identity of a source has to stand for its bytes. That of most stands for their address:
///
/// - Where the bytes behind an address may be replaced, [`new`](Self::new) adds a version. A cache of an earlier version is
///   then another source's.
/// - Where an address says too much (a signature that is another one tomorrow, one of several mirrors, a password),
///   [`named`](Self::named) puts a name in its place. The name has to stand for the bytes alone.
///
/// A version may change while the source is read: see [`SourceVersion`], and
/// [`renew_source`](crate::CachedBlockReader::renew_source) for what follows. A read of this source during which its
/// version changes fails with [`SOURCE_CHANGED`](crate::SOURCE_CHANGED).
///
/// A version is written as a digest of 128 bits (XXH3), in files and in events. That hides a text that is hard to guess,
/// and no other; it is not made to withstand attacks. Names are written as they are.
///
/// # Examples
///
/// ```
/// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
/// # use image::Image;
/// use std::sync::Arc;
///
/// use gibblox_cache::{CachedBlockReader, MemoryCacheOps, Versioned};
/// use gibblox_core::ReadContext;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> gibblox_core::GibbloxResult<()> {
/// let backend = Arc::new(MemoryCacheOps::new());
/// let source = |etag: &str| Versioned::new(Image::new(512, 64), etag);
///
/// let reader = CachedBlockReader::new(source("33a64df5"), Arc::clone(&backend)).await?;
/// reader.ensure_cached(0, 64, ReadContext::BACKGROUND).await?;
/// # drop(reader);
///
/// let reader = CachedBlockReader::new(source("33a64df5"), Arc::clone(&backend)).await?;
/// assert_eq!(reader.get_stats().await.cached_blocks, 64); // The same bytes: all of it is used.
/// # drop(reader);
///
/// let reader = CachedBlockReader::new(source("9e107d9d"), Arc::clone(&backend)).await?;
/// assert_eq!(reader.get_stats().await.cached_blocks, 0); // Other bytes: begun anew.
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Versioned<S> {
    source: S,
    name: Option<String>,
    version: Option<SourceVersion>,
}

impl<S> Versioned<S> {
    /// Adds `version` to the identity of `source`: a text, or a [`SourceVersion`] that may change.
    pub fn new(source: S, version: impl Into<SourceVersion>) -> Self {
        Self {
            source,
            name: None,
            version: Some(version.into()),
        }
    }

    /// Puts `name` in the place of the identity of `source`.
    pub fn named(source: S, name: impl Into<String>) -> Self {
        Self {
            source,
            name: Some(name.into()),
            version: None,
        }
    }

    /// Adds `version`, in the place of one that was there.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<SourceVersion>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// The version, if it has one.
    pub const fn version(&self) -> Option<&SourceVersion> {
        self.version.as_ref()
    }

    /// The source itself.
    pub const fn source(&self) -> &S {
        &self.source
    }

    /// The source itself, without version and name.
    pub fn into_source(self) -> S {
        self.source
    }

    fn changes(&self) -> usize {
        self.version.as_ref().map_or(0, SourceVersion::changes)
    }
}

impl<S: BlockReader> Versioned<S> {
    fn write_inner(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let Some(name) = &self.name else {
            return self.source.write_identity(out);
        };
        out.write_str("named:(")?;
        out.write_str(name)?;
        out.write_str(")")
    }
}

#[async_trait]
impl<S: BlockReader> BlockReader for Versioned<S> {
    fn block_size(&self) -> u32 {
        self.source.block_size()
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        self.source.total_blocks().await
    }

    fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let Some(version) = &self.version else {
            return self.write_inner(out);
        };
        out.write_str("versioned:(")?;
        self.write_inner(out)?;
        out.write_str(";")?;
        let digest = version.digest();
        out.write_str(core::str::from_utf8(&digest).map_err(|_| fmt::Error)?)?;
        out.write_str(")")
    }

    async fn read_blocks(
        &self,
        lba: u64,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<usize> {
        let before = self.changes();
        let answer = self.source.read_blocks(lba, buf, ctx).await;
        // Also where it is by now what it was before.
        if self.changes() != before {
            return Err(source_changed());
        }
        answer
    }
}
