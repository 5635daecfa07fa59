//! What goes into a primary machine and what comes out of it.

use std::time::Duration;

use thiserror::Error;

use super::verify::{Repair, VerifyReport};
use crate::format::FailCause;
use crate::geometry::{ByteRange, Geometry};
use crate::ids::{ClusterId, Epoch, Incarnation, NodeId, ReplicaId, VolumeId};
use crate::io::IoError;
use crate::machine::faults::{Fault, FaultSet};
use crate::machine::protocol::{Reply, Request, RequestId, SessionId};
use crate::machine::record::{ChangeId, Record};
use crate::machine::time::Time;

/// How a volume is run.
#[derive(Clone, Copy, Debug)]
pub struct PrimaryConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// The volume.
    pub volume: VolumeId,
    /// This node.
    pub node: NodeId,
    /// A fresh one for this attaching (T3).
    pub attached_by: Incarnation,
    /// This primary goes on for one of the same node (T5): the epoch of the record that the attaching swap replaced. That record
    /// named the one that is gone on for, which had served, or had itself gone on for one that had, and whose process has ended.
    pub resumes: Option<Epoch>,
    /// The volume's division.
    pub geometry: Geometry,
    /// A member that is away, or leaves an operation unanswered, for longer than this is removed.
    pub member_deadline: Duration,
    /// How long the members have to answer at the start before those that did not are removed.
    pub open_patience: Duration,
    /// The same for members on nodes that are said to be dead ([`Event::Dead`]): what a living one takes to answer.
    pub dead_patience: Duration,
    /// How long the start waits for the first member to answer before it is given up.
    pub open_timeout: Duration,
    /// An operation that is not done after this long fails, and the volume with it (P5).
    pub io_timeout: Duration,
    /// A primary with members on other nodes that has heard of no other node and not of the store for this long ends by
    /// itself (L5). More than the lease, less than `io_timeout`.
    pub isolation_timeout: Duration,
    /// How often the tick is raised while there are writes.
    pub tick_interval: Duration,
    /// The lease that replicas grant, the same as [`crate::machine::replica::ReplicaConfig::lease`].
    pub lease: Duration,
    /// How often deadlines are looked at, while there is something to look at.
    pub beat: Duration,
    /// How long to wait before a failed connection or change is tried again.
    pub retry: Duration,
    /// Chunks that are copied at the same time, by a convergence and by a rebuild while nothing else goes on.
    pub max_copies: usize,
    /// Most bytes that are copied in one request.
    pub copy_piece: u64,
    /// Bytes in the blocks by which a copy compares what the target holds with what it is to hold; a power of two.
    pub compare_block: u32,
    /// Most replicas that are known at the same time, 32 at most: those of the record, and some that have left it and are
    /// still waited for.
    pub max_peers: usize,
    /// Most chunks that are named in one request.
    pub page: u32,
    /// Bytes a second that a rebuild and a verify copy or compare at least, however much the volume is used.
    pub copy_floor: u64,
    /// Deliberate faults.
    pub faults: FaultSet,
}

impl PrimaryConfig {
    /// The defaults of a product.
    pub const fn new(
        cluster: ClusterId,
        volume: VolumeId,
        node: NodeId,
        attached_by: Incarnation,
        geometry: Geometry,
    ) -> Self {
        Self {
            cluster,
            volume,
            node,
            attached_by,
            resumes: None,
            geometry,
            member_deadline: Duration::from_secs(4),
            open_patience: Duration::from_secs(4),
            dead_patience: Duration::from_millis(500),
            open_timeout: Duration::from_secs(20),
            io_timeout: Duration::from_secs(60),
            isolation_timeout: Duration::from_secs(8),
            tick_interval: Duration::from_secs(1),
            lease: Duration::from_secs(4),
            beat: Duration::from_millis(200),
            retry: Duration::from_millis(500),
            max_copies: 8,
            copy_piece: 1 << 20,
            compare_block: 4096,
            max_peers: 32,
            page: 4096,
            copy_floor: 16 << 20,
            faults: FaultSet::NONE,
        }
    }

    /// How long after a request was sent its answer still permits reads: the lease, less what this node's clock may
    /// run slower than the replica's.
    pub(super) fn lease_used(&self) -> Duration {
        if self.faults.has(Fault::LeaseInFull) {
            return self.lease;
        }
        self.lease * 3 / 4
    }
}

/// Names an operation of the front end until it is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

impl OpId {
    /// An operation of the primary itself. The front end does not use it.
    pub(super) const OWN: Self = Self(u64::MAX);
}

/// Revision of the record in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// What the front end asks.
#[derive(Clone, Debug)]
pub enum Op<P> {
    /// Read a range.
    Read(ByteRange),
    /// Write.
    Write {
        /// First byte.
        offset: u64,
        /// The bytes.
        data: P,
    },
    /// Make everything that was acknowledged durable.
    Flush,
    /// Make a range zero.
    Zero(ByteRange),
}

/// What became of a change of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapOutcome {
    /// Done.
    Applied(Revision),
    /// Not done: the record is not at the expected revision any more.
    Conflict,
    /// Not known: the store was not reached, or its answer did not come.
    Unknown,
}

/// What happens to a primary.
#[derive(Clone, Debug)]
pub enum Event<P> {
    /// The front end asks for an operation.
    Submit {
        /// To complete it by.
        id: OpId,
        /// The operation.
        op: Op<P>,
    },
    /// A connection that was asked for is up.
    Linked {
        /// To which replica.
        replica: ReplicaId,
        /// Its number on this node.
        session: SessionId,
    },
    /// A connection is down, or could not be made (then it has no session).
    Unlinked {
        /// To which replica.
        replica: ReplicaId,
        /// The connection.
        session: Option<SessionId>,
    },
    /// A replica has answered.
    Reply {
        /// Which.
        replica: ReplicaId,
        /// Over which connection.
        session: SessionId,
        /// The request.
        id: RequestId,
        /// The answer.
        reply: Reply<P>,
    },
    /// The answer to [`Action::Swap`].
    Swapped {
        /// Which change.
        change: ChangeId,
        /// What became of it.
        outcome: SwapOutcome,
    },
    /// The record as it was read on [`Action::ReadRecord`]: not before that was asked for.
    Record {
        /// The record.
        record: Record,
        /// Its revision.
        revision: Revision,
    },
    /// The record as a watch has shown it, which may be old.
    Watched {
        /// The record.
        record: Record,
        /// Its revision.
        revision: Revision,
    },
    /// [`Action::ReadRecord`] could not be done.
    RecordUnreachable,
    /// A node that holds a replica of this volume has given a sign of life, if only by refusing a connection: this node
    /// is not cut off from all others (L5). Optional.
    Reached,
    /// The nodes that the store takes for dead (their lease there has run out), all of them: replaces what was said
    /// before. While the primary opens, members there are not waited for longer than `dead_patience` (T2). It may be wrong:
    /// nothing is concluded from it but how long to wait. Optional; best said right after the start.
    Dead(Vec<NodeId>),
    /// Compare the members while the volume is used; [`Action::Verified`] tells what was found. One at a time.
    Verify {
        /// To tell it by.
        id: u64,
        /// What is done where they differ.
        repair: Repair,
    },
    /// End the verify that is under way.
    StopVerify,
    /// A member is not wanted any more, as others are there: it leaves as one that is lost (L2), but nothing waits for it to be
    /// missed. Passed over unless every other member is sound: whoever says so has counted on all of them.
    Dismiss {
        /// Which.
        replica: ReplicaId,
    },
    /// Detach in order: nothing uses the volume any more.
    Release,
    /// The time asked for by [`Action::SetTimer`] has come. May come late, and more often than asked for.
    Timer,
}

/// What a primary wants done.
#[derive(Clone, Debug)]
pub enum Action<P> {
    /// Make a connection to a replica, and say [`Event::Linked`] or [`Event::Unlinked`].
    Connect {
        /// The replica.
        replica: ReplicaId,
        /// The node that holds it.
        node: NodeId,
    },
    /// Close a connection; [`Event::Unlinked`] need not be said.
    Disconnect {
        /// The replica.
        replica: ReplicaId,
        /// The connection.
        session: SessionId,
    },
    /// Send a request. Requests of one connection arrive in the order of sending or not at all.
    Send {
        /// To which replica.
        replica: ReplicaId,
        /// Over which connection.
        session: SessionId,
        /// The request's number.
        id: RequestId,
        /// The request.
        request: Request<P>,
    },
    /// An operation is done: the bytes of a read, nothing for the others.
    Complete {
        /// Which.
        id: OpId,
        /// Its outcome.
        result: Result<Option<P>, IoError>,
    },
    /// Put this in the place of the record, if that is still at the expected revision; say [`Event::Swapped`].
    Swap {
        /// Which change this is; part of the record.
        change: ChangeId,
        /// The revision that it replaces.
        expected: Revision,
        /// The new record.
        record: Record,
    },
    /// Read the record, and say [`Event::Record`] or [`Event::RecordUnreachable`].
    ReadRecord,
    /// A verify has ended; comes once for each, at the latest with [`Action::Ended`].
    Verified {
        /// Which.
        id: u64,
        /// What was found.
        report: VerifyReport,
    },
    /// Operations are served from now on.
    Serving,
    /// Give [`Event::Timer`] at this time; replaces the time that was asked for before.
    SetTimer(Time),
    /// It is over: every operation has been completed, every further one fails. Unmount, and drop the machine.
    Ended(EndReason),
}

/// Why a primary has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EndReason {
    /// As asked.
    #[error("the volume was detached")]
    Released,
    /// A newer primary was seen.
    #[error("another node has taken over the volume (epoch {0})")]
    Superseded(Epoch),
    /// A member's epoch is newer than the record's.
    #[error(
        "a replica has seen epoch {replica}, but the record in the store says {record}: the store was restored from an older copy; \
         nothing is served before the record has been put right"
    )]
    StoreIsOlder {
        /// The replica's epoch.
        replica: Epoch,
        /// The record's epoch.
        record: Epoch,
    },
    /// No member answered.
    #[error("no member of the volume can be reached")]
    NoMember,
    /// The last member has failed.
    #[error("the last replica of the volume has failed ({0:?})")]
    LastMemberFailed(Option<FailCause>),
    /// An operation was not done in time.
    #[error("an operation was not done within the volume's I/O timeout")]
    IoTimeout,
    /// Neither the members nor the store could be reached.
    #[error("this node is cut off from the volume's other replicas and from the store")]
    Isolated,
    /// The epochs are used up.
    #[error("the volume's epochs are used up")]
    NoEpoch,
}
