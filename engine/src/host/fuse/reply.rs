//! The answer to a request: exactly one, whatever becomes of the completion that was to give it.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use super::abi;
use crate::geometry::ByteRange;
use crate::io::IoError;

/// The right, and the duty, to answer one request. Dropped without an answer, it answers EIO, so that no fault of
/// the device leaves the kernel waiting.
pub struct Reply {
    connection: Option<Arc<File>>,
    unique: u64,
}

impl Reply {
    /// For the request with this number on this connection.
    pub fn new(connection: Arc<File>, unique: u64) -> Self {
        Self {
            connection: Some(connection),
            unique,
        }
    }

    /// Answers with the bytes that this operation returns.
    pub fn ok(self, body: &[u8]) {
        self.parts(&[body]);
    }

    /// Answers with nothing but success.
    pub fn done(self) {
        self.parts(&[]);
    }

    /// Answers with an error number.
    pub fn error(mut self, errno: i32) {
        if let Some(connection) = self.connection.take() {
            send_error(&connection, self.unique, errno);
        }
    }

    /// Answers a read of this range.
    pub fn read(self, data: &[u8], range: ByteRange) {
        if data.len() as u64 == range.len {
            return self.ok(data);
        }
        tracing::error!(
            ?range,
            "the device answered a read with other bytes than asked for"
        );
        self.error(libc::EIO);
    }

    /// Answers with the outcome of a block request that returns no bytes; `body` if it went well.
    pub fn outcome(self, outcome: Result<(), IoError>, body: &[u8]) {
        match outcome {
            Ok(()) => self.ok(body),
            Err(error) => self.error(errno(error)),
        }
    }

    fn parts(mut self, body: &[&[u8]]) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        let len = body.iter().map(|part| part.len()).sum::<usize>();
        if let Err(error) = send(&connection, self.unique, 0, len, body)
            && !is_gone(&error)
        {
            // The answer itself was not taken (no memory, say): the request must not hang for that.
            tracing::error!(%error, "a FUSE answer of {len} bytes was not taken");
            send_error(&connection, self.unique, libc::EIO);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            tracing::error!("the device dropped a request without an answer");
            send_error(&connection, self.unique, libc::EIO);
        }
    }
}

/// The error number that the kernel is told.
pub fn errno(error: IoError) -> i32 {
    match error {
        IoError::Invalid => libc::EINVAL,
        IoError::NoSpace => libc::ENOSPC,
        IoError::Io => libc::EIO,
    }
}

fn send_error(connection: &File, unique: u64, errno: i32) {
    if let Err(error) = send(connection, unique, -errno, 0, &[])
        && !is_gone(&error)
    {
        tracing::error!(%error, errno, "a FUSE error answer was not taken");
    }
}

/// The request was given up (ENOENT) or the connection is gone: nobody waits for this answer any more.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::ENOTCONN | libc::ECONNABORTED | libc::EPERM)
    )
}

fn send(connection: &File, unique: u64, error: i32, len: usize, body: &[&[u8]]) -> io::Result<()> {
    let mut header = [0; abi::OUT_HEADER];
    header[0..4].copy_from_slice(&((abi::OUT_HEADER + len) as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[8..16].copy_from_slice(&unique.to_ne_bytes());
    let mut slices = [IoSlice::new(&header), IoSlice::new(&[]), IoSlice::new(&[])];
    for (slice, part) in slices.iter_mut().skip(1).zip(body) {
        *slice = IoSlice::new(part);
    }
    let used = 1 + body.len().min(2);
    loop {
        // One call, one answer: the kernel takes it whole or not at all.
        match (&*connection).write_vectored(&slices[..used]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome.map(|_| ()),
        }
    }
}

/// Asks the kernel to send again what was read from this connection and never answered.
pub fn notify_resend(connection: &File) -> io::Result<()> {
    send(connection, 0, abi::NOTIFY_RESEND, 0, &[])
}
