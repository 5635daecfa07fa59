//! The explicit last resort (replication.md, P6): a person chooses the replica whose history goes on, and gives up what the
//! others may hold beyond it. Never pushes aside a node that lives, and never mixes two histories: every other
//! replica gets a new identity, and is made anew from nothing.

use bulkhead_engine::ids::{Epoch, NodeId, ReplicaId, Tick, VolumeId};
use uuid::Uuid;

use super::change::{Step, Write};
use super::{Volume, VolumeError, Volumes, raise_epoch};
use crate::schema::{ChangeId, Replica, ReplicaState, VolumeRecord, VolumeState};

/// The wish that one replica be the only member.
#[derive(Clone, Copy, Debug)]
pub struct Force {
    /// Which.
    pub replica: ReplicaId,
    /// The node that asks.
    pub node: NodeId,
    /// The newest epoch that is known of, from the replica's own disk: the record may be from an older copy of the store.
    pub seen: Epoch,
    /// The same again, when an answer was lost, makes no second change.
    pub change: ChangeId,
}

impl Volumes {
    /// Makes a replica the only member, with a new epoch that fences whoever served the volume before. Refused while it
    /// is attached on a node that lives, the asking one included.
    ///
    /// Stamps compare histories that share their past; those of a history that was given up must never be compared with
    /// those of the one that goes on. So the other replicas are not called stale: they are new ones in the same places.
    pub async fn force(&self, id: VolumeId, wish: &Force) -> Result<Volume, VolumeError> {
        let decide = |volume: &VolumeRecord| {
            if volume.state != VolumeState::Ready {
                return Err(VolumeError::State {
                    volume: volume.name.clone(),
                    state: volume.state,
                    remedy: "no replica of it can be forced",
                });
            }
            let holder = volume.primary.as_ref();
            if let Some(primary) = holder.filter(|primary| primary.node == wish.node) {
                return Err(VolumeError::Attached {
                    volume: volume.name.clone(),
                    node: "this one".to_owned(),
                    primary: Box::new(primary.clone()),
                });
            }
            Ok(Step::Write(Box::new(Write {
                if_dead: holder.map(|primary| primary.node),
                record: forced(volume, wish)?,
                remove: None,
            })))
        };
        let done = self.change(id, wish.change, decide).await?;
        done.ok_or_else(|| VolumeError::NoSuch(id.to_string()))
    }
}

fn forced(volume: &VolumeRecord, wish: &Force) -> Result<VolumeRecord, VolumeError> {
    let refuse = |reason| VolumeError::Replica {
        volume: volume.name.clone(),
        replica: wish.replica,
        reason,
    };
    let chosen = volume
        .replica(wish.replica)
        .ok_or_else(|| refuse("is not in the record"))?;
    if !chosen.made {
        return Err(refuse("has never been made, and holds nothing"));
    }
    if chosen.state == ReplicaState::Removing {
        return Err(refuse("is being removed"));
    }
    let mut record = volume.clone();
    record.primary = None;
    record.epoch = volume.epoch.max(wish.seen);
    raise_epoch(&mut record)?;
    record.forget_change();
    for replica in &mut record.replicas {
        if replica.id == wish.replica {
            replica.state = ReplicaState::Member;
            replica.trouble = None;
        } else if replica.state != ReplicaState::Removing {
            let state = ReplicaState::Stale { tick: Tick::ZERO };
            if replica.made {
                *replica = Replica {
                    replaces: Some(replica.id),
                    ..Replica::new(ReplicaId::from(Uuid::new_v4()), replica.node, replica.pool, state)
                };
            } else {
                // No primary has ever opened it: it is new as it is.
                replica.state = state;
            }
        }
    }
    Ok(record)
}
