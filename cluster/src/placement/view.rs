//! What placement looks at: nodes, pools and who shares a group, made from the records. Holds what is promised of
//! each pool as the sum over all volumes, so that no counter has to be kept in step.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_engine::ids::{NodeId, PoolId};

use crate::schema::{IoPriority, NodeDuty, NodeRecord, PoolRecord, PoolState, VolumeRecord};

/// A node as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its identity.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it lives by its lease.
    pub alive: bool,
    /// What the operator wants of it.
    pub duty: NodeDuty,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl NodeView {
    /// Whether a name or id of `nodes=` means this node.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || name.parse() == Ok(self.id)
    }

    pub(super) fn zone(&self) -> &str {
        self.labels.get("zone").map_or("", String::as_str)
    }

    pub(super) fn rack(&self) -> &str {
        self.labels.get("rack").map_or("", String::as_str)
    }
}

/// A pool as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    /// Its identity.
    pub id: PoolId,
    /// Its node.
    pub node: NodeId,
    /// How fast it is.
    pub priority: IoPriority,
    /// Bytes that it can hold.
    pub capacity: u64,
    /// Bytes that are free on its disk.
    pub free: u64,
    /// Bytes that are promised to volumes.
    pub allocated: u64,
    /// How much may be promised, in percent of the capacity.
    pub overcommit_percent: u32,
    /// Whether it takes new replicas.
    pub usable: bool,
}

impl PoolView {
    /// What its record says; nothing is promised of it yet.
    pub fn of(record: &PoolRecord) -> Self {
        Self {
            id: record.id,
            node: record.node,
            priority: record.priority,
            capacity: record.capacity,
            free: record.free,
            allocated: 0,
            overcommit_percent: record.overcommit_percent,
            usable: record.state == PoolState::Ok,
        }
    }

    /// Bytes that may be promised in all.
    pub fn promisable(&self) -> u64 {
        let bytes = u128::from(self.capacity) * u128::from(self.overcommit_percent) / 100;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Bytes that may still be promised.
    pub fn room(&self) -> u64 {
        self.promisable().saturating_sub(self.allocated)
    }

    /// How full it would be with so much more, in thousandths of what may be promised.
    pub(super) fn fill_permille(&self, more: u64) -> u64 {
        let filled = (u128::from(self.allocated) + u128::from(more)) * 1000;
        u64::try_from(filled / u128::from(self.promisable().max(1))).unwrap_or(u64::MAX)
    }
}

/// The cluster as placement sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Its nodes.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// Their pools.
    pub pools: BTreeMap<PoolId, PoolView>,
    /// For each group and node, a volume of that group with a replica on that node.
    groups: BTreeMap<(String, NodeId), String>,
}

impl View {
    /// A cluster without volumes.
    pub fn new(nodes: impl IntoIterator<Item = NodeView>, pools: impl IntoIterator<Item = PoolView>) -> Self {
        Self {
            nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
            pools: pools.into_iter().map(|pool| (pool.id, pool)).collect(),
            groups: BTreeMap::new(),
        }
    }

    /// The cluster that the records tell of; `alive` says which nodes live.
    pub fn of_records<'a>(
        nodes: impl IntoIterator<Item = &'a NodeRecord>,
        alive: impl Fn(NodeId) -> bool,
        pools: impl IntoIterator<Item = &'a PoolRecord>,
        volumes: impl IntoIterator<Item = &'a VolumeRecord>,
    ) -> Self {
        let mut leaving: BTreeSet<PoolId> = BTreeSet::new();
        let nodes = nodes.into_iter().map(|record| {
            leaving.extend(&record.leaving_pools);
            NodeView {
                id: record.id,
                name: record.name.clone(),
                alive: alive(record.id),
                duty: record.duty,
                labels: record.labels.clone(),
            }
        });
        let mut view = Self::new(nodes, pools.into_iter().map(PoolView::of));
        // Also before its node has said so of the pool itself.
        for pool in view.pools.values_mut() {
            pool.usable &= !leaving.contains(&pool.id);
        }
        for volume in volumes {
            view.add_volume(volume);
        }
        view
    }

    /// Counts what a volume has been promised, also one that is being deleted: its bytes are still there.
    pub fn add_volume(&mut self, volume: &VolumeRecord) {
        for replica in &volume.replicas {
            if let Some(pool) = self.pools.get_mut(&replica.pool) {
                pool.allocated = pool.allocated.saturating_add(volume.spec.size);
            }
            if let Some(group) = &volume.spec.group {
                let key = (group.clone(), replica.node);
                self.groups.entry(key).or_insert_with(|| volume.name.clone());
            }
        }
    }

    /// Tells of a volume of a group with a replica on a node.
    pub(crate) fn add_group(&mut self, group: &str, node: NodeId, volume: &str) {
        self.groups
            .entry((group.to_owned(), node))
            .or_insert_with(|| volume.to_owned());
    }

    /// A volume of a group with a replica on a node.
    pub fn group_on(&self, group: &str, node: NodeId) -> Option<&str> {
        self.groups.get(&(group.to_owned(), node)).map(String::as_str)
    }
}
