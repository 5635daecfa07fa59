//! What the kernel is asked for: a volume's FUSE file, the loop device on it, its file system and mounts.
//!
//! Owns everything between a [`crate::io::BlockDevice`] and a mount point, and its removal; teardown always ends.
//! Knows nothing of replicas, pools or the cluster, and never touches a mount, loop device or directory that does not
//! lie under its own [`HostDirs`] or does not carry their mark.
//!
//! | file | owns |
//! |---|---|
//! | [`attachment`] | one volume as a block device of this host, from attach to detach |
//! | [`transport`] | the seam between an attachment and whatever carries requests out of the kernel |
//! | [`fuse`] | that transport over `/dev/fuse` |
//! | [`loopdev`] | loop devices: configure, find, let go |
//! | [`fs`] | make, check, mount, grow and trim file systems |
//! | [`stale`] | what a killed daemon left behind |
//! | [`clock`] | whether something keeps the clock right |
//! | [`memory`] | the process's promise not to wait for its own volumes when memory is short |

pub mod attachment;
pub(crate) mod bounded;
pub mod clock;
pub(crate) mod command;
mod dirs;
pub(crate) mod error;
pub mod fs;
pub mod fuse;
pub(crate) mod holders;
pub(crate) mod ioctl;
pub mod loopdev;
pub mod memory;
pub(crate) mod mountinfo;
pub(crate) mod mounts;
pub mod stale;
mod stuck;
mod teardown;
pub mod transport;

pub use attachment::{AttachOptions, Attachment, BlockSize};
pub use dirs::HostDirs;
pub use error::HostError;
pub use fs::{FsKind, MkfsSpec, MountOptions};
pub use holders::Holder;
pub use stale::{CleanReport, abort_volume, clean_stale, clean_stale_but, clean_volume};
pub use stuck::volumes_that_hold;
pub use teardown::DetachReport;
