//! Requests to Consul's agents: one at a time, the next one when one does not answer, all within the deadline. Decides
//! what a failed request lets us conclude; when in doubt, a change's outcome is unknown.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, Identity, Method, Response, StatusCode};

use crate::store::{Access, Options, Revision, StoreError, Tls};

/// The pause before another agent is tried.
const PAUSE: Duration = Duration::from_millis(50);
/// How soon the kernel notices that an idle connection is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// An answer that was read to its end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `X-Consul-Index`.
    pub(super) index: Option<Revision>,
    pub(super) body: Vec<u8>,
}

/// What a request that brought no answer lets us conclude.
enum Fault {
    Refused(StoreError),
    NotSent(String),
    Unknown(String),
}

pub(super) struct Http {
    name: String,
    client: Client,
    /// `http://host:port`.
    endpoints: Vec<String>,
    /// The one that answered last.
    current: AtomicUsize,
    deadline: Duration,
    access: Access,
}

impl Http {
    pub(super) fn new(tls: bool, endpoints: &[String], options: &Options) -> Result<Self, StoreError> {
        let name = format!(
            "{} {}",
            if tls { "consuls" } else { "consul" },
            endpoints.join(",")
        );
        let client = client(tls, options).map_err(|reason| StoreError::Config {
            url: name.clone(),
            reason,
        })?;
        let scheme = if tls { "https" } else { "http" };
        let endpoints: Vec<String> = endpoints
            .iter()
            .map(|host| format!("{scheme}://{host}"))
            .collect();
        // Each node begins at another agent, so that they share the load.
        let first = uuid::Uuid::new_v4().as_u64_pair().0 % endpoints.len().max(1) as u64;
        Ok(Self {
            name,
            client,
            endpoints,
            current: AtomicUsize::new(usize::try_from(first).unwrap_or(0)),
            deadline: options.deadline,
            access: Access::default(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(super) fn failed(&self, reason: impl fmt::Display) -> StoreError {
        StoreError::Failed {
            store: self.name.clone(),
            reason: reason.to_string(),
        }
    }

    fn unreachable(&self, reason: &str) -> StoreError {
        StoreError::Unreachable {
            store: self.name.clone(),
            since: self.access.failed(reason),
            reason: reason.to_owned(),
        }
    }

    /// The agent to ask, and its number.
    fn endpoint(&self) -> (usize, &str) {
        let current = self.current.load(Ordering::Relaxed) % self.endpoints.len().max(1);
        (current, self.endpoints.get(current).map_or("", String::as_str))
    }

    /// That agent did not answer: the next one is asked from now on.
    fn pass_over(&self, number: usize) {
        let next = (number + 1) % self.endpoints.len().max(1);
        let _ = self
            .current
            .compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A request that may be made again.
    pub(super) async fn read(
        &self,
        call: &'static str,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, StoreError> {
        let until = Instant::now() + self.deadline;
        let mut tried = 0;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // One agent that hangs may use up half of the time, not all of it.
            let patience = if tried == 0 { left / 2 } else { left };
            let (number, endpoint) = self.endpoint();
            let (reason, sent) = match self.ask(endpoint, &method, path, body.clone(), patience).await {
                Ok(answer) => {
                    self.access.answered();
                    return Ok(answer);
                }
                Err(Fault::Refused(error)) => {
                    self.access.answered();
                    return Err(error);
                }
                Err(Fault::NotSent(reason)) => (reason, false),
                Err(Fault::Unknown(reason)) => (reason, true),
            };
            self.pass_over(number);
            tried += 1;
            let late = Instant::now() + PAUSE >= until;
            // When all refuse, waiting helps nobody.
            if !sent && (late || tried >= self.endpoints.len().max(2)) {
                return Err(self.unreachable(&reason));
            }
            let since = self.access.failed(&reason);
            if late {
                return Err(StoreError::Timeout {
                    store: self.name.clone(),
                    call,
                    within: self.deadline,
                    since,
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A request that may be made once only: again just if it certainly was not sent.
    pub(super) async fn change(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Answer, StoreError> {
        let until = Instant::now() + self.deadline;
        let mut tried = 0;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let (number, endpoint) = self.endpoint();
            match self.ask(endpoint, &method, path, Some(body.clone()), left).await {
                Ok(answer) => {
                    self.access.answered();
                    return Ok(answer);
                }
                Err(Fault::Refused(error)) => {
                    self.access.answered();
                    return Err(error);
                }
                Err(Fault::Unknown(reason)) => {
                    self.pass_over(number);
                    self.access.failed(&reason);
                    return Err(StoreError::OutcomeUnknown {
                        store: self.name.clone(),
                        reason,
                    });
                }
                Err(Fault::NotSent(reason)) => {
                    self.pass_over(number);
                    tried += 1;
                    if tried >= self.endpoints.len().max(2) || Instant::now() + PAUSE >= until {
                        return Err(self.unreachable(&reason));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// A query that Consul answers when something has changed, or after a long wait.
    pub(super) async fn wait(&self, path: &str, longest: Duration) -> Result<Answer, StoreError> {
        let (number, endpoint) = self.endpoint();
        match self.ask(endpoint, &Method::GET, path, None, longest).await {
            Ok(answer) => {
                self.access.answered();
                Ok(answer)
            }
            Err(Fault::Refused(error)) => Err(error),
            Err(Fault::NotSent(reason) | Fault::Unknown(reason)) => {
                self.pass_over(number);
                Err(self.unreachable(&reason))
            }
        }
    }

    async fn ask(
        &self,
        endpoint: &str,
        method: &Method,
        path: &str,
        body: Option<Vec<u8>>,
        patience: Duration,
    ) -> Result<Answer, Fault> {
        let mut request = self
            .client
            .request(method.clone(), format!("{endpoint}/v1/{path}"));
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let work = async {
            let response = request.send().await?;
            read_to_end(response).await
        };
        let (status, index, body) = match tokio::time::timeout(patience, work).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) if error.is_connect() => return Err(Fault::NotSent(innermost(&error))),
            Ok(Err(error)) if error.is_builder() => return Err(Fault::Refused(self.failed(error))),
            Ok(Err(error)) => return Err(Fault::Unknown(innermost(&error))),
            Err(_) => return Err(Fault::Unknown(format!("{endpoint} does not answer"))),
        };
        let text = || {
            String::from_utf8_lossy(&body)
                .trim()
                .chars()
                .take(300)
                .collect::<String>()
        };
        match status {
            // 404 says "no such key", 409 "a check did not hold": answers, both of them.
            StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::CONFLICT => {
                Ok(Answer { status, index, body })
            }
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Err(Fault::Refused(StoreError::Denied {
                store: self.name.clone(),
                reason: text(),
            })),
            status if status.is_server_error() => {
                let text = text();
                let turned_away = ["No cluster leader", "No known Consul servers"];
                Err(if turned_away.iter().any(|words| text.contains(words)) {
                    Fault::NotSent(text)
                } else {
                    Fault::Unknown(text)
                })
            }
            StatusCode::TOO_MANY_REQUESTS => Err(Fault::NotSent(text())),
            status => Err(Fault::Refused(self.failed(format!("{status}: {}", text())))),
        }
    }
}

async fn read_to_end(response: Response) -> reqwest::Result<(StatusCode, Option<Revision>, Vec<u8>)> {
    let status = response.status();
    let index = response
        .headers()
        .get("X-Consul-Index")
        .and_then(|index| index.to_str().ok()?.parse().ok());
    let body = response.bytes().await?.to_vec();
    Ok((status, index.map(Revision), body))
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn client(tls: bool, options: &Options) -> Result<Client, String> {
    let mut headers = HeaderMap::new();
    if let Some(token) = &options.token {
        let mut token = HeaderValue::from_str(token.reveal())
            .map_err(|_| "the token holds characters that cannot be sent".to_owned())?;
        token.set_sensitive(true);
        headers.insert("X-Consul-Token", token);
    }
    // A proxy of the environment is for the web, not for the cluster's own store.
    let mut builder = Client::builder()
        .no_proxy()
        .http1_only()
        .default_headers(headers)
        .connect_timeout(options.deadline)
        .tcp_keepalive(KEEP_ALIVE)
        .user_agent(concat!("bulkhead/", env!("CARGO_PKG_VERSION")));
    if tls {
        builder = with_certificates(builder, &options.tls)?;
    }
    builder.build().map_err(|error| innermost(&error))
}

fn with_certificates(
    mut builder: reqwest::ClientBuilder,
    tls: &Tls,
) -> Result<reqwest::ClientBuilder, String> {
    let read = |path: &Path| {
        fs::read(path).map_err(|error| format!("certificate {} cannot be read: {error}", path.display()))
    };
    builder = builder.https_only(true);
    if let Some(path) = &tls.ca {
        let bundle = Certificate::from_pem_bundle(&read(path)?)
            .map_err(|error| format!("certificate {}: {}", path.display(), innermost(&error)))?;
        builder = builder.tls_built_in_root_certs(false);
        for certificate in bundle {
            builder = builder.add_root_certificate(certificate);
        }
    }
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let mut pem = read(cert)?;
            pem.push(b'\n');
            pem.extend(read(key)?);
            let identity = Identity::from_pem(&pem)
                .map_err(|error| format!("certificate {}: {}", cert.display(), innermost(&error)))?;
            Ok(builder.identity(identity))
        }
        (None, None) => Ok(builder),
        _ => Err("a client certificate needs its key, and a key its certificate".to_owned()),
    }
}
