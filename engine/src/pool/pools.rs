//! All pools of a host: the list, and what each is good for right now.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use parking_lot::{Mutex, RwLock};

use super::attach::{REPLICAS, bring_up, make, take_down};
use super::claim::claim;
use super::directory;
use super::error::{Doing, PoolError};
use super::list::{self, Entry};
use super::marker::{Marker, PoolOwner};
use super::medium;
use super::overcommit::reserve;
use super::spec::{Medium, PoolInfo, PoolKind, PoolSpec, PoolState, PoolUsage, Removal};
use crate::host::bounded::bounded;
use crate::ids::PoolId;

/// How long a pool that answers may take to say how full it is.
const ANSWER: Duration = Duration::from_secs(5);

/// The pools of this node.
pub struct Pools {
    state_dir: PathBuf,
    owner: PoolOwner,
    pools: RwLock<Vec<Pool>>,
    /// Held by whoever changes the list, so that the list on disk and the one in memory change together.
    changes: Mutex<()>,
}

#[derive(Clone)]
struct Pool {
    entry: Entry,
    medium: Medium,
    state: PoolState,
}

impl Pools {
    /// Reads the list in `state_dir` and attaches every pool on it, all at the same time. A pool that cannot be
    /// attached is reported as such and keeps none of the others from being used.
    pub fn open(state_dir: &Path, owner: PoolOwner) -> Result<Self, PoolError> {
        fs::create_dir_all(state_dir).doing(|| format!("making the directory {}", state_dir.display()))?;
        let pools = Self {
            state_dir: state_dir.into(),
            owner,
            pools: RwLock::default(),
            changes: Mutex::default(),
        };
        let entries = list::read(state_dir)?;
        let attached = thread::scope(|scope| {
            let tasks: Vec<_> = entries
                .into_iter()
                .map(|entry| scope.spawn(|| pools.attach(entry)))
                .collect();
            tasks.into_iter().filter_map(|task| task.join().ok()).collect()
        });
        *pools.pools.write() = attached;
        Ok(pools)
    }

    fn attach(&self, entry: Entry) -> Pool {
        let state = match bring_up(&entry, &self.dir_of(entry.id), self.owner) {
            Ok(()) => PoolState::Ready,
            Err(error) => {
                tracing::error!(pool = %entry.id, path = %entry.path.display(), %error, "a pool is not available");
                PoolState::Failed {
                    reason: error.to_string(),
                }
            }
        };
        Pool {
            medium: medium::of(&entry.path),
            entry,
            state,
        }
    }

    /// Tries once more to attach a pool that was not available.
    pub fn retry(&self, id: PoolId) -> Result<PoolInfo, PoolError> {
        let _change = self.changes.lock();
        let entry = self.find(id)?.entry;
        let pool = self.attach(entry);
        let info = self.info(&pool);
        if let Some(place) = self.pools.write().iter_mut().find(|pool| pool.entry.id == id) {
            *place = pool;
        }
        Ok(info)
    }

    /// Makes a pool of a device, file or directory, or takes it as it is if it is one of this node's pools already.
    pub fn add(&self, spec: &PoolSpec) -> Result<PoolInfo, PoolError> {
        let _change = self.changes.lock();
        let real = fs::canonicalize(&spec.path).unwrap_or_else(|_| spec.path.clone());
        self.refuse_known(|entry| entry.path == real)?;
        let claim = claim(spec)?;
        let added = self.add_claimed(&claim.path, claim.kind, spec);
        if added.is_err() && claim.is_new {
            let _ = fs::remove_file(&claim.path);
        }
        added
    }

    fn add_claimed(&self, path: &Path, kind: PoolKind, spec: &PoolSpec) -> Result<PoolInfo, PoolError> {
        let fresh = PoolId::from(uuid::Uuid::new_v4());
        let scratch = self.state_dir.join("pools").join(format!("look-{fresh}"));
        let id = make(path, kind, fresh, self.owner, &scratch)?;
        self.refuse_known(|entry| entry.id == id)?;
        let entry = Entry {
            id,
            path: path.into(),
            kind,
            priority: spec.priority,
        };
        bring_up(&entry, &self.dir_of(id), self.owner)?;
        let pool = Pool {
            medium: medium::of(path),
            entry: entry.clone(),
            state: PoolState::Ready,
        };
        let mut entries = self.entries();
        entries.push(entry.clone());
        if let Err(error) = list::write(&self.state_dir, entries) {
            take_down(&entry, &self.dir_of(id))?;
            return Err(error);
        }
        let info = self.info(&pool);
        self.pools.write().push(pool);
        Ok(info)
    }

    /// Gives a pool up. Refused while it holds replicas, or if it cannot be looked into to see that.
    pub fn remove(&self, id: PoolId, removal: Removal) -> Result<(), PoolError> {
        let _change = self.changes.lock();
        let entry = self.find(id)?.entry;
        let count = replicas(&self.dir(id)?)?.len();
        if count > 0 {
            return Err(PoolError::NotEmpty { pool: id, count });
        }
        let rest = self
            .entries()
            .into_iter()
            .filter(|entry| entry.id != id)
            .collect();
        take_down(&entry, &self.dir_of(id))?;
        list::write(&self.state_dir, rest)?;
        self.pools.write().retain(|pool| pool.entry.id != id);
        match (removal, entry.kind) {
            (Removal::DeleteFile, PoolKind::File) => {
                fs::remove_file(&entry.path).doing(|| format!("deleting {}", entry.path.display()))
            }
            (Removal::DeleteFile, PoolKind::Directory) => directory::clear(&entry.path),
            (Removal::Keep, _) | (_, PoolKind::Device) => Ok(()),
        }
    }

    /// Strikes a pool off the list without looking at it: one whose disk is gone for good.
    pub fn forget(&self, id: PoolId) -> Result<(), PoolError> {
        let _change = self.changes.lock();
        if self.find(id)?.state == PoolState::Ready {
            return Err(PoolError::Available(id));
        }
        let rest = self
            .entries()
            .into_iter()
            .filter(|entry| entry.id != id)
            .collect();
        list::write(&self.state_dir, rest)?;
        self.pools.write().retain(|pool| pool.entry.id != id);
        Ok(())
    }

    /// All pools, and how full each is.
    pub fn list(&self) -> Vec<PoolInfo> {
        let pools = self.pools.read().clone();
        pools.iter().map(|pool| self.info(pool)).collect()
    }

    /// One pool, and how full it is.
    pub fn get(&self, id: PoolId) -> Result<PoolInfo, PoolError> {
        Ok(self.info(&self.find(id)?))
    }

    /// The root of a pool, for the replicas in it. Makes sure that the pool is there: without its mount, what is
    /// written would land on the host's own disk.
    pub fn dir(&self, id: PoolId) -> Result<PathBuf, PoolError> {
        self.dir_of_ready(&self.find(id)?)
    }

    fn dir_of_ready(&self, pool: &Pool) -> Result<PathBuf, PoolError> {
        let id = pool.entry.id;
        let not_ready = |reason: String| PoolError::NotReady {
            pool: id,
            path: pool.entry.path.clone(),
            reason,
        };
        if let PoolState::Failed { reason } = &pool.state {
            return Err(not_ready(reason.clone()));
        }
        let dir = self.dir_of(id);
        match Marker::read(&dir) {
            Ok(Some(marker)) if marker.pool == id => Ok(dir),
            Ok(_) => Err(not_ready("it is no longer mounted".into())),
            Err(error) => Err(not_ready(error.to_string())),
        }
    }

    /// Unmounts every pool, as for the end of the installation. Those in use stay, and are named.
    pub fn close(&self) -> Vec<PoolError> {
        let _change = self.changes.lock();
        let mut pools = self.pools.write();
        let mut errors = Vec::new();
        for pool in pools.iter_mut().filter(|pool| pool.state == PoolState::Ready) {
            match take_down(&pool.entry, &self.dir_of(pool.entry.id)) {
                Ok(()) => {
                    pool.state = PoolState::Failed {
                        reason: "it was unmounted".into(),
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    fn info(&self, pool: &Pool) -> PoolInfo {
        let mut state = pool.state.clone();
        let mut usage = None;
        if state == PoolState::Ready {
            match self.dir_of_ready(pool).and_then(|dir| measure(&dir)) {
                Ok(measured) => usage = Some(measured),
                Err(error) => {
                    state = PoolState::Failed {
                        reason: error.to_string(),
                    }
                }
            }
        }
        PoolInfo {
            id: pool.entry.id,
            path: pool.entry.path.clone(),
            kind: pool.entry.kind,
            medium: pool.medium,
            priority: pool.entry.priority.unwrap_or(pool.medium.priority()),
            state,
            usage,
        }
    }

    fn entries(&self) -> Vec<Entry> {
        self.pools.read().iter().map(|pool| pool.entry.clone()).collect()
    }

    fn find(&self, id: PoolId) -> Result<Pool, PoolError> {
        let pools = self.pools.read();
        pools
            .iter()
            .find(|pool| pool.entry.id == id)
            .cloned()
            .ok_or(PoolError::Unknown(id))
    }

    fn refuse_known(&self, is_it: impl Fn(&Entry) -> bool) -> Result<(), PoolError> {
        match self.entries().into_iter().find(|entry| is_it(entry)) {
            Some(entry) => Err(PoolError::AddedAlready {
                path: entry.path,
                pool: entry.id,
            }),
            None => Ok(()),
        }
    }

    fn dir_of(&self, id: PoolId) -> PathBuf {
        self.state_dir.join("pools").join(id.to_string())
    }
}

/// The sizes of the replicas' data files: exactly their volumes' sizes.
fn replicas(root: &Path) -> Result<Vec<u64>, PoolError> {
    let dir = root.join(REPLICAS);
    let entries = fs::read_dir(&dir).doing(|| format!("listing {}", dir.display()))?;
    entries
        .map(|entry| {
            let path = entry.doing(|| format!("listing {}", dir.display()))?.path();
            Ok(fs::metadata(path.join("data")).map_or(0, |metadata| metadata.len()))
        })
        .collect()
}

/// Asks the file system, no longer than a disk that answers takes.
fn measure(root: &Path) -> Result<PoolUsage, PoolError> {
    let what = || format!("measuring {}", root.display());
    let path = root.to_path_buf();
    bounded(what(), ANSWER, move || {
        let stat = statvfs(&path).doing(|| format!("measuring {}", path.display()))?;
        let total = stat.blocks() * stat.fragment_size();
        let free = stat.blocks_available() * stat.fragment_size();
        let sizes = replicas(&path)?;
        Ok(PoolUsage {
            capacity: total - reserve(total),
            used: total.saturating_sub(free),
            free: free.saturating_sub(reserve(total)),
            allocated: sizes.iter().sum(),
            replicas: sizes.len() as u64,
        })
    })?
}
