//! How the plan of a seed is drawn: the cluster, what is used of it, and what goes wrong.

use bulkhead_engine::geometry::{Geometry, SIZE_STEP};

use crate::ambush::{Ambush, MOMENTS, Moment, RESTARTS, Victim};
use crate::plan::{Entry, MS, Mischief, Ns, Plan, SEC};
use crate::rng::Rng;

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
