//! Which path does what.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::path::decode;
use super::{Api, ErrorCode, PREFIX, refusal};
use crate::http::{Answer, Call, detached};
use crate::options::InlineSpec;
use crate::service::{NodeService, PoolRequest, ServiceError, VolumeService};

/// Body of a volume's creation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateVolume {
    name: String,
    #[serde(default)]
    options: BTreeMap<String, String>,
}

pub(super) async fn route(api: &Api, call: &Call) -> Result<Answer, ServiceError> {
    let Some(segments) = segments(&call.path) else {
        return Ok(nowhere(call));
    };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    Ok(match (&call.method, segments.as_slice()) {
        (&Method::GET, ["status"]) => Answer::json(StatusCode::OK, &api.node()?.status().await?),
        (&Method::GET, ["pools"]) => Answer::json(StatusCode::OK, &api.node()?.pools().await?),
        (&Method::POST, ["pools"]) => {
            let (node, request) = (api.node()?, read::<PoolRequest>(call)?);
            let pool = going_on(async move { node.add_pool(&request).await }).await?;
            Answer::json(StatusCode::CREATED, &pool)
        }
        (&Method::DELETE, ["pools", id]) => {
            let (node, id) = (api.node()?, (*id).to_owned());
            going_on(async move { node.remove_pool(&id).await }).await?;
            Answer::json(StatusCode::OK, &json!({}))
        }
        (&Method::GET, ["volumes"]) => Answer::json(StatusCode::OK, &api.volumes()?.list().await?),
        (&Method::POST, ["volumes"]) => {
            let (volumes, request) = (api.volumes()?, read::<CreateVolume>(call)?);
            let invalid = |error: &dyn std::fmt::Display| ServiceError::Invalid(error.to_string());
            let spec = InlineSpec::parse(&request.name).map_err(|errors| invalid(&errors))?;
            let options = request
                .options
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()));
            let wanted = spec.request_with(options).map_err(|errors| invalid(&errors))?;
            let view = going_on(async move {
                let name = spec.name.as_str();
                volumes.create(name, &wanted).await?;
                volumes.get(name).await
            })
            .await?;
            Answer::json(StatusCode::CREATED, &view)
        }
        (&Method::GET, ["volumes", name]) => Answer::json(StatusCode::OK, &api.volumes()?.get(name).await?),
        (&Method::DELETE, ["volumes", name]) => {
            let (volumes, name) = (api.volumes()?, (*name).to_owned());
            going_on(async move { volumes.remove(&name).await }).await?;
            Answer::json(StatusCode::OK, &json!({}))
        }
        (_, ["status" | "pools" | "volumes"] | ["pools" | "volumes", _]) => refusal(
            ErrorCode::Invalid,
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{} cannot be done to {}", call.method, call.path),
        ),
        _ => nowhere(call),
    })
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

    fn node(&self) -> Result<Arc<dyn NodeService>, ServiceError> {
        self.node.borrow().clone().ok_or_else(|| self.not_ready())
    }

    fn not_ready(&self) -> ServiceError {
        ServiceError::Unavailable(format!(
            "the daemon is still starting: {}; try again in a while",
            *self.starting.borrow()
        ))
    }
}
