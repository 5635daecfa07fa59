//! What is wrong is raised as an alert in the store, once, and cleared once it is all right again; each time an event tells
//! of it. Every object has one node that is responsible for its alerts: a pool its own, a volume the one that it is attached
//! on, everything else the living node with the lowest id. Reads what this node knows; mends nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::events::{EventError, Events, News};
use bulkhead_cluster::nodes::NodeStatus;
use bulkhead_cluster::schema::{
    AlertRecord, EventKind as StoredKind, Extra, NodeDuty, Object, PoolRecord, PoolState,
    Severity as StoredSeverity, Timestamp, VolumeRecord, VolumeState,
};
use bulkhead_engine::ids::{NodeId, ReplicaId, VolumeId};
use bulkhead_engine::node::{Reach, Standing};
use nix::sys::statvfs::{FsFlags, statvfs};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::context::Daemon;
use crate::options::format_size;

/// Between looks.
const LOOK: Duration = Duration::from_secs(2);
/// A pool with less than this share free is nearly full, and with less than the second full.
const FREE_PERCENT: (u64, u64) = (15, 3);
/// A rebuild that has copied nothing for so long does not get on.
const STALLED: Duration = Duration::from_secs(60);
/// How long a file system may take to say whether it can be written to.
const PATIENCE: Duration = Duration::from_secs(1);
/// The sentence of an alert is brought up to date at most so often.
const REWORD: Duration = Duration::from_secs(60);

/// What the daemon keeps for those who look at it.
#[derive(Debug)]
pub(super) struct Surface {
    pub(super) events: Events,
    /// Why the API is not served over the network, if it should be.
    pub(super) api_trouble: Mutex<Option<String>>,
    /// Volumes attached here whose file system takes no writes any more though it should.
    pub(super) read_only: Mutex<BTreeSet<VolumeId>>,
    /// How far rebuilds were when they last got on.
    rebuilds: Mutex<BTreeMap<ReplicaId, (u64, Instant)>>,
    reworded: Mutex<BTreeMap<String, Instant>>,
}

impl Surface {
    pub(super) fn new(events: Events) -> Self {
        Self {
            events,
            api_trouble: Mutex::default(),
            read_only: Mutex::default(),
            rebuilds: Mutex::default(),
            reworded: Mutex::default(),
        }
    }
}

/// What something is about.
pub(super) fn about(kind: &str, id: impl ToString, name: &str) -> Object {
    Object {
        kind: kind.to_owned(),
        id: id.to_string(),
        name: name.to_owned(),
    }
}

/// Looks for as long as it is polled.
pub(super) async fn keep_watch(daemon: Arc<Daemon>) {
    let mut away: Option<(SystemTime, String)> = None;
    loop {
        sleep(LOOK).await;
        match (daemon.store.access().away(), away.take()) {
            (Some(now), _) => away = Some(now),
            (None, Some((since, reason))) => daemon.tell_of_outage(since, &reason),
            (None, None) => {}
        }
        daemon.look_at_file_systems().await;
        let freshness = daemon.catalogue.freshness();
        if freshness.away.is_some() || freshness.from_disk || !daemon.membership.is_alive() {
            continue;
        }
        if daemon.is_watchman() {
            daemon.forget_nodes().await;
        }
        if let Err(error) = daemon.keep_alerts().await {
            tracing::debug!(%error, "what is wrong could not be told to the others yet");
        }
    }
}

impl Daemon {
    /// Tells that something was done, as soon as that works, and without keeping anybody waiting.
    pub(super) fn happened(
        self: &Arc<Self>,
        what: &str,
        severity: StoredSeverity,
        object: Object,
        cause: String,
    ) {
        let (daemon, what) = (self.clone(), what.to_owned());
        tokio::spawn(async move {
            daemon.number_events();
            let news = News {
                kind: StoredKind::Happened,
                what,
                severity,
                object,
                cause,
                remedy: String::new(),
            };
            if let Err(error) = daemon.surface.events.tell(&news).await {
                tracing::warn!(what = news.what, %error, "an event is told to nobody");
            }
        });
    }

    fn tell_of_outage(self: &Arc<Self>, since: SystemTime, reason: &str) {
        let cause = format!(
            "node {} could not reach the store ({}) since {}: {reason}; now it answers again",
            self.node_name,
            self.store.name(),
            humantime::format_rfc3339_seconds(since)
        );
        let object = about("store", "store", &self.store.name());
        self.happened("store-unreachable", StoredSeverity::Warning, object, cause);
    }

    /// This node's events go on after the newest that is kept.
    fn number_events(&self) {
        let newest = self.catalogue.read(|contents| {
            let ours = contents.events().filter(|event| event.node == self.node);
            ours.map(|event| event.number).max()
        });
        self.surface
            .events
            .continue_at(newest.map_or(0, |newest| newest.saturating_add(1)));
    }

    /// Sees which file systems have become read-only. One that does not answer is left as it was.
    async fn look_at_file_systems(&self) {
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

    fn is_watchman(&self) -> bool {
        self.catalogue.read(watchman) == Some(self.node)
    }

    async fn keep_alerts(&self) -> Result<(), EventError> {
        self.number_events();
        let (wrong, known) = self.catalogue.read(|contents| {
            let watchman = watchman(contents);
            let duties = Duties {
                node: self.node,
                watchman,
            };
            let known: Vec<AlertRecord> = contents
                .alerts()
                .filter(|alert| duties.has(contents, &alert.object))
                .cloned()
                .collect();
            (self.what_is_wrong(contents, &duties), known)
        });
        let key = |alert: &AlertRecord| {
            (
                alert.object.kind.clone(),
                alert.object.id.clone(),
                alert.alert.clone(),
            )
        };
        let raised: BTreeMap<_, &AlertRecord> = known.iter().map(|alert| (key(alert), alert)).collect();
        let wanted: BTreeSet<_> = wrong.iter().map(key).collect();
        for alert in known.iter().filter(|alert| !wanted.contains(&key(alert))) {
            if self.surface.events.clear(alert).await? {
                tracing::info!(
                    alert = alert.alert,
                    object = alert.object.name,
                    "all right again: {}",
                    alert.cause
                );
            }
        }
        for alert in &wrong {
            match raised.get(&key(alert)) {
                None => {
                    if self.surface.events.raise(alert).await? {
                        tracing::warn!(alert = alert.alert, object = alert.object.name, "{}", alert.cause);
                    }
                }
                Some(known) if known.cause != alert.cause => self.reword(known, alert).await?,
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Figures in a sentence change all the time: what is read now and then need not be written all the time.
    async fn reword(&self, known: &AlertRecord, now: &AlertRecord) -> Result<(), EventError> {
        let key = format!("{}/{}/{}", now.object.kind, now.object.id, now.alert);
        let is_due = {
            let mut reworded = self.surface.reworded.lock();
            reworded.retain(|_, at| at.elapsed() < REWORD);
            let is_due = !reworded.contains_key(&key);
            if is_due {
                reworded.insert(key, Instant::now());
            }
            is_due
        };
        if is_due {
            let alert = AlertRecord {
                since: known.since,
                node: known.node,
                ..now.clone()
            };
            self.surface.events.reword(&alert).await?;
        }
        Ok(())
    }

    /// All that is wrong with what this node is responsible for.
    fn what_is_wrong(&self, contents: &Contents, duties: &Duties) -> Vec<AlertRecord> {
        let mut wrong = Vec::new();
        for node in contents.nodes() {
            let name = &node.record.name;
            let object = about("node", node.record.id, name);
            if !duties.has(contents, &object) || node.record.duty == NodeDuty::Maintenance {
                continue;
            }
            if node.status() == NodeStatus::Offline {
                wrong.push(self.alert(
                    "node-away",
                    StoredSeverity::Critical,
                    object,
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
            let object = about("volume", volume.id, &volume.name);
            if volume.state == VolumeState::Ready && duties.has(contents, &object) {
                self.volume_alerts(volume, &object, &mut wrong);
            }
        }
        wrong
    }

    fn pool_alert(&self, pool: &PoolRecord) -> Option<AlertRecord> {
        let object = about("pool", pool.id, &format!("{} of {}", pool.id, self.node_name));
        if pool.state == PoolState::Down {
            return Some(self.alert(
                "pool-down",
                StoredSeverity::Critical,
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
            (true, _) => ("pool-full", StoredSeverity::Critical),
            (false, true) => ("pool-nearly-full", StoredSeverity::Warning),
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

    fn volume_alerts(&self, volume: &VolumeRecord, object: &Object, wrong: &mut Vec<AlertRecord>) {
        let view = self.view(volume);
        let name = &volume.name;
        if !view.healthy {
            let (alert, severity) = match view.state.as_str() {
                "degraded" => ("volume-degraded", StoredSeverity::Warning),
                "failed" => ("volume-down", StoredSeverity::Critical),
                _ => ("volume-in-trouble", StoredSeverity::Critical),
            };
            wrong.push(self.alert(
                alert,
                severity,
                object.clone(),
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
                    StoredSeverity::Warning,
                    object.clone(),
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
        severity: StoredSeverity,
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

/// Who sees to what is nobody's in particular.
fn watchman(contents: &Contents) -> Option<NodeId> {
    contents
        .nodes()
        .filter_map(|node| node.live.map(|live| live.node))
        .min()
}

/// For which objects this node raises and clears alerts.
struct Duties {
    node: NodeId,
    watchman: Option<NodeId>,
}

impl Duties {
    fn has(&self, contents: &Contents, object: &Object) -> bool {
        self.responsible(contents, object) == Some(self.node)
    }

    fn responsible(&self, contents: &Contents, object: &Object) -> Option<NodeId> {
        let lives = |node: &NodeId| contents.is_alive(*node);
        match object.kind.as_str() {
            "pool" => match contents.pools().find(|pool| pool.id.to_string() == object.id) {
                // That of a dead node stays as it is: nobody else sees the pool.
                Some(pool) => Some(pool.node).filter(lives),
                None => self.watchman,
            },
            "volume" => {
                let volume = object.id.parse().ok().and_then(|id| contents.by_id(id));
                let primary = volume.and_then(|volume| volume.primary.as_ref());
                primary
                    .map(|primary| primary.node)
                    .filter(lives)
                    .or(self.watchman)
            }
            _ => self.watchman,
        }
    }
}
