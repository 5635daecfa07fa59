//! A volume comes into being: the record with its name first, then (elsewhere) replicas and file system, then
//! "ready". Whoever finds a half-made one can finish or delete it, because the record says what it was to be.

use std::time::Instant;

use bulkhead_engine::geometry::Geometry;
use bulkhead_engine::ids::{Epoch, NodeId, ReplicaId, VolumeId};
use uuid::Uuid;

use super::change::{Step, Write};
use super::{Volume, VolumeError, Volumes};
use crate::schema::{
    ChangeId, Extra, NameRecord, Placed, Primary, Replica, ReplicaState, Stored, Timestamp, VolumeRecord,
    VolumeSpec, VolumeState, encode, name_key, volume_key,
};
use crate::store::{Expect, StoreError, Txn};

/// A volume that is to be made. The same value may be given again when the answer was lost.
#[derive(Clone, Debug)]
pub struct NewVolume {
    record: VolumeRecord,
}

impl NewVolume {
    /// One with this name and spec, its replicas at these places, made by this node.
    pub fn new(
        name: &str,
        spec: VolumeSpec,
        places: &[Placed],
        creator: NodeId,
    ) -> Result<Self, VolumeError> {
        name_key(name)?;
        let geometry = Geometry::for_size(spec.size).map_err(|error| VolumeError::Size {
            volume: name.to_owned(),
            reason: error.to_string(),
        })?;
        if places.is_empty() || places.len() != usize::from(spec.repl) {
            return Err(VolumeError::Places {
                name: name.to_owned(),
                wanted: spec.repl,
                placed: places.len(),
            });
        }
        let created_at = Timestamp::now();
        let replicas = places
            .iter()
            .map(|place| {
                // New replicas are all zeroes and so identical: each is in sync from the start.
                let id = ReplicaId::from(Uuid::new_v4());
                Replica {
                    since: Some(created_at),
                    ..Replica::new(id, place.node, place.pool, ReplicaState::Member)
                }
            })
            .collect();
        Ok(Self {
            record: VolumeRecord {
                id: VolumeId::from(Uuid::now_v7()),
                name: name.to_owned(),
                spec,
                geometry,
                state: VolumeState::Creating,
                // Attached from the beginning, for its file system: that saves two changes of the record.
                epoch: Epoch(1),
                primary: Some(Primary {
                    node: creator,
                    attachment: ChangeId::random(),
                    since: created_at,
                    user: "its creation".to_owned(),
                    upkeep: false,
                }),
                wanted: None,
                replicas,
                change: None,
                creator,
                created_at,
                changes: Vec::new(),
                extra: Extra::new(),
            },
        })
    }

    /// The id that it will have.
    pub fn id(&self) -> VolumeId {
        self.record.id
    }

    /// The files of this node's replicas are there already.
    #[must_use]
    pub fn made_on(mut self, node: NodeId) -> Self {
        for replica in self
            .record
            .replicas
            .iter_mut()
            .filter(|replica| replica.node == node)
        {
            replica.made = true;
        }
        self
    }

    /// The record as it is to be.
    pub fn record(&self) -> &VolumeRecord {
        &self.record
    }

    /// The record as it will be.
    pub fn into_record(self) -> VolumeRecord {
        self.record
    }
}

/// What came of the wish to make a volume.
#[derive(Clone, Debug)]
pub enum Begun {
    /// The record was made for us: its replicas and file system are ours to make.
    Made(Volume),
    /// One of that name and spec was there, made or being made by someone.
    Existing(Volume),
}

impl Begun {
    /// The volume, whoever makes it.
    pub fn volume(&self) -> &Volume {
        match self {
            Self::Made(volume) | Self::Existing(volume) => volume,
        }
    }
}

impl Volumes {
    /// Makes the record of a new volume, in state creating and attached on its creator. Of several who do so at once with one name, one makes
    /// it; for the others it is there already, or, with another spec, the difference is named.
    pub async fn begin_create(&self, new: &NewVolume) -> Result<Begun, VolumeError> {
        let name = &new.record.name;
        let name_key = name_key(name)?;
        let key = volume_key(new.record.id);
        let named = NameRecord {
            volume: new.record.id,
        };
        let txn = Txn::new()
            .check(&name_key, Expect::Absent)
            .check(&key, Expect::Absent)
            .put(&name_key, encode(&name_key, &named)?)
            .put(&key, encode(&key, &new.record)?);
        let patience = Instant::now() + self.patience;
        let mut lost: Option<VolumeError> = None;
        let mut first = true;
        loop {
            // The first try needs no look: the transaction itself finds out whether there is one of that name.
            let looked = if std::mem::take(&mut first) {
                Ok(None)
            } else {
                self.by_name(name).await
            };
            let found = match looked {
                Ok(found) => found,
                Err(error) if lost.is_some() && error.is_transient() && Instant::now() < patience => {
                    self.pause().await;
                    continue;
                }
                Err(error) => return Err(lost.unwrap_or(error)),
            };
            if let Some(volume) = found {
                return existing(new, volume);
            }
            let error = match self.store.commit(txn.clone()).await {
                Ok(revision) => {
                    let record = new.record.clone();
                    return Ok(Begun::Made(Stored { record, revision }));
                }
                Err(StoreError::Conflict { key: found, .. }) if found == key => {
                    // Made by us, and deleted by someone since: the name is gone, the record is on its way.
                    return Err(VolumeError::State {
                        volume: name.clone(),
                        state: VolumeState::Deleting,
                        remedy: "it was deleted while it was being made; make it again",
                    });
                }
                Err(StoreError::Conflict { .. }) => continue,
                Err(error) => error,
            };
            let unknown = matches!(error, StoreError::OutcomeUnknown { .. });
            let error = VolumeError::Store {
                volume: name.clone(),
                error,
            };
            if !unknown && lost.is_none() {
                return Err(error);
            }
            let error = lost.get_or_insert(error);
            if Instant::now() >= patience {
                return Err(error.clone());
            }
            self.pause().await;
        }
    }

    /// A creation is given up: by its creator, or by anybody once its creator is dead by its lease. The volume is being
    /// deleted then. Refused while the creator lives and is not the one who asks; no fault if it is being deleted already.
    pub async fn undo_create(&self, id: VolumeId, asking: NodeId) -> Result<Option<Volume>, VolumeError> {
        self.change(id, ChangeId::random(), |volume| {
            match volume.state {
                VolumeState::Creating => {}
                VolumeState::Deleting => return Ok(Step::Settled),
                VolumeState::Ready => {
                    return Err(VolumeError::State {
                        volume: volume.name.clone(),
                        state: volume.state,
                        remedy: "its creation cannot be undone any more",
                    });
                }
            }
            let mut record = volume.clone();
            record.state = VolumeState::Deleting;
            record.wanted = None;
            // The epoch stays as it is. Whoever made its file system ends all the same, since it is not the primary any more; and a
            // replica on whose disk there is a newer epoch shows that the volume was in use: the store was restored from an
            // older copy.
            record.primary = None;
            record.forget_change();
            Ok(Step::Write(Box::new(Write {
                record,
                if_dead: Some(volume.creator).filter(|creator| *creator != asking),
                remove: Some(name_key(&volume.name)?),
            })))
        })
        .await
    }

    /// Replicas and file system are there: its creator has let go of the volume, and it can be used. `known` is the volume as
    /// it is known here, which saves a read.
    pub async fn finish_create(&self, known: &Volume) -> Result<Volume, VolumeError> {
        let id = known.id;
        let done = self
            .change_known(id, Some(known), ChangeId::random(), |volume| match volume.state {
                VolumeState::Ready => Ok(Step::Settled),
                VolumeState::Creating if volume.replicas.iter().any(|replica| !replica.made) => {
                    Err(VolumeError::State {
                        volume: volume.name.clone(),
                        state: volume.state,
                        remedy: "not all of its replicas are there yet",
                    })
                }
                VolumeState::Creating => Ok(Step::write(VolumeRecord {
                    state: VolumeState::Ready,
                    primary: None,
                    ..volume.clone()
                })),
                VolumeState::Deleting => Err(VolumeError::State {
                    volume: volume.name.clone(),
                    state: volume.state,
                    remedy: "it was deleted while it was being made; remove its replicas",
                }),
            })
            .await?;
        done.ok_or_else(|| VolumeError::NoSuch(id.to_string()))
    }
}

fn existing(new: &NewVolume, volume: Volume) -> Result<Begun, VolumeError> {
    if volume.id == new.record.id {
        return Ok(Begun::Made(volume));
    }
    let differences = volume.spec.differences(&new.record.spec);
    if differences.is_empty() {
        return Ok(Begun::Existing(volume));
    }
    Err(VolumeError::Exists {
        name: volume.record.name,
        differences,
    })
}
