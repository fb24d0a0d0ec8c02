//! What the benches share: a clock that knows when it was not on a processor, an allocator that counts, devices with
//! bytes that can be checked, interleaved rounds, and the table at the end.
//!
//! A crate of its own for two reasons: an allocator needs `unsafe`, which the cache forbids itself; and the peers, which
//! are heavy to compile and live apart, measure by the same rules.

#![allow(
    clippy::missing_panics_doc,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bench is a test: it panics where a result is wrong, and its figures are floats"
)]

mod alloc;
mod clock;
mod device;
mod poll;
mod process;
mod reads;
mod rounds;
mod table;

pub use alloc::{Allocations, CountingAllocator, RefusingAllocator, count_allocations, refuse};
pub use clock::{Stopwatch, timed};
pub use device::{Device, Order, mix};
pub use poll::{Parking, Slow, drive, ready};
pub use process::{Question, resident_bytes, resident_peak_bytes, stay_on_processor};
pub use reads::{Copying, Reads, read};
pub use rounds::{Budget, Samples, interleave};
pub use table::{Goal, Row, Scale, Table, bytes, nanos};
