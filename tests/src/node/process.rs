//! The process of a node, its port, and the file that moves its clocks.

use std::{
    collections::BTreeSet,
    io::{Read, Write as _},
    process::{ExitStatus, Stdio},
    sync::{Mutex, atomic::Ordering},
};

use super::{ClockFile, Process, Shift, lock};
use crate::Palisade;

impl ClockFile {
    /// Whole or not at all.
    pub(super) fn write(&self, Shift { wall, boot }: Shift) {
        let new = self.path.with_extension("new");
        std::fs::write(&new, format!("{wall} {boot}")).expect("the clock file");
        std::fs::rename(&new, &self.path).expect("the clock file");
    }

    pub(super) fn is_read(&self, Shift { wall, boot }: Shift) -> bool {
        let read = std::fs::read_to_string(self.path.with_extension("read"));
        read.is_ok_and(|read| read == format!("{wall} {boot}"))
    }
}

impl Process {
    pub(super) fn spawn(&self) {
        let listen = format!("127.0.0.1:{}", self.port.load(Ordering::SeqCst));
        let call = Palisade::with(["serve", "--log-format", "json", "--listen", &listen, "--data-dir"])
            .args([&self.data_dir]);
        let call = self.settings.iter().fold(call, |call, (name, value)| call.setting(name, value));
        let call = match &self.clock {
            Some(clock) => call.env("TEST_CLOCK_FILE", &clock.path),
            None => call,
        };
        let mut command = call.into_command();
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        self.collect(child.stdout.take().expect("piped"));
        self.collect(child.stderr.take().expect("piped"));
        *lock(&self.child) = Some(child);
    }

    fn collect(&self, mut pipe: impl Read + Send + 'static) {
        let output = self.output.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 8 * 1024];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                lock(&output).extend_from_slice(&buffer[..count]);
            }
        });
    }

    pub(super) fn exit_status(&self) -> Option<ExitStatus> {
        lock(&self.child).as_mut()?.try_wait().expect("a child can be asked")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = lock(&self.child).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            // Shown by the test harness with the failure.
            let output = lock(&self.output);
            let tail = output.len().saturating_sub(4_000);
            let tail = String::from_utf8_lossy(&output[tail..]);
            let _ = writeln!(std::io::stderr(), "--- the end of the node's logs\n{tail}");
        }
    }
}

/// A free port that no other node of this run was given.
pub(super) fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        if lock(&GIVEN).insert(port) {
            return port;
        }
    }
}
