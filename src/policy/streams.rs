//! [`Streams`]: who reads in sequence.
//!
//! Only requests that are no plain hits are seen here: misses, and first reads of what was cached before or fetched
//! unasked. So a hit costs nothing, and a reader that consumes what was fetched ahead of him is seen all the same.
//!
//! A request that begins where a stream expects continues it. One that reads again a part of the last, because it
//! overlaps or is tried once more, is the stream's, but no progress. What is read by plain hits in between is not seen,
//! so a request may also begin a little further on, if all that it passed over would have been plain hits. Anything
//! else begins a stream of its own, in the place of the one that was quiet longest: a seek starts with nothing, and
//! several readers have a stream each.
//!
//! Nothing is fetched ahead before several reads came in sequence. That random reads look like that by chance takes each
//! of them to begin at one of a few blocks out of all of the device.

use alloc::vec::Vec;

use crate::run::Run;
use crate::sync::Lock;

/// How many readers in sequence are told apart.
const STREAMS: usize = 16;

/// How far a request may begin behind the end of the last, over plain hits: by so many requests as that one. More would
/// make chance more likely; a reader who passes over more starts with nothing.
const PASSED_READS: u64 = 4;

/// Who reads in sequence, and how far ahead of each is fetched.
#[derive(Debug)]
pub(crate) struct Streams {
    most_blocks: u64,
    after_reads: u32,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests so far.
    clock: u64,
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    /// The last request began here,
    start: u64,
    /// and the next is expected here.
    next: u64,
    /// How many came in sequence.
    reads: u32,
    /// How much was last fetched ahead.
    ahead_blocks: u64,
    /// When it was last seen.
    seen: u64,
}

impl Streams {
    pub(crate) fn new(most_blocks: u64, after_reads: u32) -> Self {
        Self {
            most_blocks,
            after_reads,
            state: Lock::default(),
        }
    }

    /// Sees a request for `run`; says how many blocks to fetch ahead of it where it is `missing` any.
    ///
    /// `is_trusted` tells whether reading a run would not be seen.
    pub(crate) fn observe(&self, run: Run, missing: bool, is_trusted: impl Fn(Run) -> bool) -> u64 {
        self.state.with(|state| {
            state.clock += 1;
            let stream = state.stream_of(run, is_trusted);
            let progress = stream.advance(run);
            if !missing || stream.reads < self.after_reads {
                return 0;
            }
            if progress {
                let doubled = stream.ahead_blocks.saturating_mul(2);
                stream.ahead_blocks = doubled.max(run.blocks()).min(self.most_blocks);
            }
            stream.ahead_blocks
        })
    }
}

impl State {
    /// The stream that `run` belongs to; a new one that expects it, where there is none.
    fn stream_of(&mut self, run: Run, is_trusted: impl Fn(Run) -> bool) -> &mut Stream {
        let streams = self.streams.iter();
        let expected = streams
            .clone()
            .position(|stream| stream.next == run.start());
        let found = expected.or_else(|| {
            let mut streams = streams.clone();
            streams.position(|stream| stream.admits(run, &is_trusted))
        });
        let index = found.unwrap_or_else(|| {
            let new = Stream {
                start: run.start(),
                next: run.start(),
                reads: 0,
                ahead_blocks: 0,
                seen: self.clock,
            };
            if self.streams.len() < STREAMS {
                self.streams.push(new);
                return self.streams.len() - 1;
            }
            let quiet = self.streams.iter().enumerate();
            let quiet = quiet.min_by_key(|(_, stream)| stream.seen);
            let index = quiet.map_or(0, |(index, _)| index);
            self.streams[index] = new;
            index
        });
        let stream = &mut self.streams[index];
        stream.seen = self.clock;
        stream
    }
}

impl Stream {
    /// Whether `run` reads again a part of the last request, or begins behind it with nothing but plain hits between.
    fn admits(&self, run: Run, is_trusted: impl Fn(Run) -> bool) -> bool {
        match Run::new(self.next, run.start()) {
            Some(passed) => {
                let last_blocks = self.next - self.start;
                passed.blocks() <= last_blocks.saturating_mul(PASSED_READS) && is_trusted(passed)
            }
            None => run.start() >= self.start,
        }
    }

    /// Takes in `run`; whether it was progress in sequence.
    fn advance(&mut self, run: Run) -> bool {
        let progress = run.start() >= self.next;
        if progress {
            self.reads = self.reads.saturating_add(1);
        }
        self.start = run.start();
        self.next = self.next.max(run.end());
        progress
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use alloc::vec;

    const NOTHING: fn(Run) -> bool = |_| false;

    fn run(lba: u64, blocks: u64) -> Run {
        Run::new(lba, lba + blocks).expect("not empty")
    }

    /// Misses of `blocks` each at these lbas; how far ahead of each is fetched.
    fn misses(streams: &Streams, lbas: impl IntoIterator<Item = u64>, blocks: u64) -> Vec<u64> {
        let miss = |lba| streams.observe(run(lba, blocks), true, NOTHING);
        lbas.into_iter().map(miss).collect()
    }

    #[test]
    fn what_is_fetched_ahead_doubles_up_to_the_limit() {
        let streams = Streams::new(20, 3);
        let lbas = (0..8).map(|read| read * 2);
        assert_eq!(misses(&streams, lbas, 2), [0, 0, 2, 4, 8, 16, 20, 20]);
        // Never more than the limit, whatever the length of a read.
        assert_eq!(misses(&Streams::new(3, 2), [0, 9], 9), [0, 3]);
    }

    #[test]
    fn reads_that_miss_nothing_are_progress_but_fetch_nothing() {
        let streams = Streams::new(64, 2);
        assert_eq!(misses(&streams, [0, 1, 2], 1), [0, 1, 2]);
        for lba in 3..9 {
            assert_eq!(streams.observe(run(lba, 1), false, NOTHING), 0);
        }
        assert_eq!(misses(&streams, [9], 1), [4], "the next after 2");
    }

    #[test]
    fn a_seek_starts_with_nothing() {
        let streams = Streams::new(64, 2);
        assert_eq!(misses(&streams, [0, 1, 2], 1), [0, 1, 2]);
        assert_eq!(misses(&streams, [500, 501, 502], 1), [0, 1, 2]);
        // One block short of it, or backwards.
        assert_eq!(misses(&streams, [504, 499, 498, 497], 1), [0; 4]);
    }

    #[test]
    fn reading_again_is_no_progress_and_breaks_nothing() {
        let streams = Streams::new(64, 3);
        assert_eq!(misses(&streams, [0, 0, 0, 0, 1, 2, 0, 2, 2, 3], 4), [0; 10]);
        assert_eq!(misses(&streams, [7, 11, 11, 12, 15], 4), [0, 4, 4, 4, 4]);
        assert_eq!(misses(&streams, [19], 4), [8]);
    }

    #[test]
    fn each_of_several_readers_has_a_stream_up_to_the_limit() {
        for readers in [1, 2, STREAMS as u64, STREAMS as u64 + 1] {
            let streams = Streams::new(64, 2);
            let first: Vec<u64> = (0..readers).map(|reader| reader * 1000).collect();
            for (read, ahead) in [(0, 0), (1, 1), (2, 2), (3, 4)] {
                let lbas = first.iter().map(|lba| lba + read);
                let expected = if readers <= STREAMS as u64 { ahead } else { 0 };
                let got = misses(&streams, lbas, 1);
                assert_eq!(got, vec![expected; first.len()], "{readers} readers");
            }
            assert!(streams.state.with(|state| state.streams.len()) <= STREAMS);
        }
    }

    #[test]
    fn a_reader_that_passes_over_plain_hits_stays_in_sequence() {
        let trusted = |passed: Run| passed.start() >= 10 && passed.end() <= 20;
        for (gap, expected) in [(0, 4), (1, 4), (4, 4), (5, 0)] {
            let streams = Streams::new(64, 2);
            assert_eq!(misses(&streams, [7, 8, 9], 1), [0, 1, 2]);
            let ahead = streams.observe(run(10 + gap, 1), true, trusted);
            assert_eq!(ahead, expected, "{gap} blocks");
        }
        // Over what would have been seen it did not come.
        let streams = Streams::new(64, 2);
        assert_eq!(misses(&streams, [17, 18], 1), [0, 1]);
        assert_eq!(streams.observe(run(21, 1), true, trusted), 0);
    }

    #[test]
    fn the_end_of_all_numbers_is_an_end() {
        let streams = Streams::new(u64::MAX, 2);
        let last = u64::MAX - 4;
        assert_eq!(misses(&streams, [last, last + 2], 2), [0, 2]);
    }
}
