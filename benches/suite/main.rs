//! How fast this crate is, beside the published 0.0.1 and beside what the machine allows.
//!
//! ```text
//! cargo bench                      all of it, under ten minutes on two cores
//! cargo bench -- --quick           smaller sizes and fewer rounds, under a minute
//! cargo bench -- hits cold         only the questions whose names begin like one of these
//! ```
//!
//! Each module asks one question; its head says what is done, how much of it, and why. The published crate, this one
//! and the limit take turns in one process, in many short rounds. A time is the median of the rounds, without the time
//! that a thread stood in line for a processor; a ratio is the median of the ratios within each round, with the
//! quartiles beside it. What is read is compared with what the device holds, so a bench is a test: it panics where a
//! byte is wrong.
//!
//! Beside this, and apart because of what they depend on: `benches/peers`, hits in other caches, and
//! `benches/instructions`, how many instructions a read takes.
//!
//! Runs on Unix. Cache files lie in the directory for temporary files, or in `GIBBLOX_BENCH_DIR`. A flush of them is
//! counted and not done, except where a row says so: it would measure the disk, and the same disk for all.

#![allow(
    clippy::unwrap_used,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a bench is a test: a program of std that panics where a result is wrong, and its figures are floats"
)]

mod ahead;
mod backend;
mod cold;
mod contenders;
mod crowd;
mod ensure;
mod file;
mod growth;
mod hits;
mod holes;
mod memory;
mod open;
mod reopened;
mod scan;
mod threads;

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use gibblox_cache_harness::{CountingAllocator, Question, Scale, Table};

/// Asks a question and adds the answers to a table.
type Run = fn(Scale, &mut Table);

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Starts this program again in place of itself, with an allocator that gives no memory back to the system.
///
/// Else a page that a contender needs is now and then one that it had before, and now and then one that the system has
/// to fetch and clear first, which takes longer than all that is measured. What fresh memory costs is asked on its own.
fn keep_memory() {
    const SETTINGS: [(&str, &str); 2] = [
        ("MALLOC_MMAP_MAX_", "0"),
        ("MALLOC_TRIM_THRESHOLD_", "17179869184"),
    ];
    if env::var_os(SETTINGS[0].0).is_none() {
        let program = env::current_exe().unwrap();
        let error = Command::new(program)
            .args(env::args_os().skip(1))
            .envs(SETTINGS)
            .exec();
        panic!("cannot start again: {error}");
    }
}

fn main() {
    if let Some(question) = Question::asked() {
        let answer = match &*question.subject {
            "cold" => cold::answer(&question.text),
            _ => memory::answer(&question.text),
        };
        println!("{answer}");
        return;
    }
    keep_memory();
    let words: Vec<String> = env::args().skip(1).collect();
    let has = |option| words.iter().any(|word| word == option);
    let scale = match (has("--bench"), has("--quick")) {
        (_, true) => Scale::Quick,
        (true, false) => Scale::Full,
        // `cargo test --benches` does not say `--bench`.
        (false, false) => Scale::Once,
    };
    let wanted: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let questions: [(&str, Run); 13] = [
        ("hits", hits::run),
        ("threads", threads::run),
        ("cold", cold::run),
        ("ahead", ahead::run),
        ("holes", holes::run),
        ("crowd", crowd::run),
        ("ensure", ensure::run),
        ("memory", memory::run),
        ("open", open::run),
        ("file", file::run),
        ("growth", growth::run),
        ("scan", scan::run),
        ("reopened", reopened::run),
    ];
    let start = Instant::now();
    let mut table = Table::default();
    for (name, run) in questions {
        if wanted.is_empty() || wanted.iter().any(|word| name.starts_with(word.as_str())) {
            run(scale, &mut table);
        }
    }
    table.print();
    println!("\n{:.0} s", start.elapsed().as_secs_f64());
}
