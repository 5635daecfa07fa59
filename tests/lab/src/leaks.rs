//! What a host must not leave behind: processes, mounts, loop devices and control groups.
//!
//! It owns the answer to "whose is this loop device", for loop devices are shared by the whole machine. It must never detach
//! or remove what is not the given host's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::command::Cmd;
use crate::host::Host;
use crate::wait;

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
    let loops = loops_of(init, dir)?;
    let groups = groups_of(init, name)?;
    stop()?;
    detach(&loops)?;
    for group in &groups {
        wait::retry("its control groups are empty", Duration::from_secs(15), || {
            remove_group(group)
        })?;
    }
    Ok(())
}

/// The loop devices whose file is on the host's disk or on a file system that only this host has mounted.
fn loops_of(init: u32, dir: &Path) -> Result<Vec<Loop>> {
    let all = all_loops()?;
    if all.is_empty() {
        return Ok(all);
    }
    let machine: BTreeSet<String> = mounts(std::process::id())?
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
    Ok(all
        .into_iter()
        .filter(|l| {
            let device = l.device.clone().unwrap_or_default().trim().to_owned();
            (devices.contains(&device) && !machine.contains(&device))
                || l.inode.is_some_and(|inode| inodes.contains(&(device, inode)))
        })
        .collect())
}

/// Detaches loop devices that are still what they were when they were listed.
fn detach(loops: &[Loop]) -> Result<()> {
    // Not the path: it is told differently once the host's mounts are gone.
    let is = |a: &Loop, b: &Loop| a.name == b.name && a.inode == b.inode && a.device == b.device;
    let same = |l: &Loop| Ok::<_, anyhow::Error>(all_loops()?.iter().any(|other| is(l, other)));
    for l in loops {
        if same(l)? {
            // The kernel may have detached it in this moment; the wait below tells.
            let _ = Cmd::new("losetup").args(["-d", &l.name]).output()?;
            wait::until("a loop device is detached", Duration::from_secs(15), || {
                Ok((!same(l)?).then_some(()))
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

fn all_loops() -> Result<Vec<Loop>> {
    #[derive(Deserialize)]
    struct Answer {
        loopdevices: Vec<Loop>,
    }
    let text = Cmd::new("losetup")
        .args(["--list", "--json", "-O", "NAME,BACK-INO,BACK-MAJ:MIN,BACK-FILE"])
        .run()?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let answer: Answer = serde_json::from_str(&text).with_context(|| format!("losetup said {text}"))?;
    Ok(answer.loopdevices)
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
