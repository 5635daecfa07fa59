//! A whole node: a host with the daemon, a pool and a dockerd.
//!
//! It owns the order in which they start and end. It must never hide which of them a test has stopped: the parts are public.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::bulkhead::Bulkhead;
use crate::command::{Cmd, Output};
use crate::dockerd::Dockerd;
use crate::host::Host;
use crate::leaks::Census;
use crate::{image, programs, wait};

/// The file behind the pool that a node starts with.
pub const POOL: &str = "/var/lib/bulkhead/pool-0.img";
/// The directory of a pool that lies in one.
pub const POOL_DIRECTORY: &str = "/var/lib/bulkhead/pool-0";

/// A node as a user has it after `make up`. The parts end in the order in which they are written here.
#[derive(Debug)]
pub struct Node {
    /// Docker.
    pub dockerd: Dockerd,
    /// The daemon.
    pub bulkhead: Bulkhead,
    /// The host with both.
    pub host: Arc<Host>,
    /// What was on the host when both ran and no volume was there.
    idle: Census,
}

impl Node {
    /// Starts a node with a pool of `pool` (as `10G`), and the image of busybox.
    pub fn start(label: &str, pool: &str) -> Result<Self> {
        let host = Host::start(label)?;
        let bulkhead = Bulkhead::start(&host)?;
        bulkhead.add_pool(POOL, pool)?;
        let dockerd = Dockerd::start(&host)?;
        image::busybox(&dockerd)?;
        Self::assemble(dockerd, bulkhead, &host)
    }

    /// Takes the parts of a node that run already, with no volume in use.
    pub(crate) fn assemble(dockerd: Dockerd, bulkhead: Bulkhead, host: &Arc<Host>) -> Result<Self> {
        Ok(Self {
            dockerd,
            bulkhead,
            idle: host.leaks()?,
            host: Arc::clone(host),
        })
    }

    /// Makes a volume; `options` as in `size=1G fs=xfs`.
    pub fn create(&self, volume: &str, options: &str) -> Result<()> {
        let options = options.split_whitespace().flat_map(|option| ["-o", option]);
        self.dockerd
            .docker(["volume", "create", "-d", "bulkhead"])
            .args(options)
            .arg(volume)
            .run()
            .map(drop)
    }

    /// A shell line in a new container that has the volume at `/data`, and that is removed afterwards.
    pub fn with(&self, volume: &str, image: &str, line: &str) -> Cmd {
        let volume = format!("{volume}:/data");
        self.dockerd.docker([
            "run",
            "--rm",
            "--network=none",
            "-v",
            &volume,
            image,
            "sh",
            "-euc",
            line,
        ])
    }

    /// [`Node::with`] busybox; returns what it printed.
    pub fn sh(&self, volume: &str, line: &str) -> Result<String> {
        self.with(volume, image::BUSYBOX, line).run()
    }

    /// [`Node::sh`] whatever its status.
    pub fn try_sh(&self, volume: &str, line: &str) -> Result<Output> {
        self.with(volume, image::BUSYBOX, line).output()
    }

    /// What `docker volume inspect` shows as the volume's status.
    pub fn status(&self, volume: &str) -> Result<Value> {
        let text = self
            .dockerd
            .docker(["volume", "inspect", volume, "--format", "{{json .Status}}"])
            .run()?;
        serde_json::from_str(&text).with_context(|| format!("the status of {volume} is {text}"))
    }

    /// Bytes in use in the pool's file system, once it is at rest.
    pub fn pool_used(&self) -> Result<u64> {
        let find = format!("losetup --noheadings --output NAME --associated {POOL}");
        let line = format!(
            "mount=$(findmnt --noheadings --output TARGET --first-only $({find})); sync -f $mount; df -B1 --output=used $mount"
        );
        // The kernel frees the blocks of a removed file a moment later: ask until the answer stays.
        let mut last = None;
        wait::until("the pool is at rest", Duration::from_secs(20), || {
            let answer = self.host.sh(&line).run()?;
            let used: u64 = answer
                .lines()
                .last()
                .unwrap_or_default()
                .trim()
                .parse()
                .with_context(|| format!("df said {answer}"))?;
            let same = last.replace(used) == Some(used);
            std::thread::sleep(Duration::from_millis(300));
            Ok(same.then_some(used))
        })
    }

    /// Fails if anything is on the host that was not there when the node started.
    pub fn assert_idle(&self) -> Result<()> {
        self.idle.await_same(&self.host, Duration::from_secs(15))
    }
}

/// Held by a test that needs the machine for itself, across all test programs: waits until no other holds it.
pub fn alone() -> Result<Flock<File>> {
    let dir = programs::target_dir()?.join("lab");
    std::fs::create_dir_all(&dir)?;
    let file = File::create(dir.join("alone.lock"))?;
    let mut file = Some(file);
    wait::until(
        "no other test needs the machine for itself",
        Duration::from_secs(900),
        || {
            let Some(unlocked) = file.take() else {
                return Ok(None);
            };
            match Flock::lock(unlocked, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => Ok(Some(lock)),
                Err((unlocked, Errno::EAGAIN)) => {
                    file = Some(unlocked);
                    Ok(None)
                }
                Err((_, error)) => Err(error).context("cannot lock alone.lock"),
            }
        },
    )
}
