//! A volume comes into being: spec, place, record (creating), replica, file system, record (ready). What fails half-way
//! is undone; what a crash leaves half-way is undone at the next start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::placement::{PoolView, place};
use bulkhead_cluster::schema::{VolumeRecord, VolumeSpec, VolumeState};
use bulkhead_cluster::volumes::{Attach, Begun, NewVolume, Placed, Volume as Stored};
use bulkhead_engine::disk::{self, DiskError};

use super::attach::{Here, close};
use super::context::{Daemon, blocking, volume_failed};
use super::{spec, view};
use crate::options::VolumeRequest;
use crate::service::ServiceError;

/// Between looks at a volume that somebody else creates.
const LOOK: Duration = Duration::from_millis(200);

impl Daemon {
    /// Makes a volume. Success if it exists and is as asked for.
    pub(super) async fn create_volume(
        self: &Arc<Self>,
        name: &str,
        request: &VolumeRequest,
    ) -> Result<(), ServiceError> {
        self.membership.require().await?;
        let end = Instant::now() + self.config.timeout.create.duration().mul_f32(0.8);
        let left = || end.saturating_duration_since(Instant::now());
        let _guard = self.lock(name, "being created or deleted", left()).await?;
        match self.find(name).await {
            Ok(existing) if existing.state == VolumeState::Creating && existing.creator == self.node => {
                // Nobody works on it, or the lock would be held: an earlier try broke off.
                self.undo(&existing).await?;
            }
            Ok(existing) => return self.settle(existing, request, end).await,
            Err(ServiceError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let spec = spec::of_request(&self.store, name, request).await?;
        let places = self.places(name, &spec).await?;
        let new = NewVolume::new(name, spec, &places, self.node).map_err(|error| volume_failed(&error))?;
        let volume = match self
            .volumes
            .begin_create(&new)
            .await
            .map_err(|error| volume_failed(&error))?
        {
            Begun::Made(volume) => volume,
            Begun::Existing(volume) => return self.settle(volume, request, end).await,
        };
        self.catalogue.note(&volume);
        match self.make(&volume).await {
            Ok(()) => {
                tracing::info!(volume = name, size = volume.spec.size, "created");
                Ok(())
            }
            Err(error) => {
                tracing::warn!(volume = name, %error, "it could not be created, and is undone");
                if let Err(undoing) = self.undo(&volume).await {
                    tracing::warn!(volume = name, error = %undoing, "what was begun is taken away later");
                }
                Err(error)
            }
        }
    }

    /// One of that name exists: waits until it is ready, and compares it with what is asked for.
    async fn settle(
        &self,
        mut volume: Stored,
        request: &VolumeRequest,
        end: Instant,
    ) -> Result<(), ServiceError> {
        let name = volume.name.clone();
        let drift = request.drift(&view::as_asked(&volume.spec));
        if !drift.is_empty() {
            return Err(ServiceError::Conflict(format!(
                "volume {name:?} exists already and is another one: {}; choose another name, or ask for it as it is",
                drift.join(", ")
            )));
        }
        while volume.state == VolumeState::Creating {
            if Instant::now() + LOOK >= end {
                return Err(ServiceError::Busy(format!(
                    "volume {name:?} is being created by another node; try again in a while"
                )));
            }
            tokio::time::sleep(LOOK).await;
            volume = self.find(&name).await?;
        }
        Ok(())
    }

    async fn places(&self, name: &str, spec: &VolumeSpec) -> Result<Vec<Placed>, ServiceError> {
        let mut view = self.catalogue.read(Contents::view);
        // Of itself a node knows more than the records say.
        if let Some(here) = view.nodes.get_mut(&self.node) {
            here.alive = true;
        }
        for record in self.pools.records(self.node, self.config.pool.overcommit.0).await {
            let allocated = view.pools.get(&record.id).map_or(0, |pool| pool.allocated);
            let pool = PoolView {
                allocated,
                ..PoolView::of(&record)
            };
            view.pools.insert(record.id, pool);
        }
        place(spec, self.node, &view)
            .map_err(|refusal| ServiceError::NoSpace(format!("volume {name:?} cannot be placed: {refusal}")))
    }

    /// Makes the replica and the file system of a volume whose record is there.
    async fn make(self: &Arc<Self>, volume: &VolumeRecord) -> Result<(), ServiceError> {
        let (identity, dir) = self.replica_to_use(volume).await?;
        let (here, geometry, name) = (dir.clone(), volume.geometry, volume.name.clone());
        blocking(move || {
            disk::create(&here, identity, geometry).map_err(|error| out_of_space(&name, &error))
        })
        .await?;
        let wish = Attach::on(self.node, "its creation").while_creating();
        let held = self.take(volume, &wish, Instant::now()).await?;
        let (daemon, record) = (self.clone(), held.record.clone());
        let replica = Here { identity, dir };
        let made = blocking(move || daemon.make_file_system(&record, replica)).await;
        self.release_record(volume.id, &volume.name, wish.attachment)
            .await;
        made?;
        let ready = self
            .volumes
            .finish_create(volume.id)
            .await
            .map_err(|error| volume_failed(&error))?;
        self.catalogue.note(&ready);
        Ok(())
    }

    fn make_file_system(&self, record: &VolumeRecord, replica: Here) -> Result<(), ServiceError> {
        let (volume, device) = self.open_device(record, &replica)?;
        let made = device.mkfs(&spec::mkfs(&record.spec)).map_err(|error| {
            ServiceError::Failed(format!("volume {:?} gets no file system: {error}", record.name))
        });
        let limit = self.config.timeout.detach.duration();
        let report = device.detach(limit);
        close(&volume, &record.name, limit);
        made?;
        if report.aborted {
            return Err(ServiceError::Failed(format!(
                "volume {:?} gets no file system: its device could not be released in order ({})",
                record.name,
                report.faults.join("; ")
            )));
        }
        Ok(())
    }

    /// Takes away what there is of a volume that never became ready.
    pub(super) async fn undo(&self, volume: &VolumeRecord) -> Result<(), ServiceError> {
        self.volumes
            .release(volume.id, self.node, None)
            .await
            .map_err(|error| volume_failed(&error))?;
        let going = self
            .volumes
            .begin_delete_of(volume.id, self.node)
            .await
            .map_err(|error| volume_failed(&error))?;
        self.catalogue.note(&going);
        self.finish_delete(&going).await
    }
}

fn out_of_space(name: &str, error: &DiskError) -> ServiceError {
    let message = format!("volume {name:?} gets no replica: {error}");
    match error {
        DiskError::Io { source, .. } if disk::is_out_of_space(source) => ServiceError::NoSpace(message),
        _ => ServiceError::Failed(message),
    }
}
