//! A global allocator that counts when it is told to, and is the system's otherwise.

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
