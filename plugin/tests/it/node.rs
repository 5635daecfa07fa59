//! The real daemon in directories of its own, with a pool in a file. Leaves nothing behind, also when a test fails.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bulkhead_cluster::store::{Options, Store, open};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;

use crate::client::Docker;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_bulkhead");

/// One daemon at a time: while one is dead, its FUSE mounts make mkfs.btrfs fail on the whole machine.
static ALONE: Mutex<()> = Mutex::new(());

pub(crate) struct Node {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
    /// How often it has been ready before it was launched for the last time.
    readies: usize,
    extra: Vec<String>,
    name: String,
    /// Where its store is; without one, in its own directory.
    store: Option<String>,
    _alone: Option<MutexGuard<'static, ()>>,
}

/// The right to have daemons on this machine.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock()
}

impl Node {
    /// A daemon that is ready, without a pool.
    pub(crate) fn bare() -> Self {
        Self::with_flags(&[])
    }

    pub(crate) fn with_flags(extra: &[&str]) -> Self {
        let mut node = Self::unstarted("n1", None, extra);
        node._alone = Some(alone());
        node.start();
        node
    }

    /// A node of a cluster, whose daemon is not started yet. The caller has the right to have daemons here.
    pub(crate) fn unstarted(name: &str, store: Option<&str>, extra: &[&str]) -> Self {
        Self {
            // Paths of sockets are short.
            dir: tempfile::Builder::new()
                .prefix("bh")
                .tempdir_in("/tmp")
                .expect("a directory"),
            daemon: None,
            readies: 0,
            extra: extra.iter().map(|flag| (*flag).to_owned()).collect(),
            name: name.to_owned(),
            store: store.map(str::to_owned),
            _alone: None,
        }
    }

    /// A daemon that is ready, with a pool.
    pub(crate) fn new() -> Self {
        Self::with_pool("4G")
    }

    pub(crate) fn with_pool(size: &str) -> Self {
        let node = Self::bare();
        node.add_pool(size);
        node
    }

    pub(crate) fn add_pool(&self, size: &str) {
        let file = self.path("pool.img");
        self.ok(&["pool", "add", &file.display().to_string(), "--size", size]);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn docker(&self) -> Docker {
        Docker::at(&self.path("docker.sock"))
    }

    pub(crate) fn command(&self) -> Command {
        self.command_at("docker.sock")
    }

    /// Gives the daemon a flag from its next start on.
    pub(crate) fn set_flag(&mut self, flag: &str, value: &str) {
        if let Some(at) = self.extra.iter().position(|given| given == flag) {
            self.extra.drain(at..at + 2);
        }
        self.extra.extend([flag.to_owned(), value.to_owned()]);
    }

    /// The daemon's command, with another socket for Docker.
    pub(crate) fn command_at(&self, docker: &str) -> Command {
        let at = |name: &str| self.path(name).display().to_string();
        let mut command = Command::new(BINARY);
        command
            .args([
                "daemon",
                "--config",
                "/dev/null",
                "--node-name",
                &self.name,
                "--docker-api",
                "",
            ])
            .args(["--socket", &at("control.sock"), "--docker-socket", &at(docker)])
            .args([
                "--state-dir",
                &at("state"),
                "--run-dir",
                &at("run"),
                "--mounts-dir",
                &at("mounts"),
            ])
            .args([
                "--store",
                &self
                    .store
                    .clone()
                    .unwrap_or_else(|| format!("sqlite://{}", at("store.db"))),
            ])
            .args(&self.extra)
            .env_remove("BULKHEAD_CONTROL_SOCKET");
        command
    }

    /// `node wipe` with the settings of this node's daemon: how it ended, and what it said.
    pub(crate) fn wipe(&self, extra: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(BINARY);
        command.args(["node", "wipe"]).args(extra);
        // What stands behind `daemon` there.
        let daemon = self.command();
        let mut words = daemon.get_args().skip(1);
        while let (Some(flag), Some(value)) = (words.next(), words.next()) {
            command.arg(flag).arg(value);
        }
        let output = command
            .env_remove("BULKHEAD_CONTROL_SOCKET")
            .output()
            .expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    pub(crate) fn start(&mut self) {
        self.launch();
        self.ready();
    }

    /// Starts the daemon without waiting for it.
    pub(crate) fn launch(&mut self) {
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.path("log"))
            .expect("a log");
        self.readies = self.log().matches("bulkhead is ready").count();
        let daemon = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it starts");
        self.daemon = Some(daemon);
    }

    /// Waits until the daemon that was launched is ready.
    pub(crate) fn ready(&mut self) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.log().matches("bulkhead is ready").count() == self.readies {
            assert!(Instant::now() < end, "not ready in time:\n{}", self.log());
            let daemon = self.daemon.as_mut().expect("it was launched");
            let ended = daemon.try_wait().expect("its state").is_some();
            assert!(!ended, "it ended:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The keeper's process.
    pub(crate) fn keeper(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").id()
    }

    /// The daemon's own process: the keeper's child.
    pub(crate) fn pid(&self) -> u32 {
        children_of(self.keeper())
            .first()
            .copied()
            .expect("the keeper has started it")
    }

    /// kill -9 of the keeper, which the daemon does not survive. Does not wait for the end: threads that hang in the dead
    /// daemon's own volumes hold it up, until the next one aborts these.
    pub(crate) fn kill(&mut self) {
        if let Some(mut keeper) = self.daemon.take() {
            let daemon = children_of(keeper.id()).first().copied();
            keeper.kill().expect("killed");
            let is_dead = |pid: u32| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                stat.rsplit_once(')')
                    .is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
            };
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end
                && !(keeper.try_wait().is_ok_and(|ended| ended.is_some()) && daemon.is_none_or(is_dead))
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::spawn(move || keeper.wait());
        }
    }

    /// kill -9 of the daemon itself, which the keeper starts again.
    pub(crate) fn kill_daemon(&self) {
        if let Some(pid) = children_of(self.keeper()).first() {
            // It may have been between two of them.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }

    /// What it says of itself, once it can be asked.
    pub(crate) fn status(&self) -> Option<Value> {
        let output = self.cli(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until the keeper has started the daemon so often again, and all is served again.
    #[track_caller]
    pub(crate) fn resumed(&self, restarts: u64) {
        let so = || {
            self.status().is_some_and(|status| {
                status["restarts"].as_u64() >= Some(restarts)
                    && status["resuming"].as_array().is_some_and(Vec::is_empty)
            })
        };
        assert!(
            eventually(Duration::from_secs(40), so),
            "{:?}\n{}",
            self.status(),
            self.log()
        );
    }

    /// Ends, and says how; for a daemon that is expected to.
    pub(crate) fn ended(&mut self, limit: Duration) -> Option<i32> {
        let mut daemon = self.daemon.take()?;
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Ok(Some(status)) = daemon.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.daemon = Some(daemon);
        None
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("it runs");
    }

    /// SIGTERM; how it ended, and after how long.
    pub(crate) fn terminate(&mut self) -> (Option<i32>, Duration) {
        let Some(mut daemon) = self.daemon.take() else {
            return (None, Duration::ZERO);
        };
        let start = Instant::now();
        let _ = kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM);
        while start.elapsed() < Duration::from_secs(20) {
            if let Ok(Some(status)) = daemon.try_wait() {
                return (status.code(), start.elapsed());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = daemon.kill();
        let _ = daemon.wait();
        (None, start.elapsed())
    }

    /// Runs the command line.
    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        Command::new(BINARY)
            .args(args)
            .env("BULKHEAD_CONTROL_SOCKET", self.path("control.sock"))
            .output()
            .expect("the command line runs")
    }

    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{args:?}: {out}{err}\n{}", self.log());
        out
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        let output = self.cli(&args);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"))
    }

    /// Exit code and message of a command that fails.
    pub(crate) fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.cli(args);
        (output.status.code().unwrap_or(-1), text(&output.stderr))
    }

    /// Mounts of this machine that have to do with this node.
    pub(crate) fn mounts(&self) -> Vec<String> {
        mentions(Path::new("/proc/self/mountinfo"), self.dir.path())
    }

    /// Mounts of volumes, without the pool's.
    pub(crate) fn volume_mounts(&self) -> Vec<String> {
        let (run, mounts) = (
            self.path("run").display().to_string(),
            self.path("mounts").display().to_string(),
        );
        let of_volume = |line: &String| line.contains(&run) || line.contains(&mounts);
        self.mounts().into_iter().filter(of_volume).collect()
    }

    /// Files behind the loop devices of this machine that lie in this node's directories.
    pub(crate) fn loops(&self) -> Vec<String> {
        let entries = fs::read_dir("/sys/block").expect("sysfs");
        entries
            .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("loop/backing_file")).ok())
            .filter(|file| {
                file.contains(&self.dir.path().display().to_string()) || file.contains(".bulkhead")
            })
            .filter(|file| !file.contains("pool.img"))
            .filter(|file| file.contains(&self.dir.path().display().to_string()))
            .collect()
    }

    /// Entries in a directory of this node.
    pub(crate) fn entries(&self, dir: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(dir)) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect()
    }

    /// Replicas in the pool.
    pub(crate) fn replicas(&self) -> Vec<String> {
        let pools = self.json(&["pool", "list"]);
        let count: u64 = pools
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pool| pool["replicas"].as_u64())
            .sum();
        let mut found = Vec::new();
        for line in fs::read_to_string("/proc/self/mountinfo")
            .unwrap_or_default()
            .lines()
        {
            let Some(target) = line.split(' ').nth(4) else {
                continue;
            };
            let replicas = Path::new(target).join("replicas");
            if target.contains(&self.dir.path().display().to_string()) && replicas.is_dir() {
                let entries = fs::read_dir(replicas).into_iter().flatten();
                found.extend(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()));
            }
        }
        assert_eq!(
            count,
            found.len() as u64,
            "what is shown and what is on disk: {found:?}"
        );
        found
    }

    /// Looks into its embedded store, or changes it, as another process would.
    pub(crate) fn in_store<T>(&self, with: impl AsyncFnOnce(&dyn Store) -> T) -> T {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let options = Options {
                prefix: "bulkhead/bulkhead/".to_owned(),
                ..Options::default()
            };
            let url = format!("sqlite://{}", self.path("store.db").display());
            let store = open(&url, &options).await.expect("the store opens");
            with(&*store).await
        })
    }

    pub(crate) fn children(&self) -> usize {
        children_of(self.pid()).len()
    }

    /// Resident memory of the daemon, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        status_field(self.pid(), "VmRSS:")
    }

    pub(crate) fn threads(&self) -> u64 {
        status_field(self.pid(), "Threads:")
    }

    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the daemon {}\n{}---", self.name, self.log());
        }
        if self.daemon.is_none() && !self.volume_mounts().is_empty() {
            // What a killed daemon left is taken away by the next one.
            if let Ok(daemon) = self.command().stderr(Stdio::null()).spawn() {
                self.daemon = Some(daemon);
                std::thread::sleep(Duration::from_secs(2));
            }
        }
        let _ = self.terminate();
        for _ in 0..10 {
            let mounts = self.mounts();
            if mounts.is_empty() {
                break;
            }
            for target in mounts.iter().rev().filter_map(|line| line.split(' ').nth(4)) {
                let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
            }
        }
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn status_field(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with(field))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}

fn mentions(file: &Path, dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter(|line| line.contains(&dir))
        .map(str::to_owned)
        .collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until something is so; says whether it became so.
pub(crate) fn eventually(limit: Duration, so: impl Fn() -> bool) -> bool {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    so()
}
