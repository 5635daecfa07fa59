//! Docker's volume driver: answers dockerd's calls on `/run/docker/plugins/bulkhead.sock`.
//!
//! Owns the protocol and the counts of who has what mounted; volumes themselves are the [`VolumeService`]'s. It answers
//! before the daemon has joined its cluster, because a driver that does not answer freezes dockerd. Work goes on when
//! the client gives up, except that a mount nobody waits for any longer is undone.
//!
//! docs/docker.md lists what dockerd really sends; tests/it/driver.rs replays it.

mod activate;
mod lifecycle;
mod mounting;
mod queries;
mod reconcile;
mod status;
mod table;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::http::{Answer, BadRequest, Call, Handler};
use crate::locks::NameLocks;
use crate::options::InlineSpec;
use crate::service::{ServiceError, VolumeService};

pub use reconcile::{Pace, reconcile};
pub use table::{MountTable, Remaining};

/// How long the calls may take. Each is well below what dockerd allows, so that dockerd hears why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Create; dockerd allows 120 s.
    pub create: Duration,
    /// Mount; dockerd allows 120 s.
    pub mount: Duration,
    /// Remove and Unmount; dockerd allows 60 s.
    pub call: Duration,
    /// Get, List and Path, which wait for nothing but the daemon's start; dockerd allows 60 s.
    pub query: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            create: Duration::from_secs(90),
            mount: Duration::from_secs(90),
            call: Duration::from_secs(45),
            query: Duration::from_secs(20),
        }
    }
}

/// The volumes, once the daemon is ready to serve them.
pub type Gate = watch::Receiver<Option<Arc<dyn VolumeService>>>;

/// The driver.
pub struct Driver {
    gate: Gate,
    table: MountTable,
    locks: NameLocks,
    deadlines: Deadlines,
    dockerds: watch::Sender<u64>,
}

impl Driver {
    /// A driver that serves the volumes behind `gate` as soon as they are there.
    pub fn new(gate: Gate, table: MountTable, deadlines: Deadlines) -> Arc<Self> {
        Arc::new(Self {
            gate,
            table,
            locks: NameLocks::default(),
            deadlines,
            dockerds: watch::Sender::new(0),
        })
    }

    /// Changes whenever a new dockerd has come.
    pub fn dockerds(&self) -> watch::Receiver<u64> {
        self.dockerds.subscribe()
    }

    /// The counts.
    pub fn table(&self) -> &MountTable {
        &self.table
    }

    /// The volumes; waits for the daemon's start, bounded.
    async fn service(&self, patience: Duration) -> Result<Arc<dyn VolumeService>, ServiceError> {
        let mut gate = self.gate.clone();
        let ready = timeout(patience, gate.wait_for(Option::is_some)).await;
        match ready {
            Ok(Ok(service)) => service.clone(),
            _ => None,
        }
        .ok_or_else(|| {
            ServiceError::Unavailable(
                "bulkhead is still starting; `bulkhead status` or its log says what it waits for".to_owned(),
            )
        })
    }

    async fn lock(
        &self,
        name: &str,
        operation: &'static str,
        patience: Duration,
    ) -> Result<crate::locks::NameGuard, ServiceError> {
        self.locks.lock(name, operation, patience).await.map_err(|by| {
            ServiceError::Busy(format!(
                "volume {name:?} is busy: {by}; try again, `bulkhead volume inspect {name}` shows its state"
            ))
        })
    }
}

impl Handler for Driver {
    const CONTENT_TYPE: &'static str = wire::CONTENT_TYPE;

    async fn call(self: Arc<Self>, call: Call) -> Answer {
        let Some(endpoint) = Endpoint::of(&call.path) else {
            return failed(
                StatusCode::NOT_FOUND,
                format!(
                    "unknown endpoint {:?}; this is a Docker volume driver",
                    shown(&call.path)
                ),
            );
        };
        if call.method != Method::POST {
            return failed(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("{} is not how Docker calls a driver; use POST", call.method),
            );
        }
        tracing::trace!(path = call.path, "call");
        match endpoint {
            Endpoint::Activate => self.activate(),
            Endpoint::Capabilities => self.capabilities(&call.body),
            Endpoint::Create => self.create(&call.body).await,
            Endpoint::Remove => self.remove(&call.body).await,
            Endpoint::Mount => self.mount(&call.body).await,
            Endpoint::Unmount => self.unmount(&call.body).await,
            Endpoint::Get => self.get(&call.body).await,
            Endpoint::List => self.list(&call.body).await,
            Endpoint::Path => self.path(&call.body).await,
        }
    }

    fn refuse(&self, path: &str, problem: BadRequest) -> Answer {
        // Whatever was asked of Get was not understood, so "no such volume" would be a guess.
        if Endpoint::of(path) == Some(Endpoint::Get) {
            return Answer::Close;
        }
        failed(problem.status(), problem.to_string())
    }
}

/// The calls of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Activate,
    Capabilities,
    Create,
    Remove,
    Mount,
    Unmount,
    Get,
    List,
    Path,
}

impl Endpoint {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/Plugin.Activate" => Self::Activate,
            "/VolumeDriver.Capabilities" => Self::Capabilities,
            "/VolumeDriver.Create" => Self::Create,
            "/VolumeDriver.Remove" => Self::Remove,
            "/VolumeDriver.Mount" => Self::Mount,
            "/VolumeDriver.Unmount" => Self::Unmount,
            "/VolumeDriver.Get" => Self::Get,
            "/VolumeDriver.List" => Self::List,
            "/VolumeDriver.Path" => Self::Path,
            _ => return None,
        })
    }
}

/// A text from outside, cut to what a message can bear.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

fn answered(value: &impl Serialize) -> Answer {
    Answer::json(StatusCode::OK, value)
}

fn failed(status: StatusCode, error: String) -> Answer {
    Answer::json(status, &wire::Outcome { error })
}

/// Success or not. Docker shows the message to the person; 200 keeps its own prefix out of it.
fn outcome(result: Result<(), ServiceError>) -> Answer {
    let error = result.err().map(|error| error.to_string()).unwrap_or_default();
    failed(StatusCode::OK, error)
}

/// Reads a request. An empty body is what dockerd sends when it tries again after a connection broke: the name is
/// lost, and nothing may be assumed in its place.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Answer> {
    if body.is_empty() {
        return Err(failed(
            StatusCode::BAD_REQUEST,
            "the request has no body, so nothing was done; a connection to bulkhead broke before, try again"
                .to_owned(),
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        failed(
            StatusCode::BAD_REQUEST,
            format!(
                "the request is not what Docker sends: {}",
                shown(&error.to_string())
            ),
        )
    })
}

/// Reads the name in a request as a volume and perhaps a spec.
fn resolve(requested: &str) -> Result<InlineSpec, ServiceError> {
    InlineSpec::parse(requested).map_err(|errors| ServiceError::Invalid(errors.to_string()))
}
