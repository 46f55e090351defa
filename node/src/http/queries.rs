//! Permission queries in URLs: `?permissions=<query>`, asked about a user.
//!
//! The same few queries are asked all the time, so what was read once is kept by the text of the URL, under a
//! bound. It is kept when it can be read only, and says nothing about anybody: who reads it asks the user's
//! snapshot each time.

use std::borrow::Cow;

use actors::Compiled;
use axum::http::StatusCode;
use schema::{Query, UserId};

use super::{page::pairs, problem::Problem};
use crate::{app::App, byte_cache::ByteCache};

/// How many queries are kept, and in how many bytes.
const KEPT_QUERIES: usize = 1 << 14;
const KEPT_BYTES: usize = 16 << 20;

/// Queries that were read before, by the URL's text.
pub struct Queries(ByteCache<Compiled>);

impl Default for Queries {
    fn default() -> Self {
        Self(ByteCache::new(KEPT_QUERIES, KEPT_BYTES))
    }
}

/// What is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Whether there is such a user at all.
    pub user_exists: bool,
    /// Whether the query holds for the user.
    pub holds: bool,
}

/// Asks what the URL's query asks about the user; `None` when it asks nothing.
///
/// # Errors
/// 422 that says where it cannot be read, or when the user's permissions cannot be read now.
pub async fn ask(app: &App, user: UserId, query: &str) -> Result<Option<Known>, Problem> {
    if query.is_empty() {
        return Ok(None);
    }
    let permissions = &app.actors.permissions;
    let answered = app.queries.0.with(query.as_bytes(), |compiled| {
        permissions.with_published(user, |snapshot| Known {
            user_exists: snapshot.exists,
            holds: compiled.holds(snapshot),
        })
    });
    if let Some(Some(asked)) = answered {
        return Ok(Some(asked));
    }
    let Some(read) = read(query)? else { return Ok(None) };
    let asked = permissions.with(user, |snapshot| Known {
        user_exists: snapshot.exists,
        holds: read.holds(&|name| snapshot.has(name)),
    });
    let asked = asked.await?;
    // Now that the user's names have numbers.
    let compiled = Compiled::new(&read, app.facts.snapshots().names());
    let beside = compiled.bytes();
    app.queries.0.insert(query.as_bytes(), compiled, beside, |_| false);
    Ok(Some(asked))
}

/// The query of a URL, if there is one.
fn read(query: &str) -> Result<Option<Query>, Problem> {
    let given = pairs(query).map_err(|_| unreadable("permissions: its percent-encoding is no UTF-8"))?;
    let mut given = given.into_iter().filter(|(name, _)| name == "permissions");
    let Some((_, text)) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(unreadable("permissions is there more than once"));
    }
    Query::parse(&text).map(Some).map_err(|error| unreadable(format!("permissions: {error}")))
}

/// 422.
pub fn unreadable(msg: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_permission_query", msg)
}
