//! One pool's way from a device, file or directory to a mounted file system, and back.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::unistd::{Whence, lseek};

use super::directory;
use super::error::{Doing, PoolError};
use super::list::Entry;
use super::marker::{Marker, PoolOwner};
use super::spec::PoolKind;
use crate::host::bounded::bounded;
use crate::host::command::Program;
use crate::host::fs::{Contents, probe};
use crate::host::loopdev::{LoopDevice, LoopOptions};
use crate::host::mounts;
use crate::host::{FsKind, MountOptions};
use crate::ids::PoolId;

const MKFS_XFS: Program = Program {
    name: "mkfs.xfs",
    package: "xfsprogs",
};
const BLKID: Program = Program {
    name: "blkid",
    package: "util-linux",
};
/// A mount replays the journal, and a large disk that turns takes its time.
const LIMIT: Duration = Duration::from_secs(60);
/// So many zeroes are read in an existing file before it is taken for one that somebody needs.
const ZEROES_AT_MOST: usize = 1 << 30;
/// Where replicas lie in a pool.
pub(super) const REPLICAS: &str = "replicas";

/// Mounts a pool of the list on `dir`, unless it is mounted there already, and makes sure that it is that pool.
pub(super) fn bring_up(entry: &Entry, dir: &Path, owner: PoolOwner) -> Result<(), PoolError> {
    fs::create_dir_all(dir).doing(|| format!("making the directory {}", dir.display()))?;
    if mounts::mounted_on(dir)?.is_none() {
        let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        if entry.kind == PoolKind::Directory {
            directory::bind(&entry.path, dir, flags)?;
        } else {
            let source = Source::open(&entry.path, entry.kind, entry.id)?;
            // A file gives its space back as volumes do; a disk is trimmed by its owner's own rhythm.
            let data = if entry.kind == PoolKind::File {
                "discard"
            } else {
                ""
            };
            mount(source.device(), dir, flags, data)?;
        }
    }
    let checked = check(entry, dir, owner);
    if checked.is_err() {
        take_down(entry, dir)?;
    }
    checked
}

fn check(entry: &Entry, dir: &Path, owner: PoolOwner) -> Result<(), PoolError> {
    let mistaken = |found: String| PoolError::Mistaken {
        path: entry.path.clone(),
        wanted: entry.id,
        found,
    };
    let root = dir.to_path_buf();
    // A disk may hang that was mounted before this process was.
    let marker = bounded(format!("reading {}", dir.display()), LIMIT, move || {
        Marker::read(&root)
    })??;
    match marker {
        Some(marker) if marker.pool == entry.id && marker.is_of(owner) => Ok(()),
        Some(marker) => Err(mistaken(format!("pool {} of node {}", marker.pool, marker.node))),
        None => Err(mistaken("something that is no pool".into())),
    }
}

/// Unmounts a pool and lets go of its loop device. The data stays.
pub(super) fn take_down(entry: &Entry, dir: &Path) -> Result<(), PoolError> {
    mounts::unmount(dir, Duration::from_secs(20))?;
    if entry.kind == PoolKind::File
        && let Some(device) = find_loop(&entry.path, entry.id)?
    {
        device.detach(Duration::from_secs(5))?;
    }
    fs::remove_dir(dir).doing(|| format!("removing the mount point {}", dir.display()))
}

/// Makes a pool of what is there: the one that it is already, or else a new one if it holds nothing. Leaves it
/// unmounted. `scratch` is a directory for looking into it.
pub(super) fn make(
    path: &Path,
    kind: PoolKind,
    fresh: PoolId,
    owner: PoolOwner,
    scratch: &Path,
) -> Result<PoolId, PoolError> {
    if kind == PoolKind::Directory {
        return directory::make(path, fresh, owner);
    }
    let source = Source::open(path, kind, fresh)?;
    let made = make_on(source.device(), path, fresh, owner, scratch);
    let closed = source.close();
    made.and_then(|id| closed.map(|()| id))
}

fn make_on(
    device: &Path,
    path: &Path,
    fresh: PoolId,
    owner: PoolOwner,
    scratch: &Path,
) -> Result<PoolId, PoolError> {
    let occupied = |what: String| PoolError::Occupied {
        path: path.into(),
        what,
    };
    match probe(device)? {
        Contents::Nothing if holds_data(path)? => Err(PoolError::NotEmptyFile { path: path.into() }),
        Contents::Nothing => format(device, fresh, owner, scratch).map(|()| fresh),
        Contents::FileSystem { kind, label } if kind == FsKind::Xfs.name() => {
            // As it is on disk: replaying the journal of somebody's file system would be writing to it.
            let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
            match with_mounted(device, scratch, flags, "norecovery,nouuid", Marker::read)? {
                Some(marker) if marker.is_of(owner) => Ok(marker.pool),
                Some(marker) => Err(PoolError::Foreign {
                    path: path.into(),
                    pool: marker.pool,
                    node: marker.node,
                    cluster: marker.cluster,
                }),
                None => Err(occupied(Contents::FileSystem { kind, label }.to_string())),
            }
        }
        other => Err(occupied(other.to_string())),
    }
}

/// Whether a regular file holds anything but zeroes. Archives, dumps and images of virtual machines have no signature
/// that a probe for file systems knows. Reading much of it means that it is in use for something.
fn holds_data(path: &Path) -> Result<bool, PoolError> {
    let what = || format!("reading {}", path.display());
    let mut file = File::open(path).doing(what)?;
    if !file.metadata().doing(what)?.is_file() {
        return Ok(false);
    }
    let mut piece = vec![0; 1 << 20];
    let (mut at, mut seen) = (0, 0);
    loop {
        at = match lseek(&file, at, Whence::SeekData) {
            Ok(at) => at,
            Err(Errno::ENXIO) => return Ok(false),
            Err(errno) => return Err(errno).doing(what),
        };
        let length = file.read(&mut piece).doing(what)?;
        if length == 0 {
            return Ok(false);
        }
        seen += length;
        if seen > ZEROES_AT_MOST || piece[..length].iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        at += length as i64;
    }
}

fn format(device: &Path, id: PoolId, owner: PoolOwner, scratch: &Path) -> Result<(), PoolError> {
    // The file system's UUID is the pool's id, so that tools which know only UUIDs name it right.
    let features = format!("reflink=1,uuid={id}");
    let args = [
        "-K".as_ref(),
        "-m".as_ref(),
        features.as_ref(),
        device.as_os_str(),
    ];
    MKFS_XFS.run_ok(&args, Duration::from_secs(300))?;
    // Unmounted afterwards, so that the marker is found without replaying the journal.
    with_mounted(device, scratch, MsFlags::empty(), "", |root| {
        let replicas = root.join(REPLICAS);
        fs::create_dir(&replicas).doing(|| format!("making {}", replicas.display()))?;
        Marker::new(id, owner).write(root)
    })
}

/// Mounts a device for the time of a call.
fn with_mounted<T>(
    device: &Path,
    dir: &Path,
    flags: MsFlags,
    data: &str,
    call: impl FnOnce(&Path) -> Result<T, PoolError>,
) -> Result<T, PoolError> {
    let what = || format!("looking into {} at {}", device.display(), dir.display());
    fs::create_dir_all(dir).doing(what)?;
    let outcome = mount(device, dir, flags, data).and_then(|()| {
        let outcome = call(dir);
        mounts::unmount(dir, Duration::from_secs(20))?;
        outcome
    });
    fs::remove_dir(dir).doing(what)?;
    outcome
}

fn mount(device: &Path, dir: &Path, flags: MsFlags, data: &str) -> Result<(), PoolError> {
    let options = MountOptions {
        flags,
        data: data.into(),
    };
    Ok(mounts::mount_device(device, dir, FsKind::Xfs, &options, LIMIT)?)
}

/// The block device of a pool. A loop device goes by itself when it is dropped without having been mounted.
enum Source {
    Device(PathBuf),
    Loop(LoopDevice),
}

impl Source {
    fn open(path: &Path, kind: PoolKind, id: PoolId) -> Result<Self, PoolError> {
        if kind == PoolKind::Device {
            return Ok(Self::Device(current_name(path, id)?));
        }
        if let Some(device) = find_loop(path, id)? {
            return Ok(Self::Loop(device));
        }
        let options = LoopOptions {
            tag: tag(id),
            // The kernel takes that of the disk below.
            block_size: 0,
            autoclear: true,
        };
        let path = path.to_path_buf();
        let what = format!("putting a loop device on {}", path.display());
        let device = bounded(what, LIMIT, move || {
            let file = File::options().read(true).write(true).open(&path);
            let file = file.doing(|| format!("opening {}", path.display()))?;
            Ok::<_, PoolError>(LoopDevice::attach(&file, &options)?)
        })??;
        Ok(Self::Loop(device))
    }

    fn device(&self) -> &Path {
        match self {
            Self::Device(path) => path,
            Self::Loop(device) => device.path(),
        }
    }

    fn close(self) -> Result<(), PoolError> {
        if let Self::Loop(device) = self {
            device.detach(Duration::from_secs(5))?;
        }
        Ok(())
    }
}

/// The device that holds a pool now: a disk may have another name than when it was added, and is found by its file
/// system's UUID, which is the pool's id. With a copy of the disk beside it nobody can say which of the two is the newer
/// one: that is refused (failure 26).
fn current_name(path: &Path, id: PoolId) -> Result<PathBuf, PoolError> {
    let uuid = format!("UUID={id}");
    // Without its cache, which may know devices that are gone.
    let found = BLKID.run(&["-c", "/dev/null", "-o", "device", "-t", &uuid], LIMIT)?;
    let mut devices: Vec<PathBuf> = found
        .stdout
        .lines()
        .map(|line| PathBuf::from(line.trim()))
        .collect();
    devices.sort();
    devices.dedup();
    // The paths of a multipath disk all show the same file system; the mapped device is the disk.
    let is_mapped = path.starts_with("/dev/mapper") || path.to_string_lossy().starts_with("/dev/dm-");
    match devices.as_slice() {
        [] => Ok(path.into()),
        [device] => Ok(device.clone()),
        _ if is_mapped => Ok(path.into()),
        _ => Err(PoolError::Copied { pool: id, devices }),
    }
}

fn tag(id: PoolId) -> String {
    format!("bulkhead-pool:{id}")
}

fn find_loop(path: &Path, id: PoolId) -> Result<Option<LoopDevice>, PoolError> {
    Ok(LoopDevice::find(&tag(id), |file| Path::new(file) == path)?)
}
