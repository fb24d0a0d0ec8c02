//! The public suite for [`CacheOps`]: backends that keep the contract pass it, and each of the others is told which
//! rule it breaks.

use crate::support::{Backend, Immediate, finish, for_seeds};
use async_trait::async_trait;
use gibblox_cache::contract::{self, Broken, Rule, Suite};
use gibblox_cache::{CacheOps, MemoryCacheOps};
use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult};
use mutant::{MUTANTS, Mutant};
use std::collections::BTreeSet;
use std::sync::Arc;

mod mutant;

/// How long the backends of these tests become: they have no holes.
const MOST: u64 = 4 << 20;

#[test]
fn memory_keeps_the_contract() {
    for_seeds(2, |rng| {
        let suite = Suite::new().with_seed(rng.next());
        finish(suite.check(async || MemoryCacheOps::new())).unwrap();
    });
}

#[test]
fn memory_keeps_the_contract_however_short_it_has_to_stay() {
    for len in (0..20).chain([99, 100, 511, 512, 1499, 1500, 5000, 70_000, 300_000]) {
        let suite = Suite::new().with_max_len(len);
        finish(suite.check(async || Capped(MemoryCacheOps::new(), len))).unwrap();
    }
}

#[test]
fn the_backends_of_these_tests_keep_the_contract() {
    let suite = Suite::new().with_max_len(MOST);
    finish(suite.check(async || Backend::capped(MOST))).unwrap();
    finish(suite.check(async || Immediate(Backend::capped(MOST)))).unwrap();
    let slow = async || {
        let backend = Backend::capped(MOST);
        backend.gate.once();
        backend
    };
    finish(suite.check(slow)).unwrap();
}

#[test]
fn a_partition_keeps_the_contract_whatever_is_in_it() {
    for len in [
        0,
        1,
        2,
        7,
        100,
        1000,
        5000,
        80_000,
        1 << 20,
        (3 << 20) + 777,
    ] {
        for pending in [false, true] {
            let make = async || {
                let garbage = (0..len).map(|index| (index * 7 + 1) as u8).collect();
                let backend = Backend::partition(garbage);
                if pending {
                    backend.gate.once();
                }
                backend
            };
            finish(Suite::fixed(len).check(make)).unwrap();
        }
    }
}

#[test]
fn the_suite_may_run_on_any_thread_of_an_executor() {
    fn may_move(_: impl Send) {}
    may_move(contract::check(async || MemoryCacheOps::new()));
}

fn refused(why: &str) -> GibbloxError {
    GibbloxError::with_message(GibbloxErrorKind::Io, why.to_string())
}

/// Refuses to become longer than its limit.
struct Capped(MemoryCacheOps, u64);

#[async_trait]
impl CacheOps for Capped {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.0.read_at(offset, out).await
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        let end = offset.checked_add(data.len() as u64);
        if !data.is_empty() && end.is_none_or(|end| end > self.1) {
            return Err(refused("too long"));
        }
        self.0.write_at(offset, data).await
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        assert!(len <= self.1, "the suite was told how long it may become");
        self.0.set_len(len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        Ok(())
    }
}

/// Whether the suite has found this, in so many words; else what it said.
fn breaks(found: Result<(), Broken>, rule: Rule) -> Result<(), String> {
    let Err(broken) = found else {
        return Err("it passes".to_string());
    };
    let said = broken.to_string();
    if broken.rule() == rule && said.starts_with(&format!("{rule}; but ")) {
        return Ok(());
    }
    Err(said)
}

fn find_all(suite: Suite) {
    let mut unfound = Vec::new();
    for (wrong, rule) in MUTANTS {
        let found = finish(suite.check(async || Mutant::new(wrong)));
        if let Err(said) = breaks(found, rule) {
            unfound.push(format!("{wrong:?}: {said}"));
        }
    }
    assert!(unfound.is_empty(), "{unfound:#?}");
}

#[test]
fn a_backend_that_does_one_thing_wrong_is_told_which_rule_it_breaks() {
    for_seeds(1, |rng| find_all(Suite::new().with_seed(rng.next())));
    // All rules but two: a backend cannot get its `Arc` wrong, and a size that is kept is below.
    let rules: BTreeSet<_> = MUTANTS.iter().map(|(_, rule)| rule.to_string()).collect();
    assert_eq!(rules.len(), 16);
}

/// How a backend that should keep its size fails to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stretch {
    Grows,
    WritesWhatFits,
    Shrinks,
    IsShorter,
    IsLonger,
}

struct Stretching(Stretch, Arc<Backend>);

#[async_trait]
impl CacheOps for Stretching {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.1.read_at(offset, out).await
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        let fits = self.1.bytes().len().saturating_sub(offset as usize);
        match self.0 {
            Stretch::Grows if fits < data.len() => {
                self.1
                    .edit(|bytes| bytes.resize(offset as usize + data.len(), 0));
                self.1.write_at(offset, data).await
            }
            Stretch::WritesWhatFits => self.1.write_at(offset, &data[..fits.min(data.len())]).await,
            _ => self.1.write_at(offset, data).await,
        }
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        if self.0 == Stretch::Shrinks {
            self.1.edit(|bytes| bytes.truncate(len as usize));
        }
        self.1.set_len(len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.1.flush().await
    }
}

#[test]
fn a_partition_that_stretches_is_told_which_rule_it_breaks() {
    for (stretch, len, rule) in [
        (Stretch::Grows, 5000, Rule::FixedSize),
        (Stretch::WritesWhatFits, 5000, Rule::FixedSize),
        (Stretch::Shrinks, 5000, Rule::Length),
        (Stretch::IsShorter, 4999, Rule::Starts),
        (Stretch::IsLonger, 5001, Rule::Starts),
    ] {
        let make = async || Stretching(stretch, Backend::partition(vec![7; len]));
        let found = finish(Suite::fixed(5000).check(make));
        assert_eq!(breaks(found, rule), Ok(()), "{stretch:?}");
    }
}
