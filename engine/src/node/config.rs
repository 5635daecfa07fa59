//! How a node and its volumes are run: settings, with the defaults of a product, and what the node is told by whoever
//! owns it. Reads no file and no environment.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::record::RecordKeeper;
use super::status::VolumeEvent;
use crate::disk::{self, Caching, DiskError, ReplicaFiles};
use crate::format::ReplicaIdentity;
use crate::geometry::Geometry;
use crate::ids::{BootId, ClusterId, Epoch, Incarnation, NodeId, VolumeId};
use crate::link::{Addresses, LinkConfig, Plain, Transport};
use crate::machine::primary::{EndReason, PrimaryConfig, Revision};
use crate::machine::{FaultSet, Record};

/// Knows this node's replicas: which there are, and where.
pub trait Locate: Send + Sync + 'static {
    /// The directory of a replica; or, in words for the person who reads the log of whoever asked, why it is not served.
    /// Asked at every opening and for every session of another node, so that a replica that is to go is opened by nobody.
    /// Must not wait.
    fn locate(&self, replica: &ReplicaIdentity) -> Result<PathBuf, String>;

    /// Opens its files.
    fn open(
        &self,
        dir: &Path,
        replica: &ReplicaIdentity,
        caching: Caching,
    ) -> Result<ReplicaFiles, DiskError> {
        disk::open(dir, replica, caching)
    }
}

/// How this node and the others reach each other.
#[derive(Clone)]
pub struct Links {
    /// Where nodes are.
    pub addresses: Addresses,
    /// Deadlines and bounds.
    pub config: LinkConfig,
    /// What goes over TCP.
    pub transport: Arc<dyn Transport>,
    /// Whether data carries checksums on its way.
    pub data_crc: bool,
}

impl Links {
    /// Plain TCP, with the defaults of a product.
    pub fn new(addresses: Addresses) -> Self {
        Self {
            addresses,
            config: LinkConfig::default(),
            transport: Arc::new(Plain),
            data_crc: true,
        }
    }
}

/// How every replica of a node is run.
#[derive(Clone, Debug)]
pub struct ReplicaSettings {
    /// Whether the data goes through the page cache.
    pub caching: Caching,
    /// Time between checkpoints while there are writes.
    pub checkpoint_interval: Duration,
    /// A region that was not written for this long has its intent bit cleared by the next checkpoint.
    pub region_idle: Duration,
    /// How many regions may stay set.
    pub max_set_regions: usize,
    /// How long a primary may answer reads after it was last heard. The same on every node.
    pub lease: Duration,
    /// How long one that is in order stays open for a primary elsewhere whose connection was lost: a new opening would be
    /// another incarnation, and no member any more. Longer than a volume's `member_deadline`.
    pub linger: Duration,
    /// Deliberate faults, for tests.
    pub faults: FaultSet,
}

impl Default for ReplicaSettings {
    fn default() -> Self {
        Self {
            caching: Caching::default(),
            checkpoint_interval: Duration::from_secs(5),
            region_idle: Duration::from_secs(10),
            max_set_regions: 1024,
            lease: Duration::from_secs(4),
            linger: Duration::from_secs(10),
            faults: FaultSet::NONE,
        }
    }
}

/// How a node is run.
pub struct NodeConfig {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Itself.
    pub node: NodeId,
    /// Where its replicas are.
    pub locate: Arc<dyn Locate>,
    /// How it reaches other nodes and they it; without, there are none, and no replica here ever had a primary elsewhere.
    pub links: Option<Links>,
    /// How its replicas are run.
    pub replicas: ReplicaSettings,
    /// The boot of the kernel; asked of the kernel, if not given.
    pub boot: Option<BootId>,
}

impl NodeConfig {
    /// A node without others, with the defaults of a product.
    pub fn new(cluster: ClusterId, node: NodeId, locate: Arc<dyn Locate>) -> Self {
        Self {
            cluster,
            node,
            locate,
            links: None,
            replicas: ReplicaSettings::default(),
            boot: None,
        }
    }
}

/// Called once when a volume ends other than by [`super::Volume::close`], so that it can be unmounted. Must not block.
pub type OnEnded = Box<dyn Fn(VolumeId, EndReason) + Send + Sync>;

/// Called when something happens to a volume that a person wants to know of later. Must not block.
pub type OnEvent = Box<dyn Fn(VolumeId, &VolumeEvent) + Send + Sync>;

/// How a volume is opened on this node.
pub struct VolumeConfig {
    /// Which.
    pub volume: VolumeId,
    /// How its bytes are divided.
    pub geometry: Geometry,
    /// The record in which this node is primary, in an epoch that no other primary ever had.
    pub record: Record,
    /// Its revision.
    pub revision: Revision,
    /// Set where this attaching goes on for one of this node whose process has ended (T5 in docs/replication.md): the epoch of
    /// the record that the attaching swap replaced. Members do not have it wait for the lease of the process that is gone.
    /// Only for whoever knows that that record named the attaching it goes on for, that this one had been served (or had gone
    /// on for one that had), and that its process is over.
    pub resumes: Option<Epoch>,
    /// Nodes that are dead by the store: their replicas are hardly waited for.
    pub dead: Vec<NodeId>,
    /// Who changes and reads the record.
    pub keeper: Arc<dyn RecordKeeper>,
    /// Most requests in flight.
    pub max_operations: usize,
    /// Most bytes in flight.
    pub max_bytes: usize,
    /// A request that is not done after this long fails, and the volume with it.
    pub io_timeout: Duration,
    /// A member that is away, or leaves a request unanswered, for longer than this is removed.
    pub member_deadline: Duration,
    /// How long the members have to answer at the start before those that did not are removed.
    pub open_patience: Duration,
    /// How long the start waits for the first member to answer before it is given up.
    pub open_timeout: Duration,
    /// How long the start may stand still, once a member answers, before it is given up. In all it takes as long as it takes
    /// to make the members identical: one that is given up begins anew at the next try.
    pub open_stall: Duration,
    /// No other node and not the store heard of for this long ends a volume with members elsewhere (rule L5).
    pub isolation_timeout: Duration,
    /// How often the volume's tick is raised while there are writes.
    pub tick_interval: Duration,
    /// How long to wait before a failed connection or change is tried again.
    pub retry: Duration,
    /// Deliberate faults, for tests.
    pub faults: FaultSet,
    /// Told when the volume ends by itself.
    pub on_ended: Option<OnEnded>,
    /// Told what happens to the volume.
    pub on_event: Option<OnEvent>,
}

impl VolumeConfig {
    /// The defaults of a product.
    pub fn new(
        volume: VolumeId,
        geometry: Geometry,
        record: Record,
        revision: Revision,
        keeper: Arc<dyn RecordKeeper>,
    ) -> Self {
        let machine = PrimaryConfig::new(
            ClusterId::from_u128(0),
            volume,
            NodeId::from_u128(0),
            Incarnation::from_u128(0),
            geometry,
        );
        Self {
            volume,
            geometry,
            record,
            revision,
            resumes: None,
            dead: Vec::new(),
            keeper,
            max_operations: 256,
            max_bytes: 64 << 20,
            io_timeout: machine.io_timeout,
            member_deadline: machine.member_deadline,
            open_patience: machine.open_patience,
            open_timeout: machine.open_timeout,
            open_stall: machine.io_timeout + Duration::from_secs(30),
            isolation_timeout: machine.isolation_timeout,
            tick_interval: machine.tick_interval,
            retry: machine.retry,
            faults: FaultSet::NONE,
            on_ended: None,
            on_event: None,
        }
    }
}
