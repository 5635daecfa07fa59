//! A replica of a volume is to be somewhere else: noted in the record, so that whoever holds the volume, now or later, makes
//! another one there and lets this one go once that is in sync. Changes the wish only.

use bulkhead_engine::ids::{ReplicaId, VolumeId};

use super::change::Step;
use super::{Volume, VolumeError, Volumes};
use crate::schema::{ChangeId, Placed, Replica, VolumeRecord, VolumeState};

impl VolumeRecord {
    /// Whether there is a replica already in the place that another one is to leave for.
    pub fn has_begun(&self, to: Placed) -> bool {
        self.replicas.iter().any(|replica| replica.placed() == to)
    }
}

impl Volumes {
    /// A replica is to be moved. Nothing is changed, and nothing given back, where the volume has come to be otherwise than
    /// it was planned for: it is gone, not in order, or has a replica on that node.
    pub async fn move_replica(
        &self,
        id: VolumeId,
        replica: ReplicaId,
        to: Placed,
    ) -> Result<Option<Volume>, VolumeError> {
        let done = self.change(id, ChangeId::random(), |volume| {
            let mut record = volume.clone();
            let in_order = volume.state == VolumeState::Ready
                && volume.replicas.iter().all(Replica::is_sound)
                && !volume.replicas.iter().any(|other| other.node == to.node);
            let found = record.replicas.iter_mut().find(|found| found.id == replica);
            match found {
                Some(found) if in_order && found.moves_to.is_none() => found.moves_to = Some(to),
                _ => return Ok(Step::Settled),
            }
            Ok(Step::write(record))
        });
        let is_meant = |volume: &Volume| {
            let found = volume.replica(replica);
            found.is_some_and(|found| found.moves_to == Some(to))
        };
        Ok(done.await?.filter(is_meant))
    }

    /// Replicas that were to be moved stay, but those for which another one is being made already.
    pub async fn stop_moving(&self, id: VolumeId) -> Result<Option<Volume>, VolumeError> {
        self.change(id, ChangeId::random(), |volume| {
            let mut record = volume.clone();
            for replica in &mut record.replicas {
                if replica.moves_to.is_some_and(|to| !volume.has_begun(to)) {
                    replica.moves_to = None;
                }
            }
            if record == *volume {
                return Ok(Step::Settled);
            }
            Ok(Step::write(record))
        })
        .await
    }
}
