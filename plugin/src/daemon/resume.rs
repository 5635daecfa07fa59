//! The daemon was started again while containers use its volumes: their connections were kept, and it goes on with each, all at
//! the same time. Nothing of it is older than what the record says: another node that has taken a volume keeps it, and here it
//! ends as a fenced one does. What does not come about in time ends too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_cluster::schema::ChangeId;
use bulkhead_cluster::volumes::{Volume as Stored, VolumeError};
use bulkhead_engine::host::{AttachOptions, Attachment, MountOptions, clean_volume};
use bulkhead_engine::ids::Epoch;
use bulkhead_engine::io::BlockDevice;
use bulkhead_engine::node::Volume;
use tokio::time::{sleep, timeout_at};

use super::attach::{Attached, Opening, close};
use super::context::{Daemon, blocking, volume_failed};
use super::keep::{Left, Note};
use super::phases::Phases;
use super::spec::kind;
use super::take::Outlook;
use crate::locks::NameGuard;
use crate::service::ServiceError;

/// Between tries to reach the store.
const AGAIN: Duration = Duration::from_millis(100);
/// How long replicas elsewhere are waited for that are asked for their epochs. Containers wait meanwhile, so less than when a
/// volume is mounted; whoever does not answer in it is left out, as there.
const SURVEY: Duration = Duration::from_millis(700);
/// How long a volume is closed that came too late.
const LATE: Duration = Duration::from_secs(5);

fn too_late(note: &Note) -> ServiceError {
    ServiceError::Failed(format!(
        "volume {:?} could not be served again within {:.0} s of the end of the daemon before",
        note.name,
        Duration::from_millis(note.patience).as_secs_f64()
    ))
}

/// Whether somebody has a volume mounted, by its name, as far as Docker has said.
pub(super) type IsUsed = Arc<dyn Fn(&str) -> bool + Send + Sync>;

impl Daemon {
    /// Begins to go on with all that was left. Each keeps the lock of its name until it is done.
    pub(super) async fn begin_resuming(self: &Arc<Self>, left: Vec<Left>, is_used: &IsUsed) {
        for left in left {
            let name = left.note.name.clone();
            // Nobody else has any lock yet.
            let guard = match self.lock(&name, "being resumed after a restart", LATE).await {
                Ok(guard) => guard,
                Err(error) => {
                    tracing::error!(volume = name, %error, "it cannot be resumed");
                    self.give_up(&left, &error.to_string()).await;
                    continue;
                }
            };
            let (daemon, is_used) = (self.clone(), is_used.clone());
            tokio::spawn(async move { daemon.resume(left, guard, &is_used).await });
        }
    }

    async fn resume(self: &Arc<Self>, left: Left, guard: NameGuard, is_used: &IsUsed) {
        let name = &left.note.name;
        let mut phases = Phases::begin();
        match self.try_to_resume(&left, &mut phases).await {
            Ok(attached) => {
                self.failures.lock().remove(&attached.id);
                self.attached.lock().insert(name.clone(), attached.clone());
                let in_time = self.keeping.settle(attached.id);
                let epoch = attached.volume.term();
                tracing::info!(volume = name, %epoch, "resumed: {phases}");
                // What the watch has told meanwhile.
                self.tell_engine(attached.id);
                let late = || (!in_time).then(|| "it was resumed too late".to_owned());
                if let Some(reason) = attached.dead().or_else(late) {
                    self.note_ending(&attached, reason);
                    return self.detach(&attached).await;
                }
                let device = attached.clone();
                let mounted =
                    blocking(move || Ok(device.device.is_mounted(&device.target).unwrap_or(true))).await;
                if mounted.is_ok_and(|mounted| !mounted) {
                    tracing::info!(volume = name, "it was being released");
                    return self.detach(&attached).await;
                }
                drop(guard);
                if !is_used(name)
                    && let Err(error) = self.unmount_volume(name).await
                {
                    tracing::warn!(volume = name, %error, "nobody uses it any more, and it is not released yet");
                }
            }
            Err(error) => self.give_up(&left, &error.to_string()).await,
        }
    }

    async fn try_to_resume(
        self: &Arc<Self>,
        left: &Left,
        phases: &mut Phases,
    ) -> Result<Arc<Attached>, ServiceError> {
        let note = &left.note;
        let next = ChangeId::random();
        let end = tokio::time::Instant::from_std(left.end);
        let taken = timeout_at(end, self.take_again(left, next, phases)).await;
        let (held, before) = taken.map_err(|_| too_late(note))??;
        self.catalogue.note(&held);
        phases.end("attach");
        let daemon = self.clone();
        let opening = (note.clone(), left.handover(), left.end);
        let (attached, done) = blocking(move || {
            let (note, handover, end) = opening;
            let handover = handover.map_err(|error| ServiceError::Failed(error.to_string()))?;
            let mut phases = Phases::begin();
            let volume = daemon.open_volume(&held, Opening::Resumes { term: before, end })?;
            phases.end("opening");
            if Instant::now() >= end {
                // Nobody waits for it any more.
                close(&volume, &note.name, LATE);
                return Err(too_late(&note));
            }
            let device = daemon.adopt(&held, &volume, handover)?;
            phases.end("device");
            Ok((
                daemon.attached_again(&held, next, (volume, device), &note)?,
                phases,
            ))
        })
        .await?;
        phases.add(&done);
        let served = Note::new(&attached, note.negotiated);
        if let Err(error) = self.leave(&served, left, true) {
            attached.set_kept(false);
            tracing::warn!(volume = note.name, %error, "it is served again, but would not survive another restart");
        }
        phases.end("keeper");
        Ok(attached)
    }

    /// Makes the record name the next attachment. Gives the record, and the term that ended with it.
    async fn take_again(
        self: &Arc<Self>,
        left: &Left,
        next: ChangeId,
        phases: &mut Phases,
    ) -> Result<(Stored, Epoch), ServiceError> {
        let note = &left.note;
        let record = self.own_record(note).await?;
        phases.end("record");
        match self.survey(&record, SURVEY).await? {
            Outlook::Clear => {}
            Outlook::Overtaken(_) => return Err(self.taken(note)),
            Outlook::Unreachable(why) => return Err(ServiceError::Failed(why)),
        }
        phases.end("survey");
        // First, so that whoever comes after this daemon knows the attachment that the record may come to name.
        let mut planned = note.clone();
        planned.attachments.push(next);
        self.leave(&planned, left, false)?;
        self.swap(note, next, left.end).await
    }

    /// Has the keeper keep it with another note.
    fn leave(&self, note: &Note, left: &Left, served: bool) -> Result<(), ServiceError> {
        let put = self.keeping.put(note, &left.descriptor, served);
        put.map_err(|error| ServiceError::Failed(format!("volume {:?}: {error}", note.name)))
    }

    /// The record, if it is still this node's to go on with. The store is asked until it answers.
    async fn own_record(&self, note: &Note) -> Result<Stored, ServiceError> {
        let record = loop {
            match self.volumes.by_id(note.volume).await {
                Ok(found) => break found,
                Err(error) if error.is_transient() => {
                    tracing::debug!(volume = note.name, %error, "its record cannot be read yet");
                    sleep(AGAIN).await;
                }
                Err(error) => return Err(volume_failed(&error)),
            }
        };
        let record = record.ok_or_else(|| {
            ServiceError::Failed(format!(
                "the store has no record of volume {:?}, which was attached here: it was restored from an older copy, or is another one",
                note.name
            ))
        })?;
        if record.epoch < note.epoch {
            return Err(ServiceError::Failed(format!(
                "volume {:?} was attached in epoch {}, and the store's record says {}: the store was restored from an older copy; restore a newer one",
                note.name, note.epoch, record.epoch
            )));
        }
        let primary = record
            .primary
            .as_ref()
            .filter(|primary| primary.node == self.node);
        if primary.is_none_or(|primary| !note.attachments.contains(&primary.attachment)) {
            return Err(self.taken(note));
        }
        self.catalogue.note(&record);
        Ok(record)
    }

    fn taken(&self, note: &Note) -> ServiceError {
        let holder = self.catalogue.read(|contents| {
            let primary = contents.by_id(note.volume)?.primary.as_ref()?;
            Some(primary.node)
        });
        let by = match holder.filter(|node| *node != self.node) {
            Some(node) => format!(" by node {}", self.name_of(node)),
            None => String::new(),
        };
        ServiceError::Failed(format!(
            "volume {:?} has been taken over or released{by} while the daemon was away",
            note.name
        ))
    }

    /// Makes this node's next attachment the record's. The store is asked until it answers.
    async fn swap(&self, note: &Note, next: ChangeId, end: Instant) -> Result<(Stored, Epoch), ServiceError> {
        loop {
            let resumed = self
                .volumes
                .resume(note.volume, self.node, &note.attachments, next)
                .await;
            match resumed {
                Err(VolumeError::Replaced { .. }) => return Err(self.taken(note)),
                Err(error) if error.is_transient() && !error.is_unknown() && Instant::now() < end => {
                    tracing::debug!(volume = note.name, %error, "its record cannot be changed yet");
                    sleep(AGAIN).await;
                }
                outcome => return outcome.map_err(|error| volume_failed(&error)),
            }
        }
    }

    /// Serves the connection that was left from an open volume, which is closed if that fails. Blocks.
    fn adopt(
        &self,
        record: &Stored,
        volume: &Arc<Volume>,
        handover: bulkhead_engine::host::transport::Handover,
    ) -> Result<Attachment, ServiceError> {
        let device: Arc<dyn BlockDevice> = volume.clone();
        Attachment::adopt(&self.dirs, record.id, handover, device, AttachOptions::default()).map_err(
            |error| {
                close(volume, &record.name, LATE);
                ServiceError::Failed(format!(
                    "volume {:?} cannot be served again: {error}",
                    record.name
                ))
            },
        )
    }

    fn attached_again(
        &self,
        record: &Stored,
        attachment: ChangeId,
        open: (Arc<Volume>, Attachment),
        note: &Note,
    ) -> Result<Arc<Attached>, ServiceError> {
        let options = MountOptions::parse(kind(note.fs), &note.mount_options).map_err(|error| {
            close(&open.0, &record.name, LATE);
            ServiceError::Invalid(error.to_string())
        })?;
        let format = (note.fs, note.mount_options.as_str());
        let attached = Attached::new(self, record, attachment, open, format, options);
        attached.set_kept(true);
        Ok(Arc::new(attached))
    }

    /// It ends: its users get errors, and everything of it is taken away. The next look at the records gives it back.
    async fn give_up(self: &Arc<Self>, left: &Left, why: &str) {
        let note = &left.note;
        let id = note.volume;
        tracing::error!(volume = note.name, why, "it is not resumed, and is taken down");
        self.keeping.forget(id);
        let dirs = self.dirs.clone();
        let cleaned = blocking(move || {
            clean_volume(&dirs, id).map_err(|error| ServiceError::Failed(error.to_string()))
        });
        match cleaned.await {
            Ok(report) => tracing::warn!(volume = note.name, ?report, "taken down"),
            Err(error) => tracing::error!(volume = note.name, %error, "it could not be taken down"),
        }
        self.note_failure(id, why.to_owned());
        // Whichever attachment it names: none is on this node any more.
        match self.volumes.release(id, self.node, None).await {
            Ok(Some(volume)) => self.catalogue.note(&volume),
            Ok(None) => {}
            Err(error) => tracing::warn!(volume = note.name, %error, "it is not released in the store yet"),
        }
        self.keeping.settle(id);
    }
}
