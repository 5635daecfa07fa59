//! The embedded store: one SQLite file, one process, one thread that owns the connection. It says of itself that it
//! cannot arbitrate between nodes. Never answers a change before it is on disk (WAL, synchronous=FULL).

mod db;
mod file;
mod lease;
mod thread;
mod watch;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::db::Db;
use self::thread::Worker;
use self::watch::Log;
use crate::store::{
    Access, Capabilities, Changes, Cursor, Entry, Lease, LeaseId, Limits, Options, Page, Rest, Revision,
    Store, StoreError, Txn, check_key, check_prefix,
};

/// The shortest lease: below it a busy disk would end leases that are kept.
const MIN_TTL: Duration = Duration::from_secs(1);

/// An open SQLite store.
pub struct Sqlite {
    path: PathBuf,
    prefix: String,
    access: Arc<Access>,
    worker: Worker,
    log: Log,
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sqlite").field(&self.path).finish()
    }
}

impl Sqlite {
    /// Opens the file, making it and its directory if they are not there. Refuses a file that another process has
    /// open, that is damaged, or that is not ours.
    pub async fn open(path: &Path, options: &Options) -> Result<Self, StoreError> {
        let access = Arc::new(Access::default());
        let (worker, log) = Worker::start(path, options.deadline, Arc::clone(&access)).await?;
        Ok(Self {
            path: path.to_owned(),
            prefix: options.prefix.clone(),
            access,
            worker,
            log,
        })
    }

    /// The same file with another prefix: several clusters' keys may lie in one, as tests want it.
    #[must_use]
    pub fn with_prefix(&self, prefix: &str) -> Self {
        Self {
            path: self.path.clone(),
            prefix: prefix.to_owned(),
            access: Arc::clone(&self.access),
            worker: self.worker.clone(),
            log: self.log.clone(),
        }
    }

    /// Forgets the history of changes before a revision; watches that are further behind list again.
    pub async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.worker
            .change("compaction", move |db| db.compact(before))
            .await
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn short(&self, mut entry: Entry) -> Entry {
        entry.key.drain(..self.prefix.len().min(entry.key.len()));
        entry
    }
}

#[async_trait]
impl Store for Sqlite {
    fn name(&self) -> String {
        format!("sqlite {}", self.path.display())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            arbitrates: false,
            min_ttl: MIN_TTL,
            expiry_factor: 1,
            every_change: true,
        }
    }

    fn access(&self) -> &Access {
        &self.access
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        let key = self.full(key);
        let found = self.worker.read("get", move |db| db.get(&key)).await?;
        Ok(found.map(|entry| self.short(entry)))
    }

    async fn page(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        check_prefix(prefix)?;
        let (entries, given, revision) = match cursor {
            Some(Cursor {
                revision,
                rest: Rest::Held(entries, given),
            }) => (entries, given, revision),
            Some(_) => return Err(StoreError::Invalid("a cursor of another store".to_owned())),
            None => {
                let prefix = self.full(prefix);
                let (entries, revision) = self.worker.read("list", move |db| db.list(&prefix)).await?;
                let entries: Vec<Entry> = entries.into_iter().map(|entry| self.short(entry)).collect();
                (entries.into(), 0, revision)
            }
        };
        Ok(Page::of_held(entries, given, limit, revision))
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        Limits::check(&txn)?;
        let prefix = self.prefix.clone();
        self.worker
            .change("transaction", move |db| db.commit(&prefix, &txn))
            .await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Changes>, StoreError> {
        check_prefix(prefix)?;
        Ok(Box::new(self.log.follow(
            self.worker.clone(),
            &self.prefix,
            prefix,
            after,
        )))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let ttl = ttl.max(MIN_TTL);
        let id = self.worker.change("lease", move |db| db.grant(ttl)).await?;
        Ok(Lease { id, ttl })
    }

    async fn keep_alive(&self, lease: &LeaseId) -> Result<(), StoreError> {
        let lease = lease.clone();
        self.worker
            .read("keep-alive", move |db: &mut Db| db.keep_alive(&lease))
            .await
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<(), StoreError> {
        let lease = lease.clone();
        self.worker.change("revoke", move |db| db.revoke(&lease)).await
    }
}
