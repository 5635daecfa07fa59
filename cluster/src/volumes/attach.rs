//! Who may attach a volume: one node at a time, by a swap of the record (replication.md, section 6). A living holder
//! is never pushed aside; a dead one is, in the same transaction that finds it dead.

use bulkhead_engine::ids::{Epoch, NodeId, VolumeId};
use parking_lot::Mutex;

use super::change::{Step, Write};
use super::{Volume, VolumeError, Volumes, raise_epoch, replaced};
use crate::schema::{ChangeId, Primary, Replica, Timestamp, VolumeRecord, VolumeState, Wanted};

/// The wish to attach a volume.
#[derive(Clone, Debug)]
pub struct Attach {
    /// On this node.
    pub node: NodeId,
    /// As this attachment: the same again, when an answer was lost, gives the same attachment.
    pub attachment: ChangeId,
    /// What will use it, for people.
    pub user: String,
    /// Whether nobody uses it, and it is only to have its replicas brought up to date.
    pub upkeep: bool,
    /// Only while the record has this epoch and these replicas: those that were asked whether it may be attached.
    judged: Option<(Epoch, Vec<Replica>)>,
}

impl Attach {
    /// An attachment of its own on a node.
    pub fn on(node: NodeId, user: impl Into<String>) -> Self {
        Self {
            node,
            attachment: ChangeId::random(),
            user: user.into(),
            upkeep: false,
            judged: None,
        }
    }

    /// The same, only while the record is as it was when its replicas were asked; else [`VolumeError::Busy`].
    #[must_use]
    pub fn judged_by(mut self, volume: &VolumeRecord) -> Self {
        self.judged = Some((volume.epoch, volume.replicas.clone()));
        self
    }

    /// One that only brings the replicas up to date.
    pub fn for_upkeep(node: NodeId) -> Self {
        Self {
            upkeep: true,
            ..Self::on(node, "the rebuild of its replicas")
        }
    }
}

impl Volumes {
    /// Makes a node the primary of a volume, with a new epoch. Refused while another node that lives by its lease
    /// holds it. What this very node held before (its daemon was killed) is taken over without a question: a node
    /// has one daemon, and the new epoch ends the old attachment.
    ///
    /// A caller that gives up on [`crate::store::StoreError::OutcomeUnknown`] must release this attachment later:
    /// the record may come to name it.
    pub async fn attach(&self, id: VolumeId, wish: &Attach) -> Result<Volume, VolumeError> {
        let since = Timestamp::now();
        let decide = |volume: &VolumeRecord| {
            // One that is being made belongs to its creator from the beginning.
            if volume.state != VolumeState::Ready {
                return Err(VolumeError::State {
                    volume: volume.name.clone(),
                    state: volume.state,
                    remedy: "it cannot be attached",
                });
            }
            let holder = volume.primary.as_ref();
            if volume.is_attached_as(wish.attachment) {
                return Ok(Step::Settled);
            }
            if wish
                .judged
                .as_ref()
                .is_some_and(|(epoch, replicas)| volume.epoch != *epoch || volume.replicas != *replicas)
            {
                return Err(VolumeError::Busy(volume.name.clone()));
            }
            let mut record = volume.clone();
            raise_epoch(&mut record)?;
            record.forget_change();
            if volume
                .wanted
                .as_ref()
                .is_some_and(|wanted| wanted.node == wish.node)
            {
                record.wanted = None;
            }
            record.primary = Some(Primary {
                node: wish.node,
                attachment: wish.attachment,
                since,
                user: wish.user.clone(),
                upkeep: wish.upkeep,
            });
            Ok(Step::Write(Box::new(Write {
                record,
                if_dead: holder
                    .map(|primary| primary.node)
                    .filter(|node| *node != wish.node),
                remove: None,
            })))
        };
        let attached = self.change(id, wish.attachment, decide).await?;
        let attached = attached.ok_or_else(|| VolumeError::NoSuch(id.to_string()))?;
        match &attached.primary {
            Some(primary) if primary.attachment == wish.attachment => Ok(attached),
            // Our swap was made, and has been undone since: by a takeover, or by our own release.
            Some(_) => Err(self.attached(&attached).await),
            None => Err(replaced(&attached, attached.epoch)),
        }
    }

    /// Goes on with a volume that this node has attached, as another attachment: its daemon has been started again while the
    /// volume was in use. Only while the record names one of the attachments that were known to be this node's; else somebody
    /// has taken or released it meanwhile, and [`VolumeError::Replaced`] says so. Gives the record, and the term that ends with
    /// it.
    pub async fn resume(
        &self,
        id: VolumeId,
        node: NodeId,
        known: &[ChangeId],
        next: ChangeId,
    ) -> Result<(Volume, Epoch), VolumeError> {
        // What the swap that was made has been decided on; an earlier try's if its answer was lost.
        let before = Mutex::new(None);
        let decide = |volume: &VolumeRecord| {
            let primary = volume.primary.as_ref().filter(|primary| primary.node == node);
            let primary = primary
                .filter(|_| volume.state == VolumeState::Ready)
                .ok_or_else(|| replaced(volume, volume.epoch))?;
            if primary.attachment == next {
                return Ok(Step::Settled);
            }
            if !known.contains(&primary.attachment) {
                return Err(replaced(volume, volume.epoch));
            }
            let mut record = volume.clone();
            raise_epoch(&mut record)?;
            record.forget_change();
            record.primary = Some(Primary {
                attachment: next,
                upkeep: false,
                ..primary.clone()
            });
            *before.lock() = Some(volume.epoch);
            Ok(Step::write(record))
        };
        let resumed = self.change(id, next, decide).await?;
        let resumed = resumed.ok_or_else(|| VolumeError::NoSuch(id.to_string()))?;
        match before.into_inner() {
            Some(before) if resumed.is_attached_as(next) => Ok((resumed, before)),
            _ => Err(replaced(&resumed, resumed.epoch)),
        }
    }

    /// Gives a volume back: with an attachment, only if that is the one in the record; without, whatever this node
    /// holds. No fault if it does not hold it (any more).
    pub async fn release(
        &self,
        id: VolumeId,
        node: NodeId,
        attachment: Option<ChangeId>,
    ) -> Result<Option<Volume>, VolumeError> {
        self.change(id, ChangeId::random(), |volume| {
            let ours = volume.primary.as_ref().is_some_and(|primary| {
                primary.node == node && attachment.is_none_or(|attachment| primary.attachment == attachment)
            });
            if !ours {
                return Ok(Step::Settled);
            }
            // The epoch stays: nobody can write with it, and the next attachment raises it.
            Ok(Step::write(VolumeRecord {
                primary: None,
                ..volume.clone()
            }))
        })
        .await
    }

    /// Asks whoever holds a volume to release it, if nobody else does so already. Gives the record; one that is free, or
    /// held by the asking node, is left as it is.
    pub async fn want(&self, id: VolumeId, wish: &Wanted) -> Result<Volume, VolumeError> {
        let decide = |volume: &VolumeRecord| {
            let held = volume
                .primary
                .as_ref()
                .is_some_and(|primary| primary.node != wish.node);
            if !held || volume.wanted.is_some() {
                return Ok(Step::Settled);
            }
            Ok(Step::write(VolumeRecord {
                wanted: Some(wish.clone()),
                ..volume.clone()
            }))
        };
        let done = self.change(id, ChangeId::random(), decide).await?;
        done.ok_or_else(|| VolumeError::NoSuch(id.to_string()))
    }

    /// A node does not want a volume any more.
    pub async fn unwant(&self, id: VolumeId, node: NodeId) -> Result<(), VolumeError> {
        let decide = |volume: &VolumeRecord| {
            if volume.wanted.as_ref().is_none_or(|wanted| wanted.node != node) {
                return Ok(Step::Settled);
            }
            Ok(Step::write(VolumeRecord {
                wanted: None,
                ..volume.clone()
            }))
        };
        self.change(id, ChangeId::random(), decide).await.map(drop)
    }

    /// Writes down what uses an attached volume now, for people.
    pub async fn set_user(&self, id: VolumeId, attachment: ChangeId, user: &str) -> Result<(), VolumeError> {
        let decide = |volume: &VolumeRecord| {
            let mut record = volume.clone();
            match &mut record.primary {
                Some(primary) if primary.attachment == attachment && primary.user != user => {
                    user.clone_into(&mut primary.user);
                    Ok(Step::write(record))
                }
                _ => Ok(Step::Settled),
            }
        };
        self.change(id, ChangeId::random(), decide).await.map(drop)
    }
}
