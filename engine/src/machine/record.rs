//! The volume's entry in the store as far as replication goes, and the changes that are made to it. Every change is a
//! compare-and-swap on the entry's revision; who makes it, and when, is not decided here.

use crate::ids::{Epoch, NodeId, ReplicaId, Tick};

/// What a replica is by the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// In sync.
    Member,
    /// Out of sync; the settled tick when it was removed.
    Stale(Tick),
    /// Being brought up to date.
    Rebuilding,
}

/// A replica in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordReplica {
    /// Which.
    pub id: ReplicaId,
    /// On which node.
    pub node: NodeId,
    /// In which state.
    pub state: MemberState,
}

/// Identifies one change of the record, so that its author knows it again when the answer was lost (failure 35).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId {
    /// The epoch in which the author was attached.
    pub term: Epoch,
    /// Counts the author's changes.
    pub count: u32,
}

/// The entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Raised by every change of primary or members.
    pub epoch: Epoch,
    /// The node on which the volume is attached.
    pub primary: Option<NodeId>,
    /// All replicas, members or not.
    pub replicas: Vec<RecordReplica>,
    /// The last change by a primary.
    pub change: ChangeId,
}

impl Record {
    /// The members.
    pub fn members(&self) -> impl Iterator<Item = &RecordReplica> {
        self.replicas
            .iter()
            .filter(|replica| replica.state == MemberState::Member)
    }

    /// The replica with this id.
    pub fn replica(&self, id: ReplicaId) -> Option<&RecordReplica> {
        self.replicas.iter().find(|replica| replica.id == id)
    }

    /// Whether this replica is a member.
    pub fn is_member(&self, id: ReplicaId) -> bool {
        self.replica(id)
            .is_some_and(|replica| replica.state == MemberState::Member)
    }

    /// The record after `node` has become primary (T1). `None` when the epochs are used up.
    pub fn taken_over(&self, node: NodeId) -> Option<Self> {
        let epoch = self.epoch.next()?;
        Some(Self {
            epoch,
            primary: Some(node),
            replicas: self.replicas.clone(),
            change: ChangeId {
                term: epoch,
                count: 0,
            },
        })
    }

    /// The epoch of a replica that this record does not account for: then the store is an older copy, and the volume must
    /// not be attached (T3). Whoever attaches asks the replicas that can be reached first ([`super::Request::Inspect`]),
    /// members or not: no replica has ever accepted an epoch that was not in the record before.
    pub fn is_behind(&self, seen: impl IntoIterator<Item = Epoch>) -> Option<Epoch> {
        seen.into_iter().filter(|&epoch| epoch > self.epoch).max()
    }

    /// The record after a person has declared that `replica` is the volume from now on, whatever it lacks (P6). All other
    /// replicas leave it: ticks of theirs cannot be compared with those of a history that lacks some, so others come
    /// as new replicas with new ids (R6). `seen` are the epochs of all replicas that can be reached. `None` if there is
    /// no such replica, or the epochs are used up.
    pub fn forced(&self, replica: ReplicaId, seen: impl IntoIterator<Item = Epoch>) -> Option<Self> {
        let only = RecordReplica {
            state: MemberState::Member,
            ..*self.replica(replica)?
        };
        let newest = seen.into_iter().max().unwrap_or(Epoch::ZERO);
        let epoch = self.epoch.max(newest).next()?;
        Some(Self {
            epoch,
            primary: None,
            replicas: vec![only],
            change: ChangeId {
                term: epoch,
                count: 0,
            },
        })
    }

    /// The record with some replicas in another state, and for a change of the member set in the next epoch. `None`
    /// when the epochs are used up.
    pub fn with_states(&self, states: &[(ReplicaId, MemberState)], change: ChangeId) -> Option<Self> {
        let mut next = self.clone();
        next.change = change;
        for replica in &mut next.replicas {
            if let Some((_, state)) = states.iter().find(|(id, _)| *id == replica.id) {
                replica.state = *state;
            }
        }
        let set_changes = self.replicas.iter().zip(&next.replicas).any(|(before, after)| {
            (before.state == MemberState::Member) != (after.state == MemberState::Member)
        });
        if set_changes {
            next.epoch = self.epoch.next()?;
        }
        Some(next)
    }
}
