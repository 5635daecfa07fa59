//! The API over the network: served as soon as the daemon is ready, for as long as its address and its certificate can be
//! used. That they cannot keeps no volume from being served: it is tried again, and said in the meantime.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::LINGER;
use super::context::Daemon;
use crate::api::{Api, Peer, certificate_names, server_config};
use crate::config::address;
use crate::http::{TlsListening, serve_requests};

/// Between tries.
const PAUSE: Duration = Duration::from_secs(5);

/// Serves it until `stop` says so; nothing if it is not wanted.
pub(super) async fn serve(daemon: Arc<Daemon>, api: Api, mut stop: watch::Receiver<bool>) {
    let Ok(Some((host, port))) = address::api_address(&daemon.config.api.listen) else {
        return;
    };
    let mut told = String::new();
    let listening = loop {
        let trouble = match listen(&daemon, &host, port).await {
            Ok(listening) => break listening,
            Err(error) => format!(
                "the API is not served at {} over the network: {error}",
                daemon.config.api.listen
            ),
        };
        if trouble != told {
            tracing::error!("{trouble}");
            told.clone_from(&trouble);
        }
        *daemon.surface.api_trouble.lock() = Some(trouble);
        tokio::select! {
            () = sleep(PAUSE) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    };
    *daemon.surface.api_trouble.lock() = None;
    if let Ok(address) = listening.address() {
        tracing::info!(%address, "the API is served with TLS");
    }
    // It outlives the daemon's services, whose gates it looks at.
    drop(daemon);
    let service = move |request| api.clone().answer(request, Peer::Network);
    serve_requests(listening, service, stop, LINGER).await;
}

async fn listen(daemon: &Arc<Daemon>, host: &str, port: u16) -> anyhow::Result<TlsListening> {
    let (daemon, host) = (daemon.clone(), host.to_owned());
    let prepared = tokio::task::spawn_blocking(move || {
        let api = &daemon.config.api;
        let names = certificate_names(&daemon.node_name, &host);
        let tls = server_config(&api.cert, &api.key, &daemon.config.state_dir, &names)?;
        Ok::<_, anyhow::Error>((tls, addresses(&host, port)?))
    });
    let (tls, addresses) = prepared.await??;
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TlsListening::bind(address, tls.clone()).await {
            Ok(listening) => return Ok(listening),
            Err(error) => failure = error,
        }
    }
    Err(failure.into())
}

/// Where to listen, one of them; without a host everywhere, also over IPv6 if there is any.
fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host.is_empty() {
        return Ok(vec![
            (Ipv6Addr::UNSPECIFIED, port).into(),
            (Ipv4Addr::UNSPECIFIED, port).into(),
        ]);
    }
    Ok(format!("{host}:{port}").to_socket_addrs()?.collect())
}
