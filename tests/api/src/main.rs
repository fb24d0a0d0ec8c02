//! Says which public items of one crate are missing from another one, or are something else there.
//!
//! `gibblox-cache-api BEFORE.json AFTER.json METADATA.json` reads what rustdoc writes as JSON about a crate, before and
//! after, and what `cargo metadata` says of both. It exits with 1 where a program for the first might not build against the second.
//! Additions are welcome, as long as nobody is forced to know them.
//!
//! A linter of semantic versions looks for known kinds of breaks. This compares everything that rustdoc knows of an
//! item, so it also sees a parameter whose type has changed, and needs nothing but the toolchain. What it cannot see is
//! inside an opaque type, such as whether the future of an `async fn` is `Send`: `tests/it/backend/program.rs` looks at that.

mod items;
#[cfg(test)]
mod tests;

use items::Items;
use serde_json::Value;
use std::process::ExitCode;
use std::{env, fs};

fn json(path: &str) -> Result<Value, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))
}

/// What `before` has and `after` has not, or has otherwise.
fn breaks(before: &Items, after: &Items) -> Vec<String> {
    let broken = |(name, was): (&String, &String)| match after.get(name) {
        None => Some(format!("missing: {name}")),
        Some(is) if is != was => Some(format!("changed: {name}{}", difference(was, is))),
        Some(_) => None,
    };
    before.iter().filter_map(broken).collect()
}

/// The lines of two texts that the other one has not.
fn difference(was: &str, is: &str) -> String {
    let only = |sign: char, one: &str, other: &str| {
        let other: Vec<_> = other.lines().collect();
        let only = one.lines().filter(|line| !other.contains(line));
        only.fold(String::new(), |text, line| {
            text + "\n  " + &String::from(sign) + " " + line.trim()
        })
    };
    only('-', was, is) + &only('+', is, was)
}

/// The features of the package of that name, once from the registry and once from a path.
fn feature_breaks(metadata: &Value, name: &str) -> Result<Vec<String>, String> {
    let package = |published: bool| {
        let packages = metadata["packages"].as_array()?;
        let found = packages
            .iter()
            .find(|package| package["name"] == name && package["source"].is_null() != published)?;
        found["features"].as_object()
    };
    let (Some(before), Some(after)) = (package(true), package(false)) else {
        return Err(format!("the metadata does not have {name} twice"));
    };
    let broken = |(feature, was): (&String, &Value)| {
        let Some(is) = after.get(feature).and_then(Value::as_array) else {
            return Some(format!("missing: feature {feature}"));
        };
        // What a feature turns on in a dependency is its own affair, what it turns on in the crate is not.
        let other = |name: &&Value| name.as_str().is_some_and(|name| before.contains_key(name));
        let lost = was
            .as_array()?
            .iter()
            .filter(other)
            .find(|name| !is.contains(name))?;
        Some(format!("changed: feature {feature} is without {lost}"))
    };
    Ok(before.iter().filter_map(broken).collect())
}

fn run() -> Result<Vec<String>, String> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [before, after, metadata] = arguments.as_slice() else {
        return Err("three arguments are needed".to_owned());
    };
    let (before, after) = (Items::of(&json(before)?)?, Items::of(&json(after)?)?);
    let mut found = breaks(&before, &after);
    found.extend(feature_breaks(&json(metadata)?, "gibblox-cache")?);
    println!(
        "{} facts about items compared; {} now",
        before.len(),
        after.len()
    );
    Ok(found)
}

fn main() -> ExitCode {
    match run() {
        Ok(breaks) if breaks.is_empty() => ExitCode::SUCCESS,
        Ok(breaks) => {
            for broken in breaks {
                println!("{broken}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
