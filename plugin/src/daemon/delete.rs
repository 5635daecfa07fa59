//! A volume goes: refused while it is used; then the record says "deleting", the replica is removed, the record goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_cluster::schema::{VolumeRecord, VolumeState};
use bulkhead_engine::disk::{self, DiskError};

use super::context::{Daemon, blocking, once_unlocked, volume_failed};
use crate::service::ServiceError;

/// How long a disk may take to come to rest before a replica on it is removed.
const CLOSING: Duration = Duration::from_secs(5);

impl Daemon {
    /// Deletes a volume and gives its space back.
    pub(super) async fn delete_volume(self: &Arc<Self>, name: &str) -> Result<(), ServiceError> {
        let patience = self.config.timeout.call.duration().mul_f32(0.8);
        let _guard = self.lock(name, "being created or deleted", patience).await?;
        if let Some(attached) = self.attached(name) {
            return Err(ServiceError::Busy(match attached.leaving.lock().as_ref() {
                Some(why) => format!("volume {name:?} is still in use: {why}"),
                None => format!(
                    "volume {name:?} is mounted on this node ({}); stop the containers that use it, `docker ps -a --filter volume={name}` lists them",
                    self.node_name
                ),
            }));
        }
        let volume = self.find(name).await?;
        for replica in volume.replicas_on(self.node) {
            // Before anything is changed: without its pool a replica cannot go.
            self.pools.check(replica.pool).await?;
        }
        if volume
            .primary
            .as_ref()
            .is_some_and(|primary| primary.node == self.node)
        {
            // Not attached here, so an earlier run of this daemon left it so.
            self.volumes
                .release(volume.id, self.node, None)
                .await
                .map_err(|error| volume_failed(&error))?;
        }
        let going = self
            .volumes
            .begin_delete_of(volume.id, self.node)
            .await
            .map_err(|error| volume_failed(&error))?;
        self.catalogue.note(&going);
        self.finish_delete(&going).await?;
        self.failures.lock().remove(&going.id);
        tracing::info!(volume = name, "deleted");
        Ok(())
    }

    /// Removes this node's replicas of a volume that is being deleted; the record goes with the last one.
    pub(super) async fn finish_delete(&self, volume: &VolumeRecord) -> Result<(), ServiceError> {
        debug_assert!(volume.state == VolumeState::Deleting);
        for replica in volume.replicas_on(self.node) {
            self.pools.check(replica.pool).await?;
            let Some(pool) = self.pools.replicas(replica.pool) else {
                return Err(ServiceError::Failed(format!(
                    "volume {:?} is deleted when its pool {} is back",
                    volume.name, replica.pool
                )));
            };
            let (dir, name) = (pool.join(volume.id.to_string()), volume.name.clone());
            let (engine, id) = (self.engine.clone(), replica.id);
            self.places.remove(id);
            blocking(move || {
                engine
                    .close_replica(id, Instant::now() + CLOSING)
                    .map_err(|error| ServiceError::Failed(format!("volume {name:?}: {error}")))?;
                once_unlocked(
                    || disk::delete(&dir),
                    |error| matches!(error, DiskError::InUse(_)),
                )
                .map_err(|error| {
                    ServiceError::Failed(format!(
                        "the data of volume {name:?} cannot be removed yet: {error}; it is tried again"
                    ))
                })
            })
            .await?;
        }
        self.volumes
            .finish_delete(volume.id, self.node)
            .await
            .map_err(|error| volume_failed(&error))?;
        Ok(())
    }
}
