//! Records read from a store. Joins the two kinds of failure: the store's and the record's own.

use thiserror::Error;

use crate::schema::{Record, SchemaError, Stored, read};
use crate::store::{Revision, Store, StoreError};

/// Why a record could not be read.
#[derive(Clone, Debug, Error)]
pub enum RecordError {
    /// The store did not give it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not one that we can read.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// The record at a key.
pub async fn get<R: Record>(store: &dyn Store, key: &str) -> Result<Option<Stored<R>>, RecordError> {
    match store.get(key).await? {
        Some(entry) => Ok(Some(read(&entry)?)),
        None => Ok(None),
    }
}

/// All records below a prefix, and the revision for which they are true together. One that cannot be read is
/// given as its error beside the others: one damaged record must not hide the rest.
pub async fn list<R: Record>(
    store: &dyn Store,
    prefix: &str,
) -> Result<(Vec<Stored<R>>, Vec<SchemaError>, Revision), StoreError> {
    let (entries, revision) = store.list(prefix).await?;
    let mut records = Vec::with_capacity(entries.len());
    let mut faults = Vec::new();
    for entry in &entries {
        match read(entry) {
            Ok(record) => records.push(record),
            Err(error) => faults.push(error),
        }
    }
    Ok((records, faults, revision))
}
