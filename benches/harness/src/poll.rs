//! Executors: none, for futures that never wait, and one with a clock, for sources that do.

use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use gibblox_core::{BlockReader, GibbloxResult, ReadContext};

/// The result of a future that waits for nothing. It may give others of its thread their turn, and asks to be polled
/// again then.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    // Most are ready at once, and are not charged for a waker of their own.
    if let Poll::Ready(value) = future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        return value;
    }
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&flag));
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        assert!(
            flag.0.swap(false, Ordering::SeqCst),
            "a future waits where there is nothing to wait for"
        );
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs futures that another thread may keep waiting.
#[derive(Debug)]
pub struct Parking(Waker);

impl Default for Parking {
    fn default() -> Self {
        Self(Waker::from(Arc::new(Unpark(thread::current()))))
    }
}

impl Parking {
    /// The result of `future`. On the thread that made this.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&self.0)) {
                Poll::Ready(value) => return value,
                Poll::Pending => thread::park(),
            }
        }
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

thread_local! {
    /// Who waits for what time, on this thread.
    static TIMERS: RefCell<Vec<(Instant, Waker)>> = const { RefCell::new(Vec::new()) };
}

/// Runs a future on this thread alone, with [`Slow`] sources and whatever wakes itself.
///
/// Sleeps until shortly before the next deadline and watches the clock for the rest, since a timer of the operating
/// system is late by as much as there is to be measured.
pub fn drive<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let woken = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    loop {
        if woken.0.swap(false, Ordering::AcqRel)
            && let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return value;
        }
        if woken.0.load(Ordering::Acquire) {
            continue;
        }
        let next = TIMERS.with_borrow(|timers| timers.iter().map(|(at, _)| *at).min());
        let next = next.expect("a future waits, and nothing is left that could wake it");
        let left = next.saturating_duration_since(Instant::now());
        thread::sleep(left.saturating_sub(Duration::from_micros(300)));
        while Instant::now() < next {
            core::hint::spin_loop();
        }
        let due = TIMERS.with_borrow_mut(|timers| {
            let now = Instant::now();
            timers
                .extract_if(.., |(at, _)| *at <= now)
                .collect::<Vec<_>>()
        });
        for (_, waker) in due {
            waker.wake();
        }
    }
}

struct Until(Instant);

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.0 {
            return Poll::Ready(());
        }
        TIMERS.with_borrow_mut(|timers| timers.push((self.0, context.waker().clone())));
        Poll::Pending
    }
}

/// A source whose every answer takes its time, however many are under way at once. Under [`drive`] only.
#[derive(Clone, Debug)]
pub struct Slow<S> {
    source: S,
    latency: Duration,
    bytes_per_second: f64,
}

impl<S> Slow<S> {
    /// `source`, with each `read_blocks` answered `latency` after it was asked.
    pub const fn new(source: S, latency: Duration) -> Self {
        Self {
            source,
            latency,
            bytes_per_second: f64::INFINITY,
        }
    }

    /// Each answer takes longer by the time that its bytes take on a line of their own.
    #[must_use]
    pub const fn with_bytes_per_second(mut self, bytes_per_second: f64) -> Self {
        self.bytes_per_second = bytes_per_second;
        self
    }
}

#[async_trait]
impl<S: BlockReader> BlockReader for Slow<S> {
    fn block_size(&self) -> u32 {
        self.source.block_size()
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        self.source.total_blocks().await
    }

    fn write_identity(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        self.source.write_identity(out)
    }

    async fn read_blocks(
        &self,
        lba: u64,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<usize> {
        let transfer = Duration::from_secs_f64(buf.len() as f64 / self.bytes_per_second);
        Until(Instant::now() + self.latency + transfer).await;
        self.source.read_blocks(lba, buf, ctx).await
    }
}
