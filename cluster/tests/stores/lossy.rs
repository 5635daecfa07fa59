//! A store whose answers get lost: before the change was made, after it, or long before the change arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bulkhead_cluster::store::{
    Access, Capabilities, Changes, Cursor, Entry, Lease, LeaseId, Page, Revision, Store, StoreError, Txn,
};

/// Wraps a store. Loses by a sequence of its own, so a run can be repeated.
#[derive(Debug)]
pub struct Lossy {
    inner: Arc<dyn Store>,
    state: AtomicU64,
    /// How many answers were lost.
    pub lost: AtomicU64,
}

impl Lossy {
    pub fn new(inner: Arc<dyn Store>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            inner,
            state: AtomicU64::new(seed),
            lost: AtomicU64::new(0),
        })
    }

    /// splitmix64.
    fn draw(&self, of: u64) -> u64 {
        let mut z = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % of
    }

    fn unknown(&self) -> StoreError {
        self.lost.fetch_add(1, Ordering::Relaxed);
        StoreError::OutcomeUnknown {
            store: "lossy".to_owned(),
            reason: "the test lost the answer".to_owned(),
        }
    }
}

#[async_trait]
impl Store for Lossy {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn access(&self) -> &Access {
        self.inner.access()
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let entry = self.inner.get(key).await?;
        if self.draw(10) == 0 {
            return Err(StoreError::Timeout {
                store: "lossy".to_owned(),
                call: "get",
                within: Duration::ZERO,
                since: std::time::SystemTime::now(),
            });
        }
        Ok(entry)
    }

    async fn page(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.inner.page(prefix, cursor, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        match self.draw(8) {
            0 | 1 => {
                // Made, whatever came of it; we only do not hear of it.
                let _ = self.inner.commit(txn).await;
                Err(self.unknown())
            }
            2 => Err(self.unknown()),
            3 => {
                let (inner, pause) = (Arc::clone(&self.inner), Duration::from_millis(self.draw(300)));
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    let _ = inner.commit(txn).await;
                });
                Err(self.unknown())
            }
            _ => self.inner.commit(txn).await,
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Changes>, StoreError> {
        self.inner.watch(prefix, after).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: &LeaseId) -> Result<(), StoreError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }
}
