//! Why a volume could not be placed, in words that tell an operator what to change.

use std::fmt;

use thiserror::Error;

use crate::schema::{IoPriority, NodeDuty, VolumeSpec};

/// Why a node takes no replica of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It would take one, but there are too few like it.
    Fits,
    /// `nodes=` names it, and there is no such node.
    Unknown,
    /// `nodes=` does not name it.
    NotNamed,
    /// It has a replica of this volume already.
    HasOne,
    /// It does not live.
    Offline,
    /// The operator wants nothing new on it.
    Duty(NodeDuty),
    /// Its zone or rack is none of those asked for.
    Label {
        /// `zone` or `rack`.
        label: &'static str,
        /// What it has.
        has: Option<String>,
        /// What was asked for.
        wanted: Vec<String>,
    },
    /// A volume of the same group is on it, and `fg` forbids two.
    Group {
        /// The group.
        group: String,
        /// The volume.
        volume: String,
    },
    /// It has no pool.
    NoPool,
    /// Its pool is down or being drained.
    PoolState,
    /// Its pools are too slow.
    Priority {
        /// What the fastest has.
        has: IoPriority,
        /// What was asked for.
        wanted: IoPriority,
    },
    /// Too little may still be promised of its pools.
    Room {
        /// Bytes that may be.
        room: u64,
        /// Bytes asked for.
        wanted: u64,
        /// Bytes of the pool.
        capacity: u64,
        /// Its over-commit limit.
        overcommit_percent: u32,
    },
    /// Its pool's disk is nearly full.
    NearlyFull {
        /// Bytes free.
        free: u64,
        /// Bytes of the pool.
        capacity: u64,
    },
}

impl Reason {
    /// How near a pool came to be taken: of several, the nearest is told.
    pub(super) fn nearness(&self) -> (u8, u64) {
        match self {
            Self::NearlyFull { free, .. } => (4, *free),
            Self::Room { room, .. } => (3, *room),
            Self::Priority { has, .. } => (2, *has as u64),
            Self::PoolState => (1, 0),
            _ => (0, 0),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fits => f.write_str("would take one replica"),
            Self::Unknown => f.write_str("is not a node of this cluster"),
            Self::NotNamed => f.write_str("is not among the nodes asked for"),
            Self::HasOne => f.write_str("has a replica of it already"),
            Self::Offline => f.write_str("is offline"),
            Self::Duty(NodeDuty::Drained) => f.write_str("is being drained"),
            Self::Duty(NodeDuty::Maintenance) => f.write_str("is in maintenance"),
            Self::Duty(NodeDuty::Decommissioned) => f.write_str("is decommissioned"),
            Self::Duty(NodeDuty::Full) => f.write_str("takes nothing new"),
            Self::Label { label, has, wanted } => {
                let wanted = wanted.join(", ");
                match has {
                    Some(has) => write!(f, "is in {label} {has}, asked for: {wanted}"),
                    None => write!(f, "has no label `{label}`, asked for: {wanted}"),
                }
            }
            Self::Group { group, volume } => write!(f, "holds volume `{volume}` of the same group `{group}`"),
            Self::NoPool => f.write_str("has no pool (bulkhead pool add DEVICE makes one)"),
            Self::PoolState => f.write_str("has a pool, but it is down or being drained"),
            Self::Priority { has, wanted } => {
                write!(f, "has pools of I/O priority {has} at best, asked for: {wanted}")
            }
            Self::Room {
                room,
                wanted,
                capacity,
                overcommit_percent,
            } => write!(
                f,
                "has room for {} more, asked for: {} (a pool of {} at an over-commit limit of {overcommit_percent} %)",
                Bytes(*room),
                Bytes(*wanted),
                Bytes(*capacity)
            ),
            Self::NearlyFull { free, capacity } => {
                write!(
                    f,
                    "has a pool that is nearly full ({} of {} free)",
                    Bytes(*free),
                    Bytes(*capacity)
                )
            }
        }
    }
}

/// A node, and why it was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its name, or what `nodes=` called it.
    pub node: String,
    /// Why.
    pub reason: Reason,
}

/// A volume that cannot be placed, with every node that was considered.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct Refusal {
    /// Replicas that need a place.
    pub wanted: usize,
    /// Nodes that would take one.
    pub possible: usize,
    /// Every node, and why it was not taken.
    pub nodes: Vec<Verdict>,
    size: u64,
}

impl Refusal {
    pub(super) fn new(spec: &VolumeSpec, wanted: usize, mut nodes: Vec<Verdict>) -> Self {
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        Self {
            wanted,
            possible: nodes
                .iter()
                .filter(|verdict| verdict.reason == Reason::Fits)
                .count(),
            nodes,
            size: spec.size,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replicas = if self.wanted == 1 { "replica" } else { "replicas" };
        write!(
            f,
            "no place for {} {replicas} of {}: {} of {} nodes would take one",
            self.wanted,
            Bytes(self.size),
            self.possible,
            self.nodes.len()
        )?;
        for verdict in &self.nodes {
            write!(f, "; {} {}", verdict.node, verdict.reason)?;
        }
        Ok(())
    }
}

/// Bytes for people, in the units of the options: `10 GiB`.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] = [
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
        ];
        for (unit, size) in UNITS {
            if self.0 >= size {
                let tenths = u128::from(self.0) * 10 / u128::from(size);
                return match tenths % 10 {
                    0 => write!(f, "{} {unit}", tenths / 10),
                    rest => write!(f, "{}.{rest} {unit}", tenths / 10),
                };
            }
        }
        write!(f, "{} bytes", self.0)
    }
}
