//! This node as the faces see it: its state on one screen, and its pools.

use std::sync::Arc;

use async_trait::async_trait;

use super::context::{Daemon, blocking};
use super::health::{GLANCE, by_state};
use crate::service::{
    NodeService, PoolRequest, PoolView, RemovalRequest, RemovalView, RestartRequest, ServiceError, StatusView,
};

#[async_trait]
impl NodeService for Arc<Daemon> {
    async fn status(&self) -> Result<StatusView, ServiceError> {
        let (pools, store) = tokio::join!(self.pool_views(), self.store_view(GLANCE));
        let freshness = self.catalogue.freshness();
        let volumes = self.volume_views();
        let mut problems = Vec::new();
        problems.extend(self.store_problem(&store));
        problems.extend(self.node_problems(&store, &pools));
        problems.extend(self.cluster_problems(&freshness, &volumes));
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node: self.node_name.clone(),
            node_id: self.node.to_string(),
            state: self.own_state(&freshness),
            cluster: self.config.cluster.clone(),
            cluster_id: self.cluster.to_string(),
            nodes: self.nodes_by_state(&freshness),
            store,
            started_at: self.started_at,
            keeper: self.keeping.is_there(),
            restarts: self.keeping.restarts(),
            resuming: self.keeping.resuming(),
            healthy: problems.is_empty(),
            problems,
            pools,
            volumes: by_state(&volumes),
        })
    }

    async fn pools(&self) -> Result<Vec<PoolView>, ServiceError> {
        Ok(self.pool_views().await)
    }

    async fn restart(&self, request: &RestartRequest) -> Result<(), ServiceError> {
        let attached: Vec<_> = self.attached.lock().values().cloned().collect();
        self.keeping.may_restart(&attached)?;
        if request.keeper {
            let keeping = self.keeping.clone();
            blocking(move || keeping.replace()).await?;
        }
        self.restart.notify_one();
        Ok(())
    }

    async fn add_pool(&self, request: &PoolRequest) -> Result<PoolView, ServiceError> {
        let id = self.pools.add(request).await?;
        // One that was to go before, and is wanted again.
        self.set_leaving(id, false).await?;
        self.membership.pools_changed.notify_one();
        let views = self.pool_views().await;
        views
            .into_iter()
            .find(|view| view.id == id.to_string())
            .ok_or_else(|| ServiceError::Failed(format!("pool {id} was made but is not there")))
    }

    async fn remove_pool(&self, id: &str) -> Result<(), ServiceError> {
        self.remove_empty_pool(self.own_pool(id)?).await
    }

    async fn removal(&self, id: &str) -> Result<RemovalView, ServiceError> {
        Ok(self.removal_view(self.own_pool(id)?))
    }

    async fn begin_removal(&self, id: &str, request: &RemovalRequest) -> Result<RemovalView, ServiceError> {
        self.leave_pool(self.own_pool(id)?, request.dry_run).await
    }

    async fn end_removal(&self, id: &str) -> Result<(), ServiceError> {
        self.keep_pool(self.own_pool(id)?).await
    }
}

impl Daemon {
    /// The pools with what is promised of them.
    async fn pool_views(&self) -> Vec<PoolView> {
        let mut views = self.pools.views().await;
        for id in self.catalogue.read(|contents| self.leaving(contents)) {
            let id = id.to_string();
            if let Some(view) = views.iter_mut().find(|view| view.id == id && view.healthy) {
                "being emptied".clone_into(&mut view.status);
            }
        }
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
}
