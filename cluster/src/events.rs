//! What happened and what is wrong, as the store keeps it: alerts that are raised once and cleared once, whichever node
//! sees them, and a bounded number of events of each node. Decides nothing about what is worth telling.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bulkhead_engine::ids::NodeId;

use crate::schema::{
    AlertRecord, EventKind, EventRecord, Extra, Object, SchemaError, Severity, Timestamp, alert_key, encode,
    event_key,
};
use crate::store::{Expect, Store, StoreError, Txn};

/// How many events of each node are kept; newer ones take the place of the oldest.
pub const KEPT: u64 = 100;
/// The longest sentence that is kept, in bytes.
const MAX_TEXT: usize = 2000;

/// Why something could not be told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EventError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be written.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// Something to be told.
#[derive(Clone, Debug)]
pub struct News {
    /// What it says.
    pub kind: EventKind,
    /// As one word for programs.
    pub what: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub object: Object,
    /// What happened, in a sentence.
    pub cause: String,
    /// What to do, in a sentence.
    pub remedy: String,
}

/// The events of one node, and the alerts of all.
#[derive(Debug)]
pub struct Events {
    store: Arc<dyn Store>,
    node: NodeId,
    next: AtomicU64,
}

impl Events {
    /// Those that a store holds; `next` is the number of this node's next event: one more than its newest that is kept.
    pub fn new(store: Arc<dyn Store>, node: NodeId, next: u64) -> Self {
        Self {
            store,
            node,
            next: AtomicU64::new(next),
        }
    }

    /// This node's events are numbered from `next` on, unless they are further already.
    pub fn continue_at(&self, next: u64) {
        self.next.fetch_max(next, Ordering::Relaxed);
    }

    /// Tells that something happened.
    pub async fn tell(&self, news: &News) -> Result<(), EventError> {
        let txn = self.with_event(Txn::new(), news)?;
        self.store.commit(txn).await?;
        Ok(())
    }

    /// Raises an alert and tells of it; whether this was the one that did.
    pub async fn raise(&self, alert: &AlertRecord) -> Result<bool, EventError> {
        let mut alert = alert.clone();
        alert.cause = bounded(&alert.cause);
        let key = alert_key(&alert.object, &alert.alert)?;
        let txn = Txn::new()
            .check(&key, Expect::Absent)
            .put(&key, encode(&key, &alert)?);
        let txn = self.with_event(txn, &News::of(&alert, EventKind::Raised))?;
        self.settle(txn).await
    }

    /// Says of an alert that stays what is wrong now.
    pub async fn reword(&self, alert: &AlertRecord) -> Result<(), EventError> {
        let mut alert = alert.clone();
        alert.cause = bounded(&alert.cause);
        let key = alert_key(&alert.object, &alert.alert)?;
        // Cleared meanwhile, it stays so.
        let Some(found) = self.store.get(&key).await? else {
            return Ok(());
        };
        let txn = Txn::new()
            .check(&key, Expect::At(found.revision))
            .put(&key, encode(&key, &alert)?);
        self.settle(txn).await.map(drop)
    }

    /// Clears an alert and tells of it; whether this was the one that did.
    pub async fn clear(&self, alert: &AlertRecord) -> Result<bool, EventError> {
        let key = alert_key(&alert.object, &alert.alert)?;
        let Some(found) = self.store.get(&key).await? else {
            return Ok(false);
        };
        let txn = Txn::new().check(&key, Expect::At(found.revision)).delete(&key);
        let txn = self.with_event(txn, &News::of(alert, EventKind::Cleared))?;
        self.settle(txn).await
    }

    /// Somebody else's doing is no failure, and what was done by an answer that was lost is found at the next look.
    async fn settle(&self, txn: Txn) -> Result<bool, EventError> {
        match self.store.commit(txn).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn with_event(&self, txn: Txn, news: &News) -> Result<Txn, EventError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let key = event_key(self.node, number % KEPT);
        let event = EventRecord {
            number,
            at: Timestamp::now(),
            node: self.node,
            kind: news.kind,
            what: news.what.clone(),
            severity: news.severity,
            object: news.object.clone(),
            cause: bounded(&news.cause),
            remedy: bounded(&news.remedy),
            extra: Extra::new(),
        };
        Ok(txn.put(&key, encode(&key, &event)?))
    }
}

impl News {
    /// That an alert was raised or cleared.
    fn of(alert: &AlertRecord, kind: EventKind) -> Self {
        Self {
            kind,
            what: alert.alert.clone(),
            severity: alert.severity,
            object: alert.object.clone(),
            cause: alert.cause.clone(),
            remedy: match kind {
                EventKind::Cleared => String::new(),
                EventKind::Raised | EventKind::Happened => alert.remedy.clone(),
            },
        }
    }
}

fn bounded(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let mut end = MAX_TEXT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or_default())
}
