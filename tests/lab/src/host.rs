//! A host: its namespaces, its first process, its end.
//!
//! It owns the host's folder, network, mounts, process tree and control groups. It must never leave any of them behind, and
//! never touch what belongs to the machine or to another host.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{Cmd, kill_group, wait_child};
use crate::leaks;
use crate::programs;
use crate::service::Service;

/// How long a host may take to come up.
const START: Duration = Duration::from_secs(30);

/// How long it may take until nothing is left of a host.
const END: Duration = Duration::from_secs(30);

/// A machine of its own, as far as programs on it can tell.
///
/// Its root file system is the machine's, with what it writes kept in memory. `/run`, `/tmp`, `/var/lib/docker` and
/// `/var/lib/bulkhead` are its own; the latter two lie on the machine's disk.
#[derive(Debug)]
pub struct Host {
    name: String,
    dir: PathBuf,
    /// Stays outside, and clears away when the host has ended.
    guardian: Child,
    /// The host ends when this is closed.
    alive: Option<ChildStdin>,
    /// Its first process, as the machine sees it.
    pid: u32,
}

impl Host {
    /// Starts a host. The name that it gets begins with `label` and is unique on the machine.
    pub fn start(label: &str) -> Result<Arc<Self>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{label}-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let target = programs::target_dir()?;
        let dir = target.join("lab").join(&name);
        let disk = dir.join("disk");
        for part in ["docker", "bulkhead"] {
            fs::create_dir_all(disk.join(part)).with_context(|| format!("cannot make {}", disk.display()))?;
        }
        let init = Cmd::new(programs::host_init()?)
            .arg(&name)
            .arg(&dir)
            .arg(programs::workspace()?)
            .arg(&target)
            .arg(format!("{}/docker:/var/lib/docker", disk.display()))
            .arg(format!("{}/bulkhead:/var/lib/bulkhead", disk.display()));
        let mut command = init.to_command();
        let log = dir.join("init.log");
        let errors = fs::File::create(&log)?;
        let mut guardian = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()?;
        let alive = guardian.stdin.take();
        let mut host = Self {
            name,
            dir,
            guardian,
            alive,
            pid: 0,
        };
        match host.await_ready() {
            Ok(pid) => host.pid = pid,
            Err(error) => {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(error.context(format!("host {} did not start: {said}", host.name)));
            }
        }
        Ok(Arc::new(host))
    }

    /// Its name, which no other host on this machine has.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder on the machine: logs and disks.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its first process, as the machine sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A command on this host.
    pub fn cmd(&self, program: &str) -> Cmd {
        self.enter(Cmd::new(program))
    }

    /// A line for this host's shell.
    pub fn sh(&self, line: &str) -> Cmd {
        self.cmd("sh").args(["-euc", line])
    }

    /// Starts a process that stays, with its output in the host's folder under `name`.
    pub fn spawn(&self, name: &str, cmd: Cmd) -> Result<Service> {
        Service::start(
            &format!("{name} on {}", self.name),
            &self.enter(cmd),
            self.dir.join(format!("{name}.log")),
        )
    }

    /// Where on the machine a path of this host is.
    pub fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// What lies on the host that must not be there when nothing is in use any more.
    pub fn leaks(&self) -> Result<leaks::Census> {
        leaks::Census::take(self)
    }

    fn enter(&self, cmd: Cmd) -> Cmd {
        let pid = self.pid.to_string();
        cmd.behind(["nsenter", "-t", &pid, "-m", "-u", "-i", "-n", "-p", "--"])
    }

    fn await_ready(&mut self) -> Result<u32> {
        let stdout = self
            .guardian
            .stdout
            .take()
            .context("no pipe to the host's first process")?;
        let (send, receive) = channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = send.send(line);
        });
        let line = receive
            .recv_timeout(START)
            .context("its first process says nothing")?;
        match line.trim().strip_prefix("ready ") {
            Some(pid) => Ok(pid.parse()?),
            None => bail!("its first process said {line:?}"),
        }
    }

    fn end(&mut self) -> Result<()> {
        self.alive = None;
        match wait_child(&mut self.guardian, END)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!(
                "{status}: {}",
                fs::read_to_string(self.dir.join("init.log")).unwrap_or_default()
            ),
            None => {
                kill_group(&mut self.guardian);
                bail!("it did not end within {END:?}")
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.dir.exists() {
            if thread::panicking() {
                print_logs(&self.dir);
            }
            if let Err(error) = self.end() {
                // A test that leaves something behind has failed, whatever else it saw.
                #[expect(clippy::panic, reason = "the only way in which a destructor can fail a test")]
                if !thread::panicking() {
                    panic!("host {} left something behind: {error:#}", self.name);
                }
                eprintln!("host {}: {error:#}", self.name);
            }
        }
    }
}

/// A test failed: show the end of each log before the host is gone.
fn print_logs(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
    {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("--- {}", path.display());
        lines[lines.len().saturating_sub(40)..]
            .iter()
            .for_each(|line| eprintln!("{line}"));
    }
}
