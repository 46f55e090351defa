//! The answers and headers that follow from the kind of an operation.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::{
    Content, Header, ObjectBuilder, Ref, RefOr, Response, Schema, Type, extensions::Extensions,
    header::HeaderBuilder, path::Operation,
};

use crate::http::RoutePolicy;

/// An extension of operations that publish facts, so that they answer with `Palisade-Visible`: `always`, or
/// only `sometimes`. It is removed from the finished document.
const CHANGES: &str = "x-changes";
/// The schema of every error.
const PROBLEM: &str = "#/components/schemas/Problem";
/// The schema of answers that carry tokens.
const TOKEN_PAIR: &str = "#/components/schemas/TokenPair";

/// The properties of an operation that determine its answers.
struct Kind {
    /// Whether the request carries a token.
    token: bool,
    /// Whether the caller is a gateway, which understands only 401 and 403.
    gateway: bool,
    /// Whether the request has a body.
    body: bool,
    /// Whether the path names a thing.
    names: bool,
    /// Whether the answer depends on keys and revocations.
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
    fn of(path: &str, policy: RoutePolicy, operation: &mut Operation) -> Self {
        let marker = operation.extensions.as_mut().and_then(|extensions| extensions.remove(CHANGES));
        if operation.extensions.as_ref().is_some_and(|extensions| extensions.is_empty()) {
            operation.extensions = None;
        }
        Self {
            token: operation.security.as_ref().is_some_and(|security| !security.is_empty()),
            gateway: path.starts_with("/auth_request") || path.starts_with("/ext_authz"),
            body: operation.request_body.is_some(),
            names: path.contains('{'),
            knows: policy.needs_synced(),
            changes: match marker.as_ref().and_then(Value::as_str) {
                None => Changes::Never,
                Some("sometimes") => Changes::Sometimes,
                Some(_) => Changes::Always,
            },
        }
    }

    /// The statuses of the errors of this kind of operation, each with its description.
    fn errors(&self) -> Vec<(u16, &'static str)> {
        let when = |condition: bool, errors: &[(u16, &'static str)]| {
            if condition { errors.to_vec() } else { Vec::new() }
        };
        [
            vec![
                (400, "The request, its query or its body is malformed"),
                (408, "The request or its body did not arrive in time"),
                (414, "The request's target is too long"),
                (431, "The request's head is too large"),
            ],
            when(self.token, &[(401, "The token is missing, expired or revoked")]),
            when(self.token && !self.gateway, &[(422, "The token is malformed or its signature is invalid")]),
            when(self.names, &[(404, "The thing that the path names does not exist")]),
            when(self.body, &[(413, "The body is too large"), (415, "The body is not JSON")]),
            when(self.knows, &[(503, "The answer cannot be determined or stored now; try again")]),
        ]
        .concat()
    }

    /// The headers of an answer with this status, and whether each is always present.
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

/// Adds the answers and headers that follow from the kind of an operation. Its own descriptions stay.
pub fn complete(path: &str, policy: RoutePolicy, operation: &mut Operation) {
    let kind = Kind::of(path, policy, operation);
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
        let Ok(status) = status.parse() else { continue };
        let RefOr::T(response) = response else { continue };
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
            201 => "Created",
            204 => "Done",
            403 => "The caller lacks the authority",
            _ => "Done",
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

/// The headers of answers, for the components of the document.
pub fn headers() -> BTreeMap<String, RefOr<Header>> {
    HEADERS.iter().map(|(name, _, _)| ((*name).to_owned(), header(name, *name != "Palisade-Stale"))).collect()
}

/// Name, description, and pattern; a header without a pattern is a number.
const HEADERS: [(&str, &str, Option<&str>); 7] = [
    (
        "X-Request-Id",
        "The id of the request: the client's own, or one that the node made",
        Some("^[!-~]{1,128}$"),
    ),
    ("Palisade-Visible", "k/n: k of the n other live nodes have applied the change", Some("^[0-9]+/[0-9]+$")),
    (
        "Palisade-Durability",
        "Where the change is durable: in the store, or in this node's journal while the store is unavailable",
        Some("^(store|journal)$"),
    ),
    (
        "Palisade-Stale",
        "Milliseconds since the node had last applied every revocation, if that exceeds its limit",
        None,
    ),
    ("Retry-After", "Seconds to wait before trying again", None),
    ("WWW-Authenticate", "RFC 6750, section 3", Some("^Bearer")),
    ("Cache-Control", "RFC 9111, section 5.2", Some("^[a-z]")),
];

fn header(name: &str, required: bool) -> RefOr<Header> {
    let entry = HEADERS.iter().find(|(known, _, _)| *known == name);
    let (about, pattern) = entry.map_or(("", None), |(_, about, pattern)| (*about, *pattern));
    let schema = match pattern {
        Some(pattern) => ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)),
        None => ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0_i64)),
    };
    let header = HeaderBuilder::new()
        .schema(Some(Schema::Object(schema.build())))
        .description(Some(about))
        // utoipa has no field for `required`, and writes extensions beside its own fields.
        .extensions(required.then(|| [("required", true)].into_iter().collect::<Extensions>()));
    RefOr::T(header.build())
}
