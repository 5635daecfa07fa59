//! Whether a device, file or directory may become a pool: it must not be in use, nor hold anything but one of our own pools.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use super::directory;
use super::error::{Doing, PoolError};
use super::spec::{PoolKind, PoolSpec};
use crate::host::ioctl;
use crate::host::loopdev;
use crate::host::mountinfo::MountInfo;

/// The smallest pool: what xfsprogs insists on.
pub(super) const MINIMUM: u64 = 300 << 20;

/// A device, file or directory that may be looked into.
#[derive(Debug)]
pub(super) struct Claim {
    /// With links resolved.
    pub(super) path: PathBuf,
    pub(super) kind: PoolKind,
    /// The file was made for this pool, and goes again if that fails.
    pub(super) is_new: bool,
}

/// Checks what is asked for, and makes the file if it is to be made.
pub(super) fn claim(spec: &PoolSpec) -> Result<Claim, PoolError> {
    let what = || format!("looking at {}", spec.path.display());
    let metadata = match fs::metadata(&spec.path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return make_file(spec),
        Err(error) => return Err(error).doing(what),
    };
    let path = fs::canonicalize(&spec.path).doing(what)?;
    if metadata.is_dir() {
        return claim_directory(path, spec);
    }
    let (kind, size) = if metadata.file_type().is_block_device() {
        (PoolKind::Device, open_alone(&path, metadata.rdev())?)
    } else if metadata.is_file() {
        refuse_if_bound(&path)?;
        (PoolKind::File, metadata.len())
    } else {
        return Err(PoolError::Kind(path));
    };
    if spec.size.is_some_and(|asked| asked != size) {
        return Err(PoolError::SizeOfExisting { path, size });
    }
    if size < MINIMUM {
        return Err(PoolError::TooSmall { path, size });
    }
    Ok(Claim {
        path,
        kind,
        is_new: false,
    })
}

fn claim_directory(path: PathBuf, spec: &PoolSpec) -> Result<Claim, PoolError> {
    if spec.size.is_some() {
        return Err(PoolError::SizeOfDirectory(path));
    }
    directory::refuse_unsuitable(&path)?;
    Ok(Claim {
        path,
        kind: PoolKind::Directory,
        is_new: false,
    })
}

fn make_file(spec: &PoolSpec) -> Result<Claim, PoolError> {
    let what = || format!("making the file {}", spec.path.display());
    // A misspelt device must not become a file in /dev's memory.
    let size = match spec.size {
        Some(size) if !spec.path.starts_with("/dev") => size,
        _ => return Err(PoolError::Missing(spec.path.clone())),
    };
    if size < MINIMUM {
        return Err(PoolError::TooSmall {
            path: spec.path.clone(),
            size,
        });
    }
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&spec.path)
        .doing(what)?;
    let made = file
        .set_len(size)
        .and_then(|()| file.sync_all())
        .and_then(|()| match spec.path.canonicalize()?.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        })
        .doing(what);
    let claim = made.and_then(|()| {
        Ok(Claim {
            path: fs::canonicalize(&spec.path).doing(what)?,
            kind: PoolKind::File,
            is_new: true,
        })
    });
    if claim.is_err() {
        let _ = fs::remove_file(&spec.path);
    }
    claim
}

/// Opens a block device as its only user, which the kernel refuses while it, or a part of it, is mounted, swap, or
/// part of something else. Its size.
fn open_alone(path: &Path, device: u64) -> Result<u64, PoolError> {
    let what = || format!("opening {}", path.display());
    match File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_EXCL)
        .open(path)
    {
        Ok(file) => ioctl::device_size(&file).doing(what),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(PoolError::InUse {
            path: path.into(),
            by: used_by(path, device),
        }),
        Err(error) => Err(error).doing(what),
    }
}

/// By what a block device is in use, as well as can be found out.
fn used_by(path: &Path, device: u64) -> String {
    let number = (major(device) as u32, minor(device) as u32);
    let mounts = MountInfo::own().unwrap_or_default();
    if let Some(mount) = mounts.iter().find(|mount| mount.is_of(number.0, number.1, path)) {
        return format!("mounted on {}", mount.target.display());
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps
        .lines()
        .any(|line| line.split_whitespace().next() == path.to_str())
    {
        return "as swap".into();
    }
    let sys = format!("/sys/dev/block/{}:{}", number.0, number.1);
    let holders = fs::read_dir(format!("{sys}/holders")).into_iter().flatten();
    let holders: Vec<_> = holders
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    if !holders.is_empty() {
        return format!("as a part of {}", holders.join(", "));
    }
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let is_part = |mount: &&MountInfo| {
        mount.source.file_name().is_some_and(|source| {
            let source = source.to_string_lossy();
            source != *name && Path::new(&sys).join(&*source).exists()
        })
    };
    match mounts.iter().find(is_part) {
        Some(mount) => format!(
            "its partition {} is mounted on {}",
            mount.source.display(),
            mount.target.display()
        ),
        None => "by a program or the kernel".into(),
    }
}

/// A file that is bound to a loop device is somebody's disk.
fn refuse_if_bound(path: &Path) -> Result<(), PoolError> {
    for number in loopdev::bound()? {
        if loopdev::backing_file(number).is_some_and(|file| Path::new(file.trim_end()) == path) {
            return Err(PoolError::InUse {
                path: path.into(),
                by: format!("as /dev/loop{number}"),
            });
        }
    }
    Ok(())
}
