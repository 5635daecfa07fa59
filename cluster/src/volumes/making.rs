//! What a node reports of its own replicas: their files are there, or why not.

use bulkhead_engine::ids::{NodeId, ReplicaId, VolumeId};

use super::change::Step;
use super::{Volume, VolumeError, Volumes};
use crate::schema::{ChangeId, Replica, VolumeState};

/// The longest report of a trouble, in bytes: a record has room for many.
const MAX_TROUBLE: usize = 500;

impl Volumes {
    /// The files of these replicas of a node are there: of these and no others, as the record may have come to name others on
    /// that node. `None` if the volume is no more. `known` is the volume as it is known here, which saves a read.
    pub async fn replicas_made(
        &self,
        known: &Volume,
        node: NodeId,
        made: &[ReplicaId],
    ) -> Result<Option<Volume>, VolumeError> {
        self.change_known(known.id, Some(known), ChangeId::random(), |volume| {
            let mut record = volume.clone();
            let is_meant = |replica: &&mut Replica| replica.node == node && made.contains(&replica.id);
            for replica in record.replicas.iter_mut().filter(is_meant) {
                replica.made = true;
                replica.trouble = None;
            }
            if record == *volume || volume.state == VolumeState::Deleting {
                return Ok(Step::Settled);
            }
            Ok(Step::write(record))
        })
        .await
    }

    /// What keeps this node from making or removing the files of its replica; `None`: nothing any more.
    pub async fn replica_troubled(
        &self,
        id: VolumeId,
        node: NodeId,
        replica: ReplicaId,
        trouble: Option<&str>,
    ) -> Result<Option<Volume>, VolumeError> {
        let trouble = trouble.map(|text| {
            let mut text = text.to_owned();
            let end = (0..=MAX_TROUBLE.min(text.len()))
                .rev()
                .find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or_default());
            text
        });
        self.change(id, ChangeId::random(), |volume| {
            let mut record = volume.clone();
            let found = record
                .replicas
                .iter_mut()
                .find(|found| found.id == replica && found.node == node);
            match found {
                Some(found) if found.trouble != trouble => found.trouble.clone_from(&trouble),
                _ => return Ok(Step::Settled),
            }
            Ok(Step::write(record))
        })
        .await
    }
}
