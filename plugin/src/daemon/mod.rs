//! The daemon: engine, cluster and faces in one process. Owns their order: sockets first, so that dockerd never waits
//! for a driver that is only starting; then the store, the pools and what an earlier run left; then "ready".

mod access;
mod alerts;
mod attach;
mod classes;
mod context;
mod create;
mod delete;
mod docker_api;
mod dockerd;
mod engine;
mod failed;
mod force;
mod health;
mod identity;
mod instance;
mod keep;
mod life;
mod listen;
mod members;
mod membership;
mod metrics;
mod network;
mod news;
mod node;
mod phases;
mod pool_removal;
mod pools;
mod rebalance;
mod rebuild;
mod reconcile;
mod redundancy;
mod release;
mod replicas;
mod resume;
mod service;
mod spec;
mod swarm;
mod take;
mod upkeep;
mod verify;
mod view;
pub(crate) mod wipe;
mod wrong;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bulkhead_engine::disk;
use bulkhead_engine::host::memory::{MemoryPromise, promise_progress};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::api::{Api, Peer};
use crate::cli::{Code, DaemonArgs};
use crate::config::Config;
use crate::docker::{Deadlines, Driver, MountTable, Pace, reconcile as reconcile_mounts};
use crate::http::{Listening, serve, serve_requests};
use crate::service::{Management, VolumeService};
use crate::telemetry;

use context::Daemon;
use keep::{Keeping, Left};
use resume::IsUsed;

/// How long calls that are under way may go on once the daemon stops.
const LINGER: Duration = Duration::from_secs(1);
/// How long the pools may take to be unmounted at the end.
const POOLS: Duration = Duration::from_secs(2);

/// Runs the daemon until a signal ends it.
pub fn main(args: &DaemonArgs) -> ExitCode {
    let config = match args.configured() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("bulkhead: {error}");
            return Code::Usage.into();
        }
    };
    if let Err(error) = telemetry::init(&config.log) {
        eprintln!("bulkhead: the log cannot be written: {error}");
        return Code::Failed.into();
    }
    // Before any thread starts: threads inherit it.
    let promise = promise_progress();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the daemon cannot start");
            return Code::Failed.into();
        }
    };
    let ended = runtime.block_on(run(config, &promise));
    // A call that hangs in the kernel must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Ok(()) => Code::Ok.into(),
        Err(error) => {
            tracing::error!("the daemon ends: {error:#}");
            Code::Failed.into()
        }
    }
}

async fn run(config: Config, promise: &MemoryPromise) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to signals")?;
    let warnings: Vec<String> = [&promise.io_flusher, &promise.locked]
        .into_iter()
        .filter_map(|outcome| outcome.as_ref().err().map(ToString::to_string))
        .collect();
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = config.node_name(),
        "bulkhead starts"
    );

    let (keeping, mut left) = keep::take()?;
    let (state_dir, dirs) = (config.state_dir.clone(), context::host_dirs(&config));
    keeping
        .guard(dirs.clone(), &left)
        .context("cannot start a thread")?;
    let any = !left.is_empty();
    let held = tokio::task::spawn_blocking(move || instance::lock(&state_dir, &dirs, any));
    let (_instance, aborted) = held.await??;
    left.retain(|left| {
        let lives = !aborted.contains(left.note.volume);
        if !lives {
            keeping.forget(left.note.volume);
            keeping.settle(left.note.volume);
        }
        lives
    });
    let faces = Faces::open(&config, &left)?;
    let stop = watch::Sender::new(false);
    let servers = faces.serve(&stop);
    let ended = tokio::select! {
        ended = serve_until_stopped(&config, &faces, &stop, keeping, left) => ended,
        _ = terminate.recv() => Ok(Ended::Stopped),
        _ = interrupt.recv() => Ok(Ended::Stopped),
    };
    if matches!(ended, Ok(Ended::Restart)) {
        // What was asked is answered. Everything else stays as it is: nobody is to be told that it ends, and no request of a
        // container to be answered with an error, as a kill would not do either.
        stop.send_replace(true);
        servers.await;
        telemetry::restarting();
        // SAFETY: ends the process; what is not written is in no buffer of this process that anybody counts on.
        unsafe { nix::libc::_exit(bulkhead_keeper::AGAIN) }
    }
    telemetry::stopping();
    // No new call gets through; those that are under way end or go on against what is being taken down.
    let daemon = faces.close();
    stop.send_replace(true);
    if let Some(daemon) = daemon {
        daemon.release_everything(config.timeout.stop.duration()).await;
        let engine = daemon.engine.clone();
        let closed = tokio::task::spawn_blocking(move || engine.stop(Instant::now() + POOLS)).await;
        if !closed.unwrap_or(false) {
            tracing::warn!("a replica is still busy; its disk does not answer");
        }
        if timeout(POOLS, daemon.pools.close()).await.is_err() {
            tracing::warn!("a pool does not let itself be unmounted");
        }
        daemon.membership.leave().await;
    }
    servers.await;
    let network = faces.network.lock().take();
    if let Some(network) = network {
        let _ = network.await;
    }
    ended.map(drop)
}

/// Why the daemon ends in order.
enum Ended {
    /// It was told to.
    Stopped,
    /// It is to be started again.
    Restart,
}

/// Returns when the daemon is to be started again, or with an error.
async fn serve_until_stopped(
    config: &Config,
    faces: &Faces,
    stop: &watch::Sender<bool>,
    keeping: Arc<Keeping>,
    left: Vec<Left>,
) -> anyhow::Result<Ended> {
    let driver = faces.driver.clone();
    let is_used: IsUsed = Arc::new(move |name| driver.table().users(name) > 0);
    let daemon = Daemon::start(config.clone(), &faces.starting, keeping, left, &is_used).await?;
    faces.daemon.send_replace(Some(daemon.clone()));
    let (volumes, node): (Arc<dyn VolumeService>, Arc<dyn Management>) =
        (Arc::new(daemon.clone()), Arc::new(daemon.clone()));
    faces.volumes.send_replace(Some(volumes));
    faces.node.send_replace(Some(node));
    let network = network::serve(daemon.clone(), faces.api.clone(), stop.subscribe());
    *faces.network.lock() = Some(tokio::spawn(network));
    telemetry::ready();
    let pace = Pace::default();
    let work = async {
        tokio::join!(
            reconcile_mounts(faces.driver.clone(), pace, stop.subscribe()),
            reconcile::keep_up(daemon.clone(), stop.subscribe()),
            dockerd::keep_known(config.docker.api.clone(), stop.subscribe()),
            membership::keep_telling(daemon.clone()),
            rebuild::keep_up(daemon.clone()),
            upkeep::keep_up(daemon.clone()),
            pool_removal::keep_up(daemon.clone()),
            alerts::keep_watch(daemon.clone()),
            swarm::keep_labels(daemon.clone(), stop.subscribe()),
        );
        // They end only when they are told to stop.
        std::future::pending().await
    };
    let joining = async {
        daemon.membership.keep_joining().await?;
        std::future::pending().await
    };
    tokio::select! {
        ended = work => ended,
        refused = joining => refused,
        () = daemon.restart.notified() => Ok(Ended::Restart),
    }
}

/// The sockets and what stands behind them.
struct Faces {
    driver: Arc<Driver>,
    api: Api,
    /// The API over the network, once it is served there.
    network: parking_lot::Mutex<Option<tokio::task::JoinHandle<()>>>,
    volumes: watch::Sender<Option<Arc<dyn VolumeService>>>,
    node: watch::Sender<Option<Arc<dyn Management>>>,
    daemon: watch::Sender<Option<Arc<Daemon>>>,
    starting: watch::Sender<String>,
    sockets: parking_lot::Mutex<Option<(Listening, Listening)>>,
}

impl Faces {
    fn open(config: &Config, left: &[Left]) -> anyhow::Result<Self> {
        let listen = |path: &Path| match Listening::from_systemd(path) {
            Some(listening) => Ok(listening),
            None => Listening::bind(path),
        };
        let sockets = (listen(&config.docker.socket)?, listen(&config.control_socket)?);
        let boot = disk::boot_id()?.to_string();
        // What was not kept is dead, and is cleaned up at the start.
        let is_kept = |name: &str| left.iter().any(|left| left.note.name == name);
        let table = MountTable::open(&config.state_dir.join("mounts.json"), &boot, is_kept);
        let deadlines = Deadlines {
            create: config.timeout.create.duration(),
            mount: config.timeout.mount.duration(),
            call: config.timeout.call.duration(),
            query: config.timeout.query.duration(),
        };
        let (volumes, node) = (watch::Sender::new(None), watch::Sender::new(None));
        let starting = watch::Sender::new("opening its sockets".to_owned());
        Ok(Self {
            driver: Driver::new(volumes.subscribe(), table, deadlines),
            api: Api::new(volumes.subscribe(), node.subscribe(), starting.subscribe()),
            network: parking_lot::Mutex::default(),
            volumes,
            node,
            daemon: watch::Sender::new(None),
            starting,
            sockets: parking_lot::Mutex::new(Some(sockets)),
        })
    }

    /// Serves both sockets; the future ends when both have ended.
    fn serve(&self, stop: &watch::Sender<bool>) -> impl Future<Output = ()> + use<> {
        let servers = self.sockets.lock().take().map(|(docker, control)| {
            let api = self.api.clone();
            let answer = move |request| api.clone().answer(request, Peer::Root);
            (
                tokio::spawn(serve(docker, self.driver.clone(), stop.subscribe(), LINGER)),
                tokio::spawn(serve_requests(control, answer, stop.subscribe(), LINGER)),
            )
        });
        async {
            if let Some((docker, control)) = servers {
                let _ = tokio::join!(docker, control);
            }
        }
    }

    /// Shuts the gates; what was behind them.
    fn close(&self) -> Option<Arc<Daemon>> {
        self.volumes.send_replace(None);
        self.node.send_replace(None);
        self.daemon.send_replace(None)
    }
}
