//! [`Retry`]: exponential backoff without a clock. A file that could not be opened is tried again after some reads that
//! miss, and after twice as many where that fails too.

/// The longest wait, in reads.
const MOST_READS: u32 = 1 << 10;

/// How many reads go past before the next attempt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Retry {
    reads_left: u32,
    next_wait_reads: u32,
}

impl Retry {
    /// A read wants the file; whether it is to try.
    pub(super) const fn is_due(&mut self) -> bool {
        let due = self.reads_left == 0;
        self.reads_left = self.reads_left.saturating_sub(1);
        due
    }

    /// An attempt failed. The first is followed by another at the next read.
    pub(super) fn failed(&mut self) {
        self.reads_left = self.next_wait_reads;
        self.next_wait_reads = (self.next_wait_reads * 2 + 1).min(MOST_READS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn attempts_become_rarer_and_never_stop() {
        let mut retry = Retry::default();
        let tries = (0..20_000_u32).filter(|_| {
            let due = retry.is_due();
            if due {
                retry.failed();
            }
            due
        });
        let tries: Vec<_> = tries.collect();
        assert_eq!(tries[..6], [0, 1, 3, 7, 15, 31]);
        let waits: Vec<_> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(waits.iter().all(|wait| *wait <= MOST_READS + 1));
        assert!(tries.len() > 20);
    }
}
