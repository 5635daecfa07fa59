//! The life of a volume as changes of its record: made, attached, released, its replicas leaving and joining,
//! deleted. Each change is one compare-and-swap that carries its author's id, so that it may be tried again when an
//! answer was lost. Touches no disk: who makes and removes replicas reports here when it is done.

mod attach;
mod change;
mod create;
mod delete;
mod force;
mod making;
mod moving;
mod primary;
mod replicas;
mod update;

use std::sync::Arc;
use std::time::Duration;

use bulkhead_engine::ids::{Epoch, NodeId, ReplicaId, VolumeId};
use thiserror::Error;

pub use self::attach::Attach;
pub use self::create::{Begun, NewVolume};
pub use self::force::Force;
pub use self::primary::{Swap, engine_record};
pub use self::replicas::{Held, ReplicaChange};
pub use self::update::Update;
pub use crate::schema::Placed;

use crate::records::{self, RecordError};
use crate::schema::{
    NameRecord, NodeRecord, Primary, SchemaError, Stored, VOLUMES, VolumeRecord, VolumeState, name_key,
    node_key, volume_key,
};
use crate::store::{Store, StoreError};

/// A volume's record and its revision.
pub type Volume = Stored<VolumeRecord>;

/// Why something could not be done with a volume.
#[derive(Clone, Debug, Error)]
pub enum VolumeError {
    /// The store.
    #[error("volume `{volume}`: {error}")]
    Store {
        /// Name or id of the volume.
        volume: String,
        /// What went wrong.
        error: StoreError,
    },
    /// A record that cannot be read.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// There is no such volume.
    #[error("there is no volume `{0}`")]
    NoSuch(String),
    /// There is one of that name, but another one.
    #[error("volume `{name}` exists already and is another one: {}; choose another name, or ask for it as it is", differences.join(", "))]
    Exists {
        /// Its name.
        name: String,
        /// In what it differs.
        differences: Vec<String>,
    },
    /// A size that cannot be.
    #[error("volume `{volume}`: {reason}")]
    Size {
        /// Its name.
        volume: String,
        /// Why not.
        reason: String,
    },
    /// As many replicas as it has places.
    #[error("volume `{name}`: {wanted} replicas were asked for, and {placed} places given")]
    Places {
        /// Its name.
        name: String,
        /// Asked for.
        wanted: u8,
        /// Given.
        placed: usize,
    },
    /// It is attached.
    #[error(
        "volume `{volume}` is attached on node {node} since {}{}; stop what uses it there first",
        primary.since, used_by(primary)
    )]
    Attached {
        /// Its name.
        volume: String,
        /// Name of the node, or its id.
        node: String,
        /// What the record says of the attachment.
        primary: Box<Primary>,
    },
    /// Somebody makes it.
    #[error("volume `{volume}` is being created by node {node}, which lives; try again in a while")]
    Creating {
        /// Its name.
        volume: String,
        /// Name of its creator, or its id.
        node: String,
    },
    /// Its life is not at a point where this can be done.
    #[error("volume `{volume}` is {}; {remedy}", state_word(*state))]
    State {
        /// Its name.
        volume: String,
        /// Its state.
        state: VolumeState,
        /// What to do.
        remedy: &'static str,
    },
    /// This primary is no longer the one in the record: it must stop serving at once.
    #[error(
        "this attachment of volume `{volume}` (epoch {held}) has been replaced: the record is at epoch {found}"
    )]
    Replaced {
        /// Its name.
        volume: String,
        /// The epoch that was held.
        held: Epoch,
        /// The record's.
        found: Epoch,
    },
    /// The last member is never removed.
    #[error(
        "replica {replica} is the last one of volume `{volume}` that is in sync, and stays in the record"
    )]
    LastMember {
        /// Its name.
        volume: String,
        /// The replica.
        replica: ReplicaId,
    },
    /// A replica whose state does not allow the change.
    #[error("replica {replica} of volume `{volume}` {reason}")]
    Replica {
        /// Its name.
        volume: String,
        /// The replica.
        replica: ReplicaId,
        /// Why not.
        reason: &'static str,
    },
    /// All epochs are used up.
    #[error("volume `{0}` has used up its epochs; copy its data to a new volume")]
    Epochs(String),
    /// Others changed the record so often that ours did not come through.
    #[error("volume `{0}` is being changed by others all the time; try again")]
    Busy(String),
}

impl VolumeError {
    /// Whether the same call may succeed later without a person doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store { error, .. } => error.is_transient(),
            Self::Busy(_) => true,
            _ => false,
        }
    }

    /// Whether it is not known if the change was made.
    pub fn is_unknown(&self) -> bool {
        matches!(
            self,
            Self::Store {
                error: StoreError::OutcomeUnknown { .. },
                ..
            }
        )
    }

    fn of(volume: &str, error: RecordError) -> Self {
        match error {
            RecordError::Store(error) => Self::Store {
                volume: volume.to_owned(),
                error,
            },
            RecordError::Schema(error) => Self::Schema(error),
        }
    }
}

fn used_by(primary: &Primary) -> String {
    if primary.user.is_empty() {
        String::new()
    } else {
        format!(" by {}", primary.user)
    }
}

fn state_word(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Creating => "still being made",
        VolumeState::Ready => "ready",
        VolumeState::Deleting => "being deleted",
    }
}

/// The volumes of a cluster.
#[derive(Clone, Debug)]
pub struct Volumes {
    store: Arc<dyn Store>,
    /// How long a change whose answer was lost is tried again.
    patience: Duration,
}

impl Volumes {
    /// Those that a store holds.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            patience: Duration::from_secs(15),
        }
    }

    /// The same, trying a change whose answer was lost for this long before its outcome is called unknown.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The volume of a name; one that is being deleted has none any more.
    pub async fn by_name(&self, name: &str) -> Result<Option<Volume>, VolumeError> {
        let key = name_key(name)?;
        // Two reads, so a volume may be replaced by another of the same name in between: look again then.
        for _ in 0..10 {
            let Some(named) = self.get::<NameRecord>(name, &key).await? else {
                return Ok(None);
            };
            if let Some(volume) = self.get::<VolumeRecord>(name, &volume_key(named.volume)).await?
                && volume.state != VolumeState::Deleting
            {
                return Ok(Some(volume));
            }
        }
        Err(VolumeError::Busy(name.to_owned()))
    }

    /// The volume of an id, also one that is being deleted.
    pub async fn by_id(&self, id: VolumeId) -> Result<Option<Volume>, VolumeError> {
        self.get(&id.to_string(), &volume_key(id)).await
    }

    /// All volumes, those that are being deleted too; records that cannot be read are left out and logged.
    pub async fn all(&self) -> Result<Vec<Volume>, VolumeError> {
        let (volumes, faults, _) =
            records::list(&*self.store, VOLUMES)
                .await
                .map_err(|error| VolumeError::Store {
                    volume: "(all)".to_owned(),
                    error,
                })?;
        for fault in faults {
            tracing::error!(%fault, "a volume's record cannot be read");
        }
        Ok(volumes)
    }

    async fn get<R: crate::schema::Record>(
        &self,
        volume: &str,
        key: &str,
    ) -> Result<Option<Stored<R>>, VolumeError> {
        records::get(&*self.store, key)
            .await
            .map_err(|error| VolumeError::of(volume, error))
    }

    /// The name of a node for a message; its id if it cannot be had.
    async fn node_name(&self, node: NodeId) -> String {
        match records::get::<NodeRecord>(&*self.store, &node_key(node)).await {
            Ok(Some(record)) => record.record.name,
            _ => node.to_string(),
        }
    }
}

/// Gives a record the epoch after its own.
fn raise_epoch(record: &mut VolumeRecord) -> Result<(), VolumeError> {
    record.epoch = record
        .epoch
        .next()
        .ok_or_else(|| VolumeError::Epochs(record.name.clone()))?;
    Ok(())
}

/// The record is another one's now; what was held is of this epoch.
fn replaced(record: &VolumeRecord, held: Epoch) -> VolumeError {
    VolumeError::Replaced {
        volume: record.name.clone(),
        held,
        found: record.epoch,
    }
}
