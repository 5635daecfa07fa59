//! Which volumes have changed since somebody last asked: a set for each who asks, so that a storm of changes costs no more
//! than there are volumes. Holds ids only; what a volume is now, the catalogue says.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bulkhead_engine::ids::VolumeId;
use tokio::sync::Notify;

/// One who asks.
#[derive(Debug, Default)]
struct Feed {
    changed: Mutex<BTreeSet<VolumeId>>,
    some: Notify,
}

/// All who ask.
#[derive(Debug, Default)]
pub(super) struct Feeds(Mutex<Vec<Weak<Feed>>>);

impl Feeds {
    pub(super) fn subscribe(&self) -> Changed {
        let feed = Arc::<Feed>::default();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::downgrade(&feed));
        Changed { feed }
    }

    pub(super) fn tell(&self, volumes: impl IntoIterator<Item = VolumeId>) {
        let mut feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if feeds.is_empty() {
            return;
        }
        let volumes: Vec<VolumeId> = volumes.into_iter().collect();
        feeds.retain(|feed| {
            let Some(feed) = feed.upgrade() else { return false };
            if !volumes.is_empty() {
                feed.changed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(&volumes);
                feed.some.notify_one();
            }
            true
        });
    }
}

/// Tells which volumes of a catalogue have changed.
#[derive(Debug)]
pub struct Changed {
    feed: Arc<Feed>,
}

impl Changed {
    /// Those that have changed since the last call; waits until there is one. Safe to drop and call again.
    pub async fn next(&mut self) -> BTreeSet<VolumeId> {
        loop {
            let changed =
                std::mem::take(&mut *self.feed.changed.lock().unwrap_or_else(PoisonError::into_inner));
            if !changed.is_empty() {
                return changed;
            }
            self.feed.some.notified().await;
        }
    }
}
