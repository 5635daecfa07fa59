//! `/volumes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use hyper::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::error::{Errors, Refused};
use super::extract::{Json as Given, Name};
use super::{Services, going_on};
use crate::nearest::nearest;
use crate::options::InlineSpec;
use crate::service::{Done, ForceRequest, ForceView, ServiceError, VerifyRequest, VerifyView, VolumeView};

/// What a volume is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateVolume {
    /// Its name, or all of it as `size=10G,repl=2,name=v1`.
    name: String,
    /// Options, as Docker takes them.
    #[serde(default)]
    options: BTreeMap<String, String>,
}

/// All volumes, by name.
#[utoipa::path(get, path = "/volumes", tag = "volumes", responses((status = 200, body = Vec<VolumeView>), Errors))]
pub(super) async fn list(State(services): State<Arc<Services>>) -> Result<Json<Vec<VolumeView>>, Refused> {
    Ok(Json(services.volumes()?.list().await?))
}

/// Makes a volume. A success if there is one as it is asked for.
#[utoipa::path(
    post,
    path = "/volumes",
    tag = "volumes",
    request_body = CreateVolume,
    responses((status = 201, body = VolumeView), Errors)
)]
pub(super) async fn create(
    State(services): State<Arc<Services>>,
    Given(request): Given<CreateVolume>,
) -> Result<(StatusCode, Json<VolumeView>), Refused> {
    let volumes = services.volumes()?;
    let invalid = |error: &dyn std::fmt::Display| ServiceError::Invalid(error.to_string());
    let spec = InlineSpec::parse(&request.name).map_err(|errors| invalid(&errors))?;
    let options = request
        .options
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let wanted = spec.request_with(options).map_err(|errors| invalid(&errors))?;
    let made = going_on(async move {
        let name = spec.name.as_str();
        volumes.create(name, &wanted).await?;
        volumes.get(name).await
    });
    Ok((StatusCode::CREATED, Json(made.await?)))
}

/// One volume, with how much it takes.
#[utoipa::path(
    get,
    path = "/volumes/{name}",
    tag = "volumes",
    params(("name" = String, Path, description = "its name")),
    responses((status = 200, body = VolumeView), Errors)
)]
pub(super) async fn get(
    State(services): State<Arc<Services>>,
    Name(name): Name,
) -> Result<Json<VolumeView>, Refused> {
    let found = services.volumes()?.get(&name).await;
    Ok(Json(services.or_suggest(found).await?))
}

/// Deletes a volume and its data; refused while it is in use.
#[utoipa::path(
    delete,
    path = "/volumes/{name}",
    tag = "volumes",
    params(("name" = String, Path, description = "its name")),
    responses((status = 200, body = Done), Errors)
)]
pub(super) async fn delete(
    State(services): State<Arc<Services>>,
    Name(name): Name,
) -> Result<Json<Done>, Refused> {
    let volumes = services.volumes()?;
    let deleted = going_on(async move { volumes.remove(&name).await }).await;
    services.or_suggest(deleted).await?;
    Ok(Json(Done {}))
}

/// The last resort: lets one replica, which has to be on this node, go on alone; or only says what that may lose.
#[utoipa::path(
    post,
    path = "/volumes/{name}/force-primary",
    tag = "volumes",
    params(("name" = String, Path, description = "its name")),
    request_body = ForceRequest,
    responses((status = 200, body = ForceView), Errors)
)]
pub(super) async fn force_primary(
    State(services): State<Arc<Services>>,
    Name(name): Name,
    Given(request): Given<ForceRequest>,
) -> Result<Json<ForceView>, Refused> {
    let repair = services.management()?;
    let forced = going_on(async move { repair.force_primary(&name, &request).await }).await;
    Ok(Json(services.or_suggest(forced).await?))
}

/// How far the comparison of a volume's members is, or what came of the last one.
#[utoipa::path(
    get,
    path = "/volumes/{name}/verify",
    tag = "volumes",
    params(("name" = String, Path, description = "its name")),
    responses((status = 200, body = VerifyView), Errors)
)]
pub(super) async fn verify_status(
    State(services): State<Arc<Services>>,
    Name(name): Name,
) -> Result<Json<VerifyView>, Refused> {
    let found = services.management()?.verify_status(&name).await;
    Ok(Json(services.or_suggest(found).await?))
}

/// Starts to compare the members of a volume, which has to be attached on this node, while it is used.
#[utoipa::path(
    post,
    path = "/volumes/{name}/verify",
    tag = "volumes",
    params(("name" = String, Path, description = "its name")),
    request_body = VerifyRequest,
    responses((status = 201, body = VerifyView), Errors)
)]
pub(super) async fn start_verify(
    State(services): State<Arc<Services>>,
    Name(name): Name,
    Given(request): Given<VerifyRequest>,
) -> Result<(StatusCode, Json<VerifyView>), Refused> {
    let started = services.management()?.start_verify(&name, &request).await;
    Ok((StatusCode::CREATED, Json(services.or_suggest(started).await?)))
}

/// Ends the comparison when the piece that it is at is done.
#[utoipa::path(
    delete,
    path = "/volumes/{name}/verify",
    tag = "volumes",
    params(("name" = String, Path, description = "its name")),
    responses((status = 200, body = Done), Errors)
)]
pub(super) async fn stop_verify(
    State(services): State<Arc<Services>>,
    Name(name): Name,
) -> Result<Json<Done>, Refused> {
    let stopped = services.management()?.stop_verify(&name).await;
    services.or_suggest(stopped).await?;
    Ok(Json(Done {}))
}

impl Services {
    /// "No such volume" with the name that may have been meant.
    pub(super) async fn or_suggest<T>(&self, outcome: Result<T, ServiceError>) -> Result<T, ServiceError> {
        let error = match outcome {
            Err(error) => error,
            outcome => return outcome,
        };
        let (ServiceError::NotFound(name), Ok(volumes)) = (&error, self.volumes()) else {
            return Err(error);
        };
        let known = volumes.list().await.unwrap_or_default();
        Err(
            match nearest(name, known.iter().map(|volume| volume.name.as_str())) {
                Some(near) => ServiceError::NoSuch(format!(
                    "there is no volume {name:?}; did you mean {near:?}? `bulkhead volume list` shows those that exist"
                )),
                None => error,
            },
        )
    }
}
