//! What the crate promises, one folder per promise, everything driven by hand.
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

/// A read returns the source's bytes or an error, and each block is counted once.
mod read {
    /// Shapes, edges, errors and the cost of a read.
    mod blocks;
    /// Each counter is exact, and the sums agree.
    mod counters;
    /// A read beside drops, repairs and stores returns right bytes.
    mod disturbed;
    /// Which blocks are valid is told without a call.
    mod inside;
    /// Each block that is asked for is a hit or a miss.
    mod stats;
}

/// A block is fetched once, however many tasks want it, and any future may be dropped.
mod fetch {
    /// A dropped future leaves no claim, no lock and no waiting task behind.
    mod cancel;
    /// One task leads, the others follow, and an error stays where it belongs.
    mod dedup;
    /// How many fetches there are at once and how long they are, and what many tasks share.
    mod limits;
    /// A task that waits has a place in line, and no task that wants the same again and again keeps it from ending.
    mod queue;
    /// Thousands of random interleavings agree with an oracle.
    mod schedules;
    /// The same holds on real threads.
    mod threads;
    /// Nothing is fetched unasked by default, and no more than the limits where it is allowed.
    mod wider;
}

/// Any file is safe to open, and what a power cut leaves is never served as wrong bytes.
mod file {
    /// Every image that a power cut can leave reads as the source.
    mod crash;
    /// After `flush_cache` is `Ok` all that was valid outlives a power cut, whatever failed before.
    mod durable;
    /// Files go both ways between this crate and 0.0.1.
    mod exchange;
    /// A flush happens when it is due, covers what was written, and stops no other reader.
    mod flush;
    /// The bytes of a file are those of the specification.
    mod format;
    /// Arbitrary bytes are used or rebuilt, and no read is wrong.
    mod hostile;
    /// A file says what it holds without its source, and is only read for it.
    mod inspect;
    /// What opening may not overwrite stays as it is.
    mod kept;
    /// Opening takes over what matches and rebuilds what does not.
    mod open;
    /// A source that changes while it is read is noticed, nothing of two versions is mixed, and the reader goes on.
    mod versions;
}

/// A sick backend never makes a healthy source unreadable.
mod backend {
    /// A backend that fails again and again is left alone, probed, and used again.
    mod bypass;
    /// The public suite passes backends that keep the contract and names the rule that another one breaks.
    mod contract;
    /// Every call fails once and for ever, and no read fails for it unless the source does.
    mod faults;
    /// `MemoryCacheOps` holds what is cached, not the device, and serves several threads.
    mod memory;
    /// What is under way when it is bypassed ends right, and takes back nothing.
    mod overtaken;
    /// A program written for 0.0.1 compiles and runs unchanged.
    mod program;
    /// A reader tells whether its cache serves, fails, is not open, or is bypassed.
    mod state;
}

/// Blocks can be cached ahead of the reads, and are served where the source is out of reach.
mod warm {
    /// Warming that compares is `Ok` when all of it can be read.
    mod comparing;
    /// `ensure_cached` is `Ok` when every block is valid, in memory that does not grow with the range.
    mod ensure;
    /// Without the source, what is cached is served and nothing of another source is.
    mod offline;
    /// `warm` fetches what is missing, tells how far it is, pauses, and delays no foreground read.
    mod warming;
}

/// What is dropped does not come back.
mod drop {
    /// Dropped blocks are fetched again, whatever was under way and whatever fails.
    mod invalidate;
    /// In no image that a power cut can leave do they come back.
    mod power;
}

/// What people report about caches like this one, family by family.
mod reports;

/// The map of the code is true.
mod house;
