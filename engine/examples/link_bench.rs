//! What a session costs over the bare socket below it: the same bytes both ways, by a ping-pong over raw TCP and by
//! requests in a session, in the same run. Ratios count; figures are of this machine.
//!
//! `cargo run --release -p bulkhead-engine --example link_bench`

use bulkhead_engine::format::ReplicaIdentity;
use bulkhead_engine::ids::{ClusterId, Epoch, NodeId, ReplicaId, Tick, VolumeId};
use bulkhead_engine::io::Data;
use bulkhead_engine::link::{
    CloseReason, ConnectError, Dial, Gate, LinkConfig, Listener, LocalNode, Plain, PrimaryEvents,
    PrimarySession, ReplicaEvents, ReplicaSession, dial,
};
use bulkhead_engine::machine::protocol::{Open, Reply, Request, RequestId, Role, SessionId, StampRule};
use bulkhead_engine::wire::{Hello, NodeRun, VersionRange};
use crossbeam_channel::{Sender, bounded, unbounded};
use parking_lot::Mutex;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const REPLICA: ReplicaIdentity = ReplicaIdentity {
    cluster: ClusterId::from_u128(1),
    volume: VolumeId::from_u128(2),
    replica: ReplicaId::from_u128(3),
};
/// What a write needs besides its data, there and back: two heads and the write's metadata.
const OVERHEAD: usize = 57;
const ANSWER: usize = 40;
const TURNS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    println!("{:28} {:>14} {:>14} {:>8}", "", "raw TCP", "session", "ratio");
    for (name, len, depth, count) in [
        ("4 KiB, one at a time", 4 << 10, 1, 10_000),
        ("64 KiB, one at a time", 64 << 10, 1, 4_000),
        ("4 KiB, 32 in flight", 4 << 10, 32, 60_000),
        ("1 MiB, 8 in flight", 1 << 20, 8, 1_500),
    ] {
        for data_crc in [false, true] {
            // Alternating, and the best of several: what else runs on the machine hits both alike.
            let (mut raw, mut linked) = (Duration::MAX, Duration::MAX);
            for _ in 0..TURNS {
                raw = raw.min(raw_run(len, depth, count / TURNS)?);
                linked = linked.min(session_run(len, depth, count / TURNS, data_crc)?);
            }
            let count = count / TURNS;
            let crc = if data_crc { ", CRC" } else { "" };
            let ratio = raw.as_secs_f64() / linked.as_secs_f64();
            let figure = |took: Duration| {
                if depth == 1 {
                    format!("{:.1} us", took.as_secs_f64() * 1e6 / count as f64)
                } else {
                    format!("{:.0} MB/s", (count * len) as f64 / 1e6 / took.as_secs_f64())
                }
            };
            println!(
                "{:28} {:>14} {:>14} {ratio:>8.2}",
                format!("{name}{crc}"),
                figure(raw),
                figure(linked)
            );
        }
    }
    Ok(())
}

/// The bytes of `count` writes and their answers over a bare socket, `depth` at a time.
fn raw_run(len: usize, depth: usize, count: usize) -> Result<Duration, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = thread::spawn(move || -> std::io::Result<()> {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut buffer = vec![0; OVERHEAD + len];
        for _ in 0..count {
            socket.read_exact(&mut buffer)?;
            socket.write_all(&[0; ANSWER])?;
        }
        Ok(())
    });
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let mut answers = socket.try_clone()?;
    let (room, taken) = bounded::<()>(depth);
    let request = vec![7; OVERHEAD + len];
    let began = Instant::now();
    if depth == 1 {
        for _ in 0..count {
            socket.write_all(&request)?;
            answers.read_exact(&mut [0; ANSWER])?;
        }
    } else {
        let reader = thread::spawn(move || -> std::io::Result<()> {
            for _ in 0..count {
                answers.read_exact(&mut [0; ANSWER])?;
                let _ = taken.recv();
            }
            Ok(())
        });
        for _ in 0..count {
            room.send(())?;
            socket.write_all(&request)?;
        }
        reader.join().map_err(|_| "the reader of the raw run failed")??;
    }
    let took = began.elapsed();
    server.join().map_err(|_| "the server of the raw run failed")??;
    Ok(took)
}

struct Replica(Mutex<Option<Arc<ReplicaSession>>>);

impl ReplicaEvents for Replica {
    fn opened(&self, session: &Arc<ReplicaSession>) {
        *self.0.lock() = Some(Arc::clone(session));
    }

    fn request(&self, _: SessionId, id: RequestId, request: Request<Data>) {
        let reply = match request {
            Request::Open(_) => Reply::NoSpace,
            _ => Reply::Done,
        };
        if let Some(session) = self.0.lock().as_ref() {
            let _ = session.reply(id, &reply);
        }
    }

    fn closed(&self, _: SessionId, _: &CloseReason) {
        self.0.lock().take();
    }
}

struct Anyone;

impl Gate for Anyone {
    fn admit(&self, _: &Hello, _: SocketAddr) -> Result<Arc<dyn ReplicaEvents>, String> {
        Ok(Arc::new(Replica(Mutex::new(None))))
    }
}

/// Sends the next write from where the answer to one comes in, as a node completes a request.
struct Primary {
    session: Mutex<Option<Arc<PrimarySession>>>,
    write: Request<Data>,
    left: AtomicUsize,
    answered: Sender<()>,
}

impl Primary {
    fn send_next(&self) {
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if let (Ok(left), Some(session)) = (left, self.session.lock().clone())
            && let Err(error) = session.request_usual(RequestId(left as u64 + 1), &self.write)
        {
            eprintln!("a write could not be sent: {error}");
        }
    }
}

impl PrimaryEvents for Primary {
    fn up(&self, session: &Arc<PrimarySession>) {
        *self.session.lock() = Some(Arc::clone(session));
    }

    fn reply(&self, _: SessionId, _: RequestId, _: Reply<Data>) {
        self.send_next();
        let _ = self.answered.send(());
    }

    fn down(&self, _: SessionId, reason: &CloseReason) {
        self.session.lock().take();
        if *reason != CloseReason::Asked {
            eprintln!("the session has ended: {reason}");
        }
    }

    fn failed(&self, _: &ConnectError) {}
}

fn node(number: u128, data_crc: bool) -> LocalNode {
    LocalNode {
        cluster: ClusterId::from_u128(1),
        node: NodeId::from_u128(number),
        run: NodeRun(number),
        versions: VersionRange::OURS,
        data_crc,
    }
}

/// `count` writes in a session, `depth` at a time.
fn session_run(len: usize, depth: usize, count: usize, data_crc: bool) -> Result<Duration, Box<dyn Error>> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = LinkConfig::default();
    let listener = Listener::bind(
        any,
        node(2, data_crc),
        config.clone(),
        Arc::new(Plain),
        Arc::default(),
        Arc::new(Anyone),
    )?;
    let address = listener.address();
    let (answered, answers) = unbounded();
    let primary = Arc::new(Primary {
        session: Mutex::new(None),
        write: Request::Write {
            offset: 0,
            data: Data::copy_of(&vec![7; len]),
            tick: Tick::new(Epoch(1), 1),
            stamp: StampRule::Raise,
        },
        left: AtomicUsize::new(0),
        answered,
    });
    let events: Arc<dyn PrimaryEvents> = primary.clone();
    let session = dial(
        &Dial {
            local: node(1, data_crc),
            to: NodeId::from_u128(2),
            replica: REPLICA,
            addresses: Arc::new(move |_| vec![address]),
            transport: Arc::new(Plain),
            config,
            sessions: Arc::default(),
        },
        &events,
    )?;
    let open = Request::Open(Open {
        identity: REPLICA,
        epoch: Epoch(1),
        term: Epoch(1),
        attached_by: bulkhead_engine::ids::Incarnation::from_u128(7),
        attempt: 1,
        role: Role::Member,
        expects: None,
        resumes: None,
    });
    session.request_usual(RequestId(0), &open)?;
    answers.recv()?;
    primary.left.store(count, Ordering::Relaxed);
    let began = Instant::now();
    for _ in 0..depth {
        primary.send_next();
    }
    for _ in 0..count {
        answers.recv_timeout(Duration::from_secs(10))?;
    }
    let took = began.elapsed();
    session.close();
    Ok(took)
}
