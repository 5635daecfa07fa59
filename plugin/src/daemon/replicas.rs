//! The files of this node's replicas: made as the records say, removed as the records say, and both reported. Works under
//! a lock of the volume's own, never under that of its name: whoever waits for a volume to be made holds that one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_cluster::schema::{Replica, ReplicaState, VolumeRecord, VolumeState};
use bulkhead_engine::disk::{self, DiskError};
use bulkhead_engine::format::ReplicaIdentity;
use bulkhead_engine::ids::{Epoch, PoolId, ReplicaId, VolumeId};

use super::context::{Daemon, blocking, once_unlocked, volume_failed};
use crate::locks::NameGuard;
use crate::service::ServiceError;

/// How long a disk may take to come to rest before a replica on it is removed.
const CLOSING: Duration = Duration::from_secs(5);
/// How long other work on the same replicas is waited for.
const TURN: Duration = Duration::from_secs(30);

impl Daemon {
    /// Makes the files of this node's replicas of a volume that are not there yet, and says so in the record, or what is in
    /// the way.
    pub(super) async fn make_replicas(self: &Arc<Self>, id: VolumeId) -> Result<(), ServiceError> {
        let turn = Arc::new(self.replica_lock(id, "being made").await?);
        let Some(volume) = self.catalogue.read(|contents| contents.by_id(id).cloned()) else {
            return Ok(());
        };
        let is_wanted = |replica: &&Replica| {
            !replica.made && replica.state != ReplicaState::Removing && volume.state != VolumeState::Deleting
        };
        let unmade: Vec<Replica> = volume.replicas_on(self.node).filter(is_wanted).cloned().collect();
        if unmade.is_empty() {
            return Ok(());
        }
        for replica in &unmade {
            if let Err(error) = self.make_files(&turn, &volume, replica).await {
                self.report_trouble(&volume, replica, Some(&error.to_string()))
                    .await;
                return Err(error);
            }
        }
        let made: Vec<ReplicaId> = unmade.iter().map(|replica| replica.id).collect();
        let reported = self
            .volumes
            .replicas_made(&volume, self.node, &made)
            .await
            .map_err(|error| volume_failed(&error))?;
        if let Some(reported) = &reported {
            self.catalogue.note(reported);
        }
        for replica in &unmade {
            let stays = reported.as_ref().is_some_and(|now| {
                now.state != VolumeState::Deleting
                    && now.replica(replica.id).is_some_and(|now| now.node == self.node)
            });
            if !stays && reported.is_none() {
                // Deleted meanwhile, by somebody who took what is not made for what need not be removed.
                self.remove_files(&turn, &volume, replica).await?;
            }
        }
        Ok(())
    }

    /// Makes the files of a replica of this node. Holds its turn until the disk has answered, whether or not anybody still
    /// waits for that.
    pub(super) async fn make_files(
        &self,
        turn: &Arc<NameGuard>,
        volume: &VolumeRecord,
        replica: &Replica,
    ) -> Result<(), ServiceError> {
        if let Some(old) = replica.replaces {
            // Of a history that was given up: the record names it, so that no other one is ever taken for it.
            let superseded = Replica {
                id: old,
                ..replica.clone()
            };
            self.remove_files(turn, volume, &superseded).await?;
        }
        self.pools.check(replica.pool).await?;
        let dir = self.replica_dir(volume, replica.pool)?;
        let identity = self.identity_of(volume, replica.id);
        let (geometry, name, node) = (volume.geometry, volume.name.clone(), self.node_name.clone());
        let turn = turn.clone();
        blocking(move || {
            let _turn = turn;
            match disk::create(&dir, identity, geometry) {
                Ok(()) => Ok(()),
                Err(DiskError::Exists(_)) if is_fresh(&dir, &identity) => Ok(()),
                Err(error) => Err(no_replica(&name, &node, &error)),
            }
        })
        .await
    }

    /// Removes this node's replicas of a volume that is being deleted, and those that are not wanted any more, and says so
    /// in the record, which goes with the last one.
    pub(super) async fn remove_replicas(self: &Arc<Self>, id: VolumeId) -> Result<(), ServiceError> {
        let turn = Arc::new(self.replica_lock(id, "being removed").await?);
        let Some(volume) = self.catalogue.read(|contents| contents.by_id(id).cloned()) else {
            return Ok(());
        };
        let deleting = volume.state == VolumeState::Deleting;
        let is_unwanted = |replica: &&Replica| deleting || replica.state == ReplicaState::Removing;
        let unwanted: Vec<Replica> = volume
            .replicas_on(self.node)
            .filter(is_unwanted)
            .cloned()
            .collect();
        for replica in &unwanted {
            if let Err(error) = self.remove_files(&turn, &volume, replica).await {
                self.report_trouble(&volume, replica, Some(&error.to_string()))
                    .await;
                return Err(error);
            }
        }
        if deleting {
            // Also if none was here: the last one may have gone without the record.
            let left = self
                .volumes
                .finish_delete(id, self.node)
                .await
                .map_err(|error| volume_failed(&error))?;
            if let Some(left) = left {
                self.catalogue.note(&left);
            }
            return Ok(());
        }
        for replica in &unwanted {
            let left = self
                .volumes
                .replica_removed(id, self.node, replica.id)
                .await
                .map_err(|error| volume_failed(&error))?;
            if let Some(left) = left {
                self.catalogue.note(&left);
            }
            tracing::info!(volume = volume.name, replica = %replica.id, "its replica here is removed");
        }
        Ok(())
    }

    /// Removes the files of a replica of this node; its turn as above.
    pub(super) async fn remove_files(
        &self,
        turn: &Arc<NameGuard>,
        volume: &VolumeRecord,
        replica: &Replica,
    ) -> Result<(), ServiceError> {
        self.pools.check(replica.pool).await?;
        let dir = self.replica_dir(volume, replica.pool)?;
        let identity = self.identity_of(volume, replica.id);
        let (engine, id, name) = (self.engine.clone(), replica.id, volume.name.clone());
        let epoch = volume.epoch;
        let (going, turn) = (self.places.close(id), turn.clone());
        blocking(move || {
            let (_going, _turn) = (going, turn);
            engine
                .close_replica(id, Instant::now() + CLOSING)
                .map_err(|error| ServiceError::Failed(format!("volume {name:?}: {error}")))?;
            match disk::inspect(&dir) {
                // The same directory may hold a newer replica of the same volume.
                Ok(found) if found.superblock.identity != identity => return Ok(()),
                // No replica hears of an epoch that was not in the record before.
                Ok(found) if found.superblock.epoch > epoch => {
                    return Err(ServiceError::Failed(format!(
                        "the data of volume {name:?} is not removed: its replica in {} has seen epoch {}, and the record in the store says {epoch}: the store was restored from an older copy; restore a newer one",
                        dir.display(),
                        found.superblock.epoch
                    )));
                }
                Err(error @ DiskError::Io { .. }) => {
                    return Err(ServiceError::Failed(format!(
                        "the data of volume {name:?} cannot be removed yet: {error}; it is tried again"
                    )));
                }
                Ok(_) | Err(_) => {}
            }
            once_unlocked(
                || disk::delete(&dir),
                |error| matches!(error, DiskError::InUse(_)),
            )
            .map(drop)
            .map_err(|error| {
                ServiceError::Failed(format!(
                    "the data of volume {name:?} cannot be removed yet: {error}; it is tried again"
                ))
            })
        })
        .await
    }

    pub(super) async fn report_trouble(
        &self,
        volume: &VolumeRecord,
        replica: &Replica,
        trouble: Option<&str>,
    ) {
        let told = self
            .volumes
            .replica_troubled(volume.id, self.node, replica.id, trouble)
            .await;
        match told {
            Ok(Some(volume)) => self.catalogue.note(&volume),
            Ok(None) => {}
            Err(error) => tracing::warn!(volume = volume.name, %error, "what is wrong here is not told yet"),
        }
    }

    /// Takes away replicas here that no record knows and that never held anything: left by a crash between the files and
    /// the report. What held data stays, whatever the records say, and is told of: the store may have been restored from
    /// an older copy.
    pub(super) async fn sweep_replicas(self: &Arc<Self>) {
        if self.catalogue.freshness().away.is_some() || !self.membership.is_alive() {
            return;
        }
        let mut strange = Vec::new();
        for (pool, replicas) in self.pools.all_replicas() {
            let listed = blocking(move || Ok(list(&replicas))).await.unwrap_or_default();
            for (id, dir) in listed {
                let known = self.catalogue.read(|contents| {
                    let volume = contents.by_id(id)?;
                    volume
                        .replicas_on(self.node)
                        .find(|replica| replica.pool == pool)?;
                    Some(())
                });
                if known.is_none()
                    && let Some(why) = self.sweep_one(id, pool, dir).await
                {
                    strange.push(why);
                }
            }
        }
        *self.strange.lock() = strange;
    }

    async fn sweep_one(self: &Arc<Self>, id: VolumeId, pool: PoolId, dir: PathBuf) -> Option<String> {
        let _guard = self.replica_lock(id, "being looked at").await.ok()?;
        // The store itself is asked: the catalogue may be behind.
        let found = self.volumes.by_id(id).await.ok()?;
        let known = found
            .as_ref()
            .is_some_and(|volume| volume.replicas_on(self.node).any(|replica| replica.pool == pool));
        if known {
            return None;
        }
        let cluster = self.cluster;
        let swept = blocking(move || {
            let shown = dir.display().to_string();
            match disk::inspect(&dir) {
                Ok(found)
                    if found.superblock.identity.cluster == cluster
                        && found.superblock.epoch == Epoch::ZERO =>
                {
                    disk::delete(&dir).map_err(|error| ServiceError::Failed(error.to_string()))?;
                    tracing::info!(volume = %id, "removed a replica that was never used and that no record knows");
                    Ok(None)
                }
                _ => Ok(Some(format!(
                    "{shown} holds a replica of volume {id} that no record knows; it is left untouched. If the store was restored from an older copy, restore a newer one; if not, remove the directory by hand"
                ))),
            }
        });
        swept.await.ok().flatten()
    }

    pub(super) async fn replica_lock(
        &self,
        id: VolumeId,
        operation: &'static str,
    ) -> Result<NameGuard, ServiceError> {
        self.replica_locks
            .lock(&id.to_string(), operation, TURN)
            .await
            .map_err(|by| ServiceError::Busy(format!("the replica of volume {id} on this node: {by}")))
    }

    pub(super) fn identity_of(&self, volume: &VolumeRecord, replica: ReplicaId) -> ReplicaIdentity {
        ReplicaIdentity {
            cluster: self.cluster,
            volume: volume.id,
            replica,
        }
    }

    /// Where a replica of a volume lies in a pool of this node.
    pub(super) fn replica_dir(&self, volume: &VolumeRecord, pool: PoolId) -> Result<PathBuf, ServiceError> {
        let replicas = self.pools.replicas(pool).ok_or_else(|| {
            ServiceError::Failed(format!(
                "volume {:?}: its pool {pool} on node {} is not there; `bulkhead pool list` there shows what is wrong with it",
                volume.name, self.node_name
            ))
        })?;
        Ok(replicas.join(volume.id.to_string()))
    }
}

/// Whether a replica of this identity is there that nobody has ever used.
fn is_fresh(dir: &std::path::Path, identity: &ReplicaIdentity) -> bool {
    disk::inspect(dir)
        .is_ok_and(|found| found.superblock.identity == *identity && found.superblock.epoch == Epoch::ZERO)
}

/// The replicas in a directory of a pool.
fn list(replicas: &std::path::Path) -> Vec<(VolumeId, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(replicas) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let id = entry.file_name().to_str()?.parse().ok()?;
            Some((id, entry.path()))
        })
        .collect()
}

fn no_replica(name: &str, node: &str, error: &DiskError) -> ServiceError {
    let message = format!("volume {name:?} gets no replica on node {node}: {error}");
    match error {
        DiskError::Io { source, .. } if disk::is_out_of_space(source) => ServiceError::NoSpace(message),
        _ => ServiceError::Failed(message),
    }
}
