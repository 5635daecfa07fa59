//! Why a session ended, why something was not sent, why no session came about. In words for people.

use super::LinkConfigError;
use crate::ids::NodeId;
use crate::machine::protocol::RequestId;
use crate::wire::{DeclineCode, FarewellCode, GreetingError, VersionRange, WireError};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use thiserror::Error;

/// Why a session has ended.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CloseReason {
    /// This end was asked to close it.
    #[error("the session was closed here")]
    Asked,
    /// The peer closed it and said why.
    #[error("the peer closed the session: {text}")]
    Farewell {
        /// Why, for a program.
        code: FarewellCode,
        /// Why, in the peer's words.
        text: String,
    },
    /// The peer closed it without a word: its process has ended.
    #[error("the peer ended the connection without a word; its process may have died")]
    Ended,
    /// The connection broke.
    #[error("the connection broke: {message}")]
    Broken {
        /// What kind of failure.
        kind: io::ErrorKind,
        /// What the system says.
        message: String,
    },
    /// Nothing came from the peer.
    #[error("nothing was heard of the peer for {0:?}")]
    Silent(Duration),
    /// A request was not answered in time.
    #[error("the peer did not answer request {} within {within:?}", .id.0)]
    Unanswered {
        /// Which.
        id: RequestId,
        /// Its deadline.
        within: Duration,
    },
    /// A ping was not answered in time, though the peer sends.
    #[error("the peer did not answer a ping within {0:?}, though it sends; it does not get to reading")]
    PingUnanswered(Duration),
    /// The peer takes no bytes.
    #[error("the peer took no byte for {0:?}; it does not read, or the network is cut one way")]
    Stalled(Duration),
    /// The peer sent what is no message.
    #[error("the peer broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// The peer sent a message that is out of place.
    #[error("the peer broke the protocol: {0}")]
    Violation(String),
}

impl CloseReason {
    /// What the peer is told, if it can be told.
    pub(super) fn farewell(&self) -> Option<(FarewellCode, String)> {
        let code = match self {
            Self::Asked => FarewellCode::Asked,
            Self::Wire(_) | Self::Violation(_) => FarewellCode::Violation,
            Self::Silent(_) | Self::Unanswered { .. } | Self::PingUnanswered(_) | Self::Stalled(_) => {
                FarewellCode::Late
            }
            Self::Farewell { .. } | Self::Ended | Self::Broken { .. } => return None,
        };
        Some((code, self.to_string()))
    }
}

impl From<io::Error> for CloseReason {
    fn from(error: io::Error) -> Self {
        Self::Broken {
            kind: error.kind(),
            message: error.to_string(),
        }
    }
}

/// Why something was not sent.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SendError {
    /// The session is over.
    #[error("{0}")]
    Closed(CloseReason),
    /// The queue is full, or too many requests are not answered. Nothing was sent; the session goes on.
    #[error(
        "the peer does not keep up: {queued} bytes and {in_flight} requests wait; try again when some are answered"
    )]
    Full {
        /// Bytes that the socket has not taken.
        queued: usize,
        /// Requests that are not answered.
        in_flight: usize,
    },
    /// A request of this number is in flight already.
    #[error("request {} is in flight already", .0.0)]
    Twice(RequestId),
    /// An answer to what was not asked, or was answered before.
    #[error("request {} is not waiting for an answer", .0.0)]
    NotAsked(RequestId),
    /// The message is beyond the bounds of the protocol.
    #[error("{0}")]
    Wire(#[from] WireError),
}

/// Why no session came about.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nobody knows where the node is.
    #[error("node {0} has no known address; is it registered and running?")]
    NoAddress(NodeId),
    /// There was no connection.
    #[error("node {node} cannot be reached at {address}: {error}")]
    Unreachable {
        /// The node.
        node: NodeId,
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// What answered was not understood, or did not answer in time.
    #[error("the handshake failed: {0}")]
    Greeting(#[from] GreetingError),
    /// The peer says no.
    #[error("node {node} declined: {text}")]
    Declined {
        /// Who.
        node: NodeId,
        /// Why, for a program.
        code: DeclineCode,
        /// What it speaks.
        versions: VersionRange,
        /// Why, in its words.
        text: String,
    },
    /// Another node answers there, or one of another cluster (D7).
    #[error(
        "node {expected} was meant, but {found} answered; was its address given to another node, or is it of another cluster?"
    )]
    OtherNode {
        /// Who was meant.
        expected: NodeId,
        /// Who it is.
        found: String,
    },
    /// The peer said something out of place.
    #[error("node {node} answered the handshake with {what}")]
    Unexpected {
        /// Who.
        node: NodeId,
        /// With what.
        what: &'static str,
    },
    /// The system has no thread or socket left.
    #[error("a session could not be started: {0}")]
    Start(io::Error),
    /// The configuration cannot be.
    #[error("{0}")]
    Config(#[from] LinkConfigError),
}
