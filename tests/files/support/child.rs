//! Another process: this test binary once more, which does what a line on its input says and answers in a line.

use crate::hammer::hammer;
use crate::support::{BLOCKS, Source, finish, read_byte};
use gibblox_cache::{CacheDir, CacheOps, CachedBlockReader, FileCacheOps, LockMode};
use gibblox_core::ReadContext;
use std::env;
use std::io::{BufRead, BufReader, Lines, Write, stdin, stdout};
use std::path::Path;
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

const OBEY: &str = "GIBBLOX_TEST_OBEY";

/// What an answer begins with; what the harness prints does not.
pub(crate) const ANSWER: &str = "answer: ";

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
        self.hear()
            .unwrap_or_else(|| panic!("the child died of: {order}"))
    }

    /// Waits for what the child says next.
    pub(crate) fn hear(&mut self) -> Option<String> {
        for line in &mut self.answers {
            let line = line.expect("text");
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return Some(answer.into());
            }
        }
        None
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
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
    let mut open = Open::default();
    for line in stdin().lines() {
        let line = line.expect("text");
        let (order, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = obey(&mut open, order, rest);
        println!("{ANSWER}{answer}");
        stdout().flush().expect("the parent listens");
    }
}

type Reader = CachedBlockReader<Arc<Source>, Arc<FileCacheOps>>;

#[derive(Default)]
struct Open {
    dir: Option<CacheDir>,
    file: Option<Arc<FileCacheOps>>,
    reader: Option<(Arc<Source>, Reader)>,
}

fn obey(open: &mut Open, order: &str, rest: &str) -> String {
    match (order, &open.file, &open.reader) {
        ("open", ..) => match FileCacheOps::open(rest) {
            Ok(file) => {
                open.file = Some(Arc::new(file));
                "opened".into()
            }
            Err(error) => error.to_string(),
        },
        ("close", ..) => {
            *open = Open::default();
            "closed".into()
        }
        ("dir", ..) => {
            open.dir = Some(CacheDir::open(rest).expect("opens"));
            "opened".into()
        }
        ("cache", ..) => {
            let dir = open.dir.as_ref().expect("a directory");
            let file = dir.cache_for(&*Source::new(rest, 0)).expect("opens");
            open.file = Some(Arc::new(file));
            "opened".into()
        }
        // Until it is killed.
        ("hammer", ..) => hammer(rest),
        // The identity, whose first letter is also what every byte is.
        ("reader", Some(file), _) => {
            let source = Source::new(rest, rest.as_bytes()[0]);
            let reader = CachedBlockReader::new(source.clone(), file.clone());
            let reader = finish(reader).expect("a healthy source opens");
            let health = format!("{:?}", reader.state());
            open.reader = Some((source, reader));
            health
        }
        ("shared", Some(file), _) => format!("{:?}", finish(file.lock(LockMode::Shared))),
        ("sole", Some(file), _) => format!("{:?}", finish(file.lock(LockMode::Sole))),
        ("renew", Some(file), _) => {
            if rest == "again and again" {
                println!("{ANSWER}true");
                while finish(file.renew()).is_ok() {}
            }
            format!("{:?}", finish(file.renew()).expect("renews"))
        }
        ("write", Some(file), _) => format!("{:?}", finish(file.write_at(0, rest.as_bytes()))),
        ("read", Some(file), _) => {
            let mut bytes = [0; 32];
            let got = finish(file.read_at(0, &mut bytes)).expect("reads");
            String::from_utf8_lossy(&bytes[..got]).into_owned()
        }
        ("get", _, Some((_, reader))) => {
            let lba = rest.parse().expect("a block");
            char::from(read_byte(reader, lba)).into()
        }
        ("fetched", _, Some((source, _))) => source.fetched_blocks().to_string(),
        ("warm", _, Some((_, reader))) => {
            let (start, end) = rest.split_once(' ').unwrap_or(("0", ""));
            let start: u64 = start.parse().expect("a block");
            let end = end.parse().unwrap_or(BLOCKS);
            let warm = reader.ensure_cached(start, end - start, ReadContext::FOREGROUND);
            finish(warm).map_or_else(|error| error.to_string(), |()| "warm".into())
        }
        // Until it is killed.
        ("churn", Some(file), _) => {
            println!("{ANSWER}begun");
            loop {
                for identity in ["x", "y"] {
                    let source = Source::new(identity, identity.as_bytes()[0]);
                    let reader = finish(CachedBlockReader::new(source, file.clone()));
                    let reader = reader.expect("a healthy source opens");
                    for lba in 0..BLOCKS {
                        assert_eq!(read_byte(&reader, lba), identity.as_bytes()[0]);
                    }
                }
            }
        }
        _ => "what?".into(),
    }
}
