//! What goes over the wire between the primary of a volume and one of its replicas: bytes to words and back.
//!
//! Pure: it opens no socket, starts no thread and decides nothing. Whatever bytes it is given, it answers with a
//! message or with a [`WireError`]; it never panics on them, and never asks for more memory than the bounds below
//! say. The layout is described in docs/wire-protocol.md.
//!
//! | part | owns |
//! |---|---|
//! | [`Version`] | the history of the protocol, and which version two nodes speak |
//! | [`Greeting`] | the handshake: [`Hello`], [`Welcome`] or [`Decline`]; readable in every version |
//! | [`Header`], [`Kind`] | the head of a frame: type, lengths, request id, checksums |
//! | [`Message`], [`Codec`] | requests and replies of [`crate::machine::protocol`], pings, and the farewell |
//! | [`FrameReader`] | frames out of a byte stream, data straight into a page-aligned buffer |

mod codec;
mod frame;
mod greeting;
mod kind;
mod message;
mod reader;
mod reply;
mod request;
#[cfg(test)]
mod tests;
mod version;

use thiserror::Error;

pub use frame::{Frame, HEADER_LEN, Header, MAGIC};
pub use greeting::{
    Decline, DeclineCode, GREETING_MAGIC, Greeting, GreetingError, Hello, MAX_GREETING_BODY, NodeRun,
    Welcome, read_greeting,
};
pub use kind::Kind;
pub use message::{Codec, Control, FarewellCode, Message};
pub use reader::{FrameReader, Head, ReadError};
pub use version::{Version, VersionRange};

/// The most data that one frame carries, in bytes: the largest block request.
pub const MAX_DATA: usize = crate::io::MAX_REQUEST;
/// The most entries in a list of chunks and stamps.
pub const MAX_LIST: usize = 8192;
/// The most metadata that one frame carries, in bytes; a list at its longest fits.
pub const MAX_META: usize = 100 << 10;
/// The longest text that a peer may send, in bytes of UTF-8.
pub const MAX_TEXT: usize = 512;

/// Why bytes are not a message, or a message cannot be bytes. After one of these nothing that follows in the
/// stream can be trusted: the connection has to be closed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// No frame starts here.
    #[error(
        "the stream holds something else where a frame should start (0x{0:08x}): this is no Bulkhead peer"
    )]
    Magic(u32),
    /// The head was damaged on its way.
    #[error("a frame's head is damaged (checksum)")]
    HeaderChecksum,
    /// The metadata was damaged on its way.
    #[error("the metadata of a {0:?} frame is damaged (checksum)")]
    MetaChecksum(Kind),
    /// The data was damaged on its way.
    #[error("the data of a {0:?} frame is damaged (checksum)")]
    DataChecksum(Kind),
    /// A type that this version of the protocol does not have.
    #[error("a frame has the unknown type {0}")]
    UnknownKind(u8),
    /// Bits that this version of the protocol does not use.
    #[error("a frame uses bits that must be zero in this version of the protocol")]
    Reserved,
    /// The data checksum is there though it was not agreed on, or is not though it was.
    #[error("a {0:?} frame does not keep to what was agreed on checksums of data")]
    DataChecksumPresence(Kind),
    /// Something is longer than its bound.
    #[error("a {kind:?} frame has {len} {what}, the most is {max}")]
    TooLong {
        /// Of which frame.
        kind: Kind,
        /// Of what.
        what: &'static str,
        /// How many.
        len: u64,
        /// The bound.
        max: u64,
    },
    /// Fewer bytes than the message needs.
    #[error("the metadata of a {0:?} frame ends too early")]
    Short(Kind),
    /// More bytes than the message needs.
    #[error("the metadata of a {kind:?} frame has {extra} bytes too many")]
    Trailing {
        /// Of which frame.
        kind: Kind,
        /// How many.
        extra: usize,
    },
    /// A value that cannot be.
    #[error("a {kind:?} frame holds an impossible {what}")]
    Value {
        /// Of which frame.
        kind: Kind,
        /// What.
        what: &'static str,
    },
    /// A message that is about data came without any.
    #[error("a {0:?} frame carries no data")]
    NoData(Kind),
}
