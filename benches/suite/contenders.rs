//! The two crates, opened with their defaults.

use gibblox_cache::{CacheOps, CachedBlockReader};
use gibblox_cache_harness::drive;
use gibblox_core::{BlockReader, GibbloxResult, ReadContext};

/// Both crates' readers.
pub(crate) type Ours<S, C> = CachedBlockReader<S, C>;
pub(crate) type Published<S, C> = gibblox_cache_published::CachedBlockReader<S, C>;

pub(crate) const KIB: usize = 1 << 10;
pub(crate) const MIB: usize = 1 << 20;
pub(crate) const BLOCK: usize = 4 * KIB;

pub(crate) const CTX: ReadContext = ReadContext::FOREGROUND;

/// Opens this crate's reader with its defaults.
pub(crate) fn ours<S: BlockReader, C: CacheOps>(source: S, cache: C) -> Ours<S, C> {
    drive(Ours::new(source, cache)).unwrap()
}

/// Opens the published crate's reader with its defaults.
pub(crate) fn published<S, C>(source: S, cache: C) -> Published<S, C>
where
    S: BlockReader,
    C: gibblox_cache_published::CacheOps,
{
    drive(Published::new(source, cache)).unwrap()
}

/// Does the same with both crates.
pub(crate) fn drive_all(
    ours: impl Future<Output = GibbloxResult<()>>,
    published: impl Future<Output = GibbloxResult<()>>,
) {
    drive(ours).unwrap();
    drive(published).unwrap();
}
