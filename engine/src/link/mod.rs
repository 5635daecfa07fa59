//! Sessions between nodes: one connection for each volume and each of its replicas on another node.
//!
//! Owns sockets, their threads, and every wait on a peer; decides nothing about replication. No wait is without a
//! bound, no memory that a peer can make this end hold either. It must never let one session hold up another.
//!
//! | part | owns |
//! |---|---|
//! | [`Connector`] | the way to one replica: an attempt when asked for, with growing pauses |
//! | [`Listener`] | the way in: a deadline for each handshake, a bound on how many wait |
//! | [`PrimarySession`] | the primary's end: sends requests, hands up replies |
//! | [`ReplicaSession`] | the replica's end: hands up requests, sends replies |
//! | [`Stream`], [`Transport`] | the byte stream below: plain TCP here; TLS takes the same place |
//! | [`LinkConfig`] | every deadline and every bound |
//!
//! # Why a connection for each volume and replica
//!
//! On a shared connection one volume whose disk is stuck stops the reader, and with it every other volume; telling
//! them apart again means windows for each volume, which is a second TCP inside of TCP. A connection of its own gives
//! each volume its own queue, window, deadlines and end, and makes the machine's session and the connection one and
//! the same thing: what was sent in a session either arrives in order or the session is over. The price is a socket
//! and two threads a session, and one ping a second each way; a node with 200 sessions spends 400 threads that sleep.
//!
//! # What a caller waits for
//!
//! [`PrimarySession::request`] and [`ReplicaSession::reply`] never wait for the peer. They take a lock that is held for
//! system calls that do not block, and write directly while the socket takes it; what it does not take goes into a
//! queue with a bound, drained by the session's keeper thread. A full queue is an error at once
//! ([`SendError::Full`]).
//!
//! # How a dead peer is found
//!
//! | rule | says | default |
//! |---|---|---|
//! | silence | nothing at all has come from the peer, which pings every second | 3 s |
//! | unanswered | a request, or a ping of ours, was not answered within its deadline | 5 s |
//! | stalled | the socket took no byte of a queue that is not empty | 5 s |
//! | kernel | keepalive and TCP_USER_TIMEOUT (stall and silence together), should this process itself be held up | 8 s |

mod backoff;
mod channel;
mod config;
mod connector;
mod error;
mod handshake;
mod in_flight;
mod listener;
mod outbox;
mod permits;
mod primary;
mod pulse;
mod replica;
mod spin;
mod stream;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use config::{LinkConfig, LinkConfigError};
pub use connector::{Addresses, Connector, Dial, dial};
pub use error::{CloseReason, ConnectError, SendError};
pub use handshake::{LocalNode, Peer};
pub use listener::{Gate, ListenError, Listener};
pub use primary::{PrimaryEvents, PrimarySession};
pub use replica::{ReplicaEvents, ReplicaSession};
pub use stream::{Control, Plain, ReadHalf, Side, Stream, Transport, WriteHalf};

use crate::machine::protocol::SessionId;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers the sessions of a node; no number is used twice.
#[derive(Debug, Default)]
pub struct SessionCounter(AtomicU64);

impl SessionCounter {
    /// A number that was never used.
    pub fn next(&self) -> SessionId {
        SessionId(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// What is going on in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// Bytes that the socket has not taken yet.
    pub queued_bytes: usize,
    /// The most that `queued_bytes` has been.
    pub queued_peak: usize,
    /// Requests that are not answered yet.
    pub in_flight: usize,
    /// Bytes that requests from the peer and their answers take up; at the primary's end nothing.
    pub held_bytes: usize,
    /// The most that `held_bytes` has been.
    pub held_peak: usize,
    /// How long the last ping took.
    pub round_trip: Option<std::time::Duration>,
}
