//! A volume comes to this node: the record first (epoch + 1), then its replicas, the block device, the file system. On a
//! failure everything that was done is undone in the opposite order.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_cluster::schema::{ChangeId, Fs, VolumeState};
use bulkhead_cluster::volumes::{Attach, Volume as Stored, engine_record};
use bulkhead_engine::disk::DiskError;
use bulkhead_engine::host::{AttachOptions, Attachment, DetachReport, FsKind, MountOptions};
use bulkhead_engine::ids::{Epoch, NodeId, VolumeId};
use bulkhead_engine::io::BlockDevice;
use bulkhead_engine::machine::primary::Revision;
use bulkhead_engine::node::{OpenError, Volume, VolumeConfig};
use parking_lot::Mutex;

use super::context::{Daemon, blocking, once_unlocked, volume_failed};
use super::engine::Keeper;
use super::keep::{Keeping, Note};
use super::phases::Phases;
use super::spec::kind;
use crate::service::ServiceError;

/// The directory of the volume's file system that Docker gets: `lost+found` beside it would break `initdb`.
const DATA: &str = "data";
/// How long the users of a volume wait for another daemon that only this node can serve.
const ALONE: Duration = Duration::from_secs(30);
/// The longest time between looks at a volume on which others work; a change is seen at once.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// A volume that is attached on this node.
pub(super) struct Attached {
    pub(super) id: VolumeId,
    pub(super) name: String,
    pub(super) attachment: ChangeId,
    pub(super) volume: Arc<Volume>,
    pub(super) device: Attachment,
    /// Where its file system is mounted.
    pub(super) target: PathBuf,
    /// Its file system and how it is mounted, as its record has them and as they are used.
    pub(super) format: Fs,
    pub(super) mount_options: String,
    fs: FsKind,
    options: MountOptions,
    keeping: Arc<Keeping>,
    /// How long its users may wait for another daemon.
    pub(super) patience: Duration,
    /// Whether the next daemon could go on with it.
    kept: AtomicBool,
    /// One look at its replicas at a time.
    pub(super) looking: tokio::sync::Mutex<()>,
    /// Nobody needs it any more, but it could not be let go yet: why.
    pub(super) leaving: Mutex<Option<String>>,
}

/// How a volume is opened.
#[derive(Clone, Copy, Debug)]
pub(super) enum Opening {
    /// By somebody who wants to use it from now on.
    Anew,
    /// For those who have it open since this term, within a time (rule T5).
    Resumes {
        /// The term.
        term: Epoch,
        /// The end of the time.
        end: Instant,
    },
}

/// For how long the users of a volume may wait for another daemon: as long as a node may be cut off from the others. Where
/// there are no others, nobody could go on instead.
fn patience(node: NodeId, record: &Stored, volume: &Volume) -> Duration {
    let isolation = volume.isolation_timeout();
    if record.replicas.iter().any(|replica| replica.node != node) {
        isolation
    } else {
        isolation.max(ALONE)
    }
}

impl Attached {
    /// An open volume with its block device; `options` are those in the record, parsed.
    pub(super) fn new(
        daemon: &Daemon,
        record: &Stored,
        attachment: ChangeId,
        (volume, device): (Arc<Volume>, Attachment),
        (format, mount_options): (Fs, &str),
        options: MountOptions,
    ) -> Self {
        Self {
            patience: patience(daemon.node, record, &volume),
            id: record.id,
            name: record.name.clone(),
            attachment,
            volume,
            device,
            target: daemon.dirs.mount_point(record.id),
            format,
            mount_options: mount_options.to_owned(),
            fs: kind(format),
            options,
            keeping: daemon.keeping.clone(),
            kept: AtomicBool::new(false),
            looking: tokio::sync::Mutex::default(),
            leaving: Mutex::default(),
        }
    }

    /// Whether the next daemon could go on with it.
    pub(super) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    pub(super) fn set_kept(&self, kept: bool) {
        self.kept.store(kept, Ordering::Relaxed);
    }

    /// Leaves its connection with the keeper, if there is one and the kernel can go on with another process.
    fn leave(&self) {
        if !self.keeping.is_there() {
            return;
        }
        let left = self
            .device
            .handover()
            .map_err(|error| error.to_string())
            .and_then(|handover| {
                let negotiated = handover.negotiated.filter(|negotiated| negotiated.resends());
                let negotiated =
                    negotiated.ok_or("this kernel cannot send requests again (Linux 6.9 and later do)")?;
                self.keeping
                    .put(&Note::new(self, negotiated), &handover.descriptor, true)
            });
        match left {
            Ok(()) => self.set_kept(true),
            Err(error) => tracing::warn!(
                volume = self.name,
                error,
                "it does not survive the end of the daemon"
            ),
        }
    }

    /// What Docker gets.
    pub(super) fn mountpoint(&self) -> PathBuf {
        self.target.join(DATA)
    }

    /// Why it serves no longer, if so.
    pub(super) fn dead(&self) -> Option<String> {
        match self.volume.ended() {
            Some(reason) => Some(reason.to_string()),
            None if !self.device.is_alive() => Some("the kernel has closed its connection".to_owned()),
            None => None,
        }
    }

    /// Whether its file system is meant to take no writes.
    pub(super) fn is_read_only(&self) -> bool {
        self.options.is_read_only()
    }

    /// What uses it, for people elsewhere who want it.
    pub(super) fn user(&self) -> String {
        let own = self.target.file_name();
        let holders = self.device.holders().unwrap_or_default();
        let foreign = holders.iter().find(|holder| holder.target.file_name() != own);
        match foreign {
            Some(holder) => format!("process {} ({})", holder.pid, holder.name),
            None => format!("a container (docker ps -a --filter volume={})", self.name),
        }
    }

    /// Mounts its file system, if it is not mounted, and makes the directory for Docker.
    fn mount(&self) -> Result<(), ServiceError> {
        let failed = |error: &dyn std::fmt::Display| {
            ServiceError::Failed(format!("volume {:?} cannot be mounted: {error}", self.name))
        };
        self.device
            .mount(&self.target, self.fs, &self.options)
            .map_err(|error| failed(&error))?;
        match fs::DirBuilder::new().mode(0o755).create(self.mountpoint()) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(&error)),
            _ => Ok(()),
        }
    }

    /// Takes it away from this node; always ends. What is still in use is lost to its users.
    pub(super) fn take_down(&self, limit: Duration) -> DetachReport {
        let end = Instant::now() + limit;
        // From here on nobody could go on with it.
        self.keeping.forget(self.id);
        self.set_kept(false);
        let report = self.device.detach(limit * 2 / 3);
        if let Err(error) = self.volume.close(end) {
            tracing::warn!(volume = self.name, %error, "it was not closed in order");
        }
        let _ = fs::remove_dir(&self.target);
        report
    }
}

impl Daemon {
    /// Mounts a volume, if it is not, and says where.
    pub(super) async fn mount_volume(self: &Arc<Self>, name: &str) -> Result<PathBuf, ServiceError> {
        let mut phases = Phases::begin();
        let end = Instant::now() + self.config.timeout.mount.duration().mul_f32(0.8);
        let left = || end.saturating_duration_since(Instant::now());
        let _guard = self.lock(name, "being mounted or unmounted", left()).await?;
        if let Some(attached) = self.attached(name) {
            if attached.dead().is_none() {
                let again = attached.clone();
                blocking(move || again.mount()).await?;
                *attached.leaving.lock() = None;
                return Ok(attached.mountpoint());
            }
            self.detach(&attached).await;
        }
        self.membership.require().await?;
        let volume = self.until_ready(name, end).await?;
        let id = volume.id;
        self.end_upkeep(id).await;
        phases.end("record");
        let before = volume.primary.as_ref().map(|primary| primary.node);
        let wish = Attach::on(self.node, String::new());
        let held = match self.take(volume, &wish, end, &mut phases).await {
            Ok(held) => held,
            Err(error) => {
                if matches!(error, ServiceError::Failed(_)) {
                    self.note_failure(id, error.to_string());
                }
                return Err(error);
            }
        };
        let (daemon, attachment) = (self.clone(), wish.attachment);
        let epoch = held.epoch;
        let brought = blocking(move || {
            let attached = daemon.bring_up(&held, attachment, &mut phases)?;
            Ok((attached, phases))
        })
        .await;
        match brought {
            Ok((attached, phases)) => {
                let mountpoint = attached.mountpoint();
                self.failures.lock().remove(&id);
                self.attached.lock().insert(name.to_owned(), attached.clone());
                // What the watch has told meanwhile.
                self.tell_engine(id);
                if let Some(reason) = attached.dead() {
                    let (daemon, name, why) = (self.clone(), name.to_owned(), reason.clone());
                    tokio::spawn(async move { daemon.bury(&name, id, why).await });
                    return Err(ServiceError::Failed(format!(
                        "volume {:?} ended while it was being mounted: {reason}",
                        attached.name
                    )));
                }
                match before.filter(|node| *node != self.node) {
                    Some(node) => {
                        let from = self.name_of(node);
                        tracing::info!(volume = name, %epoch, from, "taken over: {phases}");
                    }
                    None => tracing::info!(volume = name, %epoch, "mounted: {phases}"),
                }
                Ok(mountpoint)
            }
            Err(error) => {
                self.release_record(id, name, wish.attachment).await;
                self.note_failure(id, error.to_string());
                Err(error)
            }
        }
    }

    /// The volume of a name, once it is ready.
    async fn until_ready(&self, name: &str, end: Instant) -> Result<Stored, ServiceError> {
        loop {
            let volume = self.find(name).await?;
            if volume.state == VolumeState::Ready {
                return Ok(volume);
            }
            if Instant::now() + LOOK >= end {
                return Err(ServiceError::Busy(format!(
                    "volume {name:?} is still being created by node {}; try again in a while",
                    self.name_of(volume.creator)
                )));
            }
            self.until_changed(volume.id, volume.revision, LOOK).await;
        }
    }

    /// The volume of a name, as the store has it.
    pub(super) async fn find(&self, name: &str) -> Result<Stored, ServiceError> {
        let found = self
            .volumes
            .by_name(name)
            .await
            .map_err(|error| volume_failed(&error))?;
        let volume = found.ok_or_else(|| ServiceError::NotFound(name.to_owned()))?;
        self.catalogue.note(&volume);
        Ok(volume)
    }

    /// Gives the record back. If the store is away, the next look at the records does it.
    pub(super) async fn release_record(&self, id: VolumeId, name: &str, attachment: ChangeId) {
        match self.volumes.release(id, self.node, Some(attachment)).await {
            Ok(Some(volume)) => self.catalogue.note(&volume),
            Ok(None) => {}
            Err(error) => tracing::warn!(volume = name, %error, "it is not released in the store yet"),
        }
    }

    /// Opens the volume in the epoch of its record, and makes a block device of it. Blocks.
    pub(super) fn open_device(&self, record: &Stored) -> Result<(Arc<Volume>, Attachment), ServiceError> {
        let volume = self.open_volume(record, Opening::Anew)?;
        let device = self.device_of(record, &volume)?;
        Ok((volume, device))
    }

    /// Makes a block device of an open volume, which is closed if that fails. Blocks.
    fn device_of(&self, record: &Stored, volume: &Arc<Volume>) -> Result<Attachment, ServiceError> {
        let device: Arc<dyn BlockDevice> = volume.clone();
        Attachment::attach(&self.dirs, record.id, device, AttachOptions::default()).map_err(|error| {
            close(volume, &record.name, self.config.timeout.detach.duration());
            ServiceError::Failed(format!("volume {:?} cannot be attached: {error}", record.name))
        })
    }

    /// Opens the volume in the epoch of its record. Blocks.
    pub(super) fn open_volume(&self, record: &Stored, opening: Opening) -> Result<Arc<Volume>, ServiceError> {
        let (name, id) = (record.name.clone(), record.id);
        let failed = |error: &dyn std::fmt::Display| {
            ServiceError::Failed(format!("volume {name:?} cannot be attached: {error}"))
        };
        let open = || {
            let (ended, told) = (self.ended.clone(), record.name.clone());
            let keeper = Keeper::new(id, self.volumes.clone(), self.catalogue.clone());
            let mut config = VolumeConfig::new(
                id,
                record.geometry,
                engine_record(record),
                Revision(record.revision.0),
                Arc::new(keeper),
            );
            config.dead = self.dead_holders(record);
            if let Opening::Resumes { term, end } = opening {
                let left = end.saturating_duration_since(Instant::now());
                config.resumes = Some(term);
                config.open_timeout = config.open_timeout.min(left);
                config.open_stall = config.open_stall.min(left);
            }
            config.on_ended = Some(Box::new(move |_, reason| {
                // Nobody listens only while the daemon ends.
                let _ = ended.send((told.clone(), id, reason.to_string()));
            }));
            Volume::open(&self.engine, config)
        };
        let is_locked = |error: &OpenError| {
            let OpenError::Disk { source, .. } = error else {
                return false;
            };
            matches!(**source, DiskError::InUse(_))
        };
        once_unlocked(open, is_locked).map_err(|error| failed(&error))
    }

    /// Nodes with replicas of a volume that are dead by their leases in the store, as far as it can be reached.
    fn dead_holders(&self, volume: &Stored) -> Vec<NodeId> {
        let known = self.catalogue.freshness();
        if known.away.is_some() || known.from_disk {
            return Vec::new();
        }
        let nodes = volume.replicas.iter().map(|replica| replica.node);
        self.catalogue.read(|contents| {
            let dead = |node: &NodeId| *node != self.node && !contents.is_alive(*node);
            nodes.filter(dead).collect()
        })
    }

    fn bring_up(
        &self,
        record: &Stored,
        attachment: ChangeId,
        phases: &mut Phases,
    ) -> Result<Arc<Attached>, ServiceError> {
        let fs = kind(record.spec.fs);
        let options = MountOptions::parse(fs, &record.spec.mount_options)
            .map_err(|error| ServiceError::Invalid(error.to_string()))?;
        let volume = self.open_volume(record, Opening::Anew)?;
        phases.end("opening");
        let device = self.device_of(record, &volume)?;
        phases.end("device");
        let format = (record.spec.fs, record.spec.mount_options.as_str());
        let attached = Attached::new(self, record, attachment, (volume, device), format, options);
        if let Err(error) = attached.mount() {
            attached.take_down(self.config.timeout.detach.duration());
            return Err(error);
        }
        phases.end("file system");
        attached.leave();
        phases.end("keeper");
        Ok(Arc::new(attached))
    }

    /// Shows the engine the record of an attached volume as it is known now.
    pub(super) fn tell_engine(&self, id: VolumeId) {
        let attached = self.attached_of(id).map(|attached| attached.volume.clone());
        let open = attached.or_else(|| Some(self.tended(id)?.volume.clone()));
        let record = self.catalogue.read(|contents| contents.by_id(id).cloned());
        if let (Some(open), Some(record)) = (open, record)
            && record.epoch >= open.term()
        {
            // On a thread that may block: what follows from it may have to wait for a disk.
            tokio::task::spawn_blocking(move || {
                let (seen, revision) = (engine_record(&record), Revision(record.revision.0));
                open.record_seen(seen, revision);
            });
        }
    }

    /// The volume of this id that is attached on this node.
    pub(super) fn attached_of(&self, id: VolumeId) -> Option<Arc<Attached>> {
        let attached = self.attached.lock();
        attached.values().find(|attached| attached.id == id).cloned()
    }
}

/// Closes a volume that is attached nowhere.
pub(super) fn close(volume: &Volume, name: &str, limit: Duration) {
    if let Err(error) = volume.close(Instant::now() + limit) {
        tracing::warn!(volume = name, %error, "it was not closed in order");
    }
}
