//! The cluster's metadata store, a member on each host: real etcd or real Consul.
//!
//! It owns the servers' processes. Their data lies on the hosts' disks and outlives their power. It must never be a client of
//! the store on behalf of the daemon under test.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::command::Cmd;
use crate::host::Host;
use crate::programs;
use crate::service::Service;
use crate::switch::address;
use crate::wait;

/// How long the members may take to agree on a leader.
const READY: Duration = Duration::from_secs(60);

/// Which store a cluster uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// etcd.
    Etcd,
    /// Consul.
    Consul,
}

impl FromStr for StoreKind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "etcd" => Ok(Self::Etcd),
            "consul" => Ok(Self::Consul),
            other => bail!("there is no store {other:?}: write etcd or consul"),
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Etcd => "etcd",
            Self::Consul => "consul",
        })
    }
}

impl StoreKind {
    /// The kind that `$STORE` names; etcd if it names none.
    pub fn from_env() -> Result<Self> {
        std::env::var("STORE").map_or(Ok(Self::Etcd), |text| text.parse())
    }

    /// What `--store` of the daemon takes, for members on the hosts 1 to `count`.
    pub fn url(self, count: u8) -> String {
        let port = match self {
            Self::Etcd => 2379,
            Self::Consul => 8500,
        };
        let all: Vec<_> = (1..=count).map(|n| format!("{}:{port}", address(n))).collect();
        format!("{self}://{}", all.join(","))
    }
}

/// One member of the store.
#[derive(Debug)]
pub struct StoreMember {
    host: Arc<Host>,
    kind: StoreKind,
    number: u8,
    command: Cmd,
    service: Service,
}

impl StoreMember {
    /// Starts the member on the host with this number, of `count`; it is not ready yet.
    pub fn start(host: &Arc<Host>, kind: StoreKind, number: u8, count: u8) -> Result<Self> {
        let command = match kind {
            StoreKind::Etcd => etcd(number, count),
            StoreKind::Consul => consul(number, count)?,
        };
        Ok(Self {
            service: host.spawn("store", command.clone())?,
            host: Arc::clone(host),
            kind,
            number,
            command,
        })
    }

    /// Waits until it answers, which takes a leader and a majority.
    pub fn await_ready(&mut self) -> Result<()> {
        let at = address(self.number);
        let ask = match self.kind {
            StoreKind::Etcd => Cmd::new("etcdctl")
                .words(&format!(
                    "--endpoints http://{at}:2379 --command-timeout 2s get ready"
                ))
                .env("ETCDCTL_API", "3"),
            StoreKind::Consul => {
                consul_cmd()?.words(&format!("kv get -http-addr=http://{at}:8500 -keys ready"))
            }
        };
        let ask = self.host.enter(ask).within(Duration::from_secs(10));
        self.service.until("the store answers", READY, || {
            Ok(ask
                .output()
                .is_ok_and(|answer| answer.status.success())
                .then_some(()))
        })
    }

    /// Kills it without warning.
    pub fn kill(&mut self) -> Result<()> {
        self.service.kill()
    }

    /// Starts it again after its end; it is not ready yet.
    pub fn restart(&mut self) -> Result<()> {
        self.service.kill()?;
        self.service = self.host.spawn("store", self.command.clone())?;
        Ok(())
    }

    /// Stops it in its tracks (SIGSTOP), or lets it go on.
    pub fn pause(&self, paused: bool) -> Result<()> {
        self.service
            .signal(if paused { Signal::SIGSTOP } else { Signal::SIGCONT })
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> bool {
        self.service.is_running()
    }
}

/// The number of the host whose member leads, as seen from `host`.
pub fn leader(kind: StoreKind, host: &Host, count: u8) -> Result<u8> {
    wait::until("the store has a leader", READY, || match kind {
        StoreKind::Etcd => etcd_leader(host, count),
        StoreKind::Consul => consul_leader(host, count),
    })
}

fn etcd(number: u8, count: u8) -> Cmd {
    let at = address(number);
    let all: Vec<_> = (1..=count)
        .map(|n| format!("n{n}=http://{}:2380", address(n)))
        .collect();
    Cmd::new("etcd")
        .words(&format!(
            "--name n{number} --data-dir /var/lib/store/etcd --listen-peer-urls http://{at}:2380 \
             --listen-client-urls http://{at}:2379,http://127.0.0.1:2379 --advertise-client-urls http://{at}:2379 \
             --initial-advertise-peer-urls http://{at}:2380 --log-level warn --logger zap"
        ))
        .arg(format!("--initial-cluster={}", all.join(",")))
}

fn consul(number: u8, count: u8) -> Result<Cmd> {
    let at = address(number);
    let config = json!({
        "server": true,
        "bootstrap_expect": count,
        "node_name": format!("n{number}"),
        "data_dir": "/var/lib/store/consul",
        "bind_addr": at,
        "client_addr": format!("{at} 127.0.0.1"),
        "disable_host_node_id": true,
        "disable_update_check": true,
        "performance": { "raft_multiplier": 1 },
        // A server that was killed keeps its vote: else it comes back without one, and the next loss is one too many.
        "autopilot": { "cleanup_dead_servers": false, "server_stabilization_time": "1s" },
        "ports": { "dns": -1, "grpc": -1 },
        "retry_join": (1..=count).map(address).collect::<Vec<_>>(),
        "retry_interval": "1s",
        "log_level": "warn",
    });
    Ok(consul_cmd()?.words("agent -hcl").arg(config.to_string()))
}

/// The Consul program; Debian 12 has none, so it may be fetched.
fn consul_cmd() -> Result<Cmd> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let fetch = || {
        let script = programs::workspace()?.join("tests/servers/fetch-consul.sh");
        let path = Cmd::new("bash")
            .arg(script)
            .within(Duration::from_secs(300))
            .run()?;
        anyhow::Ok(PathBuf::from(path))
    };
    PROGRAM
        .get_or_init(|| fetch().map_err(|error| format!("{error:#}")))
        .clone()
        .map(Cmd::new)
        .map_err(|error| anyhow!("there is no Consul: {error}"))
}

fn etcd_leader(host: &Host, count: u8) -> Result<Option<u8>> {
    for number in 1..=count {
        let line = format!(
            "--endpoints http://{}:2379 --command-timeout 2s endpoint status -w json",
            address(number)
        );
        let ask = Cmd::new("etcdctl").words(&line).env("ETCDCTL_API", "3");
        let answer = host.enter(ask).within(Duration::from_secs(5)).output();
        let Ok(answer) = answer else { continue };
        let Ok(all) = serde_json::from_str::<Value>(&answer.stdout) else {
            continue;
        };
        let status = &all[0]["Status"];
        if status["leader"] != 0
            && !status["leader"].is_null()
            && status["leader"] == status["header"]["member_id"]
        {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

fn consul_leader(host: &Host, count: u8) -> Result<Option<u8>> {
    for number in 1..=count {
        let line = format!(
            "operator raft list-peers -stale=true -http-addr=http://{}:8500",
            address(number)
        );
        let answer = host
            .enter(consul_cmd()?.words(&line))
            .within(Duration::from_secs(5))
            .output();
        let Ok(answer) = answer else { continue };
        let name = answer
            .stdout
            .lines()
            .find(|line| line.split_whitespace().nth(3) == Some("leader"))
            .and_then(|line| line.split_whitespace().next()?.strip_prefix('n')?.parse().ok());
        if name.is_some() {
            return Ok(name);
        }
    }
    Ok(None)
}

impl StoreKind {
    /// Why a machine cannot run it, found out before anything is started.
    pub fn prepare(self) -> Result<()> {
        match self {
            Self::Etcd => Cmd::new("etcd")
                .arg("--version")
                .run()
                .context("etcd is missing: apt-get install etcd-server etcd-client")
                .map(drop),
            Self::Consul => consul_cmd().map(drop),
        }
    }
}
