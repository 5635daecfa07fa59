//! What is kept in the store: typed keys and records, each with a version and a way from older versions to this
//! one. Pure: turns bytes into records and back, and never guesses at what it cannot read.

mod access;
mod event;
mod key;
mod node;
mod value;
mod versions;
mod volume;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use thiserror::Error;

pub use self::access::{Role, TokenRecord};
pub use self::event::{AlertRecord, EventKind, EventRecord, Object, Severity};
pub use self::key::{ALERTS, EVENTS, TOKENS, alert_key, event_key, token_key};
pub use self::key::{CLASSES, LIVE, NAMES, NODE_NAMES, NODES, POOLS, VOLUMES, check_name, decode_name};
pub use self::key::{CLUSTER_KEY, DEFAULT_CLASS_KEY};
pub use self::key::{class_key, live_key, name_key, node_key, node_name_key, pool_key, volume_key};
pub use self::node::{
    ClassRecord, ClusterRecord, DefaultClassRecord, LiveRecord, NodeCondition, NodeDuty, NodeNameRecord,
    NodeRecord, PoolRecord, PoolState,
};
pub use self::value::{ChangeId, Fs, IoPriority, Medium, ParseValueError, Timestamp};
pub use self::versions::written_versions;
pub use self::volume::{
    NameRecord, Placed, Primary, PrimaryChange, Replica, ReplicaState, VolumeRecord, VolumeSpec, VolumeState,
    Wanted,
};

use crate::store::{Entry, Revision};

/// Fields that a newer version of Bulkhead added: kept as they are, so that an older node that changes a record
/// loses nothing of it.
pub type Extra = BTreeMap<String, Value>;

/// Why a record cannot be read or written.
#[derive(Clone, Debug, Error)]
pub enum SchemaError {
    /// Written by a version that we do not know.
    #[error(
        "`{key}` was written by a newer Bulkhead ({kind} version {found}, this node knows {known}): upgrade this node"
    )]
    Newer {
        /// The key.
        key: String,
        /// What it is.
        kind: &'static str,
        /// Its version.
        found: u64,
        /// The newest version that we know.
        known: u32,
    },
    /// Not what it should be.
    #[error(
        "`{key}` in the store is not a {kind} that can be read: {reason}; restore it from a backup of the store"
    )]
    Damaged {
        /// The key.
        key: String,
        /// What it should be.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A name that cannot be one.
    #[error("`{name}` cannot be a name: {reason}")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
}

/// A kind of record.
pub trait Record: Serialize + DeserializeOwned {
    /// What a person calls it.
    const KIND: &'static str;
    /// The version that is written.
    const VERSION: u32 = 1;

    /// Takes a record one version further, from `from` to `from + 1`.
    fn migrate(from: u32, fields: &mut Map<String, Value>) -> Result<(), String> {
        let _ = fields;
        Err(format!("there is no way from version {from}"))
    }

    /// Whether its parts fit together, so that whoever uses it need not fear what lies in the store.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A record, and the revision at which it is so.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<R> {
    /// The record.
    pub record: R,
    /// What a compare-and-swap names.
    pub revision: Revision,
}

impl<R> std::ops::Deref for Stored<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.record
    }
}

/// The bytes of a record: a JSON object with its version in `v`.
pub fn encode<R: Record>(key: &str, record: &R) -> Result<Bytes, SchemaError> {
    #[derive(Serialize)]
    struct Versioned<'a, R> {
        v: u32,
        #[serde(flatten)]
        record: &'a R,
    }
    let versioned = Versioned {
        v: R::VERSION,
        record,
    };
    let bytes = serde_json::to_vec(&versioned).map_err(|error| damaged::<R>(key, error.to_string()))?;
    Ok(Bytes::from(bytes))
}

/// The record in some bytes, brought to the version of today.
pub fn decode<R: Record>(key: &str, bytes: &[u8]) -> Result<R, SchemaError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| damaged::<R>(key, error.to_string()))?;
    let Value::Object(mut fields) = value else {
        return Err(damaged::<R>(key, "not an object".to_owned()));
    };
    let found = fields
        .remove("v")
        .and_then(|version| version.as_u64())
        .filter(|version| *version > 0)
        .ok_or_else(|| damaged::<R>(key, "it has no version".to_owned()))?;
    let newer = || SchemaError::Newer {
        key: key.to_owned(),
        kind: R::KIND,
        found,
        known: R::VERSION,
    };
    let mut version = u32::try_from(found).map_err(|_| newer())?;
    if version > R::VERSION {
        return Err(newer());
    }
    while version < R::VERSION {
        R::migrate(version, &mut fields).map_err(|reason| damaged::<R>(key, reason))?;
        version += 1;
    }
    let record: R = serde_json::from_value(Value::Object(fields))
        .map_err(|error| damaged::<R>(key, error.to_string()))?;
    record.check().map_err(|reason| damaged::<R>(key, reason))?;
    Ok(record)
}

/// The record in an entry of the store.
pub fn read<R: Record>(entry: &Entry) -> Result<Stored<R>, SchemaError> {
    Ok(Stored {
        record: decode(&entry.key, &entry.value)?,
        revision: entry.revision,
    })
}

fn damaged<R: Record>(key: &str, reason: String) -> SchemaError {
    SchemaError::Damaged {
        key: key.to_owned(),
        kind: R::KIND,
        reason,
    }
}

#[cfg(test)]
mod tests;
