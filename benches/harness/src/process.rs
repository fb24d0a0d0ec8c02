//! What the operating system is asked for: a fresh process to answer a question, resident memory, a processor.

use std::env;
use std::fs;
use std::process::Command;

/// A question that this program answers when it is started with it.
#[derive(Clone, Debug)]
pub struct Question {
    /// What it is about.
    pub subject: String,
    /// The rest of it.
    pub text: String,
}

impl Question {
    const PREFIX: &str = "--answer=";

    /// Starts this program again, with an allocator as the system has it, to answer with a number.
    #[must_use]
    pub fn ask(subject: &str, text: &str) -> f64 {
        let program = env::current_exe().expect("this program has a path");
        let output = Command::new(program)
            .arg(format!("{}{subject}:{text}", Self::PREFIX))
            .env_remove("MALLOC_MMAP_MAX_")
            .env_remove("MALLOC_TRIM_THRESHOLD_")
            .output()
            .expect("this program can be started again");
        let answer = String::from_utf8_lossy(&output.stdout);
        answer.trim().parse().unwrap_or_else(|_| {
            let error = String::from_utf8_lossy(&output.stderr);
            panic!("{subject}: {text} was answered with {answer:?}: {error}")
        })
    }

    /// The question that this process was started with.
    #[must_use]
    pub fn asked() -> Option<Self> {
        env::args().find_map(|arg| {
            let (subject, text) = arg.strip_prefix(Self::PREFIX)?.split_once(':')?;
            Some(Self {
                subject: subject.to_owned(),
                text: text.to_owned(),
            })
        })
    }
}

fn status(field: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: f64 = line
        .trim_start_matches(':')
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    Some(kibibytes * 1024.0)
}

/// Bytes of this process that are in memory; nothing where the system does not tell.
#[must_use]
pub fn resident_bytes() -> Option<f64> {
    status("VmRSS")
}

/// The most bytes of this process that ever were in memory.
#[must_use]
pub fn resident_peak_bytes() -> Option<f64> {
    status("VmHWM")
}

/// Keeps this thread on the processor with this number, of those that it may use. Two threads that wait for each other
/// awake would otherwise now and then be put on one.
#[cfg(target_os = "linux")]
pub fn stay_on_processor(number: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|processor| allowed.is_set(*processor))
        .collect();
    let mut one = CpuSet::new();
    one.set(processors[number % processors.len()]);
    // Where that is not allowed, it is a wish that is not fulfilled.
    let _ = sched_setaffinity(None, &one);
}

/// Does nothing here.
#[cfg(not(target_os = "linux"))]
pub fn stay_on_processor(_: usize) {}
