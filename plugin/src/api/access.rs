//! `/tokens`: who may use the API over the network.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use hyper::StatusCode;

use super::error::{Errors, Refused};
use super::extract::{Json as Given, Name};
use super::{Services, going_on};
use crate::service::{Done, NewTokenView, TokenRequest, TokenView};

/// All tokens, by name, without what makes them tokens.
#[utoipa::path(get, path = "/tokens", tag = "tokens", responses((status = 200, body = Vec<TokenView>), Errors))]
pub(super) async fn list(State(services): State<Arc<Services>>) -> Result<Json<Vec<TokenView>>, Refused> {
    Ok(Json(services.management()?.tokens().await?))
}

/// Makes a token. The answer is the only one that shows it.
#[utoipa::path(
    post,
    path = "/tokens",
    tag = "tokens",
    request_body = TokenRequest,
    responses((status = 201, body = NewTokenView), Errors)
)]
pub(super) async fn create(
    State(services): State<Arc<Services>>,
    Given(request): Given<TokenRequest>,
) -> Result<(StatusCode, Json<NewTokenView>), Refused> {
    let access = services.management()?;
    let made = going_on(async move { access.create_token(&request).await }).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Ends a token.
#[utoipa::path(
    delete,
    path = "/tokens/{name}",
    tag = "tokens",
    params(("name" = String, Path, description = "its name")),
    responses((status = 200, body = Done), Errors)
)]
pub(super) async fn delete(
    State(services): State<Arc<Services>>,
    Name(name): Name,
) -> Result<Json<Done>, Refused> {
    let access = services.management()?;
    going_on(async move { access.delete_token(&name).await }).await?;
    Ok(Json(Done {}))
}
