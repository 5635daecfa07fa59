//! How a volume looks to people: its record, and what this node knows besides.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_cluster::schema::{ReplicaState, VolumeRecord, VolumeSpec, VolumeState};
use nix::sys::statvfs::statvfs;
use tokio::time::timeout;

use super::attach::Attached;
use super::context::Daemon;
use crate::options::VolumeRequest;
use crate::service::{AttachedView, ReplicaView, VolumeView};

/// How long the file system of a volume may take to say how full it is; a stuck one is shown without.
const USAGE: Duration = Duration::from_millis(300);

/// The state of a volume: one word, a sentence, and whether all is well.
struct Condition {
    state: &'static str,
    status: String,
    healthy: bool,
}

impl Condition {
    fn well(state: &'static str, status: impl Into<String>) -> Self {
        Self {
            state,
            status: status.into(),
            healthy: true,
        }
    }

    fn ill(state: &'static str, status: impl Into<String>) -> Self {
        Self {
            healthy: false,
            ..Self::well(state, status)
        }
    }
}

impl Daemon {
    /// A volume as this node sees it; asks nobody.
    pub(super) fn view(&self, record: &VolumeRecord) -> VolumeView {
        let attached = self
            .attached(&record.name)
            .filter(|attached| attached.id == record.id);
        let condition = self.condition(record, attached.as_deref());
        let spec = &record.spec;
        let said = |text: &String| (!text.is_empty()).then(|| text.clone());
        VolumeView {
            name: record.name.clone(),
            id: record.id.to_string(),
            created_at: record.created_at.into(),
            mountpoint: attached
                .as_ref()
                .filter(|attached| attached.leaving.lock().is_none())
                .map(|attached| attached.mountpoint()),
            state: condition.state.to_owned(),
            status: condition.status,
            healthy: condition.healthy,
            size: spec.size,
            allocated: None,
            used: None,
            fs: spec.fs.to_string(),
            repl: spec.repl,
            io_priority: spec.io_priority.map(|priority| priority.to_string()),
            class: spec.class.clone(),
            nodes: spec.nodes.clone(),
            labels: spec.labels.clone(),
            mount_options: said(&spec.mount_options),
            mkfs_options: said(&spec.mkfs_options),
            replicas: record
                .replicas
                .iter()
                .map(|replica| self.replica_view(replica))
                .collect(),
            attached: record.primary.as_ref().map(|primary| AttachedView {
                node: self.name_of(primary.node),
                since: Some(primary.since.into()),
            }),
        }
    }

    fn replica_view(&self, replica: &bulkhead_cluster::schema::Replica) -> ReplicaView {
        ReplicaView {
            node: self.name_of(replica.node),
            pool: replica.pool.to_string(),
            state: replica_word(replica.state).to_owned(),
        }
    }

    pub(super) fn name_of(&self, node: bulkhead_engine::ids::NodeId) -> String {
        if node == self.node {
            self.node_name.clone()
        } else {
            self.catalogue.read(|contents| contents.node_name(node))
        }
    }

    fn condition(&self, record: &VolumeRecord, attached: Option<&Attached>) -> Condition {
        let here = &self.node_name;
        match record.state {
            VolumeState::Creating => return Condition::well("creating", "being created"),
            VolumeState::Deleting => return Condition::well("deleting", "being deleted"),
            VolumeState::Ready => {}
        }
        if let Some(attached) = attached {
            return attached_condition(attached, here);
        }
        if let Some(reason) = self.failures.lock().get(&record.id) {
            return Condition::ill("failed", format!("down: {reason}"));
        }
        let replica = record.replicas_on(self.node).next();
        if let Some(replica) = replica
            && self.pools.replicas(replica.pool).is_none()
        {
            return Condition::ill(
                "failed",
                format!(
                    "down: its pool {} is not there; see `bulkhead pool list`",
                    replica.pool
                ),
            );
        }
        match &record.primary {
            Some(primary) => Condition::well(
                "attached",
                format!("up, attached on {}", self.name_of(primary.node)),
            ),
            None => Condition::well("ready", "up, detached"),
        }
    }

    /// The same with how much it takes, as far as that can be found out at once.
    pub(super) async fn view_with_usage(&self, record: &VolumeRecord) -> VolumeView {
        let mut view = self.view(record);
        let attached = self
            .attached(&record.name)
            .filter(|attached| attached.id == record.id);
        let dir = self.replica_here(record).ok().map(|(_, dir)| dir);
        let measured = tokio::task::spawn_blocking(move || measure(attached.as_ref(), dir));
        if let Ok(Ok((allocated, used))) = timeout(USAGE, measured).await {
            view.allocated = allocated;
            view.used = used;
        }
        view
    }
}

/// The state of a replica in words.
pub(super) fn replica_word(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Member => "in sync",
        ReplicaState::Stale { .. } => "out of date",
        ReplicaState::Rebuilding { .. } => "being rebuilt",
        ReplicaState::Removing => "being removed",
    }
}

fn attached_condition(attached: &Attached, here: &str) -> Condition {
    if let Some(reason) = attached.dead() {
        return Condition::ill("failed", format!("down: {reason}; it is being taken down"));
    }
    let status = attached.volume.status();
    let failure = status.local.as_ref().and_then(|local| local.failure.as_ref());
    if let Some(failure) = failure {
        return Condition::ill(
            "failed",
            format!("down: its replica on {here} has failed ({failure})"),
        );
    }
    if status.local.is_some_and(|local| local.pool_full) {
        return Condition::ill(
            "attached",
            format!(
                "up, attached on {here}, but its pool is full and writes fail; delete volumes, trim file systems or enlarge the pool"
            ),
        );
    }
    match attached.leaving.lock().as_ref() {
        Some(why) => Condition::well(
            "attached",
            format!("up, attached on {here}; it is released when it can be: {why}"),
        ),
        None => Condition::well("attached", format!("up, attached on {here}")),
    }
}

/// Bytes that the replica takes in its pool, and that the file system holds.
fn measure(attached: Option<&Arc<Attached>>, dir: Option<PathBuf>) -> (Option<u64>, Option<u64>) {
    let allocated = dir.and_then(|dir| {
        let bytes = |name: &str| allocated(&dir.join(name));
        Some(bytes(bulkhead_engine::disk::DATA_FILE)? + bytes(bulkhead_engine::disk::META_FILE)?)
    });
    let mounted = attached.filter(|attached| attached.dead().is_none() && attached.leaving.lock().is_none());
    let used = mounted.and_then(|attached| {
        let stat = statvfs(&attached.target).ok()?;
        Some((stat.blocks() - stat.blocks_free()) * stat.fragment_size())
    });
    (allocated, used)
}

fn allocated(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata(path).ok()?.blocks() * 512)
}

/// A spec in the words of a request.
pub(super) fn as_asked(spec: &VolumeSpec) -> VolumeRequest {
    let said = |text: &String| (!text.is_empty()).then(|| text.clone());
    VolumeRequest {
        size: Some(spec.size),
        repl: Some(spec.repl),
        fs: Some(spec.fs),
        io_priority: spec.io_priority,
        class: spec.class.clone(),
        nodes: spec.nodes.clone(),
        labels: spec.labels.clone(),
        mount_options: said(&spec.mount_options),
        mkfs_options: said(&spec.mkfs_options),
    }
}
