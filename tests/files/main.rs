//! The file backend with real files and real processes. It runs under Wine as well, from `tests/windows`.

#[cfg(unix)]
mod access;
mod contract;
mod foreign;
#[cfg(unix)]
mod full;
mod locks;
mod owners;
mod support;
mod zeros;
