//! What is left of a node on its machine once it is to be a node no more: its pools, its identity, what its daemon kept. Works
//! without a daemon and keeps one from starting meanwhile. Never touches a file that Bulkhead has not made, and no pool while
//! the cluster counts on what is in it, unless somebody insists.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bulkhead_cluster::nodes::{Node, NodeError, Nodes};
use bulkhead_cluster::schema::NodeDuty;
use bulkhead_cluster::store::{self, Store};
use bulkhead_cluster::volumes::{Volume, VolumeError, Volumes};
use bulkhead_engine::host::clean_stale;
use bulkhead_engine::ids::NodeId;
use bulkhead_engine::pool::{PoolInfo, PoolKind, PoolOwner, PoolState, Pools, Removal};
use thiserror::Error;
use tokio::sync::OnceCell;

use super::context::host_dirs;
use super::identity::Identity;
use super::instance::{self, Instance};
use super::pools::REPLICAS;
use crate::config::Config;

/// What a daemon makes in its state directory besides its pools.
const KEPT: [&str; 7] = [
    "node.json",
    "pools.json",
    "mounts.json",
    "catalogue",
    "daemon.lock",
    "api",
    "bulkhead.sock",
];
/// Mount points lie in it, and only they.
const POOLS: &str = "pools";
const DEVICES: &str = "devices";
/// What belongs to the file of an embedded store.
const STORE_FILES: [&str; 3] = ["", "-wal", "-shm"];

/// Why a node is not wiped.
#[derive(Debug, Error)]
pub(crate) enum WipeError {
    /// Its daemon runs, or another one uses its directories.
    #[error("{0}")]
    Running(String),
    /// The store does not answer.
    #[error(
        "whether the cluster still counts on this node cannot be asked: {0}. Bring the store back, or do without its answer with --force"
    )]
    Unknown(String),
    /// Something cannot be read or taken away.
    #[error("{what}: {error}")]
    Failed {
        /// What.
        what: String,
        /// Why.
        error: String,
    },
}

fn failed(what: impl Into<String>) -> impl FnOnce(&dyn std::fmt::Display) -> WipeError {
    let what = what.into();
    move |error| WipeError::Failed {
        what,
        error: error.to_string(),
    }
}

/// A node whose daemon is stopped, to be taken away.
pub(crate) struct Wipe {
    config: Config,
    node: NodeId,
    pools: Option<Pools>,
    /// Opened once: an embedded one cannot be opened again before it is closed, and closing takes a moment.
    store: OnceCell<Arc<dyn Store>>,
    _instance: Instance,
}

/// Something that goes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Going {
    /// What it is.
    pub(crate) what: String,
    /// Where it is.
    pub(crate) path: PathBuf,
}

impl Wipe {
    /// Takes the place of the daemon and attaches the pools, to see what is in them; nothing if there is no node here. Blocks.
    pub(crate) fn begin(config: Config) -> Result<Option<Self>, WipeError> {
        let Some((node, cluster)) = Identity::read(&config.state_dir)
            .map_err(|error| failed("this node's identity cannot be read")(&format!("{error:#}")))?
        else {
            return Ok(None);
        };
        let (instance, _) = instance::lock(&config.state_dir, &host_dirs(&config), false)
            .map_err(|error| WipeError::Running(format!("{error:#}")))?;
        let pools = match cluster {
            Some(cluster) => {
                let pools = Pools::open(&config.state_dir, PoolOwner { cluster, node });
                Some(pools.map_err(|error| failed("its pools cannot be read")(&error))?)
            }
            // It has joined no cluster, so it has none.
            None => None,
        };
        Ok(Some(Self {
            config,
            node,
            pools,
            store: OnceCell::new(),
            _instance: instance,
        }))
    }

    /// The node whose state is in the directory, if there is one.
    pub(crate) fn whose(config: &Config) -> Result<Option<String>, WipeError> {
        let found = Identity::read(&config.state_dir);
        let found =
            found.map_err(|error| failed("this node's identity cannot be read")(&format!("{error:#}")))?;
        Ok(found.map(|(node, _)| node.to_string()))
    }

    fn all_pools(&self) -> Vec<PoolInfo> {
        self.pools.as_ref().map(Pools::list).unwrap_or_default()
    }

    /// All that goes.
    pub(crate) fn going(&self) -> Vec<Going> {
        let pool = |pool: &PoolInfo| {
            let holds = match (&pool.state, pool.usage) {
                (PoolState::Failed { reason }, _) => {
                    format!("which is not there ({reason}) and stays as it is")
                }
                (PoolState::Ready, Some(usage)) if usage.replicas == 1 => "with a replica in it".to_owned(),
                (PoolState::Ready, usage) => {
                    format!("with {} replicas in it", usage.unwrap_or_default().replicas)
                }
            };
            let kind = match pool.kind {
                PoolKind::Device => "the pool on this disk",
                PoolKind::File => "the pool in this file",
                PoolKind::Directory => "the pool in this directory",
            };
            Going {
                what: format!("{kind}, {holds}"),
                path: pool.path.clone(),
            }
        };
        let mut going: Vec<Going> = self.all_pools().iter().map(pool).collect();
        let kept = files(&self.config);
        going.extend(kept.into_iter().filter(|path| path.exists()).map(|path| Going {
            what: "what its daemon keeps".to_owned(),
            path,
        }));
        going
    }

    /// Names of the volumes for which the cluster still counts on this node.
    pub(crate) async fn needed_for(&self) -> Result<Vec<String>, WipeError> {
        let Some(store) = self.store().await? else {
            return Ok(Vec::new());
        };
        let unknown = |error: NodeError| WipeError::Unknown(error.to_string());
        let nodes = Nodes::new(store.clone()).list().await.map_err(unknown)?;
        let ours = nodes.iter().find(|node| node.record.id == self.node);
        if ours.is_none_or(|node| node.record.duty == NodeDuty::Decommissioned) {
            return Ok(Vec::new());
        }
        let unknown = |error: VolumeError| WipeError::Unknown(error.to_string());
        let volumes = Volumes::new(store).all().await.map_err(unknown)?;
        let is_here = |volume: &&Volume| {
            let attached = volume.primary.as_ref().map(|primary| primary.node);
            attached == Some(self.node) || volume.replicas_on(self.node).next().is_some()
        };
        Ok(volumes
            .iter()
            .filter(is_here)
            .map(|volume| volume.name.clone())
            .collect())
    }

    /// The cluster forgets the node if it counts on nothing here, so that its name is free. One that was given up it forgets by
    /// itself, once what was here is made anew elsewhere.
    pub(crate) async fn leave(&self) -> Result<(), WipeError> {
        let Some(store) = self.store().await? else {
            return Ok(());
        };
        let unknown = |error: NodeError| WipeError::Unknown(error.to_string());
        let nodes = Nodes::new(store);
        let all = nodes.list().await.map_err(unknown)?;
        let given_up =
            |node: &Node| node.record.id == self.node && node.record.duty == NodeDuty::Decommissioned;
        if all.iter().any(given_up) || !self.needed_for().await?.is_empty() {
            return Ok(());
        }
        nodes.remove(self.node).await.map_err(unknown)
    }

    async fn store(&self) -> Result<Option<Arc<dyn Store>>, WipeError> {
        // To open an embedded store that is not there would make it.
        if embedded(&self.config).is_some_and(|path| !path.exists()) {
            return Ok(None);
        }
        let unknown = |error: &dyn std::fmt::Display| WipeError::Unknown(error.to_string());
        let options = self.config.store_options().map_err(|error| unknown(&error))?;
        let open = || store::open(&self.config.store, &options);
        let opened = self.store.get_or_try_init(open).await;
        opened
            .map(|store| Some(Arc::clone(store)))
            .map_err(|error| unknown(&error))
    }

    /// Nothing is to be done after all: the pools are left as they were.
    pub(crate) fn give_up(self) {
        for error in self.pools.iter().flat_map(Pools::close) {
            tracing::warn!(%error, "a pool stays mounted");
        }
    }

    /// Takes everything away, and says what stays. Blocks.
    pub(crate) fn finish(mut self) -> Result<Vec<String>, WipeError> {
        drop(self.store.take());
        let dirs = host_dirs(&self.config);
        clean_stale(&dirs).map_err(|error| failed("what is left mounted of volumes")(&error))?;
        let mut stays = Vec::new();
        for pool in self.all_pools() {
            if let Some(pools) = &self.pools {
                remove_pool(pools, &pool, &mut stays)?;
            }
        }
        for path in files(&self.config) {
            remove(&path)?;
        }
        // Not with what is in it: something may still be mounted there after all.
        for points in [self.config.state_dir.join(POOLS), dirs.run.join(DEVICES)] {
            for point in fs::read_dir(&points).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(point.path());
            }
            let _ = fs::remove_dir(&points);
        }
        for dir in [&dirs.mounts, &dirs.run, &self.config.state_dir] {
            match fs::remove_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    stays.push(format!(
                        "{}: there is something in it that is not Bulkhead's",
                        dir.display()
                    ));
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    stays.push(format!("{}: {error}", dir.display()));
                }
                _ => {}
            }
        }
        Ok(stays)
    }
}

fn remove_pool(pools: &Pools, pool: &PoolInfo, stays: &mut Vec<String>) -> Result<(), WipeError> {
    let path = pool.path.display();
    if let PoolState::Failed { reason } = &pool.state {
        let forgotten = pools.forget(pool.id);
        forgotten.map_err(|error| failed(format!("the pool on {path}"))(&error))?;
        stays.push(format!("{path}: it is not there ({reason})"));
        return Ok(());
    }
    let what = format!("the pool on {path}");
    let dir = pools.dir(pool.id).map_err(|error| failed(what.clone())(&error))?;
    let replicas = fs::read_dir(dir.join(REPLICAS)).map_err(|error| failed(what.clone())(&error))?;
    for replica in replicas {
        let replica = replica.map_err(|error| failed(what.clone())(&error))?;
        remove(&replica.path())?;
    }
    let removed = pools.remove(pool.id, Removal::DeleteFile);
    removed.map_err(|error| failed(what.clone())(&error))?;
    if pool.kind == PoolKind::Device {
        erase(&pool.path).map_err(|error| failed(format!("the marks on {path}"))(&error))?;
    }
    Ok(())
}

/// Takes the marks of its file system from a disk, so that it counts as empty.
fn erase(device: &Path) -> io::Result<()> {
    let done = Command::new("wipefs")
        .args(["--all", "--quiet"])
        .arg(device)
        .stdin(Stdio::null())
        .output()?;
    if done.status.success() {
        return Ok(());
    }
    Err(io::Error::other(
        String::from_utf8_lossy(&done.stderr).trim().to_owned(),
    ))
}

/// The files and directories of a daemon, there or not; without its pools.
fn files(config: &Config) -> Vec<PathBuf> {
    let state = |name: &&str| config.state_dir.join(name);
    let mut files: Vec<PathBuf> = KEPT.iter().map(state).collect();
    if let Some(path) = embedded(config) {
        let with = |end: &&str| {
            let mut name = path.clone().into_os_string();
            name.push(end);
            PathBuf::from(name)
        };
        files.extend(STORE_FILES.iter().map(with));
    }
    files.extend([
        config.control_socket.clone(),
        config.docker.socket.clone(),
        config.run_dir.join("daemon.lock"),
        config.run_dir.join("instance"),
    ]);
    files
}

/// The file of the embedded store, if the node has one.
fn embedded(config: &Config) -> Option<PathBuf> {
    let path = config.store.strip_prefix("sqlite://")?;
    Some(PathBuf::from(path.split('?').next().unwrap_or(path)))
}

fn remove(path: &Path) -> Result<(), WipeError> {
    let gone = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("{} cannot be removed", path.display()))(&error))
        }
        _ => Ok(()),
    }
}
