//! After a new dockerd has come: finds the mounts that only the earlier one had and that nothing uses any longer. Runs in
//! the background and takes the lock of one volume at a time, never while dockerd waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::{Driver, Remaining};

/// How patiently mounts of an earlier dockerd are let go.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// From the coming of a dockerd to the first look; it restarts containers meanwhile.
    pub grace: Duration,
    /// Between looks.
    pub interval: Duration,
    /// Looks in a row that must find a volume unused.
    pub looks: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(60),
            interval: Duration::from_secs(15),
            looks: 2,
        }
    }
}

/// Runs until `stop` says so.
pub async fn reconcile(driver: Arc<Driver>, pace: Pace, mut stop: watch::Receiver<bool>) {
    let mut dockerds = driver.dockerds();
    let work = async {
        while dockerds.changed().await.is_ok() {
            sleep(pace.grace).await;
            let mut unused: BTreeMap<String, u32> = BTreeMap::new();
            while driver.table().has_carried() {
                driver.look(&mut unused, pace.looks).await;
                sleep(pace.interval).await;
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

impl Driver {
    /// One look at all volumes that only an earlier dockerd has mounted.
    async fn look(&self, unused: &mut BTreeMap<String, u32>, looks: u32) {
        let carried = self.table.carried_only();
        unused.retain(|name, _| carried.contains(name));
        for name in carried {
            match self
                .let_go_if_unused(&name, unused.get(&name).copied().unwrap_or(0) + 1 >= looks)
                .await
            {
                Some(true) => {
                    unused.remove(&name);
                }
                Some(false) => *unused.entry(name).or_default() += 1,
                None => {
                    unused.remove(&name);
                }
            }
        }
    }

    /// `None`: it is used, or that cannot be said. Else whether it was let go.
    async fn let_go_if_unused(&self, name: &str, let_go: bool) -> Option<bool> {
        let patience = Duration::from_secs(1);
        let service = self.service(patience).await.ok()?;
        let _guard = self.lock(name, "being looked at", patience).await.ok()?;
        match service.in_use(name).await {
            Ok(false) if !let_go => Some(false),
            Ok(false) => {
                tracing::info!(
                    volume = name,
                    "no container of the earlier dockerd uses it any longer"
                );
                if self.table.drop_carried(name) == Remaining::None
                    && let Err(error) = service.unmount(name).await
                {
                    tracing::warn!(volume = name, %error, "it could not be unmounted yet");
                }
                Some(true)
            }
            Ok(true) => None,
            Err(error) => {
                tracing::debug!(volume = name, %error, "whether it is used cannot be said");
                None
            }
        }
    }
}
