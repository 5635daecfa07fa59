//! The way in for primaries on other nodes: which replicas they may open, and what becomes of their requests.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Node;
use super::error::ReplicaError;
use super::replica::{Caller, HostedReplica};
use super::round::{Disk, Round, answer};
use crate::disk::DiskError;
use crate::format::ReplicaIdentity;
use crate::io::Data;
use crate::link::{CloseReason, Gate, ReplicaEvents, ReplicaSession};
use crate::machine::protocol::Refusal;
use crate::machine::{Reply, Request, RequestId, SessionId};
use crate::wire::Hello;

/// Requests that a primary may send before its session is open. An honest one sends one and waits.
const EARLY: usize = 4;

/// Decides which primary comes in.
pub(super) struct Door {
    pub(super) node: Weak<Node>,
}

impl Gate for Door {
    fn admit(&self, hello: &Hello, _: SocketAddr) -> Result<Arc<dyn ReplicaEvents>, String> {
        let node = self.node.upgrade().ok_or("this node is stopping")?;
        node.replicas
            .admit(&node, &hello.replica)
            .map_err(|error| error.to_string())?;
        Ok(Arc::new_cyclic(|myself| Visit {
            node: self.node.clone(),
            identity: hello.replica,
            session: Mutex::default(),
            state: Mutex::new(State::Waiting(Vec::new())),
            myself: myself.clone(),
        }))
    }
}

enum State {
    /// The replica is being opened; these wait for it.
    Waiting(Vec<(RequestId, Request<Data>)>),
    Open(Arc<HostedReplica>),
    Over,
}

/// A session of a primary on another node.
struct Visit {
    node: Weak<Node>,
    identity: ReplicaIdentity,
    session: Mutex<Option<Arc<ReplicaSession>>>,
    state: Mutex<State>,
    myself: Weak<Visit>,
}

impl Visit {
    fn session(&self) -> Option<Arc<ReplicaSession>> {
        self.session.lock().clone()
    }

    /// The replica is open and has the session, or cannot be opened.
    fn came(&self, session: &Arc<ReplicaSession>, opened: Result<Arc<HostedReplica>, ReplicaError>) {
        let mut state = self.state.lock();
        let State::Waiting(waiting) = &mut *state else {
            drop(state);
            if let Ok(open) = opened {
                Round::run(Disk::Elsewhere, |round| open.end_session(session.id(), round));
            }
            return;
        };
        let waiting = std::mem::take(waiting);
        match opened {
            Ok(open) => {
                *state = State::Open(Arc::clone(&open));
                // Under the lock: nothing overtakes them.
                Round::run(Disk::Elsewhere, |round| {
                    for (id, request) in waiting {
                        open.request(session.id(), id, request, round);
                    }
                    drop(state);
                });
            }
            Err(error) => {
                *state = State::Over;
                drop(state);
                tracing::debug!(primary = %session.peer().node, %error, "a session is refused");
                if let ReplicaError::Disk { source, .. } = &error
                    && matches!(**source, DiskError::Foreign { .. })
                {
                    for (id, _) in waiting {
                        answer(session, id, &Reply::Refused(Refusal::Identity));
                    }
                }
                session.close();
            }
        }
    }
}

impl ReplicaEvents for Visit {
    fn opened(&self, session: &Arc<ReplicaSession>) {
        *self.session.lock() = Some(Arc::clone(session));
    }

    fn request(&self, _: SessionId, id: RequestId, request: Request<Data>) {
        let Some(session) = self.session() else {
            return;
        };
        let mut state = self.state.lock();
        match &mut *state {
            State::Open(open) => {
                let open = Arc::clone(open);
                drop(state);
                Round::run(Disk::MayTouch, |round| {
                    open.request(session.id(), id, request, round);
                });
            }
            State::Waiting(waiting) => {
                let first = waiting.is_empty();
                if waiting.len() >= EARLY {
                    drop(state);
                    tracing::warn!(primary = %session.peer().node, "a primary does not wait until it is served");
                    session.close();
                    return;
                }
                waiting.push((id, request));
                drop(state);
                if first && let (Some(node), Some(visit)) = (self.node.upgrade(), self.myself.upgrade()) {
                    let id = session.id();
                    let caller = {
                        let session = Arc::clone(&session);
                        move || Caller::Remote(Arc::clone(&session))
                    };
                    let then = move |opened| visit.came(&session, opened);
                    node.replicas
                        .with_session(&node, self.identity, id, caller, Box::new(then));
                }
            }
            State::Over => {}
        }
    }

    fn closed(&self, session: SessionId, reason: &CloseReason) {
        tracing::debug!(replica = %self.identity.replica, %reason, "a session of another node has ended");
        let before = std::mem::replace(&mut *self.state.lock(), State::Over);
        *self.session.lock() = None;
        if let State::Open(open) = before {
            Round::run(Disk::MayTouch, |round| open.end_session(session, round));
        }
    }
}
