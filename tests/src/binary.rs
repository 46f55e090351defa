//! The binaries under test: built once a run, in the profile that the tests themselves have.
//!
//! `PALISADE_TEST_BINARY` names another node's (a release build, one in a container image).

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Names another binary of the node.
pub const BINARY_VARIABLE: &str = "PALISADE_TEST_BINARY";

/// The path of the node's binary.
///
/// # Panics
/// When it cannot be built.
pub fn palisade() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY
        .get_or_init(|| env::var_os(BINARY_VARIABLE).map_or_else(|| build("node", "palisade"), PathBuf::from))
}

/// The path of the load tester's binary.
///
/// # Panics
/// When it cannot be built.
pub fn loadtest() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build("loadtest", "palisade-loadtest"))
}

/// The path of the binary of the consumer `films`.
///
/// # Panics
/// When it cannot be built.
pub fn films() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build("films", "films"))
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above this crate")
}

/// The target folder of this build.
///
/// # Panics
/// When the running program is no test of a build.
#[must_use]
pub fn target() -> PathBuf {
    // <target>/<profile>/deps/suite-<hash>
    let this = env::current_exe().expect("a test knows its own path");
    this.ancestors().nth(3).expect("tests run in <target>/<profile>/deps").to_owned()
}

fn build(package: &str, binary: &str) -> PathBuf {
    // <target>/<profile>/deps/suite-<hash>
    let this = env::current_exe().expect("a test knows its own path");
    let profile_dir = this.parent().and_then(Path::parent).expect("tests run in <target>/<profile>/deps");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo says to this program about its package: build scripts that look at it would run again.
    for name in env::vars_os().map(|(name, _)| name) {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| name.to_string_lossy().starts_with(own)) {
            cargo.env_remove(name);
        }
    }
    let status = cargo
        .args(["build", "--quiet", "-p", package, "--bin", binary, "--profile", profile, "--target-dir"])
        .arg(profile_dir.parent().expect("a profile is in a target directory"))
        .current_dir(workspace())
        .status()
        .expect("cargo runs");
    assert!(status.success(), "{binary} does not build");
    profile_dir.join(binary)
}
