//! The way in: accepts connections, hears who they are, hands them to the gate. Knows no replica.

use super::SessionCounter;
use super::config::{LinkConfig, LinkConfigError};
use super::handshake::{LocalNode, answer};
use super::replica::{ReplicaEvents, ReplicaSession};
use super::stream::{Side, Transport, set_options};
use crate::wire::{DeclineCode, GreetingError, Hello};
use nix::sys::socket::{Shutdown, shutdown};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

/// Stack of the accepting thread and of those that hear handshakes.
const STACK: usize = 128 << 10;
/// A handshake that takes longer may be ended to make room for others.
const DAWDLING: Duration = Duration::from_millis(200);
/// Pause after the system refused a connection, most likely for lack of descriptors.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// Decides who comes in.
pub trait Gate: Send + Sync + 'static {
    /// Versions, cluster and nodes fit. Is there such a replica here, and does it take sessions? If not, why, in words
    /// for the person who reads the other node's log. Must not wait. What it gives is dropped unused if the other node
    /// goes away before the session has begun.
    fn admit(&self, hello: &Hello, from: SocketAddr) -> Result<Arc<dyn ReplicaEvents>, String>;
}

/// Listens for primaries. Dropping it ends listening and handshakes; sessions go on.
pub struct Listener {
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    socket: TcpListener,
    local: LocalNode,
    config: LinkConfig,
    transport: Arc<dyn Transport>,
    gate: Arc<dyn Gate>,
    sessions: Arc<SessionCounter>,
    desk: Mutex<Desk>,
    left: Condvar,
}

/// Who is being heard, and who is in.
#[derive(Default)]
struct Desk {
    next: u64,
    /// Oldest first; the socket to end it with.
    handshakes: BTreeMap<u64, (Instant, Arc<TcpStream>)>,
    sessions: usize,
    stopped: bool,
}

/// Why no listener came about.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The configuration cannot be.
    #[error("{0}")]
    Config(#[from] LinkConfigError),
    /// The address cannot be listened on.
    #[error(
        "cannot listen for other nodes on {address}: {error}; is the address of this machine, and is the port free?"
    )]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
}

impl Listener {
    /// Listens on `address`.
    pub fn bind(
        address: SocketAddr,
        local: LocalNode,
        config: LinkConfig,
        transport: Arc<dyn Transport>,
        sessions: Arc<SessionCounter>,
        gate: Arc<dyn Gate>,
    ) -> Result<Self, ListenError> {
        config.check()?;
        let failed = |error| ListenError::Bind { address, error };
        let socket = TcpListener::bind(address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            socket,
            local,
            config,
            transport,
            gate,
            sessions,
            desk: Mutex::new(Desk::default()),
            left: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        thread::Builder::new()
            .name("link-accept".to_owned())
            .stack_size(STACK)
            .spawn(move || accepting.accept())
            .map_err(failed)?;
        Ok(Self { shared, address })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Handshakes that are under way, and sessions that came of earlier ones.
    pub fn counts(&self) -> (usize, usize) {
        let desk = self.shared.desk.lock();
        (desk.handshakes.len(), desk.sessions)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut desk = self.shared.desk.lock();
        desk.stopped = true;
        for (_, socket) in desk.handshakes.values() {
            end(socket);
        }
        drop(desk);
        // Ends the wait in accept.
        let _ = shutdown(self.shared.socket.as_raw_fd(), Shutdown::Both);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.address)
    }
}

fn end(socket: &TcpStream) {
    // It fails only if the connection is gone already.
    let _ = socket.shutdown(std::net::Shutdown::Both);
}

impl Shared {
    fn accept(self: &Arc<Self>) {
        loop {
            let accepted = self.socket.accept();
            if self.desk.lock().stopped {
                return;
            }
            match accepted {
                Ok((socket, from)) => self.begin(socket, from),
                Err(error) => {
                    tracing::warn!(%error, "a connection of another node could not be accepted");
                    thread::sleep(REFUSED_PAUSE);
                }
            }
        }
    }

    /// Hears a handshake on a thread of its own, so that one who says nothing holds up nobody.
    fn begin(self: &Arc<Self>, socket: TcpStream, from: SocketAddr) {
        let socket = Arc::new(socket);
        let number = {
            let mut desk = self.desk.lock();
            while desk.handshakes.len() >= self.config.max_handshakes && !desk.stopped {
                self.make_room(&mut desk);
            }
            desk.next += 1;
            let number = desk.next;
            desk.handshakes
                .insert(number, (Instant::now(), Arc::clone(&socket)));
            number
        };
        let shared = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name(format!("link-greet-{number}"))
            .stack_size(STACK)
            .spawn(move || {
                if let Err(error) = shared.greet(number, &socket, from) {
                    tracing::info!(%from, %error, "a connection was not taken");
                }
                shared.leave(number);
            });
        if let Err(error) = spawned {
            tracing::warn!(%from, %error, "no thread for the handshake of another node");
            self.leave(number);
        }
    }

    /// Where too many handshakes are under way, those who dawdle go: a node needs milliseconds, and even on a busy
    /// machine, with all nodes coming back at once, less than [`DAWDLING`]. The others wait in the kernel's queue.
    fn make_room(&self, desk: &mut MutexGuard<'_, Desk>) {
        let now = Instant::now();
        let mut next = now + REFUSED_PAUSE;
        for (since, socket) in desk.handshakes.values() {
            if now >= *since + DAWDLING {
                end(socket);
            } else {
                next = next.min(*since + DAWDLING);
                break;
            }
        }
        self.left.wait_until(desk, next);
    }

    fn leave(&self, number: u64) {
        self.desk.lock().handshakes.remove(&number);
        self.left.notify_all();
    }

    fn greet(
        self: &Arc<Self>,
        number: u64,
        socket: &TcpStream,
        from: SocketAddr,
    ) -> Result<(), GreetingError> {
        let deadline = Instant::now() + self.config.handshake_within;
        set_options(socket, &self.config)?;
        let mut stream = self
            .transport
            .dress(socket.try_clone()?, Side::Listener, deadline)?;
        let (peer, (events, seat)) = answer(&mut stream, &self.local, deadline, |hello| {
            let seat = self.seat()?;
            let events = self
                .gate
                .admit(hello, from)
                .map_err(|text| (DeclineCode::Replica, text))?;
            Ok((events, seat))
        })?;
        self.leave(number);
        ReplicaSession::start(
            stream,
            peer,
            self.config.clone(),
            &self.sessions,
            events,
            Box::new(seat),
        );
        Ok(())
    }

    fn seat(self: &Arc<Self>) -> Result<Seat, (DeclineCode, String)> {
        let mut desk = self.desk.lock();
        if desk.stopped || desk.sessions >= self.config.max_sessions {
            let text = format!(
                "node {} has its {} sessions already",
                self.local.node, desk.sessions
            );
            return Err((DeclineCode::Busy, text));
        }
        desk.sessions += 1;
        Ok(Seat(Arc::clone(self)))
    }
}

/// A session's place; free again when it is dropped.
struct Seat(Arc<Shared>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.desk.lock().sessions -= 1;
    }
}
