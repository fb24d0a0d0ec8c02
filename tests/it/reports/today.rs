//! The names that the crate has today for what these tests ask of it: the one place to change when they change.

use core::future::Future;
use gibblox_cache::{
    BypassPolicy, CacheConfig, CacheOps, CacheState, CachedBlockReader, PauseSwitch, ScrubReport,
    VerifyPolicy, WarmPlan, WarmProgress, WiderFetches,
};
use gibblox_core::{BlockReader, GibbloxResult};

/// The switch that holds a warming.
pub(super) type Switch = PauseSwitch;

/// Bypasses a backend after so many failures, and probes it after so many reads.
pub(super) const fn with_bypass(
    config: CacheConfig,
    after_failures: u32,
    probe_after_reads: u32,
) -> CacheConfig {
    config.with_bypass(BypassPolicy {
        after_failures,
        probe_after_reads,
    })
}

pub(super) fn is_bypassed<S: BlockReader, C: CacheOps>(reader: &CachedBlockReader<S, C>) -> bool {
    reader.state() == CacheState::Bypassed
}

/// No fetch is longer than this.
pub(super) const fn with_max_fetch_bytes(config: CacheConfig, bytes: u32) -> CacheConfig {
    config.with_max_fetch_bytes(bytes)
}

/// What this process stored is compared the first time that it is read back.
pub(super) const fn with_compared_after_storing(config: CacheConfig) -> CacheConfig {
    config.with_verify(VerifyPolicy::OnFirstReadOfStored)
}

/// Fetches around each miss up to multiples of so many bytes.
pub(super) const fn with_around_bytes(config: CacheConfig, bytes: u32) -> CacheConfig {
    config.with_wider_fetches(WiderFetches::new().with_around_bytes(bytes))
}

/// Fetches so many valid blocks again where two holes become one fetch by it.
pub(super) const fn with_gap_blocks(config: CacheConfig, blocks: u32) -> CacheConfig {
    config.with_wider_fetches(WiderFetches::new().with_gap_blocks(blocks))
}

/// Caches the whole device ahead, with so many windows at once.
pub(super) fn warm_device<'a, S: BlockReader, C: CacheOps>(
    reader: &'a CachedBlockReader<S, C>,
    windows_at_once: u32,
    switch: &Switch,
    progress: impl FnMut(&WarmProgress) + Send + 'a,
) -> impl Future<Output = GibbloxResult<WarmProgress>> + 'a {
    let plan = WarmPlan::device()
        .with_windows_at_once(windows_at_once)
        .with_pause(switch);
    reader.warm_with_progress(plan, progress)
}

pub(super) fn scrub<'a, S: BlockReader, C: CacheOps>(
    reader: &'a CachedBlockReader<S, C>,
    progress: impl FnMut(&ScrubReport) + Send + 'a,
) -> impl Future<Output = GibbloxResult<ScrubReport>> + 'a {
    reader.scrub_with_progress(progress)
}
