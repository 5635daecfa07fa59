//! What a user asks of a volume changes while it lives: how many replicas it is to have, and where they may be. Changes the
//! wish only; what follows from it the node does that has the volume attached.

use bulkhead_engine::ids::VolumeId;

use super::change::Step;
use super::{Volume, VolumeError, Volumes};
use crate::schema::{ChangeId, VolumeState};

/// What is to be different. What is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Number of replicas.
    pub repl: Option<u8>,
    /// Nodes (names or ids) that may hold replicas; empty: all.
    pub nodes: Option<Vec<String>>,
}

impl Volumes {
    /// Changes what is asked of a volume. The caller has checked that it can be.
    pub async fn update(&self, id: VolumeId, update: &Update) -> Result<Volume, VolumeError> {
        let done = self.change(id, ChangeId::random(), |volume| {
            if volume.state != VolumeState::Ready {
                return Err(VolumeError::State {
                    volume: volume.name.clone(),
                    state: volume.state,
                    remedy: "only one that is ready can be changed; try again in a while",
                });
            }
            let mut record = volume.clone();
            if let Some(repl) = update.repl {
                record.spec.repl = repl;
            }
            if let Some(nodes) = &update.nodes {
                record.spec.nodes.clone_from(nodes);
            }
            if record.spec == volume.spec {
                return Ok(Step::Settled);
            }
            Ok(Step::write(record))
        });
        done.await?.ok_or_else(|| VolumeError::NoSuch(id.to_string()))
    }
}
