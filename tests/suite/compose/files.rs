//! Finds and reads the files, and checks what all of them have in common.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The folder `compose` of the checkout.
pub(super) fn folder() -> PathBuf {
    root().join("compose")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The text of a file in `compose`.
pub(super) fn text(name: &str) -> String {
    let path = folder().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A YAML file in `compose`, with its anchors and merge keys resolved.
pub(super) fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The compose files, by name.
pub(super) fn compose_files() -> Vec<String> {
    let names = tracked().into_iter().filter_map(|path| path.strip_prefix("compose/").map(str::to_owned));
    let is_compose = |name: &String| name.starts_with("compose.") && name.ends_with(".yml");
    names.filter(is_compose).collect()
}

/// The files below `compose` that are in the repository, or are new and not ignored.
pub(super) fn tracked() -> Vec<String> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard", "compose"];
    let listed = Command::new("git").args(arguments).current_dir(root()).output().expect("git");
    let paths = String::from_utf8(listed.stdout).expect("names are UTF-8");
    let exists = |path: &String| root().join(path).is_file();
    paths.lines().map(str::to_owned).filter(exists).collect()
}

/// `${NAME:-default}` as it is without `.env`.
pub(super) fn with_defaults(value: &str) -> String {
    let Some((before, rest)) = value.split_once("${") else { return value.to_owned() };
    let (variable, after) = rest.split_once('}').expect("a variable ends");
    let default = variable.split_once(":-").map_or("", |(_, default)| default);
    format!("{before}{default}{}", with_defaults(after))
}

#[test]
fn every_yaml_file_parses() {
    let is_yaml = |path: &String| path.ends_with(".yml") || path.ends_with(".yaml");
    let files: Vec<_> = tracked().into_iter().filter(is_yaml).collect();
    for name in ["compose.yml", "compose.dev.yml", "compose.cassandra.yml"] {
        assert!(files.contains(&format!("compose/{name}")), "{name} is missing: {files:?}");
    }
    for file in files {
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        let parsed: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(!parsed.is_empty(), "{file} is empty");
    }
}

#[test]
fn no_secret_is_in_the_repository() {
    for path in tracked() {
        assert!(!path.starts_with("compose/secrets"), "{path} is in the repository");
        assert!(!path.ends_with("/.env"), "{path} is in the repository");
        let text = String::from_utf8_lossy(&std::fs::read(root().join(&path)).unwrap()).into_owned();
        assert!(!text.contains("PRIVATE KEY-----"), "{path} has a private key");
        // 32 bytes of base64 have 43 characters and a sign at the end.
        let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
        for word in text.split(|c: char| !is_base64(c)) {
            assert!(!(word.len() == 44 && word.ends_with('=')), "{path} has what looks like a key: {word}");
        }
    }
    let ignored = Command::new("git")
        .args(["check-ignore", "compose/secrets/master_key", "compose/.env"])
        .current_dir(root())
        .output()
        .expect("git");
    assert_eq!(String::from_utf8_lossy(&ignored.stdout).lines().count(), 2, "git ignores secrets and .env");
    let left_out = std::fs::read_to_string(root().join(".dockerignore")).unwrap();
    for pattern in ["compose/*", "**/.env", ".git"] {
        assert!(left_out.lines().any(|line| line == pattern), "{pattern} is not in .dockerignore");
    }
}

#[test]
fn nginx_includes_only_files_that_exist() {
    let config =
        tracked().into_iter().filter(|path| path.starts_with("compose/nginx/") && path.ends_with(".conf"));
    let mut included = 0;
    for path in config {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        for line in text.lines().map(str::trim) {
            let Some(target) = line.strip_prefix("include /etc/nginx/palisade/") else { continue };
            let target = target.trim_end_matches(';');
            assert!(target.contains('*') || folder().join("nginx").join(target).exists(), "{path}: {target}");
            included += 1;
        }
    }
    assert!(included > 5, "nginx's files include each other");
}
