//! The seam between an attachment and what carries block requests out of the kernel: a file that a loop device can
//! be put on. Today FUSE over `/dev/fuse`; one over io_uring may stand beside it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::HostError;

/// Presents a [`crate::io::BlockDevice`] as a file of this host.
pub trait Transport: Send + Sync {
    /// The file.
    fn file(&self) -> &Path;

    /// Fails every request that is in flight and every later one, at once and for good. What waits in the kernel
    /// wakes up with an error. May be called again, and from any thread.
    fn abort(&self) -> Result<(), HostError>;

    /// Whether it still carries requests.
    fn is_alive(&self) -> bool;

    /// What another process needs to go on with this connection, while this one still serves it: the descriptor,
    /// and what was negotiated over it.
    fn handover(&self) -> Result<Handover, HostError>;

    /// Ends it: no file, no mount, no thread. Ends within the limit whatever the device does; `false` says that a
    /// thread is still stuck in the device and was left behind.
    fn close(&self, limit: Duration) -> Result<bool, HostError>;
}

/// See [`Transport::handover`].
#[derive(Debug)]
pub struct Handover {
    /// The open connection; it lives as long as one process holds it.
    pub descriptor: OwnedFd,
    /// What was agreed on it; `None` if the kernel's first request was not answered yet.
    pub negotiated: Option<Negotiated>,
}

/// What kernel and server agreed on when a FUSE connection was made. A process that adopts the connection must keep
/// to it, because the kernel negotiates once only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// Minor version of protocol 7.
    pub minor: u32,
    /// The flags that both sides set, the second word in the high half.
    pub flags: u64,
    /// The largest write, in bytes.
    pub max_write: u32,
    /// How many requests the kernel may have outstanding.
    pub max_background: u16,
}

impl Negotiated {
    /// Whether the kernel can be asked to send again what a dead server had read and not answered (Linux 6.9).
    pub const fn resends(&self) -> bool {
        self.flags & super::fuse::abi::HAS_RESEND != 0
    }
}
