//! The row of a session.

use std::net::IpAddr;

use schema::{
    SessionId, StoreError, UserId,
    session::{Session, Spent},
    store::Result,
};
use scylla::{
    DeserializeRow, SerializeRow,
    value::{CqlTimestamp, MaybeUnset},
};
use uuid::Uuid;

use crate::convert;

/// A spent token: its hash, when, and the end of its successor.
type SpentRow = (Vec<u8>, CqlTimestamp, CqlTimestamp);

/// As stored. The row itself lives as long as was said when it was added, its columns as long as the
/// last rotation said: when that was shorter, a row without columns is left, which is no session.
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

/// The session of a row; `None` when it has ended.
pub(super) fn session(row: SessionRow) -> Result<Option<Session>> {
    let id = SessionId::from_bytes(*row.id.as_bytes());
    let strange = || StoreError::Inconsistent(format!("session {id} has a row that does not parse"));
    let Some(live) = row.live else { return Ok(None) };
    let time = |time: Option<CqlTimestamp>| time.map(convert::timestamp).ok_or_else(strange);
    let spent = row.spent.unwrap_or_default().into_iter().map(|(hash, at, successor)| {
        Ok(Spent {
            hash: convert::hash(&hash).ok_or_else(strange)?,
            at: convert::timestamp(at),
            successor_expires_at: convert::timestamp(successor),
        })
    });
    Ok(Some(Session {
        id,
        user: UserId::from_bytes(*row.user.as_bytes()),
        user_version: row.user_version.map(convert::version).ok_or_else(strange)?,
        device: row.device,
        ip_address: row.ip_address.ok_or_else(strange)?,
        user_agent: row.user_agent,
        created_at: time(row.created_at)?,
        last_used_at: time(row.last_used_at)?,
        expires_at: time(row.expires_at)?,
        live: convert::hash(&live).ok_or_else(strange)?,
        spent: spent.collect::<Result<_>>()?,
    }))
}

/// The columns of a session that is added. The order of the fields is that of the statement's names.
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

/// All columns, and how long they live.
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
    let row = |spent: &Spent| (convert::time(spent.at), convert::time(spent.successor_expires_at));
    session
        .spent
        .iter()
        .map(|one| (one.hash.as_bytes().as_slice(), row(one)))
        .map(|(h, (a, s))| (h, a, s))
        .collect()
}

/// The values of a rotation, in the order of the statement: all columns, so that all live as long.
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

/// See [`Rotation`].
pub(super) fn rotation<'a>(previous: &'a Session, next: &'a Session, ttl: i32) -> Rotation<'a> {
    let all = all(next, ttl);
    // What was absent and stays so needs no tombstone.
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
