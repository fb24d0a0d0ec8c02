//! Programs that are started, and perhaps killed, in a folder of their own.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use url::Url;

/// An empty folder beside what cargo builds, gone when it is dropped.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Says that a test could not do its work.
#[expect(
    clippy::explicit_write,
    reason = "what `eprintln` says is not shown of a test that passes"
)]
pub(crate) fn skipped(why: &str) {
    writeln!(std::io::stderr(), "skipped: {why}").unwrap();
}

/// A child process, killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Program(Child);

impl Program {
    /// Starts `command`.
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Self(child.unwrap())
    }

    /// The first line it says, without its end; `None` where it ends without a word.
    pub(crate) fn first_line(&mut self) -> Option<String> {
        let mut line = String::new();
        let mut stdout = BufReader::new(self.0.stdout.as_mut().unwrap());
        stdout.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| line.trim_end().to_owned())
    }

    /// Waits for it to end, which it must do with success.
    #[track_caller]
    pub(crate) fn succeed(mut self) {
        assert!(self.0.wait().unwrap().success());
    }

    /// Kills it with a signal that it cannot catch; `false` where it had ended by then.
    pub(crate) fn kill(mut self) -> bool {
        self.0.kill().unwrap();
        self.0.wait().unwrap().code().is_none()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// One image behind HTTP, and where a program keeps its cache and its output.
#[derive(Debug)]
pub(crate) struct Site {
    url: Url,
    pub(crate) folder: TempDir,
}

impl Site {
    pub(crate) fn new(url: Url) -> Self {
        Self {
            url,
            folder: folder(),
        }
    }

    pub(crate) fn output(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `program URL FOLDER OUTPUT`, to which more arguments may be added.
    pub(crate) fn command(&self, program: &str, output: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .arg(self.url.as_str())
            .arg(self.folder.path().join("cache"))
            .arg(output);
        command
    }
}
