//! The page of this crate in a headless Chromium: cold, warm, after a restart, in two tabs, damaged, short of space.
//!
//! The page's report comes back as JSON, so that [`CacheStats`](gibblox_cache::CacheStats) and the counters are what a
//! page sees of them. The image is compared by its SHA-256, and the server says which ranges it was asked for. The
//! server forbids the browser's HTTP cache, so that a block that was not asked for can only come from this one.
//!
//! Nothing here sleeps. Waiting for a page that hangs ends with a failure after a minute.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and says where"
)]

mod browser;
mod cases;
mod site;
