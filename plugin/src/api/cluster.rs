//! `/cluster`, `/store`, `/nodes`, `/classes` and `/default-class`: the cluster that this node belongs to.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use hyper::StatusCode;

use super::error::{Errors, Refused};
use super::extract::{Json as Given, Name};
use super::{Services, going_on};
use crate::service::{
    ClassRequest, ClassView, ClusterView, DefaultClass, Done, LabelChange, NodeView, StoreView,
};

/// The cluster at a glance.
#[utoipa::path(get, path = "/cluster", tag = "cluster", responses((status = 200, body = ClusterView), Errors))]
pub(super) async fn cluster(State(services): State<Arc<Services>>) -> Result<Json<ClusterView>, Refused> {
    Ok(Json(services.management()?.cluster().await?))
}

/// The metadata store, asked right now.
#[utoipa::path(get, path = "/store", tag = "cluster", responses((status = 200, body = StoreView), Errors))]
pub(super) async fn store(State(services): State<Arc<Services>>) -> Result<Json<StoreView>, Refused> {
    Ok(Json(services.management()?.store().await?))
}

/// All nodes, by name.
#[utoipa::path(get, path = "/nodes", tag = "cluster", responses((status = 200, body = Vec<NodeView>), Errors))]
pub(super) async fn nodes(State(services): State<Arc<Services>>) -> Result<Json<Vec<NodeView>>, Refused> {
    Ok(Json(services.management()?.nodes().await?))
}

/// One node, with the volumes that it has to do with.
#[utoipa::path(
    get,
    path = "/nodes/{name}",
    tag = "cluster",
    params(("name" = String, Path, description = "its name, its id, or the beginning of its id")),
    responses((status = 200, body = NodeView), Errors)
)]
pub(super) async fn node(
    State(services): State<Arc<Services>>,
    Name(name): Name,
) -> Result<Json<NodeView>, Refused> {
    Ok(Json(services.management()?.node(&name).await?))
}

/// Sets and removes labels of a node.
#[utoipa::path(
    post,
    path = "/nodes/{name}/labels",
    tag = "cluster",
    params(("name" = String, Path, description = "its name, its id, or the beginning of its id")),
    request_body = LabelChange,
    responses((status = 200, body = NodeView), Errors)
)]
pub(super) async fn label(
    State(services): State<Arc<Services>>,
    Name(name): Name,
    Given(change): Given<LabelChange>,
) -> Result<Json<NodeView>, Refused> {
    let cluster = services.management()?;
    let changed = going_on(async move { cluster.label_node(&name, &change).await }).await?;
    Ok(Json(changed))
}

/// All storage classes, by name.
#[utoipa::path(get, path = "/classes", tag = "cluster", responses((status = 200, body = Vec<ClassView>), Errors))]
pub(super) async fn classes(State(services): State<Arc<Services>>) -> Result<Json<Vec<ClassView>>, Refused> {
    Ok(Json(services.management()?.classes().await?))
}

/// One storage class.
#[utoipa::path(
    get,
    path = "/classes/{name}",
    tag = "cluster",
    params(("name" = String, Path, description = "its name")),
    responses((status = 200, body = ClassView), Errors)
)]
pub(super) async fn class(
    State(services): State<Arc<Services>>,
    Name(name): Name,
) -> Result<Json<ClassView>, Refused> {
    Ok(Json(services.management()?.class(&name).await?))
}

/// Makes a storage class. A success if there is one that says the same.
#[utoipa::path(
    post,
    path = "/classes",
    tag = "cluster",
    request_body = ClassRequest,
    responses((status = 201, body = ClassView), Errors)
)]
pub(super) async fn create_class(
    State(services): State<Arc<Services>>,
    Given(request): Given<ClassRequest>,
) -> Result<(StatusCode, Json<ClassView>), Refused> {
    let cluster = services.management()?;
    let made = going_on(async move { cluster.create_class(&request).await }).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Deletes a storage class; refused while it is the default one. Its volumes stay as they are.
#[utoipa::path(
    delete,
    path = "/classes/{name}",
    tag = "cluster",
    params(("name" = String, Path, description = "its name")),
    responses((status = 200, body = Done), Errors)
)]
pub(super) async fn delete_class(
    State(services): State<Arc<Services>>,
    Name(name): Name,
) -> Result<Json<Done>, Refused> {
    let cluster = services.management()?;
    going_on(async move { cluster.delete_class(&name).await }).await?;
    Ok(Json(Done {}))
}

/// The storage class that volumes without one take.
#[utoipa::path(get, path = "/default-class", tag = "cluster", responses((status = 200, body = DefaultClass), Errors))]
pub(super) async fn default_class(
    State(services): State<Arc<Services>>,
) -> Result<Json<DefaultClass>, Refused> {
    let classes = services.management()?.classes().await?;
    let default = classes.into_iter().find(|class| class.default);
    Ok(Json(DefaultClass {
        class: default.map(|class| class.name),
    }))
}

/// Chooses the storage class that volumes without one take, or none.
#[utoipa::path(
    put,
    path = "/default-class",
    tag = "cluster",
    request_body = DefaultClass,
    responses((status = 200, body = Done), Errors)
)]
pub(super) async fn set_default_class(
    State(services): State<Arc<Services>>,
    Given(wanted): Given<DefaultClass>,
) -> Result<Json<Done>, Refused> {
    let cluster = services.management()?;
    going_on(async move { cluster.set_default_class(wanted.class.as_deref()).await }).await?;
    Ok(Json(Done {}))
}
