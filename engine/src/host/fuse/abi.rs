//! Numbers of the FUSE protocol (linux/fuse.h), as far as one file needs them.

#![allow(missing_docs)]

pub const MAJOR: u32 = 7;
/// The newest minor version that this server knows (7.41: resend). An older kernel's is used instead.
pub const MINOR: u32 = 41;
/// The oldest that it works with: 7.32 (Linux 5.10).
pub const OLDEST_MINOR: u32 = 32;

pub const ROOT: u64 = 1;
pub const FILE: u64 = 2;

pub const IN_HEADER: usize = 40;
pub const OUT_HEADER: usize = 16;
pub const WRITE_IN: usize = 40;

/// Set in `unique` of a request that is sent again.
pub const UNIQUE_RESEND: u64 = 1 << 63;

pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
}

pub const ASYNC_READ: u64 = 1 << 0;
pub const BIG_WRITES: u64 = 1 << 5;
pub const ASYNC_DIO: u64 = 1 << 15;
pub const MAX_PAGES: u64 = 1 << 22;
pub const INIT_EXT: u64 = 1 << 30;
pub const HAS_RESEND: u64 = 1 << 39;

pub const FOPEN_DIRECT_IO: u32 = 1 << 0;
pub const FOPEN_NOFLUSH: u32 = 1 << 5;
pub const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;

pub const FATTR_SIZE: u32 = 1 << 3;

pub const FALLOC_KEEP_SIZE: u32 = 0x01;
pub const FALLOC_PUNCH_HOLE: u32 = 0x02;
pub const FALLOC_ZERO_RANGE: u32 = 0x10;

/// Code of the notification that asks the kernel to send again what was not answered.
pub const NOTIFY_RESEND: i32 = 7;
