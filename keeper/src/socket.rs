//! Datagrams between two processes, each with at most one descriptor. A descriptor that comes unasked is closed.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, getsockopt, recvmsg,
    sendmsg, setsockopt, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::protocol::MAX_MESSAGE;

/// The most descriptors that a message can carry (`SCM_MAX_FD`).
const MOST_ALONG: usize = 253;

/// One end.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// What has come.
#[derive(Debug)]
pub enum Received {
    /// A message, with what came along.
    Message(Vec<u8>, Option<OwnedFd>),
    /// One that is too long, or whose descriptor could not be taken; this is its beginning.
    Cut(Vec<u8>),
    /// The other end is gone.
    End,
}

impl Socket {
    /// Two ends, neither of which goes over to another program by itself.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok((Self(one), Self(other)))
    }

    /// The end that this process has inherited under a number; refused if that is something else.
    pub fn inherited(number: RawFd) -> io::Result<Self> {
        let descriptor = inherit(number)?;
        match getsockopt(&descriptor, sockopt::SockType) {
            Ok(SockType::SeqPacket) => Ok(Self(descriptor)),
            _ => {
                // Not ours to close.
                let _ = std::os::fd::IntoRawFd::into_raw_fd(descriptor);
                Err(io::Error::other(format!(
                    "descriptor {number} is no socket of a keeper"
                )))
            }
        }
    }

    /// How long a call waits at most.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        let time = TimeVal::milliseconds(i64::try_from(patience.as_millis()).unwrap_or(i64::MAX));
        setsockopt(&self.0, sockopt::ReceiveTimeout, &time)?;
        setsockopt(&self.0, sockopt::SendTimeout, &time)?;
        Ok(())
    }

    /// Sends a message. With `wait`, within the patience; else `WouldBlock` says that there is no room.
    pub fn send(&self, message: &[u8], along: Option<BorrowedFd<'_>>, wait: bool) -> io::Result<()> {
        let raw = along.map(|descriptor| [descriptor.as_raw_fd()]);
        let rights = raw.as_ref().map(|raw| ControlMessage::ScmRights(raw));
        let flags = MsgFlags::MSG_NOSIGNAL
            | if wait {
                MsgFlags::empty()
            } else {
                MsgFlags::MSG_DONTWAIT
            };
        loop {
            match sendmsg::<()>(
                self.0.as_raw_fd(),
                &[IoSlice::new(message)],
                rights.as_slice(),
                flags,
                None,
            ) {
                Err(Errno::EINTR) => {}
                outcome => return outcome.map(drop).map_err(Into::into),
            }
        }
    }

    /// Takes the next message. With `wait`, within the patience; else `WouldBlock` says that there is none.
    pub fn receive(&self, wait: bool) -> io::Result<Received> {
        let mut bytes = vec![0; MAX_MESSAGE];
        // Room for as many descriptors as the kernel sends: those that it has no room for would be open, and not known.
        let mut space = nix::cmsg_space!([RawFd; MOST_ALONG]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC
            | if wait {
                MsgFlags::empty()
            } else {
                MsgFlags::MSG_DONTWAIT
            };
        let mut room = [IoSliceMut::new(&mut bytes)];
        let message = loop {
            match recvmsg::<()>(self.0.as_raw_fd(), &mut room, Some(&mut space), flags) {
                Err(Errno::EINTR) => {}
                outcome => break outcome?,
            }
        };
        let mut along = Vec::new();
        let cut = message
            .flags
            .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
        if let Ok(controls) = message.cmsgs() {
            for control in controls {
                if let ControlMessageOwned::ScmRights(rights) = control {
                    // SAFETY: the kernel has just made these descriptors for this process; nobody else knows them.
                    along.extend(rights.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
                }
            }
        }
        let len = message.bytes;
        bytes.truncate(len);
        if cut || along.len() > 1 {
            return Ok(Received::Cut(bytes));
        }
        if len == 0 && along.is_empty() {
            return Ok(Received::End);
        }
        Ok(Received::Message(bytes, along.pop()))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A descriptor that came with this process's start, from now on its own and for no program that it starts.
pub(crate) fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    // The first three are everybody's.
    if number <= 2 {
        return Err(io::Error::other(format!(
            "descriptor {number} is not one to be handed over"
        )));
    }
    // SAFETY: fcntl(2) takes any number, and says whether it is an open descriptor.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, it was named as handed over to this process, and each is named once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
