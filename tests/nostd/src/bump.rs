//! The smallest allocator that serves: memory is handed out once and never taken back.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering};

const ARENA_BYTES: usize = 16 << 20;

#[global_allocator]
static BUMP: Bump = Bump {
    arena: UnsafeCell::new([0; ARENA_BYTES]),
    used_bytes: AtomicUsize::new(0),
};

struct Bump {
    arena: UnsafeCell<[u8; ARENA_BYTES]>,
    used_bytes: AtomicUsize,
}

// SAFETY: a byte of the arena belongs to the one who raised `used_bytes` beyond it, and is handed out once.
unsafe impl Sync for Bump {}

// SAFETY: what is returned lies inside the arena, is aligned, and overlaps nothing that was returned before.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.arena.get().cast::<u8>();
        let claim = |used: usize| {
            let start = (base.addr() + used).next_multiple_of(layout.align()) - base.addr();
            let end = start.checked_add(layout.size())?;
            (end <= ARENA_BYTES).then_some((start, end))
        };
        let mut used = self.used_bytes.load(Ordering::Relaxed);
        while let Some((start, end)) = claim(used) {
            match self.used_bytes.compare_exchange_weak(
                used,
                end,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return base.wrapping_add(start),
                Err(now) => used = now,
            }
        }
        null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
