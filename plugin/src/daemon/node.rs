//! This node as the faces see it: its state on one screen, and its pools.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_cluster::catalogue::Contents;

use super::context::Daemon;
use crate::service::{NodeService, PoolRequest, PoolView, ServiceError, StatusView, VolumeView};

#[async_trait]
impl NodeService for Arc<Daemon> {
    async fn status(&self) -> Result<StatusView, ServiceError> {
        let pools = self.pool_views().await;
        let volumes: Vec<VolumeView> = self.records().iter().map(|record| self.view(record)).collect();
        let mut states: BTreeMap<String, usize> = BTreeMap::new();
        for volume in &volumes {
            *states.entry(volume.state.clone()).or_default() += 1;
        }
        let problems = self.problems(&pools, &volumes);
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node_name.clone(),
            node_id: self.node.to_string(),
            cluster: self.config.cluster.clone(),
            store: self.store.name(),
            started_at: self.started_at,
            healthy: problems.is_empty(),
            problems,
            pools,
            volumes: states,
        })
    }

    async fn pools(&self) -> Result<Vec<PoolView>, ServiceError> {
        Ok(self.pool_views().await)
    }

    async fn add_pool(&self, request: &PoolRequest) -> Result<PoolView, ServiceError> {
        let id = self.pools.add(request).await?;
        self.membership.pools_changed.notify_one();
        let views = self.pool_views().await;
        views
            .into_iter()
            .find(|view| view.id == id.to_string())
            .ok_or_else(|| ServiceError::Failed(format!("pool {id} was made but is not there")))
    }

    async fn remove_pool(&self, id: &str) -> Result<(), ServiceError> {
        let no_such = || {
            ServiceError::NoSuch(format!(
                "there is no pool {id:?} on this node; `bulkhead pool list` shows those that exist"
            ))
        };
        let pool = id.parse().map_err(|_| no_such())?;
        let stored: Vec<String> = self
            .records()
            .iter()
            .filter(|record| record.replicas.iter().any(|replica| replica.pool == pool))
            .map(|record| record.name.clone())
            .collect();
        if !stored.is_empty() {
            return Err(ServiceError::Busy(format!(
                "pool {id} holds replicas of {} volume{} ({}); delete them first",
                stored.len(),
                if stored.len() == 1 { "" } else { "s" },
                abridged(&stored)
            )));
        }
        self.pools.remove(pool).await?;
        self.membership.pools_changed.notify_one();
        Ok(())
    }
}

impl Daemon {
    /// The pools with what is promised of them.
    async fn pool_views(&self) -> Vec<PoolView> {
        let mut views = self.pools.views().await;
        for record in self.records() {
            for replica in record.replicas_on(self.node) {
                let id = replica.pool.to_string();
                if let Some(view) = views.iter_mut().find(|view| view.id == id) {
                    view.promised = view.promised.saturating_add(record.spec.size);
                    view.replicas += 1;
                }
            }
        }
        views
    }

    fn problems(&self, pools: &[PoolView], volumes: &[VolumeView]) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(warning) = self.catalogue.freshness().warning() {
            problems.push(format!(
                "{warning} ({}); mounted volumes go on",
                self.store.name()
            ));
        } else if !self.membership.is_alive() {
            problems.push(
                "the cluster does not take this node for alive: its volumes may be taken over by others"
                    .to_owned(),
            );
        }
        if pools.is_empty() {
            problems.push(
                "this node has no pool, so no volume can be stored on it; `bulkhead pool add` makes one"
                    .to_owned(),
            );
        }
        for pool in pools.iter().filter(|pool| !pool.healthy) {
            problems.push(format!(
                "pool {} on {}: {}",
                pool.id,
                pool.device.display(),
                pool.status
            ));
        }
        for volume in volumes.iter().filter(|volume| !volume.healthy) {
            problems.push(format!("volume {:?}: {}", volume.name, volume.status));
        }
        let faults = |contents: &Contents| contents.faults().map(ToString::to_string).collect::<Vec<_>>();
        problems.extend(self.catalogue.read(faults));
        problems
    }
}

fn abridged(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(", …");
    }
    text
}
