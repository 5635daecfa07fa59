//! An etcd cluster.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{Server, data_dir, free_port};
use crate::wait::until;

/// An etcd cluster.
pub struct EtcdCluster {
    /// Its members.
    pub servers: Vec<Server>,
    /// Their ports on loopback.
    pub clients: Vec<u16>,
    _dir: TempDir,
}

impl EtcdCluster {
    /// Members that are ready.
    pub async fn start(members: usize) -> Self {
        Self::start_with(members, &[]).await
    }

    /// The same with more arguments.
    pub async fn start_with(members: usize, more: &[String]) -> Self {
        Self::start_in(data_dir(), members, more).await
    }

    /// The same with its data in a directory, which goes with it.
    pub async fn start_in(dir: TempDir, members: usize, more: &[String]) -> Self {
        let clients: Vec<u16> = (0..members).map(|_| free_port()).collect();
        let peers: Vec<u16> = (0..members).map(|_| free_port()).collect();
        let tls = more.iter().any(|arg| arg.starts_with("--cert-file"));
        let scheme = if tls { "https" } else { "http" };
        let all: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(n, port)| format!("m{n}=http://127.0.0.1:{port}"))
            .collect();
        let servers = (0..members)
            .map(|n| {
                let (client, peer) = (
                    format!("{scheme}://127.0.0.1:{}", clients[n]),
                    format!("http://127.0.0.1:{}", peers[n]),
                );
                let mut args: Vec<String> = [
                    ("--name", format!("m{n}")),
                    (
                        "--data-dir",
                        dir.path().join(format!("m{n}")).display().to_string(),
                    ),
                    ("--listen-client-urls", client.clone()),
                    ("--advertise-client-urls", client),
                    ("--listen-peer-urls", peer.clone()),
                    ("--initial-advertise-peer-urls", peer),
                    ("--initial-cluster", all.join(",")),
                    ("--heartbeat-interval", "60".to_owned()),
                    ("--election-timeout", "600".to_owned()),
                    ("--max-txn-ops", "128".to_owned()),
                ]
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value])
                .collect();
                args.extend(more.iter().cloned());
                Server::start(Path::new("etcd"), args, dir.path().join(format!("m{n}.log")))
            })
            .collect();
        let cluster = Self {
            servers,
            clients,
            _dir: dir,
        };
        if !tls {
            cluster.ready().await;
        }
        cluster
    }

    /// Waits until every member answers.
    pub async fn ready(&self) {
        for port in &self.clients {
            until(Duration::from_secs(30), "an etcd member", || async {
                match etcd_client::Client::connect([format!("127.0.0.1:{port}")], None).await {
                    Ok(mut client) => tokio::time::timeout(Duration::from_secs(1), client.get("ready", None))
                        .await
                        .is_ok_and(|answer| answer.is_ok()),
                    Err(_) => false,
                }
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
        format!("etcd://{}", hosts.join(","))
    }

    /// A client of one member alone.
    pub async fn client(&self, member: usize) -> etcd_client::Client {
        etcd_client::Client::connect([format!("127.0.0.1:{}", self.clients[member])], None)
            .await
            .unwrap()
    }

    /// Which member leads.
    pub async fn leader(&self) -> usize {
        for member in 0..self.servers.len() {
            let mut client = self.client(member).await;
            let asked = tokio::time::timeout(Duration::from_secs(2), client.status()).await;
            if let Ok(Ok(status)) = asked
                && status.leader() == status.header().unwrap().member_id()
            {
                return member;
            }
        }
        panic!("no leader");
    }
}
