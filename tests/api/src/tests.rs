//! Each break that this is here for, in a crate of a few lines.

use crate::items::Items;
use crate::{breaks, feature_breaks, json};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

const NOTHING: [&str; 0] = [];

const BEFORE: &str = "
    mod inner {
        #[derive(Clone, Copy, Debug)]
        pub struct Stats { pub hits: u64, pub misses: u64 }
        impl Stats { pub fn rate(&self) -> f64 { 0.0 } }
        pub struct Reader<S, C> { pub(crate) source: S, pub(crate) cache: C }
        impl<S: Ops, C> Reader<S, C> where C: Ops { pub async fn get(&self, at: u64) -> Stats { todo!() } }
        pub trait Ops: Send + Sync {
            fn read(&self, at: u64, out: &mut [u8]) -> Result<usize, u8>;
            fn now(&self) -> Option<u8> { None }
        }
        pub trait Tag {}
        impl<T: Ops + ?Sized> Tag for std::sync::Arc<T> {}
    }
    pub use inner::{Ops, Tag, Reader, Stats};
    pub fn name<S: Ops + ?Sized>(of: &S) -> String { String::new() }
";

fn items(text: &str) -> Items {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("it.rs");
    fs::write(&file, text).unwrap();
    let documented = Command::new("rustdoc")
        .env("RUSTC_BOOTSTRAP", "1")
        .args([
            "--edition=2024",
            "-Zunstable-options",
            "--output-format=json",
            "-o",
        ])
        .arg(folder.path())
        .arg(&file)
        .output()
        .unwrap();
    assert!(documented.status.success(), "{documented:?}");
    let path = folder.path().join("it.json");
    Items::of(&json(path.to_str().unwrap()).unwrap()).unwrap()
}

fn before() -> &'static Items {
    static ITEMS: OnceLock<Items> = OnceLock::new();
    ITEMS.get_or_init(|| items(BEFORE))
}

/// The first words of what is found after `from` became `to`.
#[track_caller]
fn found(from: &str, to: &str) -> Vec<String> {
    assert!(BEFORE.contains(from));
    let found = breaks(before(), &items(&BEFORE.replace(from, to)));
    let words = |text: String| text.lines().next().unwrap().to_owned();
    found.into_iter().map(words).collect()
}

#[test]
fn what_means_the_same_is_no_break() {
    let moved = BEFORE.replace("inner", "elsewhere");
    assert!(breaks(before(), &items(&moved)).is_empty());
    assert_eq!(found("at: u64)", "lba: u64)"), NOTHING);
    let clause = "name<S>(of: &S) -> String where S: ?Sized + Ops";
    assert_eq!(
        found("name<S: Ops + ?Sized>(of: &S) -> String", clause),
        NOTHING
    );
}

#[test]
fn an_addition_is_no_break() {
    let more = "pub enum More { A } pub struct New(u8); impl New { pub fn new() -> Self { Self(0) } } pub fn name";
    assert_eq!(found("pub fn name", more), NOTHING);
    assert_eq!(found("fn now", "fn later(&self) {} fn now"), NOTHING);
    assert_eq!(found("cache: C }", "cache: C, lock: u8 }"), NOTHING);
    assert_eq!(
        found(
            "pub fn rate",
            "pub fn new() -> Self { todo!() } pub fn rate"
        ),
        NOTHING
    );
    assert_eq!(found("#[derive(", "#[derive(PartialEq, "), NOTHING);
}

#[test]
fn a_missing_item_is_a_break() {
    assert_eq!(found("pub fn name", "fn name"), ["missing: it::name"]);
    assert_eq!(
        found("pub fn rate", "pub(crate) fn rate"),
        ["missing: it::Stats::rate"]
    );
    assert_eq!(
        found("fn now(&self) -> Option<u8> { None }", ""),
        ["missing: it::Ops::now"]
    );
    assert_eq!(
        found("Clone, Copy, Debug", "Clone, Copy"),
        ["missing: impl core::fmt::Debug for it::Stats"]
    );
    assert!(found("Reader, Stats}", "Reader}").contains(&"missing: it::Stats".to_owned()));
}

#[test]
fn a_changed_function_is_a_break() {
    assert_eq!(
        found("get(&self, at: u64)", "get(&self, at: u32)"),
        ["changed: it::Reader::get"]
    );
    assert_eq!(
        found("pub async fn get", "pub fn get"),
        ["changed: it::Reader::get"]
    );
    assert_eq!(
        found("S: Ops, C> Reader", "S: Ops + Clone, C> Reader"),
        ["changed: it::Reader::get"]
    );
    assert_eq!(
        found("name<S: Ops + ?Sized>", "name<S: Ops>"),
        ["changed: it::name"]
    );
    assert_eq!(
        found("-> String", "-> Option<String>"),
        ["changed: it::name"]
    );
}

#[test]
fn one_more_method_to_write_is_a_break() {
    assert_eq!(
        found("fn now(", "fn later(&self); fn now("),
        ["changed: it::Ops"]
    );
    assert_eq!(found("{ None }", ";"), ["changed: it::Ops"]);
    assert_eq!(
        found("Ops: Send + Sync", "Ops: Send + Sync + Unpin"),
        ["changed: it::Ops"]
    );
    assert_eq!(
        found("-> Option<u8> {", "-> Option<u8> where Self: Sized {"),
        ["changed: it::Ops::now"]
    );
    assert_eq!(
        found("fn now(&self)", "fn now()"),
        ["changed: it::Ops", "changed: it::Ops::now"]
    );
}

#[test]
fn other_fields_are_a_break() {
    assert_eq!(
        found("pub misses: u64", "pub misses: u32"),
        ["changed: it::Stats.misses"]
    );
    assert_eq!(
        found("pub misses", "misses"),
        ["changed: it::Stats", "missing: it::Stats.misses"]
    );
    assert_eq!(
        found("pub misses", "pub more: u64, pub misses"),
        ["changed: it::Stats"]
    );
    assert_eq!(
        found("pub misses", "more: u64, pub misses"),
        ["changed: it::Stats"]
    );
    assert_eq!(
        found("pub struct Stats", "#[non_exhaustive] pub struct Stats"),
        ["changed: it::Stats"]
    );
}

#[test]
fn a_lost_implementation_is_a_break() {
    let lost = found("impl<T: Ops + ?Sized> Tag for std::sync::Arc<T> {}", "");
    assert!(
        lost.len() == 1 && lost[0].starts_with("missing: impl it::Tag for alloc::sync::Arc"),
        "{lost:?}"
    );
    let asked = found("impl<T: Ops + ?Sized> Tag", "impl<T: Ops> Tag");
    assert!(
        asked.len() == 1 && asked[0].starts_with("changed: impl it::Tag for"),
        "{asked:?}"
    );
}

#[test]
fn what_is_no_longer_send_is_a_break() {
    let lost = found("cache: C }", "cache: C, lock: std::rc::Rc<u8> }");
    for name in ["Send", "Sync"] {
        let lost = lost.iter().filter(|line| {
            line.starts_with(&format!(
                "missing: impl core::marker::{name} for it::Reader"
            ))
        });
        assert_eq!(lost.count(), 1, "{name}");
    }
    let asked = found("cache: C }", "cache: C, lock: std::sync::Mutex<S> }");
    assert!(
        asked
            .iter()
            .any(|line| line.starts_with("changed: impl core::marker::Sync")),
        "{asked:?}"
    );
}

#[test]
fn a_lost_feature_is_a_break() {
    let metadata = |now: &Value| {
        json!({ "packages": [
            { "name": "it", "source": "registry", "features": { "default": ["std"], "std": ["dep/std"] } },
            { "name": "it", "source": null, "features": now },
        ] })
    };
    let found = |now| feature_breaks(&metadata(&now), "it").unwrap();
    assert_eq!(
        found(json!({ "default": ["std", "more"], "std": [], "more": [] })),
        NOTHING
    );
    assert_eq!(found(json!({ "default": [], "std": [] })).len(), 1);
    assert_eq!(found(json!({ "default": [] })).len(), 2);
    assert!(feature_breaks(&json!({ "packages": [] }), "it").is_err());
}
