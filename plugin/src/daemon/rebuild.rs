//! Keeps the number of a volume's replicas while it is attached here: where the node of one stays away too long, or its
//! pool, another one is made on another node; once that is in sync, the lost one is not wanted any more. A node that comes
//! back in time only catches up, and that is the engine's work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::placement::place_another;
use bulkhead_cluster::schema::{
    ChangeId, NodeDuty, PoolState, Replica, ReplicaState, VolumeRecord, VolumeState,
};
use bulkhead_cluster::volumes::{Held, ReplicaChange, Volume as Stored, VolumeError};
use bulkhead_engine::ids::{NodeId, PoolId, ReplicaId};
use uuid::Uuid;

use super::attach::Attached;
use super::context::Daemon;
use super::life::is_leaving;
use super::reconcile::every;

/// The longest time between looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// Since when nodes and pools are away, by this node's clock.
#[derive(Default)]
pub(super) struct Away {
    nodes: BTreeMap<NodeId, Instant>,
    pools: BTreeMap<PoolId, Instant>,
}

impl Away {
    /// Takes over what the records say now. While the store is away nothing is known, and nothing counts.
    fn look(&mut self, contents: &Contents, fresh: bool) {
        if !fresh {
            self.nodes.clear();
            self.pools.clear();
            return;
        }
        let now = Instant::now();
        let (mut nodes, mut pools) = (BTreeMap::new(), BTreeMap::new());
        let at_work = |node: &NodeId| {
            let mut nodes = contents.nodes();
            nodes.any(|at| at.record.id == *node && at.record.duty == NodeDuty::Maintenance)
        };
        // Who works on a node means to bring it back.
        for node in contents
            .nodes()
            .filter(|node| node.live.is_none() && node.record.duty != NodeDuty::Maintenance)
        {
            let since = self.nodes.get(&node.record.id).copied().unwrap_or(now);
            nodes.insert(node.record.id, since);
        }
        for pool in contents
            .pools()
            .filter(|pool| pool.state == PoolState::Down && !at_work(&pool.node))
        {
            pools.insert(pool.id, self.pools.get(&pool.id).copied().unwrap_or(now));
        }
        (self.nodes, self.pools) = (nodes, pools);
    }

    fn is_lost(&self, replica: &Replica, contents: &Contents, after: Duration) -> bool {
        let long = |since: Option<&Instant>| since.is_some_and(|since| since.elapsed() >= after);
        let gone = contents
            .nodes()
            .find(|node| node.record.id == replica.node)
            .is_none_or(|node| node.record.duty == NodeDuty::Decommissioned);
        let cannot_be_made = !replica.made && replica.trouble.is_some();
        gone || cannot_be_made || long(self.nodes.get(&replica.node)) || long(self.pools.get(&replica.pool))
    }
}

/// Looks for as long as it is polled.
pub(super) async fn keep_up(daemon: Arc<Daemon>) {
    let interval = INTERVAL.min(daemon.config.rebuild_after.duration() / 3);
    every(interval, || daemon.keep_replicas()).await;
}

impl Daemon {
    async fn keep_replicas(&self) {
        let freshness = self.catalogue.freshness();
        let fresh = freshness.away.is_none() && !freshness.from_disk;
        self.catalogue
            .read(|contents| self.away.lock().look(contents, fresh));
        if !fresh {
            return;
        }
        let all: Vec<Arc<Attached>> = self.attached.lock().values().cloned().collect();
        for attached in all {
            self.keep_replicas_of(&attached).await;
        }
    }

    /// The same for one volume, whose record has changed: what is not wanted any more goes at once.
    pub(super) async fn keep_replicas_of(&self, attached: &Attached) {
        if attached.dead().is_some() {
            return;
        }
        if let Some(replica) = self.surplus_of(attached) {
            tracing::info!(volume = attached.name, %replica, "a member is not wanted any more");
            attached.volume.dismiss(replica);
        }
        if let Some((volume, changes)) = self.changes_for(attached)
            && let Err(error) = self.change_replicas(attached, &volume, &changes).await
        {
            tracing::warn!(volume = attached.name, %error, "its replicas could not be changed yet");
        }
    }

    /// Whether the records ask for a change of an attached volume's replicas.
    pub(super) fn has_replicas_to_change(&self, attached: &Attached) -> bool {
        self.changes_for(attached).is_some() || self.surplus_of(attached).is_some()
    }

    fn changes_for(&self, attached: &Attached) -> Option<(Arc<Stored>, Vec<ReplicaChange>)> {
        let after = self.config.rebuild_after.duration();
        let away = self.away.lock();
        self.catalogue.read(|contents| {
            let volume = contents.by_id(attached.id)?.clone();
            let ours = volume
                .primary
                .as_ref()
                .is_some_and(|primary| primary.attachment == attached.attachment);
            if !ours || volume.state != VolumeState::Ready {
                return None;
            }
            let lost = |replica: &Replica| away.is_lost(replica, contents, after);
            let leaving = |replica: &Replica| is_leaving(contents, replica.node);
            let mut changes = discards(&volume, lost, leaving);
            if changes.is_empty() {
                let unwanted = |replica: &Replica| lost(replica) || leaving(replica);
                changes.extend(self.addition(&volume, unwanted, contents));
            }
            (!changes.is_empty()).then_some((volume, changes))
        })
    }

    /// A member of an attached volume that is one too many, or is on a node that is to be empty.
    fn surplus_of(&self, attached: &Attached) -> Option<ReplicaId> {
        self.catalogue.read(|contents| {
            let volume = contents.by_id(attached.id)?;
            let ours = volume
                .primary
                .as_ref()
                .is_some_and(|primary| primary.attachment == attached.attachment);
            let in_reach = |replica: &Replica| replica.node == self.node || contents.is_alive(replica.node);
            if !ours || volume.state != VolumeState::Ready {
                return None;
            }
            surplus(volume, self.node, in_reach, |replica| {
                is_leaving(contents, replica.node)
            })
        })
    }

    fn addition(
        &self,
        volume: &VolumeRecord,
        lost: impl Fn(&Replica) -> bool,
        contents: &Contents,
    ) -> Option<ReplicaChange> {
        if !is_short(volume, lost) {
            return None;
        }
        let taken: Vec<NodeId> = volume.replicas.iter().map(|replica| replica.node).collect();
        match place_another(&volume.spec, self.node, &taken, &contents.view()) {
            Ok(place) => Some(ReplicaChange::Add {
                replica: ReplicaId::from(Uuid::new_v4()),
                place,
            }),
            Err(refusal) => {
                tracing::debug!(volume = volume.name, %refusal, "it lacks a replica");
                None
            }
        }
    }

    async fn change_replicas(
        &self,
        attached: &Attached,
        volume: &Stored,
        changes: &[ReplicaChange],
    ) -> Result<(), VolumeError> {
        let held = Held {
            attachment: attached.attachment,
            epoch: volume.epoch,
        };
        let done = self
            .volumes
            .change_replicas(volume.id, held, ChangeId::random(), changes)
            .await?;
        for change in changes {
            match change {
                ReplicaChange::Add { place, .. } => tracing::warn!(
                    volume = attached.name,
                    on = self.name_of(place.node),
                    "it lacks a replica; another one is made"
                ),
                other => {
                    tracing::info!(volume = attached.name, change = ?other, "a replica is not wanted any more")
                }
            }
        }
        self.catalogue.note(&done);
        self.tell_engine(volume.id);
        Ok(())
    }
}

/// A member that has to leave: on a node that is to be empty, or the last of too many; only while enough others are in sync
/// and can be reached.
fn surplus(
    volume: &VolumeRecord,
    here: NodeId,
    in_reach: impl Fn(&Replica) -> bool,
    leaving: impl Fn(&Replica) -> bool,
) -> Option<ReplicaId> {
    let members = || volume.members().filter(|replica| replica.made);
    let staying = members()
        .filter(|replica| !leaving(replica) && in_reach(replica))
        .count();
    let wanted = usize::from(volume.spec.repl);
    if staying < wanted {
        return None;
    }
    let mut goes = members().filter(|replica| leaving(replica));
    let over = members().filter(|replica| !leaving(replica)).count() > wanted;
    let goes = goes.next().or_else(|| {
        let is_named = |replica: &&Replica| {
            volume
                .spec
                .nodes
                .iter()
                .any(|name| *name == replica.node.to_string())
        };
        let mut rest: Vec<&Replica> = members().filter(|replica| !leaving(replica)).collect();
        // The one here goes last: it spares the network.
        rest.sort_by_key(|replica| (in_reach(replica), is_named(replica), replica.node == here));
        rest.first().copied().filter(|_| over)
    });
    goes.map(|replica| replica.id)
}

/// Replicas that are not needed any more: out of sync, while there are enough that are not and stay.
fn discards(
    volume: &VolumeRecord,
    lost: impl Fn(&Replica) -> bool,
    leaving: impl Fn(&Replica) -> bool,
) -> Vec<ReplicaChange> {
    let stays = |replica: &&Replica| replica.made && !leaving(replica);
    let sound = volume.members().filter(stays).count();
    if sound < usize::from(volume.spec.repl) {
        return Vec::new();
    }
    let is_over = |replica: &&Replica| match replica.state {
        ReplicaState::Stale { .. } => true,
        ReplicaState::Rebuilding { .. } => {
            lost(replica) || leaving(replica) || sound > usize::from(volume.spec.repl)
        }
        ReplicaState::Member | ReplicaState::Removing => false,
    };
    let over = volume.replicas.iter().filter(is_over);
    over.map(|replica| ReplicaChange::Discard { replica: replica.id })
        .collect()
}

/// Whether it has fewer replicas than it should that are there, or on their way back.
fn is_short(volume: &VolumeRecord, lost: impl Fn(&Replica) -> bool) -> bool {
    let counts = |replica: &&Replica| replica.state != ReplicaState::Removing && !lost(replica);
    volume.replicas.iter().filter(counts).count() < usize::from(volume.spec.repl)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_cluster::schema::VolumeSpec;
    use bulkhead_cluster::volumes::{NewVolume, Placed};
    use bulkhead_engine::ids::Tick;

    fn volume() -> VolumeRecord {
        let place = |id| Placed {
            node: NodeId::from_u128(id),
            pool: PoolId::from_u128(id),
        };
        let spec = VolumeSpec {
            repl: 2,
            ..VolumeSpec::new(1 << 30)
        };
        let new = NewVolume::new("v", spec, &[place(1), place(2)], NodeId::from_u128(1));
        let mut record = new.expect("a volume").into_record();
        for replica in &mut record.replicas {
            replica.made = true;
        }
        record
    }

    #[test]
    fn a_lost_replica_is_replaced_and_then_discarded() {
        let mut record = volume();
        let second = |replica: &Replica| replica.node == NodeId::from_u128(2);
        let stays = |_: &Replica| false;
        assert!(!is_short(&record, |_| false) && is_short(&record, second));
        let tick = Tick::ZERO;
        if let Some(lost) = record.replicas.get_mut(1) {
            lost.state = ReplicaState::Stale { tick };
        }
        assert!(
            discards(&record, second, stays).is_empty(),
            "not before another one is in sync"
        );
        let (id, node) = (ReplicaId::from_u128(9), NodeId::from_u128(3));
        let mut third = Replica::new(id, node, PoolId::from_u128(3), ReplicaState::Stale { tick });
        record.replicas.push(third.clone());
        assert!(!is_short(&record, second), "one is enough");
        assert!(discards(&record, second, stays).is_empty());
        record.replicas.pop();
        (third.state, third.made) = (ReplicaState::Member, true);
        record.replicas.push(third);
        let [ReplicaChange::Discard { replica }] = discards(&record, second, stays)[..] else {
            panic!("the lost one goes");
        };
        assert_eq!(
            record.replica(replica).map(|replica| replica.node),
            Some(NodeId::from_u128(2))
        );
    }

    #[test]
    fn what_is_on_a_drained_node_leaves_once_another_one_is_in_sync() {
        let mut record = volume();
        let here = NodeId::from_u128(1);
        let drained = |replica: &Replica| replica.node == NodeId::from_u128(2);
        let reached = |_: &Replica| true;
        assert!(is_short(&record, drained), "another one is made");
        assert_eq!(surplus(&record, here, reached, drained), None, "it is needed");
        let mut third = Replica::new(
            ReplicaId::from_u128(9),
            NodeId::from_u128(3),
            PoolId::from_u128(3),
            ReplicaState::Stale { tick: Tick::ZERO },
        );
        record.replicas.push(third.clone());
        assert!(
            discards(&record, |_| false, drained).is_empty(),
            "the new one is not the one too many"
        );
        assert_eq!(surplus(&record, here, reached, drained), None);
        record.replicas.pop();
        (third.state, third.made) = (ReplicaState::Member, true);
        record.replicas.push(third);
        let goes = surplus(&record, here, reached, drained);
        assert_eq!(goes, Some(record.replicas[1].id));
        let third_away = |replica: &Replica| replica.node != NodeId::from_u128(3);
        assert_eq!(
            surplus(&record, here, third_away, drained),
            None,
            "not while the new one is away"
        );
        record.replicas[1].state = ReplicaState::Rebuilding { tick: Tick::ZERO };
        assert_eq!(discards(&record, |_| false, drained).len(), 1);
    }

    #[test]
    fn one_too_many_leaves_and_not_the_one_here() {
        let mut record = volume();
        record.spec.repl = 1;
        let (here, reached) = (NodeId::from_u128(1), |_: &Replica| true);
        let stays = |_: &Replica| false;
        assert_eq!(
            surplus(&record, here, reached, stays),
            Some(record.replicas[1].id)
        );
        let there = NodeId::from_u128(2);
        assert_eq!(
            surplus(&record, there, reached, stays),
            Some(record.replicas[0].id)
        );
        record.spec.repl = 2;
        assert_eq!(surplus(&record, here, reached, stays), None);
    }
}
