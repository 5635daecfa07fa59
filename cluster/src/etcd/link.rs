//! The connection to one member at a time, found by asking: a member counts only after it has answered a linearizable
//! read, so one that is paused, cut off or without a leader is passed over. Sends no changes.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::{Certificate, Client, ConnectOptions, Error, GetOptions, Identity, TlsOptions};
use futures::stream::{FuturesUnordered, StreamExt};

use super::fault::{Fault, classify};
use crate::store::{Options, Secret, StoreError, Tls};

/// Between trying one member and the next one beside it.
const STAGGER: Duration = Duration::from_millis(150);
/// Between asking all of them and doing so again while they elect a leader.
const AGAIN: Duration = Duration::from_millis(100);
/// What a member's own words begin with, unlike those of a connection that fails.
const MEMBER: &str = "etcdserver:";
/// How often an idle connection is asked whether it lives, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Why there is no connection.
pub(super) enum NoLink {
    /// No member answers.
    Away(String),
    /// One is there, and says that it cannot answer now: they are electing a leader.
    Electing(String),
    /// One answered, and refused.
    Refused(StoreError),
}

/// A connection that has answered.
#[derive(Clone)]
pub(super) struct Link {
    client: Client,
    endpoint: String,
    number: u64,
}

impl Link {
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// All members, and the connection to one of them.
pub(super) struct Links {
    name: String,
    endpoints: Vec<String>,
    scheme: &'static str,
    options: ConnectOptions,
    probe: String,
    current: Mutex<Option<Link>>,
    /// Held by the one who looks for a member; the others wait for what it finds.
    connecting: tokio::sync::Mutex<()>,
    count: AtomicU64,
}

impl Links {
    pub(super) fn new(
        name: &str,
        tls: bool,
        endpoints: Vec<String>,
        options: &Options,
    ) -> Result<Self, String> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(options.deadline)
            .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some(user) = &options.user {
            let password = options.password.as_ref().map(Secret::reveal).unwrap_or_default();
            connect = connect.with_user(user, password).with_auto_token_refresh(true);
        }
        if tls {
            connect = connect.with_tls(tls_options(&options.tls)?);
        }
        // Each node begins at another member, so that they share the load.
        let first = uuid::Uuid::new_v4().as_u64_pair().0;
        Ok(Self {
            name: name.to_owned(),
            endpoints,
            scheme: if tls { "https" } else { "http" },
            options: connect,
            probe: format!("{}cluster", options.prefix),
            current: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            count: AtomicU64::new(first),
        })
    }

    /// The connection, made if there is none; or why no member answers. An election is waited for.
    pub(super) async fn get(&self, until: Instant) -> Result<Link, NoLink> {
        let mut electing = None;
        let work = async {
            if let Some(link) = &*self.current() {
                return Ok(link.clone());
            }
            let _turn = self.connecting.lock().await;
            if let Some(link) = &*self.current() {
                return Ok(link.clone());
            }
            loop {
                match self.connect().await {
                    Ok(link) => {
                        *self.current() = Some(link.clone());
                        return Ok(link);
                    }
                    Err(NoLink::Electing(reason)) => electing = Some(reason),
                    Err(no_link) => return Err(no_link),
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        if let Ok(result) = tokio::time::timeout_at(until.into(), work).await {
            return result;
        }
        Err(match electing {
            Some(reason) => NoLink::Electing(reason),
            None => NoLink::Away(format!("none of {} answers", self.endpoints.join(", "))),
        })
    }

    /// A connection did not do its work: the next call looks for another one.
    pub(super) fn lost(&self, link: &Link) {
        let mut current = self.current();
        if current
            .as_ref()
            .is_some_and(|current| current.number == link.number)
        {
            *current = None;
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Link>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks all members, one a little after the other; the first one that answers is taken.
    async fn connect(&self) -> Result<Link, NoLink> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let count = self.endpoints.len().max(1);
        let begin = usize::try_from(number % count as u64).unwrap_or(0);
        let mut tries: FuturesUnordered<_> = self
            .endpoints
            .iter()
            .cycle()
            .skip(begin)
            .take(count)
            .enumerate()
            .map(async |(position, endpoint)| {
                tokio::time::sleep(STAGGER * u32::try_from(position).unwrap_or(0)).await;
                (endpoint, self.probe(endpoint).await)
            })
            .collect();
        let mut reasons = Vec::new();
        let mut refused = None;
        while let Some((endpoint, result)) = tries.next().await {
            let reason = match result {
                Ok(client) => {
                    tracing::debug!(endpoint, "connected to the store");
                    return Ok(Link {
                        client,
                        endpoint: endpoint.clone(),
                        number,
                    });
                }
                Err(error) => match classify(&self.name, &error) {
                    Fault::Refused(error) => {
                        let reason = error.to_string();
                        refused = Some(error);
                        reason
                    }
                    Fault::NotSent(reason) | Fault::Unknown(reason) => reason,
                },
            };
            reasons.push(format!("{endpoint}: {reason}"));
        }
        let is_there = reasons.iter().any(|reason| reason.contains(MEMBER));
        let reasons = reasons.join("; ");
        Err(match refused {
            Some(error) => NoLink::Refused(error),
            None if is_there => NoLink::Electing(reasons),
            None => NoLink::Away(reasons),
        })
    }

    /// A connection to the member at a URL, whatever state it is in.
    pub(super) async fn connect_to(&self, url: &str) -> Result<Client, Error> {
        Client::connect([url], Some(self.options.clone())).await
    }

    async fn probe(&self, endpoint: &str) -> Result<Client, Error> {
        let mut client = self.connect_to(&format!("{}://{endpoint}", self.scheme)).await?;
        client
            .get(self.probe.as_str(), Some(GetOptions::new().with_count_only()))
            .await?;
        Ok(client)
    }
}

fn tls_options(tls: &Tls) -> Result<TlsOptions, String> {
    let read = |path: &Path| {
        fs::read(path).map_err(|error| format!("certificate {} cannot be read: {error}", path.display()))
    };
    let mut options = TlsOptions::new();
    options = match &tls.ca {
        Some(ca) => options.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => options.with_enabled_roots(),
    };
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => Ok(options.identity(Identity::from_pem(read(cert)?, read(key)?))),
        (None, None) => Ok(options),
        _ => Err("a client certificate needs its key, and a key its certificate".to_owned()),
    }
}
