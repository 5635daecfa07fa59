//! The lease (O4): what was read or done is answered only while every member still takes this primary for the
//! volume's.

use super::Primary;
use super::api::Action;
use super::ops::Pending;
use super::peer::{PeerId, Peers, Purpose, each};
use crate::ids::Tick;
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::Request;
use crate::machine::time::Time;

impl<P: Payload> Primary<P> {
    /// Whose leases answers depend on: the members', and a joining replica's, as it may be a member already.
    fn lessors(&self) -> Peers {
        if self.config.faults.has(Fault::JointLeaseForgotten) {
            return self.members;
        }
        self.members | self.joint
    }

    pub(super) fn leases_hold(&self) -> bool {
        each(self.lessors()).all(|peer| self.peers[peer].lease_until > self.now)
    }

    /// Pings those whose lease has run out.
    pub(super) fn ask_for_leases(&mut self, out: &mut Vec<Action<P>>) {
        for peer in each(self.lessors()) {
            if self.peers[peer].lease_until <= self.now {
                self.ping(peer, out);
            }
        }
    }

    /// A request that was sent at that time has been answered by a replica that still serves this primary.
    pub(super) fn renew_lease(&mut self, peer: PeerId, sent_at: Time) {
        let since = if self.config.faults.has(Fault::LeaseFromAnswer) {
            self.now
        } else {
            sent_at
        };
        let until = since + self.config.lease_used();
        let peer = &mut self.peers[peer];
        peer.lease_until = peer.lease_until.max(until);
    }

    /// Answers the operations that waited, if they may be answered now.
    pub(super) fn serve_lease_waiters(&mut self, out: &mut Vec<Action<P>>) {
        if self.lease_waiters.is_empty() {
            return;
        }
        if !self.leases_hold() {
            self.ask_for_leases(out);
            return;
        }
        for place in std::mem::take(&mut self.lease_waiters) {
            match self.ops.get(place).map(Pending::is_read) {
                Some(true) => self.read_done(place, out),
                Some(false) => self.op_advanced(place, out),
                None => {}
            }
        }
    }

    pub(super) fn ping(&mut self, peer: PeerId, out: &mut Vec<Action<P>>) {
        let settled = self.settled_for(peer);
        let now = self.now;
        let at = &mut self.peers[peer];
        if at.ping_out || !at.is_up() {
            return;
        }
        at.ping_out = true;
        at.last_ping = now;
        at.told = settled;
        self.send(peer, Request::Ping { settled }, Purpose::Ping, out);
    }

    /// What this peer is told as settled: nothing while its chunks are not all accounted for.
    pub(super) fn settled_for(&self, peer: PeerId) -> Tick {
        let peer = &self.peers[peer];
        let may_know = match peer.rebuild() {
            Some(rebuild) => {
                let faults = self.config.faults;
                let early = faults.has(Fault::DurableDuringRebuild) || faults.has(Fault::SettledToldEarly);
                rebuild.is_marked() || early
            }
            None => peer.is_member(),
        };
        if may_know { self.settled } else { Tick::ZERO }
    }

    /// Tells the settled tick where it is not known, and keeps leases and connections alive.
    pub(super) fn ping_where_due(&mut self, out: &mut Vec<Action<P>>) {
        let interval = self.config.lease / 4;
        for peer in 0..self.peers.len() {
            let at = &self.peers[peer];
            let stale = at.told < self.settled_for(peer);
            let silent = !at.local && self.now.since(at.last_ping) >= interval;
            if at.is_up() && (stale || silent) && !self.is_released(peer) {
                self.ping(peer, out);
            }
        }
    }
}
