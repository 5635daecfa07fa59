//! What is wrong, as this node sees it, with what it is responsible for: a pool with its own node, a volume with the one that it
//! is attached on, everything else with the living node with the lowest id. Looks and judges; tells nobody and mends nothing.

use std::time::{Duration, Instant};

use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::nodes::NodeStatus;
use bulkhead_cluster::schema::{
    AlertRecord, Extra, NodeDuty, Object, PoolRecord, PoolState, Severity, Timestamp, VolumeRecord,
    VolumeState,
};
use bulkhead_engine::ids::NodeId;
use bulkhead_engine::node::{Reach, Standing};
use nix::sys::statvfs::{FsFlags, statvfs};
use tokio::time::timeout;

use super::alerts::about;
use super::context::Daemon;
use crate::options::format_size;

/// A pool with less than this share free is nearly full, and with less than the second full.
const FREE_PERCENT: (u64, u64) = (15, 3);
/// A rebuild that has copied nothing for so long does not get on.
const STALLED: Duration = Duration::from_secs(60);
/// How long a file system may take to say whether it can be written to.
const PATIENCE: Duration = Duration::from_secs(1);

impl Daemon {
    /// Sees which file systems have become read-only. One that does not answer is left as it was.
    pub(super) async fn look_at_file_systems(&self) {
        let attached: Vec<_> = self.attached.lock().values().cloned().collect();
        let looks = attached.into_iter().map(|attached| async move {
            let id = attached.id;
            let is_meant = attached.is_read_only();
            let looked = tokio::task::spawn_blocking(move || {
                let flags = statvfs(&attached.target).ok()?.flags();
                Some(flags.contains(FsFlags::ST_RDONLY) && !is_meant)
            });
            (
                id,
                timeout(PATIENCE, looked)
                    .await
                    .ok()
                    .and_then(Result::ok)
                    .flatten(),
            )
        });
        let seen = futures::future::join_all(looks).await;
        let mut read_only = self.surface.read_only.lock();
        read_only.retain(|id| seen.iter().any(|(seen, _)| seen == id));
        for (id, now) in seen {
            match now {
                Some(true) => drop(read_only.insert(id)),
                Some(false) => drop(read_only.remove(&id)),
                None => {}
            }
        }
    }

    /// All that is wrong with what this node is responsible for.
    pub(super) fn what_is_wrong(&self, contents: &Contents, duties: &Duties) -> Vec<AlertRecord> {
        let mut wrong = Vec::new();
        let now = Timestamp::now();
        for node in contents.nodes().filter(|_| duties.is_watchman()) {
            let name = &node.record.name;
            if let Some(live) = node.live.as_ref().filter(|live| live.clock_differs(now)) {
                wrong.push(self.alert(
                    "clock-off",
                    Severity::Warning,
                    about("node", node.record.id, name),
                    format!(
                        "the clocks of nodes {name} and {} are more than a minute apart: {name} last said {}; nothing is decided by them, but times of events cannot be compared, and certificates may seem invalid",
                        self.node_name, live.clock
                    ),
                    "set the clocks on both (`timedatectl status`; chrony or systemd-timesyncd): a node whose clock is off is refused when its daemon starts again".to_owned(),
                ));
            }
            if node.record.duty != NodeDuty::Maintenance && node.status() == NodeStatus::Offline {
                wrong.push(self.alert(
                    "node-away",
                    Severity::Critical,
                    about("node", node.record.id, name),
                    format!("node {name} gives no sign of life; its replicas fall behind until it is back"),
                    format!("look at its power, its network and its daemon (`systemctl status bulkhead` on {name}); if it is gone for good: `bulkhead node decommission {name}`"),
                ));
            }
        }
        let pools = contents.pools();
        wrong.extend(
            pools
                .filter(|pool| pool.node == duties.node)
                .filter_map(|pool| self.pool_alert(pool)),
        );
        for volume in contents.volumes() {
            if volume.state == VolumeState::Ready && duties.has_volume(contents, volume) {
                self.volume_alerts(volume, &mut wrong);
            }
        }
        wrong
    }

    fn pool_alert(&self, pool: &PoolRecord) -> Option<AlertRecord> {
        let object = about("pool", pool.id, &format!("{} of {}", pool.id, self.node_name));
        if pool.state == PoolState::Down {
            return Some(self.alert(
                "pool-down",
                Severity::Critical,
                object,
                format!("pool {} of node {} is not there", pool.id, self.node_name),
                format!(
                    "`bulkhead pool list` on {} says why; its replicas are made anew elsewhere after a while",
                    self.node_name
                ),
            ));
        }
        let below =
            |percent: u64| u128::from(pool.free) * 100 < u128::from(pool.capacity) * u128::from(percent);
        let (nearly, full) = FREE_PERCENT;
        let (alert, severity) = match (below(full), below(nearly)) {
            (true, _) => ("pool-full", Severity::Critical),
            (false, true) => ("pool-nearly-full", Severity::Warning),
            (false, false) => return None,
        };
        Some(self.alert(
            alert,
            severity,
            object,
            format!(
                "pool {} of node {} has {} of {} free; once it is full, writes to its volumes fail",
                pool.id,
                self.node_name,
                format_size(pool.free),
                format_size(pool.capacity)
            ),
            "delete volumes, trim file systems (fstrim), add a pool, or enlarge this one".to_owned(),
        ))
    }

    fn volume_alerts(&self, volume: &VolumeRecord, wrong: &mut Vec<AlertRecord>) {
        let object = || about("volume", volume.id, &volume.name);
        let view = self.view(volume);
        let name = &volume.name;
        if !view.healthy {
            let (alert, severity) = match view.state.as_str() {
                "degraded" => ("volume-degraded", Severity::Warning),
                "failed" => ("volume-down", Severity::Critical),
                _ => ("volume-in-trouble", Severity::Critical),
            };
            wrong.push(self.alert(
                alert,
                severity,
                object(),
                format!("volume {name}: {}", view.status),
                format!("`bulkhead volume inspect {name}` shows its replicas; bring back their nodes, or wait for the rebuild"),
            ));
        }
        let Some(attached) = self.attached(name).filter(|attached| attached.id == volume.id) else {
            return;
        };
        let mut rebuilds = self.surface.rebuilds.lock();
        let status = attached.volume.status();
        for peer in &status.replicas {
            let Some(rebuild) = peer
                .rebuild
                .filter(|_| peer.standing == Standing::Rebuilding && peer.reach == Reach::Up)
            else {
                rebuilds.remove(&peer.replica);
                continue;
            };
            let now = (rebuild.copied, Instant::now());
            let before = rebuilds.entry(peer.replica).or_insert(now);
            if before.0 != rebuild.copied {
                *before = now;
            }
            if before.1.elapsed() >= STALLED {
                wrong.push(self.alert(
                    "rebuild-stalled",
                    Severity::Warning,
                    object(),
                    format!(
                        "volume {name}: the rebuild of its replica on {} has copied nothing for {} s; it is at {:.0} %",
                        self.name_of(peer.node),
                        before.1.elapsed().as_secs(),
                        rebuild.percent
                    ),
                    format!("look at the disk and the network of {}", self.name_of(peer.node)),
                ));
                break;
            }
        }
    }

    fn alert(
        &self,
        alert: &str,
        severity: Severity,
        object: Object,
        cause: String,
        remedy: String,
    ) -> AlertRecord {
        AlertRecord {
            alert: alert.to_owned(),
            severity,
            object,
            cause,
            remedy,
            since: Timestamp::now(),
            node: self.node,
            extra: Extra::new(),
        }
    }
}

/// Who sees to what is nobody's in particular: the living node with the lowest id.
pub(super) fn watchman(contents: &Contents) -> Option<NodeId> {
    contents
        .nodes()
        .filter_map(|node| node.live.map(|live| live.node))
        .min()
}

/// For which objects this node raises and clears alerts.
pub(super) struct Duties {
    node: NodeId,
    watchman: Option<NodeId>,
}

impl Duties {
    /// Those of a node, as the records are.
    pub(super) fn of(node: NodeId, contents: &Contents) -> Self {
        Self {
            node,
            watchman: watchman(contents),
        }
    }

    /// Whether this node sees to the object of an alert that is there.
    pub(super) fn has(&self, contents: &Contents, object: &Object) -> bool {
        match object.kind.as_str() {
            "pool" => match object.id.parse().ok().and_then(|id| contents.pool(id)) {
                // That of a dead node stays as it is: nobody else sees the pool.
                Some(pool) => pool.node == self.node,
                None => self.is_watchman(),
            },
            "volume" => match object.id.parse().ok().and_then(|id| contents.by_id(id)) {
                Some(volume) => self.has_volume(contents, volume),
                None => self.is_watchman(),
            },
            _ => self.is_watchman(),
        }
    }

    fn has_volume(&self, contents: &Contents, volume: &VolumeRecord) -> bool {
        let attached_on = volume.primary.as_ref().map(|primary| primary.node);
        match attached_on.filter(|node| contents.is_alive(*node)) {
            Some(node) => node == self.node,
            None => self.is_watchman(),
        }
    }

    fn is_watchman(&self) -> bool {
        self.watchman == Some(self.node)
    }
}
