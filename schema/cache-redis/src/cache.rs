//! The handle of a cache, and its commands to Redis.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, Value};
use schema::{Clock, Timestamp, time::millis};
use tokio::{runtime::Handle, task::JoinSet};

use crate::{
    link::{DEADLINE, Link, NoAnswer},
    open::{Address, MAX_NAMESPACE_BYTES, MIN_SECRET_BYTES, OpenError},
    seal::{Key, Kind, Seal, TAG_BYTES},
    stats::{Stats, count},
};

/// Compare-and-set. An empty value counts as none, because no node writes one.
const SWAP: &str = "local found = redis.call('GET', KEYS[1]) \
    if (found or '') ~= ARGV[1] then return 0 end \
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) \
    return 1";

/// Adds a member to the set of limited keys, with its end in milliseconds as the score. Removes ended members
/// and, beyond a bound, those that end first.
const ANNOUNCE: &str = "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1]) \
    redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3]) \
    redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[4])) \
    redis.call('PEXPIRE', KEYS[1], ARGV[5]) \
    return 1";
/// Limit of stored labels.
const MAX_LABELS: usize = 1_000;
/// Limit of the length of an encrypted label, in bytes.
const MAX_LABEL_BYTES: usize = 512;
/// Least TTL of the set after its last label: longer than any lock.
const LABELS_TTL_MIN: Duration = Duration::from_secs(2 * 3600);

/// A Redis that nodes share. Clones share one connection, which closes with the last of them.
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    link: Arc<Link>,
    seal: Seal,
    clock: Arc<dyn Clock>,
    /// The task that keeps the connection; it ends with the cache.
    _keeper: JoinSet<()>,
}

/// The content of a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// A verified value with its MAC; [`Found::body`] is the part after it.
    Genuine(Vec<u8>),
    /// A value that no node wrote under this key.
    Forged(Vec<u8>),
    /// A value that is too long or of another type, so that it can only be overwritten.
    Unreadable,
}

impl Found {
    pub(crate) fn body(&self) -> Option<&[u8]> {
        match self {
            Self::Genuine(value) => value.get(TAG_BYTES..),
            _ => None,
        }
    }
}

impl Cache {
    /// Checks the URL and connects in the background: a Redis that is down does not keep a node from starting.
    ///
    /// `namespace` (the name of the cluster) separates clusters that share a Redis. The nodes of a cluster have
    /// the same `secret`, of at least 32 random bytes; Redis must not know it.
    ///
    /// # Errors
    /// If an argument can never work. The message does not quote the URL.
    pub fn open(url: &str, namespace: &str, secret: &[u8], clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_with_deadline(url, namespace, secret, clock, DEADLINE)
    }

    /// As [`Self::open`], with another deadline per command than [`DEADLINE`], for a distant Redis or tests on a
    /// busy machine.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with_deadline(
        url: &str,
        namespace: &str,
        secret: &[u8],
        clock: Arc<dyn Clock>,
        deadline: Duration,
    ) -> Result<Self, OpenError> {
        let address = Address::parse(url)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if namespace.is_empty() || namespace.len() > MAX_NAMESPACE_BYTES || !namespace.bytes().all(plain) {
            return Err(OpenError::Namespace);
        }
        if secret.len() < MIN_SECRET_BYTES {
            return Err(OpenError::Secret);
        }
        let runtime = Handle::try_current().map_err(|_| OpenError::NoRuntime)?;
        let link = Arc::new(Link::new(deadline));
        let mut keeper = JoinSet::new();
        keeper.spawn_on(link.clone().keep(address), &runtime);
        Ok(Self(Arc::new(Inner { link, seal: Seal::new(namespace, secret), clock, _keeper: keeper })))
    }

    /// The counters since the cache was opened.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.0.link.stats
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.0.link.deadline
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub(crate) fn key(&self, kind: Kind, what: &[u8]) -> Key {
        self.0.seal.key(kind, what)
    }

    /// Reads a value of at most `max_bytes` bytes.
    pub(crate) async fn read(&self, key: &Key, max_bytes: usize) -> Result<Found, NoAnswer> {
        // One extra byte tells that the value is longer. An honest Redis sends no more; `metered` bounds the
        // answer of another one.
        let mut command = redis::cmd("GETRANGE");
        command.arg(key.as_str()).arg(0).arg(max_bytes);
        let found = match self.0.link.ask(&command, max_bytes as u64 + 1).await? {
            Value::Nil => Found::Nothing,
            Value::BulkString(value) if value.is_empty() => Found::Nothing,
            Value::BulkString(value) if value.len() > max_bytes => Found::Unreadable,
            Value::BulkString(value) => match self.0.seal.open(key, &value) {
                Some(_) => Found::Genuine(value),
                None => Found::Forged(value),
            },
            Value::ServerError(error) if error.code() == "WRONGTYPE" => Found::Unreadable,
            other => return Err(self.unexpected(&other)),
        };
        if matches!(found, Found::Forged(_) | Found::Unreadable) {
            count(&self.stats().refused);
        }
        Ok(found)
    }

    /// Writes a value unconditionally.
    pub(crate) async fn write(&self, key: &Key, body: &[u8], life: Duration) -> Result<(), NoAnswer> {
        let mut command = redis::cmd("SET");
        command.arg(key.as_str()).arg(self.0.seal.seal(key, body)).arg("PX").arg(ttl_ms(life));
        match self.ask(&command).await? {
            Value::Okay => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Writes a value if the key still holds `found`. Returns whether it did.
    pub(crate) async fn swap(
        &self,
        key: &Key,
        found: &Found,
        body: &[u8],
        life: Duration,
    ) -> Result<bool, NoAnswer> {
        let expected = match found {
            Found::Nothing => &[][..],
            Found::Genuine(value) | Found::Forged(value) => value,
            Found::Unreadable => return self.write(key, body, life).await.map(|()| true),
        };
        let mut command = redis::cmd("EVAL");
        command.arg(SWAP).arg(1).arg(key.as_str());
        command.arg(expected).arg(self.0.seal.seal(key, body)).arg(ttl_ms(life));
        match self.ask(&command).await? {
            Value::Int(done) => Ok(done == 1),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Adds a label to the list that all nodes read, for `lasting`.
    pub(crate) async fn announce(&self, label: &[u8], lasting: Duration) -> Result<(), NoAnswer> {
        let hidden = self.0.seal.hide(label).filter(|hidden| hidden.len() <= MAX_LABEL_BYTES);
        let hidden = hidden.ok_or(NoAnswer)?;
        let now = self.now();
        let mut command = redis::cmd("EVAL");
        command.arg(ANNOUNCE).arg(1).arg(self.key(Kind::Limited, b"").as_str());
        command.arg(now.as_millis()).arg(now.plus(lasting).as_millis()).arg(hidden);
        command.arg(MAX_LABELS).arg(ttl_ms(LABELS_TTL_MIN.max(lasting)));
        match self.ask(&command).await? {
            Value::Int(_) => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The unexpired labels.
    pub(crate) async fn announced(&self) -> Result<Vec<String>, NoAnswer> {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(self.key(Kind::Limited, b"").as_str()).arg(format!("({}", self.now().as_millis()));
        command.arg("+inf").arg("LIMIT").arg(0).arg(MAX_LABELS);
        // Each label has the frame of a bulk string.
        let bytes = MAX_LABELS * (MAX_LABEL_BYTES + 16);
        match self.0.link.ask(&command, bytes as u64).await? {
            Value::Array(found) => {
                let label = |value: &Value| match value {
                    Value::BulkString(hidden) => String::from_utf8(self.0.seal.reveal(hidden)?).ok(),
                    _ => None,
                };
                Ok(found.iter().filter_map(label).collect())
            }
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends a command whose answer is a word or a number.
    async fn ask(&self, command: &Cmd) -> Result<Value, NoAnswer> {
        self.0.link.ask(command, 0).await
    }

    /// Counts an unexpected answer. An error of Redis (out of memory, read-only, no permission) is a fast answer,
    /// so the connection stays.
    fn unexpected(&self, answer: &Value) -> NoAnswer {
        count(&self.stats().errors);
        if let Value::ServerError(error) = answer {
            tracing::debug!(code = error.code(), "the cache returned an error");
        }
        NoAnswer
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("stats", self.stats()).finish_non_exhaustive()
    }
}

/// A TTL in milliseconds, within the limits of Redis: it rejects zero, and values that overflow its clock.
fn ttl_ms(life: Duration) -> u64 {
    const TTL_MAX: Duration = Duration::from_secs(366 * 86_400);
    millis(life.min(TTL_MAX)).max(1)
}
