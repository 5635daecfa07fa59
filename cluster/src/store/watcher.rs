//! One gapless sequence of changes out of listings, watches, lost connections and compactions. Owns what it has
//! already told (key and revision), so that it never tells a change twice nor leaves one out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Batch, Changes, Entry, Event, Revision, Store, StoreError};

/// The first pause after a failure; doubled up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// What a [`Watcher`] tells.
#[derive(Clone, Debug)]
pub enum Update {
    /// What changed up to and with a revision, in order. The first one holds all there is, and may be empty; after
    /// a compaction or an outage it holds the differences. Applied one after the other, these always give what
    /// the store held at that revision.
    Changed {
        /// The changes; per key in the order in which they happened.
        events: Vec<Event>,
        /// The revision for which all told so far is true.
        revision: Revision,
    },
    /// Nothing changed, and what was told is still true at this revision.
    Current(Revision),
    /// The store cannot be watched; what was told may be out of date. Told once per outage, the next
    /// [`Update::Changed`] or [`Update::Current`] ends it.
    Away {
        /// When it was first found away.
        since: SystemTime,
        /// Why.
        error: StoreError,
    },
}

/// Watches a prefix for as long as it lives.
pub struct Watcher {
    store: Arc<dyn Store>,
    prefix: String,
    told: BTreeMap<String, Revision>,
    /// The revision up to which all was told; `None` until the first listing.
    at: Option<Revision>,
    changes: Option<Box<dyn Changes>>,
    pause: Duration,
    away: bool,
}

impl Watcher {
    /// Watches everything below a prefix. Asks the store only when [`Self::next`] is called.
    pub fn new(store: Arc<dyn Store>, prefix: impl Into<String>) -> Self {
        Self {
            store,
            prefix: prefix.into(),
            told: BTreeMap::new(),
            at: None,
            changes: None,
            pause: Duration::ZERO,
            away: false,
        }
    }

    /// The next thing to tell. Waits as long as there is none. Safe to drop and call again: what was not told
    /// is told then.
    pub async fn next(&mut self) -> Update {
        loop {
            let pause = self.pause;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            match self.step().await {
                Ok(Some(update)) => {
                    self.pause = Duration::ZERO;
                    self.away = false;
                    return update;
                }
                Ok(None) => self.pause = Duration::ZERO,
                Err(StoreError::Compacted { .. }) => {
                    // List again; what was told is kept, so only the differences are told. A store that
                    // compacts faster than it can be listed must not make this a busy loop.
                    self.at = None;
                    self.changes = None;
                    self.pause = MIN_PAUSE;
                }
                Err(error) => {
                    self.changes = None;
                    self.pause = (pause * 2).clamp(MIN_PAUSE, MAX_PAUSE);
                    if !self.away {
                        self.away = true;
                        let since = self
                            .store
                            .access()
                            .away()
                            .map_or_else(SystemTime::now, |(since, _)| since);
                        return Update::Away { since, error };
                    }
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Update>, StoreError> {
        let Some(at) = self.at else {
            let (entries, revision) = self.store.list(&self.prefix).await?;
            return Ok(Some(self.everything(entries, revision)));
        };
        let changes = match &mut self.changes {
            Some(changes) => changes,
            none => none.insert(self.store.watch(&self.prefix, at).await?),
        };
        Ok(match changes.next().await? {
            Batch::Changes(events, revision) => self.changed(events, revision),
            Batch::Everything(entries, revision) => Some(self.everything(entries, revision)),
            Batch::Progress(revision) => {
                self.at = Some(at.max(revision));
                Some(Update::Current(at.max(revision)))
            }
        })
    }

    /// Tells the differences between what was told and all there is now.
    fn everything(&mut self, entries: Vec<Entry>, revision: Revision) -> Update {
        let mut gone = std::mem::take(&mut self.told);
        let mut events = Vec::new();
        for entry in entries {
            if gone.remove(&entry.key) != Some(entry.revision) {
                events.push(entry.clone());
            }
            self.told.insert(entry.key, entry.revision);
        }
        events.sort_by_key(|entry| entry.revision);
        let deleted = gone.into_keys().map(|key| Event::Delete { key, revision });
        let events = deleted.chain(events.into_iter().map(Event::Put)).collect();
        self.at = Some(revision);
        Update::Changed { events, revision }
    }

    /// Tells changes, less those that were told already (a watch may begin a little early).
    fn changed(&mut self, mut events: Vec<Event>, revision: Revision) -> Option<Update> {
        events.retain(|event| Some(event.revision()) > self.at);
        for event in &events {
            match event {
                Event::Put(entry) => self.told.insert(entry.key.clone(), entry.revision),
                Event::Delete { key, .. } => self.told.remove(key),
            };
        }
        self.at = self.at.max(Some(revision));
        (!events.is_empty()).then_some(Update::Changed { events, revision })
    }
}
