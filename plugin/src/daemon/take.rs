//! A volume is taken for this node by its record: from nobody, from a node that is dead by its lease, or from one that
//! lives and releases it when it is asked to. Swarm mounts on the new node before it stops the task on the old one, so a
//! holder is waited for; a refusal names it and what uses the volume there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_cluster::schema::{Primary, Timestamp, VolumeState, Wanted};
use bulkhead_cluster::store::Revision;
use bulkhead_cluster::volumes::{Attach, Volume as Stored, VolumeError, engine_record};
use bulkhead_engine::ids::VolumeId;
use tokio::time::timeout;

use super::context::{Daemon, volume_failed};
use crate::service::ServiceError;

/// Between looks at a volume that another node holds; a change of its record is seen at once.
const LOOK: Duration = Duration::from_secs(1);
/// How long the replicas are waited for that are asked for their epochs.
const SURVEY: Duration = Duration::from_secs(4);

impl Daemon {
    /// Makes this node the primary of a volume.
    pub(super) async fn take(
        self: &Arc<Self>,
        volume: Stored,
        wish: &Attach,
        end: Instant,
    ) -> Result<Stored, ServiceError> {
        let id = volume.id;
        let mut asked = false;
        let taken = self.try_to_take(volume, wish, end, &mut asked).await;
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
    ) -> Result<Stored, ServiceError> {
        let id = volume.id;
        loop {
            let refusal = match self.living_holder(&volume) {
                Some(primary) => VolumeError::Attached {
                    volume: volume.name.clone(),
                    node: self.name_of(primary.node),
                    primary: Box::new(primary),
                },
                None => {
                    if let Some(newer) = self.survey(&volume).await? {
                        volume = newer;
                        continue;
                    }
                    match self.volumes.attach(id, wish).await {
                        Ok(held) => {
                            self.catalogue.note(&held);
                            return Ok(held);
                        }
                        Err(error @ VolumeError::Attached { .. }) => error,
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
                self.until_changed(id, volume.revision, LOOK).await;
                let now = self.volumes.by_id(id).await;
                volume = now
                    .map_err(|error| volume_failed(&error))?
                    .ok_or_else(|| ServiceError::NotFound(volume.record.name.clone()))?;
            }
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

    /// Asks the replicas before the record is changed: somebody has to answer, and nobody may know a newer epoch than the
    /// record (replication.md, section 6). Somebody else may have taken the volume meanwhile: then the newer record is given,
    /// and all is to be looked at again.
    async fn survey(self: &Arc<Self>, volume: &Stored) -> Result<Option<Stored>, ServiceError> {
        let (engine, id, record) = (self.engine.clone(), volume.id, engine_record(volume));
        let asked = record.clone();
        let surveyed = tokio::task::spawn_blocking(move || engine.survey(id, &asked, SURVEY)).await;
        let surveyed = surveyed.map_err(|error| ServiceError::Failed(error.to_string()))?;
        let name = &volume.name;
        for found in &surveyed {
            if let Some(epoch) = found.epoch()
                && epoch > volume.epoch
            {
                let now = self.volumes.by_id(id).await;
                let now = now.map_err(|error| volume_failed(&error))?;
                let now = now.ok_or_else(|| ServiceError::NotFound(name.clone()))?;
                if now.epoch >= epoch {
                    return Ok(Some(now));
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
            return Ok(None);
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
        Err(ServiceError::Failed(format!(
            "volume {name:?} cannot be attached: none of its replicas that are in sync can be reached ({})",
            why.join("; ")
        )))
    }

    /// Waits until a volume's record is known to be newer than this revision, or for a while.
    pub(super) async fn until_changed(&self, id: VolumeId, revision: Revision, limit: Duration) {
        let mut changes = self.catalogue.changes();
        let changed = async {
            loop {
                changes.mark_unchanged();
                let now = self
                    .catalogue
                    .read(|contents| contents.by_id(id).map(|volume| volume.revision));
                if now.is_none_or(|now| now > revision) || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout(limit, changed).await;
    }
}
