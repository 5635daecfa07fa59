//! What is decided about a volume that nobody has mounted by records and by what its replicas say of themselves: whether it
//! may be taken, by whom, and whether a replica may go. Asks nobody and changes nothing.

use std::collections::BTreeSet;

use bulkhead_cluster::schema::{Replica, VolumeRecord, VolumeState};
use bulkhead_engine::ids::{NodeId, ReplicaId, VolumeId};
use bulkhead_engine::machine::protocol::Inspected;
use bulkhead_engine::node::Surveyed;

use crate::daemon::rebuild::{self, Away};

/// What the members say of themselves.
pub(super) enum Members {
    /// Each was closed in order, and at the same point: they are the same, and hold all there is.
    AtRest,
    /// Those that answer were closed in order, and so each of them holds all there is.
    Sound,
    /// A person may have to decide, or a node that is away to come back: nothing is done.
    Doubtful(String),
}

/// Nobody uses the volume, so nothing may be decided for the sake of its replicas that a later mount could decide better: a
/// member that does not answer is left behind only if another one shows that it holds everything. One that was closed in order
/// in an epoch before the record's shows that too: it would have been opened in the newer one, and written that down, before
/// anybody was served (T2, D5). The record's epoch passes theirs where a member was dropped, or an attachment came to nothing.
pub(super) fn judge_members(volume: &VolumeRecord, surveyed: &[Surveyed]) -> Members {
    let is_member = |found: &&Surveyed| volume.members().any(|member| member.id == found.replica);
    let said: Vec<&Inspected> = surveyed
        .iter()
        .filter(is_member)
        .filter_map(|found| found.found.as_ref().ok())
        .collect();
    let mut epochs = surveyed.iter().filter_map(Surveyed::epoch);
    if epochs.any(|epoch| epoch > volume.epoch) {
        return Members::Doubtful("a replica has seen a newer epoch than the record".to_owned());
    }
    if said.iter().any(|found| found.failed.is_some()) {
        return Members::Doubtful("a replica in sync has failed".to_owned());
    }
    let all = said.len() == volume.members().count();
    if !said.is_empty() && said.iter().all(|found| found.clean) {
        let points: BTreeSet<_> = said.iter().map(|found| (found.epoch, found.durable)).collect();
        if all && points.len() == 1 {
            Members::AtRest
        } else {
            Members::Sound
        }
    } else {
        Members::Doubtful("what its replicas in sync hold is for the next mount to find out".to_owned())
    }
}

/// Whether nobody has a volume, or wants it: only such a volume may be taken for its replicas. One whose node does not live by
/// the store may be served there all the same, to a container that has done nothing wrong.
pub(super) fn is_left_alone(volume: &VolumeRecord) -> bool {
    volume.state == VolumeState::Ready && volume.wanted.is_none() && volume.primary.is_none()
}

/// Whether all replicas are there, in sync, and as many as asked for: then nothing else has to be looked at.
pub(super) fn is_in_order(volume: &VolumeRecord, is_lost: impl Fn(&Replica) -> bool) -> bool {
    let stays = |replica: &Replica| replica.is_sound() && !is_lost(replica);
    volume.replicas.len() == usize::from(volume.spec.repl) && volume.replicas.iter().all(stays)
}

/// A replica in sync that is one more than asked for, while nothing else is under way: the one that was made last. Where a
/// node is to be emptied, the one too many is there, and does not go so.
pub(super) fn surplus(volume: &VolumeRecord, away: &Away) -> Option<ReplicaId> {
    if !volume.replicas.iter().all(Replica::is_sound) {
        return None;
    }
    // Nothing goes before all of them have answered, so each counts as one that can be reached.
    rebuild::surplus(volume, None, |_| true, |replica| away.is_leaving(replica))
}

/// The place of a node among others, in an order of this volume's own.
pub(super) fn place_in_order(volume: VolumeId, nodes: &[NodeId], node: NodeId) -> Option<usize> {
    // The end of an id is random, also where it begins with the time.
    let own = u128::from_be_bytes(volume.to_bytes()).rotate_left(64);
    let key = |node: &NodeId| u128::from_be_bytes(node.to_bytes()) ^ own;
    let ours = key(nodes.iter().find(|other| **other == node)?);
    Some(nodes.iter().filter(|other| key(other) < ours).count())
}

#[cfg(test)]
mod tests;
