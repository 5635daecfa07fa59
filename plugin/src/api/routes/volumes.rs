//! `/volumes`.

use std::collections::BTreeMap;

use hyper::Method;
use serde::Deserialize;

use super::{Api, Routed, done, found, going_on, made, read};
use crate::http::Call;
use crate::nearest::nearest;
use crate::options::InlineSpec;
use crate::service::{ForceRequest, ServiceError, VerifyRequest, VolumeView};

/// Body of a volume's creation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateVolume {
    name: String,
    #[serde(default)]
    options: BTreeMap<String, String>,
}

pub(super) async fn route(api: &Api, call: &Call, path: &[&str]) -> Result<Routed, ServiceError> {
    Ok(match (&call.method, path) {
        (&Method::GET, []) => found(&api.volumes()?.list().await?),
        (&Method::POST, []) => made(&create(api, call).await?),
        (&Method::GET, [name]) => match api.volumes()?.get(name).await {
            Ok(view) => found(&view),
            Err(error) => return Err(suggest(api, error).await),
        },
        (&Method::DELETE, [name]) => {
            let (volumes, name) = (api.volumes()?, (*name).to_owned());
            match going_on(async move { volumes.remove(&name).await }).await {
                Ok(()) => done(),
                Err(error) => return Err(suggest(api, error).await),
            }
        }
        (&Method::POST, [name, "force-primary"]) => {
            let (repair, name) = (api.management()?, (*name).to_owned());
            let request = read::<ForceRequest>(call)?;
            match going_on(async move { repair.force_primary(&name, &request).await }).await {
                Ok(view) => found(&view),
                Err(error) => return Err(suggest(api, error).await),
            }
        }
        (method, [name, "verify"]) => match verify(api, method, call, name).await {
            Err(error) => return Err(suggest(api, error).await),
            Ok(routed) => routed,
        },
        (_, [] | [_] | [_, "force-primary"]) => Routed::Method,
        _ => Routed::Nowhere,
    })
}

async fn verify(api: &Api, method: &Method, call: &Call, name: &str) -> Result<Routed, ServiceError> {
    let repair = api.management()?;
    Ok(match *method {
        Method::GET => found(&repair.verify_status(name).await?),
        Method::POST => made(&repair.start_verify(name, &read::<VerifyRequest>(call)?).await?),
        Method::DELETE => {
            repair.stop_verify(name).await?;
            done()
        }
        _ => Routed::Method,
    })
}

async fn create(api: &Api, call: &Call) -> Result<VolumeView, ServiceError> {
    let (volumes, request) = (api.volumes()?, read::<CreateVolume>(call)?);
    let invalid = |error: &dyn std::fmt::Display| ServiceError::Invalid(error.to_string());
    let spec = InlineSpec::parse(&request.name).map_err(|errors| invalid(&errors))?;
    let options = request
        .options
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let wanted = spec.request_with(options).map_err(|errors| invalid(&errors))?;
    going_on(async move {
        let name = spec.name.as_str();
        volumes.create(name, &wanted).await?;
        volumes.get(name).await
    })
    .await
}

/// "No such volume" with the name that may have been meant.
async fn suggest(api: &Api, error: ServiceError) -> ServiceError {
    let (ServiceError::NotFound(name), Ok(volumes)) = (&error, api.volumes()) else {
        return error;
    };
    let known = volumes.list().await.unwrap_or_default();
    match nearest(name, known.iter().map(|volume| volume.name.as_str())) {
        Some(near) => ServiceError::NoSuch(format!(
            "there is no volume {name:?}; did you mean {near:?}? `bulkhead volume list` shows those that exist"
        )),
        None => error,
    }
}
