//! What the engine asks of the daemon: where this node's replicas lie, and changes of records. Changes nothing itself.

use std::collections::HashMap;
use std::path::PathBuf;

use bulkhead_cluster::schema::VolumeRecord;
use bulkhead_engine::format::ReplicaIdentity;
use bulkhead_engine::ids::{NodeId, ReplicaId};
use bulkhead_engine::machine::primary::{Revision, SwapOutcome};
use bulkhead_engine::machine::record::ChangeId;
use bulkhead_engine::machine::{MemberState, Record, RecordReplica};
use bulkhead_engine::node::{Locate, RecordKeeper, RecordRead, Swapped};
use parking_lot::Mutex;

/// Where the replicas lie that may be opened.
#[derive(Default)]
pub(super) struct Places(Mutex<HashMap<ReplicaId, PathBuf>>);

impl Places {
    /// A replica may be opened.
    pub(super) fn add(&self, replica: ReplicaId, dir: PathBuf) {
        self.0.lock().insert(replica, dir);
    }

    /// A replica is to go.
    pub(super) fn remove(&self, replica: ReplicaId) {
        self.0.lock().remove(&replica);
    }
}

impl Locate for Places {
    fn locate(&self, replica: &ReplicaIdentity) -> Result<PathBuf, String> {
        let found = self.0.lock().get(&replica.replica).cloned();
        found.ok_or_else(|| "it is not in use".to_owned())
    }
}

/// The record of a volume whose only member is on this node: nothing about it has to change while it is attached.
pub(super) struct SoleMember;

impl RecordKeeper for SoleMember {
    fn swap(&self, _: ChangeId, _: Revision, _: Record, done: Swapped) {
        done(SwapOutcome::Unknown);
    }

    fn read(&self, done: RecordRead) {
        done(None);
    }
}

/// The record as the engine sees it, attached on `node` with the replica there as its only member.
pub(super) fn record_of(volume: &VolumeRecord, replica: ReplicaId, node: NodeId) -> Record {
    Record {
        epoch: volume.epoch,
        primary: Some(node),
        replicas: vec![RecordReplica {
            id: replica,
            node,
            state: MemberState::Member,
        }],
        change: ChangeId {
            term: volume.epoch,
            count: 0,
        },
    }
}
