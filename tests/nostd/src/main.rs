//! The hosted form: a C `main`, because without std nobody else calls one.

#![no_std]
#![no_main]

use core::ffi::{c_char, c_int};

// The C library starts the process, and memory is copied with its `memcpy`.
#[link(name = "c")]
unsafe extern "C" {
    fn puts(text: *const c_char) -> c_int;
}

/// The exit code is 0 when every claim held, and otherwise the number of the first one that did not.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    match gibblox_cache_nostd::run() {
        Ok(()) => {
            // SAFETY: a C string literal ends in a zero byte.
            unsafe { puts(c"read through the cache without std".as_ptr()) };
            0
        }
        Err(claim) => {
            // SAFETY: as above.
            unsafe { puts(c"a claim about reading without std does not hold".as_ptr()) };
            c_int::from(claim)
        }
    }
}

// The ready-made `core` and `alloc` of a hosted target are compiled for unwinding, and name these two. With
// `panic = "abort"` nobody ever calls them, but the linker asks for them.

#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() {}
