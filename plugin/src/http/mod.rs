//! HTTP/1.1 on Unix sockets and on TCP with TLS: accepts, reads a bounded body within a deadline, answers. Owns connections and
//! their limits; knows nothing of what is asked. No request, however malformed, ends the process or goes unanswered.

mod accept;
mod socket;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use accept::{Accept, TlsListening};
pub use socket::{Listening, SocketError};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The largest body that is read, in bytes.
pub const MAX_BODY: usize = 1 << 20;
/// A request must be there, head and body, within this time.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// Connections served at one time; further ones wait in the socket's queue.
const MAX_CONNECTIONS: usize = 512;
/// The most that is buffered of a request's head.
const MAX_HEAD: usize = 64 << 10;

/// A request whose body is there.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path, without a query.
    pub path: String,
    /// The query, if there is one.
    pub query: Option<String>,
    /// The body; at most [`MAX_BODY`] bytes.
    pub body: Bytes,
}

/// Why a request never became a [`Call`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Too long.
    #[error("the request's body is longer than 1 MiB; nothing that is asked here needs that much")]
    TooLarge,
    /// Too slow.
    #[error("the request's body was not there within 10 s")]
    TooSlow,
    /// Broken off, or not HTTP.
    #[error("the request's body is broken")]
    Broken,
}

impl BadRequest {
    /// The HTTP status for it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
        }
    }
}

/// What goes back.
#[derive(Debug)]
pub enum Answer {
    /// A status and a JSON body.
    Json(StatusCode, Bytes),
    /// Nothing: the connection is closed. For when any answer would be a lie.
    Close,
}

impl Answer {
    /// A JSON answer of a value.
    pub fn json(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::Json(status, body.into()),
            Err(error) => {
                tracing::error!(%error, "an answer could not be written as JSON");
                Self::Close
            }
        }
    }
}

/// What answers the calls on a socket.
pub trait Handler: Send + Sync + 'static {
    /// The content type of its answers.
    const CONTENT_TYPE: &'static str;

    /// Answers a call. Dropped when the client goes away.
    fn call(self: Arc<Self>, call: Call) -> impl Future<Output = Answer> + Send;

    /// Answers a request that never became a call.
    fn refuse(&self, path: &str, problem: BadRequest) -> Answer;
}

/// Stands for a connection that is closed without an answer; hyper wants an error for that.
#[derive(Debug, thiserror::Error)]
#[error("closed without an answer")]
struct Closed;

/// Serves a socket until `stop` says so, then lets the calls that are under way end for up to `linger`.
pub async fn serve<H: Handler>(
    listening: Listening,
    handler: Arc<H>,
    stop: watch::Receiver<bool>,
    linger: Duration,
) {
    let service = move |request| respond(request, handler.clone());
    serve_requests(listening, service, stop, linger).await;
}

/// The same for whoever answers requests as they come.
pub async fn serve_requests<A, S, F, B, E>(
    accept: A,
    service: S,
    mut stop: watch::Receiver<bool>,
    linger: Duration,
) where
    A: Accept,
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    let accept = Arc::new(accept);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = next(&*accept, &permits) => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Some((raw, permit)) = accepted else {
            break;
        };
        let (accept, service, stop) = (Arc::downgrade(&accept), service.clone(), stop.clone());
        connections.spawn(async move {
            let Some(accept) = accept.upgrade() else { return };
            let secured = timeout(READ_DEADLINE, accept.secure(raw)).await;
            drop(accept);
            if let Ok(Some(stream)) = secured {
                connection::<A, _, _, _, _>(stream, service, stop).await;
            }
            drop(permit);
        });
    }
    // New callers are refused at once rather than left in the queue.
    drop(accept);
    let ended = timeout(linger, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!(calls = connections.len(), "calls are still under way at the stop");
    }
}

async fn next<A: Accept>(accept: &A, permits: &Arc<Semaphore>) -> Option<(A::Raw, OwnedSemaphorePermit)> {
    // Closed never: the semaphore lives as long as the loop.
    let permit = permits.clone().acquire_owned().await.ok()?;
    loop {
        match accept.accept().await {
            Ok(raw) => return Some((raw, permit)),
            Err(error) => {
                // Out of descriptors, mostly: waiting is all that helps, and it must not become a busy loop.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection<A, S, F, B, E>(stream: A::Stream, service: S, mut stop: watch::Receiver<bool>)
where
    A: Accept,
    S: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_DEADLINE)
        // One call a connection on a Unix socket: an idle one that we close just as the client writes would look like a dead
        // daemon.
        .keep_alive(A::KEEP_ALIVE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service_fn(service));
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = async { let _ = stop.wait_for(|stop| *stop).await; } => {
            // An idle one ends at once, the others after their answer.
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn respond<H: Handler>(
    request: Request<Incoming>,
    handler: Arc<H>,
) -> Result<Response<Full<Bytes>>, Closed> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let answer = match read_body(body).await {
        Ok(body) => {
            let query = head.uri.query().map(str::to_owned);
            handler
                .call(Call {
                    method: head.method,
                    path,
                    query,
                    body,
                })
                .await
        }
        Err(problem) => handler.refuse(&path, problem),
    };
    match answer {
        Answer::Json(status, body) => {
            let mut response = Response::new(Full::new(body));
            *response.status_mut() = status;
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(H::CONTENT_TYPE));
            Ok(response)
        }
        Answer::Close => Err(Closed),
    }
}

/// Reads a body within the limits.
pub async fn read_body<B: Body<Data = Bytes> + Unpin>(mut body: B) -> Result<Bytes, BadRequest> {
    let read = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| BadRequest::Broken)?.into_data() else {
                continue;
            };
            if bytes.len() + data.len() > MAX_BODY {
                return Err(BadRequest::TooLarge);
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    };
    timeout(READ_DEADLINE, read)
        .await
        .unwrap_or(Err(BadRequest::TooSlow))
}

/// Runs work in a task of its own, so that it goes on when the caller gives up. `None` if it panicked.
pub async fn detached<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    match tokio::spawn(work).await {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(%error, "a call broke off");
            None
        }
    }
}
