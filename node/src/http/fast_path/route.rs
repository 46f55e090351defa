//! The routes of the fast path, recognised by their bytes.

use crate::{
    app::App,
    http::{
        extract::{credential::Token, source::LazySource},
        fast_path::response::FastResponse,
        gateway,
        respond::problem::Problem,
        v1::{auth_token::validate, users::combined},
    },
};

const VALIDATE_PATH: &str = "/api/v1/auth_token/validation";
const ADMIT_PATH: &str = crate::http::gateway::PATH;
const CHECK_PREFIX: &str = "/api/v1/users/";
const CHECK_SUFFIX: &str = "/combined_permissions/validation";

/// A route of the fast path, with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FastRoute<'a> {
    /// Validates the token of the request.
    Validate,
    /// Checks whether a permission query holds for the user `id`.
    Check { id: &'a str, query: &'a str },
    /// Decides for a gateway whether a request may pass.
    Admit { query: &'a str },
}

impl<'a> FastRoute<'a> {
    /// The paths, as the router and the metrics name them, by [`Self::index`].
    pub(super) const ROUTES: [&'static str; 3] =
        [VALIDATE_PATH, "/api/v1/users/{id}/combined_permissions/validation", ADMIT_PATH];

    /// The route of this path and query; `None` for another route, and for bytes that need decoding.
    pub(super) fn of(path: &'a str, query: Option<&'a str>) -> Option<Self> {
        let query = query.unwrap_or_default();
        if !query.bytes().all(needs_no_decoding) {
            return None;
        }
        if path == VALIDATE_PATH {
            return Some(Self::Validate);
        }
        if path == ADMIT_PATH {
            return Some(Self::Admit { query });
        }
        let id = path.strip_prefix(CHECK_PREFIX)?.strip_suffix(CHECK_SUFFIX)?;
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (plain && !id.is_empty()).then_some(Self::Check { id, query })
    }

    /// The route of a request's target (RFC 9112, section 3.2.1).
    pub(super) fn of_target(target: &'a str) -> Option<Self> {
        match target.split_once('?') {
            Some((path, query)) => Self::of(path, Some(query)),
            None => Self::of(target, None),
        }
    }

    /// Whether the caller is a gateway.
    pub(super) const fn is_admit(self) -> bool {
        matches!(self, Self::Admit { .. })
    }

    /// The index in [`Self::ROUTES`].
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Validate => 0,
            Self::Check { .. } => 1,
            Self::Admit { .. } => 2,
        }
    }

    /// The answer of the route.
    ///
    /// # Errors
    /// What the router would answer instead of a success.
    pub(super) async fn answer(
        self,
        app: &App,
        token: Token<'_>,
        source: LazySource<'_>,
    ) -> Result<FastResponse, Problem> {
        match self {
            Self::Validate => {
                validate::verdict(app, token, source).await.map(|_| FastResponse::Json(validate::VALID))
            }
            Self::Check { id, query } => {
                let holds = combined::holds(app, token, source, id, query).await?;
                Ok(FastResponse::Json(if holds { combined::HOLDS } else { combined::HOLDS_NOT }))
            }
            Self::Admit { query } => {
                gateway::admit(app, token, source, query).await.map(FastResponse::Admitted)
            }
        }
    }
}

/// Whether a byte of a query is one that RFC 3986, section 3.4 allows, or that percent-encoding produces.
const fn needs_no_decoding(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'%'
                | b'&'
                | b'='
                | b'+'
                | b':'
                | b','
                | b';'
                | b'!'
                | b'*'
                | b'\''
                | b'('
                | b')'
                | b'@'
                | b'/'
                | b'?'
                | b'$'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_registered_as_frequent() {
        let policies = crate::http::api().policies;
        for route in FastRoute::ROUTES {
            assert_eq!(policies.of(route), crate::http::RoutePolicy::Frequent, "{route}");
        }
    }

    #[test]
    fn targets_of_the_fast_path_are_recognised() {
        let of = FastRoute::of_target;
        assert_eq!(of("/api/v1/auth_token/validation"), Some(FastRoute::Validate));
        assert_eq!(of("/api/v1/auth_token/validation?x=y"), Some(FastRoute::Validate));
        assert_eq!(of("/auth_request"), Some(FastRoute::Admit { query: "" }));
        assert_eq!(
            of("/auth_request?permissions=%22a%22"),
            Some(FastRoute::Admit { query: "permissions=%22a%22" })
        );
        assert_eq!(
            of("/api/v1/users/me/combined_permissions/validation?permissions=%22a%22"),
            Some(FastRoute::Check { id: "me", query: "permissions=%22a%22" })
        );
    }

    #[test]
    fn other_targets_are_left_to_the_router() {
        for target in [
            "",
            "/",
            "*",
            "//auth_request",
            "/auth_request/",
            "/auth_request#x",
            "/Auth_request",
            "/auth%5Frequest",
            "http://host/auth_request",
            "/api/v1/auth_token/validation/",
            "/api/v1/auth_token/validation/batch",
            "/api/v1/users//combined_permissions/validation",
            "/api/v1/users/a/b/combined_permissions/validation",
            "/api/v1/users/m%65/combined_permissions/validation",
            "/api/v1/users/combined_permissions/validation",
            "/auth_request?permissions=\"a\"",
            "/auth_request?a#b",
            "/auth_request?\u{e4}",
            "/auth_request?a b",
        ] {
            assert_eq!(FastRoute::of_target(target), None, "{target}");
        }
    }
}
