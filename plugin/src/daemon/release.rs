//! A volume leaves this node: because nobody needs it, because it failed, or because the daemon stops. Never takes it
//! away from a container that still uses it, except in the last two cases.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bulkhead_cluster::volumes::Volume as Stored;
use bulkhead_engine::host::HostError;
use bulkhead_engine::ids::VolumeId;
use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::attach::Attached;
use super::context::{Daemon, blocking};
use crate::service::ServiceError;

/// How long an Unmount waits for its turn: nobody asks a second time.
const TURN: Duration = Duration::from_secs(600);
/// How long an Unmount waits for a container's last process to go; the rest is done in the background.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long writing back may take in one try. It goes on when nobody waits for it any more.
const WRITE_BACK: Duration = Duration::from_secs(20);
/// Pauses between tries in the background: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

impl Daemon {
    /// Nobody who asked for the mount needs it any longer.
    pub(super) async fn unmount_volume(self: &Arc<Self>, name: &str) -> Result<(), ServiceError> {
        let _guard = self.lock(name, "being mounted or unmounted", TURN).await?;
        let Some(attached) = self.attached(name) else {
            return Ok(());
        };
        if let Err(why) = self.let_go(&attached).await {
            tracing::warn!(volume = name, why, "it is released as soon as that ends");
            *attached.leaving.lock() = Some(why);
            tokio::spawn(keep_trying(Arc::downgrade(self), attached));
        }
        Ok(())
    }

    /// One try, under the lock of the name. The error says what holds it.
    async fn let_go(&self, attached: &Arc<Attached>) -> Result<(), String> {
        if attached.dead().is_none() {
            let device = attached.clone();
            let unmounted = tokio::task::spawn_blocking(move || {
                device.device.unmount(&device.target, WRITE_BACK, PATIENCE)
            })
            .await;
            match unmounted {
                Ok(Ok(())) => {}
                Ok(Err(HostError::TornDown { .. })) => {}
                Ok(Err(error)) => return Err(error.to_string()),
                Err(error) => return Err(error.to_string()),
            }
        }
        self.detach(attached).await;
        Ok(())
    }

    /// Takes a volume away from this node and gives its record back, under the lock of its name.
    pub(super) async fn detach(&self, attached: &Arc<Attached>) {
        let limit = self.config.timeout.detach.duration();
        let device = attached.clone();
        let report = blocking(move || Ok(device.take_down(limit))).await;
        self.attached.lock().remove(&attached.name);
        match report {
            Ok(report) if report.is_clean() => tracing::info!(volume = attached.name, "released"),
            Ok(report) => tracing::warn!(volume = attached.name, ?report, "released by force"),
            Err(error) => {
                tracing::error!(volume = attached.name, %error, "it could not be released in order")
            }
        }
        self.release_record(attached.id, &attached.name, attached.attachment)
            .await;
    }

    /// A volume has ended by itself: its users get errors, and then it goes. What has taken its place meanwhile is left alone;
    /// one that ends while it is still being brought up is seen to by whoever does that.
    pub(super) async fn bury(&self, name: &str, id: VolumeId, reason: String) {
        if self
            .tended(id)
            .is_some_and(|tended| tended.volume.ended().is_some())
        {
            // It is in nobody's use, and goes with the next look.
            tracing::info!(volume = name, reason, "the rebuild of its replicas has ended");
            return;
        }
        let ended = self.attached(name).filter(|attached| attached.id == id);
        let Some(attached) = ended.filter(|attached| attached.dead().is_some()) else {
            return;
        };
        tracing::error!(volume = name, reason, "the volume has failed and is taken down");
        self.note_ending(&attached, reason);
        // Without the lock: whoever has it may be waiting for this very device.
        let device = attached.clone();
        let aborted = blocking(move || {
            device
                .device
                .abort()
                .map_err(|error| ServiceError::Failed(error.to_string()))
        });
        if let Err(error) = aborted.await {
            tracing::warn!(volume = name, %error, "its connection could not be aborted");
        }
        loop {
            let Ok(_guard) = self.lock(name, "being taken down", Duration::from_secs(60)).await else {
                continue;
            };
            if self
                .attached(name)
                .is_some_and(|now| Arc::ptr_eq(&now, &attached))
            {
                self.detach(&attached).await;
            }
            return;
        }
    }

    /// Shows what is attached here its record, which has changed. One whose record is gone goes on: what is attached here cannot
    /// have been deleted, so the store was restored from a copy of the time before it, and nobody else can take it.
    pub(super) fn look_at_attached(self: &Arc<Self>, id: VolumeId) {
        let Some(held) = self.held_here(id) else {
            return;
        };
        if let Some(problem) = self.attached_of(id).and_then(|attached| self.outlived(&attached)) {
            tracing::error!("{problem}");
            return;
        }
        self.tell_engine(id);
        if self.has_replicas_to_change(&held) {
            let daemon = self.clone();
            tokio::spawn(async move { daemon.keep_replicas_of(&held).await });
        }
    }

    /// What is wrong with a volume that is attached here and of which the store knows nothing, or less than the volume itself.
    fn outlived(&self, attached: &Attached) -> Option<String> {
        let known = self
            .catalogue
            .read(|contents| contents.by_id(attached.id).map(|volume| volume.epoch));
        let what = match known {
            None => "the store has no record of it".to_owned(),
            Some(epoch) if epoch < attached.volume.term() => format!(
                "the store's record says epoch {epoch}, and it was attached in {}",
                attached.volume.term()
            ),
            Some(_) => return None,
        };
        Some(format!(
            "volume {:?} is attached here, but {what}: the store was restored from an older copy. It is served until it is unmounted; save what it holds before that, or restore a newer copy",
            attached.name
        ))
    }

    /// The same of all volumes that are attached here.
    pub(super) fn outlived_volumes(&self) -> Vec<String> {
        let all: Vec<Arc<Attached>> = self.attached.lock().values().cloned().collect();
        if !self.catalogue.freshness().from_disk {
            return all
                .iter()
                .filter_map(|attached| self.outlived(attached))
                .collect();
        }
        Vec::new()
    }

    /// Another node asks for a volume that is attached here: it goes at once if nobody needs it any more, else the record
    /// says what uses it. Under the lock of its name.
    pub(super) async fn answer_wish(self: &Arc<Self>, volume: &Stored) {
        if self.tended(volume.id).is_some() {
            tracing::info!(volume = volume.name, "another node asks for it");
            self.end_upkeep(volume.id).await;
            return;
        }
        let Some(attached) = self.attached(&volume.name) else {
            return;
        };
        if let Some(wanted) = &volume.wanted
            && !self.catalogue.read(|contents| contents.is_alive(wanted.node))
        {
            // Whoever asked does not wait any more.
            if let Err(error) = self.volumes.unwant(volume.id, wanted.node).await {
                tracing::debug!(volume = volume.name, %error, "the record says still that a dead node waits for it");
            }
            return;
        }
        if attached.leaving.lock().is_some() {
            match self.let_go(&attached).await {
                Ok(()) => return,
                Err(why) => *attached.leaving.lock() = Some(why),
            }
        }
        let device = attached.clone();
        let user = blocking(move || Ok(device.user())).await.unwrap_or_default();
        let told = self.volumes.set_user(volume.id, attached.attachment, &user).await;
        if let Err(error) = told {
            tracing::debug!(volume = volume.name, %error, "what uses it is not told");
        }
    }

    /// The daemon stops: everything goes, within `limit`.
    pub(super) async fn release_everything(&self, limit: Duration) {
        let tended = self.all_tended();
        let tended = join_all(tended.iter().map(|tended| self.end_upkeep(tended.id)));
        if timeout(limit / 2, tended).await.is_err() {
            tracing::warn!("a volume that was attached for its replicas is not released in the store yet");
        }
        let all: Vec<Arc<Attached>> = self.attached.lock().values().cloned().collect();
        if all.is_empty() {
            return;
        }
        tracing::info!(volumes = all.len(), "unmounting");
        let end = Instant::now() + limit;
        let one = |attached: Arc<Attached>| async move {
            let device = attached.clone();
            let report = blocking(move || {
                // Most of the time is for what containers wrote: after it, what still uses the volume is cut off.
                if let Err(error) = device.device.sync(&device.target, limit.mul_f32(0.6)) {
                    tracing::warn!(volume = device.name, %error, "not all of it is written back");
                }
                let left = end.saturating_duration_since(Instant::now());
                Ok(device.take_down(left.mul_f32(0.8)))
            })
            .await;
            if let Ok(report) = report
                && !report.is_clean()
            {
                tracing::warn!(
                    volume = attached.name,
                    ?report,
                    "it was taken away from what uses it"
                );
            }
            self.attached.lock().remove(&attached.name);
            self.release_record(attached.id, &attached.name, attached.attachment)
                .await;
        };
        if timeout(limit, join_all(all.into_iter().map(one))).await.is_err() {
            let left: Vec<String> = self.attached.lock().keys().cloned().collect();
            tracing::warn!(
                ?left,
                "not everything could be unmounted in time; the next start cleans up"
            );
        }
    }
}

/// Tries in the background until the volume is gone, or somebody mounts it again.
async fn keep_trying(daemon: Weak<Daemon>, attached: Arc<Attached>) {
    let (mut pause, longest) = PAUSES;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(longest);
        let Some(daemon) = daemon.upgrade() else {
            return;
        };
        let name = attached.name.clone();
        let Ok(_guard) = daemon.lock(&name, "being released", Duration::from_secs(5)).await else {
            continue;
        };
        let same = daemon
            .attached(&name)
            .is_some_and(|now| Arc::ptr_eq(&now, &attached));
        if !same || attached.leaving.lock().is_none() {
            return;
        }
        match daemon.let_go(&attached).await {
            Ok(()) => return,
            Err(why) => *attached.leaving.lock() = Some(why),
        }
    }
}

/// Waits for volumes that end by themselves.
pub(super) async fn watch_endings(
    daemon: Weak<Daemon>,
    mut endings: mpsc::UnboundedReceiver<(String, VolumeId, String)>,
) {
    while let Some((name, id, reason)) = endings.recv().await {
        let Some(daemon) = daemon.upgrade() else {
            return;
        };
        // Each in a task of its own: one that hangs holds up no other.
        tokio::spawn(async move { daemon.bury(&name, id, reason).await });
    }
}
