//! What the crate promises, one module per subject, everything driven by hand.
//!
//! A test polls its futures itself and lets go of each call of the source and of the backend when it wants to, so
//! nothing here sleeps and every failure happens again. A module that tries many seeds prints the line that replays
//! the one that failed; see [`support::scale`].

#![allow(
    clippy::unwrap_used,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    clippy::cast_possible_truncation,
    reason = "tests run with std on 64-bit hosts, and a panic is how they fail"
)]

mod support;

mod around;
mod bypass;
mod cancel;
mod contract;
mod counters;
mod crash;
mod dedup;
mod disturbed;
mod exchange;
mod faults;
mod flush;
mod format;
mod hostile;
mod inside;
mod inspect;
mod memory;
mod offline;
mod open;
mod program;
mod queue;
mod read;
mod scale;
mod schedules;
mod stats;
mod threads;
mod warm;
