//! `GET /api/v1/cluster`: the peers of this node, and its freshness.

use std::sync::Arc;

use axum::{Json, extract::State};
use schema::permission::{ALL_ALL, CLUSTER_READ};

use crate::{
    app::App,
    http::{
        extract::authority::CallerAllowStale,
        respond::problem::{Problem, ProblemBody},
    },
    operator::status::ClusterView,
};

/// Get the cluster as this node sees it
///
/// Needs `cluster_read` or `all_all`. A stale node answers this call even if it refuses all others.
#[utoipa::path(
    get, path = "/api/v1/cluster", tag = "operators", operation_id = "get_cluster",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "This node and its peers", body = ClusterView),
        (status = 403, description = "The caller lacks `cluster_read` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn show(
    State(app): State<Arc<App>>,
    CallerAllowStale(caller): CallerAllowStale,
) -> Result<Json<ClusterView>, Problem> {
    caller.require_any(&[CLUSTER_READ, ALL_ALL]).await?;
    Ok(Json(ClusterView::of(&app)))
}
