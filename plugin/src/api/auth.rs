//! Who asks, and whether they may. On the Unix socket it is root; over TCP every request needs a token, whatever it asks for,
//! and without one learns nothing, not even which paths there are.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, HeaderValue, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Method, StatusCode};

use super::error::{ErrorCode, Refused};
use super::web::is_page;
use super::{PREFIX, Services};
use crate::service::Role;

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The Unix socket, which only root can open.
    Root,
    /// The network.
    Network,
}

/// Lets through what its sender may do.
pub(super) async fn check(State(services): State<Arc<Services>>, request: Request, next: Next) -> Response {
    let allowed = match request.extensions().get::<Peer>() {
        Some(Peer::Root) => Ok(()),
        _ if is_page(request.method(), request.uri().path()) => Ok(()),
        _ => allowed(&services, &request),
    };
    let mut response = match allowed {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    // What is told to one must not be kept for others.
    response
        .headers_mut()
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

fn allowed(services: &Services, request: &Request) -> Result<(), Refused> {
    let unauthorized = || {
        Refused::new(
            ErrorCode::Unauthorized,
            "this needs a token; `bulkhead token create` on a node makes one, and it goes into the header Authorization: Bearer TOKEN",
        )
    };
    let token = bearer(request.headers()).ok_or_else(unauthorized)?;
    let Ok(management) = services.management() else {
        // Not what it does until it is ready: that names the store.
        return Err(Refused::new(
            ErrorCode::Unavailable,
            "the daemon is not ready; try again in a while",
        ));
    };
    let role = management.authenticate(token).ok_or_else(unauthorized)?;
    if role >= needed(request.method(), request.uri().path()) {
        return Ok(());
    }
    Err(Refused::new(
        ErrorCode::Forbidden,
        "this token only allows to look; what changes something needs one with the role admin",
    ))
}

/// The token in a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// What a request needs.
fn needed(method: &Method, path: &str) -> Role {
    let looks = method == Method::GET || method == Method::HEAD || method == Method::OPTIONS;
    let about_tokens = path
        .strip_prefix(PREFIX)
        .is_some_and(|path| path == "/tokens" || path.starts_with("/tokens/"));
    if looks && !about_tokens {
        Role::Viewer
    } else {
        Role::Admin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_only_looks() {
        for (method, path, role) in [
            (Method::GET, "/v1/volumes", Role::Viewer),
            (Method::HEAD, "/metrics", Role::Viewer),
            (Method::POST, "/v1/volumes", Role::Admin),
            (Method::DELETE, "/v1/volumes/v", Role::Admin),
            (Method::PUT, "/v1/default-class", Role::Admin),
            (Method::GET, "/v1/tokens", Role::Admin),
            (
                Method::from_bytes(b"QUERY").expect("a method"),
                "/v1/volumes",
                Role::Admin,
            ),
        ] {
            assert_eq!(needed(&method, path), role, "{method} {path}");
        }
        assert!(Role::Admin > Role::Viewer);
    }

    #[test]
    fn a_token_is_found_in_its_header_only() {
        let given = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).expect("a value"));
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(given("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(given("bearer abc").as_deref(), Some("abc"));
        assert_eq!(given("Basic abc"), None);
        assert_eq!(given("abc"), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
