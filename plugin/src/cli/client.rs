//! Asks the daemon. Every call ends: a daemon that does not answer is an error after a while.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use hyperlocal::{UnixConnector, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::CliError;
use crate::api::{ErrorBody, PREFIX};

/// A question is answered at once.
const QUESTION: Duration = Duration::from_secs(30);
/// Formatting a large pool takes its time.
const CHANGE: Duration = Duration::from_secs(600);

/// The way to one daemon.
pub(super) struct Client {
    socket: PathBuf,
    http: legacy::Client<UnixConnector, Full<Bytes>>,
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            http: legacy::Client::builder(TokioExecutor::new()).build(UnixConnector),
        }
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.ask(Method::GET, path, Bytes::new(), QUESTION).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.change(Method::POST, path, body).await
    }

    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.change(Method::PUT, path, body).await
    }

    pub(super) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.change(Method::PATCH, path, body).await
    }

    async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let body = serde_json::to_vec(body).map_err(|error| CliError::Usage(error.to_string()))?;
        self.ask(method, path, body.into(), CHANGE).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<(), CliError> {
        let _: serde_json::Value = self.ask(Method::DELETE, path, Bytes::new(), CHANGE).await?;
        Ok(())
    }

    /// Listens to a stream of events.
    pub(super) async fn stream(&self, path: &str) -> Result<EventStream, CliError> {
        let opened = timeout(QUESTION, self.request(Method::GET, path, Bytes::new()));
        let response = opened.await.unwrap_or_else(|_| Err(self.too_slow(QUESTION)))?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        Ok(EventStream {
            body: response.into_body(),
            text: Vec::new(),
        })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<T, CliError> {
        timeout(patience, self.exchange(method, path, body))
            .await
            .unwrap_or_else(|_| Err(self.too_slow(patience)))
    }

    fn too_slow(&self, patience: Duration) -> CliError {
        CliError::Timeout {
            socket: self.socket.clone(),
            seconds: patience.as_secs(),
        }
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, CliError> {
        let response = self.request(method, path, body).await?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| self.garbled(&error))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| self.garbled(&error))
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, CliError> {
        let uri: hyper::Uri = Uri::new(&self.socket, &format!("{PREFIX}{path}")).into();
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .body(Full::new(body))
            .map_err(|error| self.garbled(&error))?;
        self.http.request(request).await.map_err(|error| {
            if error.is_connect() {
                CliError::Unreachable {
                    socket: self.socket.clone(),
                    error: root_cause(&error),
                }
            } else {
                self.garbled(&error)
            }
        })
    }

    /// What the daemon says where it does not do what was asked.
    async fn refused(&self, response: Response<Incoming>) -> CliError {
        let status = response.status();
        let body = match response.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return self.garbled(&error),
        };
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => CliError::Daemon(body.error),
            Err(_) => self.garbled(&format!("status {status}")),
        }
    }

    fn garbled(&self, detail: &dyn std::fmt::Display) -> CliError {
        CliError::Garbled {
            socket: self.socket.clone(),
            detail: detail.to_string(),
        }
    }
}

/// Server-sent events, one after the other.
pub(super) struct EventStream {
    body: Incoming,
    text: Vec<u8>,
}

impl EventStream {
    /// The next one; nothing once the daemon has ended.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CliError> {
        loop {
            while let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                // Ids and comments that keep the connection alive are passed over.
                if let Some(event) = line
                    .strip_prefix(b"data:")
                    .and_then(|data| serde_json::from_slice(data).ok())
                {
                    return Ok(Some(event));
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.text.extend(frame.into_data().unwrap_or_default()),
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
