//! The nodes of a cluster and their pools: joining, labels, duty, what each has, and who lives. Decides whether a
//! node may join; never decides where anything goes.

mod heartbeat;
mod join;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bulkhead_engine::ids::{NodeId, PoolId};
use thiserror::Error;

pub use self::heartbeat::{Heartbeat, Pulse};
pub use self::join::{Joining, versions_fit};

use crate::records::{self, RecordError};
use crate::schema::{
    LIVE, LiveRecord, NODES, NodeCondition, NodeDuty, NodeRecord, POOLS, PoolRecord, Record, SchemaError,
    Stored, encode, node_key, node_name_key, pool_key,
};
use crate::store::{Expect, Store, StoreError, Txn};

/// Conflicts in a row before we give up.
const TRIES: usize = 30;

/// Why something could not be done with a node.
#[derive(Clone, Debug, Error)]
pub enum NodeError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record that cannot be read, or a name that cannot be one.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// There is no such node.
    #[error("there is no node `{0}` in this cluster; bulkhead node list shows those that there are")]
    NoSuch(String),
    /// The record was changed by others all the time.
    #[error("node `{0}` is being changed by others all the time; try again")]
    Busy(String),
    /// Another daemon with the same identity lives.
    #[error(
        "another daemon with this node's identity ({0}) lives; if its disk was copied, wipe this node, else stop the other one or wait until its lease has ended"
    )]
    Twin(NodeId),
    /// This node may not join.
    #[error("this node cannot join cluster `{cluster}`: {reason}")]
    Refused {
        /// The cluster.
        cluster: String,
        /// Why, and what to do.
        reason: String,
    },
}

impl From<RecordError> for NodeError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Store(error) => Self::Store(error),
            RecordError::Schema(error) => Self::Schema(error),
        }
    }
}

/// A node's state, as operators know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeStatus {
    /// Starting.
    Init,
    /// All is well.
    Ok,
    /// Its lease has ended.
    Offline,
    /// Gets nothing new.
    Drained,
    /// Serves nothing while someone works on it.
    Maintenance,
    /// No pool is there.
    StorageDown,
    /// Some pool is away.
    StorageDegraded,
    /// Gone for good.
    Decommissioned,
}

impl NodeStatus {
    /// What a node's record and its sign of life, if there is one, say together.
    pub fn of(record: &NodeRecord, live: Option<&LiveRecord>) -> Self {
        match (record.duty, live.map(|live| live.condition)) {
            (NodeDuty::Decommissioned, _) => Self::Decommissioned,
            (_, None) => Self::Offline,
            (NodeDuty::Maintenance, _) => Self::Maintenance,
            (_, Some(NodeCondition::Init)) => Self::Init,
            (_, Some(NodeCondition::StorageDown)) => Self::StorageDown,
            (_, Some(NodeCondition::StorageDegraded)) => Self::StorageDegraded,
            (NodeDuty::Drained, Some(NodeCondition::Ok)) => Self::Drained,
            (NodeDuty::Full, Some(NodeCondition::Ok)) => Self::Ok,
        }
    }
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Init => "init",
            Self::Ok => "ok",
            Self::Offline => "offline",
            Self::Drained => "drained",
            Self::Maintenance => "maintenance",
            Self::StorageDown => "storage down",
            Self::StorageDegraded => "storage degraded",
            Self::Decommissioned => "decommissioned",
        })
    }
}

/// A node, and its sign of life if it lives.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its record.
    pub record: NodeRecord,
    /// Its sign of life.
    pub live: Option<LiveRecord>,
}

impl Node {
    /// Its state, as operators know it.
    pub fn status(&self) -> NodeStatus {
        NodeStatus::of(&self.record, self.live.as_ref())
    }
}

/// The nodes of a cluster.
#[derive(Clone, Debug)]
pub struct Nodes {
    store: Arc<dyn Store>,
}

impl Nodes {
    /// Those that a store holds.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// All nodes, in the order of their names.
    pub async fn list(&self) -> Result<Vec<Node>, NodeError> {
        let live = self.all::<LiveRecord>(LIVE).await?;
        let live: BTreeMap<NodeId, LiveRecord> = live.into_iter().map(|live| (live.node, live)).collect();
        let mut nodes: Vec<Node> = self
            .all::<NodeRecord>(NODES)
            .await?
            .into_iter()
            .map(|record| Node {
                live: live.get(&record.id).cloned(),
                record,
            })
            .collect();
        nodes.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        Ok(nodes)
    }

    /// The node of a name or an id.
    pub async fn find(&self, name: &str) -> Result<NodeRecord, NodeError> {
        let nodes = self.list().await?;
        let called = |record: &NodeRecord| record.name == name || name.parse() == Ok(record.id);
        let found = nodes.into_iter().map(|node| node.record).find(called);
        found.ok_or_else(|| NodeError::NoSuch(name.to_owned()))
    }

    /// Changes a node's record.
    pub async fn update(
        &self,
        node: NodeId,
        change: impl Fn(&mut NodeRecord) + Send + Sync,
    ) -> Result<NodeRecord, NodeError> {
        let key = node_key(node);
        for _ in 0..TRIES {
            let Some(found) = records::get::<NodeRecord>(&*self.store, &key).await? else {
                return Err(NodeError::NoSuch(node.to_string()));
            };
            let mut record = found.record.clone();
            change(&mut record);
            // Identity and name are not changed here: other keys depend on them.
            record.id = found.record.id;
            found.record.name.clone_into(&mut record.name);
            if record == found.record {
                return Ok(record);
            }
            match self
                .store
                .swap(&key, Expect::At(found.revision), encode(&key, &record)?)
                .await
            {
                Ok(_) => return Ok(record),
                // After a lost answer the change is asked for again on what is there now: it says what is to be,
                // so a second time does no harm.
                Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(NodeError::Busy(node.to_string()))
    }

    /// All pools of the cluster.
    pub async fn pools(&self) -> Result<Vec<PoolRecord>, NodeError> {
        self.all(POOLS).await
    }

    /// Tells what a pool of this node is like now. Writes only if it differs from what is there: a pool's free bytes
    /// change all the time, so the caller rounds them.
    pub async fn publish_pool(&self, pool: &PoolRecord) -> Result<(), NodeError> {
        let key = pool_key(pool.node, pool.id);
        let value = encode(&key, pool)?;
        if self
            .store
            .get(&key)
            .await?
            .is_some_and(|entry| entry.value == value)
        {
            return Ok(());
        }
        // The pool's own node is the only one that writes this key.
        self.store.commit(Txn::new().put(&key, value)).await?;
        Ok(())
    }

    /// A pool of this node is no more.
    pub async fn remove_pool(&self, node: NodeId, pool: PoolId) -> Result<(), NodeError> {
        self.store.commit(Txn::new().delete(pool_key(node, pool))).await?;
        Ok(())
    }

    /// Removes a decommissioned node and all that is known of it but its volumes.
    pub async fn remove(&self, node: NodeId) -> Result<(), NodeError> {
        let key = node_key(node);
        for _ in 0..TRIES {
            let Some(found) = records::get::<NodeRecord>(&*self.store, &key).await? else {
                return Ok(());
            };
            let mut txn = Txn::new()
                .check(&key, Expect::At(found.revision))
                .delete(&key)
                .delete(node_name_key(&found.name)?);
            for pool in self.pools().await?.iter().filter(|pool| pool.node == node) {
                txn = txn.delete(pool_key(node, pool.id));
            }
            match self.store.commit(txn).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(NodeError::Busy(node.to_string()))
    }

    async fn all<R: Record>(&self, prefix: &str) -> Result<Vec<R>, NodeError> {
        let (found, faults, _) = records::list::<R>(&*self.store, prefix).await?;
        for fault in faults {
            tracing::error!(%fault, "a record cannot be read");
        }
        Ok(found.into_iter().map(|stored: Stored<R>| stored.record).collect())
    }
}
