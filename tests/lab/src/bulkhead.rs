//! The daemon under test on a host.
//!
//! It owns the daemon's process, unless that is dockerd's. It must never reach into the daemon's files: what a test wants to know it asks as a user
//! would, through the command line or through Docker.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::command::Cmd;
use crate::host::Host;
use crate::managed::{self, ManagedPlugin};
use crate::programs;
use crate::service::Service;
use crate::wait;

/// How long the daemon may take until it is ready.
const START: Duration = Duration::from_secs(30);

/// Where a host has a program of its own, on its disk.
const OWN: &str = "/var/lib/store/bin/bulkhead";

/// Gives a host a copy of the program under test, which can be replaced; returns where the host sees it.
pub fn install(host: &Host) -> Result<PathBuf> {
    let path = host.outside(OWN);
    let dir = path.parent().context("it is in no folder")?;
    fs::create_dir_all(dir)?;
    let from = programs::bulkhead()?;
    fs::copy(&from, &path).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(OWN.into())
}

/// A running `bulkhead daemon`.
#[derive(Debug)]
pub struct Bulkhead {
    host: Arc<Host>,
    program: PathBuf,
    way: Way,
}

/// Who starts it.
#[derive(Debug)]
enum Way {
    /// The test.
    Process {
        options: Vec<String>,
        service: Service,
        starts: usize,
    },
    /// dockerd, as a managed plugin.
    Plugin(ManagedPlugin),
}

impl Bulkhead {
    /// Starts the daemon with its defaults and waits for its line `bulkhead is ready`.
    pub fn start(host: &Arc<Host>) -> Result<Self> {
        Self::start_with(host, &[])
    }

    /// Starts the daemon with further options.
    pub fn start_with(host: &Arc<Host>, options: &[&str]) -> Result<Self> {
        Self::start_from(host, programs::bulkhead()?, options)
    }

    /// Starts the daemon from this program on the host.
    pub fn start_from(host: &Arc<Host>, program: PathBuf, options: &[&str]) -> Result<Self> {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let service = Self::launch(host, &program, &options)?;
        let mut daemon = Self {
            host: Arc::clone(host),
            program,
            way: Way::Process {
                options,
                service,
                starts: 1,
            },
        };
        daemon.await_ready()?;
        Ok(daemon)
    }

    /// The daemon in a managed plugin, which starts and ends with dockerd.
    pub fn of_plugin(host: &Arc<Host>, plugin: ManagedPlugin) -> Result<Self> {
        Ok(Self {
            host: Arc::clone(host),
            program: programs::bulkhead()?,
            way: Way::Plugin(plugin),
        })
    }

    /// The program, as the host sees it.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The command line, as a user of this host would run it.
    pub fn cli(&self, line: &str) -> Cmd {
        let program = self.host.cmd(&self.program.to_string_lossy());
        match self.way {
            Way::Process { .. } => program.words(line),
            Way::Plugin(_) => program.args(["--socket", managed::SOCKET]).words(line),
        }
    }

    /// Runs a command with `--json` and returns its answer.
    pub fn json(&self, line: &str) -> Result<Value> {
        let text = self.cli(line).arg("--json").run()?;
        serde_json::from_str(&text).with_context(|| format!("`bulkhead {line} --json` said {text}"))
    }

    /// Adds a pool: a file on the host's disk behind a loop device.
    pub fn add_pool(&self, file: &str, size: &str) -> Result<()> {
        // The disk below is what this machine has; a fast one is what is played.
        let line = format!("pool add {file} --size {size} --priority high");
        self.cli(&line).within(Duration::from_secs(60)).run().map(drop)
    }

    /// Adds a pool: a directory of the host's disk, which is made.
    pub fn add_directory_pool(&self, directory: &str) -> Result<()> {
        self.host.cmd("mkdir").args(["-p", directory]).run()?;
        let line = format!("pool add {directory} --priority high");
        self.cli(&line).within(Duration::from_secs(60)).run().map(drop)
    }

    /// The daemon's process, if the test has started it.
    pub fn service(&mut self) -> Result<&mut Service> {
        match &mut self.way {
            Way::Process { service, .. } => Ok(service),
            Way::Plugin(_) => bail!("the daemon in a managed plugin is dockerd's process"),
        }
    }

    /// The process that serves the volumes: the keeper's child, or the process itself where there is no keeper. `None` while
    /// the keeper has none.
    pub fn daemon(&mut self) -> Result<Option<Pid>> {
        let keeper = self.service()?.pid();
        let child = child_of(keeper);
        // A daemon that has no keeper starts programs, such as mkfs, but not itself.
        Ok(child.or_else(|| (!is_keeper(keeper)).then_some(keeper)))
    }

    /// Whether the process that the test has started is a keeper.
    pub fn is_kept(&mut self) -> Result<bool> {
        let pid = self.service()?.pid();
        Ok(self.daemon()? != Some(pid))
    }

    /// Kills what serves the volumes without warning, and returns at once; the keeper, if there is one, lives.
    pub fn kill_daemon(&mut self) -> Result<Pid> {
        let daemon = wait::until("there is a daemon to kill", START, || self.daemon())?;
        kill(daemon, Signal::SIGKILL).with_context(|| format!("cannot kill process {daemon}"))?;
        Ok(daemon)
    }

    /// Whether its process runs; dockerd sees to it that one in a plugin does.
    pub fn is_running(&mut self) -> bool {
        match &mut self.way {
            Way::Process { service, .. } => service.is_running(),
            Way::Plugin(_) => true,
        }
    }

    /// Kills it without warning. One in a plugin has been started again when this returns.
    pub fn kill(&mut self) -> Result<()> {
        match &mut self.way {
            Way::Process { service, .. } => service.kill(),
            Way::Plugin(plugin) => plugin.kill(),
        }
    }

    /// Ends it as an administrator would.
    pub fn terminate(&mut self) -> Result<()> {
        let service = self.service()?;
        let status = service.terminate(Duration::from_secs(30))?;
        anyhow::ensure!(
            status.success(),
            "bulkhead ended with {status} after SIGTERM:\n{}",
            service.log_tail(30)
        );
        Ok(())
    }

    /// Sends a signal to the daemon itself, which is the child of the process that was started: its keeper.
    pub fn signal_daemon(&mut self, signal: Signal) -> Result<()> {
        let keeper = self.service()?.pid();
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
        let child = children.unwrap_or_default();
        let child = child.split_whitespace().next().and_then(|pid| pid.parse().ok());
        let daemon = Pid::from_raw(child.with_context(|| format!("process {keeper} has no daemon"))?);
        kill(daemon, signal).with_context(|| format!("cannot send {signal} to {daemon}"))
    }

    /// Starts it again after [`Bulkhead::kill`] or [`Bulkhead::terminate`].
    pub fn restart(&mut self) -> Result<()> {
        match &mut self.way {
            Way::Process {
                options,
                service,
                starts,
            } => {
                // Its keeper may have started it again, too.
                *starts = ready_lines(&self.host) + 1;
                *service = Self::launch(&self.host, &self.program, options)?;
            }
            Way::Plugin(_) => bail!("dockerd starts the daemon in a managed plugin"),
        }
        self.await_ready()
    }

    fn launch(host: &Host, program: &PathBuf, options: &[String]) -> Result<Service> {
        host.spawn("bulkhead", Cmd::new(program).arg("daemon").args(options))
    }

    fn await_ready(&mut self) -> Result<()> {
        if let Way::Process { service, starts, .. } = &mut self.way {
            service.until("bulkhead is ready", START, || {
                Ok((ready_lines(&self.host) >= *starts).then_some(()))
            })?;
        }
        let ask = self.cli("pool list");
        wait::retry(
            "the daemon answers the command line",
            Duration::from_secs(10),
            || ask.run().map(drop),
        )
    }
}

/// The child of a keeper that is a daemon.
fn child_of(keeper: Pid) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
    let mut children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok().map(Pid::from_raw));
    children.find(|&pid| is_daemon(pid))
}

/// Whether a process is a daemon that a keeper has started, and lives.
fn is_daemon(pid: Pid) -> bool {
    // Nobody else hands that variable down, and a dead process has no environment.
    let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    variables
        .split(|&byte| byte == 0)
        .any(|one| one.starts_with(b"BULKHEAD_KEEPER="))
}

/// Whether a process is a keeper: it has one thread, a daemon never.
fn is_keeper(pid: Pid) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() == 1)
}

/// How often a daemon on this host has been ready: each start appends one such line to the same log.
fn ready_lines(host: &Host) -> usize {
    let text = fs::read(host.dir().join("bulkhead.log")).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .matches("bulkhead is ready")
        .count()
}

impl Drop for Bulkhead {
    fn drop(&mut self) {
        if let Way::Process { service, .. } = &mut self.way {
            let _ = service.terminate(Duration::from_secs(20));
        }
    }
}
