//! Bulkhead's engine: replicated block volumes.
//!
//! It knows nothing of Docker, HTTP, etcd or Consul. Rooms, from the bottom up; imports run downwards only:
//!
//! | room | owns |
//! |---|---|
//! | [`ids`], [`geometry`] | identities, epochs and ticks; byte ranges, chunks and regions |
//! | [`io`] | aligned buffers, and a block request as a front end makes it |
//! | [`mod@format`] | superblock, intent and stamps: bytes to structs and back |
//! | [`machine`] | the pure state machines: every rule of docs/replication.md |
//! | [`wire`] | the machine's words, frames and the handshake between a primary and a replica as bytes |
//! | [`disk`] | the files of a replica |
//! | [`link`] | sessions between nodes |
//! | [`host`] | what the kernel is asked for: FUSE file, loop device, file system, mounts |
//! | [`pool`] | the file systems on this host that replicas lie in |
//! | [`node`] | the shell around the machines: turns their actions into disk, link and store calls |

pub mod disk;
pub mod format;
pub mod geometry;
pub mod host;
pub mod ids;
pub mod io;
pub mod link;
pub mod machine;
pub mod node;
pub mod pool;
pub mod wire;
