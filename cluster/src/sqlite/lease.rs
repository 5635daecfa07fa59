//! Leases of the embedded store. They end by the monotonic clock of the process that has the file open; a lease
//! found at a start gets its whole time once more, because how long the process was away is not known for sure.

use std::time::{Duration, Instant};

use rusqlite::params;

use super::db::{Db, Fault, delete, note_revision, parse_lease};
use crate::store::{LeaseId, StoreError};

impl Db {
    pub(super) fn restore_leases(&mut self) -> rusqlite::Result<()> {
        let now = Instant::now();
        let mut query = self.connection.prepare("SELECT id, ttl_ms FROM leases")?;
        let rows = query.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
        for row in rows {
            let (id, ttl_ms) = row?;
            let ttl = Duration::from_millis(ttl_ms.unsigned_abs());
            self.deadlines.insert(id, (now + ttl, ttl));
        }
        Ok(())
    }

    pub(super) fn grant(&mut self, ttl: Duration) -> Result<LeaseId, Fault> {
        let ttl = ttl.min(Duration::from_secs(86_400));
        let sql = self.connection.transaction()?;
        let id: i64 = sql.query_row(
            "UPDATE state SET next_lease = next_lease + 1 RETURNING next_lease",
            [],
            |row| row.get(0),
        )?;
        sql.execute(
            "INSERT INTO leases VALUES (?1, ?2)",
            params![id, ttl.as_millis() as i64],
        )?;
        sql.commit()?;
        self.deadlines.insert(id, (Instant::now() + ttl, ttl));
        Ok(LeaseId(id.to_string()))
    }

    pub(super) fn keep_alive(&mut self, lease: &LeaseId) -> Result<(), Fault> {
        let known = parse_lease(lease).and_then(|id| self.deadlines.get_mut(&id));
        let Some((deadline, ttl)) = known else {
            return Err(Fault::Refused(StoreError::LeaseGone(lease.clone())));
        };
        let now = Instant::now();
        if *deadline <= now {
            // It has ended, though nobody has come round to removing its keys: they may not outlive their promise.
            self.expire()?;
            return Err(Fault::Refused(StoreError::LeaseGone(lease.clone())));
        }
        *deadline = now + *ttl;
        Ok(())
    }

    pub(super) fn revoke(&mut self, lease: &LeaseId) -> Result<(), Fault> {
        match parse_lease(lease).filter(|id| self.deadlines.contains_key(id)) {
            Some(id) => self.end(id),
            None => Ok(()),
        }
    }

    /// When the next lease ends.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.deadlines.values().map(|(deadline, _)| *deadline).min()
    }

    /// Ends the leases whose time is over.
    pub(super) fn expire(&mut self) -> Result<(), Fault> {
        let now = Instant::now();
        let over: Vec<i64> = self
            .deadlines
            .iter()
            .filter(|(_, (deadline, _))| *deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.end(id)?;
        }
        Ok(())
    }

    fn end(&mut self, id: i64) -> Result<(), Fault> {
        let revision = self.revision + 1;
        let sql = self.connection.transaction()?;
        let keys = sql
            .prepare_cached("SELECT key FROM entries WHERE lease = ?1")?
            .query_map([id], |row| row.get::<_, String>(0))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        for key in &keys {
            delete(&sql, key, revision)?;
        }
        sql.execute("DELETE FROM leases WHERE id = ?1", [id])?;
        if !keys.is_empty() {
            note_revision(&sql, revision)?;
        }
        sql.commit()?;
        if !keys.is_empty() {
            self.revision = revision;
        }
        self.deadlines.remove(&id);
        self.trim_log()
    }
}
