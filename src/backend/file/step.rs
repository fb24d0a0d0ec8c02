//! Points between the system calls of opening and deleting, at which a test lets others go first.

#[cfg(all(test, unix, not(model)))]
use hooked as hook;

/// A point at which other processes may do anything.
pub(super) fn point() {
    hook::point();
}

/// Waits for other processes, for the `count`th time.
pub(super) fn wait(count: u32) {
    hook::wait(count);
}

#[cfg(not(all(test, unix, not(model))))]
mod hook {
    pub(super) const fn point() {}

    pub(super) fn wait(count: u32) {
        super::pause(count);
    }
}

fn pause(count: u32) {
    use core::time::Duration;
    use std::thread;

    if count < 16 {
        thread::yield_now();
    } else {
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(all(test, unix, not(model)))]
pub(super) mod hooked {
    use alloc::rc::Rc;
    use core::cell::RefCell;

    /// What a thread does at each point; whether it waits there.
    type Hook = Rc<dyn Fn(bool)>;

    std::thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    /// Has this thread call `hook` from now on.
    pub(in super::super) fn set(hook: impl Fn(bool) + 'static) {
        HOOK.with_borrow_mut(|slot| *slot = Some(Rc::new(hook)));
    }

    fn get() -> Option<Hook> {
        HOOK.with_borrow(Clone::clone)
    }

    pub(super) fn point() {
        if let Some(hook) = get() {
            hook(false);
        }
    }

    pub(super) fn wait(count: u32) {
        match get() {
            Some(hook) => hook(true),
            None => super::pause(count),
        }
    }
}
