//! A volume is taken for this node by its record: from nobody, from a node that is dead by its lease, or from one that
//! lives and releases it when it is asked to. Swarm mounts on the new node before it stops the task on the old one, so a
//! holder is waited for; a refusal names it and what uses the volume there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::schema::{Primary, Timestamp, VolumeRecord, VolumeState, Wanted};
use bulkhead_cluster::store::Revision;
use bulkhead_cluster::volumes::{Attach, Volume as Stored, VolumeError, engine_record};
use bulkhead_engine::ids::VolumeId;
use bulkhead_engine::machine::{MemberState, Record as EngineRecord, RecordReplica};
use bulkhead_engine::node::Surveyed;
use tokio::time::timeout;

use super::attach::LOOK;
use super::context::{Daemon, volume_failed};
use super::phases::Phases;
use crate::service::ServiceError;

/// How long the replicas are waited for that are asked for their epochs.
pub(super) const SURVEY: Duration = Duration::from_secs(4);
/// How long those are waited for whose nodes are dead by the store, while there are others: whoever is off or cut off does not
/// answer at all, and one that lost only its store answers at once.
const SURVEY_DEAD: Duration = Duration::from_millis(500);
/// How long replicas that do not answer are asked again while the node of one that is in sync lives: one that was let go a
/// moment ago is still being closed there.
const REACH: Duration = Duration::from_secs(6);
/// Between askings.
const AGAIN: Duration = Duration::from_millis(250);

/// What the replicas say before the record is changed.
pub(super) enum Outlook {
    /// One that is in sync answers, and none knows more than the record.
    Clear,
    /// Somebody else has taken the volume meanwhile: the newer record.
    Overtaken(Box<Stored>),
    /// None that is in sync answers: why, in words.
    Unreachable(String),
}

impl Daemon {
    /// Makes this node the primary of a volume.
    pub(super) async fn take(
        self: &Arc<Self>,
        volume: Stored,
        wish: &Attach,
        end: Instant,
        phases: &mut Phases,
    ) -> Result<Stored, ServiceError> {
        let id = volume.id;
        let mut asked = false;
        let taken = self.try_to_take(volume, wish, end, &mut asked, phases).await;
        if asked
            && taken.is_err()
            && let Err(error) = self.volumes.unwant(id, self.node).await
        {
            tracing::warn!(volume = %id, %error, "the record says still that this node waits for it");
        }
        taken
    }

    async fn try_to_take(
        self: &Arc<Self>,
        mut volume: Stored,
        wish: &Attach,
        end: Instant,
        asked: &mut bool,
        phases: &mut Phases,
    ) -> Result<Stored, ServiceError> {
        let id = volume.id;
        let reach = end.min(Instant::now() + REACH);
        loop {
            let refusal = match self.living_holder(&volume) {
                Some(primary) => VolumeError::Attached {
                    volume: volume.name.clone(),
                    node: self.name_of(primary.node),
                    primary: Box::new(primary),
                },
                None => {
                    let outlook = self.survey(&volume, SURVEY).await?;
                    phases.end("survey");
                    match outlook {
                        Outlook::Clear => {}
                        Outlook::Overtaken(newer) => {
                            volume = *newer;
                            continue;
                        }
                        Outlook::Unreachable(_) if self.may_answer(&volume) && Instant::now() < reach => {
                            self.until_changed(id, volume.revision, AGAIN).await;
                            volume = self.find(&volume.record.name).await?;
                            continue;
                        }
                        Outlook::Unreachable(why) => return Err(ServiceError::Failed(why)),
                    }
                    let wish = wish.clone().judged_by(&volume);
                    let attached = self.volumes.attach(id, &wish).await;
                    phases.end("attach");
                    match attached {
                        Ok(held) => {
                            self.catalogue.note(&held);
                            return Ok(held);
                        }
                        Err(error @ VolumeError::Attached { .. }) => error,
                        // Its replicas have changed since they were asked: those of now are asked.
                        Err(VolumeError::Busy(_)) if Instant::now() + LOOK < end => {
                            volume = self.find(&volume.record.name).await?;
                            continue;
                        }
                        // The record may come to name this attachment: the next look at the records releases it.
                        Err(error) => return Err(volume_failed(&error)),
                    }
                }
            };
            if Instant::now() + LOOK >= end {
                return Err(volume_failed(&refusal));
            }
            let wanted = Wanted {
                node: self.node,
                since: Timestamp::now(),
                user: String::new(),
            };
            *asked = true;
            let before = volume.revision;
            volume = self
                .volumes
                .want(id, &wanted)
                .await
                .map_err(|error| volume_failed(&error))?;
            self.catalogue.note(&volume);
            if volume.revision == before {
                self.until_free(&volume, LOOK).await;
                let now = self.volumes.by_id(id).await;
                volume = now
                    .map_err(|error| volume_failed(&error))?
                    .ok_or_else(|| ServiceError::NotFound(volume.record.name.clone()))?;
            }
            phases.end("waiting for its holder");
            if volume.state == VolumeState::Deleting {
                return Err(ServiceError::NotFound(volume.record.name));
            }
        }
    }

    /// The primary of a volume, if it is on another node that lives as far as is known here.
    fn living_holder(&self, volume: &Stored) -> Option<Primary> {
        let primary = volume.primary.as_ref()?;
        let lives = self.catalogue.read(|contents| contents.is_alive(primary.node));
        (primary.node != self.node && lives).then(|| primary.clone())
    }

    /// Whether a node with a replica in sync lives as far as is known here.
    fn may_answer(&self, volume: &Stored) -> bool {
        self.catalogue
            .read(|contents| volume.members().any(|replica| contents.is_alive(replica.node)))
    }

    /// Asks the replicas before the record is changed: somebody has to answer, and nobody may know a newer epoch than the
    /// record (rule T3 of docs/replication.md).
    pub(super) async fn survey(
        self: &Arc<Self>,
        volume: &Stored,
        patience: Duration,
    ) -> Result<Outlook, ServiceError> {
        let (id, record) = (volume.id, engine_record(volume));
        let surveyed = self.ask_replicas(id, &record, patience).await?;
        let name = &volume.name;
        for found in &surveyed {
            if let Some(epoch) = found.epoch()
                && epoch > volume.epoch
            {
                let now = self.volumes.by_id(id).await;
                let now = now.map_err(|error| volume_failed(&error))?;
                let now = now.ok_or_else(|| ServiceError::NotFound(name.clone()))?;
                if now.epoch >= epoch {
                    return Ok(Outlook::Overtaken(Box::new(now)));
                }
                return Err(ServiceError::Failed(format!(
                    "volume {name:?} cannot be attached: its replica on node {} has seen epoch {epoch}, but the record in the store says {}: the store was restored from an older copy; restore a newer one. Nothing is served before that",
                    self.name_of(found.node),
                    volume.epoch
                )));
            }
        }
        if surveyed
            .iter()
            .any(|found| found.found.is_ok() && record.is_member(found.replica))
        {
            return Ok(Outlook::Clear);
        }
        let why: Vec<String> = surveyed
            .iter()
            .map(|found| {
                let standing = if record.is_member(found.replica) {
                    ""
                } else {
                    " (out of date)"
                };
                match &found.found {
                    Ok(_) => format!("node {}{standing} answers", self.name_of(found.node)),
                    Err(error) => format!("node {}{standing}: {error}", self.name_of(found.node)),
                }
            })
            .collect();
        Ok(Outlook::Unreachable(format!(
            "volume {name:?} cannot be attached: none of its replicas that are in sync can be reached ({})",
            why.join("; ")
        )))
    }

    /// Asks all replicas of a record at the same time what they say of themselves.
    pub(super) async fn ask_replicas(
        self: &Arc<Self>,
        id: VolumeId,
        record: &EngineRecord,
        patience: Duration,
    ) -> Result<Vec<Surveyed>, ServiceError> {
        let mut living = record.clone();
        let mut dead = record.clone();
        self.catalogue.read(|contents| {
            let lives =
                |replica: &RecordReplica| replica.node == self.node || contents.is_alive(replica.node);
            living.replicas.retain(lives);
            dead.replicas.retain(|replica| !lives(replica));
        });
        let brief = if living.replicas.is_empty() {
            patience
        } else {
            SURVEY_DEAD.min(patience)
        };
        let ask = |of: EngineRecord, patience: Duration| {
            let engine = self.engine.clone();
            tokio::task::spawn_blocking(move || engine.survey(id, &of, patience))
        };
        let answers = tokio::try_join!(ask(living, patience), ask(dead, brief));
        let (mut surveyed, silent) = answers.map_err(|error| ServiceError::Failed(error.to_string()))?;
        surveyed.extend(silent);
        Ok(surveyed)
    }

    /// Refuses where a volume that is "being created" has been in use already: the store was restored from a copy of that very
    /// moment, and what the volume holds now must not be taken for what a broken creation has left behind.
    pub(super) async fn refuse_if_used(self: &Arc<Self>, volume: &VolumeRecord) -> Result<(), ServiceError> {
        let name = &volume.name;
        let restored = |what: String| {
            ServiceError::Failed(format!(
                "the creation of volume {name:?} is not undone: {what}, so the volume was in use after the record in the store was written, and the store was restored from an older copy; restore a newer one"
            ))
        };
        if self
            .attached(name)
            .is_some_and(|attached| attached.id == volume.id)
        {
            return Err(restored("it is attached here".to_owned()));
        }
        // As it is now: its creator has attached it for its file system since it was first written.
        let now = self
            .volumes
            .by_id(volume.id)
            .await
            .map_err(|error| volume_failed(&error))?;
        let Some(now) = now else { return Ok(()) };
        let mut asked = engine_record(&now);
        // Also those that are not made as far as the record knows.
        asked.replicas = now
            .replicas
            .iter()
            .map(|replica| RecordReplica {
                id: replica.id,
                node: replica.node,
                state: MemberState::Member,
            })
            .collect();
        let surveyed = self.ask_replicas(volume.id, &asked, SURVEY).await?;
        let newer = |found: &Surveyed| found.epoch().filter(|epoch| *epoch > now.epoch);
        match surveyed
            .iter()
            .find_map(|found| Some((found.node, newer(found)?)))
        {
            None => Ok(()),
            Some((node, epoch)) => Err(restored(format!(
                "its replica on node {} has seen epoch {epoch}, and the record says {}",
                self.name_of(node),
                now.epoch
            ))),
        }
    }

    /// Waits until a volume's record is known to be newer than this revision, or for a while.
    pub(super) async fn until_changed(&self, id: VolumeId, revision: Revision, limit: Duration) {
        self.until_says(limit, |contents| {
            contents.by_id(id).is_none_or(|volume| volume.revision > revision)
        })
        .await;
    }

    /// Waits until a volume's record has changed or its holder's lease has ended, or for a while.
    async fn until_free(&self, volume: &Stored, limit: Duration) {
        let holder = volume.primary.as_ref().map(|primary| primary.node);
        self.until_says(limit, |contents| {
            contents
                .by_id(volume.id)
                .is_none_or(|now| now.revision > volume.revision)
                || holder.is_none_or(|node| !contents.is_alive(node))
        })
        .await;
    }

    /// Waits until the catalogue says so, or for a while; whether it does.
    pub(super) async fn until_says(&self, limit: Duration, says: impl Fn(&Contents) -> bool) -> bool {
        let mut changes = self.catalogue.changes();
        let known = async {
            loop {
                changes.mark_unchanged();
                if self.catalogue.read(&says) || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(limit, known).await.is_ok()
    }
}
