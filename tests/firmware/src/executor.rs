//! Runs futures side by side and polls only what was woken.
//!
//! An executor that polls everything all the time hides a lost wake-up. This one finds it: when nothing was woken and
//! something is unfinished, it says so.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

pub(crate) type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Runs all tasks to their ends. `Err` is the number of tasks that wait and that nobody will wake.
pub(crate) fn run(tasks: Vec<Task<'_>>) -> Result<(), usize> {
    let mut waiting: Vec<_> = tasks
        .into_iter()
        .map(|task| (task, Arc::new(Bell(AtomicBool::new(true)))))
        .collect();
    while !waiting.is_empty() {
        let mut polled = false;
        waiting.retain_mut(|(task, bell)| {
            if !bell.0.swap(false, Ordering::Acquire) {
                return true;
            }
            polled = true;
            let waker = Waker::from(Arc::clone(bell));
            task.as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        });
        if !polled {
            return Err(waiting.len());
        }
    }
    Ok(())
}

/// Runs one future to its end.
pub(crate) fn finish<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut output = None;
    run(alloc::vec![
        Box::pin(async { output = Some(future.await) }) as Task<'_>
    ])
    .ok()?;
    output
}

/// Polls once, as somebody who gives up afterwards.
pub(crate) fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
