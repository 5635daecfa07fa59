//! What kind of disk lies below a pool: followed through partitions, loop devices, device mapper and RAID.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use super::spec::Medium;
use crate::host::mountinfo::MountInfo;

/// Devices upon devices, at most so many.
const DEEPEST: u32 = 8;

/// The medium of a block device, or of the disk that a file lies on.
pub(super) fn of(path: &Path) -> Medium {
    follow(path, DEEPEST)
}

fn follow(path: &Path, depth: u32) -> Medium {
    let Ok(metadata) = fs::metadata(path) else {
        return Medium::Unknown;
    };
    if metadata.file_type().is_block_device() {
        return of_device(metadata.rdev(), depth);
    }
    if major(metadata.dev()) != 0 {
        return of_device(metadata.dev(), depth);
    }
    // Btrfs and overlays have no device number of their own; the table of mounts may name their device.
    mount_source(path, metadata.dev()).map_or(Medium::Unknown, |source| {
        if depth == 0 {
            Medium::Unknown
        } else {
            follow(&source, depth - 1)
        }
    })
}

fn mount_source(path: &Path, device: u64) -> Option<PathBuf> {
    let path = fs::canonicalize(path).ok()?;
    let mounts = MountInfo::own().ok()?;
    let of_path = |mount: &&MountInfo| {
        (u64::from(mount.major), u64::from(mount.minor)) == (major(device), minor(device))
            || path.starts_with(&mount.target)
    };
    let mount = mounts
        .iter()
        .filter(of_path)
        .max_by_key(|mount| mount.target.as_os_str().len())?;
    mount.source.starts_with("/dev").then(|| mount.source.clone())
}

fn of_device(device: u64, depth: u32) -> Medium {
    if depth == 0 {
        return Medium::Unknown;
    }
    let number = format!("{}:{}", major(device), minor(device));
    let Ok(mut dir) = fs::canonicalize(Path::new("/sys/dev/block").join(number)) else {
        return Medium::Unknown;
    };
    if dir.join("partition").exists() {
        dir.pop();
    }
    if let Ok(file) = fs::read_to_string(dir.join("loop/backing_file")) {
        return follow(Path::new(file.trim_end()), depth - 1);
    }
    let below = slaves(&dir, depth);
    if !below.is_empty() {
        // As slow as its slowest part.
        return [Medium::Rotational, Medium::Unknown]
            .into_iter()
            .find(|medium| below.contains(medium))
            .unwrap_or(Medium::Ssd);
    }
    match fs::read_to_string(dir.join("queue/rotational"))
        .as_deref()
        .map(str::trim)
    {
        Ok("0") => Medium::Ssd,
        Ok("1") => Medium::Rotational,
        _ => Medium::Unknown,
    }
}

/// The media of what a device-mapper or RAID device is made of.
fn slaves(dir: &Path, depth: u32) -> Vec<Medium> {
    let Ok(entries) = fs::read_dir(dir.join("slaves")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let number = fs::read_to_string(entry.ok()?.path().join("dev")).ok()?;
            let (major, minor) = number.trim().split_once(':')?;
            let device = nix::sys::stat::makedev(major.parse().ok()?, minor.parse().ok()?);
            Some(of_device(device, depth - 1))
        })
        .collect()
}
