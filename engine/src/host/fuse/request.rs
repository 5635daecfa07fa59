//! A request of the kernel: bytes to a typed operation. A pure function; malformed bytes are an error, never a panic.

use std::ops::Range;

use super::abi;
use crate::geometry::ByteRange;

/// What every request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its number, which the answer repeats bit by bit (also the one that marks a resent request).
    pub unique: u64,
    /// The inode that it is about.
    pub node: u64,
}

impl Header {
    /// Whether the kernel sends it for a second time, because the server before did not answer it.
    pub const fn is_resent(&self) -> bool {
        self.unique & abi::UNIQUE_RESEND != 0
    }
}

/// What the kernel asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    Init {
        major: u32,
        minor: u32,
        flags: u64,
    },
    /// The name stands in this part of the message.
    Lookup {
        name: Range<usize>,
    },
    GetAttr,
    /// `size` if the size is to be set.
    SetAttr {
        size: Option<u64>,
    },
    Open,
    Read(ByteRange),
    /// The bytes to write stand in this part of the message.
    Write {
        offset: u64,
        payload: Range<usize>,
    },
    Fsync,
    Fallocate {
        range: ByteRange,
        mode: u32,
    },
    Release,
    StatFs,
    Destroy,
    /// Needs no answer, and none must be given.
    Silent,
    /// Not needed for this file; answered with ENOSYS, after which the kernel stops asking.
    Other(u32),
}

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too short to hold a header, or its length field lies: there is nobody to answer.
    #[error("{len} bytes from the kernel are no FUSE request")]
    Headless {
        /// How many bytes there were.
        len: usize,
    },
    /// The header is sound but the rest is not: answered with EINVAL.
    #[error("a FUSE request with operation {opcode} is too short or contradicts itself")]
    Body {
        /// The number to answer.
        unique: u64,
        /// What it claims to be.
        opcode: u32,
    },
}

/// Takes a message apart.
pub fn parse(message: &[u8]) -> Result<(Header, Operation), Malformed> {
    let headless = Malformed::Headless { len: message.len() };
    let fields = Fields(message);
    let (Some(len), Some(opcode), Some(unique), Some(node), Some(extension)) = (
        fields.u32(0),
        fields.u32(4),
        fields.u64(8),
        fields.u64(16),
        fields.u16(36),
    ) else {
        return Err(headless);
    };
    if len as usize != message.len() || message.len() < abi::IN_HEADER {
        return Err(headless);
    }
    let malformed = Malformed::Body { unique, opcode };
    // Extensions (security contexts) stand at the end; this file needs none.
    let end = message
        .len()
        .checked_sub(usize::from(extension) * 8)
        .ok_or(malformed)?;
    let body = message.get(abi::IN_HEADER..end).ok_or(malformed)?;
    let operation = operation(opcode, Fields(body)).ok_or(malformed)?;
    Ok((Header { unique, node }, operation))
}

fn operation(opcode: u32, body: Fields<'_>) -> Option<Operation> {
    use abi::op;
    Some(match opcode {
        op::INIT => init(body)?,
        op::LOOKUP => Operation::Lookup { name: name(body)? },
        op::GETATTR => Operation::GetAttr,
        op::SETATTR => Operation::SetAttr {
            size: (body.u32(0)? & abi::FATTR_SIZE != 0).then_some(body.u64(16)?),
        },
        op::OPEN => Operation::Open,
        op::READ => Operation::Read(range(body.u64(8)?, u64::from(body.u32(16)?))?),
        op::WRITE => write(body)?,
        op::FSYNC => Operation::Fsync,
        op::FALLOCATE => Operation::Fallocate {
            range: range(body.u64(8)?, body.u64(16)?)?,
            mode: body.u32(24)?,
        },
        op::RELEASE => Operation::Release,
        op::STATFS => Operation::StatFs,
        op::DESTROY => Operation::Destroy,
        op::FORGET | op::BATCH_FORGET => Operation::Silent,
        other => Operation::Other(other),
    })
}

fn init(body: Fields<'_>) -> Option<Operation> {
    let flags = u64::from(body.u32(12)?);
    let high = if flags & abi::INIT_EXT != 0 {
        u64::from(body.u32(16)?)
    } else {
        0
    };
    Some(Operation::Init {
        major: body.u32(0)?,
        minor: body.u32(4)?,
        flags: flags | high << 32,
    })
}

fn name(body: Fields<'_>) -> Option<Range<usize>> {
    let end = body.0.iter().position(|byte| *byte == 0)?;
    Some(abi::IN_HEADER..abi::IN_HEADER + end)
}

fn write(body: Fields<'_>) -> Option<Operation> {
    let (offset, size) = (body.u64(8)?, body.u32(16)? as usize);
    range(offset, size as u64)?;
    let start = abi::IN_HEADER + abi::WRITE_IN;
    (body.0.len().checked_sub(abi::WRITE_IN)? == size).then_some(Operation::Write {
        offset,
        payload: start..start + size,
    })
}

/// A range that does not wrap around, nor beyond what the kernel's signed offsets can say.
fn range(offset: u64, len: u64) -> Option<ByteRange> {
    let end = offset.checked_add(len)?;
    (end <= i64::MAX as u64).then_some(ByteRange::new(offset, len))
}

/// Integers in the kernel's byte order at fixed places.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_ne_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_ne_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_ne_bytes)
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
