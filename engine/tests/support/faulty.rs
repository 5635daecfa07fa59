//! A block file that fails on command: EIO, ENOSPC, a failing sync, a slow one. Everything else is passed on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bulkhead_engine::disk::BlockFile;
use bulkhead_engine::geometry::ByteRange;
use parking_lot::Mutex;

/// What to do wrong. Shared with the test, which changes it while the file is in use.
#[derive(Default)]
pub struct Faults {
    /// Error number that reads fail with.
    pub read: Mutex<Option<i32>>,
    /// Error number that writes and zeroes fail with.
    pub write: Mutex<Option<i32>>,
    /// Error number that syncs fail with.
    pub sync: Mutex<Option<i32>>,
    /// How long a sync takes, in milliseconds.
    pub sync_delay_ms: AtomicU64,
    /// How long a write takes, in milliseconds.
    pub write_delay_ms: AtomicU64,
    /// How long a read takes, in milliseconds, and to see where data lies.
    pub read_delay_ms: AtomicU64,
    /// Syncs that were asked for.
    pub syncs: AtomicUsize,
    /// Writes and zeroes that were asked for.
    pub writes: AtomicUsize,
}

impl Faults {
    /// `inner`, with these faults.
    pub fn wrap(self: &Arc<Self>, inner: Arc<dyn BlockFile>) -> Arc<dyn BlockFile> {
        Arc::new(Faulty {
            inner,
            faults: self.clone(),
        })
    }

    fn fail(of: &Mutex<Option<i32>>) -> io::Result<()> {
        match *of.lock() {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }

    fn delay(by: &AtomicU64) {
        let millis = by.load(Ordering::Relaxed);
        if millis > 0 {
            std::thread::sleep(Duration::from_millis(millis));
        }
    }

    fn before_write(&self) -> io::Result<()> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Self::delay(&self.write_delay_ms);
        Self::fail(&self.write)
    }
}

struct Faulty {
    inner: Arc<dyn BlockFile>,
    faults: Arc<Faults>,
}

impl BlockFile for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        Faults::delay(&self.faults.read_delay_ms);
        Faults::fail(&self.faults.read)?;
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.faults.before_write()?;
        self.inner.write_at(bytes, offset)
    }

    fn zero(&self, range: ByteRange) -> io::Result<()> {
        self.faults.before_write()?;
        self.inner.zero(range)
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.syncs.fetch_add(1, Ordering::Relaxed);
        Faults::delay(&self.faults.sync_delay_ms);
        Faults::fail(&self.faults.sync)?;
        self.inner.sync()
    }

    fn next_data(&self, from: u64) -> io::Result<Option<ByteRange>> {
        Faults::delay(&self.faults.read_delay_ms);
        self.inner.next_data(from)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }
}
