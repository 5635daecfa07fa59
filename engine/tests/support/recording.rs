//! A block file that passes everything on and keeps a log of it, one log for both files of a replica.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_engine::disk::BlockFile;
use bulkhead_engine::geometry::ByteRange;
use parking_lot::Mutex;
use rand::Rng;

/// Which of a replica's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    Data,
    Meta,
}

/// One thing that happened, in the order in which it did. `id` joins a beginning and its end.
#[derive(Clone, Debug)]
pub enum Event {
    WriteBegun {
        id: u64,
        file: Which,
        offset: u64,
        bytes: Vec<u8>,
    },
    WriteDone {
        id: u64,
    },
    SyncBegun {
        id: u64,
        file: Which,
    },
    SyncDone {
        id: u64,
        file: Which,
    },
    /// Something that the test itself wants to find again, such as an acknowledgement.
    Mark,
}

#[derive(Default)]
struct Log {
    next_id: u64,
    events: Vec<Event>,
}

/// The log.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Log>>);

impl Recorder {
    /// `inner`, recorded.
    pub fn record(&self, file: Which, inner: Arc<dyn BlockFile>) -> Arc<dyn BlockFile> {
        Arc::new(Recorded {
            file,
            inner,
            log: self.clone(),
            lie_about_sync: false,
        })
    }

    /// `inner`, recorded, with a sync that does nothing and says that it did: a deliberate fault.
    pub fn record_without_sync(&self, file: Which, inner: Arc<dyn BlockFile>) -> Arc<dyn BlockFile> {
        Arc::new(Recorded {
            file,
            inner,
            log: self.clone(),
            lie_about_sync: true,
        })
    }

    /// Notes that something happened now; gives its place in the log.
    pub fn mark(&self) -> usize {
        let mut log = self.0.lock();
        log.events.push(Event::Mark);
        log.events.len() - 1
    }

    /// Everything so far.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().events)
    }

    fn begin(&self, event: impl FnOnce(u64) -> Event) -> u64 {
        let mut log = self.0.lock();
        let id = log.next_id;
        log.next_id += 1;
        log.events.push(event(id));
        id
    }

    fn end(&self, event: Event) {
        self.0.lock().events.push(event);
    }
}

struct Recorded {
    file: Which,
    inner: Arc<dyn BlockFile>,
    log: Recorder,
    lie_about_sync: bool,
}

impl BlockFile for Recorded {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let file = self.file;
        let id = self.log.begin(|id| Event::WriteBegun {
            id,
            file,
            offset,
            bytes: bytes.to_vec(),
        });
        self.inner.write_at(bytes, offset)?;
        self.log.end(Event::WriteDone { id });
        Ok(())
    }

    fn zero(&self, range: ByteRange) -> io::Result<()> {
        let (file, offset) = (self.file, range.offset);
        let id = self.log.begin(|id| Event::WriteBegun {
            id,
            file,
            offset,
            bytes: vec![0; range.len as usize],
        });
        self.inner.zero(range)?;
        self.log.end(Event::WriteDone { id });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.lie_about_sync {
            return Ok(());
        }
        let file = self.file;
        let id = self.log.begin(|id| Event::SyncBegun { id, file });
        // As a disk does, it takes a while, during which others go on.
        std::thread::sleep(Duration::from_micros(rand::rng().random_range(0..400)));
        self.inner.sync()?;
        self.log.end(Event::SyncDone { id, file });
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<ByteRange>> {
        self.inner.next_data(from)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }
}
