//! The way from a volume to one of its replicas on another node: the connector, the sessions, and what waits to be sent.
//! Keeps the order of sending, and never waits for the other node.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

use super::round::{Disk, Round};
use super::volume::Volume;
use crate::ids::{NodeId, ReplicaId};
use crate::io::Data;
use crate::link::{
    CloseReason, ConnectError, Connector, Dial, PrimaryEvents, PrimarySession, SendError, SessionStatus,
};
use crate::machine::primary::Event;
use crate::machine::{Reply, Request, RequestId, SessionId};

/// Requests that go into the socket together at most.
const TOGETHER: usize = 32;

struct Out {
    session: SessionId,
    id: RequestId,
    request: Request<Data>,
}

#[derive(Default)]
struct State {
    /// The one that the machine deals with, and now and then one that it is about to refuse.
    sessions: Vec<Arc<PrimarySession>>,
    queue: VecDeque<Out>,
    connector: Option<Connector>,
    /// The volume is over.
    over: bool,
    /// Why there is no session, in words.
    trouble: Option<String>,
}

/// The way to one replica on another node.
pub(super) struct Way {
    pub(super) replica: ReplicaId,
    pub(super) node: NodeId,
    /// How long a request may stay unanswered: longer than the machine has patience, as it is the one to decide.
    within: Duration,
    state: Mutex<State>,
    /// Held by whoever sends, so that the order of sending is that of queueing.
    sending: Mutex<()>,
}

impl Way {
    pub(super) fn new(replica: ReplicaId, node: NodeId, within: Duration) -> Arc<Self> {
        Arc::new(Self {
            replica,
            node,
            within,
            state: Mutex::default(),
            sending: Mutex::default(),
        })
    }

    /// Asks for a session.
    pub(super) fn connect(self: &Arc<Self>, dial: Dial, volume: &Arc<Volume>) -> Result<(), ConnectError> {
        let mut state = self.state.lock();
        if state.over {
            return Ok(());
        }
        if state.connector.is_none() {
            let events = Arc::new(Ears {
                volume: Arc::downgrade(volume),
                way: Arc::downgrade(self),
            });
            let jitter = || Uuid::new_v4().as_u128() as u32;
            state.connector = Some(Connector::start(dial, jitter, events)?);
        }
        if let Some(connector) = &state.connector {
            connector.connect();
        }
        Ok(())
    }

    /// Puts a request behind those before; [`send_queued`](Self::send_queued) has to follow, once no lock is held.
    pub(super) fn queue(&self, session: SessionId, id: RequestId, request: Request<Data>) {
        let out = Out { session, id, request };
        self.state.lock().queue.push_back(out);
    }

    /// Sends what is queued, unless another thread is about to.
    pub(super) fn send_queued(&self) {
        loop {
            let Some(sending) = self.sending.try_lock() else {
                // Whoever has it looks again after giving it back.
                return;
            };
            let mut last: Option<Arc<PrimarySession>> = None;
            for count in 1.. {
                let mut state = self.state.lock();
                let Some(out) = state.queue.pop_front() else {
                    break;
                };
                let session = state
                    .sessions
                    .iter()
                    .find(|session| session.id() == out.session)
                    .cloned();
                drop(state);
                if let Some(before) = &last
                    && (count % TOGETHER == 0 || session.as_ref().is_none_or(|now| now.id() != before.id()))
                {
                    before.send_queued();
                }
                if let Some(session) = &session {
                    self.hand_over(session, &out);
                }
                last = session;
            }
            if let Some(last) = last {
                last.send_queued();
            }
            drop(sending);
            if self.state.lock().queue.is_empty() {
                return;
            }
        }
    }

    fn hand_over(&self, session: &PrimarySession, out: &Out) {
        match session.queue(out.id, &out.request, self.within) {
            // Nothing that comes later may arrive where this did not: the session is over, and everything is sent again.
            Err(
                error @ (SendError::Full { .. }
                | SendError::Wire(_)
                | SendError::Twice(_)
                | SendError::NotAsked(_)),
            ) => {
                tracing::warn!(replica = %self.replica, node = %self.node, %error, "a session is given up");
                self.note_trouble(error.to_string());
                session.close();
            }
            Ok(()) | Err(SendError::Closed(_)) => {}
        }
    }

    /// Closes a session; what is queued for it goes nowhere.
    pub(super) fn disconnect(&self, session: SessionId) {
        let closed = self.forget(session);
        if let Some(closed) = closed {
            closed.close();
        }
    }

    fn forget(&self, session: SessionId) -> Option<Arc<PrimarySession>> {
        let mut state = self.state.lock();
        let at = state.sessions.iter().position(|known| known.id() == session)?;
        Some(state.sessions.swap_remove(at))
    }

    /// The volume is over: nothing is sent and nobody connected to any more.
    pub(super) fn shut(&self) {
        let mut state = self.state.lock();
        state.over = true;
        state.queue.clear();
        let (sessions, connector) = (std::mem::take(&mut state.sessions), state.connector.take());
        drop(state);
        for session in sessions {
            session.close();
        }
        drop(connector);
    }

    /// Why there is no session.
    pub(super) fn note_trouble(&self, trouble: String) {
        self.state.lock().trouble = Some(trouble);
    }

    /// Why there is no session, in words, if that is known.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state.lock().trouble.clone()
    }

    /// What goes on in its session.
    pub(super) fn status(&self) -> Option<SessionStatus> {
        let session = self.state.lock().sessions.last().cloned();
        session.map(|session| session.status())
    }
}

/// What a volume hears of a way. Runs on the link's threads, which wait for no disk.
struct Ears {
    volume: Weak<Volume>,
    way: Weak<Way>,
}

impl Ears {
    fn tell(&self, event: impl FnOnce(ReplicaId) -> Event<Data>) {
        if let (Some(volume), Some(way)) = (self.volume.upgrade(), self.way.upgrade()) {
            let event = event(way.replica);
            Round::run(Disk::Elsewhere, |round| volume.step(event, round));
        }
    }
}

impl PrimaryEvents for Ears {
    fn up(&self, session: &Arc<PrimarySession>) {
        let Some(way) = self.way.upgrade() else {
            session.close();
            return;
        };
        let mut state = way.state.lock();
        if state.over {
            drop(state);
            session.close();
            return;
        }
        state.trouble = None;
        state.sessions.push(Arc::clone(session));
        drop(state);
        let session = session.id();
        self.tell(|replica| Event::Linked { replica, session });
    }

    fn reply(&self, session: SessionId, id: RequestId, reply: Reply<Data>) {
        self.tell(|replica| Event::Reply {
            replica,
            session,
            id,
            reply,
        });
    }

    fn down(&self, session: SessionId, reason: &CloseReason) {
        if let Some(way) = self.way.upgrade() {
            let known = way.forget(session).is_some();
            if known && *reason != CloseReason::Asked {
                way.state.lock().trouble = Some(format!("node {}: {reason}", way.node));
            }
        }
        let session = Some(session);
        self.tell(|replica| Event::Unlinked { replica, session });
    }

    fn failed(&self, error: &ConnectError) {
        // Who refuses is there.
        let refused = match error {
            ConnectError::Unreachable { error, .. } => error.kind() == ErrorKind::ConnectionRefused,
            ConnectError::Declined { .. } => true,
            _ => false,
        };
        if refused {
            self.tell(|_| Event::Reached);
        }
        if let Some(way) = self.way.upgrade() {
            way.state.lock().trouble = Some(match error {
                // The only one that does not say whom it is about.
                ConnectError::Greeting(_) => format!("node {}: {error}", way.node),
                _ => error.to_string(),
            });
        }
        self.tell(|replica| Event::Unlinked {
            replica,
            session: None,
        });
    }
}
