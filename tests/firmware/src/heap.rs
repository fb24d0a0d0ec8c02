//! The heap, and how much of it was in use at most.

use core::alloc::{GlobalAlloc, Layout};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicUsize, Ordering};

use embedded_alloc::LlffHeap;

pub(crate) const HEAP_BYTES: usize = 128 * 1024;

#[global_allocator]
static HEAP: Measured = Measured {
    heap: LlffHeap::empty(),
    peak_bytes: AtomicUsize::new(0),
};

static mut ARENA: [MaybeUninit<u8>; HEAP_BYTES] = [MaybeUninit::uninit(); HEAP_BYTES];

struct Measured {
    heap: LlffHeap,
    peak_bytes: AtomicUsize,
}

// SAFETY: every call is handed on unchanged to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Measured {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the ones that the inner allocator asks for.
        let block = unsafe { self.heap.alloc(layout) };
        self.peak_bytes
            .fetch_max(self.heap.used(), Ordering::Relaxed);
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.heap.dealloc(block, layout) }
    }
}

/// Hands the arena to the allocator.
///
/// # Safety
///
/// Once, before anything is allocated.
pub(crate) unsafe fn init() {
    // SAFETY: nobody else names the arena, and the caller promises that this happens once.
    unsafe { HEAP.heap.init((&raw mut ARENA).addr(), HEAP_BYTES) }
}

/// Bytes in use now.
pub(crate) fn used_bytes() -> usize {
    HEAP.heap.used()
}

/// The most bytes that were ever in use at once.
pub(crate) fn peak_bytes() -> usize {
    HEAP.peak_bytes.load(Ordering::Relaxed)
}
