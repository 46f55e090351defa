//! The floors of this crate, from top to bottom: a module imports from the floors below its own only.

use std::{collections::BTreeSet, fs, path::Path};

const FLOORS: [&str; 15] = [
    "cli",
    "boot",
    "http",
    "operator",
    "app",
    "accounts",
    "credentials",
    "revocation",
    "storage",
    "scheduling",
    "metrics",
    "logging",
    "traces",
    "settings",
    "clock",
];

#[test]
fn imports_go_downward_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut upward = Vec::new();
    let mut seen = BTreeSet::new();
    for file in source_files(&root) {
        let relative = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let own = relative.split(['/', '.']).next().unwrap();
        let Some(floor) = FLOORS.iter().position(|floor| *floor == own) else {
            assert!(["lib", "main", "floors"].contains(&own), "{relative} is on no floor");
            continue;
        };
        seen.insert(own.to_owned());
        for imported in imports(&fs::read_to_string(&file).unwrap()) {
            match FLOORS.iter().position(|floor| *floor == imported) {
                Some(other) if other >= floor => {}
                Some(_) => upward.push(format!("{relative} imports from {imported}")),
                None => panic!("{relative} imports {imported}, which is on no floor"),
            }
        }
    }
    assert_eq!(seen.len(), FLOORS.len(), "every floor has a module");
    assert!(upward.is_empty(), "imports that run upward: {upward:#?}");
}

#[test]
fn imports_of_every_form_are_found() {
    let source = "use crate::app::App;\nuse crate::{\n    boot::serve,\n    http::{self, v1::{a, b}},\n    clock,\n};\n\
                  /// As [`crate::cli::main`].\nlet x = crate::storage::f(crate::metrics::G);";
    let found: Vec<_> = imports(source).into_iter().collect();
    assert_eq!(found, ["app", "boot", "clock", "http", "metrics", "storage"]);
}

fn source_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The modules of this crate's root that a source file names after `crate::`, comments aside.
fn imports(source: &str) -> BTreeSet<String> {
    let code: Vec<_> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before == '$' || before == '_' || before.is_alphanumeric()) {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(head(rest)),
        }
    }
    found
}

/// The first segments of the paths in `use crate::{…}`, given what follows the brace.
fn group_heads(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut heads = Vec::new();
    let mut is_start = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            _ if is_start && depth == 0 && !c.is_whitespace() => {
                heads.extend(head(&group[at..]));
                is_start = false;
            }
            _ => {}
        }
    }
    heads
}

fn head(path: &str) -> Option<String> {
    let end = path.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(path.len());
    (end > 0).then(|| path[..end].to_owned())
}
