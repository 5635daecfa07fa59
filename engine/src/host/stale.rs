//! What a daemon that was killed, or that hangs, left behind: finds it and takes it away.
//!
//! Touches only FUSE mounts below this host's run directory, and loop devices that carry this host's mark and what is
//! mounted from them. The caller makes sure that no daemon serves these directories any more, or that it should not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dirs::{HostDirs, volume_of_file};
use super::error::{Doing, HostError};
use super::fuse::mount::{FS_TYPE, abort, detach};
use super::holders::{self, Holder};
use super::loopdev::{self, LoopDevice};
use super::mountinfo::MountInfo;
use super::mounts;
use crate::ids::VolumeId;

/// With its connection aborted every call ends at once; this is patience for a loaded machine.
const CALL: Duration = Duration::from_secs(5);

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanReport {
    /// Mount points of file systems that were unmounted.
    pub unmounted: Vec<PathBuf>,
    /// Loop devices that were let go of.
    pub loops: Vec<PathBuf>,
    /// FUSE mounts that were taken away.
    pub connections: Vec<PathBuf>,
    /// Loop devices that a container still holds, and who. Everything on them fails; they go with their last user.
    pub lingering: Vec<(PathBuf, Vec<Holder>)>,
    /// What could not be done.
    pub faults: Vec<String>,
}

impl CleanReport {
    /// Whether there was nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn note<T>(&mut self, outcome: Result<T, HostError>) -> Option<T> {
        outcome.map_err(|error| self.faults.push(error.to_string())).ok()
    }
}

/// Takes away everything that is left of any volume. To be called at start, before the first volume is attached.
pub fn clean_stale(dirs: &HostDirs) -> Result<CleanReport, HostError> {
    clean(dirs, |_| true)
}

/// The same, but for volumes whose connection was kept. They are touched in no way, as nobody answers for them yet.
pub fn clean_stale_but(dirs: &HostDirs, kept: &BTreeSet<VolumeId>) -> Result<CleanReport, HostError> {
    clean(dirs, |found| !kept.contains(&found))
}

/// Fails everything on the connection of a volume, for good, whoever serves it. Does nothing if there is none.
pub fn abort_volume(dirs: &HostDirs, volume: VolumeId) -> Result<(), HostError> {
    for (mount, _) in connections(dirs, |found| found == volume)? {
        abort(mount.minor, &mount.target)?;
    }
    Ok(())
}

/// Takes away everything that is left of one volume, also when its server hangs.
pub fn clean_volume(dirs: &HostDirs, volume: VolumeId) -> Result<CleanReport, HostError> {
    clean(dirs, |found| found == volume)
}

fn clean(dirs: &HostDirs, wanted: impl Fn(VolumeId) -> bool) -> Result<CleanReport, HostError> {
    let mut report = CleanReport::default();
    if !dirs.run.exists() {
        return Ok(report);
    }
    let connections = connections(dirs, &wanted)?;
    // First of all: from here on nothing below hangs.
    for (mount, _) in &connections {
        report.note(abort(mount.minor, &mount.target));
    }
    for device in devices(dirs, &wanted, &mut report)? {
        release(device, &mut report);
    }
    for (mount, _) in connections {
        if report.note(detach(&mount.target)).is_some() {
            report.connections.push(mount.target);
        }
    }
    remove_empty(&dirs.devices(), &wanted);
    remove_empty(&dirs.mounts, &wanted);
    Ok(report)
}

/// The FUSE mounts of these volumes in this namespace, the latest first.
fn connections(
    dirs: &HostDirs,
    wanted: impl Fn(VolumeId) -> bool,
) -> Result<Vec<(MountInfo, VolumeId)>, HostError> {
    let what = || format!("looking for FUSE mounts below {}", dirs.run.display());
    let Ok(root) = fs::canonicalize(dirs.devices()) else {
        return Ok(Vec::new());
    };
    let mounts = MountInfo::own().doing(what)?;
    Ok(mounts
        .into_iter()
        .rev()
        .filter(|mount| mount.fs_type == FS_TYPE && mount.target.parent() == Some(&root))
        .filter_map(|mount| volume_of_dir(&mount.target).map(|volume| (mount, volume)))
        .filter(|(_, volume)| wanted(*volume))
        .collect())
}

/// The loop devices of these volumes: known by the name of their file, and then by this host's mark.
fn devices(
    dirs: &HostDirs,
    wanted: impl Fn(VolumeId) -> bool,
    report: &mut CleanReport,
) -> Result<Vec<LoopDevice>, HostError> {
    let mark = dirs.mark()?;
    let mut devices = Vec::new();
    for number in loopdev::bound()? {
        let volume = loopdev::backing_file(number).and_then(|file| volume_of_file(&file));
        if let Some(volume) = volume.filter(|volume| wanted(*volume)) {
            let ours = mark.tag(volume);
            devices.extend(
                report
                    .note(LoopDevice::open_if(number, |tag| tag == ours))
                    .flatten(),
            );
        }
    }
    Ok(devices)
}

fn release(device: LoopDevice, report: &mut CleanReport) {
    let (number, path) = (device.number(), device.path().to_path_buf());
    for mount in report.note(mounts::of_loop(number, &path)).unwrap_or_default() {
        let target = mount.target;
        let unmounted = mounts::unmount(&target, CALL).or_else(|error| {
            tracing::warn!(%error, "unmounting it lazily");
            mounts::unmount_lazily(&target, CALL)
        });
        if report.note(unmounted).is_some() {
            let _ = fs::remove_dir(&target);
            report.unmounted.push(target);
        }
    }
    let held = holders::of_loop(number, &path);
    let patience = if held.is_empty() {
        CALL
    } else {
        Duration::from_millis(200)
    };
    match report.note(device.detach(patience)) {
        Some(true) => report.loops.push(path),
        Some(false) => {
            let keepers = holders::who_keeps(number, &path);
            report.lingering.push((path, keepers));
        }
        None => {}
    }
}

/// Removes the empty directories of these volumes.
fn remove_empty(dir: &Path, wanted: impl Fn(VolumeId) -> bool) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if volume_of_dir(&path).is_some_and(&wanted) {
            // Fails if it is not empty or still a mount point, and then stays.
            let _ = fs::remove_dir(&path);
        }
    }
}

fn volume_of_dir(path: &Path) -> Option<VolumeId> {
    path.file_name()?.to_str()?.parse().ok()
}
