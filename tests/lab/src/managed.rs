//! The daemon under test as a managed plugin of a dockerd.
//!
//! It owns the plugin's folder. The plugin itself is dockerd's, which starts, ends and restarts it. It must never kill a
//! process outside of its host.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::Cmd;
use crate::dockerd::Dockerd;
use crate::host::Host;
use crate::{programs, wait};

/// Where the plugin's control socket appears on the host, as config.json says.
pub(crate) const SOCKET: &str = "/var/lib/bulkhead/bulkhead.sock";

/// A plugin that dockerd knows.
#[derive(Debug)]
pub struct ManagedPlugin {
    host: Arc<Host>,
    name: String,
}

impl ManagedPlugin {
    /// Makes the plugin's folder as `make plugin` does, creates the plugin, gives it settings (as `KEY=VALUE`), enables it.
    pub fn install(host: &Arc<Host>, dockerd: &Dockerd, name: &str, settings: &[&str]) -> Result<Self> {
        let folder = host.dir().join("plugin");
        let script = programs::workspace()?.join("rootfs/build.sh");
        Cmd::new(script).arg(programs::bulkhead()?).arg(&folder).run()?;
        // The folder was made outside; inside of the host the machine's files are to be seen at the same place.
        let folder = folder.display().to_string();
        dockerd.docker(["plugin", "create", name, &folder]).run()?;
        if !settings.is_empty() {
            dockerd.docker(["plugin", "set", name]).args(settings).run()?;
        }
        let plugin = Self {
            host: Arc::clone(host),
            name: name.to_owned(),
        };
        plugin.enable(dockerd)?;
        Ok(plugin)
    }

    /// Enables it, and waits until it answers.
    pub fn enable(&self, dockerd: &Dockerd) -> Result<()> {
        dockerd.docker(["plugin", "enable", &self.name]).run()?;
        self.await_ready()
    }

    /// Disables it although volumes are in use.
    pub fn disable(&self, dockerd: &Dockerd) -> Result<()> {
        dockerd
            .docker(["plugin", "disable", "--force", &self.name])
            .run()
            .map(drop)
    }

    /// The command line on the host.
    pub fn cli(&self, line: &str) -> Result<Cmd> {
        let program = programs::bulkhead()?.display().to_string();
        Ok(self.host.cmd(&program).args(["--socket", SOCKET]).words(line))
    }

    /// Waits until the daemon in the plugin answers, as after its restart by dockerd.
    pub fn await_ready(&self) -> Result<()> {
        let ask = self.cli("pool list")?;
        wait::retry("the plugin answers", Duration::from_secs(60), || {
            ask.run().map(drop)
        })
    }

    /// Kills the daemon in the plugin without warning; dockerd starts it again.
    pub fn kill(&self) -> Result<()> {
        let pids = || {
            Ok::<_, anyhow::Error>(
                self.host
                    .cmd("pidof")
                    .arg("bulkhead")
                    .output()?
                    .stdout
                    .trim()
                    .to_owned(),
            )
        };
        let before = pids()?;
        // In the host's process tree this name means this host's daemon and no other.
        self.host
            .cmd("pkill")
            .args(["-KILL", "-x", "bulkhead"])
            .run()
            .context("no daemon runs in the plugin")?;
        wait::until("the plugin is started again", Duration::from_secs(60), || {
            let now = pids()?;
            Ok((!now.is_empty() && now != before).then_some(()))
        })?;
        self.await_ready()
    }
}
