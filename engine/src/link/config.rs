//! Every deadline and every bound of the link. Judges whether they go together; reads no file.

use crate::wire::{MAX_DATA, MAX_META};
use std::time::Duration;
use thiserror::Error;

/// How patient and how large a link may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// How long one attempt to connect may take. A peer that is cut off does not refuse, it does not answer.
    pub connect_within: Duration,
    /// How long a handshake may take, from the first byte to the last.
    pub handshake_within: Duration,
    /// How often each end pings the other.
    pub ping_every: Duration,
    /// How long a peer may send nothing at all. Twice `ping_every` at least.
    pub silence: Duration,
    /// How long a ping may stay unanswered; also the usual deadline of a request.
    pub answer_within: Duration,
    /// How long the socket may take no byte while some wait.
    pub stall: Duration,
    /// The most bytes that a primary's end queues for a socket that does not take them.
    pub queue_bytes: usize,
    /// The most requests of a primary's end without an answer.
    pub max_in_flight: usize,
    /// The most bytes that a replica's end holds for requests and their answers. Beyond it nothing more is read.
    pub held_bytes: usize,
    /// The most handshakes of a listener at a time. One more waits, and those that dawdle are ended for it.
    pub max_handshakes: usize,
    /// The most sessions of a listener at a time.
    pub max_sessions: usize,
    /// The shortest and the longest pause between two attempts to connect.
    pub pause: (Duration, Duration),
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            connect_within: Duration::from_secs(1),
            handshake_within: Duration::from_secs(2),
            ping_every: Duration::from_secs(1),
            silence: Duration::from_secs(3),
            answer_within: Duration::from_secs(5),
            stall: Duration::from_secs(5),
            queue_bytes: 64 << 20,
            max_in_flight: 4096,
            held_bytes: 16 << 20,
            max_handshakes: 64,
            max_sessions: 4096,
            pause: (Duration::from_millis(100), Duration::from_secs(2)),
        }
    }
}

/// Why a configuration cannot be. Every fault is named at once.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the configuration of the link cannot be: {}", .0.join("; "))]
pub struct LinkConfigError(pub Vec<String>);

impl LinkConfig {
    /// The least that `held_bytes` may be: a request and an answer of the largest size, twice.
    pub const MIN_HELD: usize = 4 * (MAX_DATA + MAX_META);

    /// Whether the values go together.
    pub fn check(&self) -> Result<(), LinkConfigError> {
        let mut faults = Vec::new();
        let times = [
            ("connect_within", self.connect_within),
            ("handshake_within", self.handshake_within),
            ("ping_every", self.ping_every),
            ("silence", self.silence),
            ("answer_within", self.answer_within),
            ("stall", self.stall),
            ("the shortest pause", self.pause.0),
        ];
        for (name, time) in times {
            if time < Duration::from_millis(10) || time > Duration::from_secs(3600) {
                faults.push(format!("{name} is {time:?}, it must be from 10 ms to 1 h"));
            }
        }
        if self.silence < self.ping_every.saturating_mul(2) {
            faults.push(format!(
                "silence is {:?}, it must be at least twice ping_every ({:?})",
                self.silence, self.ping_every
            ));
        }
        if self.pause.1 < self.pause.0 {
            faults.push("the longest pause is shorter than the shortest".to_owned());
        }
        if self.held_bytes < Self::MIN_HELD {
            faults.push(format!(
                "held_bytes is {}, the least is {}",
                self.held_bytes,
                Self::MIN_HELD
            ));
        }
        if self.queue_bytes < MAX_DATA + MAX_META {
            faults.push(format!(
                "queue_bytes is {}, the least is {}",
                self.queue_bytes,
                MAX_DATA + MAX_META
            ));
        }
        for (name, count) in [
            ("max_in_flight", self.max_in_flight),
            ("max_handshakes", self.max_handshakes),
            ("max_sessions", self.max_sessions),
        ] {
            if count == 0 {
                faults.push(format!("{name} is 0"));
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(LinkConfigError(faults))
        }
    }
}
