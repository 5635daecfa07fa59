//! What all parts of the daemon share, and how it comes to be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use bulkhead_cluster::catalogue::Catalogue;
use bulkhead_cluster::events::Events;
use bulkhead_cluster::nodes::Nodes;
use bulkhead_cluster::schema::SchemaError;
use bulkhead_cluster::store::{self, Store};
use bulkhead_cluster::volumes::{Volume as Stored, VolumeError, Volumes};
use bulkhead_engine::host::{HostDirs, clean_stale_but};
use bulkhead_engine::ids::{ClusterId, Epoch, NodeId, VolumeId};
use bulkhead_engine::node::{Links, Node, NodeConfig};
use bulkhead_engine::pool::PoolOwner;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use super::alerts::Surface;
use super::attach::Attached;
use super::engine::{Places, addresses};
use super::identity::Identity;
use super::keep::{Keeping, Left};
use super::membership::Membership;
use super::phases::Phases;
use super::pools::Pools;
use super::rebuild::Away;
use super::reconcile::{self, Errands};
use super::resume::IsUsed;
use super::upkeep::Upkeep;
use super::verify::Comparison;
use crate::config::Config;
use crate::locks::{NameGuard, NameLocks};
use crate::service::ServiceError;

/// The catalogue's copy on disk, in the state directory.
const CATALOGUE: &str = "catalogue";
/// How long a lock that a child process holds by accident is waited for.
const LOCKED: Duration = Duration::from_secs(2);

/// Why a volume is down on this node.
pub(super) struct Failure {
    pub(super) reason: String,
    /// The epoch of its record when that was so. In a newer one somebody has attached it since.
    pub(super) epoch: Epoch,
}

/// The daemon behind its faces.
pub(super) struct Daemon {
    pub(super) config: Config,
    pub(super) node: NodeId,
    pub(super) node_name: String,
    pub(super) cluster: ClusterId,
    pub(super) store: Arc<dyn Store>,
    pub(super) nodes: Nodes,
    pub(super) volumes: Volumes,
    /// What Get, List and `status` answer from, at once and also while the store is away.
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) membership: Arc<Membership>,
    pub(super) engine: Arc<Node>,
    pub(super) places: Arc<Places>,
    pub(super) dirs: HostDirs,
    pub(super) pools: Pools,
    /// Locks of volumes by name: one operation at a time.
    pub(super) locks: NameLocks,
    /// Locks of this node's replicas by the volume's id.
    pub(super) replica_locks: NameLocks,
    /// Errands that are under way on this node.
    pub(super) errands: Errands,
    /// Replicas here that no record knows, in words.
    pub(super) strange: Mutex<Vec<String>>,
    /// Held while the engine is asked how its replicas are.
    pub(super) asking: Arc<tokio::sync::Mutex<()>>,
    /// Nodes and pools that are away.
    pub(super) away: Mutex<Away>,
    /// Volumes that are attached on this node, by name.
    pub(super) attached: Mutex<BTreeMap<String, Arc<Attached>>>,
    /// What is done for volumes that nobody has mounted.
    pub(super) upkeep: Upkeep,
    /// Volumes that ended by themselves or could not be attached, and why, until they are attached again, here or elsewhere.
    pub(super) failures: Mutex<BTreeMap<VolumeId, Failure>>,
    /// Comparisons of the members of volumes, the last one of each.
    pub(super) verifies: Mutex<BTreeMap<VolumeId, Comparison>>,
    /// Where the engine says that a volume has ended.
    pub(super) ended: mpsc::UnboundedSender<(String, VolumeId, String)>,
    /// The way to the keeper.
    pub(super) keeping: Arc<Keeping>,
    /// Told that the daemon is to be started again.
    pub(super) restart: Notify,
    /// What is kept for those who look.
    pub(super) surface: Surface,
    pub(super) started_at: SystemTime,
}

impl Daemon {
    /// Opens the store and the pools, takes away what an earlier run left, and finishes or undoes what it had begun.
    /// `starting` says meanwhile what is being done.
    /// What was `left` is gone on with, beside what comes next.
    pub(super) async fn start(
        config: Config,
        starting: &watch::Sender<String>,
        keeping: Arc<Keeping>,
        left: Vec<Left>,
        is_used: &IsUsed,
    ) -> anyhow::Result<Arc<Self>> {
        let mut phases = Phases::begin();
        let step = |what: &str| {
            tracing::debug!("{what}");
            starting.send_replace(what.to_owned());
        };
        step("taking away what an earlier run left mounted");
        let dirs = host_dirs(&config);
        clean(dirs.clone(), left.iter().map(|left| left.note.volume).collect()).await?;
        phases.end("cleaning up");

        step("opening the store");
        let identity = Identity::open(&config.state_dir)?;
        let node = identity.node();
        let node_name = config.node_name();
        let store = store::open(&config.store, &config.store_options()?).await?;
        phases.end("store");
        step("joining the cluster");
        let (membership, cluster) = Membership::begin(&config, store.clone(), identity, starting).await?;

        phases.end("joining");
        step("attaching the pools");
        let pools = Pools::open(config.state_dir.clone(), PoolOwner { cluster, node }).await?;

        phases.end("pools");
        step("reading the volumes");
        let catalogue = Catalogue::start(store.clone(), Some(config.state_dir.join(CATALOGUE))).await;
        if !catalogue.filled(config.timeout.store.duration()).await {
            tracing::warn!("the store does not answer; what is shown of volumes may be out of date");
        }
        phases.end("volumes");
        let (ended, endings) = mpsc::unbounded_channel();
        let catalogue = Arc::new(catalogue);
        let places = Arc::new(Places::new(node, catalogue.clone(), pools.clone()));
        let mut engine = NodeConfig::new(cluster, node, places.clone());
        if store.capabilities().arbitrates {
            engine.links = Some(Links::new(addresses(catalogue.clone())));
        }
        let daemon = Arc::new(Self {
            node,
            node_name,
            cluster,
            nodes: Nodes::new(store.clone()),
            volumes: Volumes::new(store.clone()),
            store: store.clone(),
            catalogue,
            membership,
            engine: Node::start(engine).context("the engine cannot start")?,
            places,
            dirs,
            pools,
            locks: NameLocks::default(),
            replica_locks: NameLocks::default(),
            errands: Errands::default(),
            strange: Mutex::default(),
            asking: Arc::default(),
            away: Mutex::default(),
            attached: Mutex::default(),
            upkeep: Upkeep::default(),
            failures: Mutex::default(),
            verifies: Mutex::default(),
            ended,
            keeping,
            restart: Notify::new(),
            surface: Surface::new(Events::new(store.clone(), node, 0)),
            started_at: SystemTime::now(),
            config,
        });
        tokio::spawn(super::release::watch_endings(Arc::downgrade(&daemon), endings));

        step("listening to the other nodes");
        super::listen::begin(&daemon).await?;
        phases.end("listening");
        if !left.is_empty() {
            tracing::info!(volumes = left.len(), "going on with what is in use: {phases}");
            daemon.begin_resuming(left, is_used).await;
        }

        step("finishing what an earlier run had begun");
        reconcile::at_start(&daemon).await;
        Ok(daemon)
    }

    /// The records of all volumes, those that are being deleted too, as this node knows them.
    pub(super) fn records(&self) -> Vec<Arc<Stored>> {
        self.catalogue
            .read(|contents| contents.volumes().cloned().collect())
    }

    /// The lock of a volume.
    pub(super) async fn lock(
        &self,
        name: &str,
        operation: &'static str,
        patience: Duration,
    ) -> Result<NameGuard, ServiceError> {
        self.locks
            .lock(name, operation, patience)
            .await
            .map_err(|by| ServiceError::Busy(format!("volume {name:?} is busy: {by}; try again in a while")))
    }

    /// Notes why a volume is down, as of the record that is known.
    pub(super) fn note_failure(&self, id: VolumeId, reason: String) {
        let epoch = self
            .catalogue
            .read(|contents| contents.by_id(id).map(|volume| volume.epoch));
        let epoch = epoch.unwrap_or(Epoch::ZERO);
        self.failures.lock().insert(id, Failure { reason, epoch });
    }

    /// Notes why an attachment has ended. If somebody else has the volume already, that is of a term before.
    pub(super) fn note_ending(&self, attached: &Attached, reason: String) {
        let epoch = self.catalogue.read(|contents| {
            let volume = contents.by_id(attached.id)?;
            let primary = volume.primary.as_ref()?;
            (primary.attachment == attached.attachment).then_some(volume.epoch)
        });
        let epoch = epoch.unwrap_or(attached.volume.term());
        self.failures
            .lock()
            .insert(attached.id, Failure { reason, epoch });
    }

    /// The volume that is attached on this node under a name.
    pub(super) fn attached(&self, name: &str) -> Option<Arc<Attached>> {
        self.attached.lock().get(name).cloned()
    }
}

/// The host's directories.
pub(super) fn host_dirs(config: &Config) -> HostDirs {
    HostDirs {
        run: config.run_dir.clone(),
        mounts: config.mounts_dir.clone(),
    }
}

async fn clean(dirs: HostDirs, kept: BTreeSet<VolumeId>) -> anyhow::Result<()> {
    let report = tokio::task::spawn_blocking(move || {
        dirs.create()?;
        clean_stale_but(&dirs, &kept)
    })
    .await
    .context("cleaning up broke off")??;
    if !report.is_empty() {
        tracing::warn!(?report, "took away what an earlier run had left mounted");
    }
    Ok(())
}

/// Runs what blocks, on a thread that may. It goes on if the caller does not wait for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a blocking call broke off");
        Err(ServiceError::Failed(
            "it broke off; the daemon's log says why".to_owned(),
        ))
    })
}

/// Tries again for a while if a replica is locked: a child process that has just been forked (mkfs) has all of its
/// parent's locks until it executes its program.
pub(super) fn once_unlocked<T, E>(
    mut work: impl FnMut() -> Result<T, E>,
    is_locked: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let end = Instant::now() + LOCKED;
    loop {
        match work() {
            Err(error) if is_locked(&error) && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(10))
            }
            outcome => return outcome,
        }
    }
}

/// What a volume's error means to the caller.
pub(super) fn volume_failed(error: &VolumeError) -> ServiceError {
    let message = error.to_string();
    match error {
        VolumeError::NoSuch(name) => ServiceError::NotFound(name.clone()),
        VolumeError::Exists { .. } => ServiceError::Conflict(message),
        VolumeError::Attached { .. } | VolumeError::Busy(_) | VolumeError::State { .. } => {
            ServiceError::Busy(message)
        }
        VolumeError::Store { .. } => ServiceError::Unavailable(message),
        VolumeError::Size { .. }
        | VolumeError::Places { .. }
        | VolumeError::Schema(SchemaError::Name { .. }) => ServiceError::Invalid(message),
        _ => ServiceError::Failed(message),
    }
}
