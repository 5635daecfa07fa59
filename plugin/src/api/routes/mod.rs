//! Which path does what.

mod cluster;
mod node;
mod volumes;

use std::sync::Arc;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::path::decode;
use super::{Api, ErrorCode, PREFIX, refusal};
use crate::http::{Answer, Call, detached};
use crate::service::{Management, ServiceError, VolumeService};

/// What can be asked for at a path.
enum Routed {
    /// This was answered.
    Answer(Answer),
    /// There is something at this path, and it does not know this method.
    Method,
    /// There is nothing at this path.
    Nowhere,
}

pub(super) async fn route(api: &Api, call: &Call) -> Result<Answer, ServiceError> {
    let Some(segments) = segments(&call.path) else {
        return Ok(nowhere(call));
    };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let routed = match segments.as_slice() {
        ["status" | "pools", ..] => node::route(api, call, &segments).await?,
        ["volumes", below @ ..] => volumes::route(api, call, below).await?,
        _ => cluster::route(api, call, &segments).await?,
    };
    Ok(match routed {
        Routed::Answer(answer) => answer,
        Routed::Nowhere => nowhere(call),
        Routed::Method => refusal(
            ErrorCode::Invalid,
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{} cannot be done to {}", call.method, call.path),
        ),
    })
}

/// What was asked for.
fn found(value: &impl Serialize) -> Routed {
    Routed::Answer(Answer::json(StatusCode::OK, value))
}

/// What was made.
fn made(value: &impl Serialize) -> Routed {
    Routed::Answer(Answer::json(StatusCode::CREATED, value))
}

/// What was done has nothing to show.
fn done() -> Routed {
    found(&serde_json::json!({}))
}

fn nowhere(call: &Call) -> Answer {
    let path: String = call.path.chars().take(100).collect();
    refusal(
        ErrorCode::NotFound,
        StatusCode::NOT_FOUND,
        format!("there is no {path:?} here; are the daemon and the command line of the same version?"),
    )
}

fn segments(path: &str) -> Option<Vec<String>> {
    path.strip_prefix(PREFIX)?
        .strip_prefix('/')?
        .split('/')
        .map(decode)
        .collect()
}

fn read<'a, T: Deserialize<'a>>(call: &'a Call) -> Result<T, ServiceError> {
    serde_json::from_slice(&call.body)
        .map_err(|error| ServiceError::Invalid(format!("the request is not understood: {error}")))
}

/// Work that changes something goes on when the client gives up.
async fn going_on<T: Send + 'static>(
    work: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
) -> Result<T, ServiceError> {
    detached(work).await.unwrap_or_else(|| {
        Err(ServiceError::Failed(
            "it broke off; the daemon's log says why".to_owned(),
        ))
    })
}

impl Api {
    fn volumes(&self) -> Result<Arc<dyn VolumeService>, ServiceError> {
        self.volumes.borrow().clone().ok_or_else(|| self.not_ready())
    }

    fn management(&self) -> Result<Arc<dyn Management>, ServiceError> {
        self.management.borrow().clone().ok_or_else(|| self.not_ready())
    }

    fn not_ready(&self) -> ServiceError {
        ServiceError::Unavailable(format!(
            "the daemon is still starting: {}; try again in a while",
            *self.starting.borrow()
        ))
    }
}
