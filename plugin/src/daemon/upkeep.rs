//! Brings the replicas of volumes up to date that nobody has mounted: rebuilds run only while some node serves a volume, so a
//! node with a replica in sync attaches it for that time, without a block device and without its file system. Never keeps it
//! from anybody: it goes at once to whoever asks for it, here or elsewhere. Never takes one that has a primary, dead or not.
//!
//! One node does it: that with the first place in an order which differs from volume to volume; the others wait in turn, in
//! case it does not. Each node does it for a few volumes at a time.

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::schema::{ChangeId, Replica, ReplicaState, VolumeRecord};
use bulkhead_cluster::volumes::{Attach, Volume as Stored, engine_record};
use bulkhead_engine::ids::{NodeId, ReplicaId, VolumeId};
use bulkhead_engine::node::Volume;
use parking_lot::Mutex;

use super::attach::Opening;
use super::context::{Daemon, blocking, volume_failed};
use super::rebuild::Away;
use super::reconcile::every;
use super::take::SURVEY;
use crate::service::ServiceError;
use judge::{Members, is_in_order, is_left_alone, judge_members, place_in_order, surplus};

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
        let can = |replica: &&Replica| {
            replica.is_sound()
                && !contents.is_pool_down(replica.pool)
                && (replica.node == self.node || contents.is_alive(replica.node))
        };
        let nodes: Vec<NodeId> = volume
            .replicas
            .iter()
            .filter(can)
            .map(|replica| replica.node)
            .collect();
        place_in_order(volume.id, &nodes, self.node)
    }

    /// Whether there is something to be done for a volume's replicas that can be done now.
    fn has_upkeep(&self, volume: &VolumeRecord, contents: &Contents, away: &Away) -> bool {
        let can_be_filled = |replica: &Replica| {
            matches!(
                replica.state,
                ReplicaState::Stale { .. } | ReplicaState::Rebuilding { .. }
            ) && replica.trouble.is_none()
                && contents.is_alive(replica.node)
                && !contents.is_pool_down(replica.pool)
        };
        surplus(volume, away).is_some()
            || volume.replicas.iter().any(can_be_filled)
            || (!is_in_order(volume, |replica| {
                self.is_lost(replica, away) || away.is_leaving(replica)
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
        let surveyed = self.ask_replicas(id, &engine_record(&volume), SURVEY).await?;
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
        let volume = match blocking(move || daemon.open_volume(&record, Opening::Anew)).await {
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
