//! The command line of `palisade`, as an operator or a script uses it: arguments, variables and a
//! standard input that is no terminal; then what it said and how it ended.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tokio::process::Command;

use crate::{binary, wait::within};

/// Longest run time of a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// A call of the binary, not made yet.
#[derive(Debug)]
pub struct Palisade {
    arguments: Vec<OsString>,
    variables: Vec<(String, OsString)>,
    directory: Option<std::path::PathBuf>,
}

/// What came of a call.
#[derive(Debug, Clone)]
pub struct Run {
    /// The exit status; -1 when a signal ended it.
    pub status: i32,
    /// What it wrote for the caller.
    pub stdout: String,
    /// What it wrote for a person.
    pub stderr: String,
}

impl Palisade {
    /// A call with these arguments.
    pub fn with<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let arguments = arguments.into_iter().map(|a| a.as_ref().to_owned()).collect();
        Self { arguments, variables: Vec::new(), directory: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable, by its whole name.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the variable `PALISADE_<setting>`.
    #[must_use]
    pub fn setting(self, setting: &str, value: impl AsRef<OsStr>) -> Self {
        self.env(&format!("PALISADE_{setting}"), value)
    }

    /// Runs it in this directory.
    #[must_use]
    pub fn in_directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// The command, for callers that start it in another way. It inherits no `PALISADE_` variable of the test
    /// process.
    #[must_use]
    pub fn into_command(self) -> std::process::Command {
        let mut command = std::process::Command::new(binary::palisade());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PALISADE_") {
                command.env_remove(name);
            }
        }
        command.args(self.arguments).envs(self.variables).stdin(Stdio::null());
        if let Some(directory) = self.directory {
            command.current_dir(directory);
        }
        command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    pub async fn run(self) -> Run {
        let what = format!("the end of {:?}", self.arguments);
        let mut command = Command::from(self.into_command());
        let output =
            within(COMMAND_TIMEOUT, &what, command.kill_on_drop(true).output()).await.expect("it starts");
        Run {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Run {
    /// It did what was asked.
    ///
    /// # Panics
    /// When the status is not 0.
    #[track_caller]
    pub fn is_done(&self) -> &Self {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }

    /// It failed, and says on one line of stderr what to do: something with each of `words`.
    ///
    /// # Panics
    /// When the status is not 1, or stderr is something else.
    #[track_caller]
    pub fn failed_saying(&self, words: &[&str]) -> &Self {
        assert_eq!(self.status, 1, "{self:?}");
        self.says(words)
    }

    /// It was called wrongly.
    ///
    /// # Panics
    /// When the status is not 2, or stderr has not each of `words`.
    #[track_caller]
    pub fn was_wrong_usage(&self, words: &[&str]) -> &Self {
        assert_eq!(self.status, 2, "{self:?}");
        self.says(words)
    }

    /// Its stderr is a single line.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn in_one_line(&self) -> &Self {
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "{self:?}");
        self
    }

    /// What it wrote for a program.
    ///
    /// # Panics
    /// When stdout is not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn says(&self, words: &[&str]) -> &Self {
        let said = self.stderr.to_lowercase();
        for word in words {
            assert!(said.contains(&word.to_lowercase()), "stderr does not say {word:?}: {self:?}");
        }
        self
    }
}
