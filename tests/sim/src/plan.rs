//! What is done to a cluster in one run, drawn beforehand, so that a failing run can be shrunk by leaving out parts.

use std::fmt;

use bulkhead_engine::geometry::Geometry;

use crate::ambush::Ambush;

/// Nanoseconds of simulated time.
pub type Ns = u64;
/// A millisecond.
pub const MS: Ns = 1_000_000;
/// A second.
pub const SEC: Ns = 1000 * MS;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// The process of a node is killed and started again after `down`.
    Kill {
        /// Which node.
        node: usize,
        /// For how long.
        down: Ns,
    },
    /// A node loses power and comes back with another boot id.
    PowerCut {
        /// Which node.
        node: usize,
        /// For how long.
        down: Ns,
    },
    /// All nodes lose power at once.
    Blackout {
        /// For how long, at least.
        down: Ns,
    },
    /// A process does not run for a while, though its clock goes on.
    Pause {
        /// Which node.
        node: usize,
        /// For how long.
        time: Ns,
    },
    /// Nothing passes from one node to another.
    CutOneWay {
        /// From.
        from: usize,
        /// To.
        to: usize,
        /// For how long.
        time: Ns,
    },
    /// Nothing passes between two nodes.
    CutBothWays {
        /// One.
        one: usize,
        /// The other.
        other: usize,
        /// For how long.
        time: Ns,
    },
    /// A node reaches no other node, nor the store.
    Isolate {
        /// Which.
        node: usize,
        /// For how long.
        time: Ns,
    },
    /// All connections between two nodes break.
    Break {
        /// One.
        one: usize,
        /// The other.
        other: usize,
    },
    /// The network is slow between all nodes.
    SlowNet {
        /// For how long.
        time: Ns,
    },
    /// A node's disk is slow.
    SlowDisk {
        /// Which node.
        node: usize,
        /// How many times.
        times: u64,
        /// For how long.
        time: Ns,
    },
    /// The next sync, commit, write or read on a disk fails.
    DiskError {
        /// Which node.
        node: usize,
        /// Which operation.
        mishap: crate::disk::Mishap,
        /// Whether the process is killed right afterwards.
        kill: bool,
        /// Whether all are, and power is lost a little later.
        all: bool,
    },
    /// Syncs and commits of a disk take long, its writes do not.
    SlowSync {
        /// Which node; all, if none.
        node: Option<usize>,
        /// For how long.
        time: Ns,
    },
    /// A disk is full.
    DiskFull {
        /// Which node.
        node: usize,
        /// For how long.
        time: Ns,
    },
    /// The store answers nobody.
    StoreDown {
        /// For how long.
        time: Ns,
    },
    /// The store is slow; answers come too late.
    StoreSlow {
        /// For how long.
        time: Ns,
    },
    /// One node does not reach the store.
    StoreCut {
        /// Which node.
        node: usize,
        /// For how long.
        time: Ns,
    },
    /// A sector changes by itself.
    Rot {
        /// On which node.
        node: usize,
    },
    /// The members are compared while the volume is used.
    Verify {
        /// Whether they are mended.
        repair: bool,
    },
    /// The store comes back as it was some changes ago. Nothing else goes wrong after that.
    StoreRestored {
        /// How many changes.
        back: usize,
    },
    /// Somebody is struck at a certain moment.
    Ambush(Ambush),
    /// The address of a node leads to the next one.
    Misroute {
        /// Which node.
        node: usize,
        /// For how long.
        time: Ns,
    },
    /// The volume is wanted on a node while syncs are slow, and on another one before it has been released; then nodes lose
    /// power.
    Haste {
        /// Which node.
        node: usize,
        /// When it is wanted elsewhere.
        after: Ns,
        /// For how long there is no power.
        down: Ns,
    },
    /// The process that is at the volume is killed and back soon, again and again.
    Restart {
        /// For how long it is away.
        down: Ns,
        /// How often.
        times: u32,
        /// How much time it has in between, at most.
        gap: Ns,
    },
    /// A member is not wanted any more.
    Dismiss {
        /// On which node.
        node: usize,
    },
    /// The volume is wanted on a node.
    Move {
        /// Which node.
        node: usize,
        /// Whether the present primary is asked to release it first.
        ask: bool,
    },
}

/// One entry of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Ns,
    /// What.
    pub what: Mischief,
}

/// Everything that is drawn for one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: usize,
    /// How many of them hold a replica at the start.
    pub replicas: usize,
    /// Whether another replica is added on the way.
    pub added_at: Option<Ns>,
    /// The volume's size and division.
    pub geometry: Geometry,
    /// Whether a keeper holds what the kernel asks of a process that dies, for the next one.
    pub keeper: bool,
    /// When the mischief ends and everything is repaired.
    pub calm_at: Ns,
    /// Mean time between operations of a user.
    pub op_gap: Ns,
    /// How much of a clock's second a node's clock is off, at most, in thousandths.
    pub drift: u64,
    /// How long members have to answer at the start.
    pub open_patience: Ns,
    /// After how long a region's intent bit may be cleared.
    pub region_idle: Ns,
    /// Chunks that are copied at the same time.
    pub max_copies: usize,
    /// Most bytes that are copied in one request.
    pub copy_piece: u64,
    /// Most chunks that are named in one request.
    pub page: u32,
    /// Bytes a second that a rebuild copies at least.
    pub copy_floor: u64,
    /// Mischief, in order of time.
    pub entries: Vec<Entry>,
    /// Deliberate fault in the machines.
    pub fault: Option<bulkhead_engine::machine::Fault>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} nodes{}, {} replicas{}, {} MiB in chunks of {} KiB, calm after {:.1} s, an operation every {:.1} ms",
            self.nodes,
            if self.keeper { " with keepers" } else { "" },
            self.replicas,
            self.added_at.map_or(String::new(), |at| format!(
                " (one more after {:.1} s)",
                at as f64 / SEC as f64
            )),
            self.geometry.size() >> 20,
            self.geometry.chunk_size() >> 10,
            self.calm_at as f64 / SEC as f64,
            self.op_gap as f64 / MS as f64,
        )?;
        for (index, entry) in self.entries.iter().enumerate() {
            writeln!(
                f,
                "  {index:>3} {:>9.3} s {:?}",
                entry.at as f64 / SEC as f64,
                entry.what
            )?;
        }
        Ok(())
    }
}

impl Plan {
    /// The plan without some of its entries.
    pub fn with_only(&self, keep: &[usize]) -> Self {
        let entries = self.entries.iter().enumerate();
        let kept = entries
            .filter(|(index, _)| keep.contains(index))
            .map(|(_, entry)| *entry);
        Self {
            entries: kept.collect(),
            ..self.clone()
        }
    }
}
