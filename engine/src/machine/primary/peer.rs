//! A replica as the primary sees it: its standing, its connection, and what it was asked and has not answered.

use std::collections::BTreeMap;

use super::api::Action;
use super::rebuild::Rebuild;
use crate::format::FailCause;
use crate::ids::{Epoch, Incarnation, NodeId, ReplicaId, Tick};
use crate::machine::payload::Payload;
use crate::machine::protocol::{Opened, Request, RequestId, Role, SessionId};
use crate::machine::time::Time;

/// Index of a peer.
pub(super) type PeerId = usize;
/// A set of peers, one bit each.
pub(super) type Peers = u32;
/// More replicas than this in one record are not looked at.
pub(super) const MAX_PEERS: usize = 32;

/// The set of one peer.
pub(super) const fn bit(peer: PeerId) -> Peers {
    1 << peer
}

/// The peers of a set, in order.
pub(super) fn each(peers: Peers) -> impl Iterator<Item = PeerId> {
    let mut rest = peers;
    std::iter::from_fn(move || {
        let first = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (first < Peers::BITS).then_some(first as PeerId)
    })
}

/// What a replica is.
#[derive(Debug)]
pub(super) enum Standing {
    /// Not in sync, and not being brought up to date.
    Outside,
    /// Being brought up to date.
    Rebuild(Box<Rebuild>),
    /// In sync.
    Member,
}

/// The connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Down { retry_at: Time },
    Connecting { since: Time },
    Opening { session: SessionId, since: Time },
    Up { session: SessionId },
}

/// Why a member is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condemned {
    /// It is away or does not answer; it may still come back.
    Away,
    /// Nobody wants it any more, though nothing is wrong with it.
    Dismissed,
    /// It can not come back as a member.
    Final(Option<FailCause>),
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An operation of the front end, by its place, and which one it is of those that were there.
    Op {
        place: u32,
        count: u64,
    },
    Raise(Epoch),
    Ping,
    Release,
    /// Comparing, reading or writing for a copy, by its number.
    CopyCompare(u64),
    CopyRead(u64),
    CopyWrite(u64),
    /// A step of the convergence.
    Converge {
        round: u64,
    },
    /// A step of the rebuild of a peer.
    Rebuild {
        target: PeerId,
        round: u64,
    },
    /// A step of comparing the members.
    Verify {
        round: u64,
    },
    /// Nobody waits for the answer.
    Nothing,
}

/// A request that has not been answered.
#[derive(Debug)]
pub(super) struct Sent<P> {
    pub(super) request: Request<P>,
    pub(super) purpose: Purpose,
    /// First sent; what the deadline counts from.
    pub(super) since: Time,
    /// Last sent; what the lease counts from. Nothing while there is no connection.
    pub(super) sent_at: Option<Time>,
}

/// A session that is being opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenRequest {
    pub(super) id: RequestId,
    pub(super) sent_at: Time,
    /// As what it was asked for: both may be others when the answer comes.
    pub(super) epoch: Epoch,
    pub(super) role: Role,
}

/// A replica.
#[derive(Debug)]
pub(super) struct Peer<P> {
    pub(super) id: ReplicaId,
    pub(super) node: NodeId,
    pub(super) local: bool,
    pub(super) standing: Standing,
    pub(super) link: Link,
    /// When the connection was lost, or first asked for.
    pub(super) down_since: Option<Time>,
    /// The opening that this primary deals with.
    pub(super) incarnation: Option<Incarnation>,
    pub(super) opened: Option<Opened>,
    pub(super) outstanding: BTreeMap<RequestId, Sent<P>>,
    pub(super) open_request: Option<OpenRequest>,
    pub(super) lease_until: Time,
    pub(super) condemned: Option<Condemned>,
    /// It could not read what it holds, and has not said yet that it has marked itself as failed (D6).
    pub(super) spoiled: Option<FailCause>,
    pub(super) last_ping: Time,
    pub(super) ping_out: bool,
    pub(super) told: Tick,
}

impl<P: Payload> Peer<P> {
    pub(super) fn new(id: ReplicaId, node: NodeId, local: bool, standing: Standing) -> Self {
        Self {
            id,
            node,
            local,
            standing,
            link: Link::Down { retry_at: Time::ZERO },
            down_since: None,
            incarnation: None,
            opened: None,
            outstanding: BTreeMap::new(),
            open_request: None,
            lease_until: Time::ZERO,
            condemned: None,
            spoiled: None,
            last_ping: Time::ZERO,
            ping_out: false,
            told: Tick::ZERO,
        }
    }

    pub(super) fn is_member(&self) -> bool {
        matches!(self.standing, Standing::Member)
    }

    /// What it is to its primary.
    pub(super) fn role(&self) -> Role {
        if self.is_member() {
            Role::Member
        } else {
            Role::Rebuild
        }
    }

    pub(super) fn rebuild(&self) -> Option<&Rebuild> {
        match &self.standing {
            Standing::Rebuild(rebuild) => Some(rebuild),
            _ => None,
        }
    }

    pub(super) fn rebuild_mut(&mut self) -> Option<&mut Rebuild> {
        match &mut self.standing {
            Standing::Rebuild(rebuild) => Some(rebuild),
            _ => None,
        }
    }

    /// The connection, once the replica has opened it.
    pub(super) fn session(&self) -> Option<SessionId> {
        match self.link {
            Link::Up { session } => Some(session),
            _ => None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.session().is_some()
    }

    /// Whether it is a member that can be counted on now.
    pub(super) fn is_sound_member(&self) -> bool {
        self.is_member() && self.is_up() && self.condemned.is_none()
    }

    /// Asks for something; without a connection it is sent when there is one again.
    pub(super) fn send(
        &mut self,
        now: Time,
        id: RequestId,
        request: Request<P>,
        purpose: Purpose,
        out: &mut Vec<Action<P>>,
    ) {
        let session = self.session();
        let sent = Sent {
            request: request.clone(),
            purpose,
            since: now,
            sent_at: session.map(|_| now),
        };
        self.outstanding.insert(id, sent);
        if let Some(session) = session {
            let replica = self.id;
            out.push(Action::Send {
                replica,
                session,
                id,
                request,
            });
        }
    }

    /// Sends again what has not been answered: it is idempotent, and its ranges are still locked.
    pub(super) fn resend(&mut self, now: Time, out: &mut Vec<Action<P>>) {
        let Some(session) = self.session() else {
            return;
        };
        let replica = self.id;
        for (&id, sent) in &mut self.outstanding {
            sent.sent_at = Some(now);
            out.push(Action::Send {
                replica,
                session,
                id,
                request: sent.request.clone(),
            });
        }
    }
}
