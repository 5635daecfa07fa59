//! Looks at the records from time to time, and first of all at the start: what was begun and left is finished or
//! undone. Works on one volume at a time, under its lock, and passes by those on which somebody else works.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_cluster::schema::{VolumeRecord, VolumeState};
use tokio::sync::watch;
use tokio::time::sleep;

use super::context::{Daemon, volume_failed};
use crate::service::ServiceError;

/// Between looks.
const INTERVAL: Duration = Duration::from_secs(30);
/// How long a volume on which somebody works is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// One look at all records.
pub(super) async fn once(daemon: &Arc<Daemon>) {
    for record in daemon.records() {
        if !daemon.is_left_over(&record) {
            continue;
        }
        let Ok(_guard) = daemon.lock(&record.name, "being tidied up", PATIENCE).await else {
            continue;
        };
        if let Err(error) = daemon.tidy(&record).await {
            tracing::warn!(volume = record.name, %error, "what was begun could not be finished yet");
        }
    }
}

/// Looks until `stop` says so.
pub(super) async fn keep_up(daemon: Arc<Daemon>, mut stop: watch::Receiver<bool>) {
    let work = async {
        loop {
            sleep(INTERVAL).await;
            daemon.pools.retry().await;
            once(&daemon).await;
        }
    };
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

impl Daemon {
    fn is_left_over(&self, record: &VolumeRecord) -> bool {
        let held_here = record
            .primary
            .as_ref()
            .is_some_and(|primary| primary.node == self.node);
        match record.state {
            VolumeState::Creating => record.creator == self.node,
            VolumeState::Deleting => record.replicas_on(self.node).next().is_some(),
            VolumeState::Ready => held_here && self.attached(&record.name).is_none(),
        }
    }

    /// Under the lock of the name, and so with nobody else at work on it.
    async fn tidy(&self, seen: &VolumeRecord) -> Result<(), ServiceError> {
        let Some(now) = self
            .volumes
            .by_id(seen.id)
            .await
            .map_err(|error| volume_failed(&error))?
        else {
            return Ok(());
        };
        self.catalogue.note(&now);
        if !self.is_left_over(&now) {
            return Ok(());
        }
        match now.state {
            VolumeState::Creating => {
                tracing::info!(volume = now.name, "its creation broke off, and is undone");
                self.undo(&now).await
            }
            VolumeState::Deleting => self.finish_delete(&now).await,
            VolumeState::Ready => {
                let released = self.volumes.release(now.id, self.node, None).await;
                if let Some(volume) = released.map_err(|error| volume_failed(&error))? {
                    self.catalogue.note(&volume);
                }
                Ok(())
            }
        }
    }
}
