//! What is wrong, here and in the cluster, and what to do: the one place where that is decided for `status` and
//! `cluster status`. Asks the store at most one question, and waits for it no longer than it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bulkhead_cluster::catalogue::{Contents, Freshness};
use bulkhead_cluster::placement::PoolView as PlacedPool;
use bulkhead_cluster::schema::CLUSTER_KEY;
use bulkhead_cluster::store::Member;
use tokio::time::timeout;

use super::context::Daemon;
use super::members::{Load, Standing, stale_as_of};
use crate::service::{
    CapacityView, ClassRequest, ClassView, ClusterService, ClusterView, LabelChange, NodeView, PoolView,
    ServiceError, StoreMemberView, StoreView, VolumeView,
};

/// How long a screen waits for the store. Slower than this is worth a word.
pub(super) const GLANCE: Duration = Duration::from_secs(1);
/// How long a change is waited for until this node's own copy shows it.
const ECHO: Duration = Duration::from_secs(2);
/// Problems of one kind that are listed one by one.
const LISTED: usize = 10;

#[async_trait]
impl ClusterService for Arc<Daemon> {
    async fn cluster(&self) -> Result<ClusterView, ServiceError> {
        let store = self.store_view(GLANCE).await;
        let freshness = self.catalogue.freshness();
        let volumes = self.volume_views();
        let mut problems = Vec::new();
        problems.extend(self.store_problem(&store));
        problems.extend(self.cluster_problems(&freshness, &volumes));
        let created_at = |contents: &Contents| contents.cluster().map(|cluster| cluster.created_at.into());
        Ok(ClusterView {
            name: self.config.cluster.clone(),
            id: self.cluster.to_string(),
            created_at: self.catalogue.read(created_at),
            healthy: problems.is_empty(),
            problems,
            nodes: self.nodes_by_state(&freshness),
            store,
            volumes: by_state(&volumes),
            capacity: self.catalogue.read(capacity),
            as_of: stale_as_of(&freshness),
        })
    }

    async fn store(&self) -> Result<StoreView, ServiceError> {
        let mut view = self.store_view(self.config.timeout.store.duration() * 2).await;
        if view.reachable {
            match self.store.members().await {
                Ok(members) => view.members = members.into_iter().map(member_view).collect(),
                Err(error) => view.members_unknown = Some(error.to_string()),
            }
        }
        Ok(view)
    }

    async fn nodes(&self) -> Result<Vec<NodeView>, ServiceError> {
        Ok(self.node_views())
    }

    async fn node(&self, name: &str) -> Result<NodeView, ServiceError> {
        self.node_named(name)
    }

    async fn label_node(&self, name: &str, change: &LabelChange) -> Result<NodeView, ServiceError> {
        self.change_labels(name, change).await
    }

    async fn classes(&self) -> Result<Vec<ClassView>, ServiceError> {
        Ok(self.class_views())
    }

    async fn class(&self, name: &str) -> Result<ClassView, ServiceError> {
        self.class_view(name).await
    }

    async fn create_class(&self, request: &ClassRequest) -> Result<ClassView, ServiceError> {
        self.make_class(request).await
    }

    async fn delete_class(&self, name: &str) -> Result<(), ServiceError> {
        self.drop_class(name).await
    }

    async fn set_default_class(&self, name: Option<&str>) -> Result<(), ServiceError> {
        self.choose_default_class(name).await
    }
}

impl Daemon {
    /// Waits, but not for long, until this node's own copy of the records shows what was just changed: so that who asks
    /// next finds it.
    pub(super) async fn until_known(&self, shows: impl Fn(&Contents) -> bool) {
        if !self.until_says(ECHO, shows).await {
            tracing::debug!("a change is not seen in this node's copy of the records yet");
        }
    }

    /// All volumes, by name.
    pub(super) fn volume_views(&self) -> Vec<VolumeView> {
        let mut views: Vec<VolumeView> = self.records().iter().map(|record| self.view(record)).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// The store, asked just now, but for no longer than `patience`; one that is known to be away is not waited for.
    pub(super) async fn store_view(&self, patience: Duration) -> StoreView {
        let asked = Instant::now();
        let waited = if self.store.access().away().is_some() {
            patience.min(GLANCE)
        } else {
            patience
        };
        let answer = timeout(waited, self.store.get(CLUSTER_KEY)).await;
        let took = asked.elapsed();
        let access = self.store.access();
        let (reachable, since, reason) = match (access.away(), &answer) {
            (Some((since, reason)), _) => (false, Some(since), Some(reason)),
            (None, Ok(Err(error))) => (true, access.answering(), Some(error.to_string())),
            (None, Err(_)) => (
                true,
                access.answering(),
                Some(format!("no answer within {}", humantime::format_duration(waited))),
            ),
            (None, Ok(Ok(_))) => (true, access.answering(), None),
        };
        StoreView {
            name: self.store.name(),
            shared: self.store.capabilities().arbitrates,
            reachable,
            since,
            reason,
            latency_ms: matches!(answer, Ok(Ok(_))).then(|| (took.as_secs_f64() * 1e6).round() / 1e3),
            copy_as_of: self.catalogue.freshness().as_of,
            members: Vec::new(),
            members_unknown: None,
        }
    }

    /// Number of nodes by state.
    pub(super) fn nodes_by_state(&self, freshness: &Freshness) -> BTreeMap<String, usize> {
        self.catalogue.read(|contents| {
            let mut states = BTreeMap::new();
            for node in contents.nodes() {
                let state = Standing::of(contents, freshness, &node).state;
                *states.entry(state).or_default() += 1;
            }
            states
        })
    }

    /// The state of this node, as the others see it.
    pub(super) fn own_state(&self, freshness: &Freshness) -> String {
        let own = |contents: &Contents| {
            let node = contents.nodes().find(|node| node.record.id == self.node)?;
            Some(Standing::of(contents, freshness, &node).state)
        };
        self.catalogue.read(own).unwrap_or_else(|| "unknown".to_owned())
    }

    /// What is wrong with the store.
    pub(super) fn store_problem(&self, store: &StoreView) -> Option<String> {
        if let Some(warning) = self.catalogue.freshness().warning() {
            return Some(format!("{warning} ({}); mounted volumes go on", store.name));
        }
        let reason = store.reason.as_ref()?;
        Some(if store.reachable {
            format!(
                "the store ({}) is slow or refuses: {reason}; `bulkhead store status` shows its servers",
                store.name
            )
        } else {
            format!(
                "the store ({}) cannot be reached: {reason}; mounted volumes go on, what is to be changed has to wait",
                store.name
            )
        })
    }

    /// What is wrong with this node.
    pub(super) fn node_problems(&self, store: &StoreView, pools: &[PoolView]) -> Vec<String> {
        let mut problems = Vec::new();
        if store.reachable && !self.membership.is_alive() {
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
        problems.extend(self.outlived_volumes());
        problems.extend(self.strange.lock().iter().cloned());
        problems.extend(self.surface.api_trouble.lock().clone());
        problems
    }

    /// What is wrong with other nodes, volumes and records.
    pub(super) fn cluster_problems(&self, freshness: &Freshness, volumes: &[VolumeView]) -> Vec<String> {
        let (nodes, faults) = self.catalogue.read(|contents| {
            let others = contents.nodes().filter(|node| node.record.id != self.node);
            let nodes: Vec<String> = others
                .filter_map(|node| {
                    let standing = Standing::of(contents, freshness, &node);
                    let since = standing.since.map(since_words).unwrap_or_default();
                    let said = format!(
                        "node {} is {}{since}: {}",
                        node.record.name, standing.state, standing.status
                    );
                    (!standing.healthy).then_some(said)
                })
                .collect();
            let faults: Vec<String> = contents.faults().map(ToString::to_string).collect();
            (nodes, faults)
        });
        let ill = volumes.iter().filter(|volume| !volume.healthy);
        let ill = ill.map(|volume| format!("volume {:?}: {}", volume.name, volume.status));
        let mut problems = abridged(nodes, "nodes", "bulkhead node list");
        problems.extend(abridged(ill.collect(), "volumes", "bulkhead volume list"));
        problems.extend(faults);
        problems
    }
}

/// ` since 2026-11-23T07:12:03Z`.
fn since_words(since: std::time::SystemTime) -> String {
    format!(" since {}", humantime::format_rfc3339_seconds(since))
}

/// The first of them, and how many more there are.
fn abridged(mut problems: Vec<String>, what: &str, command: &str) -> Vec<String> {
    if problems.len() > LISTED {
        let more = problems.len() - LISTED;
        problems.truncate(LISTED);
        problems.push(format!(
            "{more} more {what} need attention; `{command}` shows them"
        ));
    }
    problems
}

/// Number of volumes by state.
pub(super) fn by_state(volumes: &[VolumeView]) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for volume in volumes {
        *states.entry(volume.state.clone()).or_default() += 1;
    }
    states
}

fn capacity(contents: &Contents) -> CapacityView {
    let load = Load::of(contents);
    let mut all = CapacityView::default();
    for pool in contents.pools() {
        let promised = load.promised.get(&pool.id).copied().unwrap_or(0);
        all.pools += 1;
        all.capacity = all.capacity.saturating_add(pool.capacity);
        all.free = all.free.saturating_add(pool.free);
        all.promised = all.promised.saturating_add(promised);
        all.promisable = all.promisable.saturating_add(PlacedPool::of(pool).promisable());
    }
    all
}

fn member_view(member: Member) -> StoreMemberView {
    StoreMemberView {
        name: member.name,
        address: member.address,
        version: member.version,
        leader: member.leader,
        size: member.size,
        trouble: member.trouble,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_problems_of_one_kind_fit_on_a_screen() {
        let few: Vec<String> = (0..LISTED).map(|n| format!("v{n}")).collect();
        assert_eq!(abridged(few.clone(), "volumes", "c"), few);
        let many = (0..LISTED + 5).map(|n| format!("v{n}")).collect();
        let shown = abridged(many, "volumes", "bulkhead volume list");
        assert_eq!(shown.len(), LISTED + 1);
        assert!(shown[LISTED].contains("5 more volumes") && shown[LISTED].contains("`bulkhead volume list`"));
    }
}
