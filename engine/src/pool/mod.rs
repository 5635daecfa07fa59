//! Pools: the file systems on this host that hold replicas.
//!
//! Owns the list of them, how each is made, found again at start, mounted and given up; and how much may be promised
//! of it. Knows nothing of what a replica is beyond its directory. Never formats what holds something, and never
//! takes a device that is in use.
//!
//! | file | owns |
//! |---|---|
//! | [`pools`] | all pools of a host: add, list, remove, attach at start |
//! | [`spec`] | what is asked for, and what is told about a pool |
//! | [`claim`] | whether a device, file or directory may be taken |
//! | [`attach`] | loop device, file system and mount of one pool |
//! | [`directory`] | a pool in a directory of a file system that others use as well |
//! | [`marker`] | the file by which a pool is known again |
//! | [`list`] | the list on disk |
//! | [`medium`] | what kind of disk lies below |
//! | [`overcommit`] | how much may be promised of a pool; pure |

mod attach;
mod claim;
mod directory;
mod error;
mod list;
mod marker;
mod medium;
pub mod overcommit;
mod pools;
mod spec;

pub use error::PoolError;
pub use marker::PoolOwner;
pub use overcommit::Overcommit;
pub use pools::Pools;
pub use spec::{Medium, PoolInfo, PoolKind, PoolSpec, PoolState, PoolUsage, Priority, Removal};
