//! `/nodes/{name}/duty`, `/cluster/rebalance` and changes of volumes: the life of nodes and volumes, and where replicas are.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::error::{Errors, Refused};
use super::extract::{Json as Given, Name};
use super::{Services, going_on};
use crate::service::{
    Done, DutyRequest, DutyView, RebalanceRequest, RebalanceView, VolumeUpdate, VolumeView,
};

/// What is wanted of a node, and what is left to be done until that is so.
#[utoipa::path(
    get,
    path = "/nodes/{name}/duty",
    tag = "cluster",
    params(("name" = String, Path, description = "its name, its id, or the beginning of its id")),
    responses((status = 200, body = DutyView), Errors)
)]
pub(super) async fn duty(
    State(services): State<Arc<Services>>,
    Name(name): Name,
) -> Result<Json<DutyView>, Refused> {
    Ok(Json(services.management()?.duty(&name).await?))
}

/// Drains a node, takes it under maintenance, gives it up for good, or takes it back into full service. Refused where something
/// that is used, or the last of something, would be lost.
#[utoipa::path(
    put,
    path = "/nodes/{name}/duty",
    tag = "cluster",
    params(("name" = String, Path, description = "its name, its id, or the beginning of its id")),
    request_body = DutyRequest,
    responses((status = 200, body = DutyView), Errors)
)]
pub(super) async fn set_duty(
    State(services): State<Arc<Services>>,
    Name(name): Name,
    Given(request): Given<DutyRequest>,
) -> Result<Json<DutyView>, Refused> {
    let life = services.management()?;
    let changed = going_on(async move { life.set_duty(&name, &request).await }).await?;
    Ok(Json(changed))
}

/// Changes how many replicas a volume is to have, and where they may be. They are made and removed while it is in use.
#[utoipa::path(
    patch,
    path = "/volumes/{name}",
    tag = "volumes",
    params(("name" = String, Path, description = "its name")),
    request_body = VolumeUpdate,
    responses((status = 200, body = VolumeView), Errors)
)]
pub(super) async fn update_volume(
    State(services): State<Arc<Services>>,
    Name(name): Name,
    Given(update): Given<VolumeUpdate>,
) -> Result<Json<VolumeView>, Refused> {
    let life = services.management()?;
    let changed = going_on(async move { life.update_volume(&name, &update).await }).await;
    Ok(Json(services.or_suggest(changed).await?))
}

/// Replicas that are being moved from fuller to emptier pools, or are to be, and how full those are.
#[utoipa::path(get, path = "/cluster/rebalance", tag = "cluster", responses((status = 200, body = RebalanceView), Errors))]
pub(super) async fn rebalancing(
    State(services): State<Arc<Services>>,
) -> Result<Json<RebalanceView>, Refused> {
    Ok(Json(services.management()?.rebalancing().await?))
}

/// Has replicas moved from fuller to emptier pools, a few at a time, each in sync in its new place before it goes from the old one;
/// or only says which. It goes on whichever node dies. Refused while some are being moved.
#[utoipa::path(
    post,
    path = "/cluster/rebalance",
    tag = "cluster",
    request_body = RebalanceRequest,
    responses((status = 200, body = RebalanceView), Errors)
)]
pub(super) async fn rebalance(
    State(services): State<Arc<Services>>,
    Given(request): Given<RebalanceRequest>,
) -> Result<Json<RebalanceView>, Refused> {
    let balance = services.management()?;
    let begun = going_on(async move { balance.rebalance(&request).await }).await?;
    Ok(Json(begun))
}

/// Calls that off. What is being copied already is moved to the end.
#[utoipa::path(delete, path = "/cluster/rebalance", tag = "cluster", responses((status = 200, body = Done), Errors))]
pub(super) async fn stop_rebalancing(State(services): State<Arc<Services>>) -> Result<Json<Done>, Refused> {
    let balance = services.management()?;
    going_on(async move { balance.stop_rebalancing().await }).await?;
    Ok(Json(Done {}))
}
