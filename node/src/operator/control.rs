//! The control socket, by which operators on this machine send commands to a running node.
//!
//! It is a Unix socket in the data directory, mode 0600: a user that may open it may read the store anyway.
//! Each direction carries one JSON object per line, and each connection one command.

use std::{
    collections::VecDeque,
    io::{
        self,
        ErrorKind::{self, ConnectionRefused, NotADirectory, NotFound},
    },
    os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, oneshot},
};

use crate::{
    app::App,
    operator::{Command, Done},
    storage::data_dir::SOCKET,
};

/// Bytes of a command at most.
const COMMAND_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of an answer at most: `cluster status` of 10,000 members and 8,192 logs fits.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long a client may take to send its command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to receive the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Commands that run concurrently.
const RUNNING_COMMANDS_MAX: usize = 16;
/// Clients that may be connected without having sent their command.
const SILENT_CLIENTS_MAX: usize = 32;
/// Bytes of a path that is used directly; the system allows 107.
const PATH_BYTES_MAX: usize = 100;

/// A node's answer to a command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The command was done.
    Done(Done),
    /// The command failed; the sentence says what to do.
    Failed(String),
}

/// The path of the socket, or a short equivalent if it is too long for a socket address. The directory must
/// stay open while the path is in use.
fn address(directory: &std::fs::File, data_dir: &Path) -> PathBuf {
    let path = data_dir.join(SOCKET);
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return path;
    }
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

/// Listens on the socket. Call it when the store is open: then no other node uses the directory, and an
/// existing socket is a leftover.
///
/// # Errors
/// If the socket cannot be created.
pub fn listen(data_dir: &Path) -> io::Result<UnixListener> {
    let path = data_dir.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != NotFound => return Err(error),
        _ => {}
    }
    let directory = std::fs::File::open(data_dir)?;
    // The directory is 0700, so no other user can connect between the two steps.
    let listener = UnixListener::bind(address(&directory, data_dir))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Whether a process accepts connections on the socket.
#[must_use]
pub fn is_served(data_dir: &Path) -> bool {
    let connected = std::fs::File::open(data_dir)
        .and_then(|directory| std::os::unix::net::UnixStream::connect(address(&directory, data_dir)));
    connected.is_ok()
}

/// Serves operators until the runtime ends.
///
/// A client that sends no command blocks no other: it may be silent for `COMMAND_TIMEOUT`, and beyond
/// `SILENT_CLIENTS_MAX` silent clients the oldest one is disconnected.
pub async fn serve(app: Arc<App>, listener: UnixListener) {
    let running = Arc::new(Semaphore::new(RUNNING_COMMANDS_MAX));
    let mut silent = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                silent.retain(|client: &oneshot::Sender<()>| !client.is_closed());
                if silent.len() >= SILENT_CLIENTS_MAX {
                    // Dropping the sender closes the client's connection.
                    silent.pop_front();
                }
                let (is_silent, closed) = oneshot::channel();
                silent.push_back(is_silent);
                let app = app.clone();
                let running = running.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(&app, &running, stream, closed).await {
                        tracing::debug!(%error, "control connection closed before the answer was sent");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "control socket could not accept a connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Reads one command, runs it, and sends the answer. Until the command has been read, `closed` ends it.
async fn answer(
    app: &App,
    running: &Semaphore,
    stream: UnixStream,
    closed: oneshot::Receiver<()>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(COMMAND_BYTES_MAX));
    tokio::select! {
        read = within(COMMAND_TIMEOUT, reader.read_until(b'\n', &mut line)) => { read?; }
        _ = closed => return Err(ErrorKind::TimedOut.into()),
    }
    let answer = match serde_json::from_slice::<Command>(&line) {
        Ok(command) => {
            let Ok(_running) = running.acquire().await else { return Ok(()) };
            match app.operate(command).await {
                Ok(done) => Answer::Done(done),
                Err(error) => Answer::Failed(error.to_string()),
            }
        }
        Err(_) => {
            Answer::Failed("this node does not know the command; use the palisade of its version".into())
        }
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    within(COMMAND_TIMEOUT, writer.write_all(&bytes)).await
}

async fn within<T>(timeout: Duration, io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(timeout, io).await.map_err(|_| ErrorKind::TimedOut)?
}

/// Sends a command to the node that runs on this data directory; `None` if none runs.
///
/// # Errors
/// If a node runs and does not answer.
pub async fn ask(data_dir: &Path, command: &Command) -> io::Result<Option<Answer>> {
    let Ok(directory) = std::fs::File::open(data_dir) else { return Ok(None) };
    let stream = match UnixStream::connect(address(&directory, data_dir)).await {
        Ok(stream) => stream,
        // Errors of the directory itself are reported when it is opened next.
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused | NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let (reader, mut writer) = stream.into_split();
    let mut bytes = serde_json::to_vec(command)?;
    bytes.push(b'\n');
    within(ANSWER_TIMEOUT, writer.write_all(&bytes)).await?;
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(ANSWER_BYTES_MAX));
    within(ANSWER_TIMEOUT, reader.read_until(b'\n', &mut line)).await?;
    Ok(Some(serde_json::from_slice(&line)?))
}

/// Waits up to `wait` until no node listens on this data directory. Returns whether none does.
pub async fn has_ended(data_dir: &Path, wait: Duration) -> bool {
    let ended = async {
        while let Ok(directory) = std::fs::File::open(data_dir)
            && UnixStream::connect(address(&directory, data_dir)).await.is_ok()
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(wait, ended).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_answer_arrives_complete() {
        let directory = tempfile::tempdir().unwrap();
        let listener = listen(directory.path()).unwrap();
        // The longest possible 10,000 members and 8,192 logs, and the same as a table.
        let result = serde_json::json!(vec!["m".repeat(600); 18_192]);
        let msg = "t".repeat(4 * 1024 * 1024 - 64);
        let answer = serde_json::to_vec(&Answer::Done(Done { msg, result })).unwrap();
        assert!(answer.len() > 14 * 1024 * 1024, "{}", answer.len());
        let sent = answer.len();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut command = Vec::new();
            BufReader::new(&mut stream).read_until(b'\n', &mut command).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            stream.write_all(b"\n").await.unwrap();
        });
        let answer = ask(directory.path(), &Command::ClusterStatus).await.unwrap().unwrap();
        assert_eq!(serde_json::to_vec(&answer).unwrap().len(), sent);
    }
}
