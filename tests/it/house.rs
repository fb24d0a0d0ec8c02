//! The map of the code is true: imports point down the table in `lib.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The rooms in the order of the table, each with its row.
fn rows() -> BTreeMap<String, usize> {
    let lib = fs::read_to_string(src().join("lib.rs")).unwrap();
    let (_, table) = lib.split_once("//! | room | what it is |").unwrap();
    let rows = table.lines().skip(2);
    let names = rows.map_while(|row| Some(row.strip_prefix("//! | `")?.split_once('`')?.0));
    names
        .enumerate()
        .map(|(row, name)| (name.to_owned(), row))
        .collect()
}

/// Every source file below `folder`, but for tests and models.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs")
            && !["tests.rs", "model.rs"].contains(&name)
        {
            found.push(path);
        }
    }
}

/// The room that `path` belongs to.
fn room_of(path: &Path) -> String {
    let inside = path.strip_prefix(src()).unwrap();
    let first = inside.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The rooms that the code of a file names, its unit tests left out.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code = code.split("#[cfg(all(test, not(model)))]\nmod tests {");
    let code = code.into_iter().next().unwrap();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut rooms = Vec::new();
    for line in lines {
        for (at, _) in line.match_indices("crate::") {
            let name = &line[at + "crate::".len()..];
            let end = name.find(|letter: char| !letter.is_ascii_lowercase() && letter != '_');
            rooms.push(name[..end.unwrap_or(name.len())].to_owned());
        }
    }
    rooms
}

#[test]
fn imports_point_down_the_map() {
    let rows = rows();
    assert!(rows.len() > 20, "the table was found: {rows:?}");
    let mut paths = Vec::new();
    files(&src(), &mut paths);
    let mut seen = BTreeSet::new();
    for path in paths {
        let room = room_of(&path);
        if room == "lib" {
            continue;
        }
        let row = rows
            .get(&room)
            .unwrap_or_else(|| panic!("{room} is not on the map"));
        seen.insert(room.clone());
        for other in imports(&fs::read_to_string(&path).unwrap()) {
            if other.is_empty() || other == room {
                continue;
            }
            let below = rows
                .get(&other)
                .unwrap_or_else(|| panic!("{room} names {other}"));
            assert!(
                row < below,
                "{}: {room} imports {other}, which is above it",
                path.display()
            );
        }
    }
    let missing: Vec<_> = rows.keys().filter(|room| !seen.contains(*room)).collect();
    assert!(
        missing.is_empty(),
        "on the map and not in the code: {missing:?}"
    );
}
