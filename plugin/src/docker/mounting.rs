//! Mount and Unmount. The volume is mounted before it is counted and counted down before it is unmounted, both under
//! the lock of its name, so that the last Unmount and a first Mount cannot cross.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::lifecycle::{bounded, left, waiting};
use super::{Driver, Remaining, answered, failed, outcome, read, resolve, wire};
use crate::http::{Answer, detached};
use crate::service::ServiceError;

/// How long an Unmount may wait for its turn and for the daemon to start. Docker's own limit is about the answer only.
const UNMOUNT: Duration = Duration::from_secs(600);

impl Driver {
    pub(super) async fn mount(self: Arc<Self>, body: &Bytes) -> Answer {
        let request: wire::MountRequest = match read(body) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        match self.do_mount(request).await {
            Ok(mountpoint) => answered(&wire::MountAnswer {
                mountpoint: as_text(&mountpoint),
                error: String::new(),
            }),
            Err(error) => answered(&wire::MountAnswer {
                mountpoint: String::new(),
                error: error.to_string(),
            }),
        }
    }

    async fn do_mount(self: Arc<Self>, request: wire::MountRequest) -> Result<PathBuf, ServiceError> {
        let name = resolve(&request.name)?.name.as_str().to_owned();
        let deadline = self.deadlines.mount;
        let driver = self.clone();
        let work_name = name.clone();
        let work = async move {
            let end = Instant::now() + waiting(deadline);
            let service = driver.service(left(end)).await?;
            let guard = driver.lock(&work_name, "being mounted", left(end)).await?;
            let mountpoint = service.mount(&work_name).await?;
            driver.table.add(&work_name, &request.id);
            drop(guard);
            Ok(Grant {
                mountpoint,
                undo: Some(Undo {
                    driver,
                    name: work_name,
                    id: request.id,
                }),
            })
        };
        // Dropping the grant undoes the mount, wherever it is then: in the task, on its way, or here.
        match timeout(deadline, detached(work)).await {
            Ok(Some(grant)) => grant.map(Grant::accept),
            Ok(None) => Err(ServiceError::Failed(format!(
                "mounting volume {name:?} broke off; the log of bulkhead says why"
            ))),
            Err(_) => Err(ServiceError::Busy(format!(
                "mounting volume {name:?} takes longer than {} s and is given up; `bulkhead volume inspect {name}` shows its state",
                deadline.as_secs()
            ))),
        }
    }

    pub(super) async fn unmount(self: Arc<Self>, body: &Bytes) -> Answer {
        let request: wire::MountRequest = match read(body) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        match resolve(&request.name) {
            Ok(spec) => {
                let name = spec.name.as_str().to_owned();
                let what = format!("unmounting volume {name:?}");
                let deadline = self.deadlines.call;
                outcome(bounded(deadline, &what, self.release(name, request.id)).await)
            }
            // A name that no volume can have is mounted nowhere.
            Err(_) => failed(StatusCode::OK, String::new()),
        }
    }

    /// Counts down, and unmounts when nobody is left. What is not known is a success: dockerd sends the Unmount of a
    /// container from before a restart, of a Mount that failed, and late ones after it was cut off.
    ///
    /// Docker sends it only once, so it goes on beyond the answer's deadline: what were given up here would stay
    /// mounted for ever.
    async fn release(self: Arc<Self>, name: String, id: String) -> Result<(), ServiceError> {
        let end = Instant::now() + UNMOUNT;
        let _guard = self.lock(&name, "being unmounted", left(end)).await?;
        if self.table.remove(&name, &id) == Remaining::Some {
            return Ok(());
        }
        // Also if this ID was not known: nobody else has it mounted, so nothing may stay mounted.
        match self.service(left(end)).await?.unmount(&name).await {
            Err(ServiceError::NotFound(_)) => Ok(()),
            other => other,
        }
    }
}

/// A mount that has been counted. Unless it is accepted, it is undone: dockerd sends no Unmount for a Mount whose
/// answer it did not get.
struct Grant {
    mountpoint: PathBuf,
    undo: Option<Undo>,
}

struct Undo {
    driver: Arc<Driver>,
    name: String,
    id: String,
}

impl Grant {
    fn accept(mut self) -> PathBuf {
        self.undo = None;
        std::mem::take(&mut self.mountpoint)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let Some(Undo { driver, name, id }) = self.undo.take() else {
            return;
        };
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        tracing::warn!(
            volume = name,
            id,
            "nobody waits for this mount any longer; it is undone"
        );
        runtime.spawn(async move {
            if let Err(error) = driver.release(name.clone(), id).await {
                tracing::warn!(volume = name, %error, "an abandoned mount could not be undone yet");
            }
        });
    }
}

/// A path as JSON can carry it. Ours are made of volume ids and the configured directory.
pub(super) fn as_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
