//! Who this node is: an identity made once and kept on its disk, and its place in the cluster's records.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, bail};
use bulkhead_cluster::records;
use bulkhead_cluster::schema::{
    CLUSTER_KEY, ClusterRecord, Extra, NodeDuty, NodeRecord, Timestamp, encode, node_key, node_name_key,
};
use bulkhead_cluster::store::{Expect, Revision, Store, StoreError, Txn};
use bulkhead_engine::ids::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Tries against others that join at the same moment.
const TRIES: u32 = 10;

/// The file with the identity.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    node: NodeId,
}

/// The record of a node's name: whose it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct NodeName {
    node: NodeId,
}

impl bulkhead_cluster::schema::Record for NodeName {
    const KIND: &'static str = "node name";
}

/// The identity of this node; made if there is none.
pub(super) fn identity(state_dir: &Path) -> anyhow::Result<NodeId> {
    let path = state_dir.join("node.json");
    match fs::read(&path) {
        Ok(bytes) => {
            let identity: Identity = serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "{} is damaged; restore it: without it this node's replicas belong to nobody",
                    path.display()
                )
            })?;
            Ok(identity.node)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let node = NodeId::from(Uuid::new_v4());
            keep(&path, &Identity { node }).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(node)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Durable before anything is made in its name.
fn keep(path: &Path, identity: &Identity) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(identity)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// The cluster that the store belongs to; made if the store is empty.
pub(super) async fn cluster(store: &dyn Store, name: &str) -> anyhow::Result<ClusterId> {
    for _ in 0..TRIES {
        if let Some(found) = records::get::<ClusterRecord>(store, CLUSTER_KEY).await? {
            if found.name != name {
                bail!(
                    "the store belongs to the cluster {:?}, and this node is configured for {name:?}; correct `cluster` or `store`",
                    found.name
                );
            }
            return Ok(found.id);
        }
        let record = ClusterRecord {
            id: ClusterId::from(Uuid::new_v4()),
            name: name.to_owned(),
            created_at: Timestamp::now(),
            extra: Extra::new(),
        };
        let made = store
            .swap(CLUSTER_KEY, Expect::Absent, encode(CLUSTER_KEY, &record)?)
            .await;
        retry_on_conflict(made)?;
    }
    bail!("the cluster's record in the store is changed by others all the time");
}

/// Writes this node into the cluster's records.
pub(super) async fn register(store: &dyn Store, node: NodeId, name: &str) -> anyhow::Result<()> {
    let (key, name_key) = (node_key(node), node_name_key(name)?);
    for _ in 0..TRIES {
        let named = records::get::<NodeName>(store, &name_key).await?;
        if let Some(other) = named.as_ref().filter(|named| named.node != node) {
            bail!(
                "the name {name:?} belongs to another node of this cluster ({}); set `node_name`",
                other.node
            );
        }
        let found = records::get::<NodeRecord>(store, &key).await?;
        let mut record = found
            .as_ref()
            .map_or_else(|| new_record(node, name), |found| found.record.clone());
        let renamed_from = (record.name != name).then(|| record.name.clone());
        name.clone_into(&mut record.name);
        env!("CARGO_PKG_VERSION").clone_into(&mut record.version);
        if named.is_some() && found.as_ref().is_some_and(|found| found.record == record) {
            return Ok(());
        }
        let expect = |revision: Option<Revision>| revision.map_or(Expect::Absent, Expect::At);
        let mut txn = Txn::new()
            .check(&key, expect(found.map(|found| found.revision)))
            .check(&name_key, expect(named.map(|named| named.revision)))
            .put(&key, encode(&key, &record)?)
            .put(&name_key, encode(&name_key, &NodeName { node })?);
        if let Some(old) = renamed_from {
            txn = txn.delete(node_name_key(&old)?);
        }
        retry_on_conflict(store.commit(txn).await)?;
    }
    bail!("this node's record in the store is changed by others all the time");
}

fn new_record(node: NodeId, name: &str) -> NodeRecord {
    NodeRecord {
        id: node,
        name: name.to_owned(),
        data_address: String::new(),
        management_address: String::new(),
        labels: std::collections::BTreeMap::new(),
        version: String::new(),
        duty: NodeDuty::default(),
        joined_at: Timestamp::now(),
        extra: Extra::new(),
    }
}

/// After a conflict, or an answer that was lost, what is there is read again.
fn retry_on_conflict<T>(outcome: Result<T, StoreError>) -> Result<(), StoreError> {
    match outcome {
        Ok(_) | Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
