//! The handful of ioctls that this room needs, each behind a safe function.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

mod raw {
    #![allow(missing_docs)]
    use nix::libc;

    /// `struct fstrim_range`.
    #[repr(C)]
    pub(super) struct TrimRange {
        pub(super) start: u64,
        pub(super) len: u64,
        pub(super) minlen: u64,
    }

    nix::ioctl_readwrite!(fifreeze, b'X', 119, libc::c_int);
    nix::ioctl_readwrite!(fithaw, b'X', 120, libc::c_int);
    nix::ioctl_readwrite!(fitrim, b'X', 121, TrimRange);
    nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
}

/// Size of a block device in bytes.
pub(crate) fn device_size(device: &File) -> io::Result<u64> {
    let mut size = 0usize;
    // SAFETY: BLKGETSIZE64 writes a u64 (on every 64-bit target a usize) to the pointer, which is valid.
    unsafe { raw::blkgetsize64(device.as_raw_fd(), &mut size) }?;
    Ok(size as u64)
}

/// Makes a range of a block device zero: by punching a hole where it can, else by writing zeroes.
pub(crate) fn zero_out(device: &File, start: u64, len: u64) -> io::Result<()> {
    // SAFETY: BLKZEROOUT reads two u64 from the pointer, which is valid for them.
    unsafe { raw::blkzeroout(device.as_raw_fd(), &[start, len]) }?;
    Ok(())
}

/// Discards the free blocks of the file system that this directory is the root of; how many bytes that were.
pub(crate) fn trim(root: &File, minimum: u64) -> io::Result<u64> {
    let mut range = raw::TrimRange {
        start: 0,
        len: u64::MAX,
        minlen: minimum,
    };
    // SAFETY: FITRIM reads and writes one `struct fstrim_range`, which `range` is.
    unsafe { raw::fitrim(root.as_raw_fd(), &mut range) }?;
    Ok(range.len)
}

/// Stops all writing to a file system and makes what it holds complete on its device.
pub(crate) fn freeze(root: &File) -> io::Result<()> {
    let mut unused = 0;
    // SAFETY: FIFREEZE ignores its argument; the pointer is valid all the same.
    unsafe { raw::fifreeze(root.as_raw_fd(), &mut unused) }?;
    Ok(())
}

/// Ends a freeze.
pub(crate) fn thaw(root: &File) -> io::Result<()> {
    let mut unused = 0;
    // SAFETY: FITHAW ignores its argument; the pointer is valid all the same.
    unsafe { raw::fithaw(root.as_raw_fd(), &mut unused) }?;
    Ok(())
}
