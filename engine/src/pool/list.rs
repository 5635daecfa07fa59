//! The list of a node's pools, in its state directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Doing, PoolError};
use super::marker::write_durably;
use super::spec::{PoolKind, Priority};
use crate::ids::PoolId;

const NAME: &str = "pools.json";
const VERSION: u32 = 1;

/// One pool of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) id: PoolId,
    pub(super) path: PathBuf,
    pub(super) kind: PoolKind,
    /// `None` takes it from the medium.
    #[serde(default)]
    pub(super) priority: Option<Priority>,
}

#[derive(Serialize, Deserialize)]
struct List {
    version: u32,
    pools: Vec<Entry>,
}

/// Reads the list; empty if there is none yet.
pub(super) fn read(state_dir: &Path) -> Result<Vec<Entry>, PoolError> {
    let path = state_dir.join(NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing(|| format!("reading {}", path.display())),
    };
    let list: List = serde_json::from_str(&text).map_err(|error| PoolError::Damaged {
        path: path.clone(),
        message: error.to_string(),
    })?;
    if list.version > VERSION {
        return Err(PoolError::Version {
            path,
            version: list.version,
            known: VERSION,
        });
    }
    Ok(list.pools)
}

/// Writes the list durably.
pub(super) fn write(state_dir: &Path, pools: Vec<Entry>) -> Result<(), PoolError> {
    let list = List {
        version: VERSION,
        pools,
    };
    write_durably(&state_dir.join(NAME), &list)
}
