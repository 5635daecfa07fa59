//! Errors as they go over the wire: a word for programs, a sentence for people, a fitting status.

use axum::Json;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoResponses, ToSchema};

use crate::http::BadRequest;
use crate::service::ServiceError;

/// An error as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// It.
    pub error: ErrorDetail,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// A word for programs.
    pub code: ErrorCode,
    /// A sentence for people.
    pub message: String,
}

/// Kinds of errors, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// No token, or not one that is known.
    Unauthorized,
    /// The token does not allow it.
    Forbidden,
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
            Self::Conflict | Self::Busy | Self::NoSpace => StatusCode::CONFLICT,
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
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

/// Why a call was not answered with what it asked for.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    body: ErrorBody,
}

impl Refused {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::with_status(code, code.status(), message)
    }

    pub(super) fn with_status(code: ErrorCode, status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            status,
            body: ErrorBody {
                error: ErrorDetail { code, message },
            },
        }
    }
}

impl From<ServiceError> for Refused {
    fn from(error: ServiceError) -> Self {
        Self::new(ErrorCode::from(&error), error.to_string())
    }
}

impl From<BadRequest> for Refused {
    fn from(problem: BadRequest) -> Self {
        Self::with_status(ErrorCode::Invalid, problem.status(), problem.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// The errors that every call may end with, for the OpenAPI document.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
pub(super) enum Errors {
    /// The request is not understood, or cannot be carried out as it is.
    #[response(status = 400)]
    Invalid(#[to_schema] ErrorBody),
    /// There is no token with the request, or none that is known (over TCP only).
    #[response(status = 401)]
    Unauthorized(#[to_schema] ErrorBody),
    /// The token does not allow it.
    #[response(status = 403)]
    Forbidden(#[to_schema] ErrorBody),
    /// There is no such thing.
    #[response(status = 404)]
    NotFound(#[to_schema] ErrorBody),
    /// The method is not known here.
    #[response(status = 405)]
    Method(#[to_schema] ErrorBody),
    /// The request was not there in time.
    #[response(status = 408)]
    TooSlow(#[to_schema] ErrorBody),
    /// It exists and differs, is in use, something else is under way, or there is no room.
    #[response(status = 409)]
    Conflict(#[to_schema] ErrorBody),
    /// The request is too long.
    #[response(status = 413)]
    TooLarge(#[to_schema] ErrorBody),
    /// It was tried and did not work.
    #[response(status = 500)]
    Failed(#[to_schema] ErrorBody),
    /// The daemon or its store is not ready.
    #[response(status = 503)]
    Unavailable(#[to_schema] ErrorBody),
}
