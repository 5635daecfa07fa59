//! How a volume looks to people: its record, and what this node knows besides.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_cluster::schema::{Primary, VolumeRecord, VolumeSpec, VolumeState};
use bulkhead_engine::node::VolumeStatus;
use nix::sys::statvfs::statvfs;
use tokio::time::timeout;

use super::attach::Attached;
use super::context::Daemon;
use super::members::stale_as_of;
use super::redundancy::Redundancy;
use crate::options::VolumeRequest;
use crate::service::{AttachedView, VolumeView};

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
        let status = match &attached {
            Some(attached) => Some(attached.volume.status()),
            None => self.tended(record.id).map(|tended| tended.volume.status()),
        };
        let condition = self.condition(record, attached.as_deref().zip(status.as_ref()));
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
            replicas: self.replica_views(record, status.as_ref()),
            attached: record
                .primary
                .as_ref()
                .filter(|primary| !primary.upkeep)
                .map(|primary| AttachedView {
                    node: self.name_of(primary.node),
                    since: Some(primary.since.into()),
                    user: said(&primary.user),
                }),
            wanted: record.wanted.as_ref().map(|wanted| AttachedView {
                node: self.name_of(wanted.node),
                since: Some(wanted.since.into()),
                user: said(&wanted.user),
            }),
            epoch: record.epoch.0,
            as_of: stale_as_of(&self.catalogue.freshness()),
        }
    }

    pub(super) fn name_of(&self, node: bulkhead_engine::ids::NodeId) -> String {
        if node == self.node {
            self.node_name.clone()
        } else {
            self.catalogue.read(|contents| contents.node_name(node))
        }
    }

    fn condition(&self, record: &VolumeRecord, attached: Option<(&Attached, &VolumeStatus)>) -> Condition {
        match record.state {
            VolumeState::Creating => {
                return Condition::well("creating", self.with_troubles("being created", record));
            }
            VolumeState::Deleting => {
                return Condition::well("deleting", self.with_troubles("being deleted", record));
            }
            VolumeState::Ready => {}
        }
        if let Some((attached, status)) = attached {
            let sole = record.members().count() < 2;
            let mut condition = attached_condition(attached, status, sole, &self.node_name);
            if condition.healthy && self.surface.read_only.lock().contains(&record.id) {
                condition = Condition::ill(
                    "attached",
                    format!(
                        "up, attached on {}, but its file system has become read-only after an error (see dmesg); stop what uses it, and it is checked when it is mounted again",
                        self.node_name
                    ),
                );
            }
            return self.with_redundancy(record, condition, true);
        }
        if let Some(primary) = record.primary.as_ref().filter(|primary| primary.upkeep) {
            let status = format!(
                "up, detached; node {} brings its replicas up to date",
                self.name_of(primary.node)
            );
            let serves = !self.is_silent(primary.node);
            return self.with_redundancy(record, Condition::well("ready", status), serves);
        }
        let elsewhere = |primary: &&Primary| primary.node != self.node;
        if let Some(primary) = record.primary.as_ref().filter(elsewhere) {
            let serves = !self.is_silent(primary.node);
            let doubt = if serves {
                ""
            } else {
                " (which gives no sign of life; it is taken over when it is mounted elsewhere)"
            };
            let status = format!("up, attached on {}{doubt}", self.name_of(primary.node));
            return self.with_redundancy(record, Condition::well("attached", status), serves);
        }
        // What was wrong in a term that is over says nothing of the volume as it is now.
        if let Some(failure) = self.failures.lock().get(&record.id)
            && failure.epoch >= record.epoch
        {
            return Condition::ill("failed", format!("down: {}", failure.reason));
        }
        let mut members = record.members();
        if let (Some(sole), None) = (members.next(), members.next())
            && sole.node == self.node
            && self.pools.replicas(sole.pool).is_none()
        {
            return Condition::ill(
                "failed",
                format!(
                    "down: its pool {} is not there; see `bulkhead pool list`",
                    sole.pool
                ),
            );
        }
        let condition = match &record.primary {
            Some(_) => Condition::well("attached", format!("up, attached on {}", self.node_name)),
            None => Condition::well("ready", "up, detached"),
        };
        self.with_redundancy(record, condition, false)
    }

    /// A sentence with what keeps nodes from doing their part.
    fn with_troubles(&self, what: &str, record: &VolumeRecord) -> String {
        let troubles = record.replicas.iter().filter_map(|replica| {
            let trouble = replica.trouble.as_ref()?;
            Some(format!("; node {}: {trouble}", self.name_of(replica.node)))
        });
        format!("{what}{}", troubles.collect::<String>())
    }

    /// A condition with what the replicas add to it. What serves is not down, whatever the records say of its replicas.
    fn with_redundancy(&self, record: &VolumeRecord, condition: Condition, serves: bool) -> Condition {
        if !condition.healthy {
            return condition;
        }
        match self.redundancy(record) {
            Redundancy::Full => condition,
            Redundancy::Degraded(why) => {
                let status = format!("{}, degraded: {why}", condition.status);
                Condition::ill("degraded", self.with_troubles(&status, record))
            }
            Redundancy::Lost(_) if serves => condition,
            Redundancy::Lost(nodes) => Condition::ill(
                "failed",
                format!(
                    "down: what is in sync lies on {nodes}, of which there is no sign of life; start it again. If it is gone for good: `bulkhead volume force-primary {} --replica NODE` on the node of another replica says what that would lose",
                    record.name
                ),
            ),
        }
    }

    /// The same with how much it takes, as far as that can be found out at once.
    pub(super) async fn view_with_usage(&self, record: &VolumeRecord) -> VolumeView {
        let mut view = self.view(record);
        let attached = self
            .attached(&record.name)
            .filter(|attached| attached.id == record.id);
        let replica = record.replicas_on(self.node).next();
        let dir = replica.and_then(|replica| self.replica_dir(record, replica.pool).ok());
        let measured = tokio::task::spawn_blocking(move || measure(attached.as_ref(), dir));
        if let Ok(Ok((allocated, used))) = timeout(USAGE, measured).await {
            view.allocated = allocated;
            view.used = used;
        }
        view
    }
}

fn attached_condition(attached: &Attached, status: &VolumeStatus, sole: bool, here: &str) -> Condition {
    if let Some(reason) = attached.dead() {
        return Condition::ill("failed", format!("down: {reason}; it is being taken down"));
    }
    let failure = status.local.as_ref().and_then(|local| local.failure.as_ref());
    if let Some(failure) = failure.filter(|_| sole) {
        return Condition::ill(
            "failed",
            format!("down: its replica on {here} has failed ({failure})"),
        );
    }
    if status.local.as_ref().is_some_and(|local| local.pool_full) {
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
