//! This node's replicas are served to the other nodes at its data address.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bulkhead_engine::link::ListenError;
use tokio::time::sleep;

use super::context::Daemon;
use crate::config::address;

/// Between tries to find out the address.
const PAUSE: Duration = Duration::from_secs(5);

/// Begins to listen; with a store that has one node only, there is nobody to listen to. Where the address cannot be found
/// out yet, as the network is not there, it is tried again in the background.
pub(super) async fn begin(daemon: &Arc<Daemon>) -> anyhow::Result<()> {
    if !daemon.store.capabilities().arbitrates {
        return Ok(());
    }
    match resolve(daemon).await {
        Ok(addresses) => listen(daemon, addresses).await,
        Err(error) => {
            tracing::warn!(%error, "the replicas of this node cannot be reached yet");
            let daemon = daemon.clone();
            tokio::spawn(async move {
                loop {
                    sleep(PAUSE).await;
                    let Ok(addresses) = resolve(&daemon).await else {
                        continue;
                    };
                    match listen(&daemon, addresses).await {
                        Ok(()) => return,
                        Err(error) => tracing::error!("{error:#}"),
                    }
                }
            });
            Ok(())
        }
    }
}

async fn resolve(daemon: &Arc<Daemon>) -> Result<Vec<SocketAddr>, String> {
    let (written, store) = (daemon.config.data_address.clone(), daemon.config.store.clone());
    let found = tokio::task::spawn_blocking(move || {
        let address = address::data_address(&written, &store)?;
        let resolved = address.to_socket_addrs();
        let resolved = resolved.map_err(|error| format!("data_address {address}: {error}"))?;
        Ok::<_, String>(resolved.collect())
    });
    found.await.map_err(|error| error.to_string())?
}

async fn listen(daemon: &Arc<Daemon>, addresses: Vec<SocketAddr>) -> anyhow::Result<()> {
    let engine = daemon.engine.clone();
    let listening = tokio::task::spawn_blocking(move || {
        let mut outcome = Err(None);
        for address in addresses {
            let heard = match engine.listen(address) {
                // Not one of this host's own: others reach us by way of somebody who translates.
                Err(error) if is_elsewhere(&error) => engine.listen(wildcard(address)),
                heard => heard,
            };
            match heard {
                Ok(address) => return Ok(address),
                Err(error) => outcome = Err(Some(error)),
            }
        }
        outcome
    });
    match listening.await? {
        Ok(address) => {
            tracing::info!(%address, "the replicas of this node are served to other nodes");
            Ok(())
        }
        Err(Some(error)) => {
            Err(error).context("this node's replicas cannot be served to other nodes; correct data_address")
        }
        Err(None) => anyhow::bail!("data_address names no address; correct it"),
    }
}

fn is_elsewhere(error: &ListenError) -> bool {
    matches!(error, ListenError::Bind { error, .. } if error.kind() == io::ErrorKind::AddrNotAvailable)
}

fn wildcard(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, address.port()).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, address.port()).into(),
    }
}
