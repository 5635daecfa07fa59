//! dockerd's own API, over its socket: questions and changes, each with an end. Knows nothing of what they are for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use hyperlocal::{UnixConnector, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// The most that an answer may be, in bytes: the list of a Swarm's nodes is far below.
const LARGEST: usize = 16 << 20;

/// The way to one dockerd.
pub(super) struct DockerApi {
    socket: PathBuf,
    http: Client<UnixConnector, Full<Bytes>>,
}

impl DockerApi {
    /// That which listens on this socket, now or later.
    pub(super) fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            http: Client::builder(TokioExecutor::new()).build(UnixConnector),
        }
    }

    /// Asks for something.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> anyhow::Result<T> {
        let answer = self.call(Method::GET, path, Bytes::new(), limit).await?;
        serde_json::from_slice(&answer)
            .with_context(|| format!("dockerd's answer to {path} is not understood"))
    }

    /// Changes something.
    pub(super) async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let body = serde_json::to_vec(body)?;
        self.call(Method::POST, path, body.into(), limit).await.map(drop)
    }

    async fn call(&self, method: Method, path: &str, body: Bytes, limit: Duration) -> anyhow::Result<Bytes> {
        let call = async {
            let uri: hyper::Uri = Uri::new(&self.socket, path).into();
            let request = Request::builder()
                .method(method)
                .uri(uri)
                .header("Content-Type", "application/json")
                .body(Full::new(body))?;
            let response = self.http.request(request).await?;
            let status = response.status();
            // To the end: dockerd may work on it until then.
            let body = Limited::new(response.into_body(), LARGEST);
            let answer = body
                .collect()
                .await
                .map_err(|error| anyhow::anyhow!(error))?
                .to_bytes();
            if !status.is_success() {
                bail!(
                    "dockerd answered {status} to {path}: {}",
                    String::from_utf8_lossy(&answer).trim()
                );
            }
            Ok(answer)
        };
        timeout(limit, call)
            .await
            .with_context(|| format!("dockerd does not answer {path} within {limit:?}"))?
    }
}
