//! What is wrong is raised as an alert in the store, once, and cleared once it is all right again; each time an event tells
//! of it. Judges nothing itself, and mends nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bulkhead_cluster::events::{EventError, Events, News};
use bulkhead_cluster::schema::{AlertRecord, EventKind as StoredKind, Object, Severity as StoredSeverity};
use bulkhead_engine::ids::{ReplicaId, VolumeId};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::context::Daemon;
use super::wrong::{Duties, watchman};

/// Between looks.
const LOOK: Duration = Duration::from_secs(2);
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
    pub(super) rebuilds: Mutex<BTreeMap<ReplicaId, (u64, Instant)>>,
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

    fn is_watchman(&self) -> bool {
        self.catalogue.read(watchman) == Some(self.node)
    }

    async fn keep_alerts(&self) -> Result<(), EventError> {
        self.number_events();
        let (wrong, known) = self.catalogue.read(|contents| {
            let duties = Duties::of(self.node, contents);
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
}
