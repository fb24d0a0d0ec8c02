//! A medium whose flush fails and forgets, as Linux does: what was written before stays readable, counts as clean, and
//! never reaches the medium unless it is written again.

use crate::support::lock;
use async_trait::async_trait;
use gibblox_cache::CacheOps;
use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult};
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
            Self::SetLen(len) => bytes.resize(*len, 0),
        }
    }
}

struct State {
    /// What reads see.
    live: Vec<u8>,
    /// What a loss of power leaves for certain.
    durable: Vec<u8>,
    /// What may be there too.
    pending: Vec<Change>,
    flushes: usize,
    fails: Box<dyn FnMut(usize) -> bool + Send>,
}

pub(super) struct Forgetting(Mutex<State>);

impl Forgetting {
    /// A medium that holds `bytes`, all of it durable.
    pub(super) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            live: bytes.clone(),
            durable: bytes,
            pending: Vec::new(),
            flushes: 0,
            fails: Box::new(|_| false),
        })))
    }

    /// From now on a flush fails, and forgets, where `fails` says so of its number; these begin at 0 again.
    pub(super) fn fail(&self, fails: impl FnMut(usize) -> bool + Send + 'static) {
        let mut state = lock(&self.0);
        state.flushes = 0;
        state.fails = Box::new(fails);
    }

    /// How many flushes there were since [`fail`](Self::fail).
    pub(super) fn flushes(&self) -> usize {
        lock(&self.0).flushes
    }

    /// What a loss of power may leave now: none of what is pending, all of it, one change of it, or all but one.
    pub(super) fn images(&self) -> Vec<Vec<u8>> {
        let state = lock(&self.0);
        let image = |kept: &dyn Fn(usize) -> bool| {
            let mut image = state.durable.clone();
            for (index, change) in state.pending.iter().enumerate() {
                if kept(index) {
                    change.apply(&mut image);
                }
            }
            image
        };
        let mut images = vec![image(&|_| false), image(&|_| true)];
        for one in 0..state.pending.len() {
            images.push(image(&|index| index == one));
            images.push(image(&|index| index != one));
        }
        images
    }

    fn change(&self, change: Change) {
        let mut state = lock(&self.0);
        change.apply(&mut state.live);
        state.pending.push(change);
    }
}

#[async_trait]
impl CacheOps for Forgetting {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        let state = lock(&self.0);
        let start = state.live.len().min(offset as usize);
        let count = out.len().min(state.live.len() - start);
        out[..count].copy_from_slice(&state.live[start..start + count]);
        Ok(count)
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.change(Change::Write(offset as usize, data.to_vec()));
        Ok(())
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.change(Change::SetLen(len as usize));
        Ok(())
    }

    async fn flush(&self) -> GibbloxResult<()> {
        let mut state = lock(&self.0);
        let number = state.flushes;
        state.flushes += 1;
        let fails = (state.fails)(number);
        let pending = core::mem::take(&mut state.pending);
        if fails {
            let error = GibbloxErrorKind::Io;
            return Err(GibbloxError::with_message(error, "cannot flush"));
        }
        for change in pending {
            change.apply(&mut state.durable);
        }
        Ok(())
    }
}
