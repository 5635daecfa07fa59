//! The engine's pools as the daemon uses them: what was last seen of each is kept, so that no answer to Docker waits for
//! a disk. Whoever is about to use a pool looks again first.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_cluster::schema::{Extra, IoPriority, Medium, PoolRecord, PoolState as RecordState};
use bulkhead_engine::disk;
use bulkhead_engine::ids::{NodeId, PoolId};
use bulkhead_engine::pool::{
    Medium as EngineMedium, PoolError, PoolInfo, PoolOwner, PoolSpec, PoolState, Pools as EnginePools,
    Priority, Removal,
};
use parking_lot::RwLock;
use tokio::time::timeout;

use super::context::blocking;
use crate::service::{PoolRequest, PoolView, ServiceError};

/// How long a look at all pools may hold up an answer; then what was seen before is shown.
const LOOK: Duration = Duration::from_secs(2);
/// How long attaching a pool again may take; it goes on, but the other pools and volumes have their turn.
const RETRY: Duration = Duration::from_secs(20);
/// Directory of the replicas in a pool.
pub(super) const REPLICAS: &str = "replicas";

/// The pools of this node.
#[derive(Clone)]
pub(super) struct Pools {
    engine: Arc<EnginePools>,
    seen: Arc<RwLock<Vec<Seen>>>,
}

#[derive(Clone)]
struct Seen {
    info: PoolInfo,
    /// Where its replicas lie, if it is there.
    replicas: Option<PathBuf>,
}

impl Pools {
    /// Attaches all pools. One that is not available does not keep the others from being used.
    pub(super) async fn open(state_dir: PathBuf, owner: PoolOwner) -> anyhow::Result<Self> {
        let engine = tokio::task::spawn_blocking(move || {
            let engine = EnginePools::open(&state_dir, owner)?;
            for pool in engine.list() {
                sweep(&engine, pool.id);
            }
            Ok::<_, PoolError>(engine)
        });
        let engine = engine.await??;
        let pools = Self {
            engine: Arc::new(engine),
            seen: Arc::default(),
        };
        pools.look().await;
        Ok(pools)
    }

    /// Looks at all pools; gives up waiting, not looking, after a while.
    pub(super) async fn look(&self) {
        let pools = self.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let seen = pools.engine.list().into_iter().map(|info| Seen {
                replicas: pools.engine.dir(info.id).ok().map(|dir| dir.join(REPLICAS)),
                info,
            });
            let seen = seen.collect();
            *pools.seen.write() = seen;
        });
        if timeout(LOOK, looking).await.is_err() {
            tracing::warn!("a pool does not answer");
        }
    }

    /// Tries again to attach the pools that were not available.
    pub(super) async fn retry(&self) {
        let failed = |seen: &&Seen| matches!(seen.info.state, PoolState::Failed { .. });
        let failed: Vec<PoolId> = self
            .seen
            .read()
            .iter()
            .filter(failed)
            .map(|seen| seen.info.id)
            .collect();
        for id in failed {
            let engine = self.engine.clone();
            let retried = tokio::task::spawn_blocking(move || {
                if engine.retry(id).is_ok_and(|info| info.state == PoolState::Ready) {
                    tracing::info!(pool = %id, "it is available again");
                    sweep(&engine, id);
                }
            });
            match timeout(RETRY, retried).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(pool = %id, %error, "to attach it again broke off"),
                Err(_) => tracing::warn!(pool = %id, "its disk does not answer"),
            }
        }
        self.look().await;
    }

    /// Where the replicas of a pool lie, as last seen. Asks nobody.
    pub(super) fn replicas(&self, id: PoolId) -> Option<PathBuf> {
        self.seen
            .read()
            .iter()
            .find(|seen| seen.info.id == id)?
            .replicas
            .clone()
    }

    /// Whether there is a pool of this id, as last seen.
    pub(super) fn is_known(&self, id: PoolId) -> bool {
        self.seen.read().iter().any(|seen| seen.info.id == id)
    }

    /// Why a pool cannot be used, if so, as last seen.
    pub(super) fn failure(&self, id: PoolId) -> Option<String> {
        let seen = self.seen.read();
        match &seen.iter().find(|seen| seen.info.id == id)?.info.state {
            PoolState::Failed { reason } => Some(reason.clone()),
            PoolState::Ready => None,
        }
    }

    /// Where the replicas lie of all pools that are there, as last seen.
    pub(super) fn all_replicas(&self) -> Vec<(PoolId, PathBuf)> {
        let seen = self.seen.read();
        let there = seen
            .iter()
            .filter_map(|seen| Some((seen.info.id, seen.replicas.clone()?)));
        there.collect()
    }

    /// Makes sure that a pool is there before something is written into it.
    pub(super) async fn check(&self, id: PoolId) -> Result<(), ServiceError> {
        let engine = self.engine.clone();
        let looking = blocking(move || engine.dir(id).map(drop).map_err(|error| refused(&error)));
        timeout(LOOK, looking).await.unwrap_or_else(|_| {
            Err(ServiceError::Unavailable(format!(
                "pool {id} does not answer; `bulkhead pool list` shows what is wrong with it"
            )))
        })
    }

    /// The pools as placement needs them.
    pub(super) async fn records(&self, node: NodeId, overcommit_percent: u32) -> Vec<PoolRecord> {
        self.look().await;
        let record = |seen: &Seen| {
            let usage = seen.info.usage.unwrap_or_default();
            PoolRecord {
                id: seen.info.id,
                node,
                medium: match seen.info.medium {
                    EngineMedium::Ssd => Medium::Solid,
                    EngineMedium::Rotational => Medium::Rotational,
                    EngineMedium::Unknown => Medium::Unknown,
                },
                priority: match seen.info.priority {
                    Priority::High => IoPriority::High,
                    Priority::Medium => IoPriority::Medium,
                    Priority::Low => IoPriority::Low,
                },
                capacity: usage.capacity,
                free: usage.free,
                overcommit_percent,
                state: match seen.info.state {
                    PoolState::Ready => RecordState::Ok,
                    PoolState::Failed { .. } => RecordState::Down,
                },
                extra: Extra::new(),
            }
        };
        self.seen.read().iter().map(record).collect()
    }

    /// The pools as people see them; what is promised of them the caller fills in.
    pub(super) async fn views(&self) -> Vec<PoolView> {
        self.look().await;
        self.seen.read().iter().map(view).collect()
    }

    /// Makes a pool.
    pub(super) async fn add(&self, request: &PoolRequest) -> Result<PoolId, ServiceError> {
        let spec = PoolSpec {
            path: request.device.clone(),
            size: request.size,
            priority: request.priority.map(|priority| match priority {
                IoPriority::High => Priority::High,
                IoPriority::Medium => Priority::Medium,
                IoPriority::Low => Priority::Low,
            }),
        };
        let engine = self.engine.clone();
        let added = blocking(move || engine.add(&spec).map_err(|error| refused(&error))).await?;
        tracing::info!(pool = %added.id, path = %added.path.display(), "a pool is ready");
        self.look().await;
        Ok(added.id)
    }

    /// Takes a pool out of use; a file stays where it is. One whose disk is gone is only struck off.
    pub(super) async fn remove(&self, id: PoolId) -> Result<(), ServiceError> {
        let engine = self.engine.clone();
        let removed = move || match engine.get(id)?.state {
            PoolState::Ready => engine.remove(id, Removal::Keep),
            PoolState::Failed { .. } => engine.forget(id),
        };
        blocking(move || removed().map_err(|error| refused(&error))).await?;
        tracing::info!(pool = %id, "a pool is taken out of use");
        self.look().await;
        Ok(())
    }

    /// Unmounts all of them, for the end of the daemon.
    pub(super) async fn close(&self) {
        let engine = self.engine.clone();
        let errors = tokio::task::spawn_blocking(move || engine.close()).await;
        for error in errors.unwrap_or_default() {
            tracing::warn!(%error, "a pool stays mounted");
        }
    }
}

/// Takes away what a crash left half-made or half-removed in a pool that has just been attached.
fn sweep(engine: &EnginePools, id: PoolId) {
    let Ok(dir) = engine.dir(id) else {
        return;
    };
    match disk::sweep(&dir.join(REPLICAS)) {
        Ok(0) => {}
        Ok(swept) => tracing::info!(pool = %id, swept, "took away what a crash had left half-done"),
        Err(error) => tracing::warn!(pool = %id, %error, "what a crash left half-done is still there"),
    }
}

fn view(seen: &Seen) -> PoolView {
    let usage = seen.info.usage.unwrap_or_default();
    let (healthy, status) = match &seen.info.state {
        PoolState::Ready => (true, "ok".to_owned()),
        PoolState::Failed { reason } => (false, format!("down: {reason}")),
    };
    PoolView {
        id: seen.info.id.to_string(),
        device: seen.info.path.clone(),
        medium: seen.info.medium.to_string(),
        priority: seen.info.priority.to_string(),
        capacity: usage.capacity,
        promised: 0,
        used: usage.used,
        free: usage.free,
        replicas: 0,
        healthy,
        status,
    }
}

fn refused(error: &PoolError) -> ServiceError {
    let message = error.to_string();
    match error {
        PoolError::Unknown(_) => ServiceError::NoSuch(message),
        PoolError::Missing(_)
        | PoolError::Kind(_)
        | PoolError::SizeOfExisting { .. }
        | PoolError::TooSmall { .. } => ServiceError::Invalid(message),
        PoolError::Occupied { .. }
        | PoolError::InUse { .. }
        | PoolError::Foreign { .. }
        | PoolError::AddedAlready { .. }
        | PoolError::NotEmpty { .. } => ServiceError::Busy(message),
        _ => ServiceError::Failed(message),
    }
}
