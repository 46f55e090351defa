//! The connection to Redis: opened in the background, closed at the first failure, opened again.
//!
//! No caller ever waits for a connection. While there is none, commands are skipped at once. A background task
//! opens one, checks that it answers, and publishes it. The first command that fails on it or exceeds the
//! deadline closes it for all callers.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use redis::{AsyncConnectionConfig, Cmd, RedisError, Value, aio::MultiplexedConnection};
use store::cas::Contended;
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::Instrument as _;

use crate::{
    metered::{Allowance, Metered},
    open::Address,
    stats::{Stats, count},
};

/// Limit of the duration of a command, unless the cache is opened with another deadline.
pub const DEADLINE: Duration = Duration::from_millis(50);
/// How long no command is sent after a failure.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Limit of the time to connect and log in, and of that to answer the first command.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Limit of commands under way.
const IN_FLIGHT_MAX: usize = 64;
/// Limit of the bytes granted at a time: [`IN_FLIGHT_MAX`] times the longest answer.
const MAX_ALLOWANCE: u64 = 64 * 258 * 1024;
/// The bytes granted for the answers to a log-in.
const LOGIN_ALLOWANCE: u64 = 4 * 1024;
/// The bytes granted for the frame of an answer, or for the message of an error.
const FRAME_BYTES: u64 = 1024;

/// Redis gave no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoAnswer;

impl From<Contended> for NoAnswer {
    fn from(_: Contended) -> Self {
        Self
    }
}

/// The connection to Redis, if there is one.
pub(crate) struct Link {
    live: Mutex<Option<Arc<Live>>>,
    pub(crate) deadline: Duration,
    pub(crate) stats: Stats,
}

/// A connection that has answered.
struct Live {
    connection: MultiplexedConnection,
    allowance: Arc<Allowance>,
    in_flight: Semaphore,
    broken: Notify,
}

impl Link {
    pub(crate) fn new(deadline: Duration) -> Self {
        Self { live: Mutex::new(None), deadline, stats: Stats::default() }
    }

    /// Sends a command whose answer has at most `answer_bytes` bytes.
    pub(crate) async fn ask(&self, command: &Cmd, answer_bytes: u64) -> Result<Value, NoAnswer> {
        let live = self.slot().clone().ok_or(NoAnswer)?;
        let name = match command.args_iter().next() {
            Some(redis::Arg::Simple(name)) => std::str::from_utf8(name).unwrap_or_default(),
            _ => "",
        };
        let span =
            tracing::info_span!("command", otel.name = name, otel.kind = "client", db.system.name = "redis");
        match timeout(self.deadline, live.ask(command, answer_bytes)).instrument(span).await {
            Ok(Ok(value)) => Ok(value),
            // Too slow, closed, or not Redis: later answers on this connection must not be read.
            Ok(Err(_)) | Err(_) => {
                count(&self.stats.errors);
                self.end(&live);
                Err(NoAnswer)
            }
        }
    }

    /// Opens a connection again and again, while the future is polled.
    pub(crate) async fn keep(self: Arc<Self>, address: Address) {
        let mut last_reason = String::new();
        loop {
            // A task of its own, so that a panic in the library ends one connection only.
            let mut serving = JoinSet::new();
            serving.spawn(self.clone().serve(address.clone()));
            let ended = serving.join_next().await;
            self.withdraw(|_| true);
            if let Some(Ok(Err(why))) = ended {
                let why = reason(&why);
                if why != last_reason {
                    tracing::warn!(%why, "no connection to the cache");
                    last_reason = why;
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn serve(self: Arc<Self>, address: Address) -> Result<Infallible, RedisError> {
        let (live, driver) = timeout(CONNECT_TIMEOUT, connect(&address)).await.map_err(too_slow)??;
        let live = Arc::new(live);
        let serve = async {
            match timeout(CONNECT_TIMEOUT, live.ask(&redis::cmd("PING"), 0)).await.map_err(too_slow)?? {
                Value::SimpleString(pong) if pong == "PONG" => {}
                // The server requires a password, is still loading, or is no Redis.
                other => return Err(refused(&other)),
            }
            self.publish(live.clone());
            live.broken.notified().await;
            Err(std::io::Error::other("a command failed").into())
        };
        tokio::select! {
            () = driver => Err(std::io::Error::other("the connection ended").into()),
            ended = serve => ended,
        }
    }

    /// Closes a connection for all callers; commands under way on it fail.
    fn end(&self, live: &Arc<Live>) {
        self.withdraw(|published| Arc::ptr_eq(published, live));
        // Callers that wait for a permit fail at once.
        live.in_flight.close();
        live.broken.notify_one();
    }

    fn publish(&self, live: Arc<Live>) {
        let mut slot = self.slot();
        *slot = Some(live);
        self.stats.up.store(true, Ordering::Relaxed);
        tracing::info!("connected to the cache");
    }

    fn withdraw(&self, which: impl FnOnce(&Arc<Live>) -> bool) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(which) {
            *slot = None;
            self.stats.up.store(false, Ordering::Relaxed);
            tracing::warn!("connection to the cache closed");
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    async fn ask(&self, command: &Cmd, answer_bytes: u64) -> Result<Value, RedisError> {
        let _permit =
            self.in_flight.acquire().await.map_err(|_| std::io::Error::other("the connection was closed"))?;
        self.allowance.grant(answer_bytes.saturating_add(FRAME_BYTES));
        self.connection.clone().send_packed_command(command).await
    }
}

async fn connect(address: &Address) -> Result<(Live, impl Future<Output = ()>), RedisError> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.set_nodelay(true)?;
    let allowance = Arc::new(Allowance::new(LOGIN_ALLOWANCE, MAX_ALLOWANCE));
    let metered = Metered { stream, allowance: allowance.clone() };
    // Deadlines are applied by `Link::ask`.
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let (connection, driver) =
        MultiplexedConnection::new_with_config(&address.login, metered, config).await?;
    let in_flight = Semaphore::new(IN_FLIGHT_MAX);
    Ok((Live { connection, allowance, in_flight, broken: Notify::new() }, driver))
}

fn too_slow(_: tokio::time::error::Elapsed) -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

fn refused(answer: &Value) -> RedisError {
    let why = match answer {
        Value::ServerError(error) => error.code(),
        _ => "this is no Redis",
    };
    std::io::Error::other(why.to_owned()).into()
}

/// The reason of a failure, without the message of the server: some servers quote the command, and so the
/// password.
fn reason(error: &RedisError) -> String {
    if error.is_io_error() { error.to_string() } else { format!("{:?}", error.kind()) }
}
