//! A simulated node: its process, its clock, its disk, and the machines that run on it.

use std::time::Duration;

use bulkhead_engine::format::{MetaImage, ReplicaIdentity, Superblock};
use bulkhead_engine::geometry::Geometry;
use bulkhead_engine::ids::{BootId, ClusterId, Epoch, Incarnation, NodeId, ReplicaId, VolumeId};
use bulkhead_engine::machine::primary::{PrimaryConfig, Revision};
use bulkhead_engine::machine::replica::ReplicaConfig;
use bulkhead_engine::machine::{FaultSet, Primary, Record, Replica, RequestId, SessionId, Time};

use crate::disk::{Disk, Sectors};
use crate::plan::{Ns, Plan};
use crate::resume::Connection;
use crate::rules::Asked;

/// The cluster of every run.
pub const CLUSTER: ClusterId = ClusterId::from_u128(0xc1);
/// The volume of every run.
pub const VOLUME: VolumeId = VolumeId::from_u128(0x70);

/// The id of a node.
pub fn node_id(node: usize) -> NodeId {
    NodeId::from_u128(0x1000 + node as u128)
}

/// The id of a replica on a node: the one that takes the place of a failed one has a new id.
pub fn replica_id(node: usize, generation: u64) -> ReplicaId {
    ReplicaId::from_u128(u128::from(generation) << 32 | (0x2000 + node as u128))
}

/// Who the replica on a node is.
pub fn replica_identity(node: usize, generation: u64) -> ReplicaIdentity {
    ReplicaIdentity {
        cluster: CLUSTER,
        volume: VOLUME,
        replica: replica_id(node, generation),
    }
}

/// The node of a replica.
pub fn node_of(replica: ReplicaId) -> usize {
    let bytes = replica.to_bytes();
    usize::from(bytes[15]) + 256 * usize::from(bytes[14]) - 0x2000
}

/// A primary on its node.
#[derive(Debug)]
pub struct Host {
    /// The machine.
    pub machine: Primary<Sectors>,
    /// Its term.
    pub term: u32,
    /// Which attaching it is.
    pub attaching: u64,
    /// Whether it goes on for one before (T5).
    pub resumes: bool,
    /// Its process is about to die, and what it answers does not reach the kernel any more.
    pub mute: bool,
    /// Whether it has said that it serves.
    pub serving: bool,
    /// Operations that it has not answered.
    pub in_flight: usize,
    /// The newest request that it has sent; one that is not newer is sent again.
    pub newest_request: RequestId,
    /// The newest change of the record that it has asked for.
    pub newest_change: u32,
}

/// How far the attaching of the volume on a node is.
#[derive(Clone, Debug, Default)]
pub enum Attach {
    /// Not under way.
    #[default]
    Idle,
    /// The record is being read.
    Reading {
        /// Since when.
        since: Ns,
    },
    /// The record is being swapped.
    Swapping {
        /// Since when.
        since: Ns,
        /// The new record.
        record: Box<Record>,
        /// The revision that it replaces.
        expected: Revision,
        /// Which attaching it is.
        attaching: u64,
        /// Whom it claims to go on for, if it does.
        resumes: Option<Epoch>,
    },
    /// To be read again then.
    Waiting {
        /// Since when.
        since: Ns,
        /// Until when.
        until: Ns,
    },
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Whether it has power.
    pub powered: bool,
    /// Whether its process runs.
    pub running: bool,
    /// Which process this is.
    pub process: u64,
    /// Which boot.
    pub boot: u64,
    /// Until when the process does not run.
    pub paused_until: Ns,
    /// Thousandths of a second that its clock makes in a second.
    pub rate: u64,
    /// What its clock showed at the start.
    pub clock_start: u64,
    /// The disk, if it holds a replica.
    pub disk: Option<Disk>,
    /// The replica, while the process runs.
    pub replica: Option<Replica<Sectors>>,
    /// Which replica of this node it is.
    pub generation: u64,
    /// For how long the process has not run, all in all.
    pub paused: Ns,
    /// Whether the replica has failed for good.
    pub failed: bool,
    /// The primary, if the volume is attached here.
    pub host: Option<Host>,
    /// Attaching.
    pub attach: Attach,
    /// What the kernel holds open for the process that serves the volume, and for the next one.
    pub connection: Option<Connection>,
    /// Until when the disk is slow, and how much.
    pub slow: (Ns, u64),
    /// Until when syncs and commits are slow.
    pub slow_sync: Ns,
    /// The process is killed right after the next disk error.
    pub kill_on_error: bool,
    /// All processes are killed with it, and power is lost a little later.
    pub all_on_error: bool,
    /// Whether an operation of the replica's disk has failed.
    pub had_error: bool,
    /// Whether its disk holds everything that was acknowledged while it was a member (as far as the checker knows).
    pub kept: bool,
    /// When it last lost something.
    pub lost_at: Ns,
    /// When it was last brought back.
    pub started_at: Ns,
    /// When it last asked the replicas that it could reach, before it attached the volume.
    pub surveyed_at: Ns,
    /// When the volume was last attached here.
    pub attached_at: Ns,
    /// A person has declared that what its replica holds is what there is.
    pub pardon: bool,
    /// The newest session that its replica has begun to open, and the writes that it was asked for, by session.
    pub opening: Option<SessionId>,
    /// The one before.
    pub opened_before: Option<SessionId>,
    /// Something has failed after the replica had: the note of its failure maybe.
    pub note_refused: bool,
    /// What the replica has not answered of it.
    pub writes: Vec<Asked>,
    /// Since when it is cut off from every other node and the store, if it is.
    pub cut_off_since: Option<Ns>,
    /// Since when it could reach the store without a break.
    pub in_contact_since: Ns,
}

impl Node {
    /// A node with power, whose process has yet to be started.
    pub fn new(rate: u64, clock_start: u64) -> Self {
        Self {
            powered: true,
            running: false,
            process: 0,
            boot: 1,
            paused_until: 0,
            rate,
            clock_start,
            disk: None,
            replica: None,
            generation: 0,
            paused: 0,
            failed: false,
            host: None,
            attach: Attach::Idle,
            connection: None,
            slow: (0, 1),
            slow_sync: 0,
            kill_on_error: false,
            all_on_error: false,
            had_error: false,
            kept: false,
            lost_at: 0,
            started_at: 0,
            surveyed_at: 0,
            attached_at: 0,
            pardon: false,
            opening: None,
            opened_before: None,
            note_refused: false,
            writes: Vec::new(),
            cut_off_since: None,
            in_contact_since: 0,
        }
    }

    /// Its clock.
    pub fn clock(&self, now: Ns) -> Time {
        Time(self.clock_start + now / 1000 * self.rate)
    }

    /// When its clock will show that.
    pub fn when(&self, time: Time) -> Ns {
        time.0.saturating_sub(self.clock_start).div_ceil(self.rate) * 1000
    }

    /// A disk with a replica that was just created.
    pub fn create_replica(&mut self, node: usize, geometry: Geometry) {
        let identity = replica_identity(node, self.generation);
        let image = MetaImage::fresh(Superblock::fresh(identity, geometry, boot_id(node, self.boot)));
        self.disk = image.encode().ok().map(|file| Disk::new(&file));
        self.failed = false;
        self.had_error = false;
        self.forget_requests();
    }

    /// Another process, or another replica: nothing is under way.
    pub fn forget_requests(&mut self) {
        self.opening = None;
        self.opened_before = None;
        self.note_refused = false;
        self.writes.clear();
    }

    /// Opens the replica as a process does that starts.
    pub fn load_replica(
        &mut self,
        node: usize,
        plan: &Plan,
        geometry: &Geometry,
        now: Ns,
        faults: FaultSet,
        salt: u64,
    ) -> Result<(), String> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        let image = MetaImage::decode(&disk.read_meta(geometry))
            .map_err(|error| format!("the replica on node {node} cannot be opened: {error}"))?;
        self.failed = image.superblock.failed.is_some() && !self.pardon;
        let incarnation = Incarnation::from_u128(u128::from(salt) << 32 | u128::from(self.process));
        let config = ReplicaConfig {
            checkpoint_interval: Duration::from_millis(300),
            region_idle: Duration::from_nanos(plan.region_idle),
            max_set_regions: 2,
            lease: LEASE,
            pardon: self.pardon && image.superblock.failed.is_some(),
            faults,
            ..ReplicaConfig::new(boot_id(node, self.boot), incarnation)
        };
        self.replica = Some(Replica::load(self.clock(now), config, image));
        Ok(())
    }
}

/// The lease of every run.
pub const LEASE: Duration = Duration::from_millis(1000);
/// The time after which an operation fails in every run.
pub const IO_TIMEOUT: Duration = Duration::from_millis(8000);

/// The time after which a primary that is cut off ends in every run.
pub const ISOLATION_TIMEOUT: Duration = Duration::from_millis(2500);

fn boot_id(node: usize, boot: u64) -> BootId {
    BootId::from_u128((node as u128) << 64 | u128::from(boot))
}

/// How primaries are run.
pub fn primary_config(
    node: usize,
    attaching: u64,
    plan: &Plan,
    geometry: Geometry,
    faults: FaultSet,
) -> PrimaryConfig {
    let attached_by = Incarnation::from_u128(u128::from(attaching));
    PrimaryConfig {
        member_deadline: Duration::from_millis(800),
        open_patience: Duration::from_nanos(plan.open_patience),
        dead_patience: Duration::from_nanos(plan.open_patience / 8),
        open_timeout: Duration::from_millis(5000),
        io_timeout: IO_TIMEOUT,
        isolation_timeout: ISOLATION_TIMEOUT,
        tick_interval: Duration::from_millis(200),
        lease: LEASE,
        beat: Duration::from_millis(50),
        retry: Duration::from_millis(100),
        max_copies: plan.max_copies,
        page: plan.page,
        max_peers: plan.nodes + 1,
        copy_floor: plan.copy_floor,
        copy_piece: plan.copy_piece,
        compare_block: if plan.seed.is_multiple_of(2) { 4096 } else { 1024 },
        faults,
        ..PrimaryConfig::new(CLUSTER, VOLUME, node_id(node), attached_by, geometry)
    }
}
