//! Connections to the replicas: made, opened, lost and made again (L1, T2, T3, D7).

use super::api::{Action, EndReason};
use super::peer::{Condemned, Link, OpenRequest, PeerId, Purpose, Sent, bit};
use super::{Phase, Primary};
use crate::format::ReplicaIdentity;
use crate::ids::{Epoch, ReplicaId};
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::{Open, Opened, Refusal, Reply, Request, RequestId, SessionId};

impl<P: Payload> Primary<P> {
    pub(super) fn peer_of(&self, replica: ReplicaId) -> Option<PeerId> {
        self.peers.iter().position(|peer| peer.id == replica)
    }

    pub(super) fn connect(&mut self, peer: PeerId, out: &mut Vec<Action<P>>) {
        let now = self.now;
        let at = &mut self.peers[peer];
        at.link = Link::Connecting { since: now };
        at.down_since.get_or_insert(now);
        let (replica, node) = (at.id, at.node);
        out.push(Action::Connect { replica, node });
    }

    pub(super) fn linked(&mut self, replica: ReplicaId, session: SessionId, out: &mut Vec<Action<P>>) {
        let Some(peer) = self.peer_of(replica) else {
            out.push(Action::Disconnect { replica, session });
            return;
        };
        if !matches!(self.peers[peer].link, Link::Connecting { .. }) {
            out.push(Action::Disconnect { replica, session });
            return;
        }
        if !self.peers[peer].local {
            self.last_contact = self.now;
        }
        self.attempts += 1;
        let serving = self.phase != Phase::Opening || self.peers[peer].rebuild().is_some();
        let (now, id) = (self.now, self.next_id());
        let epoch = self.epoch;
        let at = &mut self.peers[peer];
        at.link = Link::Opening { session, since: now };
        let role = at.role();
        at.open_request = Some(OpenRequest {
            id,
            sent_at: now,
            epoch,
            role,
        });
        let open = Open {
            identity: ReplicaIdentity {
                cluster: self.config.cluster,
                volume: self.config.volume,
                replica,
            },
            epoch,
            term: self.term,
            attached_by: self.config.attached_by,
            attempt: self.attempts,
            role,
            // Before anything is served, a replica may be restarted and simply be opened again.
            expects: at
                .incarnation
                .filter(|_| serving && !self.config.faults.has(Fault::UnknownIncarnation)),
            resumes: self.config.resumes,
        };
        let request = Request::Open(open);
        out.push(Action::Send {
            replica,
            session,
            id,
            request,
        });
    }

    pub(super) fn unlinked(&mut self, replica: ReplicaId, session: Option<SessionId>) {
        let Some(peer) = self.peer_of(replica) else {
            return;
        };
        let current = match (self.peers[peer].link, session) {
            (Link::Connecting { .. }, None) => true,
            (Link::Opening { session: at, .. } | Link::Up { session: at }, Some(session)) => at == session,
            _ => false,
        };
        if current {
            self.link_lost(peer);
        }
    }

    /// Notes that a connection is gone. What was asked over it stays asked.
    pub(super) fn link_lost(&mut self, peer: PeerId) {
        let now = self.now;
        let retry_at = now + self.config.retry;
        let at = &mut self.peers[peer];
        at.link = Link::Down { retry_at };
        at.down_since.get_or_insert(now);
        at.open_request = None;
        at.ping_out = false;
        at.outstanding
            .retain(|_, sent| !matches!(sent.purpose, Purpose::Ping | Purpose::Nothing | Purpose::Raise(_)));
        for sent in at.outstanding.values_mut() {
            sent.sent_at = None;
        }
        self.stirred = true;
    }

    /// Gives a connection up.
    pub(super) fn hang_up(&mut self, peer: PeerId, out: &mut Vec<Action<P>>) {
        let replica = self.peers[peer].id;
        if let Link::Opening { session, .. } | Link::Up { session } = self.peers[peer].link {
            out.push(Action::Disconnect { replica, session });
        }
        self.link_lost(peer);
    }

    pub(super) fn replied(
        &mut self,
        replica: ReplicaId,
        session: SessionId,
        id: RequestId,
        reply: Reply<P>,
        out: &mut Vec<Action<P>>,
    ) {
        let Some(peer) = self.peer_of(replica) else {
            return;
        };
        if !self.peers[peer].local {
            self.last_contact = self.now;
        }
        match self.peers[peer].link {
            Link::Opening { session: at, .. }
                if at == session && self.peers[peer].open_request.is_some_and(|open| open.id == id) =>
            {
                self.open_answered(peer, session, reply, out);
            }
            Link::Up { session: at } if at == session => {
                if let Some(sent) = self.peers[peer].outstanding.remove(&id) {
                    self.answered(peer, id, sent, reply, out);
                }
            }
            // From a connection that was given up.
            _ => {}
        }
    }

    fn open_answered(&mut self, peer: PeerId, session: SessionId, reply: Reply<P>, out: &mut Vec<Action<P>>) {
        self.stirred = true;
        match reply {
            Reply::Opened(opened) => self.opened(peer, session, opened, out),
            Reply::Refused(Refusal::Incarnation(_)) => self.restarted(peer, out),
            Reply::Refused(Refusal::Session) => self.hang_up(peer, out),
            Reply::Refused(Refusal::Epoch(epoch)) => self.refused(epoch, out),
            Reply::Failed(cause) => {
                self.peers[peer].spoiled = None;
                self.lost_for_good(peer, Some(cause), out);
            }
            _ => self.lost_for_good(peer, None, out),
        }
    }

    fn opened(&mut self, peer: PeerId, session: SessionId, opened: Opened, out: &mut Vec<Action<P>>) {
        let known = self.peers[peer].incarnation;
        let fresh = known != Some(opened.incarnation);
        let goes_on = self.phase != Phase::Opening || self.peers[peer].rebuild().is_some();
        if fresh && known.is_some() && goes_on && !self.config.faults.has(Fault::UnknownIncarnation) {
            self.restarted(peer, out);
            return;
        }
        if fresh && known.is_some() && !goes_on && !self.config.faults.has(Fault::RestartOverlooked) {
            // Nothing has been served yet: it is opened as if for the first time.
            self.abort_convergence();
            self.let_go(peer, out);
        }
        let (now, epoch) = (self.now, self.epoch);
        let at = &mut self.peers[peer];
        let asked = at.open_request.take();
        let sent_at = asked.map_or(now, |open| open.sent_at);
        at.link = Link::Up { session };
        at.down_since = None;
        at.incarnation = Some(opened.incarnation);
        if matches!(at.condemned, Some(Condemned::Away | Condemned::Dismissed)) {
            at.condemned = None;
        }
        at.told = crate::ids::Tick::ZERO;
        at.last_ping = now;
        let overlooked = self.config.faults.has(Fault::RestartOverlooked);
        if (fresh && !overlooked) || at.opened.is_none() {
            at.opened = Some(opened);
        }
        self.serve_after = self.serve_after.max(now + opened.wait);
        if let Some(cause) = at.spoiled {
            // Before anything else: it was not told when it was found out.
            self.send(peer, Request::Fail(cause), Purpose::Nothing, out);
            return;
        }
        self.renew_lease(peer, sent_at);
        if self.config.faults.has(Fault::UnansweredTakenAsDone) {
            self.let_go(peer, out);
        }
        self.peers[peer].resend(now, out);
        let role = self.peers[peer].role();
        let old_counts = self.config.faults.has(Fault::OldOpenCounts);
        if asked.is_some_and(|open| open.epoch == epoch && open.role == role || old_counts) {
            // Opening in this epoch has made it durable there.
            if let Some(raising) = &mut self.raising {
                raising.waiting &= !bit(peer);
            }
        } else {
            // L2: what was asked for in the epoch before has made that one durable.
            self.send(peer, Request::Raise { epoch, role }, Purpose::Raise(epoch), out);
        }
        self.rebuild_opened(peer, out);
        self.serve_lease_waiters(out);
    }

    /// The replica was restarted since it was opened: it may have lost what it had not made durable.
    fn restarted(&mut self, peer: PeerId, out: &mut Vec<Action<P>>) {
        if self.peers[peer].is_member() {
            if self.phase != Phase::Opening {
                self.condemn_finally(peer, None, out);
            } else {
                self.abort_convergence();
                self.hang_up(peer, out);
                self.let_go(peer, out);
                self.peers[peer].incarnation = None;
            }
        } else {
            self.lost_for_good(peer, None, out);
        }
    }

    /// It is of no use as it is: as a member it has to go, as a replica under rebuild it starts again later.
    pub(super) fn lost_for_good(
        &mut self,
        peer: PeerId,
        cause: Option<crate::format::FailCause>,
        out: &mut Vec<Action<P>>,
    ) {
        if self.peers[peer].is_member() || self.is_joining(peer) {
            self.condemn_finally(peer, cause, out);
        } else {
            self.drop_rebuild(peer, out);
        }
    }

    /// A replica has accepted a newer epoch than this primary's: it has been replaced. One that was just attached looks
    /// into the record first: if that does not know of the epoch either, the store is the one that is wrong.
    fn refused(&mut self, epoch: Epoch, out: &mut Vec<Action<P>>) {
        if self.phase != Phase::Opening {
            self.end(EndReason::Superseded(epoch), out);
        } else if self.doubt.is_none() {
            self.doubt = Some((epoch, self.now));
            out.push(Action::ReadRecord);
        }
    }

    /// The record, or that it cannot be read, settles why a replica has refused this primary. One that has moved on has
    /// ended this primary before; one that has not does not know the epoch of the replica (T3).
    pub(super) fn resolve_doubt(&mut self, record: Option<Epoch>, out: &mut Vec<Action<P>>) {
        let Some((replica, _)) = self.doubt else {
            return;
        };
        let reason = match record {
            // One that is ahead of this primary shows that it was replaced, whatever the store has been through since.
            Some(record) if record <= replica && record <= self.epoch => {
                EndReason::StoreIsOlder { replica, record }
            }
            _ => EndReason::Superseded(replica),
        };
        self.end(reason, out);
    }

    fn answered(
        &mut self,
        peer: PeerId,
        id: RequestId,
        sent: Sent<P>,
        reply: Reply<P>,
        out: &mut Vec<Action<P>>,
    ) {
        match reply {
            Reply::Failed(cause) => {
                self.peers[peer].spoiled = None;
                self.peers[peer].outstanding.insert(id, sent);
                self.lost_for_good(peer, Some(cause), out);
                return;
            }
            Reply::Refused(Refusal::Epoch(epoch)) => {
                self.refused(epoch, out);
                return;
            }
            Reply::Refused(Refusal::Session) => {
                self.peers[peer].outstanding.insert(id, sent);
                self.hang_up(peer, out);
                return;
            }
            Reply::Refused(_) | Reply::Opened(_) => {
                self.peers[peer].outstanding.insert(id, sent);
                self.lost_for_good(peer, None, out);
                return;
            }
            _ => {}
        }
        if let Some(sent_at) = sent.sent_at {
            self.renew_lease(peer, sent_at);
        }
        match sent.purpose {
            Purpose::Op { place, count } => self.op_answered(peer, (place, count), reply, out),
            Purpose::Ping => {
                self.peers[peer].ping_out = false;
                self.stirred |= self.phase == Phase::Opening;
            }
            Purpose::Nothing => {}
            Purpose::Raise(epoch) => {
                if let Some(raising) = &mut self.raising
                    && raising.epoch <= epoch
                {
                    raising.waiting &= !bit(peer);
                }
                self.stirred = true;
            }
            Purpose::Release => {
                self.releasing &= !bit(peer);
                self.stirred = true;
            }
            Purpose::CopyCompare(job) => self.copy_was_compared(peer, job, reply, out),
            Purpose::CopyRead(job) => self.copy_was_read(peer, job, reply, out),
            Purpose::CopyWrite(job) => self.copy_was_written(peer, job, reply, out),
            Purpose::Verify { round } => self.verify_answered(peer, round, reply, out),
            Purpose::Converge { round } => self.converge_answered(peer, round, reply, out),
            Purpose::Rebuild { target, round } => self.rebuild_answered(target, round, reply, out),
        }
        self.serve_lease_waiters(out);
    }
}
