//! A wire between two nodes: passes bytes on and counts them, until it is cut or stopped.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

/// How soon a change of mode is noticed.
const LOOK: Duration = Duration::from_millis(10);

const WHOLE: u8 = 0;
const STOPPED: u8 = 1;
const CUT: u8 = 2;

#[derive(Default)]
struct Shared {
    mode: AtomicU8,
    over: AtomicBool,
    /// Towards the node that listens, and back.
    bytes: [AtomicU64; 2],
    connections: AtomicU64,
}

/// The wire from one node to another.
pub struct Wire {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Wire {
    /// A wire to wherever `target` says at the time of a connection.
    pub fn to(target: Arc<Mutex<Option<SocketAddr>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let ours = shared.clone();
        thread::spawn(move || {
            for near in listener.incoming() {
                if ours.over.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(near), Some(target)) = (near, *target.lock()) else {
                    continue;
                };
                if ours.mode.load(Ordering::SeqCst) == CUT {
                    continue;
                }
                let ours = ours.clone();
                thread::spawn(move || {
                    let Ok(far) = TcpStream::connect(target) else {
                        return;
                    };
                    ours.connections.fetch_add(1, Ordering::SeqCst);
                    carry(&ours, &near, &far);
                });
            }
        });
        Self { shared, address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, and lets no new one come about.
    pub fn cut(&self) {
        self.shared.mode.store(CUT, Ordering::SeqCst);
    }

    /// Takes no byte any more, but ends nothing.
    pub fn stop(&self) {
        self.shared.mode.store(STOPPED, Ordering::SeqCst);
    }

    pub fn mend(&self) {
        self.shared.mode.store(WHOLE, Ordering::SeqCst);
    }

    /// Bytes that went to the node that listens.
    pub fn sent(&self) -> u64 {
        self.shared.bytes[0].load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(self.address);
    }
}

fn carry(shared: &Arc<Shared>, near: &TcpStream, far: &TcpStream) {
    for socket in [near, far] {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(LOOK)).unwrap();
        socket.set_write_timeout(Some(LOOK)).unwrap();
    }
    thread::scope(|scope| {
        scope.spawn(|| one_way(shared, near, far, 0));
        one_way(shared, far, near, 1);
    });
}

fn one_way(shared: &Shared, mut from: &TcpStream, mut to: &TcpStream, way: usize) {
    let mut buffer = vec![0; 256 << 10];
    let later = |error: &std::io::Error| {
        matches!(
            error.kind(),
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
        )
    };
    'carry: loop {
        match shared.mode.load(Ordering::SeqCst) {
            CUT => break,
            STOPPED => {
                thread::sleep(LOOK);
                continue;
            }
            _ => {}
        }
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if later(&error) => continue,
            Err(_) => break,
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            if shared.mode.load(Ordering::SeqCst) == CUT {
                break 'carry;
            }
            match to.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if later(&error) => {}
                Err(_) => break 'carry,
            }
        }
        shared.bytes[way].fetch_add(count as u64, Ordering::SeqCst);
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
