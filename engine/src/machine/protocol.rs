//! What a primary asks of a replica, and what it is answered. The words of the wire; owns no rule.

use crate::format::{FailCause, ReplicaIdentity};
use crate::geometry::{ByteRange, Chunk};
use crate::ids::{Epoch, Incarnation, Tick};
use std::time::Duration;

/// One connection between a primary and a replica, numbered by whoever names it; never used twice on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A request of one primary; unique while it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a replica is to the primary that opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// In sync; its acknowledgements count.
    Member,
    /// Being brought up to date; its durable tick does not move (R5).
    Rebuild,
}

/// How a write changes the stamps of the chunks that it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StampRule {
    /// A write: the stamp is raised to the write's tick, never lowered.
    Raise,
    /// The last piece of a copied chunk: the stamp becomes exactly the given one once it is written, and until then suspect.
    Set,
}

/// The first request of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Who is meant (D7).
    pub identity: ReplicaIdentity,
    /// The primary's epoch.
    pub epoch: Epoch,
    /// The epoch in which this primary was attached: who it is, as far as leases go.
    pub term: Epoch,
    /// Which attaching of the volume this primary is: two that were given the same epoch differ in it (T3).
    pub attached_by: Incarnation,
    /// Counts the sessions of this primary, so that one that comes late is known.
    pub attempt: u64,
    /// What the replica is to this primary.
    pub role: Role,
    /// The opening of the replica that this primary knows; any, if none.
    pub expects: Option<Incarnation>,
    /// This primary goes on for one of the same node whose process has ended: the epoch of the record that its swap replaced,
    /// before the own term. Leases of terms up to it are over (T5).
    pub resumes: Option<Epoch>,
}

/// A request to a replica.
#[derive(Clone, Debug, PartialEq)]
pub enum Request<P> {
    /// Opens the session.
    Open(Open),
    /// The same primary goes on in a newer epoch, and the replica's role may have changed.
    Raise {
        /// The newer epoch.
        epoch: Epoch,
        /// The role from now on.
        role: Role,
    },
    /// Reads a range.
    Read(ByteRange),
    /// Reads a part of one chunk in order to copy it.
    Copy(ByteRange),
    /// Writes.
    Write {
        /// First byte.
        offset: u64,
        /// The bytes.
        data: P,
        /// The tick of the write.
        tick: Tick,
        /// What happens to the stamps.
        stamp: StampRule,
    },
    /// Makes a range zero.
    Zero {
        /// The range.
        range: ByteRange,
        /// The tick of the write.
        tick: Tick,
        /// What happens to the stamps.
        stamp: StampRule,
    },
    /// Makes every write that was answered durable.
    Flush,
    /// Renews the lease and tells the settled tick.
    Ping {
        /// The settled tick; for a replica under rebuild the tick up to which it has received every write.
        settled: Tick,
    },
    /// Asks which chunks carry a stamp after `after`, from chunk `from` on, at most `limit` of them.
    Changed {
        /// Only later stamps.
        after: Tick,
        /// First chunk to look at.
        from: Chunk,
        /// Most entries in an answer.
        limit: u32,
    },
    /// Sets the stamps of these chunks.
    Stamp(Vec<(Chunk, Tick)>),
    /// Gives every chunk stamped after `after` the stamp `tick`.
    Restamp {
        /// Only later stamps.
        after: Tick,
        /// The new stamp.
        tick: Tick,
    },
    /// Flushes and writes a checkpoint.
    Checkpoint {
        /// The replica holds everything that counts: it is whole again.
        whole: bool,
    },
    /// The volume is detached in order: nothing is in flight. Ends the session and its lease.
    Release {
        /// The settled tick.
        settled: Tick,
    },
    /// The replica answered something wrong: it is to mark itself failed (D6).
    Fail(FailCause),
    /// Asks for a digest of a range, in order to compare members.
    Hash(ByteRange),
    /// Asks for a digest of each block of a range in one chunk: what a copy compares, so that it moves only what differs.
    Digests {
        /// The range.
        range: ByteRange,
        /// Bytes in a block; the last one may be shorter.
        block: u32,
    },
    /// Asks what the replica says of itself, without a session and without any effect.
    Inspect(ReplicaIdentity),
}

/// The smallest block that digests are asked for, in bytes.
pub const MIN_DIGEST_BLOCK: u32 = 512;
/// The most blocks whose digests are asked for at once.
pub const MAX_DIGESTS: u64 = 2048;

/// How many digests answer for a range in blocks of this size; none if such a question is not asked.
pub fn digest_count(range: ByteRange, block: u32) -> Option<u64> {
    let is_block = block >= MIN_DIGEST_BLOCK && block.is_power_of_two();
    let count = is_block.then(|| range.len.div_ceil(u64::from(block)))?;
    (count <= MAX_DIGESTS).then_some(count)
}

/// What a replica says of itself when a session is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its opening.
    pub incarnation: Incarnation,
    /// Its durable tick.
    pub durable: Tick,
    /// The settled tick that it knows.
    pub settled: Tick,
    /// Whether it holds every write that it acknowledged.
    pub whole: bool,
    /// Whether it was closed in order, and not written since.
    pub clean: bool,
    /// How long the lease of another primary may still run.
    pub wait: Duration,
}

/// What a replica says of itself to whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Its opening.
    pub incarnation: Incarnation,
    /// The highest epoch that it has accepted.
    pub epoch: Epoch,
    /// Its durable tick.
    pub durable: Tick,
    /// The settled tick that it knows.
    pub settled: Tick,
    /// Whether it holds every write that it acknowledged.
    pub whole: bool,
    /// Whether it was closed in order, and not written since.
    pub clean: bool,
    /// Why it has failed, if it has.
    pub failed: Option<FailCause>,
    /// Chunks that were stamped after its durable tick: what they hold may be newer or older than what was acknowledged.
    pub unsettled: u32,
    /// Of these, chunks of which nothing is known.
    pub suspect: u32,
}

/// Why a replica does not serve a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has accepted this newer epoch.
    Epoch(Epoch),
    /// The session is not, or not any more, the current one.
    Session,
    /// It is another replica than the one that is meant (D7).
    Identity,
    /// It was restarted since (D7).
    Incarnation(Incarnation),
    /// The request cannot be: out of bounds, or out of place.
    Malformed,
}

/// An answer of a replica.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply<P> {
    /// To Open.
    Opened(Opened),
    /// Done, and as durable as the request asks.
    Done,
    /// To Read.
    Data(P),
    /// To Copy.
    Chunk {
        /// The content; nothing if it is all hole.
        content: Option<P>,
        /// The chunk's stamp.
        stamp: Tick,
    },
    /// To Changed.
    Changed {
        /// Chunks and their stamps, in order.
        chunks: Vec<(Chunk, Tick)>,
        /// Where to go on, if there is more.
        next: Option<Chunk>,
    },
    /// To Hash: zero if and only if every byte is zero.
    Hashed(u128),
    /// To Digests.
    Digests {
        /// One for each block, in order, as in Hashed.
        blocks: Vec<u128>,
        /// The chunk's stamp.
        stamp: Tick,
    },
    /// To Inspect.
    Inspected(Inspected),
    /// There is no space. Nothing is known of the range's content; the replica goes on.
    NoSpace,
    /// The range could not be read. The replica goes on: what that means is the primary's to decide.
    Unreadable,
    /// The replica has failed for good (D6).
    Failed(FailCause),
    /// Refused.
    Refused(Refusal),
}
