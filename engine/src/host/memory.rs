//! Keeps the process able to write when memory is short (failure 16): its threads must not wait for write-back of
//! the very volumes that they serve.
//!
//! To be called by `main` before any thread starts: the kernel keeps the flag per thread, and new threads inherit it.

use std::fmt;
use std::io;

use nix::sys::mman::{MlockAllFlags, mlockall};

// From linux/prctl.h; the libc crate has them for Android only.
const PR_SET_IO_FLUSHER: libc::c_int = 57;
const PR_GET_IO_FLUSHER: libc::c_int = 58;

/// What of the two could be had.
#[derive(Debug)]
pub struct MemoryPromise {
    /// `PR_SET_IO_FLUSHER`: allocations of this process never wait for I/O. Set and read back.
    pub io_flusher: Result<(), MemoryWarning>,
    /// Memory that the process has touched stays in memory.
    pub locked: Result<(), MemoryWarning>,
}

/// Why one of them could not be had, and what it means.
#[derive(Debug)]
pub struct MemoryWarning {
    what: &'static str,
    cause: io::Error,
    remedy: &'static str,
}

impl fmt::Display for MemoryWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}); {}", self.what, self.cause, self.remedy)
    }
}

impl std::error::Error for MemoryWarning {}

/// Asks for both and reports what was refused; the process can go on without, with the risk that the warning names.
pub fn promise_progress() -> MemoryPromise {
    MemoryPromise {
        io_flusher: become_io_flusher().map_err(|cause| MemoryWarning {
            what: "the kernel did not accept this process as one that writes back memory",
            cause,
            remedy: "under extreme memory pressure volumes on this host may stall: grant CAP_SYS_RESOURCE",
        }),
        locked: lock_memory().map_err(|cause| MemoryWarning {
            what: "this process's memory could not be locked",
            cause,
            remedy: "on a host that swaps, volumes may stall: grant CAP_IPC_LOCK or raise the memlock limit",
        }),
    }
}

/// Sets `PR_SET_IO_FLUSHER` and reads it back: a wrong argument clears it silently (libublk-rs did that).
fn become_io_flusher() -> io::Result<()> {
    // SAFETY: PR_SET_IO_FLUSHER takes integers only and changes flags of the calling thread alone.
    let set = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1 as libc::c_ulong, 0, 0, 0) };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: PR_GET_IO_FLUSHER takes integers only.
    match unsafe { libc::prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) } {
        1 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        _ => Err(io::Error::other("it was set but does not read back")),
    }
}

/// Locks what is touched, as it is touched: locking everything at once would make every thread's whole stack and
/// every buffer that was only reserved resident.
fn lock_memory() -> io::Result<()> {
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    Ok(mlockall(
        MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault,
    )?)
}

/// Gives the pages of a buffer back while it stays usable (it reads as zero afterwards), locked or not.
pub(crate) fn release_pages(buf: &mut [u8]) {
    const MADV_DONTNEED_LOCKED: libc::c_int = 24;
    let start = buf.as_mut_ptr();
    let skip = start.align_offset(crate::io::ALIGN);
    let len = buf.len().saturating_sub(skip) & !(crate::io::ALIGN - 1);
    if len == 0 {
        return;
    }
    for advice in [MADV_DONTNEED_LOCKED, libc::MADV_DONTNEED] {
        // SAFETY: whole pages inside of `buf`, which is borrowed mutably; as anonymous memory they read as zero
        // afterwards, which is a valid value of u8.
        if unsafe { libc::madvise(start.wrapping_add(skip).cast(), len, advice) } == 0 {
            return;
        }
    }
}

/// Makes every page of a buffer resident, before something that must not meet a page fault. A kernel that cannot (before
/// Linux 5.14) leaves it to the first touch.
pub(crate) fn populate_pages(buf: &mut [u8]) {
    let start = buf.as_mut_ptr();
    let skip = start.align_offset(crate::io::ALIGN);
    let len = buf.len().saturating_sub(skip) & !(crate::io::ALIGN - 1);
    // SAFETY: whole pages inside of `buf`, which is borrowed mutably; their content does not change.
    unsafe { libc::madvise(start.wrapping_add(skip).cast(), len, libc::MADV_POPULATE_WRITE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_stay_usable() {
        let mut buf = crate::io::AlignedBuf::zeroed(64 << 10);
        buf.fill(7);
        release_pages(&mut buf);
        assert!(buf.iter().all(|byte| *byte == 0));
        buf.fill(9);
        assert_eq!(buf[65535], 9);
    }

    #[test]
    fn a_refusal_names_the_capability() {
        // On its own thread: the flag is per thread and must not leak into other tests.
        let outcome = std::thread::spawn(become_io_flusher).join();
        if let Ok(Err(cause)) = outcome {
            assert_eq!(cause.raw_os_error(), Some(libc::EPERM), "{cause}");
        }
    }
}
