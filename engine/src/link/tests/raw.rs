//! Ends that do what no real end does: speak a part of the protocol by hand, or stand between two ends.

use super::*;
use crate::wire::{Codec, Control, FrameReader, Greeting, Message, Version, Welcome, read_greeting};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub(super) const CODEC: Codec = Codec {
    version: Version::NEWEST,
    data_crc: true,
};

/// A connection whose other end is real.
pub(super) struct Raw {
    pub(super) socket: TcpStream,
    reader: FrameReader<TcpStream>,
}

impl Raw {
    fn new(socket: TcpStream) -> Self {
        let reader = FrameReader::new(socket.try_clone().unwrap(), CODEC);
        Self { socket, reader }
    }

    /// A primary by hand, its handshake done.
    pub(super) fn primary(address: SocketAddr, number: u128) -> Self {
        let mut socket = TcpStream::connect(address).unwrap();
        let hello = Greeting::Hello(Hello {
            versions: VersionRange::OURS,
            data_crc: true,
            from: NodeId::from_u128(1),
            run: NodeRun(1),
            to: NodeId::from_u128(2),
            replica: identity(number),
        });
        socket.write_all(&hello.encode()).unwrap();
        let welcome = read_greeting(&mut socket).unwrap();
        assert!(matches!(welcome, Greeting::Welcome(_)), "{welcome:?}");
        Self::new(socket)
    }

    /// A node by hand: where it listens, and its first connection with the handshake done.
    pub(super) fn replica() -> (SocketAddr, std::thread::JoinHandle<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            read_greeting(&mut socket).unwrap();
            let welcome = Greeting::Welcome(Welcome {
                versions: VersionRange::OURS,
                version: 1,
                data_crc: true,
                cluster: ClusterId::from_u128(1),
                node: NodeId::from_u128(2),
                run: NodeRun(2),
            });
            socket.write_all(&welcome.encode()).unwrap();
            Self::new(socket)
        });
        (address, accepted)
    }

    pub(super) fn say(&mut self, message: &Message<Data>) {
        // An end that has closed takes nothing; tests look at why it has.
        let _ = self.try_say(message);
    }

    /// Another handle on the same connection, to speak through.
    pub(super) fn speaking(raw: &Self) -> Self {
        Self::new(raw.socket.try_clone().unwrap())
    }

    /// Whether it could be said.
    pub(super) fn try_say(&mut self, message: &Message<Data>) -> bool {
        self.socket
            .write_all(&CODEC.encode(message).unwrap().to_bytes())
            .is_ok()
    }

    /// Messages as they come; nothing once the other end has gone.
    pub(super) fn hear_all(&mut self) -> Option<Message<Data>> {
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // An error is a reset: the other end closed with something of ours unread.
        self.reader.message().unwrap_or(None)
    }

    /// The same, pings left out.
    pub(super) fn hear(&mut self) -> Option<Message<Data>> {
        loop {
            match self.hear_all() {
                Some(Message::Control(Control::Ping(_))) => {}
                other => return other,
            }
        }
    }
}

/// What a proxy does to the bytes of one direction.
#[derive(Default)]
pub(super) struct Direction {
    /// Swallows everything, as a cut does.
    pub(super) cut: AtomicBool,
    /// Flips a bit of the byte at this place of the stream; none at 0.
    pub(super) flip_at: AtomicUsize,
}

/// Stands between two ends.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    pub(super) to_replica: Arc<Direction>,
    pub(super) to_primary: Arc<Direction>,
}

impl Proxy {
    /// In front of `target`, for one connection.
    pub(super) fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            to_replica: Arc::default(),
            to_primary: Arc::default(),
        };
        let (out, back) = (Arc::clone(&proxy.to_replica), Arc::clone(&proxy.to_primary));
        std::thread::spawn(move || {
            let (near, _) = listener.accept().unwrap();
            let far = TcpStream::connect(target).unwrap();
            let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || pass(near, far, &out));
            std::thread::spawn(move || pass(far_too, near_too, &back));
        });
        proxy
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, direction: &Direction) {
    let mut buffer = vec![0; 64 << 10];
    let mut passed = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if direction.cut.load(Ordering::SeqCst) {
            continue;
        }
        let flip_at = direction.flip_at.load(Ordering::SeqCst);
        if flip_at > 0 && (passed..passed + count).contains(&flip_at) {
            buffer[flip_at - passed] ^= 0x10;
        }
        passed += count;
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // A cut hides the end of a connection as well.
    if !direction.cut.load(Ordering::SeqCst) {
        let _ = to.shutdown(Shutdown::Write);
    }
}
