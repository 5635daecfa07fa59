//! A pool in a directory of a file system that the host has anyway: bound to the pool's mount point, so that from there on it
//! is a pool like any other. No second file system and no loop device lie between a replica and the disk.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, XFS_SUPER_MAGIC, statfs};

use super::attach::REPLICAS;
use super::error::{Doing, PoolError};
use super::marker::{self, Marker, PoolOwner};
use crate::host::bounded::bounded;
use crate::host::mounts;
use crate::ids::PoolId;

/// File systems on a disk of this machine, which keep what was synced and give back the space of holes.
const SUITABLE: [FsType; 3] = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];
/// A file system that is made by the system's tools has it in its root; it holds nobody's data.
const LOST_AND_FOUND: &str = "lost+found";
/// A bind mount does no input or output but for finding the directory.
const LIMIT: Duration = Duration::from_secs(20);

/// Refuses what lies in memory, on another machine, or in a layer of a container.
pub(super) fn refuse_unsuitable(path: &Path) -> Result<(), PoolError> {
    let what = || format!("looking at the file system of {}", path.display());
    let kind = statfs(path).doing(what)?.filesystem_type();
    if SUITABLE.contains(&kind) {
        Ok(())
    } else {
        Err(PoolError::Unsuitable(path.into()))
    }
}

/// Makes a pool of a directory: the one that it is already, or else a new one if it is empty.
pub(super) fn make(path: &Path, fresh: PoolId, owner: PoolOwner) -> Result<PoolId, PoolError> {
    match Marker::read(path)? {
        Some(marker) if marker.is_of(owner) => return Ok(marker.pool),
        Some(marker) => {
            return Err(PoolError::Foreign {
                path: path.into(),
                pool: marker.pool,
                node: marker.node,
                cluster: marker.cluster,
            });
        }
        None => {}
    }
    let what = || format!("listing {}", path.display());
    for entry in fs::read_dir(path).doing(what)? {
        let name = entry.doing(what)?.file_name();
        if name != LOST_AND_FOUND {
            return Err(PoolError::NotEmptyDirectory {
                path: path.into(),
                entry: name.to_string_lossy().into_owned(),
            });
        }
    }
    let replicas = path.join(REPLICAS);
    fs::create_dir(&replicas).doing(|| format!("making {}", replicas.display()))?;
    let marked = Marker::new(fresh, owner).write(path);
    if marked.is_err() {
        // Empty as it was, so that it can be tried again.
        let _ = fs::remove_dir(&replicas);
    }
    marked.map(|()| fresh)
}

/// Binds it to the pool's mount point.
pub(super) fn bind(path: &Path, dir: &Path, flags: MsFlags) -> Result<(), PoolError> {
    let what = || format!("binding {} to {}", path.display(), dir.display());
    let (source, target) = (path.to_path_buf(), dir.to_path_buf());
    let bound = bounded(what(), LIMIT, move || {
        let none = None::<&str>;
        mount(Some(&source), &target, none, MsFlags::MS_BIND, none)?;
        // Flags of a bind mount are only taken when it is there.
        mount(
            none,
            &target,
            none,
            MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags,
            none,
        )
    })?;
    if bound.is_err() {
        // Whichever of the two calls it was; what is no mount point is left alone.
        mounts::unmount(dir, LIMIT)?;
    }
    bound.doing(what)
}

/// Leaves the directory as it was found: empty. What is not the pool's is not touched.
pub(super) fn clear(path: &Path) -> Result<(), PoolError> {
    let replicas = path.join(REPLICAS);
    fs::remove_dir(&replicas).doing(|| format!("removing {}", replicas.display()))?;
    marker::remove(path)
}
