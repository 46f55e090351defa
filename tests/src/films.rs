//! The consumer `films`: a real process that asks the Palisade of a test.

use std::{
    net::SocketAddr,
    process::{Command, ExitStatus},
    sync::{Arc, atomic::AtomicU16},
    time::Duration,
};

use serde_json::Value;

use crate::{Answer, Client, Program, binary, eventually};

/// Longest time from start to the first answer, and from SIGTERM to the end.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(20);

/// The running service. It is killed when it is dropped.
#[derive(Debug)]
pub struct Films {
    program: Program,
    client: Client,
}

impl Films {
    /// Starts it in front of the Palisade at this address.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn before(palisade: SocketAddr) -> Self {
        Self::with(palisade, &[]).await
    }

    /// Starts it with these variables.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn with(palisade: SocketAddr, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binary::films());
        command
            .env("LISTEN", "127.0.0.1:0")
            .env("PALISADE_URL", format!("http://{palisade}"))
            .envs(variables.iter().copied());
        let program = Program::start(&mut command, "cargo build -p films");
        let port = eventually(PROCESS_TIMEOUT, "the port of films", async || {
            assert!(program.has_ended().is_none(), "films did not start: {}", program.output());
            port(&program.output())
        })
        .await;
        Self { program, client: Client::new(Arc::new(AtomicU16::new(port))) }
    }

    /// A client of its own, with connections of its own.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The films that a caller with this token gets, whole.
    pub async fn shown_to(&self, token: Option<&str>) -> Answer {
        let request = self.client.get("films");
        match token {
            Some(token) => request.bearer(token).send().await,
            None => request.send().await,
        }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.program.terminate();
    }

    /// Awaits its end.
    pub async fn ended(&self) -> ExitStatus {
        self.program.ended(PROCESS_TIMEOUT).await
    }

    /// All that it logged.
    #[must_use]
    pub fn logs(&self) -> String {
        self.program.output()
    }
}

/// The port that the log names.
fn port(log: &str) -> Option<u16> {
    let line = log.lines().find(|line| line.contains("films serves"))?;
    let line: Value = serde_json::from_str(line).ok()?;
    line["fields"]["listen"].as_str()?.parse::<SocketAddr>().ok().map(|listen| listen.port())
}
