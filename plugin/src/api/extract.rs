//! What a request carries, read within limits and refused with a sentence.

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use hyper::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::{ErrorCode, Refused};
use crate::http::read_body;

/// The JSON in the body of a request.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        let body = read_body(request.into_body()).await?;
        let refused = |error: serde_json::Error| {
            Refused::new(
                ErrorCode::Invalid,
                format!("the request is not understood: {error}"),
            )
        };
        // Fields without their names are no request, though they could be taken for one.
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&body).map_err(refused)?;
        serde_json::from_value(serde_json::Value::Object(fields))
            .map(Self)
            .map_err(refused)
    }
}

/// The name in the path of a request.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            // Bytes that are no text name nothing.
            Err(_) => Err(Refused::new(
                ErrorCode::NotFound,
                "there is nothing of this name: it is no text in UTF-8",
            )),
        }
    }
}
