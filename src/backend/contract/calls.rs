//! Calls that are under way at once, and calls that are given up.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::Poll;

use super::rng::Rng;

/// A call that may be under way beside others.
pub(super) type Call<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Takes all `calls` to their end, polled in another order each time.
pub(super) async fn side_by_side<T>(rng: &mut Rng, calls: Vec<Call<'_, T>>) -> Vec<T> {
    let mut outputs: Vec<Option<T>> = calls.iter().map(|_| None).collect();
    let mut going: Vec<_> = calls.into_iter().enumerate().collect();
    poll_fn(|context| {
        rng.shuffle(&mut going);
        going.retain_mut(|(index, call)| match call.as_mut().poll(context) {
            Poll::Ready(output) => {
                if let Some(place) = outputs.get_mut(*index) {
                    *place = Some(output);
                }
                false
            }
            Poll::Pending => true,
        });
        if going.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
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
            // Woken by nobody else, perhaps: a call that is held up has to be given up too.
            context.waker().wake_by_ref();
        }
        polled.map(Some)
    })
    .await
}

/// Lets everybody else on the executor have a turn.
pub(super) async fn turn() {
    let mut done = false;
    poll_fn(|context| {
        if done {
            return Poll::Ready(());
        }
        done = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
