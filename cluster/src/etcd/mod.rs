//! etcd behind the store's trait. Sends each change once and says so when it cannot know what came of it; reads are
//! linearizable and move on to another member within their deadline.

mod fault;
mod link;
mod members;
mod pace;
mod watch;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, KeyValue, KvClient, PutOptions, TxnOp,
    TxnOpResponse, TxnResponse,
};

use self::fault::{Fault, classify};
use self::link::{Links, NoLink};
use crate::store::{
    Access, Capabilities, Changes, Cursor, Entry, Expect, Lease, LeaseId, Limits, Member, Op, Options, Page,
    Rest, Revision, Store, StoreError, Txn, check_key, check_prefix, prefix_end,
};

/// The largest answer that is taken: a page of large records.
const MAX_ANSWER: usize = 96 << 20;
/// The most entries of a page: with the largest values it stays below [`MAX_ANSWER`].
const MAX_PAGE: usize = 500;
/// etcd raises shorter leases to about this.
const MIN_TTL: Duration = Duration::from_secs(2);
/// The pause before a read is tried at another member.
const PAUSE: Duration = Duration::from_millis(50);

/// An etcd cluster.
pub struct Etcd {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    prefix: String,
    deadline: Duration,
    access: Access,
    links: Links,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Etcd").field(&self.inner.name).finish()
    }
}

impl Etcd {
    /// A client of the members at these endpoints. Connects when it is first used.
    pub(crate) fn new(tls: bool, endpoints: Vec<String>, options: &Options) -> Result<Self, StoreError> {
        let name = format!("{} {}", if tls { "etcds" } else { "etcd" }, endpoints.join(","));
        let links = Links::new(&name, tls, endpoints, options).map_err(|reason| StoreError::Config {
            url: name.clone(),
            reason,
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                name,
                prefix: options.prefix.clone(),
                deadline: options.deadline,
                access: Access::default(),
                links,
            }),
        })
    }
}

impl Inner {
    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The entry of an answer, with its key as we know it.
    fn entry(&self, kv: &KeyValue) -> Result<Entry, StoreError> {
        let key = kv
            .key()
            .strip_prefix(self.prefix.as_bytes())
            .and_then(|key| String::from_utf8(key.to_vec()).ok())
            .ok_or_else(|| self.failed("it holds a key below our prefix that is not ours"))?;
        Ok(Entry {
            key,
            value: Bytes::copy_from_slice(kv.value()),
            revision: revision(kv.mod_revision()),
        })
    }

    fn failed(&self, reason: impl fmt::Display) -> StoreError {
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

    fn no_link(&self, no_link: NoLink) -> StoreError {
        match no_link {
            NoLink::Away(reason) | NoLink::Electing(reason) => self.unreachable(&reason),
            NoLink::Refused(error) => {
                self.access.failed(&error.to_string());
                error
            }
        }
    }

    /// How long one member is waited for. One that hangs may use up half of the time, not all of it.
    fn patience(&self) -> Duration {
        self.deadline / 2
    }

    /// A call that may be made again: at another member if one does not answer.
    async fn read<T, F: Future<Output = Result<T, Error>> + Send>(
        &self,
        call: &'static str,
        work: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<T, StoreError> {
        let until = Instant::now() + self.deadline;
        let mut patience = self.patience();
        loop {
            let link = self
                .links
                .get(until)
                .await
                .map_err(|no_link| self.no_link(no_link))?;
            let left = until.saturating_duration_since(Instant::now());
            let reason = match tokio::time::timeout(left.min(patience), work(link.client())).await {
                Ok(Ok(value)) => {
                    self.access.answered();
                    return Ok(value);
                }
                Ok(Err(error)) => match classify(&self.name, &error) {
                    Fault::Refused(error) => {
                        self.access.answered();
                        return Err(error);
                    }
                    Fault::NotSent(reason) | Fault::Unknown(reason) => reason,
                },
                Err(_) => format!("{} does not answer", link.endpoint()),
            };
            self.links.lost(&link);
            let since = self.access.failed(&reason);
            if Instant::now() + PAUSE >= until {
                return Err(StoreError::Timeout {
                    store: self.name.clone(),
                    call,
                    within: self.deadline,
                    since,
                });
            }
            patience = self.deadline;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A call that may be made once only: again just if it certainly was not sent. A member that passes a change on to a leader
    /// that has just died never hears of it again, and says nothing for seven seconds; who asks whether the change was made
    /// and makes it again is done sooner.
    async fn change<T, F: Future<Output = Result<T, Error>> + Send>(
        &self,
        work: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<T, StoreError> {
        let until = Instant::now() + self.deadline;
        loop {
            let link = self
                .links
                .get(until)
                .await
                .map_err(|no_link| self.no_link(no_link))?;
            let left = until.saturating_duration_since(Instant::now());
            let patience = left.min(self.patience());
            let fault = match tokio::time::timeout(patience, work(link.client())).await {
                Ok(Ok(value)) => {
                    self.access.answered();
                    return Ok(value);
                }
                Ok(Err(error)) => classify(&self.name, &error),
                Err(_) => Fault::Unknown(format!("no answer of {} within {patience:?}", link.endpoint())),
            };
            match fault {
                Fault::Refused(error) => {
                    self.access.answered();
                    return Err(error);
                }
                Fault::Unknown(reason) => {
                    self.links.lost(&link);
                    self.access.failed(&reason);
                    return Err(StoreError::OutcomeUnknown {
                        store: self.name.clone(),
                        reason,
                    });
                }
                Fault::NotSent(reason) => {
                    self.links.lost(&link);
                    if Instant::now() + PAUSE >= until {
                        return Err(self.unreachable(&reason));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// The transaction in etcd's words. The other branch reads the checked keys, to tell which one was not as expected.
    fn translate(&self, txn: &Txn) -> Result<etcd_client::Txn, StoreError> {
        let compares: Vec<Compare> = txn
            .checks
            .iter()
            .map(|(key, expect)| match expect {
                Expect::Absent => Compare::create_revision(self.full(key), CompareOp::Equal, 0),
                Expect::At(at) => Compare::mod_revision(self.full(key), CompareOp::Equal, number(*at)),
            })
            .collect();
        let mut ops = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            ops.push(match op {
                Op::Put { key, value, lease } => {
                    let options = match lease {
                        Some(lease) => Some(PutOptions::new().with_lease(lease_number(lease)?)),
                        None => None,
                    };
                    TxnOp::put(self.full(key), value.to_vec(), options)
                }
                Op::Delete { key } => TxnOp::delete(self.full(key), None::<DeleteOptions>),
            });
        }
        let looks: Vec<TxnOp> = txn
            .checks
            .iter()
            .map(|(key, _)| TxnOp::get(self.full(key), Some(GetOptions::new().with_keys_only())))
            .collect();
        Ok(etcd_client::Txn::new()
            .when(compares)
            .and_then(ops)
            .or_else(looks))
    }

    /// What came of a transaction.
    fn outcome(&self, txn: &Txn, answer: &TxnResponse) -> Result<Revision, StoreError> {
        if answer.succeeded() {
            let header = answer
                .header()
                .ok_or_else(|| self.failed("an answer without a header"))?;
            return Ok(revision(header.revision()));
        }
        let looks = answer.op_responses();
        for ((key, expected), look) in txn.checks.iter().zip(&looks) {
            let TxnOpResponse::Get(look) = look else { continue };
            let found = look.kvs().first().map(|kv| revision(kv.mod_revision()));
            let holds = match expected {
                Expect::Absent => found.is_none(),
                Expect::At(at) => found == Some(*at),
            };
            if !holds {
                return Err(StoreError::Conflict {
                    key: key.clone(),
                    expected: *expected,
                    found,
                });
            }
        }
        Err(self.failed("a transaction failed whose checks all hold"))
    }
}

fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MAX_ANSWER)
}

fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn lease_number(lease: &LeaseId) -> Result<i64, StoreError> {
    i64::from_str_radix(&lease.0, 16).map_err(|_| StoreError::LeaseGone(lease.clone()))
}

#[async_trait]
impl Store for Etcd {
    fn name(&self) -> String {
        self.inner.name.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            arbitrates: true,
            min_ttl: MIN_TTL,
            // A new leader gives every lease its full time again.
            expiry_factor: 2,
            every_change: true,
        }
    }

    fn access(&self) -> &Access {
        &self.inner.access
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        let key = self.inner.full(key);
        let answer = self
            .inner
            .read("get", |client| {
                let key = key.clone();
                async move { kv(&client).get(key, None).await }
            })
            .await?;
        answer.kvs().first().map(|kv| self.inner.entry(kv)).transpose()
    }

    async fn page(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        check_prefix(prefix)?;
        let full = self.inner.full(prefix);
        let limit = limit.clamp(1, MAX_PAGE);
        let (start, at) = match &cursor {
            None => (full.clone(), None),
            Some(Cursor {
                revision,
                rest: Rest::After(last),
            }) => (format!("{}\0", self.inner.full(last)), Some(*revision)),
            Some(_) => return Err(StoreError::Invalid("a cursor of another store".to_owned())),
        };
        let start = if start.is_empty() { "\0".to_owned() } else { start };
        let mut options = GetOptions::new().with_limit(limit as i64);
        options = match prefix_end(&full) {
            Some(end) => options.with_range(end),
            None => options.with_from_key(),
        };
        if let Some(at) = at {
            options = options.with_revision(number(at));
        }
        let answer = self
            .inner
            .read("list", |client| {
                let (start, options) = (start.clone(), options.clone());
                async move { kv(&client).get(start, Some(options)).await }
            })
            .await?;
        let header = answer
            .header()
            .ok_or_else(|| self.inner.failed("an answer without a header"))?;
        let revision = at.unwrap_or(revision(header.revision()));
        let entries = answer
            .kvs()
            .iter()
            .map(|kv| self.inner.entry(kv))
            .collect::<Result<Vec<Entry>, StoreError>>()?;
        let next = entries.last().filter(|_| answer.more()).map(|last| Cursor {
            revision,
            rest: Rest::After(last.key.clone()),
        });
        Ok(Page {
            entries,
            revision,
            next,
        })
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        Limits::check(&txn)?;
        let request = self.inner.translate(&txn)?;
        let answer = self
            .inner
            .change(|client| {
                let request = request.clone();
                async move { kv(&client).txn(request).await }
            })
            .await;
        match answer {
            Ok(answer) => self.inner.outcome(&txn, &answer),
            Err(StoreError::LeaseGone(_)) => {
                let lease = txn.ops.iter().find_map(|op| match op {
                    Op::Put { lease, .. } => lease.clone(),
                    Op::Delete { .. } => None,
                });
                Err(StoreError::LeaseGone(lease.unwrap_or(LeaseId(String::new()))))
            }
            Err(error) => Err(error),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Changes>, StoreError> {
        check_prefix(prefix)?;
        Ok(Box::new(
            watch::follow(Arc::clone(&self.inner), prefix, after).await?,
        ))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let seconds = ttl.max(MIN_TTL).as_millis().div_ceil(1000);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX).min(86_400);
        // May be made again: a lease whose grant was not heard of ends by itself.
        let answer = self
            .inner
            .read("lease", |mut client| async move {
                client.lease_grant(seconds, None).await
            })
            .await?;
        Ok(Lease {
            id: LeaseId(format!("{:x}", answer.id())),
            ttl: Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or(0)),
        })
    }

    async fn keep_alive(&self, lease: &LeaseId) -> Result<(), StoreError> {
        let id = lease_number(lease)?;
        let kept = self
            .inner
            .read("keep-alive", |mut client| async move {
                client.lease_keep_alive(id).await.map(drop)
            })
            .await;
        kept.map_err(|error| named(error, lease))
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<(), StoreError> {
        let id = lease_number(lease)?;
        // May be made again: a lease can end but once.
        let ended = self
            .inner
            .read(
                "revoke",
                |mut client| async move { client.lease_revoke(id).await },
            )
            .await;
        match ended {
            Ok(_) | Err(StoreError::LeaseGone(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn members(&self) -> Result<Vec<Member>, StoreError> {
        members::list(&self.inner).await
    }
}

/// The lease's name in an error that does not know it.
fn named(error: StoreError, lease: &LeaseId) -> StoreError {
    match error {
        StoreError::LeaseGone(_) => StoreError::LeaseGone(lease.clone()),
        error => error,
    }
}
