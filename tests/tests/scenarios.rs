//! The table of scenarios names tests that exist.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Names of all functions in the test sources below a folder.
fn functions(folder: &Path, names: &mut HashSet<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let starts = text.match_indices("fn ").map(|(at, word)| at + word.len());
            let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
            names.extend(starts.filter_map(|at| text[at..].split(end).next().map(str::to_owned)));
        }
    }
}

#[test]
fn every_scenario_names_tests_that_exist() {
    let workspace = workspace();
    let mut known = HashSet::new();
    functions(&workspace.join("tests/tests"), &mut known);
    functions(&workspace.join("netpath-common/tests"), &mut known);
    let table = fs::read_to_string(workspace.join("docs/scenarios.md")).unwrap();
    let mut ids = HashSet::new();
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, holds, tests] = cells[..] else {
            panic!("not three cells: {line}");
        };
        if id == "id" || id.starts_with('-') {
            continue;
        }
        assert!(ids.insert(id.to_owned()), "{id} is there twice");
        assert!(!holds.is_empty(), "{id} says nothing");
        // What cannot be tested here says why.
        if let Some(reason) = tests.strip_prefix("n/a: ") {
            assert!(!reason.is_empty(), "{id} says nothing");
            continue;
        }
        for test in tests.split(',') {
            let name = test.rsplit([' ', ':']).next().unwrap_or_default();
            assert!(
                known.contains(name),
                "{id} names {name:?}, which is no test"
            );
        }
    }
    assert!(ids.len() > 50, "the table is read");
}
