//! Another process: this test binary once more, which does what a line on its input says and answers in a line.

use crate::support::finish;
use gibblox_cache::{CacheOps, FileCacheOps, LockMode};
use std::env;
use std::io::{BufRead, BufReader, Lines, Write, stdin, stdout};
use std::path::Path;
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

const OBEY: &str = "GIBBLOX_TEST_OBEY";

/// What an answer begins with; what the harness prints does not.
const ANSWER: &str = "answer: ";

pub(crate) struct Child {
    process: Process,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Child {
    pub(crate) fn start() -> Self {
        let mut process = Command::new(env::current_exe().expect("a path"))
            .args([
                "--exact",
                "support::child::obeys",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(OBEY, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary starts again");
        let orders = process.stdin.take().expect("piped");
        let answers = BufReader::new(process.stdout.take().expect("piped")).lines();
        Self {
            process,
            orders,
            answers,
        }
    }

    /// Has the child do something; waits until it is done.
    pub(crate) fn tell(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").expect("the child listens");
        for line in &mut self.answers {
            let line = line.expect("text");
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return answer.into();
            }
        }
        panic!("the child died of: {order}");
    }

    /// Has the child open the cache file at `path`.
    pub(crate) fn open(&mut self, path: &Path) -> String {
        self.tell(&format!("open {}", path.display()))
    }

    /// Ends the child in the middle of what it does.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn obeys() {
    if env::var_os(OBEY).is_none() {
        return;
    }
    let mut open = None;
    for line in stdin().lines() {
        let line = line.expect("text");
        let (order, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = obey(&mut open, order, rest);
        println!("{ANSWER}{answer}");
        stdout().flush().expect("the parent listens");
    }
}

fn obey(open: &mut Option<Arc<FileCacheOps>>, order: &str, rest: &str) -> String {
    if order == "open" {
        return match FileCacheOps::open(rest) {
            Ok(file) => {
                *open = Some(Arc::new(file));
                "opened".into()
            }
            Err(error) => error.to_string(),
        };
    }
    let Some(file) = open else {
        return "nothing is open".into();
    };
    match order {
        "shared" => format!("{:?}", finish(file.lock(LockMode::Shared))),
        "sole" => format!("{:?}", finish(file.lock(LockMode::Sole))),
        "renew" if rest == "again and again" => {
            println!("{ANSWER}true");
            while finish(file.renew()).expect("renews") {}
            "refused".into()
        }
        "renew" => format!("{:?}", finish(file.renew()).expect("renews")),
        "write" => format!("{:?}", finish(file.write_at(0, rest.as_bytes()))),
        "read" => {
            let mut bytes = [0; 32];
            let got = finish(file.read_at(0, &mut bytes)).expect("reads");
            String::from_utf8_lossy(&bytes[..got]).into_owned()
        }
        "close" => {
            *open = None;
            "closed".into()
        }
        _ => "what?".into(),
    }
}
