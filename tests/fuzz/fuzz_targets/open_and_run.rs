//! Opens arbitrary bytes as a cache file and runs an arbitrary list of operations on it.

#![no_main]
#![allow(
    dead_code,
    unused_imports,
    reason = "the helpers serve the integration tests too"
)]

#[path = "../run.rs"]
mod run;
#[path = "../../it/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|input: &[u8]| run::open_and_run(input));
