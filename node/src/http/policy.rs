//! The policy of a route beside its handler, stated once where the route is registered.

use std::{collections::HashMap, sync::Arc};

use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::app::App;

/// The kind of a route. All code that treats routes differently reads it here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoutePolicy {
    /// A route whose answers depend on keys, revocations and the store.
    #[default]
    Api,
    /// Like [`Self::Api`], but called for every request of every service: a log line would cost more than the
    /// answer.
    Frequent,
    /// Health probes, which are always answered.
    Health,
    /// Metrics, which are answered even if connections have run out.
    Metrics,
    /// Files that are part of the binary.
    Static,
}

impl RoutePolicy {
    /// Whether answers depend on keys and revocations: 503 until the node has synced, and `Palisade-Stale` if
    /// it is stale.
    #[must_use]
    pub const fn needs_synced(self) -> bool {
        matches!(self, Self::Api | Self::Frequent)
    }

    /// Whether answers are logged at `debug` only.
    #[must_use]
    pub const fn is_frequent(self) -> bool {
        matches!(self, Self::Frequent | Self::Health | Self::Metrics)
    }

    /// Whether a share of the requests is traced (`OTLP_SAMPLE`). Frequent ones are traced only if their callers
    /// trace them.
    #[must_use]
    pub const fn may_be_sampled(self) -> bool {
        matches!(self, Self::Api)
    }

    /// Whether requests are charged to `BODY_BUDGET`.
    #[must_use]
    pub const fn is_charged(self) -> bool {
        !matches!(self, Self::Health)
    }

    /// Whether the bodies of answers are made for each request, so that they are charged as well.
    #[must_use]
    pub const fn makes_bodies(self) -> bool {
        !matches!(self, Self::Static)
    }

    /// Whether the route is answered on connections beyond the limits.
    #[must_use]
    pub const fn is_in_reserve(self) -> bool {
        matches!(self, Self::Health | Self::Metrics)
    }
}

/// The policies of all routes, by their paths as the router names them.
#[derive(Debug, Clone, Default)]
pub struct Policies(HashMap<String, RoutePolicy>);

impl Policies {
    /// The policy of a route; of a path without a route, [`RoutePolicy::Api`].
    #[must_use]
    pub fn of(&self, path: &str) -> RoutePolicy {
        self.0.get(path).copied().unwrap_or_default()
    }

    /// Both sets of policies; those of `others` win.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }
}

impl<const N: usize> From<[(&str, RoutePolicy); N]> for Policies {
    fn from(policies: [(&str, RoutePolicy); N]) -> Self {
        Self(policies.into_iter().map(|(path, policy)| (path.to_owned(), policy)).collect())
    }
}

/// Routes with their documentation and policies.
#[derive(Default)]
pub struct Routes {
    /// The routes and their documentation.
    pub router: OpenApiRouter<Arc<App>>,
    /// The policies of the routes.
    pub policies: Policies,
}

impl Routes {
    /// Routes that are added to this document.
    #[must_use]
    pub fn documented_in(document: utoipa::openapi::OpenApi) -> Self {
        Self { router: OpenApiRouter::with_openapi(document), policies: Policies::default() }
    }

    /// Adds the handlers of one path (`routes!`).
    #[must_use]
    pub fn add(mut self, policy: RoutePolicy, handlers: UtoipaMethodRouter<Arc<App>>) -> Self {
        self.policies.0.extend(handlers.1.paths.keys().map(|path| (path.clone(), policy)));
        Self { router: self.router.routes(handlers), policies: self.policies }
    }

    /// Adds other routes under a prefix.
    #[must_use]
    pub fn nest(mut self, prefix: &str, nested: Self) -> Self {
        let policies = nested.policies.0.into_iter();
        self.policies.0.extend(policies.map(|(path, policy)| (format!("{prefix}{path}"), policy)));
        Self { router: self.router.nest(prefix, nested.router), policies: self.policies }
    }

    /// Adds other routes.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self { router: self.router.merge(other.router), policies: self.policies.and(other.policies) }
    }
}
