//! Keeps the number of a volume's replicas while it is attached here: where the node of one stays away too long, or its
//! pool, another one is made on another node; once that is in sync, the lost one is not wanted any more. A node that comes
//! back in time only catches up, and that is the engine's work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::placement::{may_place, place_another};
use bulkhead_cluster::schema::{
    ChangeId, NodeDuty, PoolState, Replica, ReplicaState, VolumeRecord, VolumeState,
};
use bulkhead_cluster::volumes::{Held, ReplicaChange, Volume as Stored, VolumeError};
use bulkhead_engine::ids::{NodeId, PoolId, ReplicaId, VolumeId};
use bulkhead_engine::node::{PeerView, Reach, Standing, VolumeState as EngineState};
use parking_lot::Mutex;
use uuid::Uuid;

use super::attach::Attached;
use super::context::Daemon;
use super::rebalance::turns;
use super::reconcile::every;
use super::upkeep::Tended;

/// The longest time between looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// Since when nodes and pools are away, by this node's clock. Its lock is never held while the catalogue is read: a copy is
/// taken before.
#[derive(Clone, Default)]
pub(super) struct Away {
    nodes: BTreeMap<NodeId, Instant>,
    pools: BTreeMap<PoolId, Instant>,
    /// Nodes that belong to the cluster.
    known: BTreeSet<NodeId>,
    /// Replicas that have failed.
    failed: BTreeMap<ReplicaId, Instant>,
    /// Nodes that are to be emptied.
    leaving: BTreeSet<NodeId>,
    /// Pools that are to be emptied.
    leaving_pools: BTreeSet<PoolId>,
    /// Replicas whose turn it is to be moved for the sake of how full the pools are.
    moving: BTreeSet<ReplicaId>,
}

/// A volume that this node holds, for its users or for its replicas.
pub(super) enum HeldHere {
    Attached(Arc<Attached>),
    Tended(Arc<Tended>),
}

impl HeldHere {
    fn id(&self) -> VolumeId {
        match self {
            Self::Attached(attached) => attached.id,
            Self::Tended(tended) => tended.id,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Attached(attached) => &attached.name,
            Self::Tended(tended) => &tended.name,
        }
    }

    fn attachment(&self) -> ChangeId {
        match self {
            Self::Attached(attached) => attached.attachment,
            Self::Tended(tended) => tended.attachment,
        }
    }

    fn looking(&self) -> &tokio::sync::Mutex<()> {
        match self {
            Self::Attached(attached) => &attached.looking,
            Self::Tended(tended) => &tended.looking,
        }
    }

    /// Whether the engine serves it with every member.
    fn is_whole(&self) -> bool {
        let status = match self {
            Self::Attached(attached) => attached.volume.status(),
            Self::Tended(tended) => tended.volume.status(),
        };
        let is_there = |peer: &PeerView| peer.reach == Reach::Up && peer.trouble.is_none();
        let mut members = status
            .replicas
            .iter()
            .filter(|peer| peer.standing == Standing::Member);
        matches!(status.state, EngineState::Serving) && members.all(is_there)
    }

    fn is_dead(&self) -> bool {
        match self {
            Self::Attached(attached) => attached.dead().is_some(),
            Self::Tended(tended) => tended.volume.ended().is_some(),
        }
    }
}

impl Away {
    /// Takes over what the records say now. While the store is away nothing is known, and nothing counts.
    fn look(&mut self, contents: &Contents, fresh: bool) {
        if !fresh {
            *self = Self::default();
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
        let replicas = contents.volumes().flat_map(|volume| &volume.replicas);
        let failed = replicas.filter(|replica| replica.made && replica.trouble.is_some());
        self.failed = failed
            .map(|replica| (replica.id, self.failed.get(&replica.id).copied().unwrap_or(now)))
            .collect();
        let known = contents
            .nodes()
            .filter(|node| node.record.duty != NodeDuty::Decommissioned)
            .map(|node| node.record.id);
        self.known = known.collect();
        let leaving = contents
            .nodes()
            .filter(|node| node.record.duty.is_leaving())
            .map(|node| node.record.id);
        self.leaving = leaving.collect();
        let leaving = contents.nodes().flat_map(|node| node.record.leaving_pools);
        self.leaving_pools = leaving.collect();
        self.moving = turns(contents);
    }

    /// Whether a node has been away for so long, or belongs to the cluster no more.
    pub(super) fn is_long_gone(&self, node: NodeId, after: Duration) -> bool {
        let long = |since: &Instant| since.elapsed() >= after;
        !self.known.is_empty() && !self.known.contains(&node) || self.nodes.get(&node).is_some_and(long)
    }

    #[cfg(test)]
    pub(super) fn with_leaving(node: NodeId) -> Self {
        Self {
            leaving: [node].into(),
            ..Self::default()
        }
    }

    #[cfg(test)]
    pub(super) fn with_leaving_pool(pool: PoolId) -> Self {
        Self {
            leaving_pools: [pool].into(),
            ..Self::default()
        }
    }

    /// Whether a replica is not to stay where it is.
    pub(super) fn is_leaving(&self, replica: &Replica) -> bool {
        self.is_emptied(replica) || self.is_moving(replica)
    }

    /// Whether a replica is on a node or in a pool that is to be emptied.
    fn is_emptied(&self, replica: &Replica) -> bool {
        self.leaving.contains(&replica.node) || self.leaving_pools.contains(&replica.pool)
    }

    /// Whether a replica is to be moved to a certain other place now.
    fn is_moving(&self, replica: &Replica) -> bool {
        replica.moves_to.is_some() && self.moving.contains(&replica.id)
    }

    fn is_lost(&self, replica: &Replica, after: Duration) -> bool {
        let long = |since: &Instant| since.elapsed() >= after;
        // Either its files cannot be made, or it has failed: it comes back by itself in neither case.
        let is_useless =
            replica.trouble.is_some() && !(replica.made && replica.state == ReplicaState::Member);
        is_useless
            || self.is_long_gone(replica.node, after)
            || self.pools.get(&replica.pool).is_some_and(long)
    }
}

/// Looks for as long as it is polled.
pub(super) async fn keep_up(daemon: Arc<Daemon>) {
    let interval = INTERVAL.min(daemon.config.rebuild_after.duration() / 3);
    every(interval, || async {
        daemon.tell_of_failed_replicas().await;
        daemon.keep_replicas().await;
    })
    .await;
}

impl Daemon {
    async fn keep_replicas(&self) {
        let freshness = self.catalogue.freshness();
        let fresh = freshness.away.is_none() && !freshness.from_disk;
        let mut away = self.away();
        self.catalogue.read(|contents| away.look(contents, fresh));
        *self.away.lock() = away;
        if !fresh {
            return;
        }
        let attached: Vec<Arc<Attached>> = self.attached.lock().values().cloned().collect();
        let attached = attached.into_iter().map(HeldHere::Attached);
        let tended = self.all_tended().into_iter().map(HeldHere::Tended);
        for held in attached.chain(tended).collect::<Vec<_>>() {
            self.keep_replicas_of(&held).await;
        }
    }

    /// The volume of this id, if this node holds it.
    pub(super) fn held_here(&self, id: VolumeId) -> Option<HeldHere> {
        let attached = self.attached_of(id).map(HeldHere::Attached);
        attached.or_else(|| self.tended(id).map(HeldHere::Tended))
    }

    /// The same for one volume, whose record has changed: what is not wanted any more goes at once.
    pub(super) async fn keep_replicas_of(&self, held: &HeldHere) {
        if held.is_dead() {
            return;
        }
        if let Some((attached, replica)) = self.surplus_of(held) {
            tracing::info!(volume = held.name(), %replica, "a member is not wanted any more");
            attached.volume.dismiss(replica);
        }
        // One look at a time, or two would each add a replica.
        let Ok(_turn) = held.looking().try_lock() else {
            return;
        };
        if let Some(volume) = self.to_be_changed(held)
            && let Err(error) = self.change_replicas(held, &volume).await
        {
            tracing::warn!(volume = held.name(), %error, "its replicas could not be changed yet");
        }
    }

    /// Whether the records ask for a change of the replicas of a volume that this node holds.
    pub(super) fn has_replicas_to_change(&self, held: &HeldHere) -> bool {
        self.to_be_changed(held).is_some() || self.surplus_of(held).is_some()
    }

    fn to_be_changed(&self, held: &HeldHere) -> Option<Arc<Stored>> {
        let volume = self
            .catalogue
            .read(|contents| contents.by_id(held.id()).cloned())?;
        let ours = volume
            .primary
            .as_ref()
            .is_some_and(|primary| primary.attachment == held.attachment());
        let due = ours && !self.changes_by(held, &volume).is_empty();
        due.then_some(volume)
    }

    /// Who is away, as of the last look.
    pub(super) fn away(&self) -> Away {
        self.away.lock().clone()
    }

    /// Whether a replica is not to be expected back.
    pub(super) fn is_lost(&self, replica: &Replica, away: &Away) -> bool {
        away.is_lost(replica, self.config.rebuild_after.duration())
    }

    /// What whoever holds a volume is to change about its replicas. The record learns of a failure a moment later than the
    /// engine: nothing is discarded while a member is being lost, as it may be the one that is needed.
    fn changes_by(&self, held: &HeldHere, volume: &VolumeRecord) -> Vec<ReplicaChange> {
        let away = self.away();
        let mut changes = self
            .catalogue
            .read(|contents| self.changes_to(volume, &away, contents));
        let is_discard = |change: &ReplicaChange| matches!(change, ReplicaChange::Discard { .. });
        if changes.iter().any(is_discard) && !held.is_whole() {
            changes.retain(|change| !is_discard(change));
        }
        changes
    }

    /// What is to be changed about the replicas of a volume, as its record is.
    pub(super) fn changes_to(
        &self,
        volume: &VolumeRecord,
        away: &Away,
        contents: &Contents,
    ) -> Vec<ReplicaChange> {
        if volume.state != VolumeState::Ready {
            return Vec::new();
        }
        let lost = |replica: &Replica| self.is_lost(replica, away);
        let leaving = |replica: &Replica| away.is_leaving(replica);
        let mut changes = discards(volume, lost, leaving);
        if changes.is_empty() {
            let unwanted = |replica: &Replica| lost(replica) || away.is_emptied(replica);
            changes.extend(self.addition(volume, unwanted, contents));
        }
        if changes.is_empty() {
            changes.extend(relocation(volume, away, lost, contents));
        }
        if changes.is_empty() && is_short(volume, lost) {
            let after = self.config.rebuild_after.duration();
            let long = |replica: &Replica| {
                let since = away.failed.get(&replica.id);
                since.is_some_and(|since| since.elapsed() >= after)
            };
            changes.extend(making_room(volume, long));
        }
        changes
    }

    /// A member of a volume that is in use here which is one too many, or is on a node that is to be empty. Those that nobody
    /// uses are seen to while they are at rest.
    fn surplus_of<'a>(&self, held: &'a HeldHere) -> Option<(&'a Arc<Attached>, ReplicaId)> {
        let HeldHere::Attached(attached) = held else {
            return None;
        };
        let away = self.away();
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
            let surplus = surplus(volume, Some(self.node), in_reach, |replica| {
                away.is_leaving(replica)
            });
            Some((attached, surplus?))
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

    /// Makes the changes, decided anew by the record as it is in the store.
    async fn change_replicas(&self, here: &HeldHere, volume: &Stored) -> Result<(), VolumeError> {
        let held = Held {
            attachment: here.attachment(),
            epoch: volume.epoch,
        };
        let changes = Mutex::new(Vec::new());
        let decide = |now: &VolumeRecord| {
            let decided = self.changes_by(here, now);
            changes.lock().clone_from(&decided);
            decided
        };
        let done = self
            .volumes
            .change_replicas_by(volume.id, held, ChangeId::random(), decide)
            .await?;
        let changes = changes.into_inner();
        let name = here.name();
        for change in &changes {
            match change {
                ReplicaChange::Add { place, .. }
                    if volume
                        .replicas
                        .iter()
                        .any(|replica| replica.moves_to == Some(*place)) =>
                {
                    tracing::info!(
                        volume = name,
                        to = self.name_of(place.node),
                        "a replica is moved to an emptier pool"
                    );
                }
                ReplicaChange::Add { place, .. } => tracing::warn!(
                    volume = name,
                    on = self.name_of(place.node),
                    "it lacks a replica; another one is made"
                ),
                other => {
                    tracing::info!(volume = name, change = ?other, "a replica is not wanted any more")
                }
            }
        }
        self.catalogue.note(&done);
        self.tell_engine(volume.id);
        Ok(())
    }
}

/// A member that has to leave: on a node that is to be empty, or the last of too many; only while enough others are in sync,
/// without trouble, and can be reached.
pub(super) fn surplus(
    volume: &VolumeRecord,
    here: Option<NodeId>,
    in_reach: impl Fn(&Replica) -> bool,
    leaving: impl Fn(&Replica) -> bool,
) -> Option<ReplicaId> {
    let members = || volume.members().filter(|replica| replica.made);
    // One that has failed may not have been left behind yet, and is nobody to rely on.
    let is_good = |replica: &Replica| replica.trouble.is_none() && in_reach(replica);
    let staying = members()
        .filter(|replica| !leaving(replica) && is_good(replica))
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
        // The newest before the others, and the one here last: it spares the network.
        rest.reverse();
        rest.sort_by_key(|replica| (is_good(replica), is_named(replica), here == Some(replica.node)));
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
    let stays = |replica: &&Replica| replica.is_sound() && !leaving(replica);
    let sound = volume.replicas.iter().filter(stays).count();
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

/// Another replica in the very place that one is to be moved to.
fn relocation(
    volume: &VolumeRecord,
    away: &Away,
    lost: impl Fn(&Replica) -> bool,
    contents: &Contents,
) -> Option<ReplicaChange> {
    if !is_short(volume, |replica| lost(replica) || away.is_leaving(replica)) {
        return None;
    }
    let moves = volume.replicas.iter().filter(|replica| away.is_moving(replica));
    let place = moves.filter_map(|replica| replica.moves_to).next()?;
    let taken: Vec<NodeId> = volume.replicas.iter().map(|replica| replica.node).collect();
    may_place(&volume.spec, &taken, place, &contents.view()).ok()?;
    Some(ReplicaChange::Add {
        replica: ReplicaId::from(Uuid::new_v4()),
        place,
    })
}

/// A replica that has failed, where no other node can take a new one for long: it makes room for one in its own place. Until
/// then it is kept, as a person may have use for it if the others are lost.
fn making_room(volume: &VolumeRecord, for_long: impl Fn(&Replica) -> bool) -> Option<ReplicaChange> {
    let has_failed = |replica: &&Replica| {
        let is_out = matches!(
            replica.state,
            ReplicaState::Stale { .. } | ReplicaState::Rebuilding { .. }
        );
        is_out && replica.made && replica.trouble.is_some() && for_long(replica)
    };
    let failed = volume.replicas.iter().find(has_failed)?;
    Some(ReplicaChange::Discard { replica: failed.id })
}

/// Whether it has fewer replicas than it should that are there, or on their way back.
fn is_short(volume: &VolumeRecord, lost: impl Fn(&Replica) -> bool) -> bool {
    let counts = |replica: &&Replica| replica.state != ReplicaState::Removing && !lost(replica);
    volume.replicas.iter().filter(counts).count() < usize::from(volume.spec.repl)
}

#[cfg(test)]
mod tests;
