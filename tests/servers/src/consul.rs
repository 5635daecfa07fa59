//! A Consul cluster.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{Server, data_dir, free_port};
use crate::wait::until;

/// The Consul program, fetched once if this machine has none.
fn consul_program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let fetch = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/fetch-consul.sh");
        let output = Command::new("bash")
            .arg(script)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "Consul could not be fetched; see above");
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    };
    PROGRAM.get_or_init(fetch).clone()
}

/// A Consul cluster of servers.
pub struct ConsulCluster {
    /// Its members.
    pub servers: Vec<Server>,
    /// Their ports on loopback.
    pub clients: Vec<u16>,
    /// The ports by which the servers name their leader.
    internal: Vec<u16>,
    _dir: TempDir,
}

impl ConsulCluster {
    /// Servers that are ready.
    pub async fn start(members: usize) -> Self {
        let cluster = Self::start_with(members, &serde_json::json!({}));
        cluster.ready().await;
        cluster
    }

    /// The same with more settings, without waiting for them.
    pub fn start_with(members: usize, more: &serde_json::Value) -> Self {
        let dir = data_dir();
        let ports = || (0..members).map(|_| free_port()).collect::<Vec<u16>>();
        let (clients, internal, gossip, wide) = (ports(), ports(), ports(), ports());
        let tls = more.get("cert_file").is_some();
        let servers = (0..members)
            .map(|n| {
                let mut config = serde_json::json!({
                    "server": true,
                    "bootstrap_expect": members,
                    "node_name": format!("m{n}"),
                    "data_dir": dir.path().join(format!("m{n}")),
                    "bind_addr": "127.0.0.1",
                    "client_addr": "127.0.0.1",
                    "disable_host_node_id": true,
                    "disable_update_check": true,
                    "performance": { "raft_multiplier": 1 },
                    "limits": { "http_max_conns_per_client": 5000 },
                    "ports": {
                        "http": if tls { -1 } else { i32::from(clients[n]) },
                        "https": if tls { i32::from(clients[n]) } else { -1 },
                        "dns": -1, "grpc": -1,
                        "server": internal[n], "serf_lan": gossip[n], "serf_wan": wide[n],
                    },
                    "retry_join": gossip.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>(),
                    "retry_interval": "1s",
                });
                for (key, value) in more.as_object().unwrap() {
                    config[key] = value.clone();
                }
                let file = dir.path().join(format!("m{n}.json"));
                std::fs::write(&file, config.to_string()).unwrap();
                let args = vec![
                    "agent".to_owned(),
                    "-config-file".to_owned(),
                    file.display().to_string(),
                ];
                Server::start(&consul_program(), args, dir.path().join(format!("m{n}.log")))
            })
            .collect();
        Self {
            servers,
            clients,
            internal,
            _dir: dir,
        }
    }

    /// Waits until every server answers with a leader.
    pub async fn ready(&self) {
        for port in &self.clients {
            until(Duration::from_secs(40), "a Consul server", async || {
                let url = format!("http://127.0.0.1:{port}/v1/kv/ready?consistent");
                let asked = tokio::time::timeout(Duration::from_secs(2), reqwest::get(url)).await;
                matches!(asked, Ok(Ok(answer)) if answer.status() == 404)
            })
            .await;
        }
    }

    /// All members, as a store's URL.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self
            .clients
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        format!("consul://{}", hosts.join(","))
    }

    /// Which server leads.
    pub async fn leader(&self) -> usize {
        for port in &self.clients {
            let url = format!("http://127.0.0.1:{port}/v1/status/leader");
            let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(2), reqwest::get(url)).await else {
                continue;
            };
            let leader = answer.text().await.unwrap();
            let found = self
                .internal
                .iter()
                .position(|port| leader.contains(&format!(":{port}\"")));
            if let Some(found) = found {
                return found;
            }
        }
        panic!("no leader");
    }
}
