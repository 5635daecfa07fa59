//! `/status` and `/pools`: this node.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use hyper::StatusCode;

use super::error::{Errors, Refused};
use super::extract::{Json as Given, Name};
use super::{Services, going_on};
use crate::service::{Done, PoolRequest, PoolView, RemovalRequest, RemovalView, RestartRequest, StatusView};

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

/// What is in a pool of this node, and what becomes of it where the pool is to be emptied.
#[utoipa::path(
    get,
    path = "/pools/{id}/removal",
    tag = "node",
    params(("id" = String, Path, description = "its id")),
    responses((status = 200, body = RemovalView), Errors)
)]
pub(super) async fn removal(
    State(services): State<Arc<Services>>,
    Name(id): Name,
) -> Result<Json<RemovalView>, Refused> {
    Ok(Json(services.management()?.removal(&id).await?))
}

/// Has a pool of this node emptied, by replicas on other nodes that are in sync before those in it go, and then taken out of use.
/// Goes on when the daemon is started again. Refused where a last copy would be lost.
#[utoipa::path(
    put,
    path = "/pools/{id}/removal",
    tag = "node",
    params(("id" = String, Path, description = "its id")),
    request_body = RemovalRequest,
    responses((status = 200, body = RemovalView), Errors)
)]
pub(super) async fn begin_removal(
    State(services): State<Arc<Services>>,
    Name(id): Name,
    Given(request): Given<RemovalRequest>,
) -> Result<Json<RemovalView>, Refused> {
    let node = services.management()?;
    let begun = going_on(async move { node.begin_removal(&id, &request).await }).await?;
    Ok(Json(begun))
}

/// Calls off that a pool of this node is emptied. What has been moved stays where it is.
#[utoipa::path(
    delete,
    path = "/pools/{id}/removal",
    tag = "node",
    params(("id" = String, Path, description = "its id")),
    responses((status = 200, body = Done), Errors)
)]
pub(super) async fn end_removal(
    State(services): State<Arc<Services>>,
    Name(id): Name,
) -> Result<Json<Done>, Refused> {
    let node = services.management()?;
    going_on(async move { node.end_removal(&id).await }).await?;
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
