//! The primary's end of a session: requests go out, replies come in. Decides nothing about either.

use super::channel::{Channel, End};
use super::config::LinkConfig;
use super::error::{CloseReason, ConnectError, SendError};
use super::handshake::Peer;
use super::in_flight::InFlight;
use super::outbox::Outgoing;
use super::stream::Stream;
use super::{SessionCounter, SessionStatus};
use crate::io::Data;
use crate::machine::protocol::{Reply, Request, RequestId, SessionId};
use crate::wire::{Header, Message};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a primary hears of its connection to one replica.
pub trait PrimaryEvents: Send + Sync + 'static {
    /// A session is up. Whoever drops it, closes it. Called before anything else of this session.
    fn up(&self, session: &Arc<PrimarySession>);

    /// A reply has come. On the session's reader thread: must not wait, or it is taken for a dead peer.
    fn reply(&self, session: SessionId, id: RequestId, reply: Reply<Data>);

    /// The session is over; called once, on a thread that nothing else runs on. No reply comes after it, but one that
    /// is just being handed up may still be at work.
    fn down(&self, session: SessionId, reason: &CloseReason);

    /// An attempt to connect has failed; there will be no other one before it is asked for.
    fn failed(&self, error: &ConnectError);
}

/// A session from a primary to a replica on another node. Dropping it closes it.
pub struct PrimarySession {
    id: SessionId,
    peer: Peer,
    channel: Arc<Channel>,
    end: Arc<PrimaryEnd>,
}

impl PrimarySession {
    pub(super) fn start(
        stream: Stream,
        peer: Peer,
        config: LinkConfig,
        sessions: &SessionCounter,
        events: Arc<dyn PrimaryEvents>,
    ) -> Arc<Self> {
        let id = sessions.next();
        let end = Arc::new(PrimaryEnd {
            session: id,
            in_flight: Mutex::new(InFlight::default()),
            events: Mutex::new(Some(Arc::clone(&events))),
        });
        let (channel, reader) = Channel::new(stream, peer.codec, config, end.clone());
        let session = Arc::new(Self {
            id,
            peer,
            channel,
            end,
        });
        events.up(&session);
        session.channel.run(id.0, reader);
        session
    }

    /// Its number.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Who is at the other end.
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Sends a request, to be answered `within` this time, else the session ends. Does not wait for the peer; see the
    /// head of [`crate::link`]. Requests arrive in the order of the calls, or not at all.
    pub fn request(&self, id: RequestId, request: &Request<Data>, within: Duration) -> Result<(), SendError> {
        self.queue(id, request, within)?;
        self.send_queued();
        Ok(())
    }

    /// Sends what is queued. If that fails the session ends, and says so by itself.
    pub fn send_queued(&self) {
        self.channel.send_queued();
    }

    /// Like [`request`](Self::request), but it may wait until [`send_queued`](Self::send_queued) is called, which has to follow:
    /// several that go together cost less.
    pub fn queue(&self, id: RequestId, request: &Request<Data>, within: Duration) -> Result<(), SendError> {
        let config = &self.channel.config;
        let frame = self.channel.codec.encode_request(id, request)?;
        {
            let mut in_flight = self.end.in_flight.lock();
            if in_flight.len() >= config.max_in_flight {
                let (queued, _) = self.channel.queued_and_peak();
                return Err(full(queued, in_flight.len()));
            }
            in_flight.insert(id, request, within)?;
        }
        self.channel.deadline_set(within);
        let out = Outgoing {
            frame,
            _held: None,
            urgent: false,
        };
        self.channel.queue(out, config.queue_bytes).map_err(|error| {
            let mut in_flight = self.end.in_flight.lock();
            in_flight.forget(id);
            match error {
                SendError::Full { queued, .. } => full(queued, in_flight.len()),
                other => other,
            }
        })
    }

    /// Sends a request with the usual deadline.
    pub fn request_usual(&self, id: RequestId, request: &Request<Data>) -> Result<(), SendError> {
        self.request(id, request, self.channel.config.answer_within)
    }

    /// Closes the session; [`PrimaryEvents::down`] follows.
    pub fn close(&self) {
        self.channel.close(CloseReason::Asked);
    }

    /// Why it has ended; nothing while it lives.
    pub fn ended(&self) -> Option<&CloseReason> {
        self.channel.reason()
    }

    /// Waits until its threads are gone, at most `timeout`; whether they are.
    pub fn wait_ended(&self, timeout: Duration) -> bool {
        self.channel.wait_ended(timeout)
    }

    /// What is going on.
    pub fn status(&self) -> SessionStatus {
        let (queued_bytes, queued_peak) = self.channel.queued_and_peak();
        SessionStatus {
            queued_bytes,
            queued_peak,
            in_flight: self.end.in_flight.lock().len(),
            held_bytes: 0,
            held_peak: 0,
            round_trip: self.channel.round_trip(),
        }
    }
}

const fn full(queued: usize, in_flight: usize) -> SendError {
    SendError::Full { queued, in_flight }
}

impl Drop for PrimarySession {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for PrimarySession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrimarySession({}, to {})", self.id.0, self.peer.node)
    }
}

struct PrimaryEnd {
    session: SessionId,
    in_flight: Mutex<InFlight>,
    /// Whoever is told; let go at the end, because it most likely holds the session.
    events: Mutex<Option<Arc<dyn PrimaryEvents>>>,
}

impl End for PrimaryEnd {
    fn admit(&self, header: &Header) -> Result<(), CloseReason> {
        if header.kind.is_request() {
            return Err(CloseReason::Violation("a replica makes no requests".to_owned()));
        }
        if header.kind.is_reply() {
            return self.in_flight.lock().admit(header);
        }
        Ok(())
    }

    fn deliver(&self, message: Message<Data>) -> Result<(), CloseReason> {
        let Message::Reply(id, reply) = message else {
            return Err(CloseReason::Violation("a replica only answers".to_owned()));
        };
        self.in_flight.lock().answered(id, &reply)?;
        let events = self.events.lock().clone();
        if let Some(events) = events {
            events.reply(self.session, id, reply);
        }
        Ok(())
    }

    fn next_deadline(&self, now: Instant) -> Result<Option<Instant>, CloseReason> {
        self.in_flight.lock().next_deadline(now)
    }

    fn interrupt(&self) {}

    fn may_hold(&self) -> bool {
        false
    }

    fn closed(&self, reason: &CloseReason) {
        let events = self.events.lock().take();
        if let Some(events) = events {
            events.down(self.session, reason);
        }
    }
}
