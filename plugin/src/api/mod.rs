//! The JSON interface behind the command line, on a Unix socket for root. Paths carry a version. Owns the paths and the
//! form of errors; what is asked for is done by the services.

mod path;
mod routes;

use std::sync::Arc;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::docker::Gate;
use crate::http::{Answer, BadRequest, Call, Handler};
use crate::service::{Management, ServiceError};

pub use path::encode;

/// The current version's prefix.
pub const PREFIX: &str = "/v1";

/// What is asked about the node and its cluster, once the daemon is ready.
pub type ManagementGate = watch::Receiver<Option<Arc<dyn Management>>>;

/// Serves the interface.
pub struct Api {
    volumes: Gate,
    management: ManagementGate,
    /// What the daemon does until it is ready.
    starting: watch::Receiver<String>,
}

/// An error as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// It.
    pub error: ErrorDetail,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A word for programs.
    pub code: ErrorCode,
    /// A sentence for people.
    pub message: String,
}

/// Kinds of errors, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// There is no such thing.
    NotFound,
    /// It exists and differs.
    Conflict,
    /// It is in use, or something else is under way.
    Busy,
    /// The request cannot be carried out as it is.
    Invalid,
    /// There is no room.
    NoSpace,
    /// The daemon or its store is not ready.
    Unavailable,
    /// It was tried and did not work.
    Failed,
}

impl ErrorCode {
    fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Conflict | Self::Busy => StatusCode::CONFLICT,
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<&ServiceError> for ErrorCode {
    fn from(error: &ServiceError) -> Self {
        match error {
            ServiceError::NotFound(_) | ServiceError::NoSuch(_) => Self::NotFound,
            ServiceError::Conflict(_) => Self::Conflict,
            ServiceError::Busy(_) => Self::Busy,
            ServiceError::Invalid(_) => Self::Invalid,
            ServiceError::NoSpace(_) => Self::NoSpace,
            ServiceError::Unavailable(_) => Self::Unavailable,
            ServiceError::Failed(_) => Self::Failed,
        }
    }
}

impl Api {
    /// Serves what is behind the gates. `starting` says what the daemon does until they open.
    pub fn new(volumes: Gate, management: ManagementGate, starting: watch::Receiver<String>) -> Arc<Self> {
        Arc::new(Self {
            volumes,
            management,
            starting,
        })
    }
}

fn refusal(code: ErrorCode, status: StatusCode, message: String) -> Answer {
    Answer::json(
        status,
        &ErrorBody {
            error: ErrorDetail { code, message },
        },
    )
}

impl Handler for Api {
    const CONTENT_TYPE: &'static str = "application/json";

    async fn call(self: Arc<Self>, call: Call) -> Answer {
        match routes::route(&self, &call).await {
            Ok(answer) => answer,
            Err(error) => {
                let code = ErrorCode::from(&error);
                refusal(code, code.status(), error.to_string())
            }
        }
    }

    fn refuse(&self, _path: &str, problem: BadRequest) -> Answer {
        refusal(ErrorCode::Invalid, problem.status(), problem.to_string())
    }
}
