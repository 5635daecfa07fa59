//! A pool of this node goes out of use: at once if nothing is in it, or once its replicas have been moved to other nodes. That it
//! is to go lies in the node's record, so that it holds through restarts, everywhere. Moves nothing itself: whoever holds a
//! volume sees to its replicas, as where a node is drained.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::nodes::NodeError;
use bulkhead_cluster::schema::{PoolRecord, PoolState, ReplicaState, Severity, VolumeState};
use bulkhead_cluster::volumes::Volume;
use bulkhead_engine::ids::{PoolId, ReplicaId};

use super::alerts::about;
use super::context::{Daemon, volume_failed};
use super::life::{fate, is_last_in_reach, refuse};
use super::members::node_failed;
use super::reconcile::every;
use crate::service::{RemovalView, ServiceError};

/// Between looks at whether a pool is empty.
const INTERVAL: Duration = Duration::from_secs(2);

/// Looks for as long as it is polled.
pub(super) async fn keep_up(daemon: Arc<Daemon>) {
    every(INTERVAL, || daemon.finish_removals()).await;
}

impl Daemon {
    /// This node's pools for the others, with what is wanted of them.
    pub(super) async fn pool_records(&self) -> Vec<PoolRecord> {
        let mut records = self.pools.records(self.node, self.config.pool.overcommit.0).await;
        let leaving = self.catalogue.read(|contents| self.leaving(contents));
        for record in &mut records {
            if record.state == PoolState::Ok && leaving.contains(&record.id) {
                record.state = PoolState::Draining;
            }
        }
        records
    }

    /// A pool of this node by its id.
    pub(super) fn own_pool(&self, id: &str) -> Result<PoolId, ServiceError> {
        let known = id.parse().ok().filter(|id| self.pools.is_known(*id));
        known.ok_or_else(|| {
            ServiceError::NoSuch(format!(
                "there is no pool {id:?} on this node; `bulkhead pool list` shows those that exist"
            ))
        })
    }

    /// Pools of this node that are to go.
    pub(super) fn leaving(&self, contents: &Contents) -> Vec<PoolId> {
        let mut nodes = contents.nodes();
        let ours = nodes.find(|node| node.record.id == self.node);
        ours.map(|node| node.record.leaving_pools.into_iter().collect())
            .unwrap_or_default()
    }

    fn is_leaving(&self, pool: PoolId) -> bool {
        self.catalogue
            .read(|contents| self.leaving(contents).contains(&pool))
    }

    /// Takes a pool out of use in which there is nothing, by the records in the store.
    pub(super) async fn remove_empty_pool(&self, pool: PoolId) -> Result<(), ServiceError> {
        let all = self.volumes.all().await;
        let all = all.map_err(|error| volume_failed(&error))?;
        let holds = |volume: &&Volume| volume.replicas.iter().any(|replica| replica.pool == pool);
        let stored: Vec<String> = all
            .iter()
            .filter(holds)
            .map(|volume| volume.name.clone())
            .collect();
        refuse(&stored, |names| {
            format!(
                "pool {pool} holds replicas of {} volume{} ({names}); delete them, or move them to other nodes first: `bulkhead pool remove {pool} --move`",
                stored.len(),
                if stored.len() == 1 { "" } else { "s" },
            )
        })?;
        self.pools.remove(pool).await?;
        self.membership.pools_changed.notify_one();
        self.set_leaving(pool, false).await
    }

    /// What is in a pool, and what becomes of it.
    pub(super) fn removal_view(&self, pool: PoolId) -> RemovalView {
        self.catalogue.read(|contents| {
            let mut view = contents.view();
            if let Some(pool) = view.pools.get_mut(&pool) {
                pool.usable = false;
            }
            let (mut left, mut moving) = (Vec::new(), 0);
            for volume in contents.volumes() {
                for replica in volume.replicas.iter().filter(|replica| replica.pool == pool) {
                    let (sentence, moves) = if volume.state == VolumeState::Deleting {
                        (format!("volume {}: it is being deleted", volume.name), true)
                    } else {
                        fate(contents, volume, replica, &mut view)
                    };
                    left.push(sentence);
                    moving += usize::from(moves);
                }
            }
            RemovalView {
                pool: pool.to_string(),
                leaving: self.leaving(contents).contains(&pool),
                left,
                moving,
            }
        })
    }

    /// Has a pool emptied and taken out of use; or only says what that would move.
    pub(super) async fn leave_pool(
        self: &Arc<Self>,
        pool: PoolId,
        dry_run: bool,
    ) -> Result<RemovalView, ServiceError> {
        if self.pools.failure(pool).is_some() {
            self.catalogue
                .read(|contents| self.refuse_last_copies(contents, pool))?;
        }
        let before = self.removal_view(pool);
        if dry_run || before.leaving {
            return Ok(before);
        }
        self.set_leaving(pool, true).await?;
        tracing::info!(%pool, "it is being emptied, to be taken out of use");
        self.happened(
            "pool-leaving",
            Severity::Info,
            about("pool", pool, &self.node_name),
            format!(
                "pool {pool} on node {} is being emptied, to be taken out of use",
                self.node_name
            ),
        );
        self.membership.pools_changed.notify_one();
        Ok(self.removal_view(pool))
    }

    /// A pool whose disk is gone can be read by nobody: what only it holds is lost with it.
    fn refuse_last_copies(&self, contents: &Contents, pool: PoolId) -> Result<(), ServiceError> {
        let only_here = |volume: &&Arc<Volume>| {
            volume.state != VolumeState::Deleting
                && volume.members().any(|replica| replica.pool == pool)
                && is_last_in_reach(contents, volume, self.node)
        };
        let lost: Vec<String> = contents
            .volumes()
            .filter(only_here)
            .map(|volume| volume.name.clone())
            .collect();
        refuse(&lost, |names| {
            format!(
                "pool {pool} cannot be given up: it is not there, and nobody else who lives has a replica in sync of {names}; their data would be lost. Bring its disk back; or delete those volumes, or let an older replica go on alone (`bulkhead volume force-primary`), first"
            )
        })
    }

    /// Calls off that a pool is emptied.
    pub(super) async fn keep_pool(self: &Arc<Self>, pool: PoolId) -> Result<(), ServiceError> {
        if !self.is_leaving(pool) {
            return Ok(());
        }
        self.set_leaving(pool, false).await?;
        self.membership.pools_changed.notify_one();
        self.happened(
            "pool-kept",
            Severity::Info,
            about("pool", pool, &self.node_name),
            format!(
                "pool {pool} on node {} is not emptied any more, and stays in use",
                self.node_name
            ),
        );
        Ok(())
    }

    /// Notes in the store whether a pool is to go.
    pub(super) async fn set_leaving(&self, pool: PoolId, leaving: bool) -> Result<(), ServiceError> {
        if self.is_leaving(pool) == leaving && !self.catalogue.freshness().from_disk {
            return Ok(());
        }
        let changed = self.nodes.update(self.node, |record| {
            if leaving {
                record.leaving_pools.insert(pool);
            } else {
                record.leaving_pools.remove(&pool);
            }
        });
        changed.await.map_err(|error: NodeError| node_failed(&error))?;
        self.until_known(|contents| self.leaving(contents).contains(&pool) == leaving)
            .await;
        Ok(())
    }

    /// What is empty by now goes out of use.
    async fn finish_removals(self: &Arc<Self>) {
        let freshness = self.catalogue.freshness();
        if freshness.away.is_some() || freshness.from_disk {
            return;
        }
        for pool in self.catalogue.read(|contents| self.leaving(contents)) {
            if self.pools.failure(pool).is_some() {
                self.give_up_replicas(pool).await;
            }
            let known = self.pools.is_known(pool);
            let empty = self.catalogue.read(|contents| {
                let mut replicas = contents.volumes().flat_map(|volume| &volume.replicas);
                !replicas.any(|replica| replica.pool == pool)
            });
            let done = match (known, empty) {
                (true, false) => continue,
                (true, true) => self.remove_empty_pool(pool).await,
                // It was removed, and the daemon ended before it was noted.
                (false, _) => self.set_leaving(pool, false).await,
            };
            match done {
                Ok(()) if known => self.happened(
                    "pool-removed",
                    Severity::Info,
                    about("pool", pool, &self.node_name),
                    format!("pool {pool} on node {} is empty and out of use", self.node_name),
                ),
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%pool, %error, "it is empty, and could not be taken out of use yet")
                }
            }
        }
    }

    /// What was to be removed from a disk that is gone counts as removed: nobody waits for it.
    async fn give_up_replicas(&self, pool: PoolId) {
        type Gone = (Arc<Volume>, Option<ReplicaId>);
        let gone: Vec<Gone> = self.catalogue.read(|contents| {
            let mut gone = Vec::new();
            for volume in contents.volumes() {
                let deleting = volume.state == VolumeState::Deleting;
                let here = volume.replicas.iter().filter(|replica| replica.pool == pool);
                gone.extend(
                    here.filter(|replica| deleting || replica.state == ReplicaState::Removing)
                        .map(|replica| (volume.clone(), (!deleting).then_some(replica.id))),
                );
            }
            gone
        });
        for (volume, replica) in gone {
            let done = match replica {
                Some(replica) => self.volumes.replica_removed(volume.id, self.node, replica).await,
                None => self.volumes.finish_delete(volume.id, self.node).await,
            };
            match done {
                Ok(Some(volume)) => self.catalogue.note(&volume),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(volume = volume.name, %error, "a replica on a disk that is gone is still in its record");
                }
            }
        }
    }
}
