//! How a primary ends: in order, or because something has waited for longer than it may (L4, L5, P5).

use super::api::{Action, EndReason, OpId};
use super::peer::{Link, PeerId, Purpose, bit, each};
use super::{Phase, Primary};
use crate::io::IoError;
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::Request;
use crate::machine::slab::Slab;
use crate::machine::time::Time;

impl<P: Payload> Primary<P> {
    /// Ends the primary if something has waited for longer than it may (P5).
    pub(super) fn is_over_time(&mut self, out: &mut Vec<Action<P>>) -> bool {
        let sound = each(self.members).any(|peer| self.peers[peer].is_sound_member());
        self.alone_since = if sound {
            None
        } else {
            self.alone_since.or(Some(self.now))
        };
        let cut_off = self.is_cut_off(out);
        if self.now < self.grace_until {
            // The host slept, or this process did: what waits has not waited for as long as it looks.
            return false;
        }
        let patience = if self.phase == Phase::Opening {
            self.config.open_timeout
        } else {
            self.config.io_timeout
        };
        let lasts = |since: Option<Time>, limit| since.is_some_and(|since| self.now.since(since) >= limit);
        let outstanding =
            each(self.members).filter_map(|peer| self.peers[peer].outstanding.first_key_value());
        let oldest = outstanding.map(|(_, sent)| sent.since).min();
        let reason = if self
            .oldest_deadline()
            .is_some_and(|deadline| deadline <= self.now)
            || lasts(oldest, self.config.io_timeout)
        {
            if self.config.faults.has(Fault::IoTimeoutIgnored) {
                return false;
            }
            EndReason::IoTimeout
        } else if cut_off {
            EndReason::Isolated
        } else if lasts(self.alone_since, patience) {
            EndReason::NoMember
        } else if lasts(self.release_since, self.config.member_deadline * 2) {
            EndReason::Released
        } else {
            return false;
        };
        self.end(reason, out);
        true
    }

    /// Whether this node is cut off (L5): members lie on other nodes, and neither one of them nor the store has been heard
    /// of for so long that somebody may have taken over. The store is asked before, for this purpose only.
    pub(super) fn is_cut_off(&mut self, out: &mut Vec<Action<P>>) -> bool {
        let elsewhere = each(self.counted()).any(|peer| !self.peers[peer].local);
        let serving = matches!(self.phase, Phase::Serving | Phase::Releasing);
        let silent = self.now.since(self.last_contact);
        if !elsewhere || !serving || self.config.faults.has(Fault::IsolationIgnored) {
            return false;
        }
        let limit = self.config.isolation_timeout;
        if silent >= limit / 2 && self.now.since(self.contact_sought) >= self.config.retry {
            self.contact_sought = self.now;
            out.push(Action::ReadRecord);
        }
        silent >= limit && self.now >= self.grace_until
    }

    pub(super) fn release(&mut self, out: &mut Vec<Action<P>>) {
        match self.phase {
            Phase::Serving => {
                self.phase = Phase::Releasing;
                self.stop_verify();
                self.release_since = Some(self.now);
                self.stirred = true;
            }
            // Nothing was served: the replicas stay as they were found.
            Phase::Opening => self.end(EndReason::Released, out),
            Phase::Releasing | Phase::Ended => {}
        }
    }

    /// Whether this member has been released: it serves nobody any more, so nothing is asked of it, and nobody waits for it.
    pub(super) fn is_released(&self, peer: PeerId) -> bool {
        let told = self.phase == Phase::Releasing && self.release_told;
        told && self.members & !self.releasing & bit(peer) != 0
    }

    /// Ends once every operation is done and every member has been told so.
    pub(super) fn advance_release(&mut self, out: &mut Vec<Action<P>>) {
        let busy = !self.ops.is_empty() && !self.config.faults.has(Fault::ReleaseNotAwaited);
        if busy || self.verify.is_some() || self.lane.pending.is_some() || self.raising.is_some() {
            return;
        }
        let others: Vec<PeerId> = (0..self.peers.len())
            .filter(|&peer| self.peers[peer].rebuild().is_some())
            .collect();
        for peer in others {
            self.drop_rebuild(peer, out);
        }
        if !self.ticks.is_used() && self.release_told {
            if self.releasing & self.members == 0 {
                self.end(EndReason::Released, out);
            }
            return;
        }
        self.ticks.raise();
        self.refresh_settled();
        self.release_told = true;
        let settled = self.settled;
        for peer in each(self.members) {
            self.releasing |= bit(peer);
            self.send(peer, Request::Release { settled }, Purpose::Release, out);
        }
    }

    /// It is over: everything that waits fails, and nothing is served any more.
    pub(super) fn end(&mut self, reason: EndReason, out: &mut Vec<Action<P>>) {
        if self.phase == Phase::Ended {
            return;
        }
        self.phase = Phase::Ended;
        if let Some(at) = &mut self.verify {
            at.interrupt();
        }
        self.end_verify(out);
        for (_, pending) in self.ops.iter().filter(|(_, pending)| pending.id != OpId::OWN) {
            let result = Err(IoError::Io);
            out.push(Action::Complete {
                id: pending.id,
                result,
            });
        }
        self.ops = Slab::new();
        self.op_order.clear();
        self.early.clear();
        self.lease_waiters.clear();
        for peer in &mut self.peers {
            let replica = peer.id;
            if let Link::Opening { session, .. } | Link::Up { session } = peer.link {
                out.push(Action::Disconnect { replica, session });
            }
            peer.link = Link::Down { retry_at: self.now };
            peer.outstanding.clear();
        }
        out.push(Action::Ended(reason));
    }
}
