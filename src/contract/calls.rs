//! Calls that are under way at once, and calls that are given up.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::{pending, poll_fn};
use core::pin::Pin;
use core::task::Poll;

use super::rng::Rng;

/// A call that may be under way beside others.
pub(super) type Call<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Takes all `calls` to their end, polled in another order each time. Their outputs come in any order.
pub(super) async fn side_by_side<T>(rng: &mut Rng, mut calls: Vec<Call<'_, T>>) -> Vec<T> {
    let mut outputs = Vec::new();
    poll_fn(|context| {
        rng.shuffle(&mut calls);
        calls.retain_mut(|call| match call.as_mut().poll(context) {
            Poll::Ready(output) => {
                outputs.push(output);
                false
            }
            Poll::Pending => true,
        });
        if calls.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outputs
}

/// Polls `call` up to `polls` times and drops it; its output where it was done by then.
pub(super) async fn give_up_after<T>(mut call: Call<'_, T>, polls: usize) -> Option<T> {
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        let polled = call.as_mut().poll(context);
        if polled.is_pending() {
            // A call that is held up, and that no other task wakes, has to be given up too.
            context.waker().wake_by_ref();
        }
        polled.map(Some)
    })
    .await
}

/// Lets the other tasks of the executor have some turns.
pub(super) async fn let_others_run(turns: usize) {
    give_up_after(Box::pin(pending::<()>()), turns).await;
}
