//! `/status` and `/pools`: this node.

use hyper::Method;

use super::{Api, Routed, done, found, going_on, made, read};
use crate::http::Call;
use crate::service::{PoolRequest, ServiceError};

pub(super) async fn route(api: &Api, call: &Call, path: &[&str]) -> Result<Routed, ServiceError> {
    Ok(match (&call.method, path) {
        (&Method::GET, ["status"]) => found(&api.management()?.status().await?),
        (&Method::GET, ["pools"]) => found(&api.management()?.pools().await?),
        (&Method::POST, ["pools"]) => {
            let (node, request) = (api.management()?, read::<PoolRequest>(call)?);
            made(&going_on(async move { node.add_pool(&request).await }).await?)
        }
        (&Method::DELETE, ["pools", id]) => {
            let (node, id) = (api.management()?, (*id).to_owned());
            going_on(async move { node.remove_pool(&id).await }).await?;
            done()
        }
        (_, ["status" | "pools"] | ["pools", _]) => Routed::Method,
        _ => Routed::Nowhere,
    })
}
