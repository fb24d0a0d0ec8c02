//! [`Places`]: the address translation from blocks to bytes of the file.
//!
//! One question: where does the beginning of a run lie, and how far is it in one piece? In a file of version 2 the answer
//! is arithmetic, and a run is always one piece. No room above may rely on that: neighbouring blocks need not be
//! neighbours in the file, so each of them goes over a run piece by piece ([`pieces`]).

use crate::format::layout::Layout;
use crate::run::Run;

/// A run whose bytes are adjacent in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) run: Run,
    pub(crate) offset_bytes: u64,
}

/// Where the blocks of one file lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    layout: Layout,
}

impl Places {
    pub(crate) const fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// The longest beginning of `run` whose data is one piece.
    #[inline]
    pub(crate) const fn data(&self, run: Run) -> Piece {
        Piece {
            run,
            offset_bytes: self.layout.data_offset(run.start()),
        }
    }

    /// The longest beginning of `run` whose checksums are one piece.
    pub(crate) const fn sums(&self, run: Run) -> Piece {
        Piece {
            run,
            offset_bytes: self.layout.sum_offset(run.start()),
        }
    }
}

/// The pieces of `run`, in order, where `first` tells the first of a run.
pub(crate) fn pieces(run: Run, first: impl Fn(Run) -> Piece) -> impl Iterator<Item = Piece> {
    let mut rest = Some(run);
    core::iter::from_fn(move || {
        let piece = first(rest?);
        rest = rest.and_then(|rest| rest.from(piece.run.end()));
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn pieces_cover_a_run_in_order_whatever_the_places_are() {
        for most in 1..6 {
            for blocks in 1..12 {
                let run = Run::block(7).until(7 + blocks);
                let first = |run: Run| Piece {
                    run: run.first(most),
                    offset_bytes: 1000 - run.start(),
                };
                let pieces: Vec<_> = pieces(run, first).collect();
                assert_eq!(pieces.len() as u64, blocks.div_ceil(most));
                let mut next = run.start();
                for piece in pieces {
                    assert_eq!(piece.run.start(), next);
                    assert_eq!(piece.offset_bytes, 1000 - next);
                    next = piece.run.end();
                }
                assert_eq!(next, run.end());
            }
        }
    }
}
