//! Identities and the volume's logical clock. Owns the newtypes; does no I/O and reads no clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The identity with exactly these 16 bytes, as the disk and the wire carry it.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes that the disk and the wire carry.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// An identity from 128 random bits that the caller supplies: this room makes no randomness.
            pub const fn from_u128(bits: u128) -> Self {
                Self(Uuid::from_u128(bits))
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }
    };
}

uuid_id!(
    /// A cluster: all nodes that share one metadata store and prefix.
    ClusterId
);
uuid_id!(
    /// A node, made once and kept on its disk.
    NodeId
);
uuid_id!(
    /// A pool: a file system on a node that holds replicas.
    PoolId
);
uuid_id!(
    /// A volume.
    VolumeId
);
uuid_id!(
    /// One node's copy of a volume.
    ReplicaId
);
uuid_id!(
    /// One opening of a replica: a fresh one is drawn at every open, so that a restart is told from a reconnect.
    Incarnation
);
uuid_id!(
    /// One boot of a kernel (`/proc/sys/kernel/random/boot_id`).
    BootId
);

/// Number in a volume's record, raised by every change of primary or of the member set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// Before any primary.
    pub const ZERO: Self = Self(0);

    /// The epoch after this one; `None` when the 32 bits are used up.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The volume's logical write clock: the epoch in the high 32 bits, a sequence in the low 32, so that plain
/// integer order is the order of the clock (after Vitastor's object versions).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tick(u64);

impl Tick {
    /// Never written.
    pub const ZERO: Self = Self(0);
    /// The stamp of a suspect chunk: later than any tick (rule D4).
    pub const SUSPECT: Self = Self(u64::MAX);

    /// The tick of this epoch and sequence.
    pub const fn new(epoch: Epoch, sequence: u32) -> Self {
        Self((epoch.0 as u64) << 32 | sequence as u64)
    }

    /// The first tick of an epoch, used by convergence alone; the first write of an epoch comes later.
    pub const fn first_of(epoch: Epoch) -> Self {
        Self::new(epoch, 0)
    }

    /// The epoch in which this tick was.
    pub const fn epoch(self) -> Epoch {
        Epoch((self.0 >> 32) as u32)
    }

    /// The sequence within the epoch.
    pub const fn sequence(self) -> u32 {
        self.0 as u32
    }

    /// The next tick of the same epoch; `None` when its sequence is used up, or the tick is [`Self::SUSPECT`].
    pub fn next(self) -> Option<Self> {
        if self.sequence() == u32::MAX {
            None
        } else {
            Some(Self(self.0 + 1))
        }
    }

    /// The 64 bits that the disk and the wire carry.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The tick that these 64 bits from the disk or the wire mean.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::SUSPECT {
            f.write_str("suspect")
        } else {
            write!(f, "{}.{}", self.epoch(), self.sequence())
        }
    }
}

impl fmt::Debug for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tick({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integer_order_is_the_order_of_the_clock() {
        let late_in_first = Tick::new(Epoch(1), u32::MAX);
        let early_in_second = Tick::first_of(Epoch(2));
        assert!(
            Tick::ZERO < late_in_first && late_in_first < early_in_second && early_in_second < Tick::SUSPECT
        );
        assert_eq!(
            late_in_first.next(),
            None,
            "a sequence never runs into the next epoch"
        );
        assert_eq!(Tick::from_bits(early_in_second.to_bits()), early_in_second);
    }
}
