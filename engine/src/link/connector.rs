//! The way from a primary to one replica on another node: one attempt when asked for, with growing pauses between them.
//! Does not decide when to try again.

use super::SessionCounter;
use super::backoff::Backoff;
use super::config::LinkConfig;
use super::error::{CloseReason, ConnectError};
use super::handshake::{LocalNode, Peer, greet};
use super::primary::{PrimaryEvents, PrimarySession};
use super::stream::{Side, Stream, Transport, set_options};
use crate::format::ReplicaIdentity;
use crate::ids::NodeId;
use crate::io::Data;
use crate::machine::protocol::{Reply, RequestId, SessionId};
use parking_lot::{Condvar, Mutex};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, thread};

/// Stack of a connector's thread.
const STACK: usize = 128 << 10;

/// Where a node is, asked anew for every attempt: it may have moved.
pub type Addresses = Arc<dyn Fn(NodeId) -> Vec<SocketAddr> + Send + Sync>;

/// Everything that has to be known to connect to a replica.
#[derive(Clone)]
pub struct Dial {
    /// This node.
    pub local: LocalNode,
    /// The node that holds the replica.
    pub to: NodeId,
    /// The replica (D7).
    pub replica: ReplicaIdentity,
    /// Where nodes are.
    pub addresses: Addresses,
    /// What goes over TCP.
    pub transport: Arc<dyn Transport>,
    /// Deadlines and bounds.
    pub config: LinkConfig,
    /// Numbers the node's sessions.
    pub sessions: Arc<SessionCounter>,
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dial(node {}, replica {})", self.to, self.replica.replica)
    }
}

/// One attempt, on the calling thread: every address in turn. It takes `connect_within` and `handshake_within` for each
/// at most.
pub fn dial(dial: &Dial, events: &Arc<dyn PrimaryEvents>) -> Result<Arc<PrimarySession>, ConnectError> {
    dial.config.check()?;
    let mut last = ConnectError::NoAddress(dial.to);
    for address in (dial.addresses)(dial.to) {
        match dial_one(dial, address) {
            Ok((stream, peer)) => {
                let (config, events) = (dial.config.clone(), Arc::clone(events));
                return Ok(PrimarySession::start(
                    stream,
                    peer,
                    config,
                    &dial.sessions,
                    events,
                ));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn dial_one(dial: &Dial, address: SocketAddr) -> Result<(Stream, Peer), ConnectError> {
    let unreachable = |error| ConnectError::Unreachable {
        node: dial.to,
        address,
        error,
    };
    let socket = TcpStream::connect_timeout(&address, dial.config.connect_within).map_err(unreachable)?;
    set_options(&socket, &dial.config).map_err(unreachable)?;
    let deadline = Instant::now() + dial.config.handshake_within;
    let mut stream = dial
        .transport
        .dress(socket, Side::Connector, deadline)
        .map_err(unreachable)?;
    let peer = greet(&mut stream, &dial.local, dial.to, dial.replica, deadline)?;
    Ok((stream, peer))
}

#[derive(Default)]
struct State {
    wanted: bool,
    stopped: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    /// Waits until an attempt is wanted; false when it is over.
    fn wait_wanted(&self) -> bool {
        let mut state = self.state.lock();
        while !state.wanted && !state.stopped {
            self.changed.wait(&mut state);
        }
        !state.stopped
    }

    /// Waits until `until`, or till it is over; whether it goes on.
    fn wait_until(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.stopped {
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        !state.stopped
    }
}

/// Connects to one replica whenever it is asked to. Its thread does the waiting.
pub struct Connector {
    shared: Arc<Shared>,
}

impl Connector {
    /// Ready to connect. `jitter` gives any number for each pause.
    pub fn start(
        dial: Dial,
        jitter: impl FnMut() -> u32 + Send + 'static,
        events: Arc<dyn PrimaryEvents>,
    ) -> Result<Self, ConnectError> {
        dial.config.check()?;
        let shared = Arc::new(Shared::default());
        let mut worker = Worker {
            shared: Arc::clone(&shared),
            watch: Arc::new(Watch {
                events,
                backoff: Mutex::new((Backoff::new(dial.config.pause.0, dial.config.pause.1), None)),
                steady: dial.config.pause.1,
            }),
            dial,
            jitter: Box::new(jitter),
        };
        thread::Builder::new()
            .name("link-connect".to_owned())
            .stack_size(STACK)
            .spawn(move || worker.run())
            .map_err(ConnectError::Start)?;
        Ok(Self { shared })
    }

    /// Asks for a session: [`PrimaryEvents::up`] or [`PrimaryEvents::failed`] follows, once for all that was asked until
    /// then. After failures, or a session that did not hold, it pauses first.
    pub fn connect(&self) {
        self.shared.state.lock().wanted = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.changed.notify_all();
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

struct Worker {
    shared: Arc<Shared>,
    watch: Arc<Watch>,
    dial: Dial,
    jitter: Box<dyn FnMut() -> u32 + Send>,
}

impl Worker {
    fn run(&mut self) {
        while self.shared.wait_wanted() {
            let pause = self.watch.backoff.lock().0.pause((self.jitter)());
            if !self.shared.wait_until(Instant::now() + pause) {
                break;
            }
            self.shared.state.lock().wanted = false;
            let events: Arc<dyn PrimaryEvents> = self.watch.clone();
            match dial(&self.dial, &events) {
                // Nobody waits for it any more.
                Ok(session) if self.shared.state.lock().stopped => session.close(),
                Ok(_) => {}
                Err(error) => {
                    self.watch.backoff.lock().0.failed();
                    tracing::debug!(node = %self.dial.to, replica = %self.dial.replica.replica, %error, "no session");
                    if !self.shared.state.lock().stopped {
                        self.watch.events.failed(&error);
                    }
                }
            }
        }
    }
}

/// Passes the events on, and notes whether sessions hold: one that ends soon counts as a failure, else a peer that
/// accepts and closes would be dialled without pause.
struct Watch {
    events: Arc<dyn PrimaryEvents>,
    backoff: Mutex<(Backoff, Option<(SessionId, Instant)>)>,
    steady: Duration,
}

impl PrimaryEvents for Watch {
    fn up(&self, session: &Arc<PrimarySession>) {
        self.backoff.lock().1 = Some((session.id(), Instant::now()));
        self.events.up(session);
    }

    fn reply(&self, session: SessionId, id: RequestId, reply: Reply<Data>) {
        self.events.reply(session, id, reply);
    }

    fn down(&self, session: SessionId, reason: &CloseReason) {
        {
            let mut state = self.backoff.lock();
            if let Some((last, since)) = state.1
                && last == session
            {
                state.1 = None;
                if since.elapsed() >= self.steady {
                    state.0.held();
                } else {
                    state.0.failed();
                }
            }
        }
        self.events.down(session, reason);
    }

    fn failed(&self, error: &ConnectError) {
        self.events.failed(error);
    }
}
