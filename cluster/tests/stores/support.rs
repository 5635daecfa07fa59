//! What the tests of all stores share: following a watcher.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_cluster::store::{Event, Revision, Update, Watcher};
pub use bulkhead_test_servers::{until, within};
use bytes::Bytes;

/// What a watcher told, applied in order, with the rules that every sequence must keep.
pub struct Follower {
    pub watcher: Watcher,
    pub state: BTreeMap<String, (Bytes, Revision)>,
    pub seen: Vec<Event>,
    pub at: Revision,
    pub outages: usize,
}

impl Follower {
    pub fn new(watcher: Watcher) -> Self {
        Self {
            watcher,
            state: BTreeMap::new(),
            seen: Vec::new(),
            at: Revision(0),
            outages: 0,
        }
    }

    pub async fn step(&mut self) {
        match self.watcher.next().await {
            Update::Changed { events, revision } => {
                for event in events {
                    self.apply(&event);
                    assert!(
                        event.revision() <= revision,
                        "{event:?} is later than its batch {revision}"
                    );
                    self.seen.push(event);
                }
                assert!(revision >= self.at, "told {revision} after {}", self.at);
                self.at = revision;
            }
            Update::Current(revision) => {
                assert!(revision >= self.at, "current at {revision} after {}", self.at);
                self.at = revision;
            }
            Update::Away { .. } => self.outages += 1,
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Put(entry) => {
                let old = self
                    .state
                    .insert(entry.key.clone(), (entry.value.clone(), entry.revision));
                assert!(
                    old.is_none_or(|(_, told)| told < entry.revision),
                    "told twice or out of order: {}",
                    entry.key
                );
            }
            Event::Delete { key, .. } => {
                assert!(
                    self.state.remove(key).is_some(),
                    "told that {key} went, which was not told to be there"
                );
            }
        }
    }

    /// Follows until the state is as wanted.
    pub async fn until(&mut self, limit: Duration, what: &str, holds: impl Fn(&Self) -> bool) {
        within(limit, what, async {
            while !holds(self) {
                self.step().await;
            }
        })
        .await;
    }
}
