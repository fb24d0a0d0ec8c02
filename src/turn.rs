//! Cooperative yielding: a job that finds everything ready gives other tasks of its thread their turn.
//!
//! A backend in memory never makes a task wait, and neither does a source in memory. A loop over a large device would
//! then run in one poll, and timeouts, pauses and readers of the same thread would wait for all of it.

use core::future::poll_fn;
use core::task::Poll;

/// Is pending once, and asks to be polled again.
pub(crate) async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Yields after every so many pieces of work.
#[derive(Debug)]
pub(crate) struct Turns {
    every: u32,
    left: u32,
}

impl Turns {
    /// `every` is at least one.
    pub(crate) const fn every(every: u32) -> Self {
        Self { every, left: every }
    }

    /// A piece of work is done.
    pub(crate) async fn done(&mut self) {
        self.left -= 1;
        if self.left == 0 {
            self.left = self.every;
            yield_now().await;
        }
    }
}
