//! `/generate`: what makes machines nodes of one cluster. Looks at nothing of this one, changes nothing and keeps nothing: what was
//! asked for comes in the body and goes back in it, so that no secret stands in an address or a log.

use axum::Json;

use super::error::{Errors, Refused};
use super::extract::Json as Given;
use crate::cli::{forms, generated};
use crate::service::{FormView, GenerateRequest, GeneratedView};

/// The forms in which a node can be printed, with the flags of each.
#[utoipa::path(get, path = "/generate", tag = "cluster", responses((status = 200, body = Vec<FormView>), Errors))]
pub(super) async fn list() -> Json<Vec<FormView>> {
    Json(forms())
}

/// Prints what makes machines nodes of one cluster, as `bulkhead generate` does.
#[utoipa::path(
    post,
    path = "/generate",
    tag = "cluster",
    request_body = GenerateRequest,
    responses((status = 200, body = GeneratedView), Errors)
)]
pub(super) async fn generate(Given(request): Given<GenerateRequest>) -> Result<Json<GeneratedView>, Refused> {
    let text = generated(&request)?;
    Ok(Json(GeneratedView { text }))
}
