//! A node joins: is it the cluster that it belongs to, is its name free, do version and clock fit, may this store
//! have more than one node at all? Every refusal says what to do.

use std::collections::BTreeMap;

use bulkhead_engine::ids::{ClusterId, NodeId};
use uuid::Uuid;

use super::{Node, NodeError, Nodes, TRIES};
use crate::records;
use crate::schema::{
    CLUSTER_KEY, ClusterRecord, Extra, LiveRecord, NodeDuty, NodeNameRecord, NodeRecord, Stored, Timestamp,
    check_name, encode, node_key, node_name_key,
};
use crate::store::{Expect, StoreError, Txn};

/// A sign of life is written anew so often, so a clock that differs by more than this and some slack is off.
pub(super) const REFRESH_MS: u64 = 300_000;
/// How far clocks may be apart. Nothing is decided by them, but people compare the times of events.
const SKEW_MS: u64 = 60_000;

impl LiveRecord {
    /// Whether the node's wall clock is too far from this one, as far as its last sign of life shows. One that is behind shows within
    /// two writings.
    pub fn clock_differs(&self, ours: Timestamp) -> bool {
        let (ours, theirs) = (ours.0, self.clock.0);
        theirs > ours.saturating_add(SKEW_MS) || ours > theirs.saturating_add(REFRESH_MS + 2 * SKEW_MS)
    }
}

/// What a node says of itself when it joins.
#[derive(Clone, Debug)]
pub struct Joining {
    /// The cluster's name, as configured.
    pub cluster_name: String,
    /// The cluster that this node has belonged to before, by what is on its disk.
    pub cluster: Option<ClusterId>,
    /// Its identity, by what is on its disk.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where other nodes reach its replicas; empty on a single node.
    pub data_address: String,
    /// Where its API is reached; empty on a single node.
    pub management_address: String,
    /// Labels from its configuration; they replace those of the same keys.
    pub labels: BTreeMap<String, String>,
    /// Bulkhead's version on it: `1.2.3`.
    pub version: String,
    /// Its wall clock.
    pub clock: Timestamp,
}

impl Nodes {
    /// Lets a node join, or join again after a restart. The first one makes the cluster.
    pub async fn join(&self, me: &Joining) -> Result<(ClusterRecord, NodeRecord), NodeError> {
        check_name(&me.name)?;
        let cluster = self.cluster(me).await?;
        let refuse = |reason: String| NodeError::Refused {
            cluster: cluster.name.clone(),
            reason,
        };
        for _ in 0..TRIES {
            let nodes = self.list().await?;
            self.fits(me, &nodes).map_err(refuse)?;
            if let Some(record) = self.enrol(me, &nodes).await? {
                return Ok((cluster, record));
            }
        }
        Err(NodeError::Busy(me.name.clone()))
    }

    /// The cluster's record, made if there is none and this node belongs to none.
    async fn cluster(&self, me: &Joining) -> Result<ClusterRecord, NodeError> {
        let refuse = |reason: String| NodeError::Refused {
            cluster: me.cluster_name.clone(),
            reason,
        };
        check_name(&me.cluster_name)?;
        for _ in 0..TRIES {
            if let Some(found) = records::get::<ClusterRecord>(&*self.store, CLUSTER_KEY).await? {
                if found.name != me.cluster_name {
                    return Err(refuse(format!(
                        "the store holds a cluster named `{}`; correct the cluster's name or the store's address",
                        found.name
                    )));
                }
                if me.cluster.is_some_and(|cluster| cluster != found.id) {
                    return Err(refuse(format!(
                        "this node belongs to another cluster of that name (its disk says {}, the store {}); correct the store's address, or wipe the node",
                        me.cluster.unwrap_or(found.id),
                        found.id
                    )));
                }
                return Ok(found.record);
            }
            if let Some(cluster) = me.cluster {
                return Err(refuse(format!(
                    "the store is empty, but this node belongs to cluster {cluster}; correct the store's address, restore the store from a backup, or wipe the node"
                )));
            }
            let record = ClusterRecord {
                id: ClusterId::from(Uuid::new_v4()),
                name: me.cluster_name.clone(),
                created_at: me.clock,
                extra: Extra::new(),
            };
            match self
                .store
                .swap(CLUSTER_KEY, Expect::Absent, encode(CLUSTER_KEY, &record)?)
                .await
            {
                Ok(_) => return Ok(record),
                Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(NodeError::Busy(me.name.clone()))
    }

    /// Whether this node fits to those that there are.
    fn fits(&self, me: &Joining, nodes: &[Node]) -> Result<(), String> {
        let others = || nodes.iter().filter(|node| node.record.id != me.node);
        if !self.store.capabilities().arbitrates
            && let Some(other) = others().next()
        {
            return Err(format!(
                "its store ({}) is embedded and belongs to node `{}` alone, because it cannot say which of two nodes holds a volume; use etcd:// or consul:// for more than one node",
                self.store.name(),
                other.record.name
            ));
        }
        if let Some(other) = others().find(|node| node.record.name == me.name) {
            return Err(format!(
                "there is a node named `{}` already ({}); give this one another name, or decommission the other one if it is gone",
                me.name, other.record.id
            ));
        }
        let mine = nodes.iter().find(|node| node.record.id == me.node);
        if mine.is_some_and(|node| node.record.duty == NodeDuty::Decommissioned) {
            return Err("it has been decommissioned; wipe it to let it join as a new node".to_owned());
        }
        for node in others() {
            let Some(live) = &node.live else { continue };
            if !versions_fit(&me.version, &node.record.version) {
                return Err(format!(
                    "it runs version {}, node `{}` runs {}, which is too far apart; upgrade one minor version at a time",
                    me.version, node.record.name, node.record.version
                ));
            }
            if live.clock_differs(me.clock) {
                return Err(format!(
                    "its clock says {}, that of node `{}` said {} a moment ago; set the clocks (NTP)",
                    me.clock, node.record.name, live.clock
                ));
            }
        }
        Ok(())
    }

    /// Writes the node's record and its name; `None` if someone was faster and all must be looked at again.
    async fn enrol(&self, me: &Joining, nodes: &[Node]) -> Result<Option<NodeRecord>, NodeError> {
        let key = node_key(me.node);
        let found: Option<Stored<NodeRecord>> = records::get(&*self.store, &key).await?;
        let mut labels = found
            .as_ref()
            .map(|found| found.labels.clone())
            .unwrap_or_default();
        labels.extend(me.labels.clone());
        let record = NodeRecord {
            id: me.node,
            name: me.name.clone(),
            data_address: me.data_address.clone(),
            management_address: me.management_address.clone(),
            labels,
            version: me.version.clone(),
            duty: found.as_ref().map(|found| found.duty).unwrap_or_default(),
            leaving_pools: found
                .as_ref()
                .map(|found| found.leaving_pools.clone())
                .unwrap_or_default(),
            joined_at: found.as_ref().map_or(me.clock, |found| found.joined_at),
            extra: found
                .as_ref()
                .map(|found| found.extra.clone())
                .unwrap_or_default(),
        };
        if found.as_ref().is_some_and(|found| found.record == record) {
            return Ok(Some(record));
        }
        let name_key = node_name_key(&me.name)?;
        let mut txn = Txn::new().put(&key, encode(&key, &record)?);
        txn = match &found {
            Some(found) => txn.check(&key, Expect::At(found.revision)),
            None => txn.check(&key, Expect::Absent),
        };
        let old_name = found.as_ref().map(|found| found.name.as_str());
        if old_name != Some(&me.name) {
            txn = txn
                .check(&name_key, Expect::Absent)
                .put(&name_key, encode(&name_key, &NodeNameRecord { node: me.node })?);
            if let Some(old) = old_name {
                txn = txn.delete(node_name_key(old)?);
            }
        }
        match self.store.commit(txn).await {
            Ok(_) => Ok(Some(record)),
            Err(StoreError::Conflict { key, .. })
                if key == name_key && !nodes.iter().any(|node| node.record.name == me.name) =>
            {
                // The name is held by a record that cannot be read or that is being written right now.
                self.explain_name(me, &name_key).await
            }
            Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn explain_name(&self, me: &Joining, name_key: &str) -> Result<Option<NodeRecord>, NodeError> {
        let Some(held) = records::get::<NodeNameRecord>(&*self.store, name_key).await? else {
            return Ok(None);
        };
        let holder = held.node;
        if holder == me.node || self.store.get(&node_key(holder)).await?.is_some() {
            return Ok(None);
        }
        // A name whose node has gone half-way: nobody has it.
        let free = Txn::new()
            .check(name_key, Expect::At(held.revision))
            .delete(name_key);
        match self.store.commit(free).await {
            Ok(_) | Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Versions of one cluster may be one minor version apart, so that it can be upgraded node by node.
pub fn versions_fit(ours: &str, theirs: &str) -> bool {
    let parse = |version: &str| {
        let mut parts = version
            .split(['.', '-', '+'])
            .map(|part| part.parse::<u32>().ok());
        Some((parts.next()??, parts.next()??))
    };
    match (parse(ours), parse(theirs)) {
        (Some((major, minor)), Some((other_major, other_minor))) => {
            major == other_major && minor.abs_diff(other_minor) <= 1
        }
        // A version that is no version tells nothing; the wire's own handshake decides then.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::versions_fit;

    #[test]
    fn versions_may_be_one_minor_apart() {
        assert!(versions_fit("1.2.3", "1.3.0-rc1") && versions_fit("0.1.0", "0.1.9"));
        assert!(!versions_fit("1.2.3", "1.4.0") && !versions_fit("1.2.3", "2.2.3"));
        assert!(versions_fit("dev", "1.0.0"));
    }
}
