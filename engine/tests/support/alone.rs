//! One node without others, with one replica: for tests of what a single member does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_engine::disk::{self, Caching, DiskError, ReplicaFiles};
use bulkhead_engine::format::ReplicaIdentity;
use bulkhead_engine::geometry::Geometry;
use bulkhead_engine::ids::{ClusterId, Epoch, NodeId, ReplicaId, VolumeId};
use bulkhead_engine::machine::primary::{Revision, SwapOutcome};
use bulkhead_engine::machine::record::ChangeId;
use bulkhead_engine::machine::{MemberState, Record, RecordReplica};
use bulkhead_engine::node::{
    Locate, NodeConfig, RecordKeeper, RecordRead, ReplicaSettings, Swapped, VolumeConfig,
};
use parking_lot::Mutex;

pub const NODE: NodeId = NodeId::from_u128(4);

pub fn identity() -> ReplicaIdentity {
    ReplicaIdentity {
        cluster: ClusterId::from_u128(1),
        volume: VolumeId::from_u128(2),
        replica: ReplicaId::from_u128(3),
    }
}

/// Where the one replica lies; its files, if they were opened already.
#[derive(Default)]
pub struct Place {
    dir: Mutex<PathBuf>,
    files: Mutex<Option<ReplicaFiles>>,
}

impl Place {
    pub fn at(dir: &Path) -> Arc<Self> {
        let place = Self::default();
        place.set_dir(dir);
        Arc::new(place)
    }

    pub fn set_dir(&self, dir: &Path) {
        *self.dir.lock() = dir.to_owned();
    }

    /// The next opening gets these.
    pub fn give(&self, files: ReplicaFiles) {
        *self.files.lock() = Some(files);
    }
}

impl Locate for Place {
    fn locate(&self, _: &ReplicaIdentity) -> Result<PathBuf, String> {
        Ok(self.dir.lock().clone())
    }

    fn open(
        &self,
        dir: &Path,
        replica: &ReplicaIdentity,
        caching: Caching,
    ) -> Result<ReplicaFiles, DiskError> {
        match self.files.lock().take() {
            Some(files) => Ok(files),
            None => disk::open(dir, replica, caching),
        }
    }
}

pub fn node_config(place: &Arc<Place>, replicas: ReplicaSettings) -> NodeConfig {
    NodeConfig {
        replicas,
        ..NodeConfig::new(identity().cluster, NODE, place.clone())
    }
}

/// No store: the record of a sole member does not change.
pub struct NoStore;

impl RecordKeeper for NoStore {
    fn swap(&self, _: ChangeId, _: Revision, _: Record, done: Swapped) {
        done(SwapOutcome::Unknown);
    }

    fn read(&self, done: RecordRead) {
        done(None);
    }
}

pub fn volume_config(geometry: Geometry, epoch: Epoch) -> VolumeConfig {
    let record = Record {
        epoch,
        primary: Some(NODE),
        replicas: vec![RecordReplica {
            id: identity().replica,
            node: NODE,
            state: MemberState::Member,
        }],
        change: ChangeId {
            term: epoch,
            count: 0,
        },
    };
    VolumeConfig::new(
        identity().volume,
        geometry,
        record,
        Revision(0),
        Arc::new(NoStore),
    )
}
