//! One volume as a block device of this host: its FUSE file, the loop device on it, and the file system's mounts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use super::bounded::{Deadline, bounded, poll_until};
use super::dirs::{HostDirs, file_name, volume_of_file};
use super::error::{Doing, HostError};
use super::fs::{Contents, FsKind, MkfsSpec, MountOptions, check_before_mount, grow, mkfs, probe};
use super::fuse::{FuseOptions, FuseTransport};
use super::holders::{self, Holder};
use super::ioctl;
use super::loopdev::{LoopDevice, LoopOptions};
use super::mounts;
use super::teardown::{DetachReport, Remains};
use super::transport::{Handover, Transport};
use crate::ids::VolumeId;
use crate::io::BlockDevice;

/// How long a call of the kernel may take that a device which answers ends in well under a second.
const CALL: Duration = Duration::from_secs(20);
/// How long a mount may take: a journal has to be replayed, and Docker waits for 120 s.
const MOUNT: Duration = Duration::from_secs(60);
/// How long mkfs may take.
const MKFS: Duration = Duration::from_secs(100);
/// How long a trim of a whole file system may take.
const TRIM: Duration = Duration::from_secs(600);
/// How long the end of an attachment may take that was dropped without being detached.
const DROP: Duration = Duration::from_secs(5);

/// Logical block size of a volume's device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockSize {
    /// For programs that insist on 512-byte direct I/O. A pool on a disk with larger blocks then has to read before
    /// it writes.
    B512,
    /// The default: every request is whole pages, and goes to any pool's disk as it is.
    #[default]
    B4096,
}

/// How a volume is attached.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttachOptions {
    /// Block size of the device.
    pub block_size: BlockSize,
    /// How its FUSE file is served.
    pub fuse: FuseOptions,
}

/// A volume that is attached. Dropping it detaches it within a few seconds, by force if need be; call
/// [`Self::detach`] to know how it went.
pub struct Attachment {
    volume: VolumeId,
    dirs: HostDirs,
    dir: PathBuf,
    transport: Arc<dyn Transport>,
    /// `None` once it is being torn down. Calls that use the device hold it for reading.
    device: RwLock<Option<LoopDevice>>,
    path: PathBuf,
}

impl Attachment {
    /// Makes a block device of the volume. Refuses if the volume is attached here already, dead or alive.
    pub fn attach(
        dirs: &HostDirs,
        volume: VolumeId,
        device: Arc<dyn BlockDevice>,
        options: AttachOptions,
    ) -> Result<Self, HostError> {
        dirs.create()?;
        let tag = dirs.mark()?.tag(volume);
        let dir = dirs.device_dir(volume);
        refuse_if_attached(volume, &dir)?;
        fs::create_dir_all(&dir).doing(|| format!("making the directory {}", dir.display()))?;
        let transport = match FuseTransport::start(&dir, file_name(volume), device, options.fuse) {
            Ok(transport) => Arc::new(transport),
            Err(error) => {
                let _ = fs::remove_dir(&dir);
                return Err(error);
            }
        };
        let block_size = match options.block_size {
            BlockSize::B512 => 512,
            BlockSize::B4096 => 4096,
        };
        match bind(transport.file(), tag, block_size) {
            Ok(device) => Ok(Self {
                volume,
                dirs: dirs.clone(),
                dir,
                transport,
                path: device.path().to_path_buf(),
                device: RwLock::new(Some(device)),
            }),
            Err(error) => {
                let remains = Remains {
                    transport: &*transport,
                    device: None,
                    dir: &dir,
                    target: &dirs.mount_point(volume),
                };
                let report = remains.tear_down(DROP);
                tracing::warn!(%volume, ?report, %error, "the volume could not be attached");
                Err(error)
            }
        }
    }

    /// Goes on with a volume that an earlier process had attached here and whose connection outlived it: `device` is served
    /// from now on, what that process left unanswered comes again, and what is mounted stays as it is. If that is not possible
    /// the connection is left as it was, or ends; take away what is left with [`super::clean_volume`] then.
    pub fn adopt(
        dirs: &HostDirs,
        volume: VolumeId,
        handover: Handover,
        device: Arc<dyn BlockDevice>,
        options: AttachOptions,
    ) -> Result<Self, HostError> {
        let tag = dirs.mark()?.tag(volume);
        let dir = dirs.device_dir(volume);
        let transport = FuseTransport::adopt(&dir, file_name(volume), handover, device, options.fuse)?;
        // Only now: the kernel may ask for the file's attributes to say what a loop device is bound to.
        let is_its = |file: &str| volume_of_file(file) == Some(volume);
        let device = match LoopDevice::find(&tag, is_its) {
            Ok(Some(device)) => device,
            outcome => {
                transport.abort()?;
                let volume = volume.to_string();
                return Err(outcome.err().unwrap_or(HostError::NoDevice { volume }));
            }
        };
        Ok(Self {
            volume,
            dirs: dirs.clone(),
            dir,
            transport: Arc::new(transport),
            path: device.path().to_path_buf(),
            device: RwLock::new(Some(device)),
        })
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The block device, `/dev/loopN`.
    pub fn device(&self) -> &Path {
        &self.path
    }

    /// What the device holds.
    pub fn probe(&self) -> Result<Contents, HostError> {
        self.with_device(|device| probe(device.path()))
    }

    /// Makes a file system, unless the device holds something.
    pub fn mkfs(&self, spec: &MkfsSpec) -> Result<(), HostError> {
        self.with_device(|device| mkfs(device.path(), spec, MKFS))
    }

    /// Mounts the volume's file system on `target`, a path below the directory of mount points, which is made if it
    /// is missing. Does nothing if it is mounted there already.
    pub fn mount(&self, target: &Path, fs: FsKind, options: &MountOptions) -> Result<(), HostError> {
        if !self.dirs.admits_mount_point(target) {
            return Err(HostError::ForeignMountPoint {
                target: target.into(),
                mounts: self.dirs.mounts.clone(),
            });
        }
        self.with_device(|device| {
            if let Some(mount) = existing_mount(target)? {
                if mount.source == device.path() {
                    return Ok(());
                }
                return Err(HostError::MountPointTaken {
                    target: target.into(),
                    source_name: mount.source.display().to_string(),
                });
            }
            check_before_mount(device.path(), fs, MOUNT)?;
            fs::create_dir_all(target).doing(|| format!("making the mount point {}", target.display()))?;
            mounts::mount_device(device.path(), target, fs, options, MOUNT)
        })
    }

    /// Whether the volume's file system is mounted on `target` here.
    pub fn is_mounted(&self, target: &Path) -> Result<bool, HostError> {
        self.with_device(|device| {
            Ok(existing_mount(target)?.is_some_and(|mount| mount.source == device.path()))
        })
    }

    /// Writes back everything that the file system on `target` holds in memory. Nothing to do if it is not mounted.
    pub fn sync(&self, target: &Path, limit: Duration) -> Result<(), HostError> {
        self.with_device(|device| match existing_mount(target)? {
            Some(mount) if mount.source == device.path() => mounts::sync(target, limit),
            _ => Ok(()),
        })
    }

    /// Writes back and unmounts `target` here, and removes the empty directory. Writing back may take `limit`; then, while
    /// it is in use, unmounting is tried for `busy`, and it stays mounted. [`HostError::Held`] if it is unmounted here,
    /// but the file system lives on, in a container or because it is still being written back: so must the volume.
    pub fn unmount(&self, target: &Path, limit: Duration, busy: Duration) -> Result<(), HostError> {
        // First, and with a bound of its own: an unmount takes the mount away at once and writes back afterwards, so
        // that a slow one would look like one that is done.
        match self.sync(target, limit) {
            Err(error @ HostError::TimedOut { .. }) => return Err(error),
            // What the device refuses, as in a full pool, it would refuse for ever.
            Err(error) => tracing::warn!(%error, "not all of it could be written back"),
            Ok(()) => {}
        }
        self.with_device(|device| {
            let deadline = Deadline::within(busy);
            mounts::unmount(target, busy)?;
            let holders = holders::who_stays(device.number(), device.path(), deadline);
            let is_free = || !holders::is_claimed(device.path());
            if holders.is_empty() && poll_until(deadline, is_free) {
                // Not before: the kernel takes copies of the mount away in every namespace where they sit on a
                // directory that is removed, in use or not.
                let _ = fs::remove_dir(target);
                return Ok(());
            }
            Err(HostError::Held {
                device: device.path().into(),
                holders,
            })
        })
    }

    /// Who has the volume's file system mounted, here and in every other mount namespace.
    pub fn holders(&self) -> Result<Vec<Holder>, HostError> {
        self.with_device(|device| Ok(holders::of_loop(device.number(), device.path())))
    }

    /// Gives the free blocks of the file system on `target` back to the pool; how many bytes those were.
    pub fn trim(&self, target: &Path) -> Result<u64, HostError> {
        let what = || format!("trimming {}", target.display());
        self.with_device(|_| mounts::on_root(target, TRIM, what, |root| ioctl::trim(root, 0)))
    }

    /// Stops all writing to the file system on `target` and makes its device complete.
    pub fn freeze(&self, target: &Path) -> Result<(), HostError> {
        let what = || format!("freezing {}", target.display());
        self.with_device(|_| mounts::on_root(target, CALL, what, ioctl::freeze))
    }

    /// Ends a freeze.
    pub fn thaw(&self, target: &Path) -> Result<(), HostError> {
        let what = || format!("thawing {}", target.display());
        self.with_device(|_| mounts::on_root(target, CALL, what, ioctl::thaw))
    }

    /// Grows the file system on `target` to the size of its device.
    pub fn grow(&self, target: &Path, fs: FsKind) -> Result<(), HostError> {
        self.with_device(|device| grow(fs, device.path(), target, MOUNT))
    }

    /// Fails all I/O on the volume, at once and for good, as a primary does that has been replaced. Detach it next.
    pub fn abort(&self) -> Result<(), HostError> {
        self.transport.abort()
    }

    /// Whether the connection to the kernel still works.
    pub fn is_alive(&self) -> bool {
        self.transport.is_alive()
    }

    /// What another process needs to go on with this attachment's connection.
    pub fn handover(&self) -> Result<Handover, HostError> {
        self.transport.handover()
    }

    /// Takes everything away. Always ends, soon after `limit` at the latest; the report tells what it took. May be
    /// called while other calls are hanging in the device. A second call does nothing.
    pub fn detach(&self, limit: Duration) -> DetachReport {
        let half = limit / 2;
        let device = match self.device.try_write_for(half) {
            Some(mut device) => device.take(),
            None => {
                // A call hangs: it ends when the device does.
                tracing::warn!(volume = %self.volume, "a call hangs in the volume: its connection is aborted");
                let aborted = self.transport.abort();
                let mut report = self.detach_aborted(half);
                report.faults.extend(aborted.err().map(|error| error.to_string()));
                report.aborted = true;
                return report;
            }
        };
        if device.is_none() {
            return DetachReport::default();
        }
        self.tear_down(device, limit)
    }

    fn detach_aborted(&self, limit: Duration) -> DetachReport {
        let device = self
            .device
            .try_write_for(limit.max(Duration::from_secs(5)))
            .and_then(|mut device| device.take());
        self.tear_down(device, limit)
    }

    fn tear_down(&self, device: Option<LoopDevice>, limit: Duration) -> DetachReport {
        let remains = Remains {
            transport: &*self.transport,
            device,
            dir: &self.dir,
            target: &self.dirs.mount_point(self.volume),
        };
        let report = remains.tear_down(limit);
        if !report.is_clean() {
            tracing::warn!(volume = %self.volume, ?report, "the volume was detached by force");
        }
        report
    }

    fn with_device<T>(&self, call: impl FnOnce(&LoopDevice) -> Result<T, HostError>) -> Result<T, HostError> {
        let device = self.device.read();
        let device = device.as_ref().ok_or_else(|| HostError::TornDown {
            volume: self.volume.to_string(),
        })?;
        call(device)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.device.get_mut().is_some() {
            self.detach(DROP);
        }
    }
}

/// Puts a loop device on the volume's file. Opening it and configuring the device ask the server.
fn bind(file: &Path, tag: String, block_size: u32) -> Result<LoopDevice, HostError> {
    let options = LoopOptions {
        tag,
        block_size,
        autoclear: true,
    };
    let path = file.to_path_buf();
    let what = format!("putting a loop device on {}", file.display());
    bounded(what, CALL, move || {
        let backing = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .doing(|| format!("opening {}", path.display()))?;
        LoopDevice::attach(&backing, &options)
    })?
}

fn existing_mount(target: &Path) -> Result<Option<super::mountinfo::MountInfo>, HostError> {
    if fs::symlink_metadata(target).is_err() {
        return Ok(None);
    }
    mounts::mounted_on(target)
}

fn refuse_if_attached(volume: VolumeId, dir: &Path) -> Result<(), HostError> {
    if dir.parent().is_some_and(Path::exists)
        && let Some(mount) = mounts::mounted_on(dir)?
    {
        return Err(HostError::AttachedAlready {
            volume: volume.to_string(),
            evidence: format!("{} is mounted on {}", mount.fs_type, dir.display()),
        });
    }
    Ok(())
}
