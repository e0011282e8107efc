//! Tests the rules for the source tree by reading it. ARCHITECTURE.md gives the rules and their reasons.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A module, the words that its code must not contain, and the submodules that may.
const NEVER: &[(&str, &[&str], &[&str])] = &[
    ("src/protocol", IMPURE, &[]),
    ("src/plan", IMPURE, &[]),
    ("src/rollout", IMPURE, &[]),
    ("src/nats_config", IMPURE, &[]),
    ("src/text", IMPURE, &[]),
    ("src/bus", &["crate::operator", "crate::listener", "crate::report", "crate::cli", "clap::"], &[]),
    ("src/lookup", &["crate::operator", "crate::listener", "crate::report", "crate::cli", "clap::"], &[]),
    ("src/operator", &["crate::listener", "crate::report", "crate::cli", "clap::"], &[]),
    ("src/listener", &["crate::operator", "crate::report", "crate::cli", "clap::"], &[]),
    ("src/report", &["crate::listener", "crate::bus", "crate::cli"], &[]),
    // Displays implement a trait of the operator, and know nothing else of it.
    ("src/report", &["crate::operator"], &["src/report.rs"]),
    ("src", &["async_nats"], &["src/bus", "src/operator/discovery", "src/operator/fleet", "src/listener"]),
    ("src/mcp", &["crate::listener", "report::Bars", "report::Lines", "report::Json", "crate::cli", "clap::"], &[]),
    ("src", &["indicatif"], &["src/report/bars"]),
    // In a release build, clap's matches do not know which flags a command has.
    ("src/cli", &["try_contains_id"], &[]),
    ("src", &["rmcp"], &["src/mcp"]),
    (
        "src",
        &["process::Command"],
        &[
            "src/listener",
            "src/operator/background",
            "src/operator/commits",
            "src/operator/nix",
            "src/operator/programs",
            "src/lookup",
            "src/process_group",
        ],
    ),
];

/// Code that waits, reads a clock, is random, or has side effects.
#[rustfmt::skip]
const IMPURE: &[&str] = &[
    "async fn", ".await", "tokio", "async_nats", "rmcp", "indicatif", "clap::",
    "std::env", "std::fs", "std::io", "std::net", "std::process", "std::thread",
    "Instant", "SystemTime", "Timestamp::now", "new_v4",
    "crate::bus", "crate::operator", "crate::listener", "crate::report", "crate::cli",
];

/// Words that no file contains, tests included.
const NOWHERE: &[&str] = &["#[allow(", "#![allow(", "todo!", "unimplemented!", "#[ignore", "thread::sleep"];

/// Turns of phrase that are hard to read aloud, in comments, help and errors.
const OLD_STYLE: &[&str] = &[
    "whoever",
    "come to an end",
    "comes to an end",
    "come down to",
    "comes down to",
    "for ever ",
    "all the same",
    "is at it ",
    "is at it.",
    "is at it;",
    "knows not ",
    "of its own accord",
    "nobody who has not",
    "tells of ",
];

/// Names of several types: commands, named as on the command line; settings, qualified by their module; and types that
/// mean one thing to a listener and another to an operator.
#[rustfmt::skip]
const SHARED_NAMES: &[&str] = &[
    "Plan", "Rollback", "Status", "Settings", "Changes",
];

/// A file with more lines than this does more than one thing.
const MOST_LINES: usize = 450;

#[test]
fn each_module_does_without_what_is_not_its_own() {
    for (module, forbidden, except) in NEVER {
        for file in sources(module).filter(|file| !except.iter().any(|except| is_within(file, except))) {
            assert_free_of(forbidden, &file, &code(&file));
        }
    }
}

#[test]
fn no_file_is_too_long_or_unfinished() {
    for file in ["src", "tests", "examples"].into_iter().flat_map(sources) {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines", file.display());
        if !is_within(&file, "tests/it/tidy") {
            assert_free_of(NOWHERE, &file, &text);
        }
    }
}

#[test]
fn each_variable_of_a_flag_takes_one_and_zero() {
    for file in sources("src/cli") {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair[0].contains(" env = ") && pair[1].ends_with(": bool,")) {
            assert!(pair[0].contains("value_parser = switch"), "{}: {}", file.display(), pair[0]);
        }
    }
}

#[test]
fn what_is_written_can_be_read_aloud() {
    let pages =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"].map(|page| Path::new(ROOT).join(page));
    let docs = fs::read_dir(Path::new(ROOT).join("docs")).unwrap().map(|page| page.unwrap().path());
    let pages = pages.into_iter().chain(docs);
    for file in sources("src").chain(pages) {
        let text = fs::read_to_string(&file).unwrap().to_lowercase();
        for (index, line) in text.lines().enumerate() {
            let turn = OLD_STYLE.iter().find(|turn| line.contains(**turn));
            assert!(turn.is_none(), "{}:{}: {turn:?} is hard to read aloud", file.display(), index + 1);
        }
    }
}

#[test]
fn a_type_has_a_name_of_its_own() {
    let mut types: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in sources("src") {
        for line in code(&file).lines() {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
            let mut words = words.skip_while(|word| ["pub", "in", "crate", "super", "cli"].contains(word));
            if line.starts_with(char::is_alphabetic)
                && matches!(words.next(), Some("struct" | "enum" | "trait" | "type"))
                && let Some(name) = words.next().filter(|name| !SHARED_NAMES.contains(name))
            {
                types.entry(name.to_owned()).or_default().push(file.clone());
            }
        }
    }
    assert!(types.len() > 300, "types are found");
    types.retain(|_, files| files.len() > 1);
    assert!(types.is_empty(), "{types:#?}");
}

fn assert_free_of(forbidden: &[&str], file: &Path, text: &str) {
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
        if let Some(word) = forbidden.iter().find(|word| line.contains(**word)) {
            panic!("{}:{} must not say {word:?}: {line}", file.display(), index + 1);
        }
    }
}

/// Returns the code of a file without its tests, which are at its end or in a module of their own.
fn code(file: &Path) -> String {
    if file.strip_prefix(ROOT).unwrap().iter().any(|part| part == "tests" || part == "tests.rs") {
        return String::new();
    }
    let text = fs::read_to_string(file).unwrap();
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

/// Returns the Rust files below a folder, or those of a module: its file, and the folder of the same name.
fn sources(place: &str) -> impl Iterator<Item = PathBuf> {
    let (top, _) = place.split_once('/').unwrap_or((place, ""));
    let mut folders = vec![Path::new(ROOT).join(top)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && is_within(&path, place) {
                files.push(path);
            }
        }
    }
    files.into_iter()
}

/// Whether a file is `place`, the file of that module, or below it.
fn is_within(file: &Path, place: &str) -> bool {
    let place = Path::new(ROOT).join(place);
    file.starts_with(&place) || file == place.with_extension("rs")
}
