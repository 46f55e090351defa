//! What an operation answers because of what it is.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::{
    Content, Header, ObjectBuilder, Ref, RefOr, Response, Schema, Type, extensions::Extensions,
    header::HeaderBuilder, path::Operation,
};

use crate::http::request::needs_knowledge;

/// In an operation's extensions: whether it revokes something or changes what someone may do, so that it
/// answers with `Palisade-Visible`: `always`, or only `sometimes`. Taken out of the finished document.
const CHANGES: &str = "x-changes";
/// The schema of every error.
const PROBLEM: &str = "#/components/schemas/Problem";
/// The schema of answers that carry tokens.
const TOKEN_PAIR: &str = "#/components/schemas/TokenPair";

/// What an operation is, as far as its answers follow from it.
struct Kind {
    /// Its request shows a token.
    token: bool,
    /// A gateway asks, which understands 401 and 403 only.
    gateway: bool,
    /// Its request has a body.
    body: bool,
    /// Its path names a thing.
    names: bool,
    /// Its answer rests on keys and on what has been revoked.
    knows: bool,
    changes: Changes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Changes {
    Never,
    Sometimes,
    Always,
}

impl Kind {
    fn of(path: &str, operation: &mut Operation) -> Self {
        let marker = operation.extensions.as_mut().and_then(|extensions| extensions.remove(CHANGES));
        if operation.extensions.as_ref().is_some_and(|extensions| extensions.is_empty()) {
            operation.extensions = None;
        }
        Self {
            token: operation.security.as_ref().is_some_and(|security| !security.is_empty()),
            gateway: path.starts_with("/auth_request") || path.starts_with("/ext_authz"),
            body: operation.request_body.is_some(),
            names: path.contains('{'),
            knows: needs_knowledge(path),
            changes: match marker.as_ref().and_then(Value::as_str) {
                None => Changes::Never,
                Some("sometimes") => Changes::Sometimes,
                Some(_) => Changes::Always,
            },
        }
    }

    /// The errors that any operation of this kind may answer, with a sentence about each.
    fn errors(&self) -> Vec<(u16, &'static str)> {
        let when = |condition: bool, errors: &[(u16, &'static str)]| {
            if condition { errors.to_vec() } else { Vec::new() }
        };
        [
            vec![
                (400, "Malformed: the request, its query or its body"),
                (408, "The request or its body did not arrive in time"),
                (414, "The request's target is too long"),
                (431, "The request's head is too large"),
            ],
            when(self.token, &[(401, "No token, or one that has expired or was revoked")]),
            when(self.token && !self.gateway, &[(422, "A token that cannot be read or believed")]),
            when(self.names, &[(404, "There is no such thing")]),
            when(self.body, &[(413, "The body is too large"), (415, "The body is not of the right type")]),
            when(self.knows, &[(503, "It cannot be known or stored now; try again")]),
        ]
        .concat()
    }

    /// The headers of an answer with this status, and whether each is always there.
    fn headers(&self, status: u16, carries_tokens: bool) -> Vec<(&'static str, bool)> {
        let mut headers = vec![("X-Request-Id", true)];
        if self.knows {
            headers.push(("Palisade-Stale", false));
        }
        if matches!(status, 401 | 403) {
            headers.push(("WWW-Authenticate", true));
        }
        if matches!(status, 429 | 503) {
            headers.push(("Retry-After", true));
        }
        if carries_tokens {
            headers.push(("Cache-Control", true));
        }
        if status < 300 && self.changes != Changes::Never {
            let always = self.changes == Changes::Always;
            headers.extend([("Palisade-Visible", always), ("Palisade-Durability", always)]);
        }
        headers
    }
}

/// Adds to an operation the answers and headers that follow from what it is. What it says itself stays.
pub fn complete(path: &str, operation: &mut Operation) {
    let kind = Kind::of(path, operation);
    let responses = &mut operation.responses.responses;
    for (status, description) in kind.errors() {
        let response = responses.entry(status.to_string()).or_insert_with(|| Response::new("").into());
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            response.description = description.into();
        }
    }
    for (status, response) in responses {
        let (Ok(status), RefOr::T(response)) = (status.parse(), response) else { continue };
        complete_response(&kind, status, response);
    }
}

fn complete_response(kind: &Kind, status: u16, response: &mut Response) {
    if status >= 400 && response.content.is_empty() {
        let content = Content::new(Some(RefOr::<Schema>::Ref(Ref::new(PROBLEM))));
        response.content.insert("application/json".into(), content.into());
    }
    if response.description.is_empty() {
        response.description = match status {
            201 => "Made",
            204 => "Done",
            403 => "The caller may not do this",
            _ => "Done; the body says what is",
        }
        .into();
    }
    let carries_tokens = response.content.values().any(|content| {
        let RefOr::T(content) = content else { return false };
        matches!(&content.schema, Some(RefOr::Ref(schema)) if schema.ref_location == TOKEN_PAIR)
    });
    for (name, always) in kind.headers(status, carries_tokens) {
        response.headers.entry(name.into()).or_insert_with(|| {
            let reference = || RefOr::Ref(Ref::new(format!("#/components/headers/{name}")));
            if always || name == "Palisade-Stale" { reference() } else { header(name, false) }
        });
    }
}

/// The headers of ours, for the document's components.
pub fn headers() -> BTreeMap<String, RefOr<Header>> {
    ALL.iter().map(|(name, _, _)| ((*name).to_owned(), header(name, *name != "Palisade-Stale"))).collect()
}

/// Name, meaning, and a pattern, or none where it is a number.
const ALL: [(&str, &str, Option<&str>); 7] = [
    ("X-Request-Id", "The request's own, or one that the node made", Some("^[!-~]{1,128}$")),
    ("Palisade-Visible", "k/n: of the n other live nodes, k know of the change", Some("^[0-9]+/[0-9]+$")),
    (
        "Palisade-Durability",
        "Where the change is durable: in the store, or in this node's journal while the store is away",
        Some("^(store|journal)$"),
    ),
    (
        "Palisade-Stale",
        "Milliseconds since the node last knew everything that was revoked, when that is longer than it should be",
        None,
    ),
    ("Retry-After", "Seconds until it is worth trying again", None),
    ("WWW-Authenticate", "RFC 6750, section 3", Some("^Bearer")),
    ("Cache-Control", "RFC 9111, section 5.2", Some("^[a-z]")),
];

fn header(name: &str, required: bool) -> RefOr<Header> {
    let entry = ALL.iter().find(|(known, _, _)| *known == name);
    let (about, pattern) = entry.map_or(("", None), |(_, about, pattern)| (*about, *pattern));
    let schema = match pattern {
        Some(pattern) => ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)),
        None => ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0_i64)),
    };
    let header = HeaderBuilder::new()
        .schema(Some(Schema::Object(schema.build())))
        .description(Some(about))
        // utoipa has no field for it, and writes these beside its own.
        .extensions(required.then(|| [("required", true)].into_iter().collect::<Extensions>()));
    RefOr::T(header.build())
}
