//! `/cluster`, `/store`, `/nodes`, `/classes` and `/default-class`: the cluster that this node belongs to.

use hyper::Method;

use super::{Api, Routed, done, found, going_on, made, read};
use crate::http::Call;
use crate::service::{ClassRequest, DefaultClass, LabelChange, ServiceError};

pub(super) async fn route(api: &Api, call: &Call, path: &[&str]) -> Result<Routed, ServiceError> {
    Ok(match (&call.method, path) {
        (&Method::GET, ["cluster"]) => found(&api.management()?.cluster().await?),
        (&Method::GET, ["store"]) => found(&api.management()?.store().await?),
        (&Method::GET, ["nodes"]) => found(&api.management()?.nodes().await?),
        (&Method::GET, ["nodes", name]) => found(&api.management()?.node(name).await?),
        (&Method::POST, ["nodes", name, "labels"]) => {
            let (cluster, name) = (api.management()?, (*name).to_owned());
            let change = read::<LabelChange>(call)?;
            found(&going_on(async move { cluster.label_node(&name, &change).await }).await?)
        }
        (&Method::GET, ["classes"]) => found(&api.management()?.classes().await?),
        (&Method::POST, ["classes"]) => {
            let (cluster, request) = (api.management()?, read::<ClassRequest>(call)?);
            made(&going_on(async move { cluster.create_class(&request).await }).await?)
        }
        (&Method::GET, ["classes", name]) => found(&api.management()?.class(name).await?),
        (&Method::DELETE, ["classes", name]) => {
            let (cluster, name) = (api.management()?, (*name).to_owned());
            going_on(async move { cluster.delete_class(&name).await }).await?;
            done()
        }
        (&Method::GET, ["default-class"]) => {
            let classes = api.management()?.classes().await?;
            let default = classes.into_iter().find(|class| class.default);
            found(&DefaultClass {
                class: default.map(|class| class.name),
            })
        }
        (&Method::PUT, ["default-class"]) => {
            let (cluster, wanted) = (api.management()?, read::<DefaultClass>(call)?);
            going_on(async move { cluster.set_default_class(wanted.class.as_deref()).await }).await?;
            done()
        }
        (_, ["cluster" | "store" | "nodes" | "classes" | "default-class"] | ["nodes" | "classes", _])
        | (_, ["nodes", _, "labels"]) => Routed::Method,
        _ => Routed::Nowhere,
    })
}
