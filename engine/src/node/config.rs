//! How a volume is opened on a node: its settings, with the defaults of a product. Reads no file and no environment.

use std::path::PathBuf;
use std::time::Duration;

use crate::disk::Caching;
use crate::format::ReplicaIdentity;
use crate::ids::{Epoch, NodeId, VolumeId};
use crate::machine::FaultSet;
use crate::machine::primary::EndReason;

/// Called once when a volume ends other than by [`super::Volume::close`], so that it can be unmounted. Must not block.
pub type OnEnded = Box<dyn Fn(VolumeId, EndReason) + Send + Sync>;

/// How a volume is opened on this node.
pub struct VolumeConfig {
    /// Whose replica it is.
    pub identity: ReplicaIdentity,
    /// Where the replica lies.
    pub dir: PathBuf,
    /// This node.
    pub node: NodeId,
    /// The epoch of the record in which this node is primary.
    pub epoch: Epoch,
    /// Whether another node may hold a read lease of this replica still: the primary before was not this node, and did
    /// not release the volume.
    pub foreign_lease: bool,
    /// Whether the data goes through the page cache.
    pub caching: Caching,
    /// Most requests in flight.
    pub max_operations: usize,
    /// Most bytes in flight.
    pub max_bytes: usize,
    /// A request that is not done after this long fails, and the volume with it.
    pub io_timeout: Duration,
    /// Time between checkpoints while there are writes.
    pub checkpoint_interval: Duration,
    /// A region that was not written for this long has its intent bit cleared by the next checkpoint.
    pub region_idle: Duration,
    /// How many regions may stay set.
    pub max_set_regions: usize,
    /// How often the volume's tick is raised while there are writes.
    pub tick_interval: Duration,
    /// Deliberate faults, for tests.
    pub faults: FaultSet,
    /// Told when the volume ends by itself.
    pub on_ended: Option<OnEnded>,
}

impl VolumeConfig {
    /// The defaults of a product.
    pub fn new(identity: ReplicaIdentity, dir: PathBuf, node: NodeId, epoch: Epoch) -> Self {
        Self {
            identity,
            dir,
            node,
            epoch,
            foreign_lease: true,
            caching: Caching::default(),
            max_operations: 256,
            max_bytes: 64 << 20,
            io_timeout: Duration::from_secs(60),
            checkpoint_interval: Duration::from_secs(5),
            region_idle: Duration::from_secs(10),
            max_set_regions: 1024,
            tick_interval: Duration::from_secs(1),
            faults: FaultSet::NONE,
            on_ended: None,
        }
    }
}
