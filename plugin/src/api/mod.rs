//! The JSON interface behind the command line, the web page and other programs: on a Unix socket for root, and over TCP with
//! TLS and a token. Paths carry a version. Owns the paths, the form of errors, and who may do what; what is asked for is done
//! by the services. Nobody without a token learns anything over TCP.

mod access;
mod auth;
mod cluster;
mod error;
mod events;
mod extract;
mod generate;
mod life;
mod node;
mod openapi;
mod path;
mod tls;
mod volumes;
mod web;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use tokio::sync::watch;
use tower::ServiceExt;

use crate::docker::Gate;
use crate::http::detached;
use crate::service::{Management, ServiceError, VolumeService};

pub use auth::Peer;
pub use error::{ErrorBody, ErrorCode, ErrorDetail};
pub use openapi::document;
pub use path::encode;
pub use tls::{TlsError, names as certificate_names, server_config};

/// The current version's prefix.
pub const PREFIX: &str = "/v1";

/// What is asked about the node and its cluster, once the daemon is ready.
pub type ManagementGate = watch::Receiver<Option<Arc<dyn Management>>>;

/// What the calls work with.
pub(crate) struct Services {
    volumes: Gate,
    management: ManagementGate,
    /// What the daemon does until it is ready.
    starting: watch::Receiver<String>,
}

/// Serves the interface.
#[derive(Clone)]
pub struct Api {
    router: Router,
}

impl Api {
    /// Serves what is behind the gates. `starting` says what the daemon does until they open.
    pub fn new(volumes: Gate, management: ManagementGate, starting: watch::Receiver<String>) -> Self {
        let services = Arc::new(Services {
            volumes,
            management,
            starting,
        });
        Self {
            router: openapi::router(&services),
        }
    }

    /// Answers a request that came from `peer`.
    pub async fn answer(self, mut request: Request<Incoming>, peer: Peer) -> Result<Response, Infallible> {
        request.extensions_mut().insert(peer);
        self.router.oneshot(request.map(Body::new)).await
    }
}

impl Services {
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
