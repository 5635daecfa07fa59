//! What goes into a replica machine and what comes out of it.

use std::time::Duration;

use crate::format::FailCause;
use crate::geometry::ByteRange;
use crate::ids::{BootId, Incarnation};
use crate::machine::faults::FaultSet;
use crate::machine::protocol::{Reply, Request, RequestId, SessionId};
use crate::machine::time::Time;

/// How a replica is run.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaConfig {
    /// The boot of the kernel that it runs under.
    pub boot: BootId,
    /// A fresh one for this opening.
    pub incarnation: Incarnation,
    /// Time between checkpoints while there is something to write (a few seconds).
    pub checkpoint_interval: Duration,
    /// A region that was not written for this long has its bit cleared by the next checkpoint.
    pub region_idle: Duration,
    /// How many regions stay set after a checkpoint, whatever is written; bounds what is suspect after a crash.
    pub max_set_regions: usize,
    /// How long a primary may answer reads after it was last heard.
    pub lease: Duration,
    /// A person has declared that what this replica holds is what there is, though it has failed: it forgets the failure.
    pub pardon: bool,
    /// Deliberate faults.
    pub faults: FaultSet,
}

impl ReplicaConfig {
    /// The defaults of a product.
    pub const fn new(boot: BootId, incarnation: Incarnation) -> Self {
        Self {
            boot,
            incarnation,
            checkpoint_interval: Duration::from_secs(5),
            region_idle: Duration::from_secs(10),
            max_set_regions: 1024,
            lease: Duration::from_secs(4),
            pardon: false,
            faults: FaultSet::NONE,
        }
    }
}

/// Names a disk operation until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub u32);

/// A write to the metadata file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaWrite {
    /// First byte.
    pub offset: u64,
    /// The bytes: whole sectors.
    pub bytes: Vec<u8>,
}

/// What is to be done to the replica's files.
#[derive(Clone, Debug, PartialEq)]
pub enum DiskOp<P> {
    /// Read from the data file.
    Read(ByteRange),
    /// Read from the data file, and say if all of it is hole.
    ReadOrHole(ByteRange),
    /// Write to the data file.
    Write {
        /// First byte.
        offset: u64,
        /// The bytes.
        data: P,
    },
    /// Make a range of the data file zero, and give its space back where possible.
    Zero(ByteRange),
    /// Make what was written to the data file durable (`fdatasync`).
    SyncData,
    /// Write all of these to the metadata file, then make them durable (`fdatasync`). The file's space is reserved,
    /// so there is no way to run out of it. Only one such operation is under way at a time.
    CommitMeta(Vec<MetaWrite>),
}

/// The outcome of a disk operation that did not fail.
#[derive(Clone, Debug, PartialEq)]
pub enum DiskDone<P> {
    /// Done.
    Done,
    /// What was read.
    Data(P),
    /// All of it is hole.
    Hole,
}

/// How a disk operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// ENOSPC or EDQUOT, on the data file.
    NoSpace,
    /// Anything else.
    Io,
}

/// What happens to a replica.
#[derive(Clone, Debug)]
pub enum Event<P> {
    /// A request over a session. The order within a session is the order of sending.
    Request {
        /// The session.
        session: SessionId,
        /// The request's number, to answer it by.
        id: RequestId,
        /// The request.
        request: Request<P>,
    },
    /// The session has ended; nothing more comes from it.
    Closed {
        /// The session.
        session: SessionId,
    },
    /// A disk operation is done. Comes exactly once for each.
    Disk {
        /// The operation.
        id: DiskId,
        /// Its outcome.
        result: Result<DiskDone<P>, DiskError>,
    },
    /// The time asked for by [`Action::SetTimer`] has come. May come late, and more often than asked for.
    Timer,
}

/// What a replica wants done.
#[derive(Clone, Debug)]
pub enum Action<P> {
    /// Do this to the files, then give back [`Event::Disk`].
    Disk {
        /// To be given back.
        id: DiskId,
        /// The operation.
        op: DiskOp<P>,
    },
    /// Answer a request.
    Respond {
        /// The session that it came from; if it is gone, so is the answer.
        session: SessionId,
        /// The request.
        id: RequestId,
        /// The answer.
        reply: Reply<P>,
    },
    /// Give [`Event::Timer`] at this time; replaces the time that was asked for before.
    SetTimer(Time),
    /// The replica has failed for good (D6): say so. It answers every request with that.
    Failed(FailCause),
}
