//! Permission queries: a name in quotes, or one object with the single key `any` or `all` and an
//! array of queries.
//!
//! ```text
//! {"any": ["films.read", {"all": ["files.read", "files.share"]}]}
//! ```
//!
//! `{"any":[]}` is false, `{"all":[]}` is true, and the name of a permission that does not exist is false. The
//! depth, counted in operators, is at most [`MAX_DEPTH`]; names and operators together are at most
//! [`MAX_NODES`]. Everything else is an error with line and column.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::name::Name;

/// Limit of the nesting of operators.
pub const MAX_DEPTH: usize = 16;
/// Limit of the names and operators of a query.
pub const MAX_NODES: usize = 256;

/// A query about the permissions of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// The user has this permission.
    Name(Name),
    /// At least one of these queries holds.
    Any(Box<[Query]>),
    /// All of these queries hold.
    All(Box<[Query]>),
}

/// The text is no query. The message has the reason, line and column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAQuery(String);

impl Query {
    /// Parses a query.
    ///
    /// # Errors
    /// The reason, with line and column.
    pub fn parse(text: &str) -> Result<Self, NotAQuery> {
        let nodes = Cell::new(0);
        let mut json = serde_json::Deserializer::from_str(text);
        let query = QuerySeed { nodes: &nodes, depth: 0 }.deserialize(&mut json);
        query.and_then(|query| json.end().map(|()| query)).map_err(|error| NotAQuery(error.to_string()))
    }

    /// Whether the query holds for a user; `has` tells whether the user has a permission.
    pub fn holds(&self, has: &impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Name(name) => has(name.as_str()),
            Self::Any(queries) => queries.iter().any(|query| query.holds(has)),
            Self::All(queries) => queries.iter().all(|query| query.holds(has)),
        }
    }
}

#[derive(Clone, Copy)]
struct QuerySeed<'a> {
    nodes: &'a Cell<usize>,
    depth: usize,
}

impl QuerySeed<'_> {
    fn count<E: Error>(self) -> Result<(), E> {
        self.nodes.set(self.nodes.get() + 1);
        if self.nodes.get() > MAX_NODES {
            return Err(E::custom(format_args!("more than {MAX_NODES} names and operators")));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for QuerySeed<'_> {
    type Value = Query;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Query, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for QuerySeed<'_> {
    type Value = Query;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a permission name or an object with the single key `any` or `all`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Query, E> {
        self.count()?;
        text.parse().map(Query::Name).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Query, A::Error> {
        self.count()?;
        if self.depth == MAX_DEPTH {
            return Err(A::Error::custom(format_args!("more than {MAX_DEPTH} operators deep")));
        }
        let single = || A::Error::custom("expected the single key `any` or `all`");
        let operator: String = map.next_key()?.ok_or_else(single)?;
        let make = match operator.as_str() {
            "any" => Query::Any,
            "all" => Query::All,
            _ => return Err(single()),
        };
        let queries = map.next_value_seed(ListSeed(Self { depth: self.depth + 1, ..self }))?;
        if map.next_key::<serde::de::IgnoredAny>()?.is_some() {
            return Err(single());
        }
        Ok(make(queries))
    }
}

struct ListSeed<'a>(QuerySeed<'a>);

impl<'de> DeserializeSeed<'de> for ListSeed<'_> {
    type Value = Box<[Query]>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ListSeed<'_> {
    type Value = Box<[Query]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of queries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut queries = Vec::new();
        while let Some(query) = seq.next_element_seed(self.0)? {
            queries.push(query);
        }
        Ok(queries.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(text: &str, has: &[&str]) -> bool {
        Query::parse(text).unwrap().holds(&|name| has.contains(&name))
    }

    #[test]
    fn query_evaluates_any_all_and_names() {
        assert!(ask(r#""p1""#, &["p1"]));
        assert!(!ask(r#""p1""#, &["p2"]));
        let query = r#"{"any":["p1",{"all":["p2","p3"]}]}"#;
        assert!(ask(query, &["p1"]));
        assert!(ask(query, &["p2", "p3"]));
        assert!(!ask(query, &["p2"]));
        assert!(!ask(r#"{"any":[]}"#, &["p1"]));
        assert!(ask(r#"{"all":[]}"#, &[]));
        assert!(ask(" { \"all\" : [ ] } ", &[]));
    }

    fn nested(depth: usize) -> String {
        format!("{}\"p\"{}", r#"{"any":["#.repeat(depth), "]}".repeat(depth))
    }

    fn wide(nodes: usize) -> String {
        format!(r#"{{"all":[{}]}}"#, vec![r#""p""#; nodes - 1].join(","))
    }

    #[test]
    fn query_beyond_a_limit_is_refused() {
        assert!(Query::parse(&nested(16)).is_ok());
        assert!(Query::parse(&nested(17)).is_err());
        assert!(Query::parse(&nested(100_000)).is_err());
        assert!(Query::parse(&wide(256)).is_ok());
        assert!(Query::parse(&wide(257)).is_err());
    }

    #[test]
    fn malformed_query_is_refused_with_its_position() {
        for bad in [
            "",
            " ",
            "p1",
            "1",
            "null",
            "true",
            "[]",
            "{}",
            r#"["p1"]"#,
            r#""""#,
            r#""a b""#,
            r#""ä""#,
            r#"{"any":"p1"}"#,
            r#"{"any":null}"#,
            r#"{"any":{}}"#,
            r#"{"any":[1]}"#,
            r#"{"any":[[]]}"#,
            r#"{"none":[]}"#,
            r#"{"any":[],"all":[]}"#,
            r#"{"any":[],"any":[]}"#,
            r#"{"Any":[]}"#,
            r#"{"any":[]"#,
            r#"{"any":[]}x"#,
            r#"{"any":[]}{}"#,
            r#""p1" "p2""#,
            r#"{"any":["p1",]}"#,
            "{'any':[]}",
            "\"\\u0000\"",
            "\"p\0\"",
        ] {
            let error = Query::parse(bad).expect_err(bad).to_string();
            assert!(error.contains("line") && error.contains("column"), "{bad}: {error}");
        }
    }

    fn any_query() -> impl Strategy<Value = (String, bool)> {
        // The user has the permissions `t…`, but not `f…`.
        let leaf = prop_oneof!["t[a-z]{0,3}", "f[a-z]{0,3}"]
            .prop_map(|name: String| (format!("{name:?}"), name.starts_with('t')));
        leaf.prop_recursive(4, 64, 5, |inner| {
            (any::<bool>(), prop::collection::vec(inner, 0..5)).prop_map(|(all, parts)| {
                let text: Vec<_> = parts.iter().map(|part| part.0.as_str()).collect();
                let text = format!(r#"{{"{}":[{}]}}"#, if all { "all" } else { "any" }, text.join(","));
                let mut values = parts.iter().map(|part| part.1);
                (text, if all { values.all(|v| v) } else { values.any(|v| v) })
            })
        })
    }

    proptest! {
        #[test]
        fn evaluation_is_boolean_algebra((text, value) in any_query()) {
            let query = Query::parse(&text).unwrap();
            prop_assert_eq!(query.holds(&|name| name.starts_with('t')), value);
        }

        #[test]
        fn parsing_never_panics(text: String) {
            let _ = Query::parse(&text);
        }
    }
}
