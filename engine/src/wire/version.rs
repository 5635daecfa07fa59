//! The history of the protocol, and which version two nodes speak. Adding a version means: a variant here with what
//! it changed, and its encoding beside the older ones, for as long as they are spoken.

use std::fmt;

/// A version of the protocol. One variant for each that was ever released, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Version {
    /// The first: every request and reply of a replica, pings, the farewell; checksums of data by agreement.
    V1 = 1,
    /// Open says whether the primary goes on for one that has ended (T5).
    V2 = 2,
}

impl Version {
    /// The oldest that this program still speaks.
    pub const OLDEST: Self = Self::V1;
    /// The newest that this program speaks.
    pub const NEWEST: Self = Self::V2;

    /// Its number on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The version of this number, if this program speaks it.
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }
}

/// The versions that a node speaks, by number, because a peer may speak ones that this program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl VersionRange {
    /// What this program speaks.
    pub const OURS: Self = Self {
        oldest: Version::OLDEST.number(),
        newest: Version::NEWEST.number(),
    };

    /// The newest version that both speak.
    pub fn agree(self, other: Self) -> Option<Version> {
        let newest = self.newest.min(other.newest);
        let oldest = self.oldest.max(other.oldest);
        if newest < oldest {
            return None;
        }
        Version::from_number(newest)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "version {}", self.oldest)
        } else {
            write!(f, "versions {} to {}", self.oldest, self.newest)
        }
    }
}
