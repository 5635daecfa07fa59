//! What each operation on the volume's file does: the way from a request to the block device and back.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::abi;
use super::buffers::{Buffers, START, Scratch};
use super::reply::Reply;
use super::request::{Header, Malformed, Operation, parse};
use crate::geometry::{ByteRange, SECTOR};
use crate::host::transport::Negotiated;
use crate::io::{ALIGN, BlockDevice, BlockOp, Completion, Data, IoError, MAX_REQUEST};

/// The kernel's cached attributes hold for good: the size is fixed while the volume is open, and a later question
/// about them could meet a server that does not answer.
const FOR_EVER: u64 = u32::MAX as u64;
/// A range is made zero in pieces of at least this size, so that no piece keeps others waiting for long.
const ZERO_PIECE: u64 = 64 << 20;
/// At most this many pieces of one request.
const ZERO_PIECES: u64 = 256;

/// One volume's file, as all of its threads see it.
pub(super) struct Server {
    pub(super) connection: Arc<File>,
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) file_name: String,
    pub(super) buffers: Buffers,
    pub(super) negotiated: OnceLock<Negotiated>,
    pub(super) max_background: u16,
}

/// What a request asks of the block device, and how it is answered then.
pub(super) type Asked = (BlockOp, Completion);

impl Server {
    /// Serves the message of `len` bytes that was read into `scratch`: answers it, or adds to `asked` what the block device
    /// has to do. Gives the buffer back unless it goes on with a write.
    pub(super) fn serve(
        self: &Arc<Self>,
        scratch: Scratch,
        len: usize,
        asked: &mut VecDeque<Asked>,
    ) -> Option<Scratch> {
        let (header, operation) = match parse(scratch.buf.get(START..START + len).unwrap_or_default()) {
            Ok(request) => request,
            Err(malformed @ Malformed::Headless { .. }) => {
                tracing::error!(%malformed, "ignored");
                return Some(scratch);
            }
            Err(malformed @ Malformed::Body { unique, .. }) => {
                tracing::error!(%malformed, "refused");
                self.reply(unique).error(libc::EINVAL);
                return Some(scratch);
            }
        };
        match operation {
            Operation::Write { offset, payload } => {
                let (data, rest) = self.buffers.payload(scratch, payload);
                asked.extend(self.write(self.reply(header.unique), offset, data));
                return rest;
            }
            Operation::Lookup { name } => {
                let known =
                    scratch.buf.get(START + name.start..START + name.end) == Some(self.file_name.as_bytes());
                self.lookup(header, known);
            }
            Operation::Silent => {}
            Operation::Read(range) => asked.extend(self.read(self.reply(header.unique), range)),
            Operation::Fsync => asked.push_back(flush(self.reply(header.unique))),
            Operation::Fallocate { range, mode } => {
                self.fallocate(self.reply(header.unique), range, mode, asked);
            }
            other => self.answer(header, other),
        }
        Some(scratch)
    }

    fn answer(self: &Arc<Self>, header: Header, operation: Operation) {
        let reply = self.reply(header.unique);
        match operation {
            Operation::Init { major, minor, flags } => self.init(reply, major, minor, flags),
            Operation::GetAttr => reply.ok(&self.attributes(header.node)),
            // Whoever sets times or modes of this file is let; its size is the volume's.
            Operation::SetAttr { size } if size.is_none_or(|size| size == self.device.size()) => {
                reply.ok(&self.attributes(header.node));
            }
            Operation::SetAttr { .. } => reply.error(libc::EPERM),
            Operation::Open => reply.ok(&open_out()),
            Operation::StatFs => reply.ok(&self.statfs()),
            Operation::Release | Operation::Destroy => reply.done(),
            // These were taken care of by the caller.
            Operation::Write { .. }
            | Operation::Read(_)
            | Operation::Fsync
            | Operation::Fallocate { .. }
            | Operation::Lookup { .. }
            | Operation::Silent => reply.error(libc::EINVAL),
            Operation::Other(_) => reply.error(libc::ENOSYS),
        }
    }

    fn reply(&self, unique: u64) -> Reply {
        Reply::new(self.connection.clone(), unique)
    }

    fn init(&self, reply: Reply, major: u32, minor: u32, flags: u64) {
        if major > abi::MAJOR {
            // The kernel asks again with the version that it is answered.
            return reply.ok(&init_out(&self.agreed(abi::MINOR, 0)));
        }
        if major < abi::MAJOR || minor < abi::OLDEST_MINOR {
            tracing::error!(major, minor, "the kernel's FUSE protocol is too old");
            return reply.error(libc::EPROTO);
        }
        let agreed = self.agreed(minor, flags);
        if self.negotiated.set(agreed).is_err() {
            tracing::error!("the kernel negotiated a second time");
            return reply.error(libc::EIO);
        }
        reply.ok(&init_out(&agreed));
    }

    fn agreed(&self, minor: u32, offered: u64) -> Negotiated {
        let wanted = abi::ASYNC_READ
            | abi::BIG_WRITES
            | abi::ASYNC_DIO
            | abi::MAX_PAGES
            | abi::INIT_EXT
            | abi::HAS_RESEND;
        Negotiated {
            minor: minor.min(abi::MINOR),
            flags: wanted & offered,
            max_write: MAX_REQUEST as u32,
            max_background: self.max_background,
        }
    }

    fn lookup(&self, header: Header, known: bool) {
        let reply = self.reply(header.unique);
        if header.node != abi::ROOT || !known {
            return reply.error(libc::ENOENT);
        }
        let mut out = [0; 128];
        put(&mut out, 0, abi::FILE);
        put(&mut out, 16, FOR_EVER);
        put(&mut out, 24, FOR_EVER);
        out[40..].copy_from_slice(&self.attributes(abi::FILE)[16..]);
        reply.ok(&out);
    }

    /// `struct fuse_attr_out`.
    fn attributes(&self, node: u64) -> [u8; 104] {
        let (mode, links, size) = match node {
            abi::FILE => (libc::S_IFREG | 0o600, 1u32, self.device.size()),
            _ => (libc::S_IFDIR | 0o500, 2, 0),
        };
        let mut out = [0; 104];
        put(&mut out, 0, FOR_EVER);
        put(&mut out, 16, node);
        put(&mut out, 24, size);
        put(&mut out, 32, size / 512);
        put32(&mut out, 76, mode);
        put32(&mut out, 80, links);
        put32(&mut out, 96, ALIGN as u32);
        out
    }

    /// `struct fuse_statfs_out`. The loop device takes its discard granularity from the block size.
    fn statfs(&self) -> [u8; 80] {
        let mut out = [0; 80];
        put(&mut out, 0, self.device.size() / ALIGN as u64);
        put32(&mut out, 40, ALIGN as u32);
        put32(&mut out, 44, 255);
        put32(&mut out, 48, ALIGN as u32);
        out
    }

    fn read(&self, reply: Reply, range: ByteRange) -> Option<Asked> {
        let size = self.device.size();
        let range = ByteRange::new(range.offset, range.end().min(size).saturating_sub(range.offset));
        if range.is_empty() {
            reply.done();
            return None;
        }
        if !on_sectors(range) || range.len > MAX_REQUEST as u64 {
            reply.error(libc::EINVAL);
            return None;
        }
        let done = move |outcome: Result<Option<Data>, IoError>| match outcome {
            Ok(Some(data)) => reply.read(&data, range),
            Ok(None) => reply.read(&[], range),
            Err(error) => reply.outcome(Err(error), &[]),
        };
        Some((BlockOp::Read(range), Box::new(done)))
    }

    fn write(self: &Arc<Self>, reply: Reply, offset: u64, data: Option<Data>) -> Option<Asked> {
        let range = ByteRange::new(offset, data.as_ref().map_or(0, |data| data.len() as u64));
        let Some(data) =
            data.filter(|_| !range.is_empty() && on_sectors(range) && range.end() <= self.device.size())
        else {
            reply.error(libc::EINVAL);
            return None;
        };
        let mut written = [0; 8];
        put32(&mut written, 0, data.len() as u32);
        let server = self.clone();
        let done = move |outcome: Result<Option<Data>, IoError>| {
            reply.outcome(outcome.map(drop), &written);
            server.buffers.notify();
        };
        Some((BlockOp::Write { offset, data }, Box::new(done)))
    }

    fn fallocate(&self, reply: Reply, range: ByteRange, mode: u32, asked: &mut VecDeque<Asked>) {
        let zeroes = matches!(
            mode & !abi::FALLOC_KEEP_SIZE,
            abi::FALLOC_PUNCH_HOLE | abi::FALLOC_ZERO_RANGE
        );
        if !zeroes {
            return reply.error(libc::EOPNOTSUPP);
        }
        let size = self.device.size();
        let grows = mode & abi::FALLOC_KEEP_SIZE == 0 && range.end() > size;
        let range = ByteRange::new(range.offset, range.end().min(size).saturating_sub(range.offset));
        if grows || !on_sectors(range) {
            return reply.error(libc::EINVAL);
        }
        if range.is_empty() {
            return reply.done();
        }
        zero(reply, range, asked);
    }
}

/// All pieces at once: one after the other would nest as deep as there are pieces when each completes at once.
fn zero(reply: Reply, range: ByteRange, asked: &mut VecDeque<Asked>) {
    let piece = range
        .len
        .div_ceil(ZERO_PIECES)
        .next_multiple_of(ALIGN as u64)
        .max(ZERO_PIECE);
    let pieces = Arc::new(Mutex::new(Pieces {
        left: range.len.div_ceil(piece),
        outcome: Ok(()),
        reply: Some(reply),
    }));
    let mut offset = range.offset;
    while offset < range.end() {
        let part = ByteRange::new(offset, piece.min(range.end() - offset));
        let pieces = pieces.clone();
        let done = move |outcome: Result<Option<Data>, IoError>| {
            let last = pieces.lock().ended(outcome.map(drop));
            if let Some((reply, outcome)) = last {
                reply.outcome(outcome, &[]);
            }
        };
        asked.push_back((BlockOp::Zero(part), Box::new(done)));
        offset = part.end();
    }
}

/// What is left of a request that was divided.
struct Pieces {
    left: u64,
    outcome: Result<(), IoError>,
    reply: Option<Reply>,
}

impl Pieces {
    /// One of them ended; the answer to give if it was the last.
    fn ended(&mut self, outcome: Result<(), IoError>) -> Option<(Reply, Result<(), IoError>)> {
        self.outcome = self.outcome.and(outcome);
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return None;
        }
        self.reply.take().map(|reply| (reply, self.outcome))
    }
}

fn flush(reply: Reply) -> Asked {
    let done = move |outcome: Result<Option<Data>, IoError>| reply.outcome(outcome.map(drop), &[]);
    (BlockOp::Flush, Box::new(done))
}

fn on_sectors(range: ByteRange) -> bool {
    range.offset.is_multiple_of(SECTOR) && range.len.is_multiple_of(SECTOR)
}

/// `struct fuse_open_out`: no page cache for this file (the loop device's user has one already), and writes side by
/// side.
fn open_out() -> [u8; 16] {
    let mut out = [0; 16];
    put(&mut out, 0, 1);
    put32(
        &mut out,
        8,
        // No request at a close: a server that is killed while it has its own file open would wait for itself.
        abi::FOPEN_DIRECT_IO | abi::FOPEN_NOFLUSH | abi::FOPEN_PARALLEL_DIRECT_WRITES,
    );
    out
}

/// `struct fuse_init_out`.
fn init_out(agreed: &Negotiated) -> [u8; 64] {
    let mut out = [0; 64];
    put32(&mut out, 0, abi::MAJOR);
    put32(&mut out, 4, agreed.minor);
    put32(&mut out, 8, agreed.max_write);
    put32(&mut out, 12, agreed.flags as u32);
    out[16..18].copy_from_slice(&agreed.max_background.to_ne_bytes());
    out[18..20].copy_from_slice(&agreed.max_background.to_ne_bytes());
    put32(&mut out, 20, agreed.max_write);
    put32(&mut out, 24, 1);
    out[28..30].copy_from_slice(&((agreed.max_write as usize / ALIGN) as u16).to_ne_bytes());
    put32(&mut out, 32, (agreed.flags >> 32) as u32);
    out
}

fn put(out: &mut [u8], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_ne_bytes());
}

fn put32(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
