//! The types of frames: their numbers, and what each may carry. The numbers never change their meaning.

use super::{MAX_DATA, MAX_META, MAX_TEXT, WireError};

/// The most metadata of a frame without a list, in bytes.
const FIXED_META: usize = 128;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// The type of a frame. Requests count from 1, replies from 65, frames of the connection itself from 129.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            /// Every type.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The type of this number.
            pub const fn from_number(number: u8) -> Result<Self, WireError> {
                match number {
                    $($number => Ok(Self::$name),)*
                    _ => Err(WireError::UnknownKind(number)),
                }
            }
        }
    };
}

kinds! {
    /// Opens the session.
    Open = 1,
    /// A newer epoch, or another role.
    Raise = 2,
    /// Reads a range.
    Read = 3,
    /// Reads in order to copy.
    Copy = 4,
    /// Writes the frame's data.
    Write = 5,
    /// Makes a range zero.
    Zero = 6,
    /// Makes durable.
    Flush = 7,
    /// Renews the lease and tells the settled tick.
    Renew = 8,
    /// Asks for changed chunks.
    Changed = 9,
    /// Sets stamps.
    Stamp = 10,
    /// Sets the stamps of all later ones.
    Restamp = 11,
    /// Asks for a checkpoint.
    Checkpoint = 12,
    /// Ends the session in order.
    Release = 13,
    /// Tells the replica that it has failed.
    Fail = 14,
    /// Asks for a digest.
    Hash = 15,
    /// Asks what the replica says of itself.
    Inspect = 16,
    /// Asks for the digests of the blocks of a range.
    Digests = 17,
    /// Answers Open.
    Opened = 65,
    /// Done.
    Done = 66,
    /// Answers Read with the frame's data.
    Data = 67,
    /// Answers Copy, with data unless it is all hole.
    ChunkContent = 68,
    /// Answers Changed.
    ChangedChunks = 69,
    /// No space.
    NoSpace = 70,
    /// Not readable.
    Unreadable = 71,
    /// The replica has failed.
    Failed = 72,
    /// The replica refuses.
    Refused = 73,
    /// Answers Hash.
    Hashed = 74,
    /// Answers Inspect.
    Inspected = 75,
    /// Answers Digests.
    DigestList = 76,
    /// Are you there?
    Ping = 129,
    /// I am.
    Pong = 130,
    /// The sender closes the connection, and says why.
    Farewell = 131,
}

impl Kind {
    /// Its number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether it goes from the primary to the replica.
    pub const fn is_request(self) -> bool {
        self.number() <= 64
    }

    /// Whether it goes from the replica to the primary.
    pub const fn is_reply(self) -> bool {
        self.number() > 64 && self.number() <= 128
    }

    /// The most data that it may carry, in bytes.
    pub const fn max_data(self) -> usize {
        match self {
            Self::Write | Self::Data | Self::ChunkContent => MAX_DATA,
            _ => 0,
        }
    }

    /// The most metadata that it may carry, in bytes.
    pub const fn max_meta(self) -> usize {
        match self {
            Self::Stamp | Self::ChangedChunks | Self::DigestList => MAX_META,
            Self::Farewell => MAX_TEXT + FIXED_META,
            _ => FIXED_META,
        }
    }
}
