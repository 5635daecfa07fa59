//! Losing a member (L1, L2): condemned, removed by a swap, the new epoch persisted by the others, and only then are
//! the operations acknowledged that it did not answer.

use std::time::Duration;

use super::api::{Action, EndReason};
use super::ops::Pending;
use super::peer::{Condemned, Link, PeerId, Peers, Purpose, Sent, Standing, bit, each};
use super::store::Change;
use super::{Phase, Primary};
use crate::format::FailCause;
use crate::ids::{Epoch, ReplicaId};
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::Request;

/// A new epoch on its way to the members' disks.
#[derive(Debug)]
pub(super) struct Raising {
    pub(super) epoch: Epoch,
    /// Members that have not made it durable yet.
    pub(super) waiting: Peers,
    /// Removed replicas whose answers are waited for until then.
    removed: Peers,
}

impl Raising {
    /// Everybody who has something to do with it.
    pub(super) const fn peers(&self) -> Peers {
        self.waiting | self.removed
    }
}

impl<P: Payload> Primary<P> {
    /// Members, and the replica whose joining is under way: it may be a member already.
    pub(super) fn counted(&self) -> Peers {
        match self.lane.pending_change() {
            Some(Change::Join(peer)) => self.members | bit(peer),
            _ => self.members,
        }
    }

    /// Those of them that have to go.
    pub(super) fn condemned_members(&self) -> Peers {
        let condemned = |peer: &PeerId| self.peers[*peer].condemned.is_some();
        each(self.counted())
            .filter(condemned)
            .fold(0, |all, peer| all | bit(peer))
    }

    fn sound_members(&self) -> Peers {
        let sound = |peer: &PeerId| self.peers[*peer].is_sound_member();
        each(self.members)
            .filter(sound)
            .fold(0, |all, peer| all | bit(peer))
    }

    /// This replica cannot go on as a member.
    pub(super) fn condemn_finally(
        &mut self,
        peer: PeerId,
        cause: Option<FailCause>,
        out: &mut Vec<Action<P>>,
    ) {
        self.peers[peer].condemned = Some(Condemned::Final(cause));
        self.hang_up(peer, out);
        self.stirred = true;
    }

    /// D6: this replica answered something wrong; it is to mark itself as failed, whenever it can be told. It goes, but the
    /// connection stays until it has answered, or is removed: what is hung up upon may not be heard.
    pub(super) fn spoil(&mut self, peer: PeerId, cause: FailCause, out: &mut Vec<Action<P>>) {
        self.peers[peer].condemned = Some(Condemned::Final(Some(cause)));
        if self.config.faults.has(Fault::FailNotTold) {
            self.hang_up(peer, out);
            self.stirred = true;
            return;
        }
        self.peers[peer].spoiled = Some(cause);
        self.send(peer, Request::Fail(cause), Purpose::Nothing, out);
        self.stirred = true;
    }

    /// L1: condemns members that are away or do not answer, as long as another one is sound: with the last one there is
    /// nothing but patience.
    pub(super) fn condemn_late(&mut self, out: &mut Vec<Action<P>>) {
        if self.now < self.grace_until {
            return;
        }
        for peer in 0..self.peers.len() {
            let deadline = self.patience_with(peer);
            let at = &self.peers[peer];
            let away = at
                .down_since
                .is_some_and(|since| self.now.since(since) >= deadline);
            let oldest = at.outstanding.first_key_value().map(|(_, sent)| sent.since);
            let late = at.is_up() && oldest.is_some_and(|since| self.now.since(since) >= deadline);
            if !(away || late) || at.condemned.is_some() || self.is_released(peer) {
                continue;
            }
            if at.is_member() || self.is_joining(peer) {
                let others = self.sound_members() & !bit(peer);
                if others != 0 {
                    self.peers[peer].condemned = Some(Condemned::Away);
                    if late {
                        self.hang_up(peer, out);
                    }
                    self.stirred = true;
                }
            } else if at.rebuild().is_some() {
                self.drop_rebuild(peer, out);
            } else if !at.outstanding.is_empty() && late {
                self.hang_up(peer, out);
            }
        }
    }

    /// Condemns a member that nobody wants any more, if every other one is sound. One that is opened anew before the swap stays, and
    /// is dismissed again by whoever still wants that.
    pub(super) fn dismiss(&mut self, replica: ReplicaId) {
        let Some(peer) = self.peer_of(replica) else {
            return;
        };
        let others = self.members & !bit(peer);
        let at = &self.peers[peer];
        let wanted = self.phase != Phase::Serving || !at.is_member() || at.condemned.is_some();
        let sound = self.sound_members() & others == others || self.config.faults.has(Fault::DismissedAnyway);
        if wanted || others == 0 || !sound {
            return;
        }
        self.peers[peer].condemned = Some(Condemned::Dismissed);
        self.stirred = true;
    }

    /// Whether a member has to leave before anything is acknowledged again.
    pub(super) fn has_lost_a_member(&self) -> bool {
        let is_lost = |peer: PeerId| {
            let condemned = self.peers[peer].condemned;
            condemned.is_some() && condemned != Some(Condemned::Dismissed)
        };
        each(self.members).any(is_lost)
    }

    /// Whoever is dismissed stays after all if another member is not sound any more by the time of the swap: nothing is wrong with it,
    /// and it may be the last one.
    fn keep_dismissed(&mut self) {
        let is_dismissed = |peer: &PeerId| self.peers[*peer].condemned == Some(Condemned::Dismissed);
        let dismissed = each(self.members).filter(is_dismissed);
        let dismissed = dismissed.fold(0, |all, peer| all | bit(peer));
        let others = self.members & !dismissed;
        if others != 0 && self.sound_members() == others || self.config.faults.has(Fault::DismissedAnyway) {
            return;
        }
        for peer in each(dismissed) {
            self.peers[peer].condemned = None;
        }
    }

    /// How long this one may be away or owe an answer.
    ///
    /// T2: while opening, one on a node that the store takes for dead is waited for only as long as a living one takes to
    /// answer. That decides nothing but when it is removed: it still takes the swap, and never the last one goes. Is the store
    /// wrong, and an old primary serves on that node, it has a member in common with this one: every member that is left was
    /// opened by this primary, refuses the old one since, and has said how long the old one's lease may still run, which is
    /// waited out (T1). So the old one can neither acknowledge, nor read, nor change the record. One that has answered the call
    /// already is alive, and is given its time. And where nobody else is whole, it may be the only one that holds what was not
    /// flushed.
    fn patience_with(&self, peer: PeerId) -> Duration {
        if self.phase != Phase::Opening {
            return self.config.member_deadline;
        }
        let patience = self.config.open_patience;
        let at = &self.peers[peer];
        let silent = matches!(at.link, Link::Down { .. } | Link::Connecting { .. });
        let is_whole = |other: &PeerId| self.peers[*other].opened.is_some_and(|opened| opened.whole);
        let others = self.sound_members() & !bit(peer);
        if silent && self.dead.contains(&at.node) && each(others).any(|other| is_whole(&other)) {
            return patience.min(self.config.dead_patience);
        }
        patience
    }

    /// Removes the condemned members from the record, if another one is sound (L2).
    pub(super) fn remove_condemned(&mut self, out: &mut Vec<Action<P>>) {
        if self.lane.pending.is_some() {
            return;
        }
        self.keep_dismissed();
        let condemned = self.condemned_members();
        if condemned == 0 {
            return;
        }
        let is_final = |peer: PeerId| match self.peers[peer].condemned {
            Some(Condemned::Final(cause)) => Some(cause),
            _ => None,
        };
        if self.sound_members() == 0 && !self.config.faults.has(Fault::LastMemberRemoved) {
            let causes: Vec<_> = each(self.members).filter_map(is_final).collect();
            if causes.len() == each(self.members).count() {
                let cause = causes.into_iter().flatten().next();
                self.end(EndReason::LastMemberFailed(cause), out);
            }
            return;
        }
        let is_dead = |peer: PeerId| self.dead.contains(&self.peers[peer].node);
        if self.config.faults.has(Fault::DeadUnrecorded) && each(condemned).all(is_dead) {
            self.removed(condemned, out);
            return;
        }
        self.change(Change::Remove(condemned), out);
        if self.config.faults.has(Fault::AckBeforeSwap) {
            for peer in each(condemned) {
                self.let_go(peer, out);
            }
        }
    }

    /// The swap is done: those replicas are no members any more.
    pub(super) fn removed(&mut self, removed: Peers, out: &mut Vec<Action<P>>) {
        for peer in each(removed) {
            self.hang_up(peer, out);
            let at = &mut self.peers[peer];
            at.standing = Standing::Outside;
            at.condemned = None;
            at.incarnation = None;
            at.opened = None;
        }
        self.members &= !removed;
        self.receivers &= !removed;
        self.abort_convergence();
        // First: what is admitted when a rebuild is dropped belongs to the new epoch.
        self.raise_epoch(removed, out);
        // Whoever copies from a removed replica starts again.
        for peer in 0..self.peers.len() {
            let source = self.peers[peer].rebuild().map(|rebuild| rebuild.source);
            if source.is_some_and(|source| removed & bit(source) != 0) {
                self.drop_rebuild(peer, out);
            }
        }
    }

    /// Goes on in the record's epoch, and has everyone persist it.
    pub(super) fn raise_epoch(&mut self, removed: Peers, out: &mut Vec<Action<P>>) {
        let epoch = self.lane.record.epoch;
        self.epoch = epoch;
        if !self.config.faults.has(Fault::TickKept) {
            self.ticks.enter(epoch);
        }
        let before = self.raising.take().map_or(0, |raising| raising.removed);
        let released = (0..self.peers.len()).filter(|&peer| self.is_released(peer));
        let released = released.fold(0, |all, peer| all | bit(peer));
        self.raising = Some(Raising {
            epoch,
            waiting: if self.config.faults.has(Fault::RaiseNotAwaited) {
                0
            } else {
                self.members & !released
            },
            removed: before | removed,
        });
        for peer in 0..self.peers.len() {
            let at = &self.peers[peer];
            if !at.is_up() || released & bit(peer) != 0 {
                continue;
            }
            let role = at.role();
            self.send(peer, Request::Raise { epoch, role }, Purpose::Raise(epoch), out);
        }
        self.stirred = true;
    }

    /// Whether a member does not have the epoch on disk yet, so that nothing is acknowledged.
    pub(super) fn is_raising(&self) -> bool {
        self.raising
            .as_ref()
            .is_some_and(|raising| raising.waiting & self.members != 0)
    }

    /// L2: acknowledges what was held, once the members have the new epoch on disk.
    pub(super) fn finish_raising(&mut self, out: &mut Vec<Action<P>>) {
        if self.raising.is_none() || self.is_raising() {
            return;
        }
        let removed = self.raising.take().map_or(0, |raising| raising.removed);
        for peer in each(removed) {
            self.let_go(peer, out);
        }
        // What was answered by everybody meanwhile, also of what has been started in the new epoch.
        let answered = |(_, pending): &(u32, &Pending<P>)| pending.needs == 0 && !pending.is_read();
        let held: Vec<u32> = self.ops.iter().filter(answered).map(|(place, _)| place).collect();
        for place in held {
            self.op_advanced(place, out);
        }
        self.serve_lease_waiters(out);
        self.stirred = true;
    }

    /// Nobody waits for this replica any more.
    pub(super) fn let_go(&mut self, peer: PeerId, out: &mut Vec<Action<P>>) {
        for (_, Sent { purpose, .. }) in std::mem::take(&mut self.peers[peer].outstanding) {
            match purpose {
                Purpose::CopyCompare(job) => self.compare_aborted(job, out),
                Purpose::CopyRead(job) | Purpose::CopyWrite(job) => self.copy_aborted(peer, job, out),
                Purpose::Release => self.releasing &= !bit(peer),
                Purpose::Op { .. }
                | Purpose::Verify { .. }
                | Purpose::Raise(_)
                | Purpose::Ping
                | Purpose::Nothing
                | Purpose::Converge { .. }
                | Purpose::Rebuild { .. } => {}
            }
        }
        self.verify_without(peer, out);
        // Also operations that it has answered with a refusal, and that were held until it was gone.
        let waits = |(_, pending): &(u32, &Pending<P>)| pending.needs & bit(peer) != 0;
        let waiting: Vec<(u32, u64)> = self
            .ops
            .iter()
            .filter(waits)
            .map(|(place, pending)| (place, pending.count))
            .collect();
        for (place, count) in waiting {
            if let Some(pending) = self.ops.get_mut(place).filter(|pending| pending.count == count) {
                pending.needs &= !bit(peer);
                self.op_advanced(place, out);
            }
        }
    }
}
