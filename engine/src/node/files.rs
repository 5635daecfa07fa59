//! The two files of an open replica, and how a disk operation of its machine is done on them.
//!
//! Does what the machine says, once, and reports the outcome; decides nothing and retries nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::disk::{BlockFile, is_out_of_space};
use crate::format::FailCause;
use crate::geometry::ByteRange;
use crate::io::{AlignedBuf, Data, MAX_REQUEST};
use crate::machine::replica::{DiskDone, DiskError, DiskOp, MetaWrite};

/// Free bytes below which a pool that has refused a write still counts as full, if a twentieth of the pool is not less.
const FULL_BELOW: u64 = 64 << 20;

const READ: &str = "read of the data";
const WRITE: &str = "write of the data";
const ZERO: &str = "discard in the data";

/// The outcome of a disk operation.
pub(super) type Outcome = Result<DiskDone<Data>, DiskError>;

struct Pair {
    data: Arc<dyn BlockFile>,
    meta: Arc<dyn BlockFile>,
}

/// What went wrong with the files, in words.
#[derive(Debug, Default)]
struct Trouble {
    /// The first error that was not "no space".
    error: Option<String>,
    /// The pool has refused a write for want of space.
    no_space: bool,
}

/// The open files of a replica.
pub(super) struct Files {
    dir: PathBuf,
    /// Gone once closed; with the last descriptor goes the lock on the replica.
    pair: RwLock<Option<Pair>>,
    trouble: Mutex<Trouble>,
}

impl Files {
    pub(super) fn new(dir: &Path, data: Arc<dyn BlockFile>, meta: Arc<dyn BlockFile>) -> Self {
        Self {
            dir: dir.to_owned(),
            pair: RwLock::new(Some(Pair { data, meta })),
            trouble: Mutex::default(),
        }
    }

    /// Where they lie.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Does a disk operation that the page cache takes or gives without waiting for the disk; gives any other back.
    pub(super) fn execute_at_once(&self, op: DiskOp<Data>) -> Result<Outcome, DiskOp<Data>> {
        let guard = self.pair.try_read();
        let Some(files) = guard.as_ref().and_then(|pair| pair.as_ref()) else {
            return Ok(Err(DiskError::Io));
        };
        let data = files.data.as_ref();
        let (what, outcome) = match op {
            DiskOp::Read(range) => {
                let mut buf = AlignedBuf::stale(range.len as usize);
                match data.read_at_once(&mut buf, range.offset) {
                    Ok(false) => return Err(op),
                    Ok(true) => (READ, Ok(DiskDone::Data(Data::whole(buf)))),
                    Err(error) => (READ, Err(error)),
                }
            }
            DiskOp::Write { offset, data: bytes } if data.is_cached() => {
                (WRITE, data.write_at(&bytes, offset).map(done))
            }
            DiskOp::Zero(range) if range.len <= MAX_REQUEST as u64 => (ZERO, data.zero(range).map(done)),
            DiskOp::Write { .. }
            | DiskOp::Zero(_)
            | DiskOp::ReadOrHole(_)
            | DiskOp::SyncData
            | DiskOp::CommitMeta(_) => return Err(op),
        };
        Ok(outcome.map_err(|error| self.note(what, &error)))
    }

    /// Does a disk operation.
    pub(super) fn execute(&self, op: DiskOp<Data>) -> Outcome {
        // A closing is under way or done if this fails: nothing may reach the files any more.
        let guard = self.pair.try_read();
        let Some(files) = guard.as_ref().and_then(|pair| pair.as_ref()) else {
            return Err(DiskError::Io);
        };
        let data = files.data.as_ref();
        let (what, outcome) = match op {
            DiskOp::Read(range) => (READ, read(data, range)),
            DiskOp::ReadOrHole(range) => (READ, read_or_hole(data, range)),
            DiskOp::Write { offset, data: bytes } => (WRITE, data.write_at(&bytes, offset).map(done)),
            DiskOp::Zero(range) => (ZERO, data.zero(range).map(done)),
            DiskOp::SyncData => ("sync of the data", data.sync().map(done)),
            DiskOp::CommitMeta(writes) => (
                "commit of the metadata",
                commit(files.meta.as_ref(), &writes).map(done),
            ),
        };
        outcome.map_err(|error| self.note(what, &error))
    }

    fn note(&self, what: &str, error: &io::Error) -> DiskError {
        let mut trouble = self.trouble.lock();
        if is_out_of_space(error) {
            if !trouble.no_space {
                tracing::warn!(dir = %self.dir.display(), %error, "the pool is full: {what} was refused");
            }
            trouble.no_space = true;
            return DiskError::NoSpace;
        }
        tracing::error!(dir = %self.dir.display(), %error, "{what} failed");
        trouble
            .error
            .get_or_insert_with(|| format!("{what} failed: {error}"));
        DiskError::Io
    }

    /// The first error that was seen, in words.
    pub(super) fn first_error(&self) -> Option<String> {
        self.trouble.lock().error.clone()
    }

    /// Whether the pool has refused a write and still has no room.
    pub(super) fn is_pool_full(&self) -> bool {
        let mut trouble = self.trouble.lock();
        if trouble.no_space
            && let Ok(pool) = nix::sys::statvfs::statvfs(&self.dir)
        {
            let enough = (pool.blocks() / 20)
                .saturating_mul(pool.fragment_size())
                .min(FULL_BELOW);
            trouble.no_space = pool.blocks_available().saturating_mul(pool.fragment_size()) < enough;
        }
        trouble.no_space
    }

    /// Bytes that the data file takes up in its pool; nothing once it is closed, or while it is being.
    pub(super) fn allocated(&self) -> Option<u64> {
        let guard = self.pair.try_read()?;
        guard.as_ref()?.data.allocated().ok()
    }

    /// Closes them, and with them gives the lock on the replica back. Nothing may be under way on them.
    pub(super) fn close(&self) {
        *self.pair.write() = None;
    }
}

/// A cause of failure in words.
pub(super) const fn describe(cause: FailCause) -> &'static str {
    match cause {
        FailCause::Write => "a write to its files failed",
        FailCause::Sync => "a sync of its files failed, so nobody knows what the disk holds",
        FailCause::Read => "a read of its files failed",
        FailCause::Checksum => "a checksum of its content did not match",
    }
}

const fn done((): ()) -> DiskDone<Data> {
    DiskDone::Done
}

fn read(file: &dyn BlockFile, range: ByteRange) -> io::Result<DiskDone<Data>> {
    let mut buf = AlignedBuf::stale(range.len as usize);
    file.read_at(&mut buf, range.offset)?;
    Ok(DiskDone::Data(Data::whole(buf)))
}

fn read_or_hole(file: &dyn BlockFile, range: ByteRange) -> io::Result<DiskDone<Data>> {
    match file.next_data(range.offset)? {
        Some(data) if data.offset < range.end() => read(file, range),
        _ => Ok(DiskDone::Hole),
    }
}

fn commit(file: &dyn BlockFile, writes: &[MetaWrite]) -> io::Result<()> {
    for write in writes {
        file.write_at(&write.bytes, write.offset)?;
    }
    file.sync()
}
