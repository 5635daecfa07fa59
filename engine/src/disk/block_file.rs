//! The few things that are done to a replica's file, as a trait, so that a test can record them or make them fail.
//!
//! An implementation does what it is told once, on the calling thread, and reports; it never retries.

use std::io;

use crate::geometry::ByteRange;

/// A file of fixed length that is read and written at offsets.
///
/// Calls may overlap in time. A write that returned is seen by every later read, and is on disk only once a
/// [`sync`](Self::sync) that began after it returned has succeeded.
pub trait BlockFile: Send + Sync + 'static {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Fills `buf` from `offset` on. Short of the end of the file it is an error.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// As [`read_at`](Self::read_at), if that can be done without waiting for the disk; else `false`, and what `buf`
    /// holds means nothing.
    fn read_at_once(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_at(buf, offset).map(|()| true)
    }

    /// Whether a write is taken by the page cache, and does not wait for the disk.
    fn is_cached(&self) -> bool {
        true
    }

    /// Writes all of `bytes` from `offset` on. After an error, any of them may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes a range zero and gives its space back where the file system can.
    fn zero(&self, range: ByteRange) -> io::Result<()>;

    /// `fdatasync`. After an error nobody knows what is on disk: it must not be called again (rule D6).
    fn sync(&self) -> io::Result<()>;

    /// The first range at or after `from` that holds data, up to the next hole; `None` if only holes follow.
    fn next_data(&self, from: u64) -> io::Result<Option<ByteRange>>;

    /// Bytes that the file takes up in its pool.
    fn allocated(&self) -> io::Result<u64>;
}

/// Whether an error says that the pool has no room (or the quota is used up), rather than that the disk is bad.
pub fn is_out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
