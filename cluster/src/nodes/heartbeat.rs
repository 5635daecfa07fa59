//! A node's sign of life: a key on a lease, kept alive for as long as this value lives. Tells until when the others
//! must take us for alive, by our own monotonic clock; that is never later than the store's view.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_engine::ids::Incarnation;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::NodeError;
use super::join::REFRESH_MS;
use crate::records;
use crate::schema::{LiveRecord, NodeCondition, Timestamp, encode, live_key};
use crate::store::{Expect, Lease, Store, StoreError, Txn};

/// The pause after a try that failed: what is left of the lease is for finding a server that answers.
const RETRY: Duration = Duration::from_millis(300);

/// Whether the others take us for alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// They do, until this moment at least if nothing else is heard.
    Until(Instant),
    /// They do not, or may not any more: someone may take over what we hold.
    Lost,
}

impl Pulse {
    /// Whether the others take us for alive right now, as far as we know.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Until(until) if Instant::now() < until)
    }
}

/// What a node tells of itself with its sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    condition: NodeCondition,
    swarm_node: String,
}

/// Keeps a node's sign of life in the store.
#[derive(Debug)]
pub struct Heartbeat {
    pulse: watch::Receiver<Pulse>,
    told: watch::Sender<Told>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What the task needs.
struct Beating {
    store: Arc<dyn Store>,
    record: LiveRecord,
    ttl: Duration,
    /// Runs of this node's daemon before, whose signs of life may be replaced.
    previous: Vec<Incarnation>,
    pulse: watch::Sender<Pulse>,
    /// Whether the store answered the last time.
    kept: bool,
}

impl Heartbeat {
    /// Starts it. Fails only if another run of a daemon with this node's identity lives (a copied disk); while the
    /// store is away it keeps trying.
    ///
    /// `previous` are the runs of this node's daemon before, as its disk knows them: what is left of their signs of
    /// life is replaced at once, instead of being waited for.
    pub async fn start(
        store: Arc<dyn Store>,
        record: LiveRecord,
        ttl: Duration,
        previous: impl IntoIterator<Item = Incarnation>,
    ) -> Result<Self, NodeError> {
        let (pulse, pulse_seen) = watch::channel(Pulse::Lost);
        let (told, told_seen) = watch::channel(Told {
            condition: record.condition,
            swarm_node: record.swarm_node.clone(),
        });
        let (stop, stopped) = watch::channel(false);
        let mut beating = Beating {
            store,
            record,
            ttl,
            previous: previous.into_iter().collect(),
            pulse,
            kept: true,
        };
        let lease = match beating.begin().await {
            Ok(lease) => Some(lease),
            Err(NodeError::Store(error)) if error.is_transient() => None,
            Err(error) => return Err(error),
        };
        let task = tokio::spawn(beating.run(lease, told_seen, stopped));
        Ok(Self {
            pulse: pulse_seen,
            told,
            stop,
            task,
        })
    }

    /// Whether the others take us for alive; changes are told.
    pub fn pulse(&self) -> watch::Receiver<Pulse> {
        self.pulse.clone()
    }

    /// Tells the others how this node finds itself.
    pub fn set_condition(&self, condition: NodeCondition) {
        self.told
            .send_if_modified(|told| std::mem::replace(&mut told.condition, condition) != condition);
    }

    /// Tells the others what Swarm calls this node; empty if its dockerd is in none.
    pub fn set_swarm_node(&self, id: &str) {
        self.told.send_if_modified(|told| {
            let differs = told.swarm_node != id;
            id.clone_into(&mut told.swarm_node);
            differs
        });
    }

    /// Says good-bye: the others need not wait for the lease to end. Bounded by the store's deadline.
    pub async fn stop(self) {
        // The task may have ended on its own; there is nothing to stop then.
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

impl Beating {
    async fn run(
        mut self,
        mut lease: Option<Lease>,
        mut told: watch::Receiver<Told>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut written = Instant::now();
        loop {
            let pause = match &lease {
                Some(lease) if self.kept => lease.ttl / 3,
                Some(_) => RETRY.min(self.ttl / 3),
                None => Duration::from_millis(500).min(self.ttl / 3),
            };
            tokio::select! {
                _ = stopped.changed() => break,
                _ = tokio::time::sleep(pause) => {}
                changed = told.changed() => if changed.is_err() { break },
            }
            let Told {
                condition,
                swarm_node,
            } = told.borrow_and_update().clone();
            let differs = condition != self.record.condition;
            let refresh = differs
                || swarm_node != self.record.swarm_node
                || written.elapsed() >= Duration::from_millis(REFRESH_MS);
            if differs {
                self.record.condition = condition;
                self.record.since = Timestamp::now();
            }
            self.record.swarm_node = swarm_node;
            lease = match lease {
                Some(lease) => self.keep(lease, refresh, &mut written).await,
                None => self
                    .begin()
                    .await
                    .map_err(|error| tracing::warn!(%error, "no sign of life"))
                    .ok(),
            };
        }
        if let Some(lease) = lease {
            // Whatever the answer: the lease ends on its own.
            let _ = self.store.revoke(&lease.id).await;
        }
        self.pulse.send_replace(Pulse::Lost);
    }

    /// A new lease with our sign of life on it.
    async fn begin(&mut self) -> Result<Lease, NodeError> {
        let asked = Instant::now();
        let lease = self.store.grant(self.ttl).await?;
        match self.write(&lease).await {
            Ok(()) => {
                self.kept = true;
                self.pulse.send_replace(Pulse::Until(asked + lease.ttl));
                Ok(lease)
            }
            Err(error) => {
                let _ = self.store.revoke(&lease.id).await;
                Err(error)
            }
        }
    }

    async fn write(&mut self, lease: &Lease) -> Result<(), NodeError> {
        let key = live_key(self.record.node);
        let found = records::get::<LiveRecord>(&*self.store, &key).await?;
        let mine = self.record.incarnation;
        if let Some(other) = &found
            && other.incarnation != mine
            && !self.previous.contains(&other.incarnation)
        {
            return Err(NodeError::Twin(self.record.node));
        }
        self.record.clock = Timestamp::now();
        let expect = found.map_or(Expect::Absent, |found| Expect::At(found.revision));
        let txn = Txn::new()
            .check(&key, expect)
            .put_leased(&key, encode(&key, &self.record)?, &lease.id);
        self.store.commit(txn).await?;
        Ok(())
    }

    /// Keeps the lease; `None` when it is lost.
    async fn keep(&mut self, lease: Lease, refresh: bool, written: &mut Instant) -> Option<Lease> {
        let asked = Instant::now();
        let answer = self.store.keep_alive(&lease.id).await;
        self.kept = answer.is_ok();
        match answer {
            Ok(()) => {
                self.pulse.send_replace(Pulse::Until(asked + lease.ttl));
                if refresh {
                    match self.write(&lease).await {
                        Ok(()) => *written = asked,
                        Err(error) => tracing::warn!(%error, "the sign of life could not be renewed"),
                    }
                }
                Some(lease)
            }
            Err(StoreError::LeaseGone(_)) => {
                tracing::warn!("this node's lease has ended: the others take it for dead");
                self.pulse.send_replace(Pulse::Lost);
                None
            }
            Err(error) => {
                // The pulse's moment passes on its own if this goes on.
                tracing::debug!(%error, "the lease could not be kept alive; trying again");
                Some(lease)
            }
        }
    }
}
