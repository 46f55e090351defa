//! The connection: made and made again in the background, given up at the first failure.
//!
//! No caller ever waits for a connection. While there is none, commands are skipped at once. A task
//! of our own makes one, sees that it answers, and lends it out; the first command that fails on it
//! or takes too long ends it for everybody.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use redis::{AsyncConnectionConfig, Cmd, RedisError, Value, aio::MultiplexedConnection};
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    metered::{Allowance, Metered},
    open::Address,
    stats::{Stats, count},
};

/// How long one command may take, unless a cache is opened with another deadline.
pub const DEADLINE: Duration = Duration::from_millis(50);
/// How long nothing is sent after a failure.
pub const PAUSE: Duration = Duration::from_secs(1);

/// How long it may take to connect and log in.
const CONNECT: Duration = Duration::from_secs(1);
/// How many commands may be under way.
const IN_FLIGHT: usize = 64;
/// More bytes than this are never granted at a time: [`IN_FLIGHT`] of the longest answers.
const MAX_ALLOWANCE: u64 = 64 * 258 * 1024;
/// For the answers to a log-in.
const LOGIN_ALLOWANCE: u64 = 4 * 1024;
/// What surrounds the bytes of an answer, or is the message of an error.
const FRAME_BYTES: u64 = 1024;

/// There was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unanswered;

pub(crate) struct Link {
    live: Mutex<Option<Arc<Live>>>,
    pub(crate) deadline: Duration,
    pub(crate) stats: Stats,
}

/// A connection that answers.
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

    /// Sends a command whose answer has at most so many bytes.
    pub(crate) async fn ask(&self, command: &Cmd, answer_bytes: u64) -> Result<Value, Unanswered> {
        let live = self.slot().clone().ok_or(Unanswered)?;
        match timeout(self.deadline, live.ask(command, answer_bytes)).await {
            Ok(Ok(value)) => Ok(value),
            // Too slow, gone, or not Redis: what comes later on this connection is not wanted.
            Ok(Err(_)) | Err(_) => {
                count(&self.stats.errors);
                self.end(&live);
                Err(Unanswered)
            }
        }
    }

    /// Makes connections, as long as it is polled.
    pub(crate) async fn keep(self: Arc<Self>, address: Address) {
        let mut said = String::new();
        loop {
            // A task of its own, so that a panic in the library ends one connection only.
            let mut serving = JoinSet::new();
            serving.spawn(self.clone().serve(address.clone()));
            let ended = serving.join_next().await;
            self.take_back(|_| true);
            if let Some(Ok(Err(why))) = ended {
                let why = reason(&why);
                if why != said {
                    tracing::warn!(%why, "no connection to the cache");
                    said = why;
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn serve(self: Arc<Self>, address: Address) -> Result<Infallible, RedisError> {
        let (live, driver) = timeout(CONNECT, connect(&address)).await.map_err(too_slow)??;
        let live = Arc::new(live);
        let serve = async {
            match timeout(CONNECT, live.ask(&redis::cmd("PING"), 0)).await.map_err(too_slow)?? {
                Value::SimpleString(pong) if pong == "PONG" => {}
                // It wants a password, or is still loading, or is no Redis.
                other => return Err(refused(&other)),
            }
            self.lend(live.clone());
            live.broken.notified().await;
            Err(std::io::Error::other("a command failed").into())
        };
        tokio::select! {
            () = driver => Err(std::io::Error::other("the connection ended").into()),
            ended = serve => ended,
        }
    }

    /// Ends a connection for everybody; those who use it still see it end.
    fn end(&self, live: &Arc<Live>) {
        self.take_back(|lent| Arc::ptr_eq(lent, live));
        // Who still waits for a turn waits no longer.
        live.in_flight.close();
        live.broken.notify_one();
    }

    fn lend(&self, live: Arc<Live>) {
        let mut slot = self.slot();
        *slot = Some(live);
        self.stats.up.store(true, Ordering::Relaxed);
        tracing::info!("the cache answers");
    }

    fn take_back(&self, which: impl FnOnce(&Arc<Live>) -> bool) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(which) {
            *slot = None;
            self.stats.up.store(false, Ordering::Relaxed);
            tracing::warn!("the cache is gone");
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    async fn ask(&self, command: &Cmd, answer_bytes: u64) -> Result<Value, RedisError> {
        let _permit = self.in_flight.acquire().await.map_err(|_| std::io::Error::other("it was given up"))?;
        self.allowance.grant(answer_bytes.saturating_add(FRAME_BYTES));
        self.connection.clone().send_packed_command(command).await
    }
}

async fn connect(address: &Address) -> Result<(Live, impl Future<Output = ()>), RedisError> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.set_nodelay(true)?;
    let allowance = Arc::new(Allowance::new(LOGIN_ALLOWANCE, MAX_ALLOWANCE));
    let metered = Metered { stream, allowance: allowance.clone() };
    // The deadlines are ours.
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let (connection, driver) =
        MultiplexedConnection::new_with_config(&address.login, metered, config).await?;
    let in_flight = Semaphore::new(IN_FLIGHT);
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

/// Not the message of the server: some repeat the command, and so the password.
fn reason(error: &RedisError) -> String {
    if error.is_io_error() { error.to_string() } else { format!("{:?}", error.kind()) }
}
