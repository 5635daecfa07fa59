//! What is done to a cluster in one run, drawn beforehand, so that a failing run can be shrunk by leaving out parts.

use std::fmt;

use bulkhead_engine::geometry::{Geometry, SIZE_STEP};

use crate::ambush::{Ambush, MOMENTS, Moment, RESTARTS, Victim};
use crate::rng::Rng;

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

/// Kinds of mischief; a run draws from some of them, so that each comes up without the others too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kill,
    PowerCut,
    Blackout,
    Pause,
    Cut,
    Isolate,
    Break,
    SlowNet,
    SlowDisk,
    SlowSync,
    DiskError,
    DiskFull,
    Store,
    Move,
    Ambush,
    Misroute,
    Rot,
    Verify,
    StoreRestored,
    Haste,
}

const KINDS: &[Kind] = &[
    Kind::Kill,
    Kind::PowerCut,
    Kind::Blackout,
    Kind::Pause,
    Kind::Cut,
    Kind::Isolate,
    Kind::Break,
    Kind::SlowNet,
    Kind::SlowDisk,
    Kind::SlowSync,
    Kind::DiskError,
    Kind::DiskFull,
    Kind::Store,
    Kind::Move,
    Kind::Move,
    Kind::Ambush,
    Kind::Ambush,
    Kind::Misroute,
    Kind::Rot,
    Kind::Verify,
    Kind::Verify,
    Kind::StoreRestored,
    Kind::Haste,
];

/// What long runs with many takeovers are made of.
const TAKEOVERS: &[Kind] = &[
    Kind::Move,
    Kind::Move,
    Kind::Move,
    Kind::Ambush,
    Kind::Ambush,
    Kind::Kill,
    Kind::PowerCut,
    Kind::Blackout,
    Kind::Isolate,
    Kind::SlowSync,
    Kind::Haste,
];

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 1);
        let rng = &mut rng;
        let takeovers = rng.chance(30);
        let replicas = if takeovers {
            rng.pick(&[2, 3, 3, 3])
        } else {
            rng.pick(&[1, 1, 2, 2, 2, 2, 3, 3, 3])
        };
        let nodes = if replicas == 1 {
            rng.pick(&[1, 1, 2, 3])
        } else {
            rng.between(replicas as u64, 4) as usize
        };
        // Users that never leave a gap.
        let restless = rng.below(1000) < 3;
        let calm_at = if restless {
            2 * SEC
        } else if takeovers {
            rng.pick(&[8, 14]) * SEC
        } else {
            rng.pick(&[2, 4, 6, 10]) * SEC
        };
        let added = replicas < nodes && rng.chance(50);
        let mut kinds: Vec<Kind> = if takeovers { TAKEOVERS } else { KINDS }.to_vec();
        // Few kinds at a time bring out what a mixture of all hides.
        let keep = rng.between(2, kinds.len() as u64) as usize;
        while kinds.len() > keep {
            kinds.remove(rng.below(kinds.len() as u64) as usize);
        }
        let gap = rng.pick(&[100, 200, 400, 800]) * MS;
        let mut entries = Vec::new();
        let mut at = 300 * MS;
        loop {
            at += gap / 4 + rng.below(gap * 3 / 2);
            if at >= calm_at {
                break;
            }
            let kind = rng.pick(&kinds);
            let what = mischief(kind, nodes, rng);
            entries.push(Entry { at, what });
        }
        entries.extend(dismissals(seed, nodes, calm_at));
        let restarts = restarts(seed, nodes, calm_at);
        let keeper = restarts.is_some();
        let mut busy = false;
        if let Some((alone, restarts)) = restarts {
            if alone {
                entries.clear();
                busy = calm_at <= 4 * SEC && rng.chance(50);
            }
            entries.extend(restarts);
        }
        let chunk = rng.pick(&[64 << 10, 512 << 10, 1 << 20, 1 << 20]);
        let size = rng.pick(&[4, 8, 12, 11, 24, 40]) << 20;
        Self {
            seed,
            nodes,
            replicas,
            added_at: added.then(|| rng.between(SEC, calm_at)),
            geometry: division(size, chunk),
            keeper,
            calm_at,
            op_gap: if restless {
                MS / 16
            } else if busy {
                // So that there is something under way whenever a process dies.
                MS / 2
            } else {
                rng.pick(&[1, 3, 5, 10, 30]) * MS
            },
            drift: rng.pick(&[0, 10, 50, 120]),
            open_patience: rng.pick(&[200, 800]) * MS,
            region_idle: rng.pick(&[50, 50, 500]) * MS,
            max_copies: rng.pick(&[1, 4]),
            copy_piece: rng.pick(&[64, 256]) << 10,
            page: rng.pick(&[3, 3, 4096]),
            copy_floor: rng.pick(&[4, 16]) << 20,
            entries,
            fault: None,
        }
    }

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

/// A division of the sizes that are drawn here always exists; the smallest one stands in for the compiler.
fn division(size: u64, chunk: u64) -> Geometry {
    let Ok(geometry) = Geometry::new(size, chunk, 4 << 20).or_else(|_| Geometry::for_size(SIZE_STEP)) else {
        unreachable!("a volume of 1 MiB has a division");
    };
    geometry
}

/// Members that nobody wants any more; drawn apart from everything else.
fn dismissals(seed: u64, nodes: usize, calm_at: Ns) -> Vec<Entry> {
    let mut rng = Rng::new(seed, 6);
    if !rng.chance(25) {
        return Vec::new();
    }
    let mut dismissal = |_| Entry {
        at: rng.between(300 * MS, calm_at),
        what: Mischief::Dismiss {
            node: rng.below(nodes as u64) as usize,
        },
    };
    (0..4).map(&mut dismissal).collect()
}

/// Processes that die and come back for what they have left in the kernel, where there is a keeper; drawn apart from everything else.
/// And whether nothing else goes wrong: else the volume is hardly ever served for long enough to leave something.
fn restarts(seed: u64, nodes: usize, calm_at: Ns) -> Option<(bool, Vec<Entry>)> {
    let mut rng = Rng::new(seed, 7);
    if !rng.chance(50) {
        return None;
    }
    let rng = &mut rng;
    let alone = rng.chance(60);
    let count = if alone {
        calm_at / rng.pick(&[150 * MS, 300 * MS, SEC])
    } else {
        rng.pick(&[0, 2, 5, 10])
    };
    let entry = |_| Entry {
        at: rng.between(300 * MS, calm_at),
        what: restart(nodes, rng),
    };
    Some((alone, (0..count).map(entry).collect()))
}

fn restart(nodes: usize, rng: &mut Rng) -> Mischief {
    let down = rng.pick(&[2, 20, 150, 600]) * MS;
    let down = rng.between(down / 2, down);
    match rng.below(100) {
        0..40 => Mischief::Restart {
            down,
            times: rng.pick(&[1, 1, 2, 5]),
            gap: rng.pick(&[1, 5, 30, 300]) * MS,
        },
        40..46 => Mischief::Move {
            node: rng.below(nodes as u64) as usize,
            ask: rng.chance(30),
        },
        _ => Mischief::Ambush(Ambush {
            moment: rng.pick(RESTARTS),
            skip: rng.pick(&[0, 0, 1, 5, 40]),
            within: rng.pick(&[1, MS / 2, 4 * MS, 30 * MS]),
            victim: match rng.below(100) {
                0..60 => Victim::Primary,
                60..75 => Victim::Replica,
                75..85 => Victim::All,
                _ => Victim::Throne,
            },
            power: rng.chance(15),
            down,
        }),
    }
}

fn mischief(kind: Kind, nodes: usize, rng: &mut Rng) -> Mischief {
    let node = rng.below(nodes as u64) as usize;
    let other = (node + 1 + rng.below(nodes.max(2) as u64 - 1) as usize) % nodes;
    let short = rng.between(5, 300) * MS;
    let long = rng.between(300, 4000) * MS;
    let time = if rng.chance(50) { short } else { long };
    match kind {
        Kind::Kill => Mischief::Kill { node, down: time },
        Kind::PowerCut => Mischief::PowerCut { node, down: time },
        Kind::Blackout if rng.chance(50) => Mischief::Blackout { down: time },
        Kind::Blackout => Mischief::PowerCut { node, down: short },
        Kind::Pause => Mischief::Pause { node, time },
        Kind::Cut if rng.chance(50) => Mischief::CutOneWay {
            from: node,
            to: other,
            time,
        },
        Kind::Cut => Mischief::CutBothWays {
            one: node,
            other,
            time,
        },
        Kind::Isolate if rng.chance(30) => Mischief::Isolate {
            node,
            time: rng.between(5, 9) * SEC,
        },
        Kind::Isolate => Mischief::Isolate { node, time },
        Kind::Misroute => Mischief::Misroute { node, time },
        Kind::Rot => Mischief::Rot { node },
        Kind::Verify => Mischief::Verify {
            repair: rng.chance(50),
        },
        // It ends the mischief, so it is rare.
        Kind::StoreRestored if rng.chance(8) => Mischief::StoreRestored {
            back: rng.between(1, 6) as usize,
        },
        Kind::StoreRestored => Mischief::Kill { node, down: time },
        // The moment at which two members can come to differ in who they are.
        Kind::Ambush if rng.chance(12) => Mischief::Ambush(Ambush {
            moment: Moment::Joining,
            skip: 0,
            within: rng.pick(&[1, MS / 2, 2 * MS]),
            victim: Victim::Throne,
            power: false,
            down: short,
        }),
        Kind::Haste => Mischief::Haste {
            node,
            after: rng.between(20, 1400) * MS,
            down: short,
        },
        Kind::Ambush => Mischief::Ambush(Ambush {
            moment: rng.pick(MOMENTS),
            skip: rng.pick(&[0, 0, 1, 3, 10]),
            within: rng.pick(&[1, MS / 2, 4 * MS, 30 * MS]),
            victim: match rng.below(100) {
                0..25 => Victim::Primary,
                25..50 => Victim::Replica,
                50..73 => Victim::All,
                73..90 => Victim::Throne,
                90..97 => Victim::Disk,
                _ => Victim::Store,
            },
            power: rng.chance(65),
            down: if rng.chance(70) { short } else { long },
        }),
        Kind::Break => Mischief::Break { one: node, other },
        Kind::SlowNet => Mischief::SlowNet { time },
        Kind::SlowDisk => Mischief::SlowDisk {
            node,
            times: rng.pick(&[20, 200, 2000]),
            time,
        },
        Kind::SlowSync => Mischief::SlowSync {
            node: rng.chance(50).then_some(node),
            time,
        },
        Kind::DiskError => Mischief::DiskError {
            node,
            mishap: {
                use crate::disk::Mishap::{Commit, Read, Sync, Write};
                rng.pick(&[Sync, Sync, Commit, Write, Read])
            },
            kill: rng.chance(30),
            all: rng.chance(15),
        },
        Kind::DiskFull => Mischief::DiskFull { node, time },
        Kind::Store => match rng.below(3) {
            0 => Mischief::StoreDown { time },
            1 => Mischief::StoreSlow { time },
            _ => Mischief::StoreCut { node, time },
        },
        Kind::Move => Mischief::Move {
            node,
            ask: rng.chance(40),
        },
    }
}
