//! Swarm lists a driver only after it was used once since dockerd started. So the daemon looks for new dockerds on this
//! host and makes each ask for its volumes once. It asks only when there is a new one, never starts one, and nothing
//! else waits for the answer.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::IgnoredAny;
use tokio::sync::watch;
use tokio::time::sleep;

use super::docker_api::DockerApi;
use crate::proc::stat;

/// Between looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// A dockerd with many drivers may take long; it has 15 s for each that is dead.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process: its id and when it started.
type Process = (u32, u64);

/// Keeps the driver known until `stop` says so. An empty path leaves Docker alone.
pub(super) async fn keep_known(api: PathBuf, mut stop: watch::Receiver<bool>) {
    let work = async {
        if api.as_os_str().is_empty() {
            return std::future::pending().await;
        }
        let docker = DockerApi::at(&api);
        let mut known: BTreeSet<Process> = BTreeSet::new();
        loop {
            let found = tokio::task::spawn_blocking(dockerds).await.unwrap_or_default();
            if found.iter().any(|process| !known.contains(process)) && fs::exists(&api).unwrap_or(false) {
                // It asks every driver for its volumes.
                match docker.get::<IgnoredAny>("/volumes", PATIENCE).await {
                    Ok(_) => {
                        tracing::debug!("a new dockerd knows the driver");
                        known = found;
                    }
                    Err(error) => tracing::debug!(%error, "a new dockerd does not answer yet"),
                }
            }
            sleep(INTERVAL).await;
        }
    };
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// The dockerds that this process can see.
fn dockerds() -> BTreeSet<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeSet::new();
    };
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            if comm.trim() != "dockerd" {
                return None;
            }
            Some((pid, stat(pid, 19)?.parse().ok()?))
        })
        .collect()
}
