//! Brings the replicas of volumes up to date that nobody has mounted: rebuilds run only while some node serves a volume, so a
//! node with a replica in sync attaches it for that time, without a block device and without its file system. Never keeps it
//! from anybody: it goes at once to whoever asks for it, here or elsewhere. Never takes one that has a primary, dead or not.
//!
//! One node does it: that with the first place in an order which differs from volume to volume; the others wait in turn, in
//! case it does not. Each node does it for a few volumes at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::schema::{ChangeId, PoolState, Replica, ReplicaState, VolumeRecord, VolumeState};
use bulkhead_cluster::volumes::{Attach, Volume as Stored, engine_record};
use bulkhead_engine::ids::{NodeId, ReplicaId, VolumeId};
use bulkhead_engine::machine::protocol::Inspected;
use bulkhead_engine::node::{Surveyed, Volume};
use parking_lot::Mutex;

use super::context::{Daemon, blocking, volume_failed};
use super::rebuild::{self, Away};
use super::reconcile::every;
use crate::service::ServiceError;

/// Between looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long a volume has to be without a user before anything is done about it: most are mounted again at once.
const SETTLE: Duration = Duration::from_secs(6);
/// How long each node leaves the work to the one before it.
const TURN: Duration = Duration::from_secs(30);
/// Volumes at a time on one node.
const AT_ONCE: usize = 2;
/// How long an attachment may bring nothing before it is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a volume is left alone after that.
const REST: Duration = Duration::from_secs(300);
/// How long the lock of a name is waited for: whoever has it is at work on the volume.
const LOCK: Duration = Duration::from_millis(200);

/// A volume that is attached on this node for the sake of its replicas only.
pub(super) struct Tended {
    pub(super) id: VolumeId,
    pub(super) name: String,
    pub(super) attachment: ChangeId,
    pub(super) volume: Arc<Volume>,
    /// One look at its replicas at a time.
    pub(super) looking: tokio::sync::Mutex<()>,
    /// What was reached when something was last reached.
    reached: Mutex<(Mark, Instant)>,
}

/// By this one sees whether anything goes on: the record's revision, and bytes copied.
type Mark = (u64, u64);

/// What a node does for volumes that nobody has mounted.
#[derive(Default)]
pub(super) struct Upkeep {
    tended: Mutex<BTreeMap<VolumeId, Arc<Tended>>>,
    /// Volumes that are being attached.
    beginning: Mutex<BTreeSet<VolumeId>>,
    /// Since when volumes need it.
    due: Mutex<BTreeMap<VolumeId, Instant>>,
    /// Until when volumes are left alone, because nothing came of it.
    resting: Mutex<BTreeMap<VolumeId, Instant>>,
}

/// Looks for as long as it is polled.
pub(super) async fn keep_up(daemon: Arc<Daemon>) {
    every(INTERVAL, || daemon.look_after_volumes()).await;
}

impl Daemon {
    /// The volume of this id, if it is attached here for its replicas.
    pub(super) fn tended(&self, id: VolumeId) -> Option<Arc<Tended>> {
        self.upkeep.tended.lock().get(&id).cloned()
    }

    /// All that are attached here for their replicas.
    pub(super) fn all_tended(&self) -> Vec<Arc<Tended>> {
        self.upkeep.tended.lock().values().cloned().collect()
    }

    async fn look_after_volumes(self: &Arc<Self>) {
        let freshness = self.catalogue.freshness();
        let fresh = freshness.away.is_none() && !freshness.from_disk && self.membership.is_alive();
        for tended in self.all_tended() {
            if let Some(why) = self.why_let_go(&tended, fresh) {
                let Ok(_guard) = self.lock(&tended.name, "being released", LOCK).await else {
                    continue;
                };
                tracing::debug!(
                    volume = tended.name,
                    why,
                    "its replicas are not looked after any more"
                );
                self.end_upkeep(tended.id).await;
            }
        }
        if !fresh {
            self.upkeep.due.lock().clear();
            return;
        }
        for id in self.volumes_to_tend() {
            if self.upkeep.tended.lock().len() + self.upkeep.beginning.lock().len() >= AT_ONCE {
                break;
            }
            self.upkeep.beginning.lock().insert(id);
            let daemon = self.clone();
            tokio::spawn(async move {
                if let Err(error) = daemon.begin_upkeep(id).await {
                    tracing::info!(volume = %id, %error, "its replicas cannot be brought up to date now");
                    daemon.rest(id, TURN);
                }
                daemon.upkeep.beginning.lock().remove(&id);
            });
        }
    }

    fn rest(&self, id: VolumeId, time: Duration) {
        self.upkeep.resting.lock().insert(id, Instant::now() + time);
    }

    /// Volumes of which it is this node's turn to take care.
    fn volumes_to_tend(&self) -> Vec<VolumeId> {
        let now = Instant::now();
        let resting: BTreeSet<VolumeId> = {
            let mut resting = self.upkeep.resting.lock();
            resting.retain(|_, until| *until > now);
            resting.keys().copied().collect()
        };
        let away = self.away();
        let needy: Vec<(VolumeId, usize)> = self.catalogue.read(|contents| {
            let left = |volume: &&Arc<Stored>| {
                !resting.contains(&volume.id)
                    && is_left_alone(volume)
                    && self.attached(&volume.name).is_none()
                    && self.has_upkeep(volume, contents, &away)
            };
            let ranked = |volume: &Arc<Stored>| Some((volume.id, self.rank(volume, contents)?));
            contents.named().filter(left).filter_map(ranked).collect()
        });
        let mut due = self.upkeep.due.lock();
        due.retain(|id, _| needy.iter().any(|(needy, _)| needy == id));
        let is_our_turn = |(id, rank): &&(VolumeId, usize)| {
            let since = *due.entry(*id).or_insert(now);
            let turns = u32::try_from(*rank).unwrap_or(u32::MAX);
            now.saturating_duration_since(since) >= SETTLE.saturating_add(TURN.saturating_mul(turns))
        };
        let busy = |id: &VolumeId| self.tended(*id).is_some() || self.upkeep.beginning.lock().contains(id);
        let ours = needy.iter().filter(is_our_turn).map(|(id, _)| *id);
        ours.filter(|id| !busy(id)).collect()
    }

    /// Which place this node has among those that could do it; nothing if it has no replica in sync.
    fn rank(&self, volume: &VolumeRecord, contents: &Contents) -> Option<usize> {
        let down: Vec<_> = contents
            .pools()
            .filter(|pool| pool.state == PoolState::Down)
            .map(|pool| pool.id)
            .collect();
        let can = |replica: &&Replica| {
            replica.made
                && replica.trouble.is_none()
                && !down.contains(&replica.pool)
                && (replica.node == self.node || contents.is_alive(replica.node))
        };
        let nodes: Vec<NodeId> = volume.members().filter(can).map(|replica| replica.node).collect();
        place_in_order(volume.id, &nodes, self.node)
    }

    /// Whether there is something to be done for a volume's replicas that can be done now.
    fn has_upkeep(&self, volume: &VolumeRecord, contents: &Contents, away: &Away) -> bool {
        let is_down = |replica: &Replica| {
            let mut pools = contents.pools();
            pools.any(|pool| pool.id == replica.pool && pool.state == PoolState::Down)
        };
        let can_be_filled = |replica: &Replica| {
            matches!(
                replica.state,
                ReplicaState::Stale { .. } | ReplicaState::Rebuilding { .. }
            ) && replica.trouble.is_none()
                && contents.is_alive(replica.node)
                && !is_down(replica)
        };
        surplus(volume, away).is_some()
            || volume.replicas.iter().any(can_be_filled)
            || (!is_in_order(volume, |replica| {
                self.is_lost(replica, away) || away.is_leaving(replica.node)
            }) && !self.changes_to(volume, away, contents).is_empty())
    }

    /// Attaches a volume for its replicas.
    async fn begin_upkeep(self: &Arc<Self>, id: VolumeId) -> Result<(), ServiceError> {
        let Some(known) = self.catalogue.read(|contents| contents.by_id(id).cloned()) else {
            return Ok(());
        };
        let name = known.name.clone();
        let Ok(_guard) = self
            .lock(&name, "having its replicas brought up to date", LOCK)
            .await
        else {
            return Ok(());
        };
        if self.attached(&name).is_some() || self.tended(id).is_some() {
            return Ok(());
        }
        // As the store has it.
        let volume = self.find(&name).await?;
        let away = self.away();
        let still = self
            .catalogue
            .read(|contents| is_left_alone(&volume) && self.has_upkeep(&volume, contents, &away));
        if volume.id != id || !still {
            return Ok(());
        }
        let surveyed = self.ask_replicas(id, &engine_record(&volume)).await?;
        match (judge_members(&volume, &surveyed), surplus(&volume, &away)) {
            (Members::Doubtful(why), _) => return Err(ServiceError::Failed(why)),
            (Members::AtRest, Some(surplus)) => return self.drop_surplus(&volume, surplus).await,
            (Members::AtRest | Members::Sound, _) => {}
        }
        let wish = Attach::for_upkeep(self.node).judged_by(&volume);
        let held = self.volumes.attach(id, &wish).await;
        let held = held.map_err(|error| volume_failed(&error))?;
        self.catalogue.note(&held);
        let (daemon, record) = (self.clone(), held.clone());
        let volume = match blocking(move || daemon.open_volume(&record)).await {
            Ok(volume) => volume,
            Err(error) => {
                self.release_record(id, &name, wish.attachment).await;
                return Err(error);
            }
        };
        tracing::info!(volume = name, epoch = %held.epoch, "attached to bring its replicas up to date");
        let tended = Tended {
            id,
            name,
            attachment: wish.attachment,
            volume,
            looking: tokio::sync::Mutex::default(),
            reached: Mutex::new(((0, 0), Instant::now())),
        };
        self.upkeep.tended.lock().insert(id, Arc::new(tended));
        // What the watch has told meanwhile.
        self.tell_engine(id);
        Ok(())
    }

    /// A replica more than asked for goes, while nobody has the volume and all members are at rest.
    async fn drop_surplus(&self, volume: &Stored, surplus: ReplicaId) -> Result<(), ServiceError> {
        let dropped = self.volumes.drop_member(volume, surplus).await;
        let dropped = dropped.map_err(|error| volume_failed(&error))?;
        tracing::info!(volume = volume.name, replica = %surplus, "a replica more than asked for goes");
        self.catalogue.note(&dropped);
        Ok(())
    }

    /// Why a volume should not be held any longer.
    fn why_let_go(&self, tended: &Tended, fresh: bool) -> Option<&'static str> {
        if tended.volume.ended().is_some() {
            self.rest(tended.id, TURN);
            return Some("it has ended");
        }
        if !fresh {
            return None;
        }
        let away = self.away();
        self.catalogue.read(|contents| {
            let Some(volume) = contents.by_id(tended.id) else {
                return Some("it has no record");
            };
            let primary = volume.primary.as_ref();
            if primary.is_none_or(|primary| primary.attachment != tended.attachment) {
                return Some("somebody else has it");
            }
            if volume.wanted.is_some() {
                return Some("another node asks for it");
            }
            let only_surplus = surplus(volume, &away).is_some();
            if !self.has_upkeep(volume, contents, &away) || only_surplus {
                return Some("there is nothing left to do");
            }
            let status = tended.volume.status();
            let copied = status.replicas.iter().filter_map(|peer| peer.rebuild.as_ref());
            let mark = (volume.revision.0, copied.map(|rebuild| rebuild.copied).sum());
            let mut reached = tended.reached.lock();
            if reached.0 != mark {
                *reached = (mark, Instant::now());
            }
            if reached.1.elapsed() < PATIENCE {
                return None;
            }
            self.rest(tended.id, REST);
            Some("it does not get on")
        })
    }

    /// Lets go of a volume that is attached for its replicas, if it is. Under the lock of its name.
    pub(super) async fn end_upkeep(&self, id: VolumeId) {
        let Some(tended) = self.upkeep.tended.lock().remove(&id) else {
            return;
        };
        let end = Instant::now() + self.config.timeout.detach.duration();
        let closing = tended.clone();
        let closed = blocking(move || {
            closing
                .volume
                .close(end)
                .map_err(|error| ServiceError::Failed(error.to_string()))
        });
        if let Err(error) = closed.await {
            tracing::info!(volume = tended.name, %error, "it was not closed in order");
        }
        // Whatever comes next, not in a circle without a pause.
        self.rest(id, TURN);
        self.release_record(id, &tended.name, tended.attachment).await;
    }
}

/// What the members say of themselves.
enum Members {
    /// Each was closed in order in the record's epoch: they are the same, and hold all there is.
    AtRest,
    /// Those that answer were, and so each of them holds all there is.
    Sound,
    /// A person may have to decide, or a node that is away to come back: nothing is done.
    Doubtful(String),
}

/// Nobody uses the volume, so nothing may be decided for the sake of its replicas that a later mount could decide better: a
/// member that does not answer is left behind only if another one shows that it holds everything.
fn judge_members(volume: &VolumeRecord, surveyed: &[Surveyed]) -> Members {
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
    let is_at_rest = |found: &&Inspected| found.clean && found.epoch == volume.epoch;
    if all && said.iter().all(is_at_rest) {
        Members::AtRest
    } else if !said.is_empty() && said.iter().all(is_at_rest) {
        Members::Sound
    } else {
        Members::Doubtful("what its replicas in sync hold is for the next mount to find out".to_owned())
    }
}

/// Whether nobody has a volume, or wants it: only such a volume may be taken for its replicas. One whose node does not live by
/// the store may be served there all the same, to a container that has done nothing wrong.
fn is_left_alone(volume: &VolumeRecord) -> bool {
    volume.state == VolumeState::Ready && volume.wanted.is_none() && volume.primary.is_none()
}

/// Whether all replicas are there, in sync, and as many as asked for: then nothing else has to be looked at.
fn is_in_order(volume: &VolumeRecord, is_lost: impl Fn(&Replica) -> bool) -> bool {
    let sound = |replica: &Replica| {
        replica.made
            && replica.state == ReplicaState::Member
            && replica.trouble.is_none()
            && !is_lost(replica)
    };
    volume.replicas.len() == usize::from(volume.spec.repl) && volume.replicas.iter().all(sound)
}

/// A replica in sync that is one more than asked for, while nothing else is under way: the one that was made last. Where a
/// node is to be emptied, the one too many is there, and does not go so.
fn surplus(volume: &VolumeRecord, away: &Away) -> Option<ReplicaId> {
    let is_sound = |replica: &Replica| replica.made && replica.state == ReplicaState::Member;
    if !volume.replicas.iter().all(is_sound) {
        return None;
    }
    // Nothing goes before all of them have answered, so each counts as one that can be reached.
    rebuild::surplus(volume, None, |_| true, |replica| away.is_leaving(replica.node))
}

/// The place of a node among others, in an order of this volume's own.
fn place_in_order(volume: VolumeId, nodes: &[NodeId], node: NodeId) -> Option<usize> {
    // The end of an id is random, also where it begins with the time.
    let own = u128::from_be_bytes(volume.to_bytes()).rotate_left(64);
    let key = |node: &NodeId| u128::from_be_bytes(node.to_bytes()) ^ own;
    let ours = key(nodes.iter().find(|other| **other == node)?);
    Some(nodes.iter().filter(|other| key(other) < ours).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_cluster::schema::{Primary, Timestamp, VolumeSpec};
    use bulkhead_cluster::volumes::{NewVolume, Placed};
    use bulkhead_engine::ids::{Epoch, Incarnation, PoolId, Tick};

    fn volume(nodes: &[u128], repl: u8) -> VolumeRecord {
        let place = |id: &u128| Placed {
            node: NodeId::from_u128(*id),
            pool: PoolId::from_u128(*id),
        };
        let places: Vec<Placed> = nodes.iter().map(place).collect();
        let spec = VolumeSpec {
            repl: nodes.len() as u8,
            ..VolumeSpec::new(1 << 30)
        };
        let new = NewVolume::new("v", spec, &places, NodeId::from_u128(1)).expect("a volume");
        let mut record = new.into_record();
        for replica in &mut record.replicas {
            replica.made = true;
        }
        (record.spec.repl, record.state, record.primary) = (repl, VolumeState::Ready, None);
        record
    }

    #[test]
    fn of_several_nodes_one_comes_first_and_not_always_the_same() {
        let nodes: Vec<NodeId> = (1..=3)
            .map(|id| NodeId::from(uuid::Uuid::from_u128(id << 100)))
            .collect();
        let mut firsts = BTreeSet::new();
        for _ in 0..100 {
            let volume = VolumeId::from(uuid::Uuid::new_v4());
            let places: Vec<usize> = nodes
                .iter()
                .filter_map(|node| place_in_order(volume, &nodes, *node))
                .collect();
            assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), 3, "{places:?}");
            firsts.extend(places.iter().position(|place| *place == 0));
        }
        assert_eq!(firsts.len(), 3, "the work is shared");
        let stranger = NodeId::from_u128(9);
        assert_eq!(place_in_order(VolumeId::from_u128(1), &nodes, stranger), None);
    }

    #[test]
    fn a_surplus_replica_goes_only_while_all_is_well() {
        let stay = Away::default();
        assert_eq!(surplus(&volume(&[1, 2], 2), &stay), None);
        let mut three = volume(&[1, 2, 3], 2);
        let third = three.replicas[2].id;
        assert_eq!(surplus(&three, &stay), Some(third));
        let drained = Away::with_leaving(NodeId::from_u128(1));
        let first = three.replicas[0].id;
        assert_eq!(
            surplus(&three, &drained),
            Some(first),
            "the new one is not one too many"
        );
        assert_eq!(
            surplus(&volume(&[1, 2], 2), &drained),
            None,
            "not before there is another one"
        );
        three.replicas[0].state = ReplicaState::Stale { tick: Tick::ZERO };
        assert_eq!(surplus(&three, &stay), None);
        assert!(!is_in_order(&three, |_| false));
        let two = volume(&[1, 2], 2);
        assert!(is_in_order(&two, |_| false));
        assert!(!is_in_order(&two, |replica| replica.node == NodeId::from_u128(2)));
    }

    #[test]
    fn a_volume_in_use_or_asked_for_is_left_to_others() {
        let mut record = volume(&[1, 2], 2);
        assert!(is_left_alone(&record));
        record.primary = Some(Primary {
            node: NodeId::from_u128(2),
            attachment: ChangeId::random(),
            since: Timestamp::now(),
            user: String::new(),
            upkeep: false,
        });
        assert!(!is_left_alone(&record), "also if that node gives no sign of life");
        record.primary = None;
        record.state = VolumeState::Deleting;
        assert!(!is_left_alone(&record));
    }

    #[test]
    fn members_are_left_behind_only_by_one_that_has_everything() {
        let mut record = volume(&[1, 2], 2);
        record.epoch = Epoch(7);
        let said = |clean: bool, whole: bool, epoch: u32| {
            Ok(Inspected {
                incarnation: Incarnation::from_u128(1),
                epoch: Epoch(epoch),
                durable: Tick::ZERO,
                settled: Tick::ZERO,
                whole,
                clean,
                failed: None,
                unsettled: 0,
                suspect: 0,
            })
        };
        let judged = |first: Result<Inspected, String>, second: Result<Inspected, String>| {
            let answers = record.replicas.iter().zip([first, second]);
            let surveyed: Vec<Surveyed> = answers
                .map(|(replica, found)| Surveyed {
                    replica: replica.id,
                    node: replica.node,
                    found,
                })
                .collect();
            match judge_members(&record, &surveyed) {
                Members::AtRest => "at rest",
                Members::Sound => "sound",
                Members::Doubtful(_) => "doubtful",
            }
        };
        let away = || Err("it did not answer in time".to_owned());
        assert_eq!(judged(said(true, true, 7), said(true, true, 7)), "at rest");
        assert_eq!(judged(said(true, true, 7), away()), "sound");
        // It was in use when it was last heard of, and the other one may have been in use since.
        assert_eq!(judged(said(false, true, 7), away()), "doubtful");
        assert_eq!(judged(said(true, true, 6), away()), "doubtful");
        // These have to be made the same first, and that may take its time: for whoever mounts it.
        assert_eq!(judged(said(false, true, 7), said(false, false, 7)), "doubtful");
        assert_eq!(judged(said(true, true, 7), said(false, true, 7)), "doubtful");
        assert_eq!(judged(said(false, false, 7), said(false, false, 7)), "doubtful");
        assert_eq!(judged(said(true, true, 8), said(true, true, 7)), "doubtful");
        assert_eq!(judged(away(), away()), "doubtful");
    }
}
