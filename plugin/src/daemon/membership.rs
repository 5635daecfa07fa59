//! This node as a member of its cluster: it joins, at the start or as soon as the store is there, gives signs of life,
//! and tells how it finds itself and what pools it has. Refuses for as long as it has not joined; decides nothing about
//! volumes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bulkhead_cluster::nodes::{Heartbeat, Joining, NodeError, Nodes};
use bulkhead_cluster::schema::{
    ClusterRecord, Extra, LiveRecord, NodeCondition, PoolRecord, PoolState, Timestamp,
};
use bulkhead_cluster::store::{Store, StoreError};
use bulkhead_engine::ids::{ClusterId, PoolId};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::context::Daemon;
use super::identity::Identity;
use crate::config::{Config, address};
use crate::service::ServiceError;

/// Between tries to join.
const PAUSE: Duration = Duration::from_secs(1);
/// Between looks at the pools.
const LOOK: Duration = Duration::from_secs(10);
/// A pool's free bytes are written again when they have changed by more than this share of its capacity.
const NOTABLE_PERCENT: u64 = 2;
/// An answer to a change that is asked for at the very start may wait so long for the node to have joined.
const JOIN: Duration = Duration::from_secs(2);

/// This node's place in the cluster.
pub(super) struct Membership {
    nodes: Nodes,
    store: Arc<dyn Store>,
    identity: Mutex<Identity>,
    config: Config,
    heartbeat: Mutex<Option<Heartbeat>>,
    joined: watch::Sender<bool>,
    condition: watch::Sender<NodeCondition>,
    /// Pools as they were last written.
    published: Mutex<BTreeMap<PoolId, PoolRecord>>,
    /// Pools have come or gone.
    pub(super) pools_changed: Notify,
}

impl Membership {
    /// Finds out which cluster this node belongs to. A node that has joined before need not reach the store for that;
    /// one that has not waits until it does, and `starting` says so.
    pub(super) async fn begin(
        config: &Config,
        store: Arc<dyn Store>,
        identity: Identity,
        starting: &watch::Sender<String>,
    ) -> anyhow::Result<(Arc<Self>, ClusterId)> {
        if let Some(name) = identity.cluster_name().filter(|name| *name != config.cluster) {
            anyhow::bail!(
                "this node belongs to the cluster {name:?}, and is configured for {:?}; correct `cluster`, or wipe the node",
                config.cluster
            );
        }
        let known = identity.cluster();
        let membership = Arc::new(Self {
            nodes: Nodes::new(store.clone()),
            store,
            identity: Mutex::new(identity),
            config: config.clone(),
            heartbeat: Mutex::default(),
            joined: watch::Sender::new(false),
            condition: watch::Sender::default(),
            published: Mutex::default(),
            pools_changed: Notify::new(),
        });
        let mut told = false;
        loop {
            match membership.join().await {
                Ok(cluster) => return Ok((membership, cluster)),
                Err(Refusal::Final(error)) => return Err(error),
                Err(Refusal::Store(error)) if known.is_none() => anyhow::bail!(error),
                Err(Refusal::Away(error) | Refusal::Store(error)) => {
                    if let Some(cluster) = known {
                        tracing::warn!(%error, "the store is of no use now; this node serves what it knows and joins as soon as it can");
                        return Ok((membership, cluster));
                    }
                    let what = format!(
                        "waiting for the store to join cluster {:?}: {error}",
                        config.cluster
                    );
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!("{what}");
                    }
                    starting.send_replace(what);
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Joins if this node has not yet, until it has. Ends with an error only if it may not.
    pub(super) async fn keep_joining(&self) -> anyhow::Result<()> {
        while !self.has_joined() {
            match self.join().await {
                Ok(_) => tracing::info!("the store is there, and this node has joined"),
                Err(Refusal::Final(error)) => return Err(error),
                Err(Refusal::Away(error) | Refusal::Store(error)) => {
                    tracing::debug!(%error, "not joined yet");
                    sleep(PAUSE).await;
                }
            }
        }
        Ok(())
    }

    async fn join(&self) -> Result<ClusterId, Refusal> {
        let me = self.introduction().await?;
        let (cluster, _) = self.nodes.join(&me).await?;
        self.remember(&cluster).map_err(Refusal::Final)?;
        self.come_alive().await?;
        self.joined.send_replace(true);
        Ok(cluster.id)
    }

    async fn introduction(&self) -> Result<Joining, Refusal> {
        let (written, store) = (self.config.data_address.clone(), self.config.store.clone());
        let found = tokio::task::spawn_blocking(move || address::data_address(&written, &store)).await;
        let data_address = found
            .unwrap_or_else(|error| Err(error.to_string()))
            .map_err(Refusal::Away)?;
        let identity = self.identity.lock();
        Ok(Joining {
            cluster_name: self.config.cluster.clone(),
            cluster: identity.cluster(),
            node: identity.node(),
            name: self.config.node_name(),
            management_address: address::management_address(&self.config.api.listen, &data_address),
            data_address,
            labels: self.config.labels.0.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock: Timestamp::now(),
        })
    }

    fn remember(&self, cluster: &ClusterRecord) -> anyhow::Result<()> {
        self.identity.lock().joined(cluster.id, &cluster.name)
    }

    async fn come_alive(&self) -> Result<(), Refusal> {
        let (node, run, earlier) = {
            let identity = self.identity.lock();
            (identity.node(), identity.run(), identity.earlier_runs())
        };
        let record = LiveRecord {
            node,
            incarnation: run,
            clock: Timestamp::now(),
            condition: *self.condition.borrow(),
            since: Timestamp::now(),
            swarm_node: String::new(),
            extra: Extra::new(),
        };
        let lease = self.config.lease.duration();
        let heartbeat = Heartbeat::start(self.store.clone(), record, lease, earlier).await?;
        if heartbeat.pulse().borrow().is_alive() {
            let kept = self.identity.lock().heard_of();
            kept.context("this run cannot be noted").map_err(Refusal::Final)?;
        }
        *self.heartbeat.lock() = Some(heartbeat);
        Ok(())
    }

    fn has_joined(&self) -> bool {
        *self.joined.borrow()
    }

    /// Whether the others take this node for alive, as far as it knows.
    pub(super) fn is_alive(&self) -> bool {
        let heartbeat = self.heartbeat.lock();
        heartbeat
            .as_ref()
            .is_some_and(|heartbeat| heartbeat.pulse().borrow().is_alive())
    }

    /// Refuses what a node must not do that is not known to live: others could take its volumes over at once.
    pub(super) async fn require(&self) -> Result<(), ServiceError> {
        let mut joined = self.joined.subscribe();
        let wait = async {
            let _ = joined.wait_for(|joined| *joined).await;
            let pulse = self.heartbeat.lock().as_ref().map(Heartbeat::pulse);
            if let Some(mut pulse) = pulse {
                let _ = pulse.wait_for(|pulse| pulse.is_alive()).await;
            }
        };
        if timeout(JOIN, wait).await.is_ok() {
            return Ok(());
        }
        Err(ServiceError::Unavailable(self.why_not()))
    }

    fn why_not(&self) -> String {
        match self.store.access().away() {
            Some((since, reason)) => format!(
                "the store ({}) cannot be reached since {}: {reason}; mounted volumes go on, what is to be changed has to wait",
                self.store.name(),
                humantime::format_rfc3339_seconds(since)
            ),
            None => "this node is not known to live yet; try again in a moment".to_owned(),
        }
    }

    fn tell(&self, condition: NodeCondition) {
        self.condition.send_replace(condition);
        if let Some(heartbeat) = &*self.heartbeat.lock() {
            heartbeat.set_condition(condition);
        }
    }

    /// Tells the others what Swarm calls this node.
    pub(super) fn tell_swarm_node(&self, id: &str) {
        if let Some(heartbeat) = &*self.heartbeat.lock() {
            heartbeat.set_swarm_node(id);
        }
    }

    /// Writes the pools whose record is notably out of date, removes those that are no more.
    async fn publish(&self, pools: Vec<PoolRecord>, recorded: &[PoolRecord]) -> Result<(), NodeError> {
        for pool in &pools {
            let known = self.published.lock().get(&pool.id).cloned();
            if known.as_ref().is_some_and(|known| !differs(known, pool)) {
                continue;
            }
            self.nodes.publish_pool(pool).await?;
            self.published.lock().insert(pool.id, pool.clone());
        }
        let is_there = |id: PoolId| pools.iter().any(|pool| pool.id == id);
        for gone in recorded.iter().filter(|pool| !is_there(pool.id)) {
            self.nodes.remove_pool(gone.node, gone.id).await?;
            self.published.lock().remove(&gone.id);
        }
        Ok(())
    }

    /// Says good-bye, so that the others need not wait for the lease to end.
    pub(super) async fn leave(&self) {
        let heartbeat = self.heartbeat.lock().take();
        if let Some(heartbeat) = heartbeat {
            heartbeat.stop().await;
        }
    }
}

/// Whether a pool's record has to be written again.
fn differs(known: &PoolRecord, now: &PoolRecord) -> bool {
    let moved = known.free.abs_diff(now.free);
    let notable = u128::from(moved) * 100 > u128::from(now.capacity) * u128::from(NOTABLE_PERCENT);
    let same = PoolRecord {
        free: now.free,
        ..known.clone()
    };
    notable || same != *now
}

/// Tells the cluster what there is of this node, for as long as it is polled.
pub(super) async fn keep_telling(daemon: Arc<Daemon>) {
    let mut told = Instant::now();
    loop {
        let membership = &daemon.membership;
        let pools = daemon.pool_records().await;
        membership.tell(condition(&pools));
        if membership.has_joined() {
            let recorded = daemon.catalogue.read(|contents| {
                let ours = contents.pools().filter(|pool| pool.node == daemon.node);
                ours.cloned().collect::<Vec<_>>()
            });
            // What the catalogue of a run before knows may be gone already.
            let recorded = if daemon.catalogue.freshness().from_disk {
                Vec::new()
            } else {
                recorded
            };
            if let Err(error) = membership.publish(pools, &recorded).await
                && told.elapsed() > LOOK
            {
                tracing::warn!(%error, "what the cluster knows of this node's pools may be out of date");
                told = Instant::now();
            }
        }
        let _ = timeout(LOOK, membership.pools_changed.notified()).await;
    }
}

fn condition(pools: &[PoolRecord]) -> NodeCondition {
    let down = pools.iter().filter(|pool| pool.state == PoolState::Down).count();
    match down {
        0 => NodeCondition::Ok,
        down if down == pools.len() => NodeCondition::StorageDown,
        _ => NodeCondition::StorageDegraded,
    }
}

/// Why this node has not joined.
enum Refusal {
    /// It may later, without anybody doing anything.
    Away(String),
    /// The store refuses: it is full, or a password has run out. A person has to see to that, and a node that has joined before
    /// serves its replicas meanwhile.
    Store(String),
    /// It may not.
    Final(anyhow::Error),
}

impl From<NodeError> for Refusal {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Store(error) if error.is_transient() => Self::Away(error.to_string()),
            NodeError::Busy(_) => Self::Away(error.to_string()),
            NodeError::Store(error @ (StoreError::Failed { .. } | StoreError::Denied { .. })) => {
                Self::Store(error.to_string())
            }
            error => Self::Final(error.into()),
        }
    }
}
