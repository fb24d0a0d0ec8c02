//! Every call of the backend and of the source fails, once and for ever, under a script that does a bit of everything.

use crate::support::backend::{self, Fault as BackendFault};
use crate::support::source::{self, Fault as SourceFault};
use crate::support::{Backend, Immediate, Reader, Source, check_read, finish, open_with, read};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use gibblox_cache::{BypassPolicy, CacheConfig, CacheOps, CachedBlockReader};
use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const BLOCK: u32 = 16;
const BLOCKS: u64 = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Open anew over the same backend.
    Open,
    Read(u64, u64),
    Ensure(u64, u64),
    Flush,
    Scrub,
}

const SCRIPT: [Step; 18] = [
    Step::Open,
    Step::Read(0, 3),
    Step::Read(2, 4),
    Step::Read(8, 1),
    Step::Read(0, 6),
    Step::Ensure(5, 5),
    Step::Flush,
    Step::Scrub,
    Step::Open,
    Step::Read(3, 6),
    Step::Read(3, 6),
    Step::Read(0, BLOCKS),
    Step::Flush,
    Step::Open,
    Step::Ensure(0, BLOCKS),
    Step::Scrub,
    Step::Read(0, BLOCKS),
    Step::Flush,
];

const FAULTS: [BackendFault; 4] = [
    BackendFault::Error,
    BackendFault::Torn,
    BackendFault::Garbage,
    BackendFault::Short,
];

fn config() -> CacheConfig {
    CacheConfig::new()
        .with_flush_every_blocks(3)
        .with_window_bytes(2 * BLOCK)
        .with_windows_at_once(2)
}

const fn bypass(after_failures: u32, probe_after_reads: u32) -> BypassPolicy {
    BypassPolicy {
        after_failures,
        probe_after_reads,
    }
}

/// Without a bypass, with one that begins at once, and with one that takes more.
fn configs() -> [CacheConfig; 3] {
    [
        config(),
        config().with_bypass(bypass(1, 1)),
        config().with_bypass(bypass(3, 2)),
    ]
}

/// How a step ended: not at all where there was no reader, or with a panic, or with a result.
#[derive(Debug)]
enum End {
    NoReader,
    Panic,
    Done(GibbloxResult<()>),
}

/// Makes a panic of the future into a value, and gives the future up then.
struct Catch<F>(Option<F>);

impl<F: Future<Output = GibbloxResult<()>> + Unpin> Future for Catch<F> {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let future = self.0.as_mut().expect("not done");
        match catch_unwind(AssertUnwindSafe(|| Pin::new(future).poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready(End::Done(result)),
            Err(_) => {
                self.0 = None;
                Poll::Ready(End::Panic)
            }
        }
    }
}

fn run_step<C: CacheOps>(
    reader: Option<&CachedBlockReader<Arc<Source>, C>>,
    source: &Source,
    step: Step,
) -> End {
    let Some(reader) = reader else {
        return End::NoReader;
    };
    let task = async {
        match step {
            Step::Open => {}
            Step::Read(lba, blocks) => {
                let bytes = read(reader, lba, blocks).await?;
                source.assert_bytes(lba, &bytes);
            }
            Step::Ensure(lba, blocks) => {
                let done = reader.ensure_cached(lba, blocks, ReadContext::BACKGROUND);
                done.await?;
                if blocks == BLOCKS {
                    let cached = reader.get_stats().await.cached_blocks;
                    assert_eq!(cached, BLOCKS, "Ok means that all are valid");
                }
            }
            Step::Flush => reader.flush_cache().await?,
            Step::Scrub => {
                reader.scrub().await?;
            }
        }
        Ok(())
    };
    finish(Catch(Some(Box::pin(task))))
}

/// How each step ended, and the last reader.
type Played<C> = (Vec<(Step, End)>, Option<CachedBlockReader<Arc<Source>, C>>);

/// Plays the script.
fn play<C: CacheOps>(
    config: CacheConfig,
    source: &Arc<Source>,
    backend: impl Fn() -> C,
) -> Played<C> {
    let mut reader = None;
    let mut ends = Vec::new();
    for step in SCRIPT {
        let end = if step == Step::Open {
            drop(reader.take());
            let mut opened = None;
            let end = finish(Catch(Some(Box::pin(async {
                let opening = CachedBlockReader::open(Arc::clone(source), backend(), config);
                opened = Some(opening.await?);
                Ok(())
            }))));
            reader = opened;
            end
        } else {
            run_step(reader.as_ref(), source, step)
        };
        ends.push((step, end));
    }
    (ends, reader)
}

/// Nothing fails any more: everything is right, is cached, and stays cached.
fn check_healed<C: CacheOps>(
    reader: Option<CachedBlockReader<Arc<Source>, C>>,
    backend: &Arc<Backend>,
    source: &Arc<Source>,
) {
    let left_behind = Backend::with_bytes(backend.bytes());
    check_read(
        &open_with(source, &left_behind, config()),
        source,
        0,
        BLOCKS,
    );
    if let Some(reader) = reader {
        finish(reader.flush_cache()).expect("whoever asks for it ends a bypass");
        check_caching(&reader, source);
    }
    let reader: Reader = open_with(source, backend, config());
    check_caching(&reader, source);
    let reader = open_with(source, backend, config());
    source.forget();
    check_read(&reader, source, 0, BLOCKS);
    assert_eq!(source.reads(), [], "the next process finds everything");
}

fn check_caching<C: CacheOps>(reader: &CachedBlockReader<Arc<Source>, C>, source: &Source) {
    check_read(reader, source, 0, BLOCKS);
    source.forget();
    check_read(reader, source, 0, BLOCKS);
    assert_eq!(source.reads(), [], "a block read twice is fetched once");
    finish(reader.ensure_cached(0, BLOCKS, ReadContext::BACKGROUND)).unwrap();
    finish(reader.flush_cache()).unwrap();
}

/// The calls of a script in which nothing fails.
fn healthy_calls() -> (Vec<backend::Call>, Vec<source::Call>) {
    let (source, backend) = (Source::new(9, BLOCK, BLOCKS), Backend::new());
    let (ends, _) = play(config(), &source, || Arc::clone(&backend));
    assert!(ends.iter().all(|(_, end)| matches!(end, End::Done(Ok(())))));
    (backend.calls(), source.calls())
}

type FaultOf = Box<dyn FnMut(&backend::Call) -> Option<BackendFault> + Send>;

/// Plays the script over a backend that fails as told; the source is healthy, so reading and opening succeed.
fn play_on_sick_backend<C: CacheOps>(
    config: CacheConfig,
    name: &str,
    wrap: impl Fn(&Arc<Backend>) -> C,
    fault_of: FaultOf,
) {
    let (source, backend) = (Source::new(9, BLOCK, BLOCKS), Backend::new());
    backend.fail(fault_of);
    let (ends, reader) = play(config, &source, || wrap(&backend));
    let may_bypass = config.bypass().is_some();
    for (step, end) in ends {
        match (step, end) {
            (_, End::Done(Ok(()))) => {}
            (Step::Ensure(..) | Step::Flush | Step::Scrub, End::Done(Err(error))) => {
                let message = error.message().unwrap_or_default();
                let is_bypassed = may_bypass && message.contains("is bypassed");
                assert!(
                    message.starts_with("backend: ") || is_bypassed,
                    "{name}, {step:?}: {error}"
                );
            }
            (step, end) => panic!("{name}: {step:?} ended with {end:?}"),
        }
    }
    backend.heal();
    check_healed(reader, &backend, &source);
}

/// Each call in turn fails once, each way; and each call in turn is the first of all that fail.
fn try_every_backend_call<C: CacheOps>(config: CacheConfig, wrap: impl Fn(&Arc<Backend>) -> C) {
    let (calls, _) = healthy_calls();
    assert!(calls.len() > 40, "the script does something");
    let mut runs = 0;
    let mut play = |name: String, fault_of: FaultOf| {
        play_on_sick_backend(config, &name, &wrap, fault_of);
        runs += 1;
    };
    for (index, call) in calls.iter().enumerate() {
        for fault in FAULTS {
            play(
                format!("call {index} ({:?}): {fault:?}", call.op),
                Box::new(move |call| (call.index == index).then_some(fault)),
            );
            play(
                format!("{fault:?} from call {index} on"),
                Box::new(move |call| (call.index >= index).then_some(fault)),
            );
        }
        for times in [2, 3, 4, 9] {
            play(
                format!("{times} calls from call {index} on"),
                Box::new(move |call| {
                    let ill = index..index + times;
                    ill.contains(&call.index).then_some(BackendFault::Error)
                }),
            );
        }
        play(
            format!("full disk from call {index} on"),
            Box::new(move |call| {
                let grows = matches!(call.op, backend::Op::Write | backend::Op::SetLen);
                (call.index >= index && grows).then_some(BackendFault::Torn)
            }),
        );
        for op in [backend::Op::Read, backend::Op::Write, backend::Op::Flush] {
            play(
                format!("no {op:?} from call {index} on"),
                Box::new(move |call| {
                    (call.index >= index && call.op == op).then_some(BackendFault::Error)
                }),
            );
        }
    }
    println!("backend: {} calls, {runs} runs of the script", calls.len());
}

#[test]
fn whatever_backend_call_fails_reads_of_a_healthy_source_are_right() {
    for config in configs() {
        try_every_backend_call(config, Arc::clone);
    }
}

#[test]
fn whatever_immediate_backend_call_fails_reads_of_a_healthy_source_are_right() {
    for config in configs() {
        try_every_backend_call(config, |backend| Immediate(Arc::clone(backend)));
    }
}

/// A call that panics takes its own step with it and nothing else.
fn try_every_backend_panic<C: CacheOps>(wrap: impl Fn(&Arc<Backend>) -> C) {
    let (calls, _) = healthy_calls();
    for index in 0..calls.len() {
        let (source, backend) = (Source::new(9, BLOCK, BLOCKS), Backend::new());
        backend.fail(move |call| (call.index == index).then_some(BackendFault::Panic));
        let (ends, reader) = play(config(), &source, || wrap(&backend));
        let mut panicked = 0;
        let mut opened = true;
        for (step, end) in ends {
            match end {
                End::Done(Ok(())) => opened = true,
                End::Panic => {
                    panicked += 1;
                    opened = step != Step::Open;
                }
                End::NoReader => assert!(!opened, "call {index}, {step:?}"),
                End::Done(Err(error)) => panic!("call {index}: {step:?} failed with {error}"),
            }
        }
        assert_eq!(panicked, 1, "call {index}");
        check_healed(reader, &backend, &source);
    }
}

#[test]
fn whatever_backend_call_panics_the_others_go_on() {
    try_every_backend_panic(Arc::clone);
    try_every_backend_panic(|backend| Immediate(Arc::clone(backend)));
}

#[test]
fn a_disk_of_any_size_is_a_cache_or_none_but_never_in_the_way() {
    let (source, backend) = (Source::new(9, BLOCK, BLOCKS), Backend::new());
    play(config(), &source, || Arc::clone(&backend));
    let whole = backend.bytes().len();
    for most in 0..=whole {
        let source = Source::new(9, BLOCK, BLOCKS);
        let backend = Backend::capped(most as u64);
        let (ends, _) = play(config(), &source, || Arc::clone(&backend));
        for (step, end) in ends {
            match (step, end) {
                (_, End::Done(Ok(()))) => {}
                (Step::Ensure(..) | Step::Flush | Step::Scrub, End::Done(Err(error))) => {
                    let message = error.message().unwrap_or_default();
                    assert!(message.starts_with("backend: "), "{most}: {error}");
                    assert!(most < whole, "there is room");
                }
                (step, end) => panic!("{most} bytes: {step:?} ended with {end:?}"),
            }
        }
    }
}

/// How one step of a script ended that met a sick source.
fn check_sick_source(
    name: &str,
    expected: &dyn Fn(&GibbloxError) -> bool,
    fault_of: impl FnMut(&source::Call) -> Option<SourceFault> + Send + 'static,
) -> usize {
    let (source, backend) = (Source::new(9, BLOCK, BLOCKS), Backend::new());
    source.fail(fault_of);
    let (ends, reader) = play(config(), &source, || Arc::clone(&backend));
    let mut known = BTreeSet::new();
    let mut failed = 0;
    for (step, end) in ends {
        match (step, end) {
            (Step::Read(lba, blocks) | Step::Ensure(lba, blocks), End::Done(Ok(()))) => {
                known.extend(lba..lba + blocks);
            }
            (Step::Open | Step::Flush | Step::Scrub, End::Done(Ok(()))) => {}
            (step, End::NoReader) => assert!(step != Step::Open, "{name}"),
            (Step::Flush | Step::Scrub, end) => panic!("{name}: {step:?} ended with {end:?}"),
            (step, end) => {
                if let Step::Read(lba, blocks) | Step::Ensure(lba, blocks) = step {
                    let cached = (lba..lba + blocks).all(|block| known.contains(&block));
                    assert!(!cached, "{name}: {step:?} needs no source, and {end:?}");
                }
                if let End::Done(Err(error)) = end {
                    assert!(expected(&error), "{name}: {step:?} invented {error}");
                }
                failed += 1;
            }
        }
    }
    source.heal();
    check_healed(reader, &backend, &source);
    failed
}

#[test]
fn whatever_source_call_fails_its_own_error_arrives_once_and_is_forgotten() {
    let (_, calls) = healthy_calls();
    assert!(calls.len() > 7, "the script does something");
    for (index, call) in calls.iter().enumerate() {
        let message = format!("source call {index}");
        let own = |error: &GibbloxError| {
            error.kind() == GibbloxErrorKind::Io && error.message() == Some(&message)
        };
        let fault = SourceFault::io(&message);
        let name = format!("call {index} fails");
        let failed = check_sick_source(&name, &own, move |call| {
            (call.index == index).then(|| fault.clone())
        });
        assert_eq!(failed, 1, "{name}");

        let name = format!("call {index} panics");
        let failed = check_sick_source(&name, &|_| false, move |call| {
            (call.index == index).then_some(SourceFault::Panic)
        });
        assert_eq!(failed, 1, "{name}");

        if call.op == source::Op::Read {
            let io = |error: &GibbloxError| error.kind() == GibbloxErrorKind::Io;
            for missing in [1, BLOCK as usize] {
                let name = format!("call {index} is short by {missing}");
                let failed = check_sick_source(&name, &io, move |call| {
                    (call.index == index).then_some(SourceFault::Short(missing))
                });
                assert_eq!(failed, 1, "{name}");
            }
        }
    }
}

#[test]
fn from_whatever_call_on_the_source_fails_what_is_cached_stays_readable() {
    let (_, calls) = healthy_calls();
    for index in 0..calls.len() {
        let own = |error: &GibbloxError| error.message() == Some("the source is gone");
        let fault = SourceFault::io("the source is gone");
        let failed = check_sick_source(&format!("gone from {index}"), &own, move |call| {
            (call.index >= index).then(|| fault.clone())
        });
        assert!(failed >= 1, "somebody needed call {index}");
        let name = format!("panics from {index}");
        let failed = check_sick_source(&name, &|_| false, move |call| {
            (call.index >= index).then_some(SourceFault::Panic)
        });
        assert!(failed >= 1, "somebody needed call {index}");
    }
}
