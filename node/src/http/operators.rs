//! What operators watch: health and metrics.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;
use utoipa::{ToSchema, openapi::Object};

use super::{
    docs::one_of,
    problem::{Problem, ProblemBody},
};
use crate::{app::App, metrics::text::Format};

/// How the node is.
#[derive(Serialize, ToSchema)]
pub struct Health {
    #[schema(schema_with = statuses)]
    status: &'static str,
    /// The node's name.
    node: String,
    version: &'static str,
    /// What needs the store is answered 503 unless it is up.
    #[schema(schema_with = store_states)]
    store: &'static str,
    /// `ok`, `waiting` (for the store, with revocations that the ledger does not have yet) or `full`
    /// (then revocations are refused, too).
    #[schema(schema_with = journal_states)]
    journal: &'static str,
}

fn statuses() -> Object {
    one_of(["live", "ready"])
}

/// The states of the store.
pub fn store_states() -> Object {
    one_of(["up", "connecting", "down", "refused"])
}

fn journal_states() -> Object {
    one_of(["ok", "waiting", "full"])
}

impl Health {
    fn of(app: &App, status: &'static str) -> Json<Self> {
        let log = app.log.state();
        Json(Self {
            status,
            node: app.identity.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            store: app.backing.health().state,
            journal: match (log.full, log.failing) {
                (true, _) => "full",
                (false, true) => "waiting",
                (false, false) => "ok",
            },
        })
    }
}

/// Whether the process lives
#[utoipa::path(
    get, path = "/health/live", tag = "operators", operation_id = "check_liveness",
    responses((status = 200, description = "The process lives", body = Health)),
)]
pub async fn live(State(app): State<Arc<App>>) -> Json<Health> {
    Health::of(&app, "live")
}

/// Whether the node takes traffic
#[utoipa::path(
    get, path = "/health/ready", tag = "operators", operation_id = "check_readiness",
    responses(
        (status = 200, description = "The node takes traffic", body = Health),
        (status = 503, description = "Draining, or not up yet", body = ProblemBody),
    ),
)]
pub async fn ready(State(app): State<Arc<App>>) -> Result<Json<Health>, Problem> {
    if app.is_draining() {
        return Err(Problem::unavailable("draining", "The node is shutting down"));
    }
    if !app.is_informed() {
        return Err(Problem::unavailable(
            "not_up",
            match app.backing.health().state {
                "up" => "The node reads what has been revoked",
                "refused" => "The database does not let this node work with it; see the log",
                _ => "The node has not reached the database yet",
            },
        ));
    }
    // A file that failed is opened again by this. A shared store that is down is no reason to take
    // traffic away: it is down for all nodes, and they go on answering about tokens.
    if !app.backing.is_shared() {
        app.stores.upkeep.ping().await?;
    }
    Ok(Health::of(&app, "ready"))
}

/// Metrics for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "operators", operation_id = "get_metrics",
    responses(
        (status = 200, description = "Prometheus text 0.0.4, or OpenMetrics 1.0 when Accept prefers it", content(
            (String = "text/plain"), (String = "application/openmetrics-text"),
        )),
    ),
)]
pub async fn metrics(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, StatusCode> {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::preferred(accept);
    let text = app.metrics.encode(&app, format).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, format.content_type()), (header::VARY, "accept")], text))
}
