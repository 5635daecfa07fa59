//! The managed plugin in a registry, from which a dockerd installs it as from any other.
//!
//! It owns the folder that the registries of all hosts hand out, and each registry's process. It must never be reached by
//! another host: each has its own, on an address that every dockerd takes without TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::Cmd;
use crate::host::Host;
use crate::programs;
use crate::service::Service;

/// Where each host finds its registry.
pub const ADDRESS: &str = "127.0.0.1:5000";
/// The plugin's name in it.
pub const PLUGIN: &str = "127.0.0.1:5000/lab/bulkhead:dev";
/// The file in the folder that tells which of the others is the manifest.
pub const MANIFEST: &str = "manifest";
/// What the manifest is.
pub const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What a registry hands out.
#[derive(Debug)]
pub struct Registry {
    folder: TempDir,
}

impl Registry {
    /// Makes the plugin as `make plugin` does, and takes it apart as `docker plugin push` would.
    pub fn new() -> Result<Self> {
        let dir = programs::target_dir()?.join("lab");
        fs::create_dir_all(&dir)?;
        let folder = TempDir::with_prefix_in("registry-", dir)?;
        let path = |name: &str| folder.path().join(name);
        let plugin = path("plugin");
        let program = path("program");
        // The registry's work grows with it, and nobody looks for its symbols.
        Cmd::new("strip")
            .arg("-o")
            .arg(&program)
            .arg(programs::bulkhead()?)
            .run()?;
        let script = programs::workspace()?.join("rootfs/build.sh");
        Cmd::new(script).arg(&program).arg(&plugin).run()?;
        let layer = path("layer.tar");
        Cmd::new("tar")
            .arg("--create")
            .arg("--file")
            .arg(&layer)
            .arg("--directory")
            .arg(plugin.join("rootfs"))
            .words("--owner=0 --group=0 .")
            .run()?;
        let mut config: Value = serde_json::from_slice(&fs::read(plugin.join("config.json"))?)?;
        fs::remove_dir_all(&plugin)?;
        let layer = Blob::put(folder.path(), &layer)?;
        config["rootfs"] = json!({ "type": "layers", "diff_ids": [layer.digest] });
        let write = |value: &Value| {
            let file = path("written");
            fs::write(&file, value.to_string())?;
            Blob::put(folder.path(), &file)
        };
        let config = write(&config)?;
        let part =
            |kind: &str, blob: &Blob| json!({ "mediaType": kind, "size": blob.size, "digest": blob.digest });
        let manifest = write(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": part("application/vnd.docker.plugin.v1+json", &config),
            "layers": [part("application/vnd.docker.image.rootfs.diff.tar.gzip", &layer)],
        }))?;
        fs::write(path(MANIFEST), manifest.digest)?;
        Ok(Self { folder })
    }

    /// Starts a host's registry, at [`ADDRESS`] there.
    pub fn serve(&self, host: &Host) -> Result<Service> {
        let program = programs::own("bulkhead-lab-registry")?;
        let mut service = host.spawn("registry", Cmd::new(program).arg(self.folder.path()))?;
        let ask = host.cmd("bash").args(["-c", ": </dev/tcp/127.0.0.1/5000"]);
        service.until("the registry listens", Duration::from_secs(10), || {
            Ok(ask.output()?.status.success().then_some(()))
        })?;
        Ok(service)
    }
}

/// A file in the folder, named by its digest.
struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn put(folder: &Path, file: &PathBuf) -> Result<Self> {
        let said = Cmd::new("sha256sum").arg(file).run()?;
        let sum = said.split_whitespace().next().context("no checksum")?;
        let digest = format!("sha256:{sum}");
        let size = fs::metadata(file)?.len();
        fs::rename(file, folder.join(&digest))?;
        Ok(Self { digest, size })
    }
}
