//! A volume comes into being: spec, places, record (creating), a replica on each of the nodes, file system, record (ready).
//! What fails half-way is undone everywhere; what a crash leaves half-way is undone by whoever comes next.

use std::sync::Arc;
use std::time::Instant;

use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::placement::{PoolView, place};
use bulkhead_cluster::schema::{Replica, VolumeRecord, VolumeSpec, VolumeState};
use bulkhead_cluster::volumes::{Begun, NewVolume, Placed, Volume as Stored};

use super::attach::{LOOK, close};
use super::context::{Daemon, blocking, volume_failed};
use super::{spec, view};
use crate::options::VolumeRequest;
use crate::service::ServiceError;

/// What became of a volume that existed already.
enum Settled {
    /// It is ready, and as asked for.
    AsAsked,
    /// It never became ready, and is gone.
    Undone,
}

/// Why a creation did not come to its end.
enum Broken {
    /// A node that was to have a replica died before it had made it: others may take its place.
    Gone(ServiceError),
    /// Anything else, which another try meets again.
    Failed(ServiceError),
}

impl From<ServiceError> for Broken {
    fn from(error: ServiceError) -> Self {
        Self::Failed(error)
    }
}

impl Daemon {
    /// Makes a volume. Success if it exists and is as asked for. Nodes that die meanwhile are replaced by others, as long as
    /// there is time: that a node is dead is known only when its lease has run out, so until then replicas are placed there.
    pub(super) async fn create_volume(
        self: &Arc<Self>,
        name: &str,
        request: &VolumeRequest,
    ) -> Result<(), ServiceError> {
        self.membership.require().await?;
        let end = Instant::now() + self.config.timeout.create.duration().mul_f32(0.8);
        let left = || end.saturating_duration_since(Instant::now());
        let _guard = self.lock(name, "being created or deleted", left()).await?;
        loop {
            match self.try_to_create(name, request, end).await {
                Ok(()) => return Ok(()),
                Err(Broken::Gone(error)) if Instant::now() + LOOK < end => {
                    tracing::info!(volume = name, %error, "it is created anew, without that node");
                }
                Err(Broken::Gone(error) | Broken::Failed(error)) => return Err(error),
            }
        }
    }

    async fn try_to_create(
        self: &Arc<Self>,
        name: &str,
        request: &VolumeRequest,
        end: Instant,
    ) -> Result<(), Broken> {
        match self.find(name).await {
            Ok(existing) if existing.state == VolumeState::Creating && existing.creator == self.node => {
                // Nobody works on it, or the lock would be held: an earlier try broke off.
                self.undo(&existing).await?;
            }
            Ok(existing) => match self.settle(existing, request, end).await? {
                Settled::AsAsked => return Ok(()),
                Settled::Undone => {}
            },
            Err(ServiceError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let spec = spec::of_request(&self.store, name, request).await?;
        let places = self.places(name, &spec).await?;
        let new = NewVolume::new(name, spec, &places, self.node).map_err(|error| volume_failed(&error))?;
        let volume = match self.begin(new).await? {
            Begun::Made(volume) => volume,
            Begun::Existing(volume) => {
                return match self.settle(volume, request, end).await? {
                    Settled::AsAsked => Ok(()),
                    Settled::Undone => Err(Broken::Gone(ServiceError::Busy(format!(
                        "volume {name:?} was being created by a node that went away; try again"
                    )))),
                };
            }
        };
        self.catalogue.note(&volume);
        match self.make(&volume, end).await {
            Ok(()) => {
                tracing::info!(volume = name, size = volume.spec.size, "created");
                Ok(())
            }
            Err(broken) => {
                let (Broken::Gone(error) | Broken::Failed(error)) = &broken;
                tracing::warn!(volume = name, %error, "it could not be created, and is undone");
                if let Err(undoing) = self.undo(&volume).await {
                    tracing::warn!(volume = name, error = %undoing, "what was begun is taken away later");
                }
                Err(broken)
            }
        }
    }

    /// Makes the replicas that are to be here, and then the record, in which they are made already. What a crash leaves in
    /// between was never used and is in no record: the next look at the pools takes it away.
    async fn begin(self: &Arc<Self>, new: NewVolume) -> Result<Begun, ServiceError> {
        let turn = Arc::new(self.replica_lock(new.id(), "being made").await?);
        let ours: Vec<Replica> = new.record().replicas_on(self.node).cloned().collect();
        for replica in &ours {
            self.make_files(&turn, new.record(), replica).await?;
        }
        let new = new.made_on(self.node);
        let begun = self.volumes.begin_create(&new).await;
        let is_made = match &begun {
            Ok(Begun::Made(_)) => true,
            Ok(Begun::Existing(_)) => false,
            // Then the record may be there, and its files with it.
            Err(error) => error.is_unknown(),
        };
        if !is_made {
            for replica in &ours {
                self.remove_files(&turn, new.record(), replica).await?;
            }
        }
        begun.map_err(|error| volume_failed(&error))
    }

    /// One of that name exists: waits until it is ready, and only then compares it with what is asked for: it may never be.
    /// One whose creator is dead is undone.
    async fn settle(
        self: &Arc<Self>,
        mut volume: Stored,
        request: &VolumeRequest,
        end: Instant,
    ) -> Result<Settled, ServiceError> {
        let name = volume.name.clone();
        while volume.state == VolumeState::Creating {
            let creator = volume.creator;
            let lives = self.catalogue.read(|contents| contents.is_alive(creator));
            // The store has the last word on whether it lives.
            if !lives && self.undo(&volume).await.is_ok() {
                tracing::info!(volume = name, "its creator is dead, and its creation is undone");
                return Ok(Settled::Undone);
            }
            if Instant::now() + LOOK >= end {
                return Err(ServiceError::Busy(format!(
                    "volume {name:?} is being created by node {}; try again in a while",
                    self.name_of(creator)
                )));
            }
            self.until_changed(volume.id, volume.revision, LOOK).await;
            volume = match self.find(&name).await {
                Err(ServiceError::NotFound(_)) => return Ok(Settled::Undone),
                found => found?,
            };
        }
        let drift = request.drift(&view::as_asked(&volume.spec));
        if !drift.is_empty() {
            return Err(ServiceError::Conflict(format!(
                "volume {name:?} exists already and is another one: {}; choose another name, or ask for it as it is",
                drift.join(", ")
            )));
        }
        Ok(Settled::AsAsked)
    }

    async fn places(&self, name: &str, spec: &VolumeSpec) -> Result<Vec<Placed>, ServiceError> {
        let mut view = self.catalogue.read(Contents::view);
        // Of itself a node knows more than the records say.
        if let Some(here) = view.nodes.get_mut(&self.node) {
            here.alive = true;
        }
        for record in self.pool_records().await {
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

    /// Waits for the replicas of a volume whose record is there, and makes its file system: the record names this node as its
    /// primary until it is ready.
    async fn make(self: &Arc<Self>, volume: &VolumeRecord, end: Instant) -> Result<(), Broken> {
        let made = self.until_made(volume, end).await?;
        let (daemon, record) = (self.clone(), made.clone());
        blocking(move || daemon.make_file_system(&record)).await?;
        let ready = self
            .volumes
            .finish_create(&made)
            .await
            .map_err(|error| volume_failed(&error))?;
        self.catalogue.note(&ready);
        Ok(())
    }

    /// Waits until every node has made its replica. An error says which one has not, and why.
    async fn until_made(&self, volume: &VolumeRecord, end: Instant) -> Result<Stored, Broken> {
        let name = &volume.name;
        let failed = |why: String| Err(Broken::Failed(ServiceError::Failed(why)));
        loop {
            let now = self.catalogue.read(|contents| contents.by_id(volume.id).cloned());
            let Some(now) = now.filter(|now| now.state == VolumeState::Creating) else {
                return failed(format!("volume {name:?} was deleted while it was being created"));
            };
            let unmade: Vec<_> = now.replicas.iter().filter(|replica| !replica.made).collect();
            if unmade.is_empty() {
                return Ok(Stored::clone(&now));
            }
            for replica in &unmade {
                let node = self.name_of(replica.node);
                if let Some(trouble) = &replica.trouble {
                    return failed(format!(
                        "volume {name:?} cannot be created, because node {node} cannot make its replica: {trouble}"
                    ));
                }
                let lives = self.catalogue.read(|contents| contents.is_alive(replica.node));
                if !lives && replica.node != self.node {
                    return Err(Broken::Gone(ServiceError::Failed(format!(
                        "volume {name:?} cannot be created, because node {node} went away before it had made its replica; try again"
                    ))));
                }
            }
            if Instant::now() >= end {
                let nodes: Vec<String> = unmade.iter().map(|replica| self.name_of(replica.node)).collect();
                return failed(format!(
                    "volume {name:?} cannot be created: no word of a replica from {}; look at the daemon there",
                    nodes.join(", ")
                ));
            }
            self.until_changed(volume.id, now.revision, LOOK).await;
        }
    }

    fn make_file_system(&self, record: &Stored) -> Result<(), ServiceError> {
        let (volume, device) = self.open_device(record)?;
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
    pub(super) async fn undo(self: &Arc<Self>, volume: &VolumeRecord) -> Result<(), ServiceError> {
        self.refuse_if_used(volume).await?;
        let undone = self
            .volumes
            .undo_create(volume.id, self.node)
            .await
            .map_err(|error| volume_failed(&error))?;
        if let Some(undone) = &undone {
            self.catalogue.note(undone);
        }
        self.remove_replicas(volume.id).await
    }
}
