//! All CQL statements, prepared once per driver session.

use std::fmt;

use scylla::{
    client::{execution_profile::ExecutionProfileHandle, session::Session},
    errors::PrepareError,
    statement::{Consistency, prepared::PreparedStatement},
};

use tracing::Instrument as _;

use crate::link::Profiles;

/// How a statement is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A read at `QUORUM`; also prepared for `SERIAL`.
    Read,
    /// A plain write. It is idempotent, so the driver may retry it.
    Write,
    /// A conditional write. The driver never retries it.
    Conditional,
}

macro_rules! statements {
    ($($kind:ident $name:ident = $cql:expr;)*) => {
        /// A CQL statement, by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(clippy::enum_variant_names, reason = "they are named by what they do")]
        pub(crate) enum Cql { $(#[doc = $cql] $name,)* }

        impl Cql {
            const ALL: &[(Kind, &str)] = &[$((Kind::$kind, $cql),)*];
        }
    };
}

statements! {
    Read UserById = "SELECT id, email, email_confirmed, password, first_name, last_name, active, version, revision, created_at FROM users WHERE id = ?";
    Conditional UserAdd = "INSERT INTO users (id, email, email_confirmed, password, first_name, last_name, active, version, revision, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS";
    Conditional UserVoid = "INSERT INTO users (id) VALUES (?) IF NOT EXISTS USING TTL 86400";
    Conditional UserRaise = "UPDATE users SET revision = ? WHERE id = ? IF revision = ?";
    Conditional UserReplace = "UPDATE users SET email = ?, email_confirmed = ?, password = ?, first_name = ?, last_name = ?, active = ?, version = ?, revision = ?, created_at = ? WHERE id = ? IF revision = ?";
    Conditional UserRemove = "DELETE FROM users WHERE id = ? IF revision = ?";

    Read EmailByText = "SELECT user, claim FROM emails WHERE email = ?";
    Conditional EmailClaim = "INSERT INTO emails (email, user, claim) VALUES (?, ?, ?) IF NOT EXISTS";
    Conditional EmailTake = "UPDATE emails SET user = ?, claim = ? WHERE email = ? IF user = ? AND claim = ?";
    Conditional EmailRelease = "DELETE FROM emails WHERE email = ? IF user = ? AND claim = ?";

    Write DayAdd = "INSERT INTO registration_days (part, day) VALUES (0, ?)";
    Read DaysFrom = "SELECT day FROM registration_days WHERE part = 0 AND day >= ?";
    Write RegistrationAdd = "INSERT INTO registrations (day, user) VALUES (?, ?)";
    Write RegistrationRemove = "DELETE FROM registrations WHERE day = ? AND user = ?";
    Read RegistrationsAfter = "SELECT user FROM registrations WHERE day = ? AND user > ? LIMIT ?";

    Read SessionById = "SELECT user, id, user_version, device, ip_address, user_agent, created_at, last_used_at, expires_at, live, spent FROM sessions WHERE user = ? AND id = ?";
    Conditional SessionAdd = "INSERT INTO sessions (user, id, user_version, device, ip_address, user_agent, created_at, last_used_at, expires_at, live, spent) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS USING TTL ?";
    Conditional SessionRotate = "UPDATE sessions USING TTL ? SET user_version = ?, device = ?, ip_address = ?, user_agent = ?, created_at = ?, last_used_at = ?, expires_at = ?, live = ?, spent = ? WHERE user = ? AND id = ? IF live = ?";
    Conditional SessionEnd = "DELETE FROM sessions WHERE user = ? AND id = ? IF EXISTS";
    Conditional SessionEndOlder = "DELETE FROM sessions WHERE user = ? AND id = ? IF user_version < ?";
    Write SessionListed = "INSERT INTO sessions_of_user (user, id) VALUES (?, ?) USING TTL ?";
    Write SessionUnlisted = "DELETE FROM sessions_of_user WHERE user = ? AND id = ?";
    Read SessionsBefore = "SELECT id FROM sessions_of_user WHERE user = ? AND id < ? LIMIT ?";

    Read CatalogueRevision = "SELECT revision FROM catalogue WHERE part = 0 LIMIT 1";
    Read CatalogueAll = "SELECT kind, name, id, description, permissions, revision FROM catalogue WHERE part = 0";
    Conditional CatalogueRaise = "UPDATE catalogue SET revision = ? WHERE part = 0 IF revision = ?";
    Conditional CataloguePut = "INSERT INTO catalogue (part, kind, name, id, description, permissions) VALUES (0, ?, ?, ?, ?, ?)";
    Conditional CatalogueRemove = "DELETE FROM catalogue WHERE part = 0 AND kind = ? AND name = ?";

    Read GrantsOf = "SELECT kind, id, revision FROM grants WHERE user = ?";
    Read GrantOne = "SELECT kind, id, revision FROM grants WHERE user = ? AND kind = ? AND id = ?";
    Conditional GrantsRaise = "UPDATE grants SET revision = ? WHERE user = ? IF revision = ?";
    Conditional GrantsEnd = "UPDATE grants USING TTL 86400 SET revision = ? WHERE user = ? IF revision = ?";
    Conditional GrantPut = "INSERT INTO grants (user, kind, id) VALUES (?, ?, ?)";
    Conditional GrantRemove = "DELETE FROM grants WHERE user = ? AND kind = ? AND id = ?";
    Read HoldersAfter = "SELECT user FROM holders WHERE kind = ? AND id = ? AND part = ? AND user > ? LIMIT ?";
    Write HolderPut = "INSERT INTO holders (kind, id, part, user) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    Write HolderRemove = "DELETE FROM holders USING TIMESTAMP ? WHERE kind = ? AND id = ? AND part = ? AND user = ?";

    Read Document = "SELECT revision, value FROM documents WHERE name = ?";
    Conditional DocumentAdd = "INSERT INTO documents (name, revision, value) VALUES (?, ?, ?) IF NOT EXISTS";
    Conditional DocumentReplace = "UPDATE documents SET revision = ?, value = ? WHERE name = ? IF revision = ?";

    Write LoginAdd = "INSERT INTO logins (user, month, id, time, ip_address, device, user_agent, outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TTL ?";
    Read LoginsBefore = "SELECT user, id, time, ip_address, device, user_agent, outcome FROM logins WHERE user = ? AND month = ? AND id < ? LIMIT ?";
    Read LoginIds = "SELECT id FROM logins WHERE user = ? AND month = ? LIMIT ?";
    Write LoginsTrim = "DELETE FROM logins WHERE user = ? AND month = ? AND id < ?";
    Write LoginsRemove = "DELETE FROM logins WHERE user = ? AND month = ?";

    Write PlaceNote = "INSERT INTO login_places (account, place, time) VALUES (?, ?, ?) USING TTL ?";
    Read PlaceLast = "SELECT time FROM login_places WHERE account = ? AND place = ?";
    Read Places = "SELECT place, time FROM login_places WHERE account = ?";
    Write PlaceForget = "DELETE FROM login_places WHERE account = ? AND place = ?";
    Write PlacesForget = "DELETE FROM login_places WHERE account = ?";

    Write EntryAdd = "INSERT INTO ledger (node, incarnation, chunk, seq, fact) VALUES (?, ?, ?, ?, ?) USING TTL ?";
    Read EntriesFrom = "SELECT seq, fact FROM ledger WHERE node = ? AND incarnation = ? AND chunk = ? AND seq >= ? LIMIT ?";
    Write HeadMove = "INSERT INTO heads (part, node, incarnation, seq, floor) VALUES (0, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?";
    Read Heads = "SELECT node, incarnation, seq FROM heads WHERE part = 0";
    Read HeadOne = "SELECT seq, floor, TTL(seq) AS left FROM heads WHERE part = 0 AND node = ? AND incarnation = ?";
}

/// All statements, prepared on one driver session.
pub(crate) struct Prepared {
    plain: Vec<PreparedStatement>,
    serial: Vec<PreparedStatement>,
}

impl Prepared {
    /// Prepares all statements, concurrently.
    pub(crate) async fn prepare(session: &Session, profiles: &Profiles) -> Result<Self, PrepareError> {
        let each = Cql::ALL.iter().map(|(kind, cql)| async move {
            let mut prepared = session.prepare(*cql).await?;
            prepared.set_is_idempotent(*kind != Kind::Conditional);
            prepared.set_page_size(PAGE_ROWS);
            let profile: &ExecutionProfileHandle = match kind {
                Kind::Read => &profiles.reads,
                Kind::Write => &profiles.writes,
                Kind::Conditional => &profiles.conditional,
            };
            prepared.set_execution_profile_handle(Some(profile.clone()));
            Ok::<_, PrepareError>(prepared)
        });
        let plain = futures_util::future::try_join_all(each).await?;
        let serial = plain.iter().cloned().map(|mut prepared| {
            prepared.set_consistency(Consistency::Serial);
            prepared.set_execution_profile_handle(Some(profiles.writes.clone()));
            prepared
        });
        Ok(Self { serial: serial.collect(), plain })
    }

    /// A prepared statement, at its usual consistency.
    pub(crate) fn get(&self, cql: Cql) -> &PreparedStatement {
        &self.plain[cql as usize]
    }

    /// A prepared read at `SERIAL`: it completes, and sees, every conditional write under way.
    pub(crate) fn serial(&self, cql: Cql) -> &PreparedStatement {
        &self.serial[cql as usize]
    }
}

/// Awaits a statement in a span of the request's trace, by OpenTelemetry's conventions for database clients. The
/// text has placeholders, so it shows no value. A batch has the text of its first statement.
pub(crate) async fn traced<T, E>(cql: &str, sent: impl Future<Output = Result<T, E>> + Send) -> Result<T, E> {
    let span = tracing::info_span!(
        "statement",
        otel.name = %Summary(cql),
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
        db.system.name = "cassandra",
        db.query.text = cql,
    );
    let result = sent.instrument(span.clone()).await;
    if result.is_err() {
        span.record("otel.status_code", "ERROR");
    }
    result
}

/// A statement's verb and table, as in `SELECT users`.
struct Summary<'a>(&'a str);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self.0.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let table = match verb {
            "UPDATE" => words.next(),
            _ => words.skip_while(|word| !matches!(*word, "FROM" | "INTO")).nth(1),
        };
        write!(f, "{verb} {}", table.unwrap_or_default())
    }
}

/// Number of rows per page of a paged read.
const PAGE_ROWS: i32 = 1_000;

impl Cql {
    /// How the statement is executed.
    pub(crate) const fn kind(self) -> Kind {
        Self::ALL[self as usize].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_names_verb_and_table() {
        for (cql, summary) in [
            (Cql::UserById, "SELECT users"),
            (Cql::SessionRotate, "UPDATE sessions"),
            (Cql::EntryAdd, "INSERT ledger"),
            (Cql::HolderRemove, "DELETE holders"),
        ] {
            assert_eq!(Summary(Cql::ALL[cql as usize].1).to_string(), summary);
        }
    }
}
