//! Reads, writes and flushes under way at once. No two writes touch the same byte, but they touch neighbours.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use gibblox_core::GibbloxResult;

use super::calls::{Call, side_by_side};
use super::start::begin;
use super::twin::{MIDDLE, Twin};
use super::{Broken, Kept, Rule, Suite};
use crate::backend::CacheOps;

/// A part of the array, and what happens to it while the calls for other parts are under way.
struct Piece {
    at: u64,
    len: usize,
    /// What is written over it.
    new: Option<Vec<u8>>,
    is_read: bool,
}

/// A call that says whether it gave what it had to give.
type Said<'a> = Call<'a, GibbloxResult<bool>>;

impl Piece {
    /// The whole window in pieces, each of which is left alone, written, read, or both.
    fn cut<C: CacheOps>(twin: &mut Twin<'_, C>) -> Vec<Self> {
        let mut pieces = Vec::new();
        let mut start = 0;
        while start < twin.window {
            let len = twin.rng.size(1500).min(twin.window - start);
            let (is_written, is_read) = match twin.rng.below(6) {
                0 => (false, false),
                1 | 2 => (true, false),
                3 => (true, true),
                _ => (false, true),
            };
            pieces.push(Self {
                at: twin.base + start as u64,
                len,
                new: is_written.then(|| twin.rng.bytes(len)),
                is_read,
            });
            start += len;
        }
        pieces
    }

    fn write<'a, C: CacheOps>(&'a self, backend: &'a C) -> Option<Said<'a>> {
        let new = self.new.as_ref()?;
        Some(Box::pin(async {
            backend.write_at(self.at, new).await?;
            Ok(true)
        }))
    }

    /// Reads, and compares with `expected` where nothing is written meanwhile.
    fn read<'a, C: CacheOps>(&'a self, backend: &'a C, expected: Vec<u8>) -> Option<Said<'a>> {
        self.is_read.then(|| -> Said<'a> {
            Box::pin(async move {
                let mut out = vec![0x5A; self.len];
                let count = backend.read_at(self.at, &mut out).await?;
                Ok(self.new.is_some() || out.get(..count) == Some(&expected[..]))
            })
        })
    }
}

pub(super) async fn overlap<C: CacheOps>(suite: &Suite, backend: &C) -> Kept {
    let mut twin = begin(suite, 9, backend, MIDDLE).await?;
    twin.rule = Some(Rule::SideBySide);
    for round in 0..12 {
        let (grows, flushes) = (round % 4 == 3, round % 3 == 0);
        if grows {
            twin.set_len(twin.base).await?;
        } else {
            twin.fill().await?;
        }
        let pieces = Piece::cut(&mut twin);
        let mut calls: Vec<Said<'_>> = Vec::new();
        for piece in &pieces {
            calls.extend(piece.write(backend));
            calls.extend(piece.read(backend, twin.expected(piece.at, piece.len)));
        }
        if flushes {
            calls.push(Box::pin(async { backend.flush().await.map(|()| true) }));
        }
        for said in side_by_side(&mut twin.rng, calls).await {
            match said {
                Ok(true) => {}
                // How much of an array that grows a read finds, nothing says.
                Ok(false) if grows => {}
                Ok(false) => {
                    let what = "a read gave other bytes while others were written beside it";
                    return Err(Broken::new(Rule::SideBySide, what.into()));
                }
                Err(error) => {
                    let what = "one of several calls that were under way at once";
                    return Err(twin.failed(what, &error));
                }
            }
        }
        for piece in &pieces {
            if let Some(new) = &piece.new {
                twin.note_write(piece.at, new);
            }
        }
        twin.check_all().await?;
    }
    Ok(())
}
