//! A TCP proxy between a client and a server, which can be cut, made deaf and made to lose answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the proxy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Passes requests on and keeps the answers.
    LoseAnswers,
    /// Keeps everything, and the connections stay open: a cable that was pulled.
    Silence,
    /// Closes every connection at once.
    Refuse,
}

pub struct Proxy {
    pub port: u16,
    mode: Arc<AtomicU8>,
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(port: u16) -> Self {
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(AtomicU8::new(Mode::Pass as u8));
        let (cuts, cut) = watch::channel(0);
        let shared = Arc::clone(&mode);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mode, mut cut) = (Arc::clone(&shared), cut.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        () = connect(client, target, mode) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self {
            port,
            mode,
            cuts,
            task,
        }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
        if mode == Mode::Refuse {
            self.cut();
        }
    }

    /// Breaks every connection there is; new ones are as the mode says.
    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn connect(client: TcpStream, target: SocketAddr, mode: Arc<AtomicU8>) {
    if mode.load(Ordering::SeqCst) == Mode::Refuse as u8 {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pump(client_in, server_out, &mode, &[Mode::Pass, Mode::LoseAnswers]) => {}
        () = pump(server_in, client_out, &mode, &[Mode::Pass]) => {}
    }
}

/// Passes bytes on while the mode is one of those; keeps them back otherwise.
async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mode: &AtomicU8,
    passes: &[Mode],
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count) = from.read(&mut buffer).await else {
            return;
        };
        if count == 0 {
            return;
        }
        while !passes
            .iter()
            .any(|pass| *pass as u8 == mode.load(Ordering::SeqCst))
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
