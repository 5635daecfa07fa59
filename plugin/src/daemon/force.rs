//! The explicit last resort: one replica of a volume goes on alone because a person has said so, having been told in
//! figures what that may lose. Runs on the node that has the replica, so that its files are looked at before anything is
//! changed; changes nothing without the word for it, and nothing while the volume is attached on a node that lives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bulkhead_cluster::schema::{ChangeId, Replica, ReplicaState, VolumeRecord, VolumeState};
use bulkhead_cluster::volumes::{Force, Volume as Stored};
use bulkhead_engine::disk::{self, Inspection};
use bulkhead_engine::ids::{NodeId, Tick};

use super::context::{Daemon, blocking, once_unlocked, volume_failed};
use super::members::MIN_ID;
use super::redundancy::replica_word;
use crate::nearest::no_such;
use crate::options::format_size;
use crate::service::{
    ForceRequest, ForceView, RepairService, ReplicaDiskView, ServiceError, VerifyRequest, VerifyView,
};

/// How long a failed replica may take to be closed before it is accepted.
const CLOSING: Duration = Duration::from_secs(5);

#[async_trait]
impl RepairService for Arc<Daemon> {
    async fn force_primary(&self, name: &str, request: &ForceRequest) -> Result<ForceView, ServiceError> {
        self.force_volume(name, request).await
    }

    async fn start_verify(&self, name: &str, request: &VerifyRequest) -> Result<VerifyView, ServiceError> {
        self.begin_verify(name, request).await
    }

    async fn verify_status(&self, name: &str) -> Result<VerifyView, ServiceError> {
        self.verify_view(name).await
    }

    async fn stop_verify(&self, name: &str) -> Result<(), ServiceError> {
        self.end_verify(name).await
    }
}

impl Daemon {
    async fn force_volume(
        self: &Arc<Self>,
        name: &str,
        request: &ForceRequest,
    ) -> Result<ForceView, ServiceError> {
        let patience = self.config.timeout.call.duration().mul_f32(0.8);
        let _guard = self.lock(name, "being forced", patience).await?;
        if self.attached(name).is_some() {
            return Err(ServiceError::Busy(format!(
                "volume {name:?} is attached on this node ({}) and served; nothing of it can be forced. Stop what uses it first",
                self.node_name
            )));
        }
        let volume = self.find(name).await?;
        if volume.state != VolumeState::Ready {
            return Err(ServiceError::Busy(format!(
                "volume {name:?} is still being created; no replica of it can be forced"
            )));
        }
        self.end_upkeep(volume.id).await;
        let chosen = self.chosen(&volume, &request.replica)?;
        let _replica = self.replica_lock(volume.id, "being forced").await?;
        self.pools.check(chosen.pool).await?;
        let dir = self.replica_dir(&volume, chosen.pool)?;
        let looked = dir.clone();
        let found =
            blocking(move || disk::inspect(&looked).map_err(|error| ServiceError::Failed(error.to_string())))
                .await?;
        if found.superblock.identity != self.identity_of(&volume, chosen.id) {
            return Err(ServiceError::Failed(format!(
                "{} holds replica {} of volume {}, not the one that the record of volume {name:?} names; it is left untouched",
                dir.display(),
                found.superblock.identity.replica,
                found.superblock.identity.volume
            )));
        }
        let mut view = self.force_view(&volume, &chosen, ReplicaDiskView::of(&dir, &found));
        self.needs_force(&volume, &chosen, &found)?;
        if !request.accept_data_loss {
            return Ok(view);
        }
        let forced = self.change_record(&volume, &chosen, &found).await?;
        view.new_epoch = Some(forced.epoch.0);
        tracing::warn!(
            volume = name,
            replica = %chosen.id,
            epoch = %forced.epoch,
            losses = ?view.losses,
            "this replica goes on alone, because a person has said so"
        );
        if found.superblock.failed.is_some() {
            // After the record: until then nobody may serve it.
            self.accept(&volume, &chosen).await?;
        }
        self.failures.lock().remove(&volume.id);
        Ok(view)
    }

    /// The replica that is meant, which has to be on this node.
    fn chosen(&self, volume: &VolumeRecord, meant: &str) -> Result<Replica, ServiceError> {
        let chosen = self.replica_meant(volume, meant)?;
        if chosen.node == self.node {
            return Ok(chosen);
        }
        Err(ServiceError::Invalid(format!(
            "that replica of volume {:?} lies on node {}, where its files can be looked at before anything is given up; run the command there",
            volume.name,
            self.name_of(chosen.node)
        )))
    }

    /// The replica of a volume that is meant by the name of its node, an id, or the beginning of an id.
    pub(super) fn replica_meant(&self, volume: &VolumeRecord, meant: &str) -> Result<Replica, ServiceError> {
        let is_meant = |replica: &&Replica| {
            let id = replica.id.to_string();
            self.name_of(replica.node) == meant
                || replica.node.to_string() == meant
                || (meant.len() >= MIN_ID && id.starts_with(meant))
        };
        let wanted = |replica: &&Replica| replica.state != ReplicaState::Removing;
        let mut fitting = volume.replicas.iter().filter(wanted).filter(is_meant);
        let chosen = match (fitting.next(), fitting.next()) {
            (Some(chosen), None) => chosen,
            (Some(_), Some(_)) => {
                return Err(ServiceError::Invalid(format!(
                    "several replicas of volume {:?} are meant by {meant:?}; write the whole id",
                    volume.name
                )));
            }
            (None, _) => {
                let nodes: Vec<String> = volume
                    .replicas
                    .iter()
                    .filter(wanted)
                    .map(|replica| self.name_of(replica.node))
                    .collect();
                let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
                let command = format!("bulkhead volume inspect {}", volume.name);
                return Err(ServiceError::NoSuch(no_such(
                    &format!("replica of volume {:?} on", volume.name),
                    meant,
                    &nodes,
                    &command,
                )));
            }
        };
        Ok(chosen.clone())
    }

    /// Refuses what needs no force: it would lose something for nothing.
    fn needs_force(
        &self,
        volume: &VolumeRecord,
        chosen: &Replica,
        found: &Inspection,
    ) -> Result<(), ServiceError> {
        let sound = chosen.state == ReplicaState::Member
            && found.superblock.failed.is_none()
            && found.superblock.epoch <= volume.epoch;
        if !sound {
            return Ok(());
        }
        Err(ServiceError::Conflict(format!(
            "the replica of volume {:?} on this node ({}) is in sync and sound: nothing has to be forced. Mount the volume; members that cannot be reached are left behind by themselves",
            volume.name, self.node_name
        )))
    }

    async fn change_record(
        self: &Arc<Self>,
        volume: &Stored,
        chosen: &Replica,
        found: &Inspection,
    ) -> Result<Stored, ServiceError> {
        let held_here = volume
            .primary
            .as_ref()
            .is_some_and(|primary| primary.node == self.node);
        if held_here {
            // Not attached here, so an earlier run of this daemon left it so.
            let released = self.volumes.release(volume.id, self.node, None).await;
            released.map_err(|error| volume_failed(&error))?;
        }
        let wish = Force {
            replica: chosen.id,
            node: self.node,
            seen: found.superblock.epoch,
            change: ChangeId::random(),
        };
        let forced = self.volumes.force(volume.id, &wish).await;
        let forced = forced.map_err(|error| volume_failed(&error))?;
        self.catalogue.note(&forced);
        Ok(forced)
    }

    /// Takes a replica that has failed as it is.
    async fn accept(&self, volume: &VolumeRecord, chosen: &Replica) -> Result<(), ServiceError> {
        let dir = self.replica_dir(volume, chosen.pool)?;
        let identity = self.identity_of(volume, chosen.id);
        let (engine, id, name) = (self.engine.clone(), chosen.id, volume.name.clone());
        let closed = self.places.close(id);
        blocking(move || {
            let _closed = closed;
            let failed = |error: &dyn std::fmt::Display| {
                ServiceError::Failed(format!(
                    "volume {name:?}: the record is changed, but the mark of the failure is still on the replica: {error}. Run the command again"
                ))
            };
            // The engine forgets it too: the disk may not have taken the note.
            engine
                .pardon_replica(id, Instant::now() + CLOSING)
                .map_err(|error| failed(&error))?;
            once_unlocked(
                || disk::accept_failed(&dir, &identity),
                |error| matches!(error, disk::DiskError::InUse(_)),
            )
            .map_err(|error| failed(&error))?;
            Ok(())
        })
        .await
    }

    fn force_view(&self, volume: &VolumeRecord, chosen: &Replica, disk: ReplicaDiskView) -> ForceView {
        let is_alive = |node: NodeId| self.catalogue.read(|contents| contents.is_alive(node));
        let others = volume
            .replicas
            .iter()
            .filter(|replica| replica.id != chosen.id && replica.state != ReplicaState::Removing)
            .map(|replica| {
                let node = self.name_of(replica.node);
                let state = if is_alive(replica.node) {
                    "lives"
                } else {
                    "gives no sign of life"
                };
                let newer = if replica.state == ReplicaState::Member && is_alive(replica.node) {
                    "; mount the volume instead, unless that one has failed"
                } else {
                    ""
                };
                format!(
                    "on {node}: {}; {node} {state}{newer}. What it holds is removed as soon as {node} can, and made anew from this one",
                    replica_word(replica)
                )
            })
            .collect();
        ForceView {
            volume: volume.name.clone(),
            node: self.name_of(chosen.node),
            standing: replica_word(chosen).to_owned(),
            since: chosen.since.map(Into::into),
            epoch: volume.epoch.0,
            new_epoch: None,
            losses: losses(volume, chosen, &disk),
            others,
            disk,
        }
    }
}

/// What may be lost if a replica goes on alone, one sentence each.
fn losses(volume: &VolumeRecord, chosen: &Replica, disk: &ReplicaDiskView) -> Vec<String> {
    let mut losses = Vec::new();
    let size = format_size(disk.size);
    let epochs = |tick: Tick| volume.epoch.0.saturating_sub(tick.epoch().0);
    let behind = |tick: Tick| {
        format!(
            "every write acknowledged after tick {tick}: the volume has gone through {} epochs since (it is at {}). How much was written only the others know; at most the whole volume, {size}",
            epochs(tick),
            volume.epoch
        )
    };
    match chosen.state {
        ReplicaState::Stale { tick: Tick::ZERO } | ReplicaState::Rebuilding { tick: Tick::ZERO } => {
            losses.push(format!(
                "the record does not say up to when this replica holds every write, and it may never have been complete: it holds {} of {size}, and the rest reads as zeroes",
                format_size(disk.bytes(disk.chunks_written))
            ));
        }
        ReplicaState::Stale { tick } => losses.push(behind(tick)),
        ReplicaState::Rebuilding { tick } => {
            losses.push(behind(tick));
            losses.push(format!(
                "its rebuild was under way: {} had not been copied, and are older than the rest, so that files may be torn; check the file system",
                format_size(disk.bytes(disk.chunks_suspect))
            ));
        }
        ReplicaState::Member | ReplicaState::Removing => {}
    }
    let unsettled = format_size(disk.bytes(disk.chunks_unsettled));
    if let Some(cause) = &disk.failed {
        losses.push(format!(
            "this replica has failed ({cause}): what was written after tick {} may be missing or damaged, {unsettled} in {} chunks; check the file system, and the disk (dmesg)",
            disk.durable, disk.chunks_unsettled
        ));
    } else if !disk.whole {
        losses.push(format!(
            "this node lost power, or its disk failed, while the replica was in use: writes after tick {} that were not flushed may be missing, {unsettled} in {} chunks",
            disk.durable, disk.chunks_unsettled
        ));
    }
    if disk.epoch > volume.epoch.0 {
        losses.push(format!(
            "the store knows an older state (epoch {}) than this disk (epoch {}): it was restored from an older copy, and another replica may be newer than this one",
            volume.epoch, disk.epoch
        ));
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_cluster::schema::VolumeSpec;
    use bulkhead_cluster::volumes::{NewVolume, Placed};
    use bulkhead_engine::format::{FailCause, ReplicaIdentity, Superblock};
    use bulkhead_engine::ids::{ClusterId, Epoch, PoolId};
    use std::path::Path;

    /// A volume at epoch 9 with one replica in this state, and that replica's disk.
    fn case(state: ReplicaState, change: impl FnOnce(&mut Inspection)) -> Vec<String> {
        let place = Placed {
            node: NodeId::from_u128(1),
            pool: PoolId::from_u128(1),
        };
        let new = NewVolume::new("v", VolumeSpec::new(1 << 30), &[place], NodeId::from_u128(1));
        let mut record = new.expect("sound").into_record();
        record.epoch = Epoch(9);
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().join("r");
        let identity = ReplicaIdentity {
            cluster: ClusterId::from_u128(1),
            volume: record.id,
            replica: record.replicas[0].id,
        };
        disk::create(&at, identity, record.geometry).expect("made");
        let mut found = disk::inspect(&at).expect("readable");
        found.superblock = Superblock {
            durable: Tick::new(Epoch(6), 3),
            ..found.superblock
        };
        change(&mut found);
        let chosen = Replica {
            state,
            ..record.replicas[0].clone()
        };
        losses(&record, &chosen, &ReplicaDiskView::of(Path::new("/p"), &found))
    }

    #[test]
    fn what_may_be_lost_is_told_in_figures() {
        assert!(case(ReplicaState::Member, |_| {}).is_empty());

        let tick = Tick::new(Epoch(6), 4);
        let behind = case(ReplicaState::Stale { tick }, |_| {});
        assert_eq!(behind.len(), 1);
        assert!(
            behind[0].contains("after tick 6.4: the volume has gone through 3 epochs")
                && behind[0].contains("1 GiB"),
            "{behind:?}"
        );
        let torn = case(ReplicaState::Rebuilding { tick }, |found| {
            found.chunks_suspect = 16
        });
        assert!(torn[1].contains("1 MiB had not been copied"), "{torn:?}");

        let empty = case(ReplicaState::Stale { tick: Tick::ZERO }, |found| {
            found.chunks_written = 32
        });
        assert!(
            empty[0].contains("may never have been complete") && empty[0].contains("2 MiB of 1 GiB"),
            "{empty:?}"
        );
        let failed = case(ReplicaState::Member, |found| {
            found.superblock.failed = Some(FailCause::Sync);
            found.superblock.whole = false;
            found.chunks_unsettled = 3;
        });
        assert_eq!(failed.len(), 1);
        assert!(
            failed[0].contains("a sync failed")
                && failed[0].contains("after tick 6.3")
                && failed[0].contains("192 KiB in 3 chunks"),
            "{failed:?}"
        );
        let unflushed = case(ReplicaState::Member, |found| found.superblock.whole = false);
        assert!(unflushed[0].contains("lost power"), "{unflushed:?}");
        let restored = case(ReplicaState::Member, |found| found.superblock.epoch = Epoch(12));
        assert!(
            restored[0].contains("epoch 9") && restored[0].contains("epoch 12"),
            "{restored:?}"
        );
    }
}
