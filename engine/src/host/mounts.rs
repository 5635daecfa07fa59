//! Mounting and unmounting: each call on a helper thread, because a device that does not answer makes it hang.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, mount, umount2};
use parking_lot::Mutex;

use super::bounded::{Deadline, bounded};
use super::command::pause;
use super::error::{Doing, HostError};
use super::fs::{FsKind, MountOptions};
use super::loopdev;
use super::mountinfo::MountInfo;

/// Mounts a device. A mount that comes about after the time was over is taken away again.
pub(crate) fn mount_device(
    device: &Path,
    target: &Path,
    fs: FsKind,
    options: &MountOptions,
    limit: Duration,
) -> Result<(), HostError> {
    let what = || format!("mounting {} on {}", device.display(), target.display());
    // Whether somebody still waits for the mount; under the lock, so that it is undone by exactly one side.
    let wanted = Arc::new(Mutex::new(true));
    let call = {
        let (device, target, options) = (device.to_path_buf(), target.to_path_buf(), options.clone());
        let wanted = wanted.clone();
        move || {
            let data = Some(options.data.as_str());
            let outcome = mount(Some(&device), &target, Some(fs.name()), options.flags, data);
            if !*wanted.lock() && outcome.is_ok() {
                tracing::warn!(target = %target.display(), "a mount came about after its deadline and is undone");
                let _ = umount2(&target, MntFlags::MNT_DETACH);
            }
            outcome
        }
    };
    let outcome = bounded(what(), limit, call);
    if outcome.is_err() {
        *wanted.lock() = false;
    }
    outcome?.doing(what)
}

/// What is mounted on this very path in this namespace, the topmost.
pub(crate) fn mounted_on(target: &Path) -> Result<Option<MountInfo>, HostError> {
    let what = || format!("looking for a mount on {}", target.display());
    // The mount points themselves are no links, what is above them may be.
    let parent = target.parent().unwrap_or(Path::new("/"));
    let real = match target.file_name() {
        Some(name) => fs::canonicalize(parent).doing(what)?.join(name),
        None => PathBuf::from("/"),
    };
    let mounts = MountInfo::own().doing(what)?;
    Ok(mounts.into_iter().rev().find(|mount| mount.target == real))
}

/// The mounts of a loop device in this namespace, the latest first.
pub(crate) fn of_loop(number: u32, device: &Path) -> Result<Vec<MountInfo>, HostError> {
    let mounts = MountInfo::own().doing(|| "reading the table of mounts".into())?;
    Ok(mounts
        .into_iter()
        .rev()
        .filter(|mount| mount.is_of(loopdev::MAJOR, number, device))
        .collect())
}

/// Unmounts, trying again while it is in use, until the time is over. A time-out means that the call itself hangs.
pub(crate) fn unmount(target: &Path, limit: Duration) -> Result<(), HostError> {
    let what = || format!("unmounting {}", target.display());
    let deadline = Deadline::within(limit);
    let mut wait = 1;
    loop {
        let path = target.to_path_buf();
        let patience = deadline.left().max(Duration::from_secs(1));
        let call = move || umount2(&path, MntFlags::UMOUNT_NOFOLLOW);
        match bounded(what(), patience, call)? {
            // EINVAL: no mount point (any more).
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY | Errno::EAGAIN) if deadline.left() > Duration::from_millis(wait) => {
                pause(wait);
                wait = (wait * 2).min(200);
            }
            Err(errno) => return Err(errno).doing(what),
        }
    }
}

/// Takes a mount out of this namespace at once; it goes for good with its last user.
pub(crate) fn unmount_lazily(target: &Path, limit: Duration) -> Result<(), HostError> {
    let what = || format!("unmounting {} lazily", target.display());
    let path = target.to_path_buf();
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    match bounded(what(), limit, move || umount2(&path, flags))? {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno).doing(what),
    }
}

/// Writes back everything that the file system behind this path holds in memory.
pub(crate) fn sync(path: &Path, limit: Duration) -> Result<(), HostError> {
    let what = || format!("writing back {}", path.display());
    on_root(path, limit, what, |root| Ok(nix::unistd::syncfs(root)?))
}

/// Opens the root of a mounted file system and does something with it, both within the limit.
pub(crate) fn on_root<T: Send + 'static>(
    path: &Path,
    limit: Duration,
    what: impl Fn() -> String,
    call: impl FnOnce(&File) -> std::io::Result<T> + Send + 'static,
) -> Result<T, HostError> {
    let path = path.to_path_buf();
    bounded(what(), limit, move || call(&File::open(path)?))?.doing(what)
}
