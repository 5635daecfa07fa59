//! Every path in one place: which function answers it, and the OpenAPI document that says so, made from the same list.

use std::sync::Arc;

use axum::middleware::from_fn_with_state;
use axum::{Json, Router};
use hyper::{Method, StatusCode, Uri};
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ErrorBody, ErrorCode, ErrorDetail, Refused};
use super::{PREFIX, Services, access, auth, cluster, events, generate, life, node, volumes, web};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Bulkhead",
        description = "Highly available volumes for Docker and Swarm. Everything that the command line can do. On the Unix socket of a node for root; over TCP with TLS and a token (`bulkhead token create`): the role viewer allows to look, admin everything.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "node", description = "The node that is asked"),
        (name = "volumes", description = "Volumes"),
        (name = "cluster", description = "Nodes, storage classes and the metadata store"),
        (name = "events", description = "What is wrong, what happened, and figures"),
        (name = "tokens", description = "Who may use this over the network; only for the role admin")
    ),
    components(schemas(ErrorBody, ErrorDetail, ErrorCode)),
    security(("token" = [])),
    modifiers(&Token)
)]
struct Head;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut Document) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
    }
}

fn paths() -> OpenApiRouter<Arc<Services>> {
    let current = OpenApiRouter::new()
        .routes(routes!(node::status))
        .routes(routes!(node::pools, node::add_pool))
        .routes(routes!(node::remove_pool))
        .routes(routes!(node::removal, node::begin_removal, node::end_removal))
        .routes(routes!(node::restart))
        .routes(routes!(volumes::list, volumes::create))
        .routes(routes!(volumes::get, volumes::delete, life::update_volume))
        .routes(routes!(volumes::force_primary))
        .routes(routes!(
            volumes::verify_status,
            volumes::start_verify,
            volumes::stop_verify
        ))
        .routes(routes!(cluster::cluster))
        .routes(routes!(
            life::rebalancing,
            life::rebalance,
            life::stop_rebalancing
        ))
        .routes(routes!(cluster::store))
        .routes(routes!(cluster::nodes))
        .routes(routes!(cluster::node))
        .routes(routes!(cluster::label))
        .routes(routes!(life::duty, life::set_duty))
        .routes(routes!(cluster::classes, cluster::create_class))
        .routes(routes!(cluster::class, cluster::delete_class))
        .routes(routes!(cluster::default_class, cluster::set_default_class))
        .routes(routes!(events::io))
        .routes(routes!(events::alerts))
        .routes(routes!(events::events))
        .routes(routes!(events::stream))
        .routes(routes!(access::list, access::create))
        .routes(routes!(access::delete))
        .routes(routes!(generate::list, generate::generate))
        .routes(routes!(openapi));
    OpenApiRouter::with_openapi(Head::openapi())
        .nest(PREFIX, current)
        .routes(routes!(events::metrics))
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "node",
    responses((status = 200, content_type = "application/json", body = serde_json::Value), super::error::Errors)
)]
async fn openapi() -> Json<Document> {
    Json(document())
}

/// The OpenAPI document of the interface.
pub fn document() -> Document {
    paths().split_for_parts().1
}

/// All paths, behind the check of who asks.
pub(super) fn router(services: &Arc<Services>) -> Router {
    paths()
        .split_for_parts()
        .0
        .merge(web::router())
        .fallback(nowhere)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(services.clone(), auth::check))
        .with_state(services.clone())
}

async fn nowhere(uri: Uri) -> Refused {
    let path: String = uri.path().chars().take(100).collect();
    let message =
        format!("there is no {path:?} here; are the daemon and the command line of the same version?");
    Refused::new(ErrorCode::NotFound, message)
}

async fn no_such_method(method: Method, uri: Uri) -> Refused {
    let path: String = uri.path().chars().take(100).collect();
    Refused::with_status(
        ErrorCode::Invalid,
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} cannot be done to {path}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_every_path_and_the_page_lists_them() {
        let document = document();
        let page = include_str!("../../../docs/api.md");
        assert!(document.paths.paths.len() > 15);
        for path in document.paths.paths.keys() {
            assert!(page.contains(&format!("`{path}`")), "docs/api.md lacks {path}");
        }
    }
}
