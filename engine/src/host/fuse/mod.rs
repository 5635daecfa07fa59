//! The FUSE transport: one mount with one file per volume, served by a few threads over one descriptor.
//!
//! Owns the protocol towards the kernel; knows nothing of what stands behind the [`crate::io::BlockDevice`].
//!
//! All threads share one descriptor rather than a clone each: the kernel fails what was read from a clone when that
//! clone is closed, so clones would break the requests that a later process is to take over.
//!
//! | file | owns |
//! |---|---|
//! | [`abi`] | numbers of the protocol |
//! | [`request`] | bytes of a request to a typed operation; pure |
//! | [`reply`] | the answer, exactly one for each request |
//! | [`buffers`] | where requests are read into |
//! | [`inbox`] | how a thread gets at requests, and waits for them |
//! | [`serve`] | what each operation does |
//! | [`session`] | the threads |
//! | [`mount`] | the mount and the connection, and how they end |
//! | [`control`] | the kernel's switches for connections |

pub mod abi;
mod buffers;
mod control;
mod inbox;
pub mod mount;
pub mod reply;
pub mod request;
mod serve;
mod session;

pub use session::{FuseOptions, FuseTransport};
