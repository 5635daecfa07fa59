//! The file in a pool's root by which it is known: whose it is, and which.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{Doing, PoolError};
use crate::ids::{ClusterId, NodeId, PoolId};

const NAME: &str = "bulkhead-pool.json";
const VERSION: u32 = 1;
/// More than any marker has; what is longer is none.
const LONGEST: u64 = 64 << 10;

/// Whose pools they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOwner {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
}

/// What the marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    version: u32,
    pub(super) pool: PoolId,
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
}

impl Marker {
    pub(super) fn new(pool: PoolId, owner: PoolOwner) -> Self {
        Self {
            version: VERSION,
            pool,
            cluster: owner.cluster,
            node: owner.node,
        }
    }

    pub(super) fn is_of(&self, owner: PoolOwner) -> bool {
        (self.cluster, self.node) == (owner.cluster, owner.node)
    }

    /// Reads it from a pool's root; `None` if there is none.
    pub(super) fn read(root: &Path) -> Result<Option<Self>, PoolError> {
        /// The part that every version has, to be read first.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let path = root.join(NAME);
        let what = || format!("reading {}", path.display());
        let text = match File::open(&path) {
            Ok(file) => io::read_to_string(io::Read::take(file, LONGEST)).doing(what)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).doing(what),
        };
        let damaged = |error: serde_json::Error| PoolError::Damaged {
            path: path.clone(),
            message: error.to_string(),
        };
        let Version { version } = serde_json::from_str(&text).map_err(damaged)?;
        if version > VERSION {
            return Err(PoolError::Version {
                path,
                version,
                known: VERSION,
            });
        }
        serde_json::from_str(&text).map(Some).map_err(damaged)
    }

    /// Writes it durably.
    pub(super) fn write(&self, root: &Path) -> Result<(), PoolError> {
        write_durably(&root.join(NAME), self)
    }
}

/// Takes it away: the directory is no pool any more.
pub(super) fn remove(root: &Path) -> Result<(), PoolError> {
    let path = root.join(NAME);
    fs::remove_file(&path).doing(|| format!("deleting {}", path.display()))
}

/// Puts a value into a file such that after a power cut it is either the old one or the new one.
pub(super) fn write_durably(path: &Path, value: &impl Serialize) -> Result<(), PoolError> {
    let what = || format!("writing {}", path.display());
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(io::Error::from)
        .doing(what)?;
    text.push(b'\n');
    let draft = path.with_extension("json.new");
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().doing(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        let owner = PoolOwner {
            cluster: ClusterId::from_u128(1),
            node: NodeId::from_u128(2),
        };
        Marker::new(PoolId::from_u128(3), owner)
    }

    #[test]
    fn a_marker_is_read_back() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        assert_eq!(Marker::read(dir.path())?, None);
        marker().write(dir.path())?;
        assert_eq!(Marker::read(dir.path())?, Some(marker()));
        Ok(())
    }

    #[test]
    fn a_damaged_or_newer_marker_is_never_taken_for_none() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        for bad in ["", "{", "{\"version\": 1}", "[1]", "\u{0}"] {
            fs::write(dir.path().join(NAME), bad)?;
            assert!(
                matches!(Marker::read(dir.path()), Err(PoolError::Damaged { .. })),
                "{bad:?}"
            );
        }
        fs::write(dir.path().join(NAME), "{\"version\": 9, \"new\": true}")?;
        assert!(matches!(
            Marker::read(dir.path()),
            Err(PoolError::Version { version: 9, .. })
        ));
        Ok(())
    }
}
