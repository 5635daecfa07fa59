//! The nodes of the cluster as the faces ask for them: their states in words, what they have and hold. Reads this node's
//! copy of the records; the only thing that it changes is labels.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bulkhead_cluster::catalogue::{Contents, Freshness};
use bulkhead_cluster::nodes::{Node, NodeError, NodeStatus};
use bulkhead_cluster::placement::PoolView;
use bulkhead_cluster::schema::{LiveRecord, PoolRecord, PoolState, SchemaError};
use bulkhead_engine::ids::{NodeId, PoolId};

use super::context::Daemon;
use super::redundancy::replica_word;
use crate::nearest::no_such;
use crate::options::check_label;
use crate::service::{LabelChange, NodePoolView, NodeView, NodeVolumeView, ServiceError};

/// The shortest beginning of an id that is taken for one.
pub(super) const MIN_ID: usize = 4;

/// What the volumes make of nodes and pools, from one pass over all of them.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) promised: BTreeMap<PoolId, u64>,
    replicas: BTreeMap<PoolId, usize>,
    on_node: BTreeMap<NodeId, usize>,
    attached: BTreeMap<NodeId, usize>,
}

impl Load {
    pub(super) fn of(contents: &Contents) -> Self {
        let mut load = Self::default();
        for volume in contents.volumes() {
            for replica in &volume.replicas {
                let promised = load.promised.entry(replica.pool).or_default();
                *promised = promised.saturating_add(volume.spec.size);
                *load.replicas.entry(replica.pool).or_default() += 1;
                *load.on_node.entry(replica.node).or_default() += 1;
            }
            if let Some(node) = volume.user_node() {
                *load.attached.entry(node).or_default() += 1;
            }
        }
        load
    }
}

/// A node's state for people: words, a sentence, whether all is well, and since when it is so.
pub(super) struct Standing {
    pub(super) state: String,
    pub(super) status: String,
    pub(super) healthy: bool,
    pub(super) since: Option<SystemTime>,
}

impl Standing {
    /// What is known of a node.
    pub(super) fn of(contents: &Contents, freshness: &Freshness, node: &Node) -> Self {
        let name = &node.record.name;
        // Signs of life are not kept on disk, so right after a start without the store nothing is known of anybody.
        if node.live.is_none() && freshness.from_disk {
            return Self {
                state: "unknown".to_owned(),
                status: "whether it lives is not known while the store is away".to_owned(),
                healthy: true,
                since: None,
            };
        }
        let status = node.status();
        let alive = node.live.as_ref();
        let since = match alive {
            Some(LiveRecord { since, .. }) if since.0 > 0 => Some((*since).into()),
            Some(_) => None,
            None => contents.silent_since(node.record.id),
        };
        let (healthy, text) = match status {
            NodeStatus::Ok => (true, "up".to_owned()),
            NodeStatus::Init => (true, "starting".to_owned()),
            NodeStatus::Drained => (true, "up, and gets no new replicas".to_owned()),
            NodeStatus::Maintenance => (true, "under maintenance, and serves nothing".to_owned()),
            NodeStatus::Decommissioned => (true, "gone for good".to_owned()),
            NodeStatus::Offline => (
                false,
                format!(
                    "no sign of life: its replicas fall behind until it is back; look at its power, its network and its daemon (`systemctl status bulkhead` on {name})"
                ),
            ),
            NodeStatus::StorageDown => (
                false,
                format!("up, but none of its pools is there; `bulkhead pool list` on {name} shows why"),
            ),
            NodeStatus::StorageDegraded => (
                false,
                format!("up, but not all of its pools are there; `bulkhead pool list` on {name} shows why"),
            ),
        };
        Self {
            state: status.to_string(),
            status: text,
            healthy,
            since,
        }
    }
}

impl Daemon {
    /// All nodes, by name.
    pub(super) fn node_views(&self) -> Vec<NodeView> {
        let freshness = self.catalogue.freshness();
        self.catalogue.read(|contents| {
            let load = Load::of(contents);
            let mut views: Vec<NodeView> = contents
                .nodes()
                .map(|node| self.node_view(contents, &freshness, &load, &node))
                .collect();
            views.sort_by(|a, b| a.name.cmp(&b.name));
            views
        })
    }

    /// The node that is meant, with its volumes.
    pub(super) fn node_named(&self, name: &str) -> Result<NodeView, ServiceError> {
        let freshness = self.catalogue.freshness();
        self.catalogue.read(|contents| {
            let node = find(contents, name)?;
            let mut view = self.node_view(contents, &freshness, &Load::of(contents), &node);
            view.volumes = volumes_of(contents, node.record.id);
            Ok(view)
        })
    }

    /// Changes labels of a node.
    pub(super) async fn change_labels(
        &self,
        name: &str,
        change: &LabelChange,
    ) -> Result<NodeView, ServiceError> {
        for (label, value) in &change.set {
            check_label(label, value)
                .map_err(|why| ServiceError::Invalid(format!("label {label:?} of node {name:?} {why}")))?;
            if change.remove.contains(label) {
                return Err(ServiceError::Invalid(format!(
                    "label {label:?} of node {name:?} is to be set and removed at once; say one of the two"
                )));
            }
        }
        let id = self
            .catalogue
            .read(|contents| find(contents, name).map(|node| node.record.id))?;
        let changed = self.nodes.update(id, |record| {
            record.labels.retain(|label, _| !change.remove.contains(label));
            record.labels.extend(change.set.clone());
        });
        let changed = changed.await.map_err(|error| node_failed(&error))?;
        tracing::info!(node = changed.name, labels = ?changed.labels, "labels changed");
        self.until_known(|contents| {
            let mut nodes = contents.nodes();
            nodes.any(|node| node.record.id == id && node.record.labels == changed.labels)
        })
        .await;
        self.node_named(&id.to_string())
    }

    fn node_view(&self, contents: &Contents, freshness: &Freshness, load: &Load, node: &Node) -> NodeView {
        let record = &node.record;
        let standing = Standing::of(contents, freshness, node);
        let said = |address: &String| (!address.is_empty()).then(|| address.clone());
        let count = |counts: &BTreeMap<NodeId, usize>| counts.get(&record.id).copied().unwrap_or(0);
        NodeView {
            name: record.name.clone(),
            id: record.id.to_string(),
            this: record.id == self.node,
            state: standing.state,
            status: standing.status,
            healthy: standing.healthy,
            since: standing.since,
            version: record.version.clone(),
            data_address: said(&record.data_address),
            management_address: said(&record.management_address),
            labels: record.labels.clone(),
            joined_at: record.joined_at.into(),
            pools: contents
                .pools()
                .filter(|pool| pool.node == record.id)
                .map(|pool| pool_view(load, pool))
                .collect(),
            replicas: count(&load.on_node),
            attached: count(&load.attached),
            volumes: Vec::new(),
            as_of: stale_as_of(freshness),
        }
    }
}

/// As of when an answer is true, if it may be out of date.
pub(super) fn stale_as_of(freshness: &Freshness) -> Option<SystemTime> {
    let stale = freshness.from_disk || freshness.away.is_some();
    freshness.as_of.filter(|_| stale)
}

/// The node of a name, an id, or the beginning of an id that no other one has.
pub(super) fn find(contents: &Contents, name: &str) -> Result<Node, ServiceError> {
    let nodes: Vec<Node> = contents.nodes().collect();
    if let Some(node) = nodes.iter().find(|node| node.record.name == name) {
        return Ok(node.clone());
    }
    let begins = |node: &&Node| name.len() >= MIN_ID && node.record.id.to_string().starts_with(name);
    let mut fitting = nodes.iter().filter(begins);
    match (fitting.next(), fitting.next()) {
        (Some(node), None) => Ok(node.clone()),
        (Some(_), Some(_)) => Err(ServiceError::Invalid(format!(
            "the ids of several nodes begin with {name:?}; write more of it, or the name"
        ))),
        (None, _) => {
            let mut known: Vec<&str> = nodes.iter().map(|node| node.record.name.as_str()).collect();
            known.sort_unstable();
            Err(ServiceError::NoSuch(no_such(
                "node",
                name,
                &known,
                "bulkhead node list",
            )))
        }
    }
}

fn volumes_of(contents: &Contents, node: NodeId) -> Vec<NodeVolumeView> {
    let mut volumes: Vec<NodeVolumeView> = contents
        .volumes()
        .filter_map(|volume| {
            let replica = volume.replicas_on(node).next();
            let attached = volume.user_node() == Some(node);
            (replica.is_some() || attached).then(|| NodeVolumeView {
                name: volume.name.clone(),
                replica: replica.map(|replica| replica_word(replica).to_owned()),
                attached,
            })
        })
        .collect();
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    volumes
}

fn pool_view(load: &Load, pool: &PoolRecord) -> NodePoolView {
    NodePoolView {
        id: pool.id.to_string(),
        medium: pool.medium.to_string(),
        priority: pool.priority.to_string(),
        capacity: pool.capacity,
        free: pool.free,
        promised: load.promised.get(&pool.id).copied().unwrap_or(0),
        promisable: PoolView::of(pool).promisable(),
        replicas: load.replicas.get(&pool.id).copied().unwrap_or(0),
        state: match pool.state {
            PoolState::Ok => "ok",
            PoolState::Down => "down",
            PoolState::Draining => "draining",
        }
        .to_owned(),
    }
}

pub(super) fn node_failed(error: &NodeError) -> ServiceError {
    let message = error.to_string();
    match error {
        NodeError::NoSuch(_) => ServiceError::NoSuch(message),
        NodeError::Store(_) => ServiceError::Unavailable(message),
        NodeError::Busy(_) => ServiceError::Busy(message),
        NodeError::Schema(SchemaError::Name { .. }) => ServiceError::Invalid(message),
        NodeError::Schema(_) | NodeError::Twin(_) | NodeError::Refused { .. } => {
            ServiceError::Failed(message)
        }
    }
}
