//! The replica's end of a session: requests come in, replies go out. What both take up in memory is bounded by permits
//! that are taken before a request is read and given back when its answer has been written.

use super::channel::{Channel, End};
use super::config::LinkConfig;
use super::error::{CloseReason, SendError};
use super::handshake::Peer;
use super::outbox::Outgoing;
use super::permits::{Permit, Permits};
use super::stream::Stream;
use super::{SessionCounter, SessionStatus};
use crate::io::Data;
use crate::machine::protocol::{Reply, Request, RequestId, SessionId};
use crate::wire::{Header, MAX_DATA, MAX_LIST, Message};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a request takes up besides its data, roughly: frame, decoded form, places in tables.
const BASE_COST: usize = 512;
/// What an entry of a list takes up on the wire and decoded.
const ENTRY_COST: usize = 32;

/// Answers are held back only while there is room for two more of the largest requests and their answers: to wait for room that
/// an answer has which is held back would be to wait for oneself.
const ROOM_TO_HOLD: usize = 6 * MAX_DATA;

/// What a replica hears of a session. One for each session, made by [`super::Gate`].
pub trait ReplicaEvents: Send + Sync + 'static {
    /// The session is up. Whoever drops it, closes it. Called before anything else.
    fn opened(&self, session: &Arc<ReplicaSession>);

    /// A request has come, to be answered with [`ReplicaSession::reply`]. On the session's reader thread: it may do the
    /// work itself, but nothing more is read meanwhile.
    fn request(&self, session: SessionId, id: RequestId, request: Request<Data>);

    /// The session is over; called once, on a thread that nothing else runs on, even if a request is still at work. No
    /// further one comes after it.
    fn closed(&self, session: SessionId, reason: &CloseReason);
}

/// A session from a primary on another node to a replica here. Dropping it closes it.
pub struct ReplicaSession {
    id: SessionId,
    peer: Peer,
    channel: Arc<Channel>,
    end: Arc<ReplicaEnd>,
}

impl ReplicaSession {
    pub(super) fn start(
        stream: Stream,
        peer: Peer,
        config: LinkConfig,
        sessions: &SessionCounter,
        events: Arc<dyn ReplicaEvents>,
        seat: Box<dyn Send + Sync>,
    ) {
        let id = sessions.next();
        let end = Arc::new(ReplicaEnd {
            session: id,
            peer,
            permits: Permits::new(config.held_bytes),
            admitted: Mutex::new(None),
            unanswered: Mutex::new(HashMap::new()),
            opened: AtomicBool::new(false),
            events: Mutex::new(Some(Arc::clone(&events))),
            seat: Mutex::new(Some(seat)),
        });
        let (channel, reader) = Channel::new(stream, peer.codec, config, end.clone());
        let session = Arc::new(Self {
            id,
            peer,
            channel,
            end,
        });
        events.opened(&session);
        session.channel.run(id.0, reader);
    }

    /// Its number.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Who is at the other end.
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Answers a request. Does not wait for the peer, and is never refused for lack of room: the room was taken with
    /// the request.
    pub fn reply(&self, id: RequestId, reply: &Reply<Data>) -> Result<(), SendError> {
        // First, so that a reply that cannot be sent leaves room for another one.
        let frame = self.channel.codec.encode_reply(id, reply)?;
        let Some(permit) = self.end.unanswered.lock().remove(&id) else {
            return match self.channel.reason() {
                Some(reason) => Err(SendError::Closed(reason.clone())),
                None => Err(SendError::NotAsked(id)),
            };
        };
        let out = Outgoing {
            frame,
            _held: Some(permit),
            urgent: false,
        };
        self.channel.send(out, usize::MAX)
    }

    /// Closes the session; [`ReplicaEvents::closed`] follows.
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
        let (held_bytes, held_peak) = self.end.permits.used_and_peak();
        SessionStatus {
            queued_bytes,
            queued_peak,
            in_flight: self.end.unanswered.lock().len(),
            held_bytes,
            held_peak,
            round_trip: self.channel.round_trip(),
        }
    }
}

impl Drop for ReplicaSession {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for ReplicaSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplicaSession({}, from {})", self.id.0, self.peer.node)
    }
}

struct ReplicaEnd {
    session: SessionId,
    peer: Peer,
    permits: Arc<Permits>,
    /// Room for the request that is being read.
    admitted: Mutex<Option<Permit>>,
    /// Requests that wait for an answer, and the room for both.
    unanswered: Mutex<HashMap<RequestId, Permit>>,
    opened: AtomicBool,
    /// Whoever is told; let go at the end, because it most likely holds the session.
    events: Mutex<Option<Arc<dyn ReplicaEvents>>>,
    /// The session's place among those of the listener, given back at its end.
    seat: Mutex<Option<Box<dyn Send + Sync>>>,
}

impl ReplicaEnd {
    /// Only the replica that the handshake was about can be asked for anything (D7).
    fn check_opened(&self, request: &Request<Data>) -> Result<(), CloseReason> {
        let violation = |text: &str| Err(CloseReason::Violation(text.to_owned()));
        match request {
            Request::Open(open) if open.identity != self.peer.replica => {
                violation("it opens another replica than the one of the handshake")
            }
            Request::Open(_) => {
                self.opened.store(true, Ordering::Relaxed);
                Ok(())
            }
            Request::Inspect(identity) if *identity != self.peer.replica => {
                violation("it asks for another replica than the one of the handshake")
            }
            Request::Inspect(_) => Ok(()),
            _ if !self.opened.load(Ordering::Relaxed) => {
                violation("its first request does not open the session")
            }
            _ => Ok(()),
        }
    }
}

/// What an answer to this may take up.
fn answer_cost(request: &Request<Data>) -> usize {
    match request {
        Request::Read(range) | Request::Copy(range) | Request::Hash(range) => {
            usize::try_from(range.len).unwrap_or(MAX_DATA).min(MAX_DATA)
        }
        // What is read, and the list that comes of it, which may be half as long.
        Request::Digests { range, .. } => {
            let read = usize::try_from(range.len).unwrap_or(MAX_DATA).min(MAX_DATA);
            read + read / 2
        }
        Request::Changed { limit, .. } => (*limit as usize).min(MAX_LIST) * ENTRY_COST,
        _ => 0,
    }
}

impl End for ReplicaEnd {
    fn admit(&self, header: &Header) -> Result<(), CloseReason> {
        if header.kind.is_reply() {
            return Err(CloseReason::Violation("a primary does not answer".to_owned()));
        }
        if header.kind.is_request() {
            // Twice the metadata: as bytes and decoded.
            let cost = BASE_COST + header.data_len as usize + 2 * header.meta_len as usize;
            let permit = self.permits.take(cost).ok_or(CloseReason::Asked)?;
            *self.admitted.lock() = Some(permit);
        }
        Ok(())
    }

    fn deliver(&self, message: Message<Data>) -> Result<(), CloseReason> {
        let Message::Request(id, request) = message else {
            return Err(CloseReason::Violation("a primary only asks".to_owned()));
        };
        self.check_opened(&request)?;
        let Some(mut permit) = self.admitted.lock().take() else {
            return Err(CloseReason::Violation("a request without its head".to_owned()));
        };
        if !permit.grow(answer_cost(&request)) {
            return Err(CloseReason::Asked);
        }
        if self.unanswered.lock().insert(id, permit).is_some() {
            return Err(CloseReason::Violation(format!(
                "request {} is in flight already",
                id.0
            )));
        }
        let events = self.events.lock().clone();
        if let Some(events) = events {
            events.request(self.session, id, request);
        }
        Ok(())
    }

    fn next_deadline(&self, _: Instant) -> Result<Option<Instant>, CloseReason> {
        Ok(None)
    }

    fn interrupt(&self) {
        self.permits.close();
    }

    fn may_hold(&self) -> bool {
        self.permits.free() >= ROOM_TO_HOLD
    }

    fn closed(&self, reason: &CloseReason) {
        self.unanswered.lock().clear();
        self.seat.lock().take();
        let events = self.events.lock().take();
        if let Some(events) = events {
            events.closed(self.session, reason);
        }
    }
}
