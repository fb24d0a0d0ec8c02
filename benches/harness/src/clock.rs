//! Time that passed, without the time that the thread stood in line for a processor.
//!
//! A bench runs beside a compiler or an editor, and a sample that lost its processor for three milliseconds says
//! nothing about a cache. Linux tells each thread how long it was ready to run and did not
//! (`/proc/thread-self/schedstat`, second figure); elsewhere the figure is zero, and this is a plain clock. Waiting for
//! a disk or a timer is not waiting in line, and stays in.

use std::fs::File;
use std::io::{Read, Seek};
use std::time::Instant;

thread_local! {
    static IN_LINE: Option<File> = File::open("/proc/thread-self/schedstat").ok();
}

fn in_line_nanos() -> u64 {
    IN_LINE
        .with(|file| {
            let mut file = file.as_ref()?;
            let mut text = [0; 80];
            file.rewind().ok()?;
            let count = file.read(&mut text).ok()?;
            let text = std::str::from_utf8(&text[..count]).ok()?;
            text.split(' ').nth(1)?.parse().ok()
        })
        .unwrap_or(0)
}

/// Measures one thread from its start on. Stop it on the same thread.
#[derive(Debug)]
pub struct Stopwatch {
    in_line_nanos: u64,
    start: Instant,
}

impl Stopwatch {
    /// Begins to measure.
    #[must_use]
    pub fn start() -> Self {
        let in_line_nanos = in_line_nanos();
        Self {
            in_line_nanos,
            start: Instant::now(),
        }
    }

    /// Nanoseconds since the start, and how many of these the thread stood in line beyond that.
    #[must_use]
    pub fn stop(self) -> (f64, f64) {
        let passed = self.start.elapsed().as_nanos() as f64;
        let in_line = in_line_nanos().saturating_sub(self.in_line_nanos) as f64;
        ((passed - in_line).max(1.0), in_line)
    }
}

/// How many nanoseconds `work` takes.
pub fn timed(work: impl FnOnce()) -> f64 {
    let watch = Stopwatch::start();
    work();
    watch.stop().0
}
