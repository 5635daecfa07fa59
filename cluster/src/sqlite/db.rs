//! The store's tables and what is done on them, on the thread that owns the connection. Every change raises the
//! revision by one and is noted in the change log within the same SQLite transaction.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::file::{self, FileLock};
use super::thread::undecided;
use crate::store::{Entry, Event, Expect, LeaseId, Op, Revision, StoreError, Txn, prefix_end};

/// How many revisions of history are kept for watches, and how many more may pile up before they are dropped.
const KEPT_REVISIONS: u64 = 10_000;
const COMPACT_EVERY: u64 = 1_000;

/// What a step on the database may fail with.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite's own failure.
    Sql(rusqlite::Error),
    /// The answer is a refusal.
    Refused(StoreError),
    /// An earlier step failed at the disk; nothing is done since.
    Broken(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

/// The connection, the lock on its file, and when each lease ends.
pub(super) struct Db {
    pub(super) connection: Connection,
    pub(super) deadlines: BTreeMap<i64, (Instant, std::time::Duration)>,
    /// The newest revision, as committed.
    pub(super) revision: u64,
    pub(super) compacted: u64,
    broken: Option<String>,
    _lock: FileLock,
}

impl Db {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = FileLock::take(path)?;
        let connection = file::open(path)?;
        let mut db = Self {
            connection,
            deadlines: BTreeMap::new(),
            revision: 0,
            compacted: 0,
            broken: None,
            _lock: lock,
        };
        db.load().map_err(|error| StoreError::BadFile {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(db)
    }

    fn load(&mut self) -> rusqlite::Result<()> {
        let row = |row: &rusqlite::Row<'_>| Ok((number(row, 0)?, number(row, 1)?));
        (self.revision, self.compacted) =
            self.connection
                .query_row("SELECT revision, compacted FROM state", [], row)?;
        self.restore_leases()
    }

    /// Takes a step, unless the disk has failed before: a sync that failed once must not "succeed" at a second
    /// try (failure case 4), so the file is not used again until a restart has read what is really on the disk.
    pub(super) fn guarded<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if let Some(reason) = &self.broken {
            return Err(Fault::Broken(reason.clone()));
        }
        let result = step(self);
        if let Err(Fault::Sql(error)) = &result
            && undecided(error)
        {
            self.broken = Some(format!(
                "its disk failed ({error}); check the disk, then restart the daemon"
            ));
        }
        result
    }

    pub(super) fn get(&mut self, key: &str) -> Result<Option<Entry>, Fault> {
        let mut query = self
            .connection
            .prepare_cached("SELECT key, value, revision FROM entries WHERE key = ?1")?;
        Ok(query.query_row([key], entry).optional()?)
    }

    pub(super) fn list(&mut self, prefix: &str) -> Result<(Vec<Entry>, Revision), Fault> {
        let mut query = self.connection.prepare_cached(
            "SELECT key, value, revision FROM entries WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) ORDER BY key",
        )?;
        let rows = query.query_map(params![prefix, prefix_end(prefix)], entry)?;
        let entries = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        // This thread is the only one that writes, so nothing came in between.
        Ok((entries, Revision(self.revision)))
    }

    pub(super) fn commit(&mut self, prefix: &str, txn: &Txn) -> Result<Revision, Fault> {
        let sql = self.connection.transaction()?;
        for (key, expected) in &txn.checks {
            let found: Option<u64> = sql
                .prepare_cached("SELECT revision FROM entries WHERE key = ?1")?
                .query_row([format!("{prefix}{key}")], |row| number(row, 0))
                .optional()?;
            let holds = match expected {
                Expect::Absent => found.is_none(),
                Expect::At(revision) => found == Some(revision.0),
            };
            if !holds {
                return Err(Fault::Refused(StoreError::Conflict {
                    key: key.clone(),
                    expected: *expected,
                    found: found.map(Revision),
                }));
            }
        }
        let revision = self.revision + 1;
        let mut changed = false;
        for op in &txn.ops {
            changed |= apply(&sql, prefix, op, revision, &self.deadlines)?;
        }
        if changed {
            note_revision(&sql, revision)?;
            sql.commit()?;
            self.revision = revision;
            self.trim_log()?;
        }
        Ok(Revision(self.revision))
    }

    /// Changes below a prefix after a revision; at most about `limit` of them, never a part of a revision.
    pub(super) fn changes(
        &mut self,
        prefix: &str,
        after: Revision,
        limit: usize,
    ) -> Result<(Vec<Event>, Revision), Fault> {
        if after.0 < self.compacted || after.0 > self.revision {
            return Err(Fault::Refused(StoreError::Compacted {
                store: "sqlite".to_owned(),
                asked: after,
            }));
        }
        let mut query = self.connection.prepare_cached(
            "SELECT key, value, revision FROM changes WHERE revision > ?1 AND key >= ?2 AND (?3 IS NULL OR key < ?3)
             ORDER BY revision",
        )?;
        let mut rows = query.query(params![after.0 as i64, prefix, prefix_end(prefix)])?;
        let mut events: Vec<Event> = Vec::new();
        while let Some(row) = rows.next()? {
            let event = event(row)?;
            if let Some(last) = events.last()
                && events.len() >= limit
                && last.revision() != event.revision()
            {
                let upto = last.revision();
                return Ok((events, upto));
            }
            events.push(event);
        }
        Ok((events, Revision(self.revision)))
    }

    /// Drops the history up to and with a revision.
    pub(super) fn compact(&mut self, before: Revision) -> Result<(), Fault> {
        let before = before.0.min(self.revision);
        if before <= self.compacted {
            return Ok(());
        }
        let sql = self.connection.transaction()?;
        sql.execute("DELETE FROM changes WHERE revision <= ?1", [before as i64])?;
        sql.execute("UPDATE state SET compacted = ?1", [before as i64])?;
        sql.commit()?;
        self.compacted = before;
        Ok(())
    }

    pub(super) fn trim_log(&mut self) -> Result<(), Fault> {
        if self.revision - self.compacted > KEPT_REVISIONS + COMPACT_EVERY {
            self.compact(Revision(self.revision - KEPT_REVISIONS))?;
        }
        Ok(())
    }
}

pub(super) fn note_revision(sql: &Transaction<'_>, revision: u64) -> rusqlite::Result<()> {
    sql.prepare_cached("UPDATE state SET revision = ?1")?
        .execute([revision as i64])?;
    Ok(())
}

fn apply(
    sql: &Transaction<'_>,
    prefix: &str,
    op: &Op,
    revision: u64,
    leases: &BTreeMap<i64, (Instant, std::time::Duration)>,
) -> Result<bool, Fault> {
    let key = format!("{prefix}{}", op.key());
    match op {
        Op::Put { value, lease, .. } => {
            let lease = match lease {
                Some(id) => Some(
                    parse_lease(id)
                        .filter(|row| leases.contains_key(row))
                        .ok_or_else(|| Fault::Refused(StoreError::LeaseGone(id.clone())))?,
                ),
                None => None,
            };
            sql.prepare_cached("INSERT OR REPLACE INTO entries VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![key, &value[..], revision as i64, lease])?;
            sql.prepare_cached("INSERT INTO changes VALUES (?1, ?2, ?3)")?
                .execute(params![revision as i64, key, &value[..]])?;
            Ok(true)
        }
        Op::Delete { .. } => delete(sql, &key, revision),
    }
}

/// Removes a key and notes it; whether there was one.
pub(super) fn delete(sql: &Transaction<'_>, key: &str, revision: u64) -> Result<bool, Fault> {
    let gone = sql
        .prepare_cached("DELETE FROM entries WHERE key = ?1")?
        .execute([key])?;
    if gone > 0 {
        sql.prepare_cached("INSERT INTO changes VALUES (?1, ?2, NULL)")?
            .execute(params![revision as i64, key])?;
    }
    Ok(gone > 0)
}

pub(super) fn parse_lease(id: &LeaseId) -> Option<i64> {
    id.0.parse().ok()
}

fn number(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: row.get(0)?,
        value: Bytes::from(row.get::<_, Vec<u8>>(1)?),
        revision: Revision(number(row, 2)?),
    })
}

fn event(row: &rusqlite::Row<'_>) -> rusqlite::Result<Event> {
    Ok(match row.get_ref(1)? {
        ValueRef::Null => Event::Delete {
            key: row.get(0)?,
            revision: Revision(number(row, 2)?),
        },
        _ => Event::Put(entry(row)?),
    })
}
