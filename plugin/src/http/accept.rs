//! Where connections come from: a Unix socket as it is, or TCP with TLS. The handshake of one holds up no other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Listening;

/// Where connections come from.
pub trait Accept: Send + Sync + 'static {
    /// One as it was accepted.
    type Raw: Send + 'static;
    /// The same, once both sides have agreed on how to talk.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Whether one may carry several requests.
    const KEEP_ALIVE: bool;

    /// The next one.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Raw>> + Send;

    /// Agrees on how to talk; nothing if that did not work.
    fn secure(&self, raw: Self::Raw) -> impl Future<Output = Option<Self::Stream>> + Send;
}

impl Accept for Listening {
    type Raw = UnixStream;
    type Stream = UnixStream;
    const KEEP_ALIVE: bool = false;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener().accept().await?.0)
    }

    async fn secure(&self, raw: UnixStream) -> Option<UnixStream> {
        Some(raw)
    }
}

/// A TCP port on which only TLS is spoken.
pub struct TlsListening {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl TlsListening {
    /// Listens on an address.
    pub async fn bind(address: SocketAddr, tls: Arc<rustls::ServerConfig>) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            acceptor: TlsAcceptor::from(tls),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Accept for TlsListening {
    type Raw = TcpStream;
    type Stream = TlsStream<TcpStream>;
    const KEEP_ALIVE: bool = true;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.listener.accept().await?;
        // Answers are small and waited for.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    async fn secure(&self, raw: TcpStream) -> Option<TlsStream<TcpStream>> {
        match self.acceptor.accept(raw).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%error, "a TLS handshake did not come off");
                None
            }
        }
    }
}
