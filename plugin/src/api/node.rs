//! `/status` and `/pools`: this node.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use hyper::StatusCode;

use super::error::{Errors, Refused};
use super::extract::{Json as Given, Name};
use super::{Services, going_on};
use crate::service::{Done, PoolRequest, PoolView, RestartRequest, StatusView};

/// This node and all that it knows, on one screen.
#[utoipa::path(get, path = "/status", tag = "node", responses((status = 200, body = StatusView), Errors))]
pub(super) async fn status(State(services): State<Arc<Services>>) -> Result<Json<StatusView>, Refused> {
    Ok(Json(services.management()?.status().await?))
}

/// The pools of this node.
#[utoipa::path(get, path = "/pools", tag = "node", responses((status = 200, body = Vec<PoolView>), Errors))]
pub(super) async fn pools(State(services): State<Arc<Services>>) -> Result<Json<Vec<PoolView>>, Refused> {
    Ok(Json(services.management()?.pools().await?))
}

/// Makes a pool of a device or a file of this node; refused if there is something on it.
#[utoipa::path(
    post,
    path = "/pools",
    tag = "node",
    request_body = PoolRequest,
    responses((status = 201, body = PoolView), Errors)
)]
pub(super) async fn add_pool(
    State(services): State<Arc<Services>>,
    Given(request): Given<PoolRequest>,
) -> Result<(StatusCode, Json<PoolView>), Refused> {
    let node = services.management()?;
    let made = going_on(async move { node.add_pool(&request).await }).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Takes a pool of this node out of use; refused while volumes are stored on it.
#[utoipa::path(
    delete,
    path = "/pools/{id}",
    tag = "node",
    params(("id" = String, Path, description = "its id")),
    responses((status = 200, body = Done), Errors)
)]
pub(super) async fn remove_pool(
    State(services): State<Arc<Services>>,
    Name(id): Name,
) -> Result<Json<Done>, Refused> {
    let node = services.management()?;
    going_on(async move { node.remove_pool(&id).await }).await?;
    Ok(Json(Done {}))
}

/// Has the daemon start again, from the program that lies in its place now. Containers that use its volumes wait meanwhile and
/// notice nothing else; refused where that would not be so. Answered before it ends: `restarts` in the status tells when it is
/// there again, and `resuming` which volumes are still waited for.
#[utoipa::path(
    post,
    path = "/restart",
    tag = "node",
    request_body = RestartRequest,
    responses((status = 202, body = Done), Errors)
)]
pub(super) async fn restart(
    State(services): State<Arc<Services>>,
    Given(request): Given<RestartRequest>,
) -> Result<(StatusCode, Json<Done>), Refused> {
    let node = services.management()?;
    going_on(async move { node.restart(&request).await }).await?;
    Ok((StatusCode::ACCEPTED, Json(Done {})))
}
