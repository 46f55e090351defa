//! The row of a session.

use std::net::IpAddr;

use schema::{
    SessionId, UserId,
    session::{Session, Spent},
};
use scylla::{
    DeserializeRow, SerializeRow,
    value::{CqlTimestamp, MaybeUnset},
};
use store::{Result, StoreError};
use uuid::Uuid;

use crate::convert;

/// A spent refresh token: its hash, when it was spent, and when its successor expires.
type SpentRow = (Vec<u8>, CqlTimestamp, CqlTimestamp);

/// A row of the table `sessions`. The row has the TTL of its insertion, its columns have that of the last
/// rotation. If that one was shorter, a row without columns remains, which is no session.
#[derive(DeserializeRow)]
pub(super) struct SessionRow {
    user: Uuid,
    id: Uuid,
    user_version: Option<i64>,
    device: Option<String>,
    ip_address: Option<IpAddr>,
    user_agent: Option<String>,
    created_at: Option<CqlTimestamp>,
    last_used_at: Option<CqlTimestamp>,
    expires_at: Option<CqlTimestamp>,
    live: Option<Vec<u8>>,
    spent: Option<Vec<SpentRow>>,
}

/// Parses a row; `None` if the session has ended.
///
/// # Errors
/// `Inconsistent` if a column is missing or malformed.
pub(super) fn session(row: SessionRow) -> Result<Option<Session>> {
    let id = SessionId::from_bytes(*row.id.as_bytes());
    let malformed = || StoreError::Inconsistent(format!("session {id} has a row that does not parse"));
    let Some(live) = row.live else { return Ok(None) };
    let time = |time: Option<CqlTimestamp>| time.map(convert::timestamp).ok_or_else(malformed);
    let spent = row.spent.unwrap_or_default().into_iter().map(|(hash, at, successor)| {
        Ok(Spent {
            hash: convert::hash(&hash).ok_or_else(malformed)?,
            at: convert::timestamp(at),
            successor_expires_at: convert::timestamp(successor),
        })
    });
    Ok(Some(Session {
        id,
        user: UserId::from_bytes(*row.user.as_bytes()),
        user_version: row.user_version.map(convert::version).ok_or_else(malformed)?,
        device: row.device,
        ip_address: row.ip_address.ok_or_else(malformed)?,
        user_agent: row.user_agent,
        created_at: time(row.created_at)?,
        last_used_at: time(row.last_used_at)?,
        expires_at: time(row.expires_at)?,
        live: convert::hash(&live).ok_or_else(malformed)?,
        spent: spent.collect::<Result<_>>()?,
    }))
}

/// The columns of a session. The order of the fields is that of the names in the statement `SessionAdd`.
#[derive(SerializeRow)]
pub(super) struct Columns<'a> {
    user: Uuid,
    id: Uuid,
    user_version: i64,
    device: Option<&'a str>,
    ip_address: IpAddr,
    user_agent: Option<&'a str>,
    created_at: CqlTimestamp,
    last_used_at: CqlTimestamp,
    expires_at: CqlTimestamp,
    live: &'a [u8],
    spent: Vec<(&'a [u8], CqlTimestamp, CqlTimestamp)>,
    #[scylla(rename = "[ttl]")]
    ttl: i32,
}

/// The values of all columns, and their TTL in seconds.
pub(super) fn all(session: &Session, ttl: i32) -> Columns<'_> {
    Columns {
        user: session.user.uuid(),
        id: session.id.uuid(),
        user_version: convert::bigint(session.user_version),
        device: session.device.as_deref(),
        ip_address: session.ip_address,
        user_agent: session.user_agent.as_deref(),
        created_at: convert::time(session.created_at),
        last_used_at: convert::time(session.last_used_at),
        expires_at: convert::time(session.expires_at),
        live: session.live.as_bytes(),
        spent: spent(session),
        ttl,
    }
}

fn spent(session: &Session) -> Vec<(&[u8], CqlTimestamp, CqlTimestamp)> {
    let hashes = session.spent.iter().map(|spent| spent.hash.as_bytes().as_slice());
    let times = session
        .spent
        .iter()
        .map(|spent| (convert::time(spent.at), convert::time(spent.successor_expires_at)));
    hashes.zip(times).map(|(hash, (at, successor_expires_at))| (hash, at, successor_expires_at)).collect()
}

/// The values of a rotation, in the order of the statement `SessionRotate`: all columns, so that all get
/// the same TTL.
pub(super) type Rotation<'a> = (
    i32,
    i64,
    MaybeUnset<Option<&'a str>>,
    IpAddr,
    MaybeUnset<Option<&'a str>>,
    CqlTimestamp,
    CqlTimestamp,
    CqlTimestamp,
    &'a [u8],
    Vec<(&'a [u8], CqlTimestamp, CqlTimestamp)>,
    Uuid,
    Uuid,
    &'a [u8],
);

/// The values of a rotation from `previous` to `next`. See [`Rotation`].
pub(super) fn rotation<'a>(previous: &'a Session, next: &'a Session, ttl: i32) -> Rotation<'a> {
    let all = all(next, ttl);
    // A text that was absent and stays absent needs no tombstone.
    let text = |before: &Option<String>, after| match (before, after) {
        (None, None) => MaybeUnset::Unset,
        (_, after) => MaybeUnset::Set(after),
    };
    (
        all.ttl,
        all.user_version,
        text(&previous.device, all.device),
        all.ip_address,
        text(&previous.user_agent, all.user_agent),
        all.created_at,
        all.last_used_at,
        all.expires_at,
        all.live,
        all.spent,
        all.user,
        all.id,
        previous.live.as_bytes(),
    )
}
