//! The daemon as the faces see it.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_cluster::volumes::Volume as Stored;

use super::context::{Daemon, blocking};
use crate::options::VolumeRequest;
use crate::service::{ServiceError, VolumeService, VolumeView};

#[async_trait]
impl VolumeService for Arc<Daemon> {
    async fn create(&self, name: &str, request: &VolumeRequest) -> Result<(), ServiceError> {
        self.create_volume(name, request).await
    }

    async fn remove(&self, name: &str) -> Result<(), ServiceError> {
        self.delete_volume(name).await
    }

    async fn mount(&self, name: &str) -> Result<PathBuf, ServiceError> {
        self.refuse_in_maintenance(name)?;
        self.mount_volume(name).await
    }

    async fn unmount(&self, name: &str) -> Result<(), ServiceError> {
        self.unmount_volume(name).await
    }

    async fn in_use(&self, name: &str) -> Result<bool, ServiceError> {
        let Some(attached) = self.attached(name) else {
            return Ok(false);
        };
        blocking(move || {
            let holders = attached
                .device
                .holders()
                .map_err(|error| ServiceError::Failed(error.to_string()))?;
            // Our own mount, and its copies where it was propagated to, end in the volume's id.
            let own = attached.target.file_name();
            Ok(holders.iter().any(|holder| holder.target.file_name() != own))
        })
        .await
    }

    async fn get(&self, name: &str) -> Result<VolumeView, ServiceError> {
        let record = self.known(name).await?;
        Ok(self.view_with_usage(&record).await)
    }

    async fn list(&self) -> Result<Vec<VolumeView>, ServiceError> {
        Ok(self.volume_views())
    }
}

impl Daemon {
    /// The record of a name. What is known here is answered at once; that there is none is asked of the store, because
    /// another node may just have made one.
    async fn known(&self, name: &str) -> Result<Arc<Stored>, ServiceError> {
        let found = self.catalogue.read(|contents| contents.by_name(name).cloned());
        match found {
            Some(volume) => Ok(volume),
            None => Ok(Arc::new(self.find(name).await?)),
        }
    }
}
