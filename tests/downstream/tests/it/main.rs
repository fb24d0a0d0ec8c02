//! The cache between the published crates of its family and a server that misbehaves on demand.
//!
//! Every byte that is read is compared with the image, and the server says which ranges it was asked for. Nothing here
//! sleeps: a moment is named by what the server has sent or the program has called, never by a clock.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and says where"
)]

mod changed;
mod cli;
mod contract;
mod full_disk;
mod image;
mod killed;
mod many;
mod pipeline;
mod program;
mod ranges;
mod server;
mod shared;
mod sick_server;
mod warm;
