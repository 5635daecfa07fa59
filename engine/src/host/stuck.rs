//! A process that was killed while a thread of it waited for one of its own volumes: the thread hangs until somebody serves
//! the volume, or ends its connection, and keeps all that the process had open for as long. Finds out which volumes those
//! are. Only looks, and at nothing that could hang.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::dirs::{HostDirs, volume_of_file};
use super::loopdev;
use crate::ids::VolumeId;

/// The longest path that is read.
const LONGEST: usize = 4096;

/// The volumes that the threads of a dead process wait for. Threads that wait for something else are no matter: they end
/// by themselves. `None` if it cannot be told of a thread what it waits for.
pub fn volumes_that_hold(dirs: &HostDirs, pid: u32) -> Option<BTreeSet<VolumeId>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut volumes = BTreeSet::new();
    for task in tasks.filter_map(|task| Some(task.ok()?.path())) {
        if has_ended(&task) {
            continue;
        }
        let path = awaited(&task)?;
        volumes.extend(volume_of(dirs, &path));
    }
    Some(volumes)
}

fn has_ended(task: &Path) -> bool {
    let Ok(stat) = fs::read_to_string(task.join("stat")) else {
        return true;
    };
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_none_or(|state| state.starts_with(['Z', 'X']))
}

/// The file that a thread's call is about.
fn awaited(task: &Path) -> Option<PathBuf> {
    let line = fs::read_to_string(task.join("syscall")).ok()?;
    let mut words = line.split_whitespace();
    let call: i64 = words.next()?.parse().ok()?;
    let arguments: Vec<u64> = words
        .map_while(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect();
    let argument = |at: usize| arguments.get(at).copied();
    match call {
        libc::SYS_umount2 | libc::SYS_statfs => string(task, argument(0)?),
        libc::SYS_mount | libc::SYS_openat | libc::SYS_mkdirat | libc::SYS_statx => {
            string(task, argument(1)?)
        }
        libc::SYS_syncfs
        | libc::SYS_fsync
        | libc::SYS_fdatasync
        | libc::SYS_ioctl
        | libc::SYS_fstatfs
        | libc::SYS_close
        | libc::SYS_read
        | libc::SYS_write
        | libc::SYS_pread64
        | libc::SYS_pwrite64 => fs::read_link(task.join("fd").join(argument(0)?.to_string())).ok(),
        _ => None,
    }
}

/// The text at this place of the thread's memory.
fn string(task: &Path, at: u64) -> Option<PathBuf> {
    let memory = File::open(task.join("mem")).ok()?;
    let mut bytes = [0; LONGEST];
    let mut have = 0;
    // Up to the end of each page, as the next one may not be there.
    while have < LONGEST {
        let here = at.checked_add(have as u64)?;
        let end = (have + (4096 - (here % 4096) as usize)).min(LONGEST);
        let read = memory.read_at(bytes.get_mut(have..end)?, here).ok()?;
        if let Some(len) = bytes.iter().position(|byte| *byte == 0)
            && len < have + read
        {
            return Some(PathBuf::from(str::from_utf8(&bytes[..len]).ok()?));
        }
        if read == 0 {
            return None;
        }
        have += read;
    }
    None
}

fn volume_of(dirs: &HostDirs, path: &Path) -> Option<VolumeId> {
    if let Some(number) = path.to_str().and_then(|path| path.strip_prefix("/dev/loop")) {
        return volume_of_file(&loopdev::backing_file(number.parse().ok()?)?);
    }
    let below = |root: &Path| {
        let inner = path.strip_prefix(root).ok()?;
        inner.components().next()?.as_os_str().to_str()?.parse().ok()
    };
    below(&dirs.mounts).or_else(|| below(&dirs.devices()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_the_volume() {
        let dirs = HostDirs {
            run: "/run/b".into(),
            mounts: "/var/lib/b/mnt".into(),
        };
        let volume = VolumeId::from_u128(7);
        for (path, found) in [
            (format!("/var/lib/b/mnt/{volume}"), Some(volume)),
            (format!("/var/lib/b/mnt/{volume}/data"), Some(volume)),
            (format!("/run/b/devices/{volume}/x"), Some(volume)),
            (format!("/var/lib/b/pools/{volume}/data"), None),
            ("/var/lib/b/mnt".to_owned(), None),
            ("socket:[1]".to_owned(), None),
            ("/dev/loopx".to_owned(), None),
        ] {
            assert_eq!(volume_of(&dirs, Path::new(&path)), found, "{path}");
        }
    }

    #[test]
    fn a_thread_that_waits_in_a_call_is_looked_at() -> Result<(), Box<dyn std::error::Error>> {
        // A child that opens a pipe which nobody writes to: it waits in openat with the path in its memory.
        let dir = tempfile::tempdir()?;
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU)?;
        let mut child = std::process::Command::new("cat").arg(&pipe).spawn()?;
        let task = PathBuf::from(format!("/proc/{0}/task/{0}", child.id()));
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut seen = awaited(&task);
        while seen.as_ref() != Some(&pipe) && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(5));
            seen = awaited(&task);
        }
        child.kill()?;
        child.wait()?;
        assert_eq!(seen, Some(pipe));
        Ok(())
    }
}
