//! A program of others that a test runs: a gateway, Prometheus, the consumer `films`.
//!
//! It ends when its [`Program`] is dropped, and also when the test process is killed.

use std::{
    ffi::OsStr,
    io::{self, Read},
    net::Ipv4Addr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::eventually;

/// Most of a program's output that is kept, in bytes.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// A running program.
#[derive(Debug)]
pub struct Program {
    child: Mutex<Child>,
    /// Reads from this process until that is gone, and then kills the program.
    guard: Child,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Program {
    /// Starts it. `hint` says how to install it.
    ///
    /// # Panics
    /// When it is missing or cannot be started.
    #[must_use]
    pub fn start(command: &mut Command, hint: &str) -> Self {
        let program = command.get_program().to_owned();
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|why| panic!("{}", refusal(&program, &why, hint)));
        let output = Arc::default();
        collect(child.stdout.take().expect("it is piped"), &output);
        collect(child.stderr.take().expect("it is piped"), &output);
        // Its standard input ends when this process does, however that happens.
        let guard = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -KILL $0", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        Self { child: Mutex::new(child), guard, output }
    }

    /// All that it wrote.
    #[must_use]
    pub fn output(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output).into_owned()
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// When it cannot be waited for.
    #[must_use]
    pub fn has_ended(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().expect("it can be waited for")
    }

    /// Sends SIGTERM.
    ///
    /// # Panics
    /// When it has ended.
    pub fn terminate(&self) {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    }

    /// Awaits its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&self, bound: Duration) -> ExitStatus {
        eventually(bound, "the end of the program", async || self.has_ended()).await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The guard first: by the time it kills, the process id may belong to another process.
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        for child in [&mut self.guard, child] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that is free at the moment.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    listener.local_addr().expect("it is bound").port()
}

fn refusal(program: &OsStr, why: &io::Error, hint: &str) -> String {
    match why.kind() {
        io::ErrorKind::NotFound => {
            format!("these tests need {}; install it: {hint}", program.to_string_lossy())
        }
        _ => format!("{} does not start: {why}", program.to_string_lossy()),
    }
}

fn collect(mut from: impl Read + Send + 'static, into: &Arc<Mutex<Vec<u8>>>) {
    let into = into.clone();
    thread::spawn(move || {
        let mut buffer = [0; 8 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
            if into.len() < OUTPUT_BYTES_MAX {
                into.extend_from_slice(&buffer[..count]);
            }
        }
    });
}
