//! Consul behind the store's trait: its key/value store over HTTP, transactions with checks, sessions as leases,
//! blocking queries as watches. Sends each change once and says so when it cannot know what came of it.

mod http;
mod kv;
mod members;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use self::http::{Answer, Http};
use crate::store::{
    Access, Capabilities, Changes, Cursor, Entry, Lease, LeaseId, Limits, Member, Op, Options, Page, Rest,
    Revision, Store, StoreError, Txn, check_key, check_prefix,
};

/// Consul grants no shorter sessions.
const MIN_TTL: Duration = Duration::from_secs(10);
/// The most operations of one of Consul's transactions.
const MAX_OPS: usize = 64;
/// Below the prefix: written by transactions that only delete, because a deletion's answer tells no revision. Not a
/// key that the trait admits, so nobody else's.
const MARK: &str = "~mark";

/// A Consul cluster.
pub struct Consul {
    inner: Arc<Inner>,
}

struct Inner {
    prefix: String,
    http: Http,
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Consul").field(&self.inner.http.name()).finish()
    }
}

impl Consul {
    /// A client of the agents at these endpoints. Connects when it is first used.
    pub(crate) fn new(tls: bool, endpoints: &[String], options: &Options) -> Result<Self, StoreError> {
        let http = Http::new(tls, endpoints, options)?;
        Ok(Self {
            inner: Arc::new(Inner {
                prefix: options.prefix.clone(),
                http,
            }),
        })
    }
}

impl Inner {
    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Everything below a prefix, and the revision for which it is so.
    fn entries(&self, answer: &Answer) -> Result<(Vec<Entry>, Revision), StoreError> {
        let revision = answer
            .index
            .ok_or_else(|| self.http.failed("an answer without its index"))?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok((Vec::new(), revision));
        }
        let pairs: Vec<kv::Pair> =
            serde_json::from_slice(&answer.body).map_err(|error| self.http.failed(error))?;
        let mut entries = Vec::with_capacity(pairs.len());
        for pair in pairs {
            if pair.key.strip_prefix(&self.prefix) != Some(MARK) {
                entries.push(
                    pair.into_entry(&self.prefix)
                        .map_err(|reason| self.http.failed(reason))?,
                );
            }
        }
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok((entries, revision))
    }
}

#[derive(Deserialize)]
struct Session {
    #[serde(rename = "ID")]
    id: String,
}

/// The path of a session's call; sessions have UUIDs for names.
fn session_path(call: &str, lease: &LeaseId) -> Result<String, StoreError> {
    let plain = |c: char| c.is_ascii_hexdigit() || c == '-';
    if lease.0.is_empty() || !lease.0.chars().all(plain) {
        return Err(StoreError::LeaseGone(lease.clone()));
    }
    Ok(format!("session/{call}/{}", lease.0))
}

#[async_trait]
impl Store for Consul {
    fn name(&self) -> String {
        self.inner.http.name().to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            arbitrates: true,
            min_ttl: MIN_TTL,
            // Consul ends a session between once and twice its TTL.
            expiry_factor: 2,
            every_change: false,
        }
    }

    fn access(&self) -> &Access {
        self.inner.http.access()
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        let path = format!("kv/{}?consistent", kv::path(&self.inner.full(key)));
        let answer = self.inner.http.read("get", Method::GET, &path, None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let pairs: Vec<kv::Pair> =
            serde_json::from_slice(&answer.body).map_err(|error| self.inner.http.failed(error))?;
        let pair = pairs
            .into_iter()
            .next()
            .ok_or_else(|| self.inner.http.failed("an empty answer"))?;
        pair.into_entry(&self.inner.prefix)
            .map(Some)
            .map_err(|reason| self.inner.http.failed(reason))
    }

    async fn page(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        check_prefix(prefix)?;
        let (entries, given, revision) = match cursor {
            Some(Cursor {
                revision,
                rest: Rest::Held(entries, given),
            }) => (entries, given, revision),
            Some(_) => return Err(StoreError::Invalid("a cursor of another store".to_owned())),
            None => {
                // Consul has no pages: its whole answer is of one moment, and is given piece by piece.
                let path = format!("kv/{}?recurse&consistent", kv::path(&self.inner.full(prefix)));
                let answer = self.inner.http.read("list", Method::GET, &path, None).await?;
                let (entries, revision) = self.inner.entries(&answer)?;
                (entries.into(), 0, revision)
            }
        };
        Ok(Page::of_held(entries, given, limit, revision))
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        Limits::check(&txn)?;
        let request = kv::Request::of(&txn, &self.inner.prefix);
        if request.len() > MAX_OPS {
            return Err(StoreError::Invalid(format!(
                "a transaction of {} operations, as Consul counts them: {MAX_OPS} at most",
                request.len()
            )));
        }
        let body = serde_json::to_vec(&request.ops).map_err(|error| self.inner.http.failed(error))?;
        let answer = self.inner.http.change(Method::PUT, "txn", body).await?;
        let outcome: kv::Outcome =
            serde_json::from_slice(&answer.body).map_err(|error| self.inner.http.failed(error))?;
        if answer.status != StatusCode::CONFLICT {
            return outcome
                .revision()
                .ok_or_else(|| self.inner.http.failed("an answer without a revision"));
        }
        let (position, what) = outcome.first_error().unwrap_or_default();
        if what.contains("Permission denied") {
            return Err(StoreError::Denied {
                store: self.name(),
                reason: what,
            });
        }
        if let Some((key, expected)) = txn.checks.get(position) {
            return Err(StoreError::Conflict {
                key: key.clone(),
                expected: *expected,
                found: kv::found_in(&what),
            });
        }
        let lease = txn.ops.iter().find_map(|op| match op {
            Op::Put { lease, .. } => lease.clone(),
            Op::Delete { .. } => None,
        });
        Err(match lease {
            Some(lease) if what.contains("session") => StoreError::LeaseGone(lease),
            _ => self.inner.http.failed(what),
        })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Changes>, StoreError> {
        check_prefix(prefix)?;
        Ok(Box::new(watch::Follow::new(
            Arc::clone(&self.inner),
            prefix,
            after,
        )))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let seconds = ttl
            .clamp(MIN_TTL, Duration::from_secs(86_400))
            .as_millis()
            .div_ceil(1000);
        // No checks: the session is ours, and must not end because some agent is away.
        let body = json!({
            "Name": "bulkhead",
            "TTL": format!("{seconds}s"),
            "Behavior": "delete",
            "LockDelay": "0s",
            "Checks": [],
            "NodeChecks": [],
        });
        let body = serde_json::to_vec(&body).map_err(|error| self.inner.http.failed(error))?;
        // May be made again: a session whose making was not heard of ends by itself.
        let answer = self
            .inner
            .http
            .read("lease", Method::PUT, "session/create", Some(body))
            .await?;
        let session: Session =
            serde_json::from_slice(&answer.body).map_err(|error| self.inner.http.failed(error))?;
        Ok(Lease {
            id: LeaseId(session.id),
            ttl: Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX)),
        })
    }

    async fn keep_alive(&self, lease: &LeaseId) -> Result<(), StoreError> {
        let path = session_path("renew", lease)?;
        let answer = self
            .inner
            .http
            .read("keep-alive", Method::PUT, &path, Some(Vec::new()))
            .await?;
        match answer.status {
            StatusCode::NOT_FOUND => Err(StoreError::LeaseGone(lease.clone())),
            _ => Ok(()),
        }
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<(), StoreError> {
        match session_path("destroy", lease) {
            Ok(path) => self
                .inner
                .http
                .read("revoke", Method::PUT, &path, Some(Vec::new()))
                .await
                .map(drop),
            Err(_) => Ok(()),
        }
    }

    async fn members(&self) -> Result<Vec<Member>, StoreError> {
        members::list(&self.inner.http).await
    }
}
