//! The daemon's configuration: one struct, filled from defaults, a file, the environment and flags, in this order, and
//! checked once with every fault reported. Owns the settings and their meaning; acts on none of them.

pub mod address;
mod docs;
mod layers;
mod values;

use std::path::PathBuf;

use bulkhead_cluster::store;
use serde::{Deserialize, Serialize};

pub use docs::describe;
pub(crate) use layers::insert;
pub use layers::{ConfigError, Fault, Flags, Layer, flag, load, settings, variable};
pub use values::{Hidden, Labels, Percent, SecretError, Span, Switch};

/// Where the file is looked for unless `--config` or BULKHEAD_CONFIG names another; it need not exist.
pub const DEFAULT_FILE: &str = "/etc/bulkhead/bulkhead.toml";

/// All settings. docs/configuration.md describes each; a test keeps the two together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of this node; empty takes the host's name.
    pub node_name: String,
    /// Name of the cluster.
    pub cluster: String,
    /// What must survive a reboot: identity, pools, the embedded store.
    pub state_dir: PathBuf,
    /// What need not: FUSE mounts.
    pub run_dir: PathBuf,
    /// Below it the volumes' file systems are mounted. In a managed plugin it lies below `propagatedMount`.
    pub mounts_dir: PathBuf,
    /// Socket of the command line.
    pub control_socket: PathBuf,
    /// The metadata store.
    pub store: String,
    /// Certificates of the authority that signed the store's certificate.
    pub store_ca: PathBuf,
    /// This node's certificate for the store.
    pub store_cert: PathBuf,
    /// The key of that certificate.
    pub store_key: PathBuf,
    /// User of etcd.
    pub store_user: String,
    /// Password of that user.
    pub store_password: Hidden,
    /// ACL token of Consul.
    pub store_token: Hidden,
    /// Labels of this node; `zone` and `rack` steer where replicas go.
    pub labels: Labels,
    /// Where other nodes reach this node's replicas.
    pub data_address: String,
    /// How long this node counts as living when it is not heard of.
    pub lease: Span,
    /// How long a replica's node may be away before the replica is made anew elsewhere.
    pub rebuild_after: Span,
    /// The API over the network.
    pub api: Network,
    /// Docker.
    pub docker: Docker,
    /// Pools.
    pub pool: Pool,
    /// Log.
    pub log: Log,
    /// Deadlines.
    pub timeout: Timeouts,
}

/// Settings of the API over the network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Where it is served with TLS: `HOST:PORT`, `:PORT` or `HOST`; empty: nowhere.
    pub listen: String,
    /// Certificate, and those that lead to its authority.
    pub cert: PathBuf,
    /// The key of that certificate.
    pub key: PathBuf,
}

/// Settings about Docker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Docker {
    /// The driver's socket, where dockerd finds it; the file's name is the driver's.
    pub socket: PathBuf,
    /// dockerd's own socket; empty if the daemon is to leave it alone.
    pub api: PathBuf,
    /// Whether Swarm's nodes get labels for the replicas that they have in sync.
    pub swarm_labels: Switch,
}

/// Settings about pools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// How much of a pool's capacity may be promised to volumes, in percent; they are thin.
    pub overcommit: Percent,
}

/// Settings of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Form of the lines.
    pub format: LogFormat,
    /// Filter: error, warn, info, debug or trace, or tracing's directives.
    pub level: String,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Deadlines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// For Docker's Create, which has 120 s.
    pub create: Span,
    /// For Docker's Mount, which has 120 s.
    pub mount: Span,
    /// For Docker's Remove and Unmount, which have 60 s.
    pub call: Span,
    /// For Docker's Get, List and Path, which have 60 s.
    pub query: Span,
    /// For one step of releasing a volume; after it the teardown gets rougher.
    pub detach: Span,
    /// For the store to answer.
    pub store: Span,
    /// For unmounting everything when the daemon stops, most of it for writing back. A managed plugin is killed after
    /// 10 s, and sets 6.
    pub stop: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            cluster: "bulkhead".to_owned(),
            state_dir: "/var/lib/bulkhead".into(),
            run_dir: "/run/bulkhead".into(),
            mounts_dir: "/var/lib/bulkhead/mounts".into(),
            control_socket: "/run/bulkhead/bulkhead.sock".into(),
            store: "sqlite:///var/lib/bulkhead/store.db".to_owned(),
            store_ca: PathBuf::new(),
            store_cert: PathBuf::new(),
            store_key: PathBuf::new(),
            store_user: String::new(),
            store_password: Hidden::default(),
            store_token: Hidden::default(),
            labels: Labels::default(),
            data_address: String::new(),
            lease: Span::seconds(8),
            rebuild_after: Span::seconds(600),
            api: Network::default(),
            docker: Docker::default(),
            pool: Pool::default(),
            log: Log::default(),
            timeout: Timeouts::default(),
        }
    }
}

impl Default for Docker {
    fn default() -> Self {
        Self {
            socket: "/run/docker/plugins/bulkhead.sock".into(),
            api: "/run/docker.sock".into(),
            swarm_labels: Switch(false),
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            overcommit: Percent(200),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            create: Span::seconds(90),
            mount: Span::seconds(90),
            call: Span::seconds(45),
            query: Span::seconds(20),
            detach: Span::seconds(10),
            store: Span::seconds(5),
            stop: Span::seconds(20),
        }
    }
}

impl Config {
    /// What single settings do not show. Each fault names a setting and what to write.
    fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        for (key, path) in [
            ("state_dir", &self.state_dir),
            ("run_dir", &self.run_dir),
            ("mounts_dir", &self.mounts_dir),
            ("control_socket", &self.control_socket),
            ("docker.socket", &self.docker.socket),
        ] {
            if !path.is_absolute() {
                faults.push((key, "a path has to be absolute, beginning with /".to_owned()));
            }
        }
        for (key, path) in [
            ("store_ca", &self.store_ca),
            ("store_cert", &self.store_cert),
            ("store_key", &self.store_key),
            ("api.cert", &self.api.cert),
            ("api.key", &self.api.key),
        ] {
            if !path.as_os_str().is_empty() && !path.is_absolute() {
                faults.push((
                    key,
                    "a path has to be absolute; leave it empty for none".to_owned(),
                ));
            }
        }
        if self.store_cert.as_os_str().is_empty() != self.store_key.as_os_str().is_empty() {
            faults.push((
                "store_key",
                "a certificate and its key go together: set store_cert and store_key, or neither".to_owned(),
            ));
        }
        if self.api.cert.as_os_str().is_empty() != self.api.key.as_os_str().is_empty() {
            faults.push((
                "api.key",
                "a certificate and its key go together: set api.cert and api.key, or neither".to_owned(),
            ));
        }
        if let Err(why) = address::check(&self.api.listen) {
            faults.push(("api.listen", why));
        }
        if let Err(why) = address::check(&self.data_address) {
            faults.push(("data_address", why));
        }
        if !self.docker.api.as_os_str().is_empty() && !self.docker.api.is_absolute() {
            faults.push((
                "docker.api",
                "a path has to be absolute; leave it empty to leave Docker alone".to_owned(),
            ));
        }
        if self.mounts_dir == self.run_dir || self.run_dir.starts_with(&self.mounts_dir) {
            faults.push((
                "mounts_dir",
                "it cannot be or contain run_dir; give it a directory of its own".to_owned(),
            ));
        }
        if self.control_socket == self.docker.socket {
            faults.push((
                "control_socket",
                "it is the same as docker.socket; each needs its own".to_owned(),
            ));
        }
        for (key, name) in [("node_name", &self.node_name), ("cluster", &self.cluster)] {
            let plain = name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
            if !plain || name.len() > 64 || (name.is_empty() && key == "cluster") {
                faults.push((
                    key,
                    "a name has 1 to 64 letters, digits, '_', '.' and '-'".to_owned(),
                ));
            }
        }
        if !["sqlite", "etcd", "etcds", "consul", "consuls"]
            .iter()
            .any(|scheme| {
                self.store
                    .strip_prefix(scheme)
                    .is_some_and(|rest| rest.starts_with("://"))
            })
        {
            faults.push((
                "store",
                "write sqlite:///PATH, etcd://HOST:2379,… or consul://HOST:8500".to_owned(),
            ));
        }
        if !(100..=10_000).contains(&self.pool.overcommit.0) {
            faults.push((
                "pool.overcommit",
                "it is a percentage from 100 (no over-commit) to 10000".to_owned(),
            ));
        }
        if let Err(error) = self.log.level.parse::<tracing_subscriber::filter::Targets>() {
            faults.push((
                "log.level",
                format!("{error}; write error, warn, info, debug or trace, or bulkhead=debug,info"),
            ));
        }
        for (key, span, least, most) in [
            ("lease", self.lease, 2.0, 600.0),
            ("rebuild_after", self.rebuild_after, 5.0, 30.0 * 86_400.0),
        ] {
            let seconds = span.duration().as_secs_f64();
            if seconds < least || seconds > most {
                faults.push((key, format!("it has to be at least {least}s and at most {most}s")));
            }
        }
        let timeouts = &self.timeout;
        for (key, span, docker) in [
            ("timeout.create", timeouts.create, 120),
            ("timeout.mount", timeouts.mount, 120),
            ("timeout.call", timeouts.call, 60),
            ("timeout.query", timeouts.query, 60),
            ("timeout.detach", timeouts.detach, 60),
            ("timeout.store", timeouts.store, 60),
            ("timeout.stop", timeouts.stop, 3600),
        ] {
            let seconds = span.duration().as_secs_f64();
            if seconds < 1.0 || seconds >= f64::from(docker) {
                faults.push((key, format!("it has to be at least 1s and less than {docker}s")));
            }
        }
        faults
    }

    /// How its store is opened.
    pub fn store_options(&self) -> Result<store::Options, SecretError> {
        let path = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        let said = |text: &String| (!text.is_empty()).then(|| text.clone());
        Ok(store::Options {
            prefix: format!("bulkhead/{}/", self.cluster),
            deadline: self.timeout.store.duration(),
            tls: store::Tls {
                ca: path(&self.store_ca),
                cert: path(&self.store_cert),
                key: path(&self.store_key),
            },
            user: said(&self.store_user),
            password: self.store_password.reveal("store_password")?,
            token: self.store_token.reveal("store_token")?,
        })
    }

    /// The node's name: as set, else the host's.
    pub fn node_name(&self) -> String {
        if !self.node_name.is_empty() {
            return self.node_name.clone();
        }
        nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "localhost".to_owned())
    }
}

#[cfg(test)]
mod tests;
