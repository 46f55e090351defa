//! The handle of a cache, and the few things that are asked of Redis.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, Value};
use schema::{Clock, Timestamp, time::millis};
use tokio::{runtime::Handle, task::JoinSet};

use crate::{
    link::{DEADLINE, Link, Unanswered},
    open::{Address, MAX_NAMESPACE_BYTES, MIN_SECRET_BYTES, OpenError},
    seal::{Key, Kind, Seal, TAG_BYTES},
    stats::{Stats, count},
};

/// Compare and set. An empty value counts as none: no node writes one.
const SWAP: &str = "local found = redis.call('GET', KEYS[1]) \
    if (found or '') ~= ARGV[1] then return 0 end \
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) \
    return 1";

/// Adds a member to the set of what is limited, with its end in ms as the score; drops what has ended
/// and, beyond a bound, what ends first.
const ANNOUNCE: &str = "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1]) \
    redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3]) \
    redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[4])) \
    redis.call('PEXPIRE', KEYS[1], ARGV[5]) \
    return 1";
/// How many labels are kept, and how long one may be, in bytes.
const MAX_LABELS: usize = 1_000;
const MAX_LABEL_BYTES: usize = 512;
/// How long the set is kept after the last label: longer than any lock.
const LABELS_KEPT: Duration = Duration::from_secs(2 * 3600);

/// A Redis that nodes share. Clones are the same cache; the connection ends with the last.
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    link: Arc<Link>,
    seal: Seal,
    clock: Arc<dyn Clock>,
    /// Ends with the cache.
    _keeper: JoinSet<()>,
}

/// What lies under a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// The whole value, of which [`Found::body`] is the part that a node wrote.
    Genuine(Vec<u8>),
    /// A value that no node wrote under this key.
    False(Vec<u8>),
    /// The same, and too long or of another type, so that it can only be overwritten.
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
    /// Checks the url and connects in the background: a Redis that is down is none of the start's
    /// business.
    ///
    /// `namespace` (the name of the cluster) keeps clusters that share a Redis apart. The nodes of
    /// a cluster have the same `secret`, of at least 32 random bytes; Redis must not know it.
    ///
    /// # Errors
    /// When an argument can never work. The message does not contain the url.
    pub fn open(url: &str, namespace: &str, secret: &[u8], clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_with_deadline(url, namespace, secret, clock, DEADLINE)
    }

    /// As [`Self::open`], with another deadline of a command than [`DEADLINE`]: for a Redis that is
    /// far away, and for tests on a busy machine.
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

    /// What it did since it was opened.
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

    /// Reads a value of at most so many bytes.
    pub(crate) async fn read(&self, key: &Key, max_bytes: usize) -> Result<Found, Unanswered> {
        // One byte more tells what is longer. An honest Redis sends no more of it; what bounds
        // another one is said in `metered`.
        let mut command = redis::cmd("GETRANGE");
        command.arg(key.as_str()).arg(0).arg(max_bytes);
        let found = match self.0.link.ask(&command, max_bytes as u64 + 1).await? {
            Value::Nil => Found::Nothing,
            Value::BulkString(value) if value.is_empty() => Found::Nothing,
            Value::BulkString(value) if value.len() > max_bytes => Found::Unreadable,
            Value::BulkString(value) => match self.0.seal.open(key, &value) {
                Some(_) => Found::Genuine(value),
                None => Found::False(value),
            },
            Value::ServerError(error) if error.code() == "WRONGTYPE" => Found::Unreadable,
            other => return Err(self.odd(&other)),
        };
        if matches!(found, Found::False(_) | Found::Unreadable) {
            count(&self.stats().refused);
        }
        Ok(found)
    }

    /// Writes a value, whatever is there.
    pub(crate) async fn write(&self, key: &Key, body: &[u8], life: Duration) -> Result<(), Unanswered> {
        let mut command = redis::cmd("SET");
        command.arg(key.as_str()).arg(self.0.seal.seal(key, body)).arg("PX").arg(lasting_ms(life));
        match self.ask(&command).await? {
            Value::Okay => Ok(()),
            other => Err(self.odd(&other)),
        }
    }

    /// Writes a value if there is still what was found; says whether it did.
    pub(crate) async fn swap(
        &self,
        key: &Key,
        found: &Found,
        body: &[u8],
        life: Duration,
    ) -> Result<bool, Unanswered> {
        let expected = match found {
            Found::Nothing => &[][..],
            Found::Genuine(value) | Found::False(value) => value,
            Found::Unreadable => return self.write(key, body, life).await.map(|()| true),
        };
        let mut command = redis::cmd("EVAL");
        command.arg(SWAP).arg(1).arg(key.as_str());
        command.arg(expected).arg(self.0.seal.seal(key, body)).arg(lasting_ms(life));
        match self.ask(&command).await? {
            Value::Int(done) => Ok(done == 1),
            other => Err(self.odd(&other)),
        }
    }

    /// Adds a label to those that the nodes list, for as long as it lasts.
    pub(crate) async fn announce(&self, label: &[u8], lasting: Duration) -> Result<(), Unanswered> {
        let hidden = self.0.seal.hide(label).filter(|hidden| hidden.len() <= MAX_LABEL_BYTES);
        let hidden = hidden.ok_or(Unanswered)?;
        let now = self.now();
        let mut command = redis::cmd("EVAL");
        command.arg(ANNOUNCE).arg(1).arg(self.key(Kind::Limited, b"").as_str());
        command.arg(now.as_millis()).arg(now.plus(lasting).as_millis()).arg(hidden);
        command.arg(MAX_LABELS).arg(lasting_ms(LABELS_KEPT.max(lasting)));
        match self.ask(&command).await? {
            Value::Int(_) => Ok(()),
            other => Err(self.odd(&other)),
        }
    }

    /// The labels that have not ended.
    pub(crate) async fn announced(&self) -> Result<Vec<String>, Unanswered> {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(self.key(Kind::Limited, b"").as_str()).arg(format!("({}", self.now().as_millis()));
        command.arg("+inf").arg("LIMIT").arg(0).arg(MAX_LABELS);
        // Each with the frame of a bulk string.
        let bytes = MAX_LABELS * (MAX_LABEL_BYTES + 16);
        match self.0.link.ask(&command, bytes as u64).await? {
            Value::Array(found) => {
                let label = |value: &Value| match value {
                    Value::BulkString(hidden) => String::from_utf8(self.0.seal.reveal(hidden)?).ok(),
                    _ => None,
                };
                Ok(found.iter().filter_map(label).collect())
            }
            other => Err(self.odd(&other)),
        }
    }

    /// For commands whose answer is a word or a number.
    async fn ask(&self, command: &Cmd) -> Result<Value, Unanswered> {
        self.0.link.ask(command, 0).await
    }

    /// An error (out of memory, read-only, no permission) is an answer, and a fast one: the
    /// connection goes on.
    fn odd(&self, answer: &Value) -> Unanswered {
        count(&self.stats().errors);
        if let Value::ServerError(error) = answer {
            tracing::debug!(code = error.code(), "the cache answered with an error");
        }
        Unanswered
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("stats", self.stats()).finish_non_exhaustive()
    }
}

/// Redis refuses zero, and what does not fit into its clock.
fn lasting_ms(life: Duration) -> u64 {
    const MAX: Duration = Duration::from_secs(366 * 86_400);
    millis(life.min(MAX)).max(1)
}
