//! Who still uses a device after it was unmounted here: mount namespaces of containers keep copies of mounts.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bounded::{Deadline, bounded};
use super::command::pause;
use super::loopdev;
use super::mountinfo::MountInfo;

/// How long opening a device may take, which asks nothing of it.
const CLAIM: Duration = Duration::from_secs(5);

/// A process in whose mount namespace the device is mounted, or that has it open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process; of a mount namespace the first one found.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Where it is mounted there, or the device itself.
    pub target: PathBuf,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {} ({}) at {}",
            self.pid,
            self.name,
            self.target.display()
        )
    }
}

/// Whether a file system, or another exclusive user, has a block device open. The kernel's own word: unlike the tables of
/// mounts it also covers a file system that was unmounted and is still being written back, and one that lives on in a
/// namespace that no process shows. What cannot be found out counts as in use.
pub(crate) fn is_claimed(device: &Path) -> bool {
    let path = device.to_path_buf();
    let open = move || {
        fs::File::options()
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(path)
            .map(drop)
    };
    match bounded(format!("opening {}", device.display()), CLAIM, open) {
        Ok(Ok(())) => false,
        // No such device, or nothing bound to it: nobody uses it.
        Ok(Err(error)) => !matches!(
            error.raw_os_error(),
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV)
        ),
        Err(_) => true,
    }
}

/// All of them as a part of a sentence.
pub(crate) fn describe(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "a process that has it open".into();
    }
    holders
        .iter()
        .map(Holder::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl Holder {
    /// The mount point as this process can reach it.
    pub(crate) fn reach(&self) -> PathBuf {
        let below = self.target.strip_prefix("/").unwrap_or(&self.target);
        Path::new("/proc")
            .join(self.pid.to_string())
            .join("root")
            .join(below)
    }
}

/// The holders of a loop device, one for each mount in each namespace. Asks no file system, only the kernel's tables.
pub(crate) fn of_loop(number: u32, device: &Path) -> Vec<Holder> {
    let mut seen = HashSet::new();
    let mut holders = Vec::new();
    for pid in pids() {
        let process = Path::new("/proc").join(pid.to_string());
        // A process may end while it is looked at.
        let Ok(namespace) = fs::read_link(process.join("ns/mnt")) else {
            continue;
        };
        if seen.contains(&namespace) {
            continue;
        }
        // Another process of the same namespace is asked if this one has ended meanwhile.
        let Ok(mounts) = MountInfo::read(&process.join("mountinfo")) else {
            continue;
        };
        seen.insert(namespace);
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        holders.extend(
            mounts
                .into_iter()
                .filter(|mount| mount.is_of(loopdev::MAJOR, number, device))
                .map(|mount| Holder {
                    pid,
                    name: name.trim().to_owned(),
                    target: mount.target,
                }),
        );
    }
    holders
}

/// Those who are left after a while. A process that starts a container has a copy of every mount for a moment.
pub(crate) fn who_stays(number: u32, device: &Path, deadline: Deadline) -> Vec<Holder> {
    loop {
        let holders = of_loop(number, device);
        if holders.is_empty() || deadline.is_over() {
            return holders;
        }
        pause(100);
    }
}

/// The processes that have a device itself open. Looks at every descriptor of every process: for reports only.
pub(crate) fn openers(device: &Path) -> Vec<Holder> {
    pids()
        .into_iter()
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let process = Path::new("/proc").join(pid.to_string());
            let mut descriptors = fs::read_dir(process.join("fd")).ok()?;
            let opened = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|path| path == device);
            descriptors.any(|entry| entry.is_ok_and(opened)).then(|| Holder {
                pid,
                name: fs::read_to_string(process.join("comm"))
                    .unwrap_or_default()
                    .trim()
                    .to_owned(),
                target: device.into(),
            })
        })
        .collect()
}

/// Who keeps a device bound: whoever has it mounted, and else whoever has it open.
pub(crate) fn who_keeps(number: u32, device: &Path) -> Vec<Holder> {
    let mounted = of_loop(number, device);
    if mounted.is_empty() {
        openers(device)
    } else {
        mounted
    }
}

fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}
