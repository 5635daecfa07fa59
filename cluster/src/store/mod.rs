//! What Bulkhead asks of a metadata store: the trait that etcd, Consul and the embedded SQLite implement, and its
//! words. Owns no connection and knows no record; it must never lose the difference between "did not happen" and
//! "outcome unknown".
//!
//! Every call ends within the deadline that the store was opened with. Revisions grow with every change of the
//! store; an entry's revision is that of its last change and is what a compare-and-swap names.

mod access;
mod error;
mod key;
mod member;
mod open;
mod watcher;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::access::Access;
pub use self::error::StoreError;
pub(crate) use self::error::ago;
pub(crate) use self::key::{Limits, prefix_end};
pub use self::key::{check_key, check_prefix};
pub use self::member::Member;
pub use self::open::{Options, Secret, StoreUrl, Tls, open};
pub use self::watcher::{Update, Watcher};

/// The most checks and operations that one transaction may hold together: what the smallest store takes.
pub const MAX_TXN_OPS: usize = 60;
/// The largest value, in bytes.
pub const MAX_VALUE: usize = 128 << 10;
/// The most bytes of keys and values in one transaction.
pub const MAX_TXN_BYTES: usize = 256 << 10;
/// The longest key, in bytes.
pub const MAX_KEY: usize = 512;

/// A point in the store's history. Grows with every change; the numbers mean nothing between two stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease as the store names it: etcd's number, Consul's session, SQLite's row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub String);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// The time to live that the store granted, which may be longer than what was asked for (Consul: 10 s at least).
    pub ttl: Duration,
}

/// A key, its value, and when it was last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, without the cluster's prefix.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision of its last change.
    pub revision: Revision,
}

/// What a key must be for a transaction to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Not there.
    Absent,
    /// There, and unchanged since this revision.
    At(Revision),
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::At(revision) => write!(f, "at revision {revision}"),
        }
    }
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a value.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// The lease whose end removes the key. A key is written always with a lease or always without.
        lease: Option<LeaseId>,
    },
    /// Removes a key; no fault if it is not there.
    Delete {
        /// The key.
        key: String,
    },
}

impl Op {
    /// The key that it changes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Checks and changes that apply together or not at all. A key is changed at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub(crate) checks: Vec<(String, Expect)>,
    pub(crate) ops: Vec<Op>,
}

impl Txn {
    /// One without checks and changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies only if the key is as expected.
    #[must_use]
    pub fn check(mut self, key: impl Into<String>, expect: Expect) -> Self {
        self.checks.push((key.into(), expect));
        self
    }

    /// Writes a value.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        });
        self
    }

    /// Writes a value that goes when the lease ends.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Bytes>, lease: &LeaseId) -> Self {
        self.ops.push(Op::Put {
            key: key.into(),
            value: value.into(),
            lease: Some(lease.clone()),
        });
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }
}

/// Some entries of a prefix, in the order of their keys.
#[derive(Clone, Debug)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The revision for which all pages of this listing are true together.
    pub revision: Revision,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// Where a listing goes on. A store without pages of its own keeps the rest of its answer in here.
#[derive(Clone, Debug)]
pub struct Cursor {
    pub(crate) revision: Revision,
    pub(crate) rest: Rest,
}

#[derive(Clone, Debug)]
pub(crate) enum Rest {
    /// The last key that was given.
    After(String),
    /// Everything, and how many of it were given.
    Held(Arc<[Entry]>, usize),
}

impl Page {
    /// A page out of an answer that came whole.
    pub(crate) fn of_held(entries: Arc<[Entry]>, given: usize, limit: usize, revision: Revision) -> Self {
        let end = given.saturating_add(limit.max(1)).min(entries.len());
        let page = entries.get(given..end).unwrap_or_default().to_vec();
        let next = (end < entries.len()).then(|| Cursor {
            revision,
            rest: Rest::Held(Arc::clone(&entries), end),
        });
        Self {
            entries: page,
            revision,
            next,
        }
    }
}

/// One change that a watch saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key has this value now.
    Put(Entry),
    /// The key is gone.
    Delete {
        /// The key.
        key: String,
        /// The revision at which it went, or the one at which it was found gone.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// What the raw stream of a watch yields; [`Watcher`] makes one gapless sequence of it.
#[derive(Clone, Debug)]
pub enum Batch {
    /// The changes up to and with a revision, in order, each once.
    Changes(Vec<Event>, Revision),
    /// Something changed, and this is all there is now: from stores that keep no history (Consul).
    Everything(Vec<Entry>, Revision),
    /// Nothing changed up to this revision: the store was heard of.
    Progress(Revision),
}

/// The raw stream of a watch. Ends with an error when the connection does, and with [`StoreError::Compacted`]
/// when the store no longer has the history that was asked for.
#[async_trait]
pub trait Changes: Send {
    /// The next batch. Waits as long as nothing changes, but never long past the store's deadline without having
    /// heard from it: silence of a dead connection becomes an error.
    async fn next(&mut self) -> Result<Batch, StoreError>;
}

/// What a store can and cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether several nodes can share it, so that it can say which of them holds a volume.
    pub arbitrates: bool,
    /// The shortest lease that it grants.
    pub min_ttl: Duration,
    /// A key whose lease is no longer kept alive is gone at the latest after this many times its TTL (plus the
    /// time for a new leader, if there is none).
    pub expiry_factor: u32,
    /// Whether a watch yields every single change, or may merge several of one key.
    pub every_change: bool,
}

/// A metadata store. All keys are below the prefix that it was opened with.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The store as a person knows it, without secrets: `etcd h1:2379,h2:2379`.
    fn name(&self) -> String;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Whether it answered the last time, and if not, since when.
    fn access(&self) -> &Access;

    /// The entry of a key. Never older than any change that was acknowledged before the call.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// A page of at most `limit` entries whose keys begin with the prefix, in the order of their keys. All pages
    /// of a listing are of one revision; if the store forgets that one in between: [`StoreError::Compacted`].
    async fn page(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError>;

    /// Applies all changes if all checks hold, else fails with [`StoreError::Conflict`] and changes nothing.
    /// [`StoreError::OutcomeUnknown`]: may have been applied, or may still be. Gives the revision of the changes.
    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError>;

    /// The changes below a prefix that came after a revision.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Changes>, StoreError>;

    /// A new lease.
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Gives a lease its full time again. [`StoreError::LeaseGone`] if it has ended.
    async fn keep_alive(&self, lease: &LeaseId) -> Result<(), StoreError>;

    /// Ends a lease and with it its keys. No fault if it has ended.
    async fn revoke(&self, lease: &LeaseId) -> Result<(), StoreError>;

    /// Its servers, for people; empty if there are none that could be told apart.
    async fn members(&self) -> Result<Vec<Member>, StoreError> {
        Ok(Vec::new())
    }

    /// Every entry below a prefix, and the revision for which they are true together.
    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), StoreError> {
        const PAGE: usize = 500;
        const TRIES: usize = 5;
        let mut failure = None;
        for _ in 0..TRIES {
            match list_once(self, prefix, PAGE).await {
                Err(error @ StoreError::Compacted { .. }) => failure = Some(error),
                other => return other,
            }
        }
        Err(failure.unwrap_or_else(|| StoreError::Failed {
            store: self.name(),
            reason: "a listing did not end".to_owned(),
        }))
    }

    /// Writes a value if the key is as expected.
    async fn swap(&self, key: &str, expect: Expect, value: Bytes) -> Result<Revision, StoreError> {
        self.commit(Txn::new().check(key, expect).put(key, value)).await
    }
}

async fn list_once<S: Store + ?Sized>(
    store: &S,
    prefix: &str,
    limit: usize,
) -> Result<(Vec<Entry>, Revision), StoreError> {
    let mut page = store.page(prefix, None, limit).await?;
    let mut entries = page.entries;
    while let Some(cursor) = page.next {
        page = store.page(prefix, Some(cursor), limit).await?;
        entries.append(&mut page.entries);
    }
    Ok((entries, page.revision))
}
