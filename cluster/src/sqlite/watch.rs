//! Watches of the embedded store: they read the change log whenever the thread tells of a new revision.

use async_trait::async_trait;
use tokio::sync::watch;

use super::thread::Worker;
use crate::store::{Batch, Changes, Event, Revision, StoreError};

/// Changes that are read at once.
const BATCH: usize = 500;

/// Where new revisions are told.
#[derive(Clone)]
pub(super) struct Log(watch::Receiver<u64>);

impl Log {
    pub(super) fn new(news: watch::Receiver<u64>) -> Self {
        Self(news)
    }

    /// A watch below a prefix (`root` is the store's own, which keys are told without).
    pub(super) fn follow(&self, worker: Worker, root: &str, prefix: &str, after: Revision) -> Follow {
        Follow {
            worker,
            news: self.0.clone(),
            prefix: format!("{root}{prefix}"),
            root: root.len(),
            after,
        }
    }
}

pub(super) struct Follow {
    worker: Worker,
    news: watch::Receiver<u64>,
    prefix: String,
    root: usize,
    after: Revision,
}

#[async_trait]
impl Changes for Follow {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        let newest = *self.news.borrow_and_update();
        if newest == self.after.0 {
            // Nothing new: tell that we are alive from time to time.
            match tokio::time::timeout(self.worker.deadline(), self.news.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return self.heard().await,
            }
        }
        let (prefix, after) = (self.prefix.clone(), self.after);
        let (mut events, revision) = self
            .worker
            .read("watch", move |db| db.changes(&prefix, after, BATCH))
            .await?;
        for event in &mut events {
            let key = match event {
                Event::Put(entry) => &mut entry.key,
                Event::Delete { key, .. } => key,
            };
            key.drain(..self.root.min(key.len()));
        }
        self.after = revision;
        Ok(if events.is_empty() {
            Batch::Progress(revision)
        } else {
            Batch::Changes(events, revision)
        })
    }
}

impl Follow {
    async fn heard(&self) -> Result<Batch, StoreError> {
        let revision = self.worker.read("watch", |db| Ok(db.revision)).await?;
        Ok(Batch::Progress(Revision(revision.min(self.after.0))))
    }
}
