//! A host: its namespaces, its first process, its end.
//!
//! It owns the host's folder, network, mounts, process tree and control groups. It must never leave any of them behind, and
//! never touch what belongs to the machine or to another host.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{Cmd, kill_group, wait_child};
use crate::leaks;
use crate::plan::Plan;
use crate::programs;
use crate::service::Service;

/// How long a host may take to come up.
const START: Duration = Duration::from_secs(30);

/// How long it may take until nothing is left of a host, or of what ran on it.
const END: Duration = Duration::from_secs(60);

/// How often a wait looks after what could hold it up.
const TURN: Duration = Duration::from_millis(100);

/// A machine of its own, as far as programs on it can tell.
///
/// Its root file system is the machine's, with what it writes kept in memory. `/run`, `/tmp`, `/var/lib/docker`,
/// `/var/lib/bulkhead` and `/var/lib/store` are its own; the latter three lie on the machine's disk and outlive its power.
#[derive(Debug)]
pub struct Host {
    name: String,
    hostname: String,
    dir: PathBuf,
    /// Stays outside, and clears away when the host has ended.
    guardian: Mutex<Guardian>,
    /// Its first process, as the machine sees it; 0 while it is off.
    pid: AtomicU32,
    /// What undoes the cuts of its network that are in place.
    pub(crate) cuts: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Guardian {
    child: Child,
    /// The host ends when this is closed.
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Host {
    /// Starts a host. The name that it gets begins with `label` and is unique on the machine.
    pub fn start(label: &str) -> Result<Arc<Self>> {
        Self::start_with(label, None, "")
    }

    /// Starts a host that calls itself `hostname`, or by its name, and that knows further names from `hosts`.
    pub fn start_with(label: &str, hostname: Option<&str>, hosts: &str) -> Result<Arc<Self>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{label}-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let hostname = hostname.unwrap_or(&name).to_owned();
        let target = programs::target_dir()?;
        let dir = target.join("lab").join(&name);
        let mut binds: Vec<_> = [programs::workspace()?.to_owned(), target]
            .into_iter()
            .map(|path| (path.clone(), path))
            .collect();
        for part in ["docker", "bulkhead", "store"] {
            let source = dir.join("disk").join(part);
            fs::create_dir_all(&source).with_context(|| format!("cannot make {}", source.display()))?;
            binds.push((source, Path::new("/var/lib").join(part)));
        }
        let plan = Plan {
            name: name.clone(),
            hostname: hostname.clone(),
            hosts: if hosts.is_empty() {
                format!("127.0.0.1 {hostname}\n")
            } else {
                hosts.to_owned()
            },
            binds,
        };
        plan.write(&dir)?;
        let mut command = Cmd::new(programs::own("bulkhead-lab-init")?)
            .arg(&dir)
            .to_command();
        let mut guardian = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.join("init.log"))?)
            .spawn()?;
        let stdout = guardian.stdout.take().context("no pipe to the host's guardian")?;
        let (send, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let host = Self {
            name,
            hostname,
            dir,
            guardian: Mutex::new(Guardian {
                orders: guardian.stdin.take(),
                child: guardian,
                answers,
            }),
            pid: AtomicU32::new(0),
            cuts: Mutex::default(),
        };
        host.power_on()?;
        Ok(Arc::new(host))
    }

    /// Starts the host again after [`Host::power_off`]: nothing runs on it yet, and its `/run` and memory are empty.
    pub fn power_on(&self) -> Result<()> {
        let answer = self
            .order("on", START)
            .with_context(|| format!("host {} did not start", self.name))?;
        let pid = answer
            .strip_prefix("ready ")
            .with_context(|| format!("host {}: its guardian said {answer:?}", self.name))?;
        self.pid.store(pid.parse()?, Ordering::Relaxed);
        lock(&self.cuts).clear();
        Ok(())
    }

    /// Ends all that runs on it at once, as a power cut does. What lies on its disks stays.
    pub fn power_off(&self) -> Result<()> {
        let answer = self.order("off", END)?;
        ensure!(
            answer == "off",
            "host {}: its guardian said {answer:?}",
            self.name
        );
        self.pid.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it has power.
    pub fn is_on(&self) -> bool {
        self.pid() != 0
    }

    /// What it calls itself.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// Its name, which no other host on this machine has.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder on the machine: logs and disks.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its first process, as the machine sees it; 0 while it has no power.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
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
        PathBuf::from(format!("/proc/{}/root{path}", self.pid()))
    }

    /// What lies on the host that must not be there when nothing is in use any more.
    pub fn leaks(&self) -> Result<leaks::Census> {
        leaks::Census::take(self)
    }

    /// Lets a command run on this host instead of on the machine.
    pub fn enter(&self, cmd: Cmd) -> Cmd {
        let pid = self.pid().to_string();
        cmd.behind(["nsenter", "-t", &pid, "-m", "-u", "-i", "-n", "-p", "--"])
    }

    /// Tells the guardian to do something, and waits for its answer.
    fn order(&self, order: &str, deadline: Duration) -> Result<String> {
        let mut guardian = lock(&self.guardian);
        let outcome = (|| {
            let orders = guardian.orders.as_mut().context("its guardian has ended")?;
            writeln!(orders, "{order}")?;
            let begin = Instant::now();
            loop {
                match guardian.answers.recv_timeout(TURN) {
                    Ok(answer) => return Ok(answer),
                    Err(RecvTimeoutError::Timeout) if begin.elapsed() < deadline => self.wake_waiters(),
                    Err(error) => {
                        return Err(error)
                            .with_context(|| format!("its guardian does not answer to {order:?}"));
                    }
                }
            }
        })();
        outcome.with_context(|| fs::read_to_string(self.dir.join("init.log")).unwrap_or_default())
    }

    /// An `nsenter` stops itself together with the process that it waits for (after a SIGSTOP), and the kernel does not call
    /// the host's process tree ended before it has learned of that process's end.
    fn wake_waiters(&self) {
        let me = format!("/proc/{}/task", std::process::id());
        for task in fs::read_dir(me).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace() {
                let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
                let ours = format!("nsenter\0-t\0{}\0", self.pid());
                let inside =
                    fs::read_to_string(format!("/proc/{child}/task/{child}/children")).unwrap_or_default();
                let over = inside.split_whitespace().any(is_over);
                if line.starts_with(ours.as_bytes())
                    && over
                    && let Ok(pid) = child.parse()
                {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
                }
            }
        }
    }

    fn end(&self) -> Result<()> {
        let mut guardian = lock(&self.guardian);
        guardian.orders = None;
        let begin = Instant::now();
        let ended = loop {
            let ended = wait_child(&mut guardian.child, TURN)?;
            if ended.is_some() || begin.elapsed() >= END {
                break ended;
            }
            self.wake_waiters();
        };
        match ended {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!(
                "{status}: {}",
                fs::read_to_string(self.dir.join("init.log")).unwrap_or_default()
            ),
            None => {
                kill_group(&mut guardian.child);
                bail!("it did not end within {END:?}")
            }
        }
    }
}

/// Whether a process has ended, and only its parent does not know yet.
fn is_over(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// A lock whose holder panicked still guards what it did.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            .for_each(|line| eprintln!("{}", line.chars().take(300).collect::<String>()));
    }
}
