//! Replicas leave, come back and are replaced: the changes of the record that a primary asks for (replication.md,
//! sections 5 and 7). Only the holder of the record's attachment and epoch may; the last member stays.

use bulkhead_engine::ids::{Epoch, NodeId, ReplicaId, Tick, VolumeId};

use super::change::Step;
use super::{Volume, VolumeError, Volumes, raise_epoch, replaced};
use crate::schema::{ChangeId, Placed, Replica, ReplicaState, VolumeRecord};

/// What a primary holds: proof that it is the one in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its attachment.
    pub attachment: ChangeId,
    /// The epoch that it serves with.
    pub epoch: Epoch,
}

/// One change of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaChange {
    /// A member is left behind with the settled tick.
    Leave {
        /// Which.
        replica: ReplicaId,
        /// The settled tick.
        settled: Tick,
    },
    /// A stale replica gets every write from now on.
    Rebuild {
        /// Which.
        replica: ReplicaId,
    },
    /// A rebuilt replica is a member.
    Join {
        /// Which.
        replica: ReplicaId,
    },
    /// A rebuild is given up.
    Abandon {
        /// Which.
        replica: ReplicaId,
    },
    /// A new replica, stale from the beginning.
    Add {
        /// Its identity.
        replica: ReplicaId,
        /// Where.
        place: Placed,
    },
    /// A replica that is no member is not wanted any more.
    Discard {
        /// Which.
        replica: ReplicaId,
    },
}

impl ReplicaChange {
    fn replica(&self) -> ReplicaId {
        match self {
            Self::Leave { replica, .. }
            | Self::Rebuild { replica }
            | Self::Join { replica }
            | Self::Abandon { replica }
            | Self::Add { replica, .. }
            | Self::Discard { replica } => *replica,
        }
    }
}

impl Volumes {
    /// Makes changes of replicas in one swap, as the primary that holds the volume. The epoch is raised by one if the
    /// member set changes. `change` is the caller's own id: the same again, when an answer was lost, gives the same
    /// outcome and not a second change.
    ///
    /// [`VolumeError::Replaced`]: this primary must stop serving.
    pub async fn change_replicas(
        &self,
        id: VolumeId,
        held: Held,
        change: ChangeId,
        wanted: &[ReplicaChange],
    ) -> Result<Volume, VolumeError> {
        self.change_replicas_by(id, held, change, |_| wanted.to_vec())
            .await
    }

    /// The same with changes that are decided by the record as it is found when they are made: what somebody else has done
    /// meanwhile is not done twice.
    pub async fn change_replicas_by(
        &self,
        id: VolumeId,
        held: Held,
        change: ChangeId,
        wanted: impl Fn(&VolumeRecord) -> Vec<ReplicaChange> + Send + Sync,
    ) -> Result<Volume, VolumeError> {
        let decide = |volume: &VolumeRecord| {
            if !volume.is_attached_as(held.attachment) || volume.epoch != held.epoch {
                return Err(replaced(volume, held.epoch));
            }
            match wanted(volume) {
                none if none.is_empty() => Ok(Step::Settled),
                some => apply(volume, &some).map(Step::write),
            }
        };
        let done = self.change(id, change, decide).await?;
        let done = done.ok_or_else(|| VolumeError::NoSuch(id.to_string()))?;
        // Made, but someone took the volume over between the swap and our reading of it.
        if !done.is_attached_as(held.attachment) {
            return Err(replaced(&done, held.epoch));
        }
        Ok(done)
    }

    /// A member leaves a volume that nobody has, because there are more than asked for. `known` is the volume as it was judged
    /// by: it has to be so still. The last member stays.
    pub async fn drop_member(&self, known: &Volume, replica: ReplicaId) -> Result<Volume, VolumeError> {
        let settled = Tick::ZERO;
        let gone = [
            ReplicaChange::Leave { replica, settled },
            ReplicaChange::Discard { replica },
        ];
        let decide = |volume: &VolumeRecord| {
            let same = volume.primary.is_none()
                && volume.state == known.state
                && volume.epoch == known.epoch
                && volume.replicas == known.replicas;
            if !same {
                return Err(VolumeError::Busy(volume.name.clone()));
            }
            apply(volume, &gone).map(Step::write)
        };
        let done = self
            .change_known(known.id, Some(known), ChangeId::random(), decide)
            .await?;
        done.ok_or_else(|| VolumeError::NoSuch(known.id.to_string()))
    }

    /// A node has removed a replica that was not wanted any more.
    pub async fn replica_removed(
        &self,
        id: VolumeId,
        node: NodeId,
        replica: ReplicaId,
    ) -> Result<Option<Volume>, VolumeError> {
        self.change(id, ChangeId::random(), |volume| {
            let Some(found) = volume.replica(replica) else {
                return Ok(Step::Settled);
            };
            if found.node != node || found.state != ReplicaState::Removing {
                return Err(VolumeError::Replica {
                    volume: volume.name.clone(),
                    replica,
                    reason: "is still wanted, and must not be removed",
                });
            }
            let mut record = volume.clone();
            record.replicas.retain(|other| other.id != replica);
            Ok(Step::write(record))
        })
        .await
    }
}

/// The record after the changes.
fn apply(volume: &VolumeRecord, wanted: &[ReplicaChange]) -> Result<VolumeRecord, VolumeError> {
    let mut record = volume.clone();
    let before: Vec<ReplicaId> = volume.members().map(|replica| replica.id).collect();
    for change in wanted {
        let refuse = |reason| VolumeError::Replica {
            volume: volume.name.clone(),
            replica: change.replica(),
            reason,
        };
        if let ReplicaChange::Add { replica, place } = *change {
            if record
                .replicas
                .iter()
                .any(|other| other.id == replica || other.node == place.node)
            {
                return Err(refuse("cannot be added: its node has one already"));
            }
            let state = ReplicaState::Stale { tick: Tick::ZERO };
            record
                .replicas
                .push(Replica::new(replica, place.node, place.pool, state));
            continue;
        }
        let found = record
            .replicas
            .iter_mut()
            .find(|replica| replica.id == change.replica());
        let found = found.ok_or_else(|| refuse("is not in the record"))?;
        found.state = match (*change, found.state) {
            (ReplicaChange::Leave { settled, .. }, ReplicaState::Member) => {
                ReplicaState::Stale { tick: settled }
            }
            (ReplicaChange::Rebuild { .. }, ReplicaState::Stale { tick }) => {
                ReplicaState::Rebuilding { tick }
            }
            (ReplicaChange::Join { .. }, ReplicaState::Rebuilding { .. }) if found.made => {
                ReplicaState::Member
            }
            (ReplicaChange::Abandon { .. }, ReplicaState::Rebuilding { tick }) => {
                ReplicaState::Stale { tick }
            }
            (ReplicaChange::Discard { .. }, ReplicaState::Member) => {
                return Err(refuse("is in sync, and must leave before it is discarded"));
            }
            (ReplicaChange::Discard { .. }, _) => {
                // What was wrong with it is no reason to leave its files.
                found.trouble = None;
                ReplicaState::Removing
            }
            (ReplicaChange::Leave { .. }, _) => return Err(refuse("is not in sync, and cannot leave")),
            (ReplicaChange::Rebuild { .. }, _) => return Err(refuse("is not stale, and cannot be rebuilt")),
            (ReplicaChange::Join { .. } | ReplicaChange::Abandon { .. }, _) => {
                return Err(refuse("is not being rebuilt"));
            }
            (ReplicaChange::Add { .. }, state) => state,
        };
    }
    let after: Vec<ReplicaId> = record.members().map(|replica| replica.id).collect();
    if after.is_empty() {
        return Err(VolumeError::LastMember {
            volume: volume.name.clone(),
            replica: before.first().copied().unwrap_or(ReplicaId::from_u128(0)),
        });
    }
    if after != before {
        raise_epoch(&mut record)?;
    }
    Ok(record)
}
