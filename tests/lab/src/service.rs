//! A long-running process on a host.
//!
//! It owns the process from its start to its end and the file with what it prints. Dropping it kills it. It must never
//! signal a process that it did not start.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{Cmd, kill_group, wait_child};
use crate::wait;

/// A process that runs until it is told not to.
#[derive(Debug)]
pub struct Service {
    name: String,
    /// `nsenter`, which waits for the process and ends as it did.
    child: Child,
    pid: Pid,
    log: PathBuf,
}

impl Service {
    /// Starts `cmd`, which is an `nsenter` with `--fork` semantics: its only child is the process. Output is appended to `log`.
    pub(crate) fn start(name: &str, cmd: &Cmd, log: PathBuf) -> Result<Self> {
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("cannot open {}", log.display()))?;
        let mut command = cmd.to_command();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let mut child = command.spawn().with_context(|| format!("{name} did not start"))?;
        let id = child.id();
        let found = wait::until("a process appears", Duration::from_secs(10), || {
            if child.try_wait()?.is_some() {
                return Ok(Some(None));
            }
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
            let Some(pid) = children.split_whitespace().next() else {
                return Ok(None);
            };
            // Between its fork and its exec the process is still an nsenter.
            let program = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).ok();
            Ok(if program(pid) == program(&id.to_string()) {
                None
            } else {
                pid.parse().ok().map(Some)
            })
        });
        match found {
            Ok(Some(pid)) => Ok(Self {
                name: name.to_owned(),
                child,
                pid: Pid::from_raw(pid),
                log,
            }),
            Ok(None) => bail!("{name} ended at once:\n{}", tail(&log, 30)),
            Err(error) => {
                kill_group(&mut child);
                Err(error.context(format!("{name} did not start")))
            }
        }
    }

    /// The process's id as the machine sees it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.wake();
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match kill(self.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot send {signal} to {}", self.name)),
        }
    }

    /// Ends it as a power cut would, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        if self.is_running() {
            self.signal(Signal::SIGKILL)?;
            self.wait(Duration::from_secs(20))?;
        }
        Ok(())
    }

    /// Asks it to end with SIGTERM and waits for that; the status tells how it went.
    pub fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if self.is_running() {
            self.signal(Signal::SIGTERM)?;
        }
        self.wait(deadline)
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let _ = wait::until("it has ended", deadline, || {
            self.wake();
            Ok(state(self.pid).is_none_or(|state| state == b'Z').then_some(()))
        });
        self.wake();
        match wait_child(&mut self.child, deadline)? {
            Some(status) => Ok(status),
            None => bail!(
                "{} still runs after {deadline:?}:\n{}",
                self.name,
                self.log_tail(30)
            ),
        }
    }

    /// `nsenter` stops itself when its child is stopped, and then would not tell of the child's end.
    fn wake(&self) {
        let nsenter = Pid::from_raw(self.child.id().cast_signed());
        if state(nsenter) == Some(b'T') && state(self.pid) != Some(b'T') {
            let _ = kill(nsenter, Signal::SIGCONT);
        }
    }

    /// All it has printed.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last `lines` lines of what it printed.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// Asks `condition` until it gives a value, and gives up early when the process ends; then its last words are in the error.
    pub fn until<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let outcome = wait::until(what, deadline, || {
            if let Some(status) = self.child.try_wait()? {
                let signal = status
                    .signal()
                    .map(|n| format!(" (signal {n})"))
                    .unwrap_or_default();
                bail!("{} ended with {status}{signal} before {what}", self.name);
            }
            condition()
        });
        outcome.with_context(|| format!("log of {}:\n{}", self.name, self.log_tail(30)))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.kill();
        kill_group(&mut self.child);
    }
}

/// What a process does, as the letter in `/proc/PID/stat`.
fn state(pid: Pid) -> Option<u8> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.bytes().next()
}

fn tail(path: &PathBuf, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
