//! The link over real sockets on the loopback interface. This file owns the two ends that the tests use.

mod bounds;
mod handshake;
mod liveness;
mod raw;
mod traffic;
mod violations;

use super::*;
use crate::format::ReplicaIdentity;
use crate::geometry::ByteRange;
use crate::ids::{ClusterId, Epoch, Incarnation, NodeId, ReplicaId, Tick, VolumeId};
use crate::io::Data;
use crate::machine::protocol::{Open, Opened, Reply, Request, RequestId, Role, SessionId, StampRule};
use crate::wire::{Hello, NodeRun, VersionRange};
use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A wait in a test that only a fault makes this long.
const PATIENCE: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

fn identity(number: u128) -> ReplicaIdentity {
    ReplicaIdentity {
        cluster: ClusterId::from_u128(1),
        volume: VolumeId::from_u128(100 + number),
        replica: ReplicaId::from_u128(200 + number),
    }
}

fn local(node: u128) -> LocalNode {
    LocalNode {
        cluster: ClusterId::from_u128(1),
        node: NodeId::from_u128(node),
        run: NodeRun(node << 8),
        versions: VersionRange::OURS,
        data_crc: true,
    }
}

/// Deadlines that a test can wait for, far above what a busy machine takes for a round trip.
fn quick() -> LinkConfig {
    LinkConfig {
        ping_every: Duration::from_millis(200),
        silence: Duration::from_millis(1200),
        answer_within: Duration::from_millis(1500),
        stall: Duration::from_millis(1500),
        handshake_within: Duration::from_millis(1500),
        pause: (Duration::from_millis(20), Duration::from_millis(200)),
        ..LinkConfig::default()
    }
}

/// Deadlines that are not reached, for tests about something else.
fn patient() -> LinkConfig {
    LinkConfig {
        silence: PATIENCE,
        answer_within: PATIENCE,
        stall: PATIENCE,
        handshake_within: PATIENCE,
        connect_within: PATIENCE,
        ..quick()
    }
}

/// What happened at either end.
#[derive(Debug)]
enum Seen {
    Up(Arc<PrimarySession>),
    Reply(RequestId, Reply<Data>),
    Down(CloseReason),
    Failed(ConnectError),
    Opened(Arc<ReplicaSession>),
    Request(RequestId, Request<Data>),
    Closed(CloseReason),
}

/// Passes everything on to the test.
struct Tell(Sender<Seen>);

impl PrimaryEvents for Tell {
    fn up(&self, session: &Arc<PrimarySession>) {
        let _ = self.0.send(Seen::Up(Arc::clone(session)));
    }

    fn reply(&self, _: SessionId, id: RequestId, reply: Reply<Data>) {
        let _ = self.0.send(Seen::Reply(id, reply));
    }

    fn down(&self, _: SessionId, reason: &CloseReason) {
        let _ = self.0.send(Seen::Down(reason.clone()));
    }

    fn failed(&self, error: &ConnectError) {
        // The error itself is not to be cloned; what tests look at is kept.
        let copy = match error {
            ConnectError::Declined {
                node,
                code,
                versions,
                text,
            } => ConnectError::Declined {
                node: *node,
                code: *code,
                versions: *versions,
                text: text.clone(),
            },
            ConnectError::Unreachable { node, address, error } => ConnectError::Unreachable {
                node: *node,
                address: *address,
                error: std::io::Error::from(error.kind()),
            },
            other => panic!("{other}"),
        };
        let _ = self.0.send(Seen::Failed(copy));
    }
}

impl ReplicaEvents for Tell {
    fn opened(&self, session: &Arc<ReplicaSession>) {
        let _ = self.0.send(Seen::Opened(Arc::clone(session)));
    }

    fn request(&self, _: SessionId, id: RequestId, request: Request<Data>) {
        let _ = self.0.send(Seen::Request(id, request));
    }

    fn closed(&self, _: SessionId, reason: &CloseReason) {
        let _ = self.0.send(Seen::Closed(reason.clone()));
    }
}

impl Gate for Tell {
    fn admit(&self, hello: &Hello, _: SocketAddr) -> Result<Arc<dyn ReplicaEvents>, String> {
        if hello.replica == identity(404) {
            return Err(format!("no replica {} on this node", hello.replica.replica));
        }
        Ok(Arc::new(Self(self.0.clone())))
    }
}

/// What a request waits for before it is served.
type Wait = Arc<dyn Fn(&Request<Data>) + Send + Sync>;

/// A replica in memory that answers at once, and may be told to take its time.
struct Memory {
    disk: Mutex<Vec<u8>>,
    session: Mutex<Option<Arc<ReplicaSession>>>,
    /// What a request waits before it is served.
    gate: Wait,
    closed: Sender<CloseReason>,
}

impl ReplicaEvents for Memory {
    fn opened(&self, session: &Arc<ReplicaSession>) {
        *self.session.lock() = Some(Arc::clone(session));
    }

    fn request(&self, _: SessionId, id: RequestId, request: Request<Data>) {
        (self.gate)(&request);
        let reply = self.serve(request);
        let session = self.session.lock().clone();
        if let Some(session) = session {
            // A session that has ended in the meantime takes no answer.
            let _ = session.reply(id, &reply);
        }
    }

    fn closed(&self, _: SessionId, reason: &CloseReason) {
        self.session.lock().take();
        let _ = self.closed.send(reason.clone());
    }
}

impl Memory {
    fn serve(&self, request: Request<Data>) -> Reply<Data> {
        let mut disk = self.disk.lock();
        match request {
            Request::Open(_) => Reply::Opened(Opened {
                incarnation: Incarnation::from_u128(9),
                durable: Tick::ZERO,
                settled: Tick::ZERO,
                whole: true,
                clean: true,
                wait: Duration::ZERO,
            }),
            Request::Write { offset, data, .. } => {
                assert_eq!(data.as_ptr() as usize % crate::io::ALIGN, 0);
                let offset = offset as usize;
                disk[offset..offset + data.len()].copy_from_slice(&data);
                Reply::Done
            }
            Request::Read(range) => {
                Reply::Data(Data::copy_of(&disk[range.offset as usize..range.end() as usize]))
            }
            _ => Reply::Done,
        }
    }
}

/// A node that serves any number of replicas in memory.
struct MemoryNode {
    size: usize,
    gate: Wait,
    closed: Sender<CloseReason>,
    /// Only replicas whose number is asked for here wait at the gate.
    slow: Option<ReplicaIdentity>,
}

impl Gate for MemoryNode {
    fn admit(&self, hello: &Hello, _: SocketAddr) -> Result<Arc<dyn ReplicaEvents>, String> {
        let slow = self.slow.is_none_or(|slow| slow == hello.replica);
        Ok(Arc::new(Memory {
            disk: Mutex::new(vec![0; self.size]),
            session: Mutex::new(None),
            gate: if slow {
                Arc::clone(&self.gate)
            } else {
                Arc::new(|_| {})
            },
            closed: self.closed.clone(),
        }))
    }
}

fn listen(gate: Arc<dyn Gate>, config: LinkConfig) -> Listener {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    listen_at(address, gate, config, Arc::new(Plain))
}

fn listen_at(
    address: SocketAddr,
    gate: Arc<dyn Gate>,
    config: LinkConfig,
    transport: Arc<dyn Transport>,
) -> Listener {
    Listener::bind(address, local(2), config, transport, Arc::default(), gate).unwrap()
}

fn memory_node(size: usize, config: LinkConfig) -> (Listener, Receiver<CloseReason>) {
    let (closed, ends) = unbounded();
    let gate = Arc::new(|_: &Request<Data>| {});
    let node = MemoryNode {
        size,
        gate,
        closed,
        slow: None,
    };
    (listen(Arc::new(node), config), ends)
}

fn dial_to(address: SocketAddr, number: u128, config: LinkConfig) -> Dial {
    Dial {
        local: local(1),
        to: NodeId::from_u128(2),
        replica: identity(number),
        addresses: Arc::new(move |_| vec![address]),
        transport: Arc::new(Plain),
        config,
        sessions: Arc::default(),
    }
}

/// A primary's end, and all that it hears.
struct Client {
    session: Arc<PrimarySession>,
    seen: Receiver<Seen>,
}

impl Client {
    fn connect(dial_it: &Dial) -> Result<Self, ConnectError> {
        let (tell, seen) = unbounded();
        let events: Arc<dyn PrimaryEvents> = Arc::new(Tell(tell));
        let session = dial(dial_it, &events)?;
        assert!(matches!(seen.recv_timeout(PATIENCE), Ok(Seen::Up(_))));
        Ok(Self { session, seen })
    }

    /// Connected, and opened by request 0.
    fn open(address: SocketAddr, number: u128, config: LinkConfig) -> Self {
        let client = Self::connect(&dial_to(address, number, config)).unwrap();
        let opened = client.ask(0, &open(identity(number)));
        assert!(matches!(opened, Reply::Opened(_)), "{opened:?}");
        client
    }

    fn send(&self, id: u64, request: &Request<Data>) {
        self.session.request(RequestId(id), request, PATIENCE).unwrap();
    }

    fn ask(&self, id: u64, request: &Request<Data>) -> Reply<Data> {
        self.send(id, request);
        let (answered, reply) = self.reply();
        assert_eq!(answered.0, id);
        reply
    }

    fn reply(&self) -> (RequestId, Reply<Data>) {
        match self.seen.recv_timeout(PATIENCE).unwrap() {
            Seen::Reply(id, reply) => (id, reply),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the end of the session; what comes before it is passed over.
    fn end(&self) -> CloseReason {
        loop {
            if let Seen::Down(reason) = self.seen.recv_timeout(PATIENCE).unwrap() {
                return reason;
            }
        }
    }
}

fn open(identity: ReplicaIdentity) -> Request<Data> {
    Request::Open(Open {
        identity,
        epoch: Epoch(1),
        term: Epoch(1),
        attached_by: crate::ids::Incarnation::from_u128(7),
        attempt: 1,
        role: Role::Member,
        expects: None,
        resumes: None,
    })
}

fn write(offset: usize, data: &[u8]) -> Request<Data> {
    Request::Write {
        offset: offset as u64,
        data: Data::copy_of(data),
        tick: Tick::new(Epoch(1), 1),
        stamp: StampRule::Raise,
    }
}

fn read(offset: usize, len: usize) -> Request<Data> {
    Request::Read(ByteRange::new(offset as u64, len as u64))
}

/// Bytes that differ from each other and from those of another seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
