//! The published command-line program, built with this cache in the place of the one it was published with.
//!
//! Its source comes from the registry and is built beside the tests, with its own lock file, which keeps it buildable.
//! The first run takes a minute for that.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use gibblox_pipeline::PipelineSource;
use tempfile::TempDir;

use crate::image::{Image, Random, assert_file_is, disk_with, image};
use crate::pipeline::{http, mbr, write};
use crate::program::{Program, folder};
use crate::server::{Conduct, PROBE, Server, bytes_of};

const PACKAGE: &str = "gibblox-cli";
const VERSION: &str = "0.0.1";

/// The program reads its source in blocks of this many bytes.
const BLOCK_SIZE: usize = 4096;

/// Where the cache lies in the pipeline.
#[derive(Clone, Copy, Debug)]
enum Policy {
    None,
    /// Next to the source: all of the disk is cached.
    Head,
    /// At the end: the partition is cached, the partition table is not.
    Tail,
}

impl Policy {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Head => "head",
            Self::Tail => "tail",
        }
    }

    /// What the program asks for when all it wants is cached: the length of the disk, and what is in front of the
    /// cache.
    fn asked_when_warm(self) -> Vec<Range<u64>> {
        match self {
            Self::None => unreachable!("without a cache it is never warm"),
            Self::Head => vec![PROBE],
            Self::Tail => vec![PROBE, 0..4096],
        }
    }
}

/// An image behind HTTP, and a folder for the program.
struct Setting {
    server: Server,
    /// What the program has to write.
    wanted: Image,
    folder: TempDir,
    pipeline: PathBuf,
}

impl Setting {
    /// A disk with a partition of `len` bytes, which the program copies. Their number is odd in every respect that a
    /// disk allows.
    fn new(seed: u64, len: usize) -> Self {
        let partition = image(seed, len.next_multiple_of(512));
        let disk = disk_with(&partition).into();
        Self::with(disk, partition, mbr)
    }

    /// An image of `len` bytes, all of which the program copies.
    fn without_partitions(seed: u64, len: usize) -> Self {
        let image = image(seed, len);
        Self::with(image.clone(), image, |http| http)
    }

    fn with(
        source: Image,
        wanted: Image,
        pipeline: impl FnOnce(PipelineSource) -> PipelineSource,
    ) -> Self {
        let server = Server::start(source);
        let folder = folder();
        Self {
            pipeline: write(&pipeline(http(&server.url())), folder.path()),
            server,
            wanted,
            folder,
        }
    }

    fn output(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, which copies what is wanted to `output`.
    fn command(&self, policy: Policy, output: &Path) -> Command {
        let mut command = Command::new(program());
        command
            .arg(&self.pipeline)
            .args(["--cache-policy", policy.name(), "--output"])
            .arg(output)
            .env("XDG_CACHE_HOME", self.folder.path().join("cache"));
        command
    }

    fn start(&self, policy: Policy, output: &Path) -> Program {
        Program::start(&mut self.command(policy, output))
    }

    /// Runs the program to its end, checks what it wrote, and returns what the server was asked for.
    #[track_caller]
    fn run(&self, policy: Policy) -> Vec<Range<u64>> {
        let output = self.output("output");
        self.server.take_asked();
        self.start(policy, &output).succeed();
        assert_file_is(&output, &self.wanted, BLOCK_SIZE);
        self.server.take_asked()
    }

    fn forget_cache(&self) {
        fs::remove_dir_all(self.folder.path().join("cache")).unwrap();
    }
}

#[test]
fn with_a_cache_at_the_head_the_second_run_fetches_nothing() {
    let setting = Setting::new(30, 3_000_000);
    let cold = setting.run(Policy::Head);
    // Each block once: the one with the partition table, and those of the partition.
    let wanted = setting.wanted.len().next_multiple_of(BLOCK_SIZE) as u64;
    assert!(bytes_of(&cold[1..]) <= wanted + 4096, "{cold:?}");
    for _ in 0..2 {
        assert_eq!(setting.run(Policy::Head), Policy::Head.asked_when_warm());
    }
}

#[test]
fn with_a_cache_at_the_tail_the_second_run_fetches_the_partition_table_only() {
    let setting = Setting::new(31, 3_000_000);
    let cold = setting.run(Policy::Tail);
    assert!(bytes_of(&cold) > setting.wanted.len() as u64);
    for _ in 0..2 {
        assert_eq!(setting.run(Policy::Tail), Policy::Tail.asked_when_warm());
    }
}

#[test]
fn without_partitions_the_second_run_fetches_nothing_wherever_the_cache_is() {
    for (policy, seed) in [(Policy::Head, 41), (Policy::Tail, 42)] {
        let setting = Setting::without_partitions(seed, 2_000_001);
        let cold = setting.run(policy);
        assert_eq!(cold[0], PROBE);
        assert_eq!(bytes_of(&cold[1..]), setting.wanted.len() as u64);
        for _ in 0..2 {
            assert_eq!(setting.run(policy), [PROBE]);
        }
    }
}

#[test]
fn a_server_without_ranges_is_an_error_of_the_program_and_spoils_no_cache() {
    for (policy, seed) in [(Policy::Head, 43), (Policy::Tail, 44)] {
        let setting = Setting::new(seed, 1_000_000);
        let whole = bytes_of(&setting.run(Policy::None));
        setting.server.conduct(Conduct::IgnoreRange);
        let output = setting.output("without ranges");
        let ended = setting.command(policy, &output).output().unwrap();
        assert!(!ended.status.success());
        let says = String::from_utf8_lossy(&ended.stderr);
        assert!(
            says.contains("content-length mismatch") || says.contains("206"),
            "{says}"
        );
        // Nothing of what it may have written is wrong, and nothing is cached.
        let written = fs::read(&output).unwrap_or_default();
        assert!(setting.wanted.starts_with(&written));

        setting.server.conduct(Conduct::Serve);
        assert!(bytes_of(&setting.run(policy)) >= whole - 4096);
        assert_eq!(setting.run(policy), policy.asked_when_warm());
    }
}

#[test]
fn without_a_cache_every_run_fetches_everything() {
    // What the two tests above would see if nothing were cached at all.
    let setting = Setting::new(32, 1_000_000);
    let first = setting.run(Policy::None);
    assert_eq!(setting.run(Policy::None), first);
    assert!(bytes_of(&first) > setting.wanted.len() as u64);
}

#[tokio::test]
async fn killed_at_any_moment_the_next_run_reads_right_bytes() {
    let setting = Setting::new(33, 4_000_000);
    let whole = bytes_of(&setting.run(Policy::None));
    let mut random = Random(33);
    let mut outcomes: BTreeMap<_, u32> = BTreeMap::new();
    for attempt in 0..60 {
        let policy = [Policy::Head, Policy::Tail][attempt % 2];
        let (mut sent_before, mut killed) = (0, 0);
        // Up to three in a row over the same cache file, each killed after the server has sent some more.
        for _ in 0..=random.below(3) {
            let sent = setting.server.sent();
            let program = setting.start(policy, &setting.output("killed"));
            let still_wanted = whole.saturating_sub(sent_before);
            let more = random.below(still_wanted + 1);
            setting.server.has_sent(sent + more).await;
            for _ in 0..random.below(200) {
                tokio::task::yield_now().await;
            }
            killed += u32::from(program.kill());
            sent_before += setting.server.sent() - sent;
        }
        setting.run(policy);
        assert_eq!(
            setting.run(policy),
            policy.asked_when_warm(),
            "attempt {attempt}"
        );
        setting.forget_cache();
        *outcomes.entry(killed).or_default() += 1;
    }
    println!("attempts by how many programs were killed in the middle: {outcomes:?}");
    // One that came too late shows nothing.
    assert!(outcomes.get(&0).is_none_or(|unhurt| *unhurt < 10));
}

#[test]
fn three_at_once_on_one_cache_file_read_right_bytes_and_again() {
    for policy in [Policy::Head, Policy::Tail] {
        for seed in 34..40 {
            let setting = Setting::new(seed, 2_000_000);
            let outputs = ["a", "b", "c"].map(|name| setting.output(name));
            for _ in 0..2 {
                let programs = outputs
                    .each_ref()
                    .map(|output| setting.start(policy, output));
                for (program, output) in programs.into_iter().zip(&outputs) {
                    program.succeed();
                    assert_file_is(output, &setting.wanted, BLOCK_SIZE);
                }
            }
            setting.run(policy);
        }
    }
}

/// The built program.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(build)
}

fn build() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let beside_tests = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let target = beside_tests.parent().unwrap();
    let source = beside_tests.join(PACKAGE);
    let published = published_source();
    let manifest = format!(
        "{}\n[workspace]\n[patch.crates-io]\ngibblox-cache = {{ path = {:?} }}\n\
         [profile.dev]\ndebug = \"line-tables-only\"\n",
        fs::read_to_string(published.join("Cargo.toml")).unwrap(),
        ours.canonicalize().unwrap().to_str().unwrap(),
    );
    // What is there already is left alone, or all of it would be built again.
    if fs::read_to_string(source.join("Cargo.toml")).is_ok_and(|found| found == manifest) {
        println!("{PACKAGE} is there");
    } else {
        fs::create_dir_all(source.join("src")).unwrap();
        for file in ["Cargo.lock", "src/main.rs"] {
            fs::copy(published.join(file), source.join(file)).unwrap();
        }
        fs::write(source.join("Cargo.toml"), manifest).unwrap();
    }
    let mut build = Command::new(env!("CARGO"));
    build.arg("build").arg("--target-dir").arg(target);
    // What cargo tells this test about its own package would make it build dependencies anew that both share.
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            build.env_remove(name);
        }
    }
    assert!(build.current_dir(&source).status().unwrap().success());
    // What comes from a registry has a checksum in the lock file, and this must not come from there.
    let lock = fs::read_to_string(source.join("Cargo.lock")).unwrap();
    let mut packages = lock.split("[[package]]");
    let cache = packages
        .find(|package| package.contains("\"gibblox-cache\"\n"))
        .unwrap();
    assert!(!cache.contains("checksum"), "{cache}");
    target.join("debug/gibblox")
}

/// The source of the program as it was published. Cargo keeps it below its home.
fn published_source() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap()).join(".cargo"),
        PathBuf::from,
    );
    let find = || {
        fs::read_dir(home.join("registry/src"))
            .ok()?
            .map(|registry| {
                registry
                    .unwrap()
                    .path()
                    .join(format!("{PACKAGE}-{VERSION}"))
            })
            .find(|source| source.join("Cargo.toml").exists())
    };
    find().unwrap_or_else(|| {
        // Looking at a package downloads it.
        let mut info = Command::new(env!("CARGO"));
        let output = info
            .args(["info", "--quiet", &format!("{PACKAGE}@{VERSION}")])
            .output();
        assert!(output.unwrap().status.success());
        find().unwrap()
    })
}
