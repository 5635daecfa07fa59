//! Asks the daemon. Every call ends: a daemon that does not answer is an error after a while.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
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

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.ask(Method::GET, path, Bytes::new(), QUESTION).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let body = serde_json::to_vec(body).map_err(|error| CliError::Usage(error.to_string()))?;
        self.ask(Method::POST, path, body.into(), CHANGE).await
    }

    pub(super) async fn put(&self, path: &str, body: &impl Serialize) -> Result<(), CliError> {
        let body = serde_json::to_vec(body).map_err(|error| CliError::Usage(error.to_string()))?;
        let _: serde_json::Value = self.ask(Method::PUT, path, body.into(), CHANGE).await?;
        Ok(())
    }

    pub(super) async fn delete(&self, path: &str) -> Result<(), CliError> {
        let _: serde_json::Value = self.ask(Method::DELETE, path, Bytes::new(), CHANGE).await?;
        Ok(())
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
            .unwrap_or_else(|_| {
                Err(CliError::Timeout {
                    socket: self.socket.clone(),
                    seconds: patience.as_secs(),
                })
            })
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, CliError> {
        let uri: hyper::Uri = Uri::new(&self.socket, &format!("{PREFIX}{path}")).into();
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .body(Full::new(body))
            .map_err(|error| self.garbled(&error))?;
        let response = self.http.request(request).await.map_err(|error| {
            if error.is_connect() {
                CliError::Unreachable {
                    socket: self.socket.clone(),
                    error: root_cause(&error),
                }
            } else {
                self.garbled(&error)
            }
        })?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| self.garbled(&error))?
            .to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.garbled(&error));
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => Err(CliError::Daemon(body.error)),
            Err(_) => Err(self.garbled(&format!("status {status}"))),
        }
    }

    fn garbled(&self, detail: &dyn std::fmt::Display) -> CliError {
        CliError::Garbled {
            socket: self.socket.clone(),
            detail: detail.to_string(),
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
