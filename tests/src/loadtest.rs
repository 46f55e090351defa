//! The load tester `palisade-loadtest`, as a person or a script calls it: arguments, signals; then what it
//! said, how it ended and what it wrote.

use std::{ffi::OsString, net::SocketAddr, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{binary, command::Run, wait::within};

/// No run of a test takes longer, not on a busy machine either.
const BOUND: Duration = Duration::from_secs(90);

/// A call, not made yet.
#[derive(Debug)]
pub struct LoadTest {
    arguments: Vec<OsString>,
    variables: Vec<(String, OsString)>,
    directory: TempDir,
}

/// A call that goes on.
#[derive(Debug)]
pub struct Running {
    child: Child,
    directory: TempDir,
}

/// What came of a call.
#[derive(Debug)]
pub struct Load {
    /// How it ended and what it said.
    pub run: Run,
    directory: TempDir,
}

impl LoadTest {
    /// A call with these arguments, in an empty directory of its own.
    ///
    /// # Panics
    /// When that cannot be made.
    #[must_use]
    pub fn with(arguments: &[&str]) -> Self {
        let directory = crate::scratch::directory();
        Self { arguments: Vec::new(), variables: Vec::new(), directory }.args(arguments)
    }

    /// A scenario that sends its requests to this target, and writes its result and its report.
    #[must_use]
    pub fn of(scenario: &str, target: SocketAddr) -> Self {
        let target = format!("http://{target}");
        Self::with(&[scenario, "--target", &target, "--out", "run.json", "--report", "run.html"])
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(OsString::from));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Puts a file into its directory.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.directory.path().join(name), text).expect("the file can be written");
        self
    }

    /// Starts it. It inherits no `PALISADE_` variable of the test process, and is killed on drop.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(self) -> Running {
        let mut command = Command::new(binary::loadtest());
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("PALISADE_")) {
            command.env_remove(name);
        }
        command.args(self.arguments).envs(self.variables).current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Running { child: command.spawn().expect("it starts"), directory: self.directory }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    pub async fn run(self) -> Load {
        self.start().end().await
    }
}

impl Running {
    /// Presses Ctrl-C.
    ///
    /// # Panics
    /// When it has ended.
    pub fn interrupt(&self) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(pid.expect("it runs"), Signal::INT).expect("it takes signals");
    }

    /// A file in its directory, if it is there.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.directory.path().join(name)).ok()
    }

    /// Awaits its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn end(self) -> Load {
        let output = within(BOUND, "the end of the load tester", self.child.wait_with_output()).await;
        let output = output.expect("it can be waited for");
        let run = Run {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        Load { run, directory: self.directory }
    }
}

impl Load {
    /// It ended with this status, and stdout has each of `words`.
    ///
    /// # Panics
    /// When not.
    #[track_caller]
    pub fn ended(&self, status: i32, words: &[&str]) -> &Self {
        let run = &self.run;
        assert_eq!(run.status, status, "{}{}", run.stdout, run.stderr);
        for word in words {
            assert!(run.stdout.contains(word), "stdout does not say {word:?}: {}{}", run.stdout, run.stderr);
        }
        self
    }

    /// A file in its directory, if it is there.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.directory.path().join(name)).ok()
    }

    /// The result file.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn result(&self) -> Value {
        let text = self.file("run.json").unwrap_or_else(|| panic!("no result: {:?}", self.run));
        serde_json::from_str(&text).expect("the result is JSON")
    }

    /// The report.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn report(&self) -> String {
        self.file("run.html").unwrap_or_else(|| panic!("no report: {:?}", self.run))
    }

    /// The email of the n-th user that it made.
    ///
    /// # Panics
    /// When it has not said how it names them.
    #[must_use]
    #[track_caller]
    pub fn email(&self, n: usize) -> String {
        format!("{}-{n}@loadtest.invalid", self.prefix())
    }

    /// What the names of all begin with that it made.
    ///
    /// # Panics
    /// When it has not said so.
    #[must_use]
    #[track_caller]
    pub fn prefix(&self) -> &str {
        let named = self.run.stderr.split_once("named ").and_then(|(_, rest)| rest.split_once("-*@"));
        named.unwrap_or_else(|| panic!("it does not say how users are named: {:?}", self.run)).0
    }
}
