//! The file of the embedded store: who may open it, and whether it is ours and sound. Never changes a file that
//! it does not recognise.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use crate::store::StoreError;

/// "BHst": marks a database as ours.
const APPLICATION_ID: i32 = 0x4248_7374;
/// The layout of the tables.
const LAYOUT: i32 = 1;

const SCHEMA: &str = "
    CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL,
                        compacted INTEGER NOT NULL, next_lease INTEGER NOT NULL);
    INSERT INTO state VALUES (1, 1, 1, 1);
    CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease INTEGER)
        WITHOUT ROWID;
    CREATE INDEX entries_by_lease ON entries (lease) WHERE lease IS NOT NULL;
    CREATE TABLE changes (revision INTEGER NOT NULL, key TEXT NOT NULL, value BLOB,
                          PRIMARY KEY (revision, key)) WITHOUT ROWID;
    CREATE TABLE leases (id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL);
";

/// The right to use a store's file, for as long as it lives.
#[derive(Debug)]
pub(super) struct FileLock(#[expect(dead_code, reason = "the lock lives as long as the open file")] File);

impl FileLock {
    /// Takes it, or says which process has it.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let bad = |reason: String| bad_file(path, reason);
        if let Some(dir) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|error| bad(format!("its directory cannot be made: {error}")))?;
        }
        let lock_path = beside(path, ".lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| {
                bad(format!(
                    "its lock {} cannot be opened: {error}",
                    lock_path.display()
                ))
            })?;
        match file.try_lock() {
            Ok(()) => {
                // The number is a help for people; the lock itself is the kernel's.
                let noted = file
                    .set_len(0)
                    .and_then(|()| write!(file, "{}", std::process::id()));
                noted.map_err(|error| bad(format!("its lock cannot be written: {error}")))?;
                Ok(Self(file))
            }
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
                path: path.to_owned(),
                holder: holder(&mut file),
            }),
            Err(TryLockError::Error(error)) => Err(bad(format!("it cannot be locked: {error}"))),
        }
    }
}

fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    let read = lock
        .rewind()
        .and_then(|()| lock.take(32).read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} {}", name.trim()).trim_end().to_owned()
        }
        _ => "another process".to_owned(),
    }
}

/// Opens the database, makes its tables if it is new, and checks that it is ours and sound.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    // Made with its mode beforehand: SQLite would take the umask's, and WAL files follow the main file's mode.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| bad_file(path, format!("it cannot be opened: {error}")))?;
    let opened = Connection::open(path).and_then(|connection| {
        connection.busy_timeout(Duration::from_secs(2))?;
        let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let layout: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let objects: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
        Ok((connection, id, layout, objects))
    });
    let (mut connection, id, layout, objects) = opened.map_err(|error| damaged(path, &error))?;
    let fresh = id == 0 && layout == 0 && objects == 0;
    if !fresh && id != APPLICATION_ID {
        return Err(bad_file(
            path,
            "it is a database of another program; give another path in sqlite:///PATH".to_owned(),
        ));
    }
    if layout > LAYOUT {
        return Err(bad_file(
            path,
            format!(
                "its layout {layout} is of a newer Bulkhead (this one knows {LAYOUT}); upgrade this node"
            ),
        ));
    }
    prepare(&mut connection, fresh).map_err(|error| damaged(path, &error))?;
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| damaged(path, &error))?;
    if verdict != "ok" {
        return Err(bad_file(
            path,
            format!("it is damaged ({verdict}); restore it from a copy"),
        ));
    }
    Ok(connection)
}

fn prepare(connection: &mut Connection, fresh: bool) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    if fresh {
        let transaction = connection.transaction()?;
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", LAYOUT)?;
        transaction.commit()?;
    }
    Ok(())
}

fn damaged(path: &Path, error: &rusqlite::Error) -> StoreError {
    let reason = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => {
            format!("it is not a database ({error}); give another path, or restore it from a copy")
        }
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
            format!("it is damaged ({error}); restore it from a copy")
        }
        _ => error.to_string(),
    };
    bad_file(path, reason)
}

fn bad_file(path: &Path, reason: String) -> StoreError {
    StoreError::BadFile {
        path: path.to_owned(),
        reason,
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
