//! A volume goes: refused while it is used; then the record says "deleting" and its name is free. Each node removes its
//! replica, this one at once, and the record goes with the last.

use std::sync::Arc;

use super::context::{Daemon, volume_failed};
use crate::service::ServiceError;

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
        self.end_upkeep(volume.id).await;
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
        self.remove_replicas(going.id).await?;
        self.failures.lock().remove(&going.id);
        tracing::info!(volume = name, "deleted");
        Ok(())
    }
}
