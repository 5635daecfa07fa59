//! A volume's record: what replication.md calls "the record". Holds the epoch, the primary and the replicas with
//! their states; knows how two specs differ, but decides nothing.

use std::collections::BTreeMap;

use bulkhead_engine::geometry::Geometry;
use bulkhead_engine::ids::{Epoch, NodeId, PoolId, ReplicaId, Tick, VolumeId};
use serde::{Deserialize, Serialize};

use super::{ChangeId, Extra, Fs, IoPriority, Record, Timestamp};

/// How many of the latest changes a record remembers: more than can be under way at one time.
const REMEMBERED: usize = 16;

/// What the user asked for, after classes and defaults have been applied. Options are kept as they were given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Size in bytes.
    pub size: u64,
    /// Number of replicas.
    pub repl: u8,
    /// File system.
    pub fs: Fs,
    /// How fast its pools must be at least; `None`: any will do.
    #[serde(default)]
    pub io_priority: Option<IoPriority>,
    /// The storage class that it was made with.
    #[serde(default)]
    pub class: Option<String>,
    /// Nodes (names or ids) that may hold replicas; empty: all.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Mount options.
    #[serde(default)]
    pub mount_options: String,
    /// Options of mkfs.
    #[serde(default)]
    pub mkfs_options: String,
    /// Volumes of one group prefer different nodes.
    #[serde(default)]
    pub group: Option<String>,
    /// Volumes of the group must be on different nodes.
    #[serde(default)]
    pub fg: bool,
    /// Zones that may hold replicas; empty: all.
    #[serde(default)]
    pub zones: Vec<String>,
    /// Racks that may hold replicas; empty: all.
    #[serde(default)]
    pub racks: Vec<String>,
    /// What newer versions keep here.
    #[serde(flatten)]
    pub extra: Extra,
}

impl VolumeSpec {
    /// One replica, ext4, anywhere.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            repl: 1,
            fs: Fs::default(),
            io_priority: None,
            class: None,
            nodes: Vec::new(),
            labels: BTreeMap::new(),
            mount_options: String::new(),
            mkfs_options: String::new(),
            group: None,
            fg: false,
            zones: Vec::new(),
            racks: Vec::new(),
            extra: Extra::new(),
        }
    }

    /// In what this spec differs from another one, for people: `size is 1073741824, not 2147483648`.
    pub fn differences(&self, asked: &Self) -> Vec<String> {
        // Through JSON, so that a field added later is compared without anyone having to remember it.
        let fields = |spec: &Self| match serde_json::to_value(spec) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (have, want) = (fields(self), fields(asked));
        let keys: std::collections::BTreeSet<&String> = have.keys().chain(want.keys()).collect();
        let shown = |value: Option<&serde_json::Value>| match value {
            None | Some(serde_json::Value::Null) => "not set".to_owned(),
            Some(serde_json::Value::String(text)) if text.is_empty() => "not set".to_owned(),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        keys.into_iter()
            .filter(|key| have.get(*key) != want.get(*key))
            .map(|key| format!("{key} is {}, not {}", shown(have.get(key)), shown(want.get(key))))
            .collect()
    }
}

/// Where a volume's life is meant to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    /// Its replicas and file system are being made.
    Creating,
    /// It can be used.
    Ready,
    /// Its replicas are being removed; its name is free again.
    Deleting,
}

/// What a replica is to its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is")]
pub enum ReplicaState {
    /// In sync: every acknowledged write is on it.
    Member,
    /// Out of sync: it may lack writes after this tick, by which time all was settled.
    Stale {
        /// The settled tick when it was left behind.
        tick: Tick,
    },
    /// Gets every write, and is being brought up to date; it is not a member until a swap makes it one.
    Rebuilding {
        /// The settled tick when it was left behind; zero for one that never held anything.
        tick: Tick,
    },
    /// To be removed from its node's disk.
    Removing,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_no(flag: &bool) -> bool {
    !*flag
}

/// Where a replica is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Placed {
    /// The node.
    pub node: NodeId,
    /// The pool on it.
    pub pool: PoolId,
}

/// One node's copy of a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replica {
    /// Its identity.
    pub id: ReplicaId,
    /// The node that it is on.
    pub node: NodeId,
    /// The pool of that node.
    pub pool: PoolId,
    /// What it is to its volume.
    pub state: ReplicaState,
    /// Whether its files are there. Its node makes them and says so; before that nobody may count on it.
    #[serde(default = "yes")]
    pub made: bool,
    /// What keeps its node from making or removing its files, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Since when it is what it is, by the clock of whoever made it so; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The replica whose files lie in its place, and belong to a history that was given up (a forced primary): its node
    /// removes those, and no others, before it makes this one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<ReplicaId>,
    /// Where another one is to take its place, for the sake of how full the pools are. It stays until that is in sync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves_to: Option<Placed>,
    /// What newer versions keep here.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Replica {
    /// One whose files are still to be made.
    pub fn new(id: ReplicaId, node: NodeId, pool: PoolId, state: ReplicaState) -> Self {
        Self {
            id,
            node,
            pool,
            state,
            made: false,
            trouble: None,
            since: None,
            replaces: None,
            moves_to: None,
            extra: Extra::new(),
        }
    }

    /// Where it is.
    pub const fn placed(&self) -> Placed {
        Placed {
            node: self.node,
            pool: self.pool,
        }
    }

    /// Whether it is in sync, and nothing is known against it. Its node or its pool may be away all the same.
    pub fn is_sound(&self) -> bool {
        self.made && self.state == ReplicaState::Member && self.trouble.is_none()
    }
}

/// The node on which a volume is attached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Primary {
    /// The node.
    pub node: NodeId,
    /// This attachment: two of the same node are told apart by it.
    pub attachment: ChangeId,
    /// When it was attached.
    pub since: Timestamp,
    /// What uses it there, for people: `container 3f2a…`.
    #[serde(default)]
    pub user: String,
    /// Nobody uses it: it is attached only to bring its replicas up to date, and goes to whoever asks for it.
    #[serde(default, skip_serializing_if = "is_no")]
    pub upkeep: bool,
}

/// The wish of a node to attach a volume that another one holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// The node.
    pub node: NodeId,
    /// Since when.
    pub since: Timestamp,
    /// What is to use it there, for people.
    #[serde(default)]
    pub user: String,
}

/// A change of replicas by a primary, as its state machine counts them. Stays in the record until the next one, so that a
/// primary always knows its own latest change again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryChange {
    /// The epoch in which the primary was attached.
    pub term: Epoch,
    /// Counts its changes.
    pub count: u32,
}

/// The record of a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its identity.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// What the user asked for.
    pub spec: VolumeSpec,
    /// How its bytes are divided.
    pub geometry: Geometry,
    /// Where its life is meant to go.
    pub state: VolumeState,
    /// Raised by every change of primary or of the member set.
    pub epoch: Epoch,
    /// The node on which it is attached.
    #[serde(default)]
    pub primary: Option<Primary>,
    /// The node that asks the primary to release it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Wanted>,
    /// Its replicas.
    pub replicas: Vec<Replica>,
    /// The latest change of its replicas by a primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<PrimaryChange>,
    /// The node that makes it.
    pub creator: NodeId,
    /// When it was made.
    pub created_at: Timestamp,
    /// The latest changes, newest last: by these an author knows whether its own has been made.
    #[serde(default)]
    pub changes: Vec<ChangeId>,
    /// What newer versions keep here.
    #[serde(flatten)]
    pub extra: Extra,
}

impl VolumeRecord {
    /// The replicas that are in sync.
    pub fn members(&self) -> impl Iterator<Item = &Replica> {
        self.replicas
            .iter()
            .filter(|replica| replica.state == ReplicaState::Member)
    }

    /// A replica by its identity.
    pub fn replica(&self, id: ReplicaId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.id == id)
    }

    /// The node on which it is attached and in use: not one that only brings its replicas up to date.
    pub fn user_node(&self) -> Option<NodeId> {
        let primary = self.primary.as_ref().filter(|primary| !primary.upkeep)?;
        Some(primary.node)
    }

    /// The replicas on a node.
    pub fn replicas_on(&self, node: NodeId) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(move |replica| replica.node == node)
    }

    /// Whether this is the attachment that has it.
    pub(crate) fn is_attached_as(&self, attachment: ChangeId) -> bool {
        self.primary
            .as_ref()
            .is_some_and(|primary| primary.attachment == attachment)
    }

    /// Says that whoever served it before does not, in the epoch that it has now: that one must not find its own latest change
    /// in the record, and take what has become of it for the outcome of that.
    pub(crate) fn forget_change(&mut self) {
        self.change = Some(PrimaryChange {
            term: self.epoch,
            count: 0,
        });
    }

    /// Notes the moment for every replica that is something else now than it was before.
    pub(crate) fn note_since(&mut self, before: &Self, now: Timestamp) {
        let kind = std::mem::discriminant::<ReplicaState>;
        for replica in &mut self.replicas {
            let same = before
                .replica(replica.id)
                .is_some_and(|old| kind(&old.state) == kind(&replica.state));
            if !same {
                replica.since = Some(now);
            }
        }
    }

    /// Whether a change is among those that it remembers.
    pub fn has(&self, change: ChangeId) -> bool {
        self.changes.contains(&change)
    }

    /// Remembers a change.
    pub fn remember(&mut self, change: ChangeId) {
        self.changes.push(change);
        let over = self.changes.len().saturating_sub(REMEMBERED);
        self.changes.drain(..over);
    }
}

impl Record for VolumeRecord {
    const KIND: &'static str = "volume record";

    fn check(&self) -> Result<(), String> {
        let geometry = &self.geometry;
        Geometry::new(geometry.size(), geometry.chunk_size(), geometry.region_size())
            .map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// Which volume has a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NameRecord {
    /// The volume.
    pub volume: VolumeId,
}

impl Record for NameRecord {
    const KIND: &'static str = "volume name";
}
