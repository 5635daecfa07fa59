//! (temporary) pools as plain directories, until the engine's pools are there.

use std::path::PathBuf;

use bulkhead_cluster::schema::{Extra, IoPriority, Medium, PoolRecord, PoolState};
use bulkhead_engine::ids::{NodeId, PoolId};
use uuid::Uuid;

use crate::service::{PoolRequest, PoolView, ServiceError};

pub(super) struct Pools {
    dir: PathBuf,
}

impl Pools {
    pub(super) async fn open(state_dir: PathBuf) -> anyhow::Result<Self> {
        let dir = state_dir.join("pools");
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    fn ids(&self) -> Vec<PoolId> {
        std::fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect()
    }

    pub(super) fn replicas(&self, id: PoolId) -> Option<PathBuf> {
        let dir = self.dir.join(id.to_string()).join("replicas");
        dir.exists().then_some(dir)
    }

    pub(super) async fn records(&self, node: NodeId, overcommit_percent: u32) -> Vec<PoolRecord> {
        self.ids()
            .into_iter()
            .map(|id| PoolRecord {
                id,
                node,
                medium: Medium::Unknown,
                priority: IoPriority::High,
                capacity: 100 << 30,
                free: 100 << 30,
                overcommit_percent,
                state: PoolState::Ok,
                extra: Extra::new(),
            })
            .collect()
    }

    pub(super) async fn views(&self) -> Vec<PoolView> {
        self.ids()
            .into_iter()
            .map(|id| PoolView {
                id: id.to_string(),
                device: self.dir.join(id.to_string()),
                medium: "unknown".into(),
                priority: "high".into(),
                capacity: 100 << 30,
                promised: 0,
                used: 0,
                free: 100 << 30,
                replicas: 0,
                healthy: true,
                status: "ok".into(),
            })
            .collect()
    }

    pub(super) async fn add(&self, _request: &PoolRequest) -> Result<PoolId, ServiceError> {
        let id = PoolId::from(Uuid::new_v4());
        std::fs::create_dir_all(self.dir.join(id.to_string()).join("replicas"))
            .map_err(|error| ServiceError::Failed(error.to_string()))?;
        Ok(id)
    }

    pub(super) async fn remove(&self, id: PoolId) -> Result<(), ServiceError> {
        std::fs::remove_dir_all(self.dir.join(id.to_string()))
            .map_err(|error| ServiceError::Failed(error.to_string()))
    }
}
