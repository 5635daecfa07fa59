//! What a host must not leave behind: processes, mounts, loop devices and control groups.
//!
//! It owns the answer to "whose is this loop device", for loop devices are shared by the whole machine. It must never detach
//! or remove what is not the given host's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::command::Cmd;
use crate::host::Host;
use crate::wait;

/// How long the processes of a host may take to die by themselves.
const DYING: Duration = Duration::from_secs(2);

/// What is there at one moment, as lines that a person can read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census(BTreeSet<String>);

/// A loop device and the identity of the file behind it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Loop {
    name: String,
    #[serde(rename = "back-ino")]
    inode: Option<u64>,
    #[serde(rename = "back-maj:min")]
    device: Option<String>,
    #[serde(rename = "back-file")]
    file: Option<String>,
}

impl Census {
    pub(crate) fn take(host: &Host) -> Result<Self> {
        let pid = host.pid();
        let mut all = BTreeSet::new();
        for process in processes(pid)? {
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            // A kernel thread or a zombie has no command line.
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            if !name.is_empty() {
                all.insert(format!("process {} {}", name.trim(), line.trim()));
            }
        }
        for mount in mounts(pid)? {
            all.insert(format!("mount {} on {}", mount.kind, mount.point));
        }
        // The nth on a file of this name: a device's number, and the path as the kernel tells it, change when the daemon is
        // started again.
        let mut files: BTreeMap<String, u32> = BTreeMap::new();
        for l in loops_of(pid, host.dir())? {
            let path = l.file.unwrap_or_default();
            let nth = files
                .entry(path.rsplit('/').next().unwrap_or_default().to_owned())
                .or_default();
            *nth += 1;
            all.insert(format!(
                "loop device, number {nth} on a file {}",
                path.rsplit('/').next().unwrap_or_default()
            ));
        }
        Ok(Self(all))
    }

    /// What is in this census and not in `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self(self.0.difference(&before.0).cloned().collect())
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until the host holds nothing that it did not hold when `self` was taken.
    pub fn await_same(&self, host: &Host, deadline: Duration) -> Result<()> {
        let mut left = Self::default();
        let outcome = wait::until("nothing is left behind", deadline, || {
            left = host.leaks()?.since(self);
            Ok(left.is_empty().then_some(()))
        });
        outcome.with_context(|| format!("left on {}:\n{left}", host.name()))
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Ends a host from outside: its processes by `stop`, then its loop devices and control groups. Its folder stays.
///
/// Loop devices are looked for before the end, for afterwards nobody can tell whose they were.
pub fn clear(init: u32, name: &str, dir: &Path, stop: impl FnOnce() -> Result<()>) -> Result<()> {
    // A device that was stopped together with the daemon that serves its file tells nothing.
    let pid = init.to_string();
    let _ = Cmd::new("nsenter")
        .args(["-t", &pid, "-m", "-p", "--", "sh", "-c", "kill -CONT -1"])
        .within(Duration::from_secs(10))
        .output();
    let owner = Owner::of(init, dir)?;
    let (known, silent) = all_loops()?;
    let mut loops: Vec<Loop> = known.into_iter().filter(|l| owner.owns(l)).collect();
    let groups = groups_of(init, name)?;
    let connections = connections_of(init);
    thread::scope(|scope| {
        let (ended, wait) = channel::<()>();
        scope.spawn(move || {
            if wait.recv_timeout(DYING) == Err(RecvTimeoutError::Timeout) {
                for mut abort in &connections {
                    let _ = abort.write_all(b"1");
                }
            }
        });
        let stopped = stop();
        drop(ended);
        stopped
    })?;
    // Those that answer only now: what kept them silent was this host's.
    let late = silent.iter().filter_map(|name| look_at(name));
    loops.extend(late.filter(|l| owner.owns(l)));
    detach(&loops)?;
    for group in &groups {
        wait::retry("its control groups are empty", Duration::from_secs(15), || {
            remove_group(group)
        })?;
    }
    Ok(())
}

/// What ends each FUSE connection of a host, opened before the host's end takes the way to it away.
///
/// The last process of a host takes its mounts with it, and writes back what is dirty in them. If that process is the one that
/// served them, it waits for itself: the kernel closes its descriptors only after that. Somebody outside has to end it.
fn connections_of(init: u32) -> Vec<File> {
    let top = PathBuf::from(format!("/proc/{init}/root/sys/fs/fuse/connections"));
    let fuse = mounts(init)
        .unwrap_or_default()
        .into_iter()
        .filter(|mount| mount.kind == "fuse" || mount.kind.starts_with("fuse."));
    let minors = fuse.filter_map(|mount| Some(mount.device.split_once(':')?.1.to_owned()));
    minors
        .filter_map(|minor| {
            File::options()
                .write(true)
                .open(top.join(minor).join("abort"))
                .ok()
        })
        .collect()
}

/// What tells a host's loop devices from others: their file is on the host's disk, or on a file system that only this host has
/// mounted.
struct Owner {
    devices: BTreeSet<String>,
    machine: BTreeSet<String>,
    inodes: BTreeSet<(String, u64)>,
}

impl Owner {
    fn of(init: u32, dir: &Path) -> Result<Self> {
        let machine = mounts(std::process::id())?
            .into_iter()
            .map(|m| m.device)
            .collect();
        let mut devices = BTreeSet::new();
        let mut namespaces = BTreeSet::new();
        for process in processes(init)? {
            // Plugins and containers have mount namespaces of their own.
            if let Ok(namespace) = fs::read_link(process.join("ns/mnt"))
                && namespaces.insert(namespace)
            {
                let text = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
                devices.extend(text.lines().filter_map(Mount::parse).map(|m| m.device));
            }
        }
        devices.extend(mounts(init).unwrap_or_default().into_iter().map(|m| m.device));
        let mut inodes = BTreeSet::new();
        files_below(&dir.join("disk"), &mut inodes);
        Ok(Self {
            devices,
            machine,
            inodes,
        })
    }

    fn owns(&self, l: &Loop) -> bool {
        let device = l.device.clone().unwrap_or_default().trim().to_owned();
        (self.devices.contains(&device) && !self.machine.contains(&device))
            || l.inode
                .is_some_and(|inode| self.inodes.contains(&(device, inode)))
    }
}

/// The host's loop devices.
fn loops_of(init: u32, dir: &Path) -> Result<Vec<Loop>> {
    let owner = Owner::of(init, dir)?;
    let (known, _) = all_loops()?;
    Ok(known.into_iter().filter(|l| owner.owns(l)).collect())
}

/// Detaches loop devices that are still what they were when they were listed.
fn detach(loops: &[Loop]) -> Result<()> {
    // Not the path: it is told differently once the host's mounts are gone.
    let is = |a: &Loop, b: &Loop| a.name == b.name && a.inode == b.inode && a.device == b.device;
    let same = |l: &Loop| look_at(&l.name).is_some_and(|other| is(l, &other));
    for l in loops {
        if same(l) {
            // The kernel may have detached it in this moment; the wait below tells.
            let _ = Cmd::new("losetup").args(["-d", &l.name]).output()?;
            wait::until("a loop device is detached", Duration::from_secs(15), || {
                Ok((!same(l)).then_some(()))
            })
            .with_context(|| format!("{} stays on {:?}", l.name, l.file))?;
        }
    }
    Ok(())
}

/// A host's control groups: the one of its name in each hierarchy, where its containers are, and those of its processes that
/// are named after a container or plugin (64 hexadecimal digits; dockerd puts plugins beside itself).
fn groups_of(init: u32, name: &str) -> Result<BTreeSet<PathBuf>> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies: Vec<_> = fs::read_dir(top)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let mut groups: BTreeSet<_> = hierarchies.iter().map(|hierarchy| hierarchy.join(name)).collect();
    groups.insert(top.join(name));
    let is_id = |part: &str| part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    for process in processes(init)? {
        let text = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        for line in text.lines() {
            // `4:memory:/a/b` in version 1, `0::/a/b` in version 2.
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            let Some(at) = path.split('/').position(is_id) else {
                continue;
            };
            let path: PathBuf = path.split('/').skip(1).take(at).collect();
            let hierarchy = match controllers.trim_start_matches("name=") {
                "" if top.join("unified").is_dir() => top.join("unified"),
                "" => top.to_owned(),
                named => top.join(named),
            };
            groups.insert(hierarchy.join(path));
        }
    }
    Ok(groups.into_iter().filter(|group| group.is_dir()).collect())
}

fn remove_group(group: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(group) else {
        return Ok(());
    };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_group(&entry.path())?;
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", group.display()))
        }
        _ => Ok(()),
    }
}

/// The machine's loop devices that have a file, and the names of those that do not tell which: whoever serves the file is
/// stopped, perhaps by another test.
fn all_loops() -> Result<(Vec<Loop>, Vec<String>)> {
    let names: Vec<String> = fs::read_dir("/sys/block")
        .context("cannot list /sys/block")?
        .flatten()
        .filter(|entry| entry.path().join("loop/backing_file").exists())
        .map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy()))
        .collect();
    let looked: Vec<Option<Loop>> = thread::scope(|scope| {
        let workers: Vec<_> = names.iter().map(|name| scope.spawn(|| look_at(name))).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().ok().flatten())
            .collect()
    });
    let silent = names
        .iter()
        .zip(&looked)
        .filter(|(_, l)| l.is_none())
        .map(|(name, _)| name.clone())
        .collect();
    Ok((looked.into_iter().flatten().collect(), silent))
}

/// What a loop device tells of itself; nothing if it has no file, or does not answer.
fn look_at(name: &str) -> Option<Loop> {
    #[derive(Deserialize)]
    struct Answer {
        loopdevices: Vec<Loop>,
    }
    let text = Cmd::new("losetup")
        .args(["--list", "--json", "-O", "NAME,BACK-INO,BACK-MAJ:MIN,BACK-FILE"])
        .arg(name)
        .within(Duration::from_secs(3))
        .run()
        .ok()?;
    let answer: Answer = serde_json::from_str(&text).ok()?;
    answer.loopdevices.into_iter().next()
}

/// The folders below `/proc` of the host's processes but for its first, seen through the host's own `/proc`.
fn processes(init: u32) -> Result<Vec<PathBuf>> {
    let top = PathBuf::from(format!("/proc/{init}/root/proc"));
    let entries = match fs::read_dir(&top) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", top.display())),
    };
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| number(path).is_some_and(|n| n > 1))
        .collect())
}

struct Mount {
    device: String,
    point: String,
    kind: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (head, tail) = line.split_once(" - ")?;
        let mut words = head.split(' ').skip(2);
        let device = words.next()?.to_owned();
        let point = words.nth(1)?.to_owned();
        Some(Self {
            device,
            point,
            kind: tail.split(' ').next()?.to_owned(),
        })
    }
}

fn mounts(pid: u32) -> Result<Vec<Mount>> {
    let path = format!("/proc/{pid}/mountinfo");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(Mount::parse).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => bail!("cannot read {path}: {error}"),
    }
}

fn files_below(dir: &Path, inodes: &mut BTreeSet<(String, u64)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        // An image layer is no place for the file behind a loop device.
        if meta.is_dir() && entry.file_name() != "overlay2" {
            files_below(&entry.path(), inodes);
        } else if meta.is_file() {
            let device = format!("{}:{}", libc::major(meta.dev()), libc::minor(meta.dev()));
            inodes.insert((device, meta.ino()));
        }
    }
}
