//! The cache in a browser: a page reads a disk image behind HTTP, and its blocks stay in the browser's private file
//! system (OPFS), so that a reload of the page, or the next start of the browser, needs the network no more.
//!
//! The program is `worker.rs`, a hundred lines over the published crates of the family: `gibblox-http` fetches, this
//! cache keeps, `gibblox-cache-store-opfs` is the file. It runs in a dedicated worker, since browsers open files for
//! synchronous access nowhere else; `www/worker.js` starts it, and `www/page.js` shows what it found.
//!
//! `server.rs` serves page, program and image on loopback. `glue.rs` makes the JavaScript that a browser needs to load
//! the program. `tests/it` drives a headless Chromium through all of it, and compares bytes and requests.
//!
//! In this directory, with a toolchain that has the target:
//!
//! ```sh
//! cargo build --release --lib --target wasm32-unknown-unknown
//! cargo run                     # Prints an address to open in a browser of yours.
//! cargo test                    # Needs chromium and chromedriver.
//! ```

#[cfg(not(target_arch = "wasm32"))]
pub mod glue;
#[cfg(not(target_arch = "wasm32"))]
pub mod server;
#[cfg(target_arch = "wasm32")]
pub mod worker;
