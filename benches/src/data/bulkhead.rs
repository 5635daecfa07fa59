//! Bulkhead: the daemon under test with a pool in a file, and a volume that is made and mounted as dockerd would do it,
//! through the driver's socket.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bulkhead_lab::{Bulkhead, Host};
use serde_json::{Value, json};

use super::cost;
use super::target::{DISK, MOUNT, Sizes, Target};

/// The driver's socket on a host.
const SOCKET: &str = "/run/docker/plugins/bulkhead.sock";
/// The volume that is measured.
const VOLUME: &str = "target";

/// Further volumes that are mounted to see what memory they take.
const IDLE: u32 = 10;

/// A volume.
pub struct Replicated {
    name: String,
    daemon: Bulkhead,
    host: Arc<Host>,
}

impl Replicated {
    /// A volume with one replica on a node by itself.
    pub fn alone(sizes: Sizes) -> Result<Self> {
        let host = Host::start("bench-bulkhead")?;
        let daemon = Bulkhead::start(&host)?;
        // The pool has a file system of its own, which takes its share.
        daemon.add_pool(&format!("{DISK}/pool.img"), &format!("{}G", sizes.volume + 2))?;
        let target = Self {
            name: "Bulkhead, 1 replica".to_owned(),
            daemon,
            host,
        };
        target.mount(VOLUME, sizes.volume, 1)?;
        let at = target.path(VOLUME)?;
        target
            .host
            .sh(&format!("mkdir -p {MOUNT}; mount --bind {at} {MOUNT}"))
            .run()?;
        Ok(target)
    }

    fn mount(&self, volume: &str, gib: u32, replicas: u32) -> Result<()> {
        let options = json!({ "size": format!("{gib}G"), "repl": replicas.to_string() });
        self.call("Create", &json!({ "Name": volume, "Opts": options }))?;
        self.call("Mount", &json!({ "Name": volume, "ID": "bench" }))
            .map(drop)
    }

    fn path(&self, volume: &str) -> Result<String> {
        let answer = self.call("Path", &json!({ "Name": volume }))?;
        let path = answer.get("Mountpoint").and_then(Value::as_str);
        path.filter(|path| !path.is_empty())
            .map(str::to_owned)
            .with_context(|| format!("volume {volume} is not mounted: {answer}"))
    }

    /// What dockerd would ask.
    fn call(&self, call: &str, request: &Value) -> Result<Value> {
        let text = self
            .host
            .cmd("curl")
            .args([
                "--silent",
                "--show-error",
                "--unix-socket",
                SOCKET,
                "--data-binary",
            ])
            .arg(request.to_string())
            .arg(format!("http://localhost/VolumeDriver.{call}"))
            .within(Duration::from_secs(120))
            .run()?;
        let answer: Value = serde_json::from_str(&text).with_context(|| format!("{call} answers {text}"))?;
        let error = answer.get("Err").and_then(Value::as_str).unwrap_or_default();
        ensure!(error.is_empty(), "{call} {request}: {error}");
        Ok(answer)
    }
}

impl Target for Replicated {
    fn name(&self) -> &str {
        &self.name
    }

    fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn programs(&self) -> &[&'static str] {
        &["bulkhead"]
    }

    fn memory_per_volume(&self) -> Result<Option<f64>> {
        let memory = || cost::memory(self);
        let name = |number: u32| format!("idle-{number}");
        let before = memory()?;
        for number in 0..IDLE {
            self.mount(&name(number), 1, 1)?;
        }
        let grown = memory()?.saturating_sub(before);
        for number in 0..IDLE {
            self.call("Unmount", &json!({ "Name": name(number), "ID": "bench" }))?;
            self.call("Remove", &json!({ "Name": name(number) }))?;
        }
        Ok(Some(grown as f64 / f64::from(IDLE)))
    }
}

impl Drop for Replicated {
    fn drop(&mut self) {
        // As a user would leave it; what does not end goes with the host.
        let _ = self.host.cmd("umount").arg(MOUNT).run();
        let _ = self.call("Unmount", &json!({ "Name": VOLUME, "ID": "bench" }));
        let _ = self.daemon.terminate();
    }
}
