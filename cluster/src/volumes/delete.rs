//! A volume goes: its name at once, its record when the last node has removed its replica, also one that comes back
//! later. Never while it is attached on a node that lives.

use bulkhead_engine::ids::{NodeId, VolumeId};

use super::change::{Step, Write};
use super::{Volume, VolumeError, Volumes, raise_epoch};
use crate::schema::{ChangeId, VolumeRecord, VolumeState, name_key};

impl Volumes {
    /// Marks a volume, made or half made, as being deleted and frees its name. Refused while it is attached: on the
    /// asking node, or on another that lives by its lease. One that is attached only to have its replicas brought up to date
    /// is in nobody's use.
    pub async fn begin_delete(&self, name: &str, asking: NodeId) -> Result<Volume, VolumeError> {
        let volume = self
            .by_name(name)
            .await?
            .ok_or_else(|| VolumeError::NoSuch(name.to_owned()))?;
        self.begin_delete_of(volume.id, asking).await
    }

    /// The same for a volume known by its id; no fault if it is being deleted already.
    pub async fn begin_delete_of(&self, id: VolumeId, asking: NodeId) -> Result<Volume, VolumeError> {
        let change = ChangeId::random();
        let decide = |volume: &VolumeRecord| {
            if volume.state == VolumeState::Deleting {
                return Ok(Step::Settled);
            }
            let mut record = volume.clone();
            record.state = VolumeState::Deleting;
            record.wanted = None;
            let holder = record.primary.take();
            if let Some(primary) = &holder {
                let is_used = volume.state == VolumeState::Ready && !primary.upkeep;
                if primary.node == asking && is_used {
                    return Err(VolumeError::Attached {
                        volume: volume.name.clone(),
                        node: "this one".to_owned(),
                        primary: Box::new(primary.clone()),
                    });
                }
                // A dead holder may come back, and one at upkeep has to end: a new epoch sees to both.
                raise_epoch(&mut record)?;
                record.forget_change();
            }
            Ok(Step::Write(Box::new(Write {
                record,
                if_dead: holder
                    .filter(|primary| !primary.upkeep && primary.node != asking)
                    .map(|primary| primary.node),
                remove: Some(name_key(&volume.name)?),
            })))
        };
        let done = self.change(id, change, decide).await?;
        done.ok_or_else(|| VolumeError::NoSuch(id.to_string()))
    }

    /// A node has removed its replicas of a volume that is being deleted. The record goes with the last one.
    /// Gives the record while there is one.
    pub async fn finish_delete(&self, id: VolumeId, node: NodeId) -> Result<Option<Volume>, VolumeError> {
        self.change(id, ChangeId::random(), |volume| {
            if volume.state != VolumeState::Deleting {
                return Err(VolumeError::State {
                    volume: volume.name.clone(),
                    state: volume.state,
                    remedy: "begin to delete it first",
                });
            }
            let mut record = volume.clone();
            record.replicas.retain(|replica| replica.node != node);
            Ok(if record.replicas.is_empty() {
                Step::Remove
            } else if record.replicas.len() == volume.replicas.len() {
                Step::Settled
            } else {
                Step::write(record)
            })
        })
        .await
    }
}
