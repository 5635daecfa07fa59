//! What a catalogue holds: the records by their ids, and volumes by their names. Changes by the events of a watch
//! only; a record that cannot be read is noted and hides no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bulkhead_engine::ids::{NodeId, PoolId, VolumeId};
use bytes::Bytes;

use super::promised::Promised;
use crate::nodes::Node;
use crate::placement::View;
use crate::schema::{
    ALERTS, AlertRecord, CLASSES, CLUSTER_KEY, ClassRecord, ClusterRecord, DEFAULT_CLASS_KEY,
    DefaultClassRecord, EVENTS, EventRecord, LIVE, LiveRecord, NAMES, NODE_NAMES, NODES, NameRecord,
    NodeRecord, POOLS, PoolRecord, PoolState, Record, Replica, SchemaError, Stored, TOKENS, TokenRecord,
    VOLUMES, VolumeState, decode_name, read,
};
use crate::store::{Entry, Event, Revision};
use crate::volumes::Volume;

/// All records, as of one moment.
#[derive(Debug, Default)]
pub struct Contents {
    cluster: Option<ClusterRecord>,
    volumes: BTreeMap<VolumeId, Arc<Volume>>,
    promised: Promised,
    names: BTreeMap<String, VolumeId>,
    nodes: BTreeMap<NodeId, NodeRecord>,
    live: BTreeMap<NodeId, LiveRecord>,
    /// When we heard that a node's sign of life had gone, for those that have not come back.
    silent: BTreeMap<NodeId, SystemTime>,
    pools: BTreeMap<PoolId, PoolRecord>,
    classes: BTreeMap<String, ClassRecord>,
    default_class: Option<String>,
    tokens: BTreeMap<String, TokenRecord>,
    /// What is wrong, by key.
    alerts: BTreeMap<String, AlertRecord>,
    /// What happened, by key.
    events: BTreeMap<String, EventRecord>,
    /// Keys of records that cannot be read, and why.
    faults: BTreeMap<String, SchemaError>,
    /// The entries as they are in the store, for the copy on disk.
    raw: BTreeMap<String, Entry>,
}

impl Contents {
    /// The cluster.
    pub fn cluster(&self) -> Option<&ClusterRecord> {
        self.cluster.as_ref()
    }

    /// All volumes, those that are being deleted too.
    pub fn volumes(&self) -> impl Iterator<Item = &Arc<Volume>> {
        self.volumes.values()
    }

    /// The volumes that have a name, in its order: what `docker volume ls` shows.
    pub fn named(&self) -> impl Iterator<Item = &Arc<Volume>> {
        self.names
            .values()
            .filter_map(|id| self.volumes.get(id))
            .filter(|volume| is_there(volume))
    }

    /// The volume of a name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Volume>> {
        self.volumes
            .get(self.names.get(name)?)
            .filter(|volume| is_there(volume))
    }

    /// The volume of an id.
    pub fn by_id(&self, id: VolumeId) -> Option<&Arc<Volume>> {
        self.volumes.get(&id)
    }

    /// All nodes with their signs of life.
    pub fn nodes(&self) -> impl Iterator<Item = Node> {
        self.nodes.values().map(|record| Node {
            record: record.clone(),
            live: self.live.get(&record.id).cloned(),
        })
    }

    /// The name of a node; its id if it is not known.
    pub fn node_name(&self, node: NodeId) -> String {
        self.nodes
            .get(&node)
            .map_or_else(|| node.to_string(), |record| record.name.clone())
    }

    /// Where a node serves its replicas; nothing if it is not known.
    pub fn data_address(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node).map(|record| record.data_address.as_str())
    }

    /// Whether a node lives by its lease, as far as we have heard.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.live.contains_key(&node)
    }

    /// Since when a node gives no sign of life, if we were there when it ended.
    pub fn silent_since(&self, node: NodeId) -> Option<SystemTime> {
        self.silent.get(&node).copied()
    }

    /// All pools.
    pub fn pools(&self) -> impl Iterator<Item = &PoolRecord> {
        self.pools.values()
    }

    /// The pool of an id.
    pub fn pool(&self, id: PoolId) -> Option<&PoolRecord> {
        self.pools.get(&id)
    }

    /// Whether a pool is known not to be there.
    pub fn is_pool_down(&self, id: PoolId) -> bool {
        self.pool(id).is_some_and(|pool| pool.state == PoolState::Down)
    }

    /// Whether what an operator wants of a replica's node or pool is that nothing stays there.
    pub fn is_leaving(&self, replica: &Replica) -> bool {
        self.nodes
            .get(&replica.node)
            .is_some_and(|node| node.duty.is_leaving() || node.leaving_pools.contains(&replica.pool))
    }

    /// All classes, in the order of their names.
    pub fn classes(&self) -> impl Iterator<Item = &ClassRecord> {
        self.classes.values()
    }

    /// The name of the class that volumes without one take.
    pub fn default_class(&self) -> Option<&str> {
        self.default_class.as_deref()
    }

    /// The tokens of the API, in the order of their names.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenRecord> {
        self.tokens.values()
    }

    /// What is wrong now.
    pub fn alerts(&self) -> impl Iterator<Item = &AlertRecord> {
        self.alerts.values()
    }

    /// What happened, in no order.
    pub fn events(&self) -> impl Iterator<Item = &EventRecord> {
        self.events.values()
    }

    /// Records that cannot be read.
    pub fn faults(&self) -> impl Iterator<Item = &SchemaError> {
        self.faults.values()
    }

    /// The cluster as placement sees it. What it costs does not depend on the number of volumes.
    pub fn view(&self) -> View {
        let mut view = View::of_records(
            self.nodes.values(),
            |node| self.is_alive(node),
            self.pools.values(),
            [],
        );
        self.promised.tell(&mut view);
        view
    }

    fn insert_volume(&mut self, volume: Volume) {
        self.remove_volume(volume.id);
        self.promised.add(&volume);
        self.volumes.insert(volume.id, Arc::new(volume));
    }

    fn remove_volume(&mut self, id: VolumeId) {
        if let Some(old) = self.volumes.remove(&id) {
            self.promised.remove(&old);
        }
    }

    /// Takes a record that this node has just written or read, ahead of the watch, which has told of all up to `told`; whether
    /// it is news. One that is not known, and not newer than that, has been removed since.
    pub(super) fn note(&mut self, volume: &Volume, told: Revision) -> bool {
        let newest = self.volumes.get(&volume.id).map_or(told, |known| known.revision);
        if newest >= volume.revision {
            return false;
        }
        // Its name goes and comes in one transaction with its record.
        if is_there(volume) {
            self.names.insert(volume.name.clone(), volume.id);
        } else if self.names.get(&volume.name) == Some(&volume.id) {
            self.names.remove(&volume.name);
        }
        self.insert_volume(volume.clone());
        true
    }

    /// The records that were noted ahead of a listing.
    pub(super) fn newer_than(&self, listing: Revision) -> Vec<Arc<Volume>> {
        self.volumes
            .values()
            .filter(|volume| volume.revision > listing)
            .cloned()
            .collect()
    }

    /// The store has gone back to an older copy of itself: what was known of its other history is forgotten. `events` are the
    /// differences to what the watch had told.
    pub(super) fn go_back<'a>(&mut self, events: impl IntoIterator<Item = &'a Event>) {
        let mut raw = std::mem::take(&mut self.raw);
        for event in events {
            match event {
                Event::Put(entry) => drop(raw.insert(entry.key.clone(), entry.clone())),
                Event::Delete { key, .. } => drop(raw.remove(key)),
            }
        }
        let silent = std::mem::take(&mut self.silent);
        *self = Self {
            silent,
            ..Self::default()
        };
        for entry in raw.into_values() {
            self.apply(&Event::Put(entry));
        }
    }

    /// Applies one change.
    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Put(entry) => {
                if !entry.key.starts_with(EVENTS) {
                    self.raw.insert(entry.key.clone(), entry.clone());
                }
                match self.put(entry) {
                    Ok(()) => drop(self.faults.remove(&entry.key)),
                    Err(error) => {
                        tracing::error!(%error, "a record cannot be read");
                        // What it said before is not true any more.
                        self.remove(&entry.key, entry.revision);
                        self.faults.insert(entry.key.clone(), error);
                    }
                }
            }
            Event::Delete { key, revision } => {
                self.raw.remove(key);
                self.faults.remove(key);
                self.remove(key, *revision);
            }
        }
    }

    fn put(&mut self, entry: &Entry) -> Result<(), SchemaError> {
        let key = entry.key.as_str();
        if key.starts_with(VOLUMES) {
            let volume: Volume = read(entry)?;
            // One that was noted may be ahead of the watch.
            let known = self.volumes.get(&volume.id);
            if known.is_none_or(|known| known.revision <= volume.revision) {
                self.insert_volume(volume);
            }
        } else if let Some(name) = key.strip_prefix(NAMES) {
            let named: Stored<NameRecord> = read(entry)?;
            let name = name_of(name);
            if !self.is_ahead(&name, entry.revision) {
                self.names.insert(name, named.volume);
            }
        } else if key.starts_with(NODES) {
            let node: NodeRecord = record(entry)?;
            self.nodes.insert(node.id, node);
        } else if key.starts_with(LIVE) {
            let live: LiveRecord = record(entry)?;
            self.silent.remove(&live.node);
            self.live.insert(live.node, live);
        } else if key.starts_with(POOLS) {
            let pool: PoolRecord = record(entry)?;
            self.pools.insert(pool.id, pool);
        } else if let Some(name) = key.strip_prefix(CLASSES) {
            self.classes.insert(name_of(name), record(entry)?);
        } else if let Some(name) = key.strip_prefix(TOKENS) {
            self.tokens.insert(name_of(name), record(entry)?);
        } else if key.starts_with(ALERTS) {
            self.alerts.insert(key.to_owned(), record(entry)?);
        } else if key.starts_with(EVENTS) {
            self.events.insert(key.to_owned(), record(entry)?);
        } else if key == DEFAULT_CLASS_KEY {
            self.default_class = Some(record::<DefaultClassRecord>(entry)?.class);
        } else if key == CLUSTER_KEY {
            self.cluster = Some(record(entry)?);
        } else if !key.starts_with(NODE_NAMES) {
            tracing::debug!(key, "a key of a newer version");
        }
        Ok(())
    }

    /// Whether the volume of a name was noted ahead of what the watch tells now.
    fn is_ahead(&self, name: &str, told: Revision) -> bool {
        self.names
            .get(name)
            .and_then(|id| self.volumes.get(id))
            .is_some_and(|volume| volume.revision > told)
    }

    fn remove(&mut self, key: &str, told: Revision) {
        if let Some(id) = key.strip_prefix(VOLUMES) {
            if let Ok(id) = id.parse() {
                self.remove_volume(id);
            }
        } else if let Some(name) = key.strip_prefix(NAMES) {
            let name = name_of(name);
            if !self.is_ahead(&name, told) {
                self.names.remove(&name);
            }
        } else if let Some(id) = key.strip_prefix(NODES) {
            remove_id(&mut self.nodes, id);
            remove_id(&mut self.silent, id);
        } else if let Some(id) = key.strip_prefix(LIVE) {
            if let Ok(node) = id.parse()
                && self.live.remove(&node).is_some()
            {
                self.silent.insert(node, SystemTime::now());
            }
        } else if let Some((_, id)) = key.strip_prefix(POOLS).and_then(|rest| rest.split_once('/')) {
            remove_id(&mut self.pools, id);
        } else if let Some(name) = key.strip_prefix(CLASSES) {
            self.classes.remove(&name_of(name));
        } else if let Some(name) = key.strip_prefix(TOKENS) {
            self.tokens.remove(&name_of(name));
        } else if key.starts_with(ALERTS) {
            self.alerts.remove(key);
        } else if key.starts_with(EVENTS) {
            self.events.remove(key);
        } else if key == DEFAULT_CLASS_KEY {
            self.default_class = None;
        } else if key == CLUSTER_KEY {
            self.cluster = None;
        }
    }

    /// The entries for the copy on disk. Signs of life are left out: after a restart they say nothing any more. So is what is
    /// wrong and what happened: it is many, and of use only while it is new.
    pub(super) fn lines(&self) -> Vec<(String, u64, Bytes)> {
        let passes = |key: &str| {
            [LIVE, ALERTS, EVENTS]
                .iter()
                .any(|prefix| key.starts_with(prefix))
        };
        let lasting = self.raw.values().filter(|entry| !passes(&entry.key));
        lasting
            .map(|entry| (entry.key.clone(), entry.revision.0, entry.value.clone()))
            .collect()
    }
}

fn is_there(volume: &Volume) -> bool {
    volume.state != VolumeState::Deleting
}

fn record<R: Record>(entry: &Entry) -> Result<R, SchemaError> {
    Ok(read::<R>(entry)?.record)
}

fn name_of(encoded: &str) -> String {
    decode_name(encoded).unwrap_or_else(|| encoded.to_owned())
}

fn remove_id<I: std::str::FromStr + Ord, T>(map: &mut BTreeMap<I, T>, id: &str) {
    if let Ok(id) = id.parse::<I>() {
        map.remove(&id);
    }
}
