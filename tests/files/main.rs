//! The file backend with real files and real processes. It runs under Wine as well, from `tests/windows`.

#![allow(
    clippy::cast_possible_truncation,
    clippy::std_instead_of_alloc,
    clippy::std_instead_of_core,
    clippy::unwrap_used,
    reason = "tests are ordinary programs, and what they count is small"
)]

#[cfg(unix)]
mod access;
mod contract;
mod dir;
mod foreign;
#[cfg(unix)]
mod full;
mod hammer;
mod locks;
mod owners;
mod support;
mod zeros;
