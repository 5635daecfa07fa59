//! The byte stream below a session, in two halves and a handle on both. Sets the socket's options; knows no frame.

use super::LinkConfig;
use super::spin::Spin;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout};
use nix::sys::socket::{MsgFlags, Shutdown, recvmsg, sendmsg, setsockopt, shutdown};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The half that is read from, by one thread.
pub trait ReadHalf: Read + Send {
    /// How long a read may wait from now on; for ever, if nothing. [`Control::shutdown`] ends every wait.
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;
}

/// The half that is written to. Never waits.
pub trait WriteHalf: Send {
    /// Writes what goes without waiting; [`io::ErrorKind::WouldBlock`] if nothing goes.
    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// What can be done with a stream while others read and write it.
pub trait Control: Send + Sync {
    /// Ends the stream in both directions: every wait on it returns, here and at the peer.
    fn shutdown(&self);

    /// Waits until the write half may take something again, at most `timeout`. May return early.
    fn wait_writable(&self, timeout: Duration) -> io::Result<()>;
}

/// A byte stream in order, both ways.
pub struct Stream {
    /// What comes in.
    pub read: Box<dyn ReadHalf>,
    /// What goes out.
    pub write: Box<dyn WriteHalf>,
    /// Both.
    pub control: Arc<dyn Control>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

/// Which end of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that connected.
    Connector,
    /// The one that was connected to.
    Listener,
}

/// Makes a stream of a fresh TCP connection: plain, or later by TLS.
pub trait Transport: Send + Sync + 'static {
    /// The stream over `socket`; whatever has to be exchanged for it, is by `deadline`.
    fn dress(&self, socket: TcpStream, side: Side, deadline: Instant) -> io::Result<Stream>;
}

/// The bytes as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Transport for Plain {
    fn dress(&self, socket: TcpStream, _: Side, _: Instant) -> io::Result<Stream> {
        Stream::of_socket(OwnedFd::from(socket))
    }
}

impl Stream {
    /// A stream over a connected stream socket of any family.
    pub fn of_socket(socket: OwnedFd) -> io::Result<Self> {
        let socket = Arc::new(socket);
        // A Unix socket takes the same calls as a TCP socket wherever this is used: receive, and its timeout.
        let reader = TcpStream::from(socket.try_clone()?);
        Ok(Self {
            read: Box::new(SocketReader {
                socket: reader,
                spin: Spin::default(),
            }),
            write: Box::new(SocketWriter(Arc::clone(&socket))),
            control: Arc::new(SocketControl(socket)),
        })
    }
}

/// What the kernel is told of a connection: send at once, and give up on a peer that does not acknowledge.
pub(super) fn set_options(socket: &TcpStream, config: &LinkConfig) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_write_timeout(None)?;
    let seconds = |time: Duration| u32::try_from(time.as_secs().max(1)).unwrap_or(u32::MAX);
    setsockopt(socket, KeepAlive, &true)?;
    setsockopt(socket, TcpKeepIdle, &seconds(config.silence))?;
    setsockopt(socket, TcpKeepInterval, &1)?;
    setsockopt(socket, TcpKeepCount, &3)?;
    // Later than this end's own rules, which can say more.
    let user_timeout = config.stall.saturating_add(config.silence);
    let millis = u32::try_from(user_timeout.as_millis()).unwrap_or(u32::MAX);
    setsockopt(socket, TcpUserTimeout, &millis)?;
    Ok(())
}

struct SocketReader {
    socket: TcpStream,
    spin: Spin,
}

impl Read for SocketReader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(target)])
    }

    fn read_vectored(&mut self, targets: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let socket = self.socket.as_raw_fd();
        let at_once = self.spin.until(|| {
            let flags = MsgFlags::MSG_DONTWAIT;
            match recvmsg::<()>(socket, targets, None, flags).map(|message| message.bytes) {
                Err(nix::Error::EAGAIN) => None,
                other => Some(other),
            }
        });
        let read = match at_once {
            Some(read) => read.map_err(io::Error::from),
            None => self.socket.read_vectored(targets),
        };
        self.spin.came();
        read
    }
}

impl ReadHalf for SocketReader {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
    }
}

struct SocketWriter(Arc<OwnedFd>);

impl WriteHalf for SocketWriter {
    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), slices, &[], flags, None) {
                Err(nix::Error::EINTR) => {}
                Ok(count) => return Ok(count),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct SocketControl(Arc<OwnedFd>);

impl Control for SocketControl {
    fn shutdown(&self) {
        // It fails only if the connection is gone already.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }

    fn wait_writable(&self, timeout: Duration) -> io::Result<()> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut waiting = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut waiting, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
