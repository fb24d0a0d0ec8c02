//! Global allocators that count, or refuse, when they are told to, and are the system's otherwise.

use core::cell::Cell;
use core::ops::RangeInclusive;
use core::ptr;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

static COUNTING: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);
static NOW: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

/// The system's allocator. While nothing is counted it costs one load more, of a line that nobody writes to.
#[derive(Debug, Default)]
pub struct CountingAllocator;

fn grown(bytes: usize) {
    CALLS.fetch_add(1, Relaxed);
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
}

fn shrunk(bytes: usize) {
    NOW.fetch_sub(i64::try_from(bytes).unwrap_or(i64::MAX), Relaxed);
}

#[expect(unsafe_code, reason = "there is no other way to see allocations")]
// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Relaxed) {
            grown(layout.size());
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Relaxed) {
            grown(layout.size());
        }
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if COUNTING.load(Relaxed) {
            shrunk(layout.size());
        }
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if COUNTING.load(Relaxed) {
            shrunk(layout.size());
            grown(size);
        }
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What was allocated while something ran.
#[derive(Clone, Copy, Debug)]
pub struct Allocations {
    /// Calls that asked for memory, growing included.
    pub calls: u64,
    /// The most bytes that were held at once beyond those held in the beginning.
    pub peak_bytes: u64,
    /// Bytes held in the end beyond those held in the beginning.
    pub kept_bytes: i64,
}

/// Counts what all threads allocate while `work` runs.
pub fn count_allocations<T>(work: impl FnOnce() -> T) -> (T, Allocations) {
    CALLS.store(0, Relaxed);
    NOW.store(0, Relaxed);
    PEAK.store(0, Relaxed);
    COUNTING.store(true, Relaxed);
    let result = work();
    COUNTING.store(false, Relaxed);
    let counted = Allocations {
        calls: CALLS.load(Relaxed),
        peak_bytes: PEAK.load(Relaxed).max(0).unsigned_abs(),
        kept_bytes: NOW.load(Relaxed),
    };
    (result, counted)
}

thread_local! {
    /// Which buffers of bytes this thread is refused, and how many it asked for.
    static REFUSAL: Cell<Option<Refusal>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct Refusal {
    at_least: usize,
    at_most: usize,
    /// Nothing for all of them.
    number: Option<u64>,
    asked: u64,
}

/// The system's allocator, but that it has no memory for some buffers of bytes ([`refuse`]).
#[derive(Debug, Default)]
pub struct RefusingAllocator;

/// Whether this buffer is refused. Only what is aligned as bytes are: no future and no list is.
fn is_refused(layout: Layout, size: usize) -> bool {
    if layout.align() != 1 {
        return false;
    }
    REFUSAL
        .try_with(|cell| {
            let Some(mut refusal) = cell.get() else {
                return false;
            };
            if !(refusal.at_least..=refusal.at_most).contains(&size) {
                return false;
            }
            let number = refusal.asked;
            refusal.asked += 1;
            cell.set(Some(refusal));
            refusal.number.is_none_or(|refused| refused == number)
        })
        .unwrap_or(false)
}

#[expect(unsafe_code, reason = "there is no other way to refuse memory")]
// SAFETY: every call is handed on to the system's allocator unchanged, or answered as one for which there is no memory.
unsafe impl GlobalAlloc for RefusingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_refused(layout, layout.size()) {
            return ptr::null_mut();
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_refused(layout, layout.size()) {
            return ptr::null_mut();
        }
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if is_refused(layout, size) {
            return ptr::null_mut();
        }
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs `work`, which is refused each buffer of so many bytes that it asks for on this thread, or only the one with this
/// number; and how many it asked for. What cannot do without one ends the process.
pub fn refuse<T>(
    sizes: RangeInclusive<usize>,
    number: Option<u64>,
    work: impl FnOnce() -> T,
) -> (T, u64) {
    REFUSAL.set(Some(Refusal {
        at_least: *sizes.start(),
        at_most: *sizes.end(),
        number,
        asked: 0,
    }));
    let result = work();
    let asked = REFUSAL.take().map_or(0, |refusal| refusal.asked);
    (result, asked)
}
