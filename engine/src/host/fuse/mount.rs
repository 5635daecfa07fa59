//! A FUSE connection and its mount: how they are made, aborted and taken away.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::control;
use crate::host::error::{Doing, HostError};
use crate::host::mountinfo::MountInfo;

/// The type that such a mount has in the kernel's tables.
pub(crate) const FS_TYPE: &str = "fuse.bulkhead";

/// A mounted FUSE connection.
#[derive(Clone, Debug)]
pub struct Connection {
    dir: PathBuf,
    /// Its number among the kernel's FUSE connections: the minor number of the mount's device.
    number: u32,
    /// Keeps the number from being given to another file system while it is used here. Asks the server nothing.
    _pin: Arc<File>,
}

impl Connection {
    /// Opens a connection and mounts it on `dir`, which must exist.
    pub fn mount(dir: &Path) -> Result<(Self, OwnedFd), HostError> {
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .doing(|| "opening /dev/fuse (is the module fuse loaded, and the device allowed here?)".into())?;
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
        mount(Some("bulkhead"), dir, Some(FS_TYPE), flags, Some(data.as_str()))
            .doing(|| format!("mounting a FUSE file system on {}", dir.display()))?;
        match Self::existing(dir) {
            Ok(connection) => Ok((connection, device.into())),
            Err(error) => {
                let _ = umount2(dir, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
                Err(error)
            }
        }
    }

    /// The connection that is mounted on `dir` already. Looks into the kernel's table: asking the mount itself
    /// could hang.
    pub fn existing(dir: &Path) -> Result<Self, HostError> {
        let what = || format!("finding the FUSE mount on {}", dir.display());
        let real = real_parent(dir).doing(what)?;
        let pin = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(dir)
            .doing(what)?;
        let mounts = MountInfo::own().doing(what)?;
        let mount = mounts
            .iter()
            .rev()
            .find(|mount| mount.target == real && mount.fs_type == FS_TYPE);
        Ok(Self {
            dir: dir.to_path_buf(),
            number: mount
                .map(|mount| mount.minor)
                .ok_or(io::ErrorKind::NotFound)
                .doing(what)?,
            _pin: Arc::new(pin),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Fails everything on this connection, for good.
    pub fn abort(&self) -> Result<(), HostError> {
        abort(self.number, &self.dir)
    }

    /// Takes the mount away and ends the connection, also when somebody still has the file open or holds a copy of
    /// the mount in another namespace.
    pub(crate) fn unmount(&self) -> Result<(), HostError> {
        let aborted = self.abort();
        detach(&self.dir).and(aborted)
    }
}

/// Aborts a connection by its number; if the kernel's switch cannot be reached, by force on its mount.
pub(crate) fn abort(number: u32, dir: &Path) -> Result<(), HostError> {
    match control::open_abort_switch(number).and_then(|mut switch| switch.write_all(b"1")) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => tracing::debug!(%error, number, "aborting by the mount instead"),
    }
    // MNT_FORCE aborts the connection before it looks whether the mount is in use; that it is, is no failure here.
    match umount2(dir, MntFlags::MNT_FORCE) {
        Ok(()) | Err(nix::errno::Errno::EBUSY | nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {
            Ok(())
        }
        Err(errno) => Err(errno).doing(|| format!("aborting the FUSE connection on {}", dir.display())),
    }
}

/// Takes a FUSE mount out of this namespace, whatever still uses it.
pub(crate) fn detach(dir: &Path) -> Result<(), HostError> {
    match umount2(dir, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno).doing(|| format!("unmounting {}", dir.display())),
    }
}

/// The path with its parent's links resolved, as the kernel's table shows it. The last part is not looked at:
/// what is mounted there may not answer.
fn real_parent(dir: &Path) -> io::Result<PathBuf> {
    match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
        _ => Ok(dir.to_path_buf()),
    }
}
