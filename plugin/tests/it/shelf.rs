//! A [`VolumeService`] of plain directories that can be made slow, stuck or unreachable at will: for what the protocol
//! must do in situations that a working daemon is not in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bulkhead::docker::{Deadlines, Driver, MountTable, Pace, reconcile};
use bulkhead::http::{Listening, serve};
use bulkhead::options::VolumeRequest;
use bulkhead::service::{ServiceError, VolumeService, VolumeView};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::client::Docker;

#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) volumes: Mutex<BTreeMap<String, Kept>>,
    pub(crate) mounts: AtomicUsize,
    pub(crate) unmounts: AtomicUsize,
    pub(crate) slow: Mutex<Duration>,
    pub(crate) lost: AtomicBool,
    pub(crate) used_elsewhere: AtomicBool,
}

#[derive(Clone, Default)]
pub(crate) struct Kept {
    pub(crate) request: VolumeRequest,
    pub(crate) mounted: bool,
    pub(crate) creating: bool,
}

impl Shelf {
    async fn pause(&self) -> Result<(), ServiceError> {
        let pause = *self.slow.lock();
        tokio::time::sleep(pause).await;
        self.reach()
    }

    fn reach(&self) -> Result<(), ServiceError> {
        if self.lost.load(Ordering::SeqCst) {
            return Err(ServiceError::Unavailable(
                "the store cannot be reached since 12:00".to_owned(),
            ));
        }
        Ok(())
    }

    pub(crate) fn is_mounted(&self, name: &str) -> bool {
        self.volumes.lock().get(name).is_some_and(|kept| kept.mounted)
    }

    fn view(name: &str, kept: &Kept) -> VolumeView {
        let request = &kept.request;
        VolumeView {
            name: name.to_owned(),
            id: "id".to_owned(),
            created_at: SystemTime::UNIX_EPOCH,
            mountpoint: kept.mounted.then(|| PathBuf::from("/mnt").join(name)),
            state: if kept.creating { "creating" } else { "ready" }.to_owned(),
            status: "ready".to_owned(),
            healthy: true,
            size: request.size.unwrap_or(1 << 30),
            allocated: Some(4096),
            used: None,
            fs: request.fs.map_or("ext4", |fs| fs.name()).to_owned(),
            repl: request.repl.unwrap_or(1),
            io_priority: None,
            class: request.class.clone(),
            nodes: Vec::new(),
            labels: request.labels.clone(),
            mount_options: None,
            mkfs_options: None,
            replicas: Vec::new(),
            attached: None,
            wanted: None,
            epoch: 1,
            as_of: None,
        }
    }
}

#[async_trait]
impl VolumeService for Shelf {
    async fn create(&self, name: &str, request: &VolumeRequest) -> Result<(), ServiceError> {
        self.pause().await?;
        let mut volumes = self.volumes.lock();
        match volumes.get(name) {
            Some(kept) if kept.request == *request => Ok(()),
            Some(_) => Err(ServiceError::Conflict(format!(
                "volume {name:?} exists and differs"
            ))),
            None => {
                volumes.insert(
                    name.to_owned(),
                    Kept {
                        request: request.clone(),
                        ..Kept::default()
                    },
                );
                Ok(())
            }
        }
    }

    async fn remove(&self, name: &str) -> Result<(), ServiceError> {
        self.pause().await?;
        let mut volumes = self.volumes.lock();
        match volumes.get(name) {
            None => Err(ServiceError::NotFound(name.to_owned())),
            Some(kept) if kept.mounted => Err(ServiceError::Busy(format!("volume {name:?} is attached"))),
            Some(_) => {
                volumes.remove(name);
                Ok(())
            }
        }
    }

    async fn mount(&self, name: &str) -> Result<PathBuf, ServiceError> {
        self.pause().await?;
        let mut volumes = self.volumes.lock();
        let kept = volumes
            .get_mut(name)
            .ok_or_else(|| ServiceError::NotFound(name.to_owned()))?;
        kept.mounted = true;
        self.mounts.fetch_add(1, Ordering::SeqCst);
        Ok(PathBuf::from("/mnt").join(name))
    }

    async fn unmount(&self, name: &str) -> Result<(), ServiceError> {
        self.pause().await?;
        let mut volumes = self.volumes.lock();
        let kept = volumes
            .get_mut(name)
            .ok_or_else(|| ServiceError::NotFound(name.to_owned()))?;
        if std::mem::take(&mut kept.mounted) {
            self.unmounts.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn in_use(&self, _name: &str) -> Result<bool, ServiceError> {
        Ok(self.used_elsewhere.load(Ordering::SeqCst))
    }

    async fn get(&self, name: &str) -> Result<VolumeView, ServiceError> {
        self.reach()?;
        let volumes = self.volumes.lock();
        let kept = volumes
            .get(name)
            .ok_or_else(|| ServiceError::NotFound(name.to_owned()))?;
        Ok(Self::view(name, kept))
    }

    async fn list(&self) -> Result<Vec<VolumeView>, ServiceError> {
        self.reach()?;
        Ok(self
            .volumes
            .lock()
            .iter()
            .map(|(name, kept)| Self::view(name, kept))
            .collect())
    }
}

/// A served driver over a [`Shelf`].
pub(crate) struct Bed {
    pub(crate) docker: Docker,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) gate: watch::Sender<Option<Arc<dyn VolumeService>>>,
    pub(crate) driver: Arc<Driver>,
    stop: watch::Sender<bool>,
    dir: tempfile::TempDir,
    runtime: Option<Runtime>,
}

/// Deadlines that a test can wait for.
pub(crate) const SHORT: Deadlines = Deadlines {
    create: Duration::from_millis(600),
    mount: Duration::from_millis(600),
    call: Duration::from_millis(600),
    query: Duration::from_millis(600),
};

impl Bed {
    pub(crate) fn new(deadlines: Deadlines) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = Runtime::new().expect("a runtime");
        let shelf = Arc::new(Shelf::default());
        let gate = watch::Sender::new(Some(shelf.clone() as Arc<dyn VolumeService>));
        let table = MountTable::open(&dir.path().join("mounts.json"), "boot", |_| true);
        let driver = Driver::new(gate.subscribe(), table, deadlines);
        let socket = dir.path().join("bulkhead.sock");
        let listening = {
            let _entered = runtime.enter();
            Listening::bind(&socket).expect("a socket")
        };
        let stop = watch::Sender::new(false);
        runtime.spawn(serve(
            listening,
            driver.clone(),
            stop.subscribe(),
            Duration::from_secs(1),
        ));
        let pace = Pace {
            grace: Duration::from_millis(100),
            interval: Duration::from_millis(50),
            looks: 2,
        };
        runtime.spawn(reconcile(driver.clone(), pace, stop.subscribe()));
        Self {
            docker: Docker::at(&socket),
            shelf,
            gate,
            driver,
            stop,
            dir,
            runtime: Some(runtime),
        }
    }
}

impl Bed {
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("bulkhead.sock")
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

/// Waits until something is so; says whether it became so.
pub(crate) fn eventually(so: impl Fn() -> bool) -> bool {
    for _ in 0..200 {
        if so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    false
}
