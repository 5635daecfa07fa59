//! Who has what mounted: counts by (volume, ID). Owns the counts and their file; mounts nothing.
//!
//! Docker does not send sets of IDs: `docker cp` on a running container mounts a second time **with the container's own
//! ID** and unmounts once. So each pair has a count. Counts are void after a reboot of the host (the boot id tells), and
//! those of an earlier dockerd are *carried over*: it may have been killed with its containers, and then the same ID
//! comes again without an Unmount in between; or its containers live on (live-restore), and only the Unmount comes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Version of the file's form.
const VERSION: u32 = 1;

/// The counts, kept in a file so that a restart of the daemon does not forget them.
///
/// The file is replaced in one step but not synced: it has to survive this process, not the machine.
#[derive(Debug)]
pub struct MountTable {
    path: PathBuf,
    content: Mutex<Content>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    boot_id: String,
    volumes: BTreeMap<String, BTreeMap<String, Entry>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    count: u32,
    /// Counted under an earlier dockerd.
    carried: bool,
}

/// What an Unmount left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remaining {
    /// Somebody still has the volume mounted.
    Some,
    /// Nobody has; perhaps nobody had.
    None,
}

impl MountTable {
    /// Reads the table. Counts of another boot, and of volumes that `survived` denies, are void.
    pub fn open(path: &Path, boot_id: &str, survived: impl Fn(&str) -> bool) -> Self {
        let mut volumes = match fs::read(path).map(|bytes| serde_json::from_slice::<Content>(&bytes)) {
            Ok(Ok(content)) if content.version == VERSION && content.boot_id == boot_id => content.volumes,
            Ok(Ok(_)) => BTreeMap::new(),
            Ok(Err(error)) => {
                tracing::warn!(path = %path.display(), %error, "the mount table cannot be read; counts start anew");
                BTreeMap::new()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the mount table cannot be read; counts start anew");
                BTreeMap::new()
            }
        };
        volumes.retain(|name, _| survived(name));
        let table = Self {
            path: path.to_owned(),
            content: Mutex::new(Content {
                version: VERSION,
                boot_id: boot_id.to_owned(),
                volumes,
            }),
        };
        table.change(|_| ());
        table
    }

    /// A new dockerd has come: what was counted so far was counted under an earlier one.
    pub fn carry_over(&self) {
        self.change(|volumes| {
            for entry in volumes.values_mut().flat_map(BTreeMap::values_mut) {
                entry.carried = true;
            }
        });
    }

    /// Counts a Mount.
    pub fn add(&self, name: &str, id: &str) {
        self.change(|volumes| {
            let ids = volumes.entry(name.to_owned()).or_default();
            let entry = ids.entry(id.to_owned()).or_insert(Entry {
                count: 0,
                carried: false,
            });
            // The same ID under a new dockerd is the same container started again, not a second use.
            let before = if entry.carried { 0 } else { entry.count };
            *entry = Entry {
                count: before.saturating_add(1),
                carried: false,
            };
        });
    }

    /// Counts an Unmount. One that is not known changes nothing.
    pub fn remove(&self, name: &str, id: &str) -> Remaining {
        self.change(|volumes| {
            let Some(ids) = volumes.get_mut(name) else {
                return Remaining::None;
            };
            if let Some(entry) = ids.get_mut(id) {
                entry.count = entry.count.saturating_sub(1);
                if entry.count == 0 || entry.carried {
                    ids.remove(id);
                }
            }
            if ids.is_empty() {
                volumes.remove(name);
                Remaining::None
            } else {
                Remaining::Some
            }
        })
    }

    /// Volumes that only an earlier dockerd has mounted.
    pub fn carried_only(&self) -> Vec<String> {
        let content = self.content.lock();
        let carried = |ids: &BTreeMap<String, Entry>| ids.values().all(|entry| entry.carried);
        content
            .volumes
            .iter()
            .filter(|(_, ids)| carried(ids))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Whether any count is carried over.
    pub fn has_carried(&self) -> bool {
        self.content
            .lock()
            .volumes
            .values()
            .flat_map(BTreeMap::values)
            .any(|entry| entry.carried)
    }

    /// Drops the carried counts of a volume.
    pub fn drop_carried(&self, name: &str) -> Remaining {
        self.change(|volumes| {
            let Some(ids) = volumes.get_mut(name) else {
                return Remaining::None;
            };
            ids.retain(|_, entry| !entry.carried);
            if ids.is_empty() {
                volumes.remove(name);
                Remaining::None
            } else {
                Remaining::Some
            }
        })
    }

    /// Forgets a volume.
    pub fn forget(&self, name: &str) {
        self.change(|volumes| volumes.remove(name));
    }

    /// How many IDs have a volume mounted.
    pub fn users(&self, name: &str) -> usize {
        self.content.lock().volumes.get(name).map_or(0, BTreeMap::len)
    }

    /// Whether nobody has anything mounted.
    pub fn is_empty(&self) -> bool {
        self.content.lock().volumes.is_empty()
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, BTreeMap<String, Entry>>) -> T) -> T {
        let mut content = self.content.lock();
        let value = change(&mut content.volumes);
        if let Err(error) = self.write(&content) {
            // The counts in memory are right; only a restart of the daemon would miss them.
            tracing::error!(path = %self.path.display(), %error, "the mount table could not be written");
        }
        value
    }

    fn write(&self, content: &Content) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(content)?)?;
        fs::rename(&fresh, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &tempfile::TempDir, boot: &str) -> MountTable {
        MountTable::open(&dir.path().join("mounts.json"), boot, |_| true)
    }

    #[test]
    fn docker_cp_counts_the_same_id_twice() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let table = open(&dir, "boot");
        table.add("v", "c1");
        table.add("v", "c1");
        assert_eq!(
            table.remove("v", "c1"),
            Remaining::Some,
            "the container still runs"
        );
        assert_eq!(table.remove("v", "c1"), Remaining::None);
        assert_eq!(
            table.remove("v", "c1"),
            Remaining::None,
            "an unknown one is no harm"
        );
        assert!(table.is_empty());
        Ok(())
    }

    #[test]
    fn counts_survive_the_daemon_but_not_the_host() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        open(&dir, "boot").add("v", "c1");
        let again = open(&dir, "boot");
        assert_eq!(again.users("v"), 1);
        assert!(open(&dir, "next boot").is_empty());
        Ok(())
    }

    #[test]
    fn counts_of_volumes_that_are_gone_are_void() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let table = open(&dir, "boot");
        table.add("gone", "c1");
        table.add("there", "c2");
        let again = MountTable::open(&dir.path().join("mounts.json"), "boot", |name| name == "there");
        assert_eq!((again.users("gone"), again.users("there")), (0, 1));
        Ok(())
    }

    #[test]
    fn a_new_dockerd_counts_anew() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let table = open(&dir, "boot");
        // Killed with its containers: the same ID again, then one Unmount.
        table.add("v", "c1");
        table.carry_over();
        assert_eq!(table.carried_only(), ["v"]);
        table.add("v", "c1");
        assert!(table.carried_only().is_empty());
        assert_eq!(table.remove("v", "c1"), Remaining::None);
        // Live-restore: no Mount, and later the Unmount of the old ID.
        table.add("w", "c2");
        table.carry_over();
        assert_eq!(table.remove("w", "c2"), Remaining::None);
        // Neither comes: reconciliation drops what nothing uses.
        table.add("x", "c3");
        table.carry_over();
        table.add("x", "c4");
        assert!(table.carried_only().is_empty() && table.has_carried());
        assert_eq!(table.drop_carried("x"), Remaining::Some);
        assert_eq!(table.remove("x", "c4"), Remaining::None);
        Ok(())
    }

    #[test]
    fn a_damaged_file_is_not_fatal() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("mounts.json"), b"{\"version\":1,\"boo")?;
        let table = open(&dir, "boot");
        assert!(table.is_empty());
        table.add("v", "c");
        assert_eq!(open(&dir, "boot").users("v"), 1);
        Ok(())
    }
}
