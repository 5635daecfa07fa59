//! This node's copy of the volumes' records: what Get, List and `status` answer from, at once and also while the store
//! is away. Owns the copy; changes nothing in the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_cluster::schema::{VOLUMES, VolumeRecord, VolumeState, read};
use bulkhead_cluster::store::{Entry, Event, Revision, Store, Update, Watcher};
use bulkhead_cluster::volumes::Volume;
use bulkhead_engine::ids::VolumeId;
use parking_lot::RwLock;

/// The copy.
#[derive(Default)]
pub(super) struct Catalog {
    content: RwLock<Content>,
}

#[derive(Default)]
struct Content {
    volumes: BTreeMap<VolumeId, (Revision, Arc<VolumeRecord>)>,
    /// Volumes by name; one that is being deleted has none any more.
    names: BTreeMap<String, VolumeId>,
    /// Keys whose records cannot be read.
    damaged: BTreeMap<String, String>,
}

impl Catalog {
    /// Fills the copy for the first time, and gives what keeps it up to date.
    pub(super) async fn load(store: Arc<dyn Store>) -> (Arc<Self>, Watcher) {
        let catalog = Arc::new(Self::default());
        let mut watcher = Watcher::new(store, VOLUMES);
        // The first change holds all there is.
        loop {
            match watcher.next().await {
                Update::Changed { events, .. } => {
                    catalog.apply(events);
                    return (catalog, watcher);
                }
                Update::Current(_) => {}
                Update::Away { error, .. } => tracing::warn!(%error, "the volumes cannot be read yet"),
            }
        }
    }

    /// Keeps the copy up to date for as long as it is polled.
    pub(super) async fn follow(&self, mut watcher: Watcher) {
        loop {
            match watcher.next().await {
                Update::Changed { events, .. } => self.apply(events),
                Update::Current(_) => {}
                Update::Away { error, .. } => {
                    tracing::warn!(%error, "the store cannot be watched; what is shown of volumes may be out of date");
                }
            }
        }
    }

    fn apply(&self, events: Vec<Event>) {
        let mut content = self.content.write();
        for event in events {
            match event {
                Event::Put(entry) => content.put(&entry),
                Event::Delete { key, revision } => content.delete(&key, revision),
            }
        }
    }

    /// Takes a record that this node has just written or read, ahead of the watch.
    pub(super) fn note(&self, volume: &Volume) {
        self.content
            .write()
            .insert(volume.revision, volume.record.clone());
    }

    /// The volume of a name.
    pub(super) fn by_name(&self, name: &str) -> Option<Arc<VolumeRecord>> {
        let content = self.content.read();
        let id = content.names.get(name)?;
        content.volumes.get(id).map(|(_, record)| record.clone())
    }

    /// All of them, those that are being deleted too.
    pub(super) fn all(&self) -> Vec<Arc<VolumeRecord>> {
        self.content
            .read()
            .volumes
            .values()
            .map(|(_, record)| record.clone())
            .collect()
    }

    /// Records that cannot be read, in words.
    pub(super) fn damaged(&self) -> Vec<String> {
        self.content.read().damaged.values().cloned().collect()
    }
}

impl Content {
    fn put(&mut self, entry: &Entry) {
        match read::<VolumeRecord>(entry) {
            Ok(volume) => {
                self.damaged.remove(&entry.key);
                self.insert(volume.revision, volume.record);
            }
            Err(error) => {
                tracing::error!(%error, "a volume's record cannot be read");
                self.damaged.insert(entry.key.clone(), error.to_string());
            }
        }
    }

    fn insert(&mut self, revision: Revision, record: VolumeRecord) {
        let id = record.id;
        if self.volumes.get(&id).is_some_and(|(known, _)| *known >= revision) {
            return;
        }
        if record.state == VolumeState::Deleting {
            if self.names.get(&record.name) == Some(&id) {
                self.names.remove(&record.name);
            }
        } else {
            self.names.insert(record.name.clone(), id);
        }
        self.volumes.insert(id, (revision, Arc::new(record)));
    }

    fn delete(&mut self, key: &str, revision: Revision) {
        self.damaged.remove(key);
        let Some(id) = key.strip_prefix(VOLUMES).and_then(|id| id.parse().ok()) else {
            return;
        };
        if self.volumes.get(&id).is_some_and(|(known, _)| *known <= revision)
            && let Some((_, record)) = self.volumes.remove(&id)
            && self.names.get(&record.name) == Some(&id)
        {
            self.names.remove(&record.name);
        }
    }
}
