//! Permission queries in URLs: `?permissions=<query>`, about one user.
//!
//! Services ask the same few queries on every request, so a query that was parsed once is kept under the text of
//! its URL, within a bound. Only what can be parsed is kept, and never an answer: that is taken from the user's
//! permission snapshot each time.

use std::{borrow::Cow, str::Utf8Error};

use actors::{
    ActorError, Compiled,
    permission::{Names, PermissionHandle},
};
use percent_encoding::percent_decode_str;
use schema::{Query, UserId};

use crate::credentials::byte_cache::ByteCache;

/// Queries that are kept.
const KEPT_QUERIES_MAX: usize = 1 << 14;
/// Memory of all kept queries, in bytes.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// Parsed queries, by the text of their URLs.
pub struct PermissionQueries(ByteCache<Compiled>);

impl Default for PermissionQueries {
    fn default() -> Self {
        Self(ByteCache::new(KEPT_QUERIES_MAX, KEPT_BYTES_MAX))
    }
}

/// The answer to a query about a user.
#[derive(Debug, Clone, Copy)]
pub struct QueryAnswer {
    /// Whether the user exists.
    pub user_exists: bool,
    /// Whether the query holds for the user.
    pub holds: bool,
}

/// Why a query has no answer.
#[derive(Debug, Clone)]
pub enum QueryError {
    /// It cannot be parsed, or there is none; says where.
    Unreadable(Cow<'static, str>),
    /// The user's permissions cannot be read now.
    Permissions(ActorError),
}

impl QueryError {
    /// With a sentence that says what is wrong.
    pub fn unreadable(msg: impl Into<Cow<'static, str>>) -> Self {
        Self::Unreadable(msg.into())
    }
}

impl PermissionQueries {
    /// Answers the query in `url_query`, the part of the URL after `?`, about a user; `None` if it has none.
    ///
    /// # Errors
    /// When it cannot be parsed, or the user's permissions cannot be read now.
    pub async fn ask(
        &self,
        permissions: &PermissionHandle,
        names: &Names,
        user: UserId,
        url_query: &str,
    ) -> Result<Option<QueryAnswer>, QueryError> {
        if url_query.is_empty() {
            return Ok(None);
        }
        let answer = self.0.with(url_query.as_bytes(), |compiled| {
            permissions.with_published(user, |snapshot| QueryAnswer {
                user_exists: snapshot.exists,
                holds: compiled.holds(snapshot),
            })
        });
        if let Some(Some(answer)) = answer {
            return Ok(Some(answer));
        }
        let Some(query) = parse(url_query)? else { return Ok(None) };
        let answer = permissions.with(user, |snapshot| QueryAnswer {
            user_exists: snapshot.exists,
            holds: query.holds(&|name| snapshot.has(name)),
        });
        let answer = answer.await.map_err(QueryError::Permissions)?;
        // Only now do the names in the user's snapshot have numbers.
        let compiled = Compiled::new(&query, names);
        let bytes = compiled.bytes();
        self.0.insert(url_query.as_bytes(), compiled, bytes, |_| false);
        Ok(Some(answer))
    }
}

fn parse(url_query: &str) -> Result<Option<Query>, QueryError> {
    let given = pairs(url_query)
        .map_err(|_| QueryError::unreadable("permissions: its percent-encoding is no UTF-8"))?;
    let mut given = given.into_iter().filter(|(name, _)| name == "permissions");
    let Some((_, text)) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(QueryError::unreadable("permissions is there more than once"));
    }
    let parsed = Query::parse(&text);
    parsed.map(Some).map_err(|error| QueryError::unreadable(format!("permissions: {error}")))
}

/// The names and values of a URL's query, decoded.
///
/// # Errors
/// When the percent-encoding is no UTF-8.
pub fn pairs(url_query: &str) -> Result<Vec<(String, String)>, Utf8Error> {
    let decode = |text: &str| -> Result<String, Utf8Error> {
        let spaced = text.replace('+', " ");
        Ok(percent_decode_str(&spaced).decode_utf8()?.into_owned())
    };
    let pairs = url_query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}
