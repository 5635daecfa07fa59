//! What the engine asks of the daemon: where this node's replicas lie, where other nodes are, and changes of records.
//! Decides nothing; answers from the catalogue, and changes records only as the engine's machines say.

use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bulkhead_cluster::catalogue::Catalogue;
use bulkhead_cluster::schema::{ReplicaState, VolumeState};
use bulkhead_cluster::store::Revision as StoreRevision;
use bulkhead_cluster::volumes::{Swap, Volumes, engine_record};
use bulkhead_engine::format::ReplicaIdentity;
use bulkhead_engine::ids::{NodeId, ReplicaId, VolumeId};
use bulkhead_engine::link::Addresses;
use bulkhead_engine::machine::Record;
use bulkhead_engine::machine::primary::{Revision, SwapOutcome};
use bulkhead_engine::machine::record::ChangeId;
use bulkhead_engine::node::{Locate, RecordKeeper, RecordRead, Swapped};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::pools::Pools;

/// Where the replicas of this node lie that may be opened.
pub(super) struct Places {
    node: NodeId,
    catalogue: Arc<Catalogue>,
    pools: Pools,
    /// Replicas whose files are being removed.
    going: Mutex<BTreeSet<ReplicaId>>,
}

impl Places {
    pub(super) fn new(node: NodeId, catalogue: Arc<Catalogue>, pools: Pools) -> Self {
        Self {
            node,
            catalogue,
            pools,
            going: Mutex::default(),
        }
    }

    /// A replica is to go: nobody may open it until the answer is dropped.
    pub(super) fn close(self: &Arc<Self>, replica: ReplicaId) -> Going {
        self.going.lock().insert(replica);
        Going {
            places: self.clone(),
            replica,
        }
    }
}

/// A replica is being removed for as long as this lives.
pub(super) struct Going {
    places: Arc<Places>,
    replica: ReplicaId,
}

impl Drop for Going {
    fn drop(&mut self) {
        self.places.going.lock().remove(&self.replica);
    }
}

impl Locate for Places {
    fn locate(&self, replica: &ReplicaIdentity) -> Result<PathBuf, String> {
        if self.going.lock().contains(&replica.replica) {
            return Err("it is being removed".to_owned());
        }
        let volume = self
            .catalogue
            .read(|contents| contents.by_id(replica.volume).cloned());
        let volume = volume.ok_or("no record knows its volume")?;
        let found = volume
            .replica(replica.replica)
            .filter(|found| found.node == self.node)
            .ok_or("its volume's record does not know it")?;
        if volume.state == VolumeState::Deleting || found.state == ReplicaState::Removing {
            return Err("it is to be removed".to_owned());
        }
        if !found.made {
            return Err("it is not made yet".to_owned());
        }
        let dir = self.pools.replicas(found.pool).ok_or_else(|| {
            format!(
                "its pool {} is not there; `bulkhead pool list` shows what is wrong with it",
                found.pool
            )
        })?;
        Ok(dir.join(replica.volume.to_string()))
    }
}

/// Where nodes are, by their records.
pub(super) fn addresses(catalogue: Arc<Catalogue>) -> Addresses {
    Arc::new(move |node: NodeId| -> Vec<SocketAddr> {
        let address = catalogue.read(|contents| contents.data_address(node).map(str::to_owned));
        let Some(address) = address.filter(|address| !address.is_empty()) else {
            return Vec::new();
        };
        match address.to_socket_addrs() {
            Ok(found) => found.collect(),
            Err(error) => {
                tracing::debug!(%node, address, %error, "its address cannot be resolved");
                Vec::new()
            }
        }
    })
}

/// Changes and reads the record of one volume for the engine.
pub(super) struct Keeper {
    volume: VolumeId,
    volumes: Volumes,
    catalogue: Arc<Catalogue>,
    runtime: Handle,
    /// The store does not answer; said once each time.
    away: Arc<AtomicBool>,
}

/// Says that the store does not answer, or does again, when that changes.
fn note_store(away: &AtomicBool, volume: VolumeId, trouble: Option<&dyn std::fmt::Display>) {
    match (trouble, away.swap(trouble.is_some(), Ordering::Relaxed)) {
        (Some(error), false) => tracing::warn!(
            %volume, %error, "its record can be neither read nor changed; it is tried again until the store answers"
        ),
        (None, true) => tracing::info!(%volume, "its record can be read again"),
        _ => {}
    }
}

impl Keeper {
    /// To be called within the runtime that does its work.
    pub(super) fn new(volume: VolumeId, volumes: Volumes, catalogue: Arc<Catalogue>) -> Self {
        Self {
            volume,
            volumes,
            catalogue,
            runtime: Handle::current(),
            away: Arc::default(),
        }
    }
}

impl RecordKeeper for Keeper {
    fn swap(&self, change: ChangeId, expected: Revision, record: Record, done: Swapped) {
        let (id, volumes, catalogue) = (self.volume, self.volumes.clone(), self.catalogue.clone());
        let away = self.away.clone();
        self.runtime.spawn(async move {
            let known = catalogue.read(|contents| contents.by_id(id).cloned());
            let expected = StoreRevision(expected.0);
            let outcome = match volumes
                .swap_as_primary(id, expected, &record, known.as_deref())
                .await
            {
                Swap::Applied(volume) => {
                    tracing::info!(volume = volume.name, epoch = %volume.epoch, "its primary has changed its replicas");
                    catalogue.note(&volume);
                    note_store(&away, id, None);
                    SwapOutcome::Applied(Revision(volume.revision.0))
                }
                Swap::Conflict => SwapOutcome::Conflict,
                Swap::Unknown(error) => {
                    tracing::debug!(volume = %id, %error, ?change, "a change of its replicas is not known to be made");
                    note_store(&away, id, Some(&error));
                    SwapOutcome::Unknown
                }
            };
            done(outcome);
        });
    }

    fn read(&self, done: RecordRead) {
        let (id, volumes, catalogue) = (self.volume, self.volumes.clone(), self.catalogue.clone());
        let away = self.away.clone();
        self.runtime.spawn(async move {
            let found = match volumes.by_id(id).await {
                Ok(found) => {
                    note_store(&away, id, None);
                    found
                }
                Err(error) => {
                    note_store(&away, id, Some(&error));
                    None
                }
            };
            done(found.map(|volume| {
                catalogue.note(&volume);
                (engine_record(&volume), Revision(volume.revision.0))
            }));
        });
    }
}
