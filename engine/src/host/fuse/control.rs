//! The kernel's switches for FUSE connections (`fusectl`), reached without mounting them anywhere that can be seen:
//! in containers, and on hosts without systemd, `/sys/fs/fuse/connections` is empty.

use std::ffi::{CString, c_char, c_int, c_uint};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

// From linux/mount.h.
const FSOPEN_CLOEXEC: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;
const FSMOUNT_CLOEXEC: c_uint = 1;

/// Opens the switch that aborts this connection. `NotFound` if there is no such connection.
pub(super) fn open_abort_switch(number: u32) -> io::Result<File> {
    let root = detached_mount()?;
    let path = CString::new(format!("{number}/abort"))?;
    // SAFETY: `path` is a C string that lives through the call.
    let fd = unsafe { libc::openat(root.as_raw_fd(), path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    owned(i64::from(fd)).map(File::from)
}

/// A mount of `fusectl` that is part of no namespace and goes with its descriptor.
fn detached_mount() -> io::Result<OwnedFd> {
    let name: *const c_char = c"fusectl".as_ptr();
    // SAFETY: fsopen(2) takes a C string and flags.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, name, FSOPEN_CLOEXEC) })?;
    let none: *const c_char = ptr::null();
    // SAFETY: fsconfig(2) with FSCONFIG_CMD_CREATE takes no key and no value: null pointers are required.
    let created = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            none,
            none,
            0 as c_int,
        )
    };
    if created != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fsmount(2) takes a descriptor and flags.
    owned(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            0 as c_uint,
        )
    })
}

fn owned(answer: i64) -> io::Result<OwnedFd> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(answer as RawFd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_does_not_exist_is_not_found() {
        let Err(error) = open_abort_switch(0x000f_ffff) else {
            panic!("there is a FUSE connection with the largest possible number");
        };
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
    }
}
