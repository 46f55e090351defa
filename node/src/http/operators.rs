//! Endpoints of operators: health and metrics.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;
use utoipa::{PartialSchema as _, ToSchema, openapi::Object};

use super::{
    openapi::one_of,
    respond::problem::{Problem, ProblemBody},
};
use crate::{app::App, metrics::text::Format, operator::exposition, storage::backend::StoreState};

/// The health of the node.
#[derive(Serialize, ToSchema)]
pub struct Health {
    #[schema(schema_with = statuses)]
    status: &'static str,
    /// The node's name.
    node: String,
    version: &'static str,
    /// The state of the store. Unless it is `up`, calls that need the store get 503.
    #[schema(schema_with = StoreState::schema)]
    store: StoreState,
    /// The state of the local journal: `ok`; `waiting`, while it holds revocations that the ledger does not
    /// have yet; or `full`, when the node refuses further revocations.
    #[schema(schema_with = journal_states)]
    journal: &'static str,
}

fn statuses() -> Object {
    one_of(["live", "ready"])
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
            store: app.backend.health().state,
            journal: match (log.full, log.failing) {
                (true, _) => "full",
                (false, true) => "waiting",
                (false, false) => "ok",
            },
        })
    }
}

/// Check liveness
#[utoipa::path(
    get, path = "/health/live", tag = "operators", operation_id = "check_liveness",
    responses((status = 200, description = "The process is running", body = Health)),
)]
pub async fn live(State(app): State<Arc<App>>) -> Json<Health> {
    Health::of(&app, "live")
}

/// Check readiness
#[utoipa::path(
    get, path = "/health/ready", tag = "operators", operation_id = "check_readiness",
    responses(
        (status = 200, description = "The node accepts traffic", body = Health),
        (status = 503, description = "The node is draining, or has not synced yet", body = ProblemBody),
    ),
)]
pub async fn ready(State(app): State<Arc<App>>) -> Result<Json<Health>, Problem> {
    if app.is_draining() {
        return Err(Problem::unavailable("draining", "The node is shutting down"));
    }
    if !app.sync.is_synced() {
        return Err(Problem::unavailable(
            "not_up",
            match app.backend.health().state {
                StoreState::Up => "The node reads what has been revoked",
                StoreState::Refused => "The database does not let this node work with it; see the log",
                _ => "The node has not reached the database yet",
            },
        ));
    }
    // The ping reopens a store file that has failed. A shared store that is down does not make the node
    // unready: it is down for all nodes, and they still answer about tokens.
    if !app.backend.is_shared() {
        app.stores.upkeep.ping().await?;
    }
    Ok(Health::of(&app, "ready"))
}

/// Get metrics for Prometheus
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
    let text = exposition::encode(&app, format).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, format.content_type()), (header::VARY, "accept")], text))
}
