//! Changes of the record, one at a time (L2, L3, R1, R5). A change that was sent is sent again until its
//! outcome is known: it may have been applied though the answer was lost (failure 35).

use super::Primary;
use super::api::{Action, EndReason, Revision, SwapOutcome};
use super::peer::{PeerId, Peers, each};
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::record::{ChangeId, MemberState, Record};
use crate::machine::time::Time;

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Removes members.
    Remove(Peers),
    /// Notes that a replica is being rebuilt.
    BeginRebuild(PeerId),
    /// Makes a rebuilt replica a member.
    Join(PeerId),
}

/// A change whose outcome is not known yet.
#[derive(Debug)]
pub(super) struct PendingChange {
    pub(super) change: Change,
    id: ChangeId,
    record: Record,
    /// When to send it again; nothing while an answer may come.
    retry_at: Option<Time>,
}

/// The record as this primary knows it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) record: Record,
    pub(super) revision: Revision,
    pub(super) pending: Option<PendingChange>,
    count: u32,
    /// How often in a row a conflict was explained by a record that is older than the one known here.
    older_seen: u32,
    /// A conflict has been met since the record was last read.
    unexplained: bool,
}

/// So many times in a row a record has to be older than the known one, before it is taken for what the store holds: the
/// answer to an earlier question may come late.
const OLDER_OFTEN: u32 = 3;

impl Lane {
    pub(super) const fn new(record: Record, revision: Revision) -> Self {
        Self {
            record,
            revision,
            pending: None,
            count: 0,
            older_seen: 0,
            unexplained: false,
        }
    }

    pub(super) fn pending_change(&self) -> Option<Change> {
        self.pending.as_ref().map(|pending| pending.change)
    }
}

impl<P: Payload> Primary<P> {
    /// Starts a change; there must be none under way.
    pub(super) fn change(&mut self, change: Change, out: &mut Vec<Action<P>>) {
        let to = |peers: Peers, state: MemberState| -> Vec<_> {
            each(peers).map(|peer| (self.peers[peer].id, state)).collect()
        };
        let states = match change {
            Change::Remove(peers) => to(peers, MemberState::Stale(self.settled)),
            Change::BeginRebuild(peer) => to(super::peer::bit(peer), MemberState::Rebuilding),
            Change::Join(peer) => to(super::peer::bit(peer), MemberState::Member),
        };
        self.lane.count += 1;
        let id = ChangeId {
            term: self.term,
            count: self.lane.count,
        };
        let Some(record) = self.lane.record.with_states(&states, id) else {
            self.end(EndReason::NoEpoch, out);
            return;
        };
        self.lane.pending = Some(PendingChange {
            change,
            id,
            record,
            retry_at: None,
        });
        self.send_change(out);
    }

    fn send_change(&mut self, out: &mut Vec<Action<P>>) {
        let expected = self.lane.revision;
        if let Some(pending) = &mut self.lane.pending {
            pending.retry_at = None;
            out.push(Action::Swap {
                change: pending.id,
                expected,
                record: pending.record.clone(),
            });
        }
    }

    /// Sends the change again if it is time: until its outcome is known (L3).
    pub(super) fn retry_change(&mut self, out: &mut Vec<Action<P>>) {
        let due = |pending: &PendingChange| pending.retry_at.is_some_and(|at| at <= self.now);
        if self.lane.pending.as_ref().is_some_and(due) {
            self.send_change(out);
        }
    }

    pub(super) fn swapped(&mut self, id: ChangeId, outcome: SwapOutcome, out: &mut Vec<Action<P>>) {
        let now = self.now;
        let Some(pending) = self.lane.pending.as_mut().filter(|pending| pending.id == id) else {
            return;
        };
        match outcome {
            SwapOutcome::Applied(revision) => self.change_applied(revision, None, out),
            SwapOutcome::Unknown if self.config.faults.has(Fault::LostSwapAssumed) => {
                let revision = Revision(self.lane.revision.0 + 1);
                self.change_applied(revision, None, out);
            }
            SwapOutcome::Unknown if self.config.faults.has(Fault::UnknownSwapFailed) => {
                let change = pending.change;
                self.lane.pending = None;
                if let Change::Join(peer) = change {
                    self.drop_rebuild(peer, out);
                }
            }
            SwapOutcome::Unknown => pending.retry_at = Some(now + self.config.retry),
            SwapOutcome::Conflict => {
                pending.retry_at = Some(now + self.config.retry);
                self.lane.unexplained = true;
                out.push(Action::ReadRecord);
            }
        }
    }

    /// The record, read or watched.
    pub(super) fn record_seen(&mut self, record: Record, revision: Revision, out: &mut Vec<Action<P>>) {
        // Whoever attaches leaves the last change in the record: by itself it does not tell that this is still its author's.
        let node = self.config.node;
        let outcome = |pending: &PendingChange| {
            let epoch = pending.record.epoch == record.epoch && record.primary == Some(node);
            // A record older than the one that the change was made from is of a store that was restored.
            let newer = revision > self.lane.revision;
            pending.id == record.change && (epoch && newer || self.config.faults.has(Fault::OutcomeByChange))
        };
        if self.lane.pending.as_ref().is_some_and(outcome) {
            // What was added to it since is part of it.
            self.change_applied(revision, Some(record), out);
            return;
        }
        let older = revision < self.lane.revision && self.config.faults.has(Fault::OlderRecordBelieved);
        if revision <= self.lane.revision && !older {
            return;
        }
        self.lane.older_seen = 0;
        let replaced = record.epoch != self.epoch || record.primary != Some(self.config.node);
        if replaced && self.config.faults.has(Fault::BlindSwap) {
            self.lane.revision = revision;
            self.send_change(out);
            return;
        }
        if replaced {
            self.end(EndReason::Superseded(record.epoch), out);
            return;
        }
        // Somebody else has changed something that does not concern the epoch, as a replica to be added.
        self.lane.revision = revision;
        self.lane.record = record;
        self.add_peers();
        self.drop_vanished(out);
        let Some(pending) = self.lane.pending.take() else {
            return;
        };
        // The record has moved on, so the change as it was sent cannot be applied any more. Who has to go is judged anew: one may
        // have come back, or the one that was to stay be lost. A replica that has failed, or was replaced by another, does not
        // join after all.
        if let Change::Remove(_) = pending.change {
            self.stirred = true;
            return;
        }
        if let Change::Join(peer) | Change::BeginRebuild(peer) = pending.change {
            let at = &self.peers[peer];
            if at.condemned.is_some() || self.lane.record.replica(at.id).is_none() {
                self.drop_rebuild(peer, out);
                return;
            }
        }
        self.change(pending.change, out);
    }

    /// The record was read because a change met a conflict. One that is older than what is known here, and stays so, shows that the
    /// store was restored from an older copy under this primary: no change could ever be made again. Once a member is lost a person
    /// has to decide (T3); until then nobody else can be attached to members that know the newer epoch, and the volume is served.
    /// A copy of this primary's own epoch is not taken up either: somebody may have taken over after it was made, and have left
    /// this primary's members behind, so that nobody here would know. Whoever attaches next asks everybody.
    pub(super) fn record_read(&mut self, record: Record, revision: Revision, out: &mut Vec<Action<P>>) {
        let in_conflict = std::mem::take(&mut self.lane.unexplained) && self.lane.pending.is_some();
        let older = revision < self.lane.revision && in_conflict;
        if !older {
            if revision >= self.lane.revision {
                self.lane.older_seen = 0;
            }
            self.record_seen(record, revision, out);
            return;
        }
        self.lane.older_seen += 1;
        if self.lane.older_seen < OLDER_OFTEN {
            return;
        }
        self.lane.older_seen = 0;
        if record.epoch < self.epoch && self.has_lost_a_member() {
            let (replica, record) = (self.epoch, record.epoch);
            self.end(EndReason::StoreIsOlder { replica, record }, out);
        }
    }

    fn change_applied(&mut self, revision: Revision, record: Option<Record>, out: &mut Vec<Action<P>>) {
        let Some(pending) = self.lane.pending.take() else {
            return;
        };
        self.lane.revision = revision;
        self.lane.record = record.unwrap_or(pending.record);
        self.add_peers();
        match pending.change {
            Change::Remove(peers) => self.removed(peers, out),
            Change::BeginRebuild(peer) => self.rebuild_recorded(peer, out),
            Change::Join(peer) if !self.lane.record.is_member(self.peers[peer].id) => {
                // It was taken out of the record since.
                self.raise_epoch(0, out);
                self.drop_rebuild(peer, out);
            }
            Change::Join(peer) => self.joined(peer, out),
        }
        self.drop_vanished(out);
    }

    /// What was taken out of the record while it was rebuilt cannot become a member any more.
    fn drop_vanished(&mut self, out: &mut Vec<Action<P>>) {
        let is_gone = |peer: &PeerId| {
            let at = &self.peers[*peer];
            at.rebuild().is_some() && self.lane.record.replica(at.id).is_none()
        };
        let gone: Vec<PeerId> = (0..self.peers.len()).filter(is_gone).collect();
        for peer in gone {
            self.drop_rebuild(peer, out);
        }
    }
}
