//! The answers of a replica as metadata and back. Says nothing of whether they fit what was asked.

use super::codec::{Put, Take};
use super::request::check_list;
use super::{Kind, WireError};
use crate::machine::protocol::{Inspected, MAX_DIGESTS, Opened, Refusal, Reply};

/// Appends the metadata; hands back the type and the data.
pub(super) fn encode<'a, P>(
    put: &mut Put<'_>,
    reply: &'a Reply<P>,
) -> Result<(Kind, Option<&'a P>), WireError> {
    let kind = kind_of(reply);
    match reply {
        Reply::Opened(opened) => encode_opened(put, opened),
        Reply::Done | Reply::NoSpace | Reply::Unreadable => {}
        Reply::Data(data) => return Ok((kind, Some(data))),
        Reply::Chunk { content, stamp } => {
            put.tick(*stamp);
            put.bool(content.is_some());
            return Ok((kind, content.as_ref()));
        }
        Reply::Changed { chunks, next } => {
            check_list(kind, chunks)?;
            put.entries(chunks);
            put.bool(next.is_some());
            if let Some(next) = next {
                put.u32(next.0);
            }
        }
        Reply::Hashed(digest) => put.bytes(&digest.to_le_bytes()),
        Reply::Digests { blocks, stamp } => {
            put.tick(*stamp);
            check_count(kind, blocks.len() as u64)?;
            put.digests(blocks);
        }
        Reply::Inspected(inspected) => encode_inspected(put, inspected),
        Reply::Failed(cause) => put.cause(*cause),
        Reply::Refused(refusal) => encode_refusal(put, *refusal),
    }
    Ok((kind, None))
}

/// The reply of a frame of type `kind`, which is a reply's.
pub(super) fn decode<P>(kind: Kind, take: &mut Take<'_>, data: Option<P>) -> Result<Reply<P>, WireError> {
    Ok(match kind {
        Kind::Opened => Reply::Opened(decode_opened(take)?),
        Kind::Done => Reply::Done,
        Kind::Data => Reply::Data(data.ok_or(WireError::NoData(kind))?),
        Kind::ChunkContent => {
            let stamp = take.tick()?;
            if take.bool("flag")? != data.is_some() {
                return Err(WireError::NoData(kind));
            }
            Reply::Chunk { content: data, stamp }
        }
        Kind::ChangedChunks => Reply::Changed {
            chunks: take.entries()?,
            next: match take.bool("flag")? {
                true => Some(take.chunk()?),
                false => None,
            },
        },
        Kind::Hashed => Reply::Hashed(take.digest()?),
        Kind::DigestList => Reply::Digests {
            stamp: take.tick()?,
            blocks: take.digests()?,
        },
        Kind::Inspected => Reply::Inspected(decode_inspected(take)?),
        Kind::NoSpace => Reply::NoSpace,
        Kind::Unreadable => Reply::Unreadable,
        Kind::Failed => Reply::Failed(take.cause()?),
        Kind::Refused => Reply::Refused(decode_refusal(take)?),
        other => return Err(WireError::UnknownKind(other.number())),
    })
}

/// The type of frame that carries a reply.
pub(super) const fn kind_of<P>(reply: &Reply<P>) -> Kind {
    match reply {
        Reply::Opened(_) => Kind::Opened,
        Reply::Done => Kind::Done,
        Reply::Data(_) => Kind::Data,
        Reply::Chunk { .. } => Kind::ChunkContent,
        Reply::Changed { .. } => Kind::ChangedChunks,
        Reply::NoSpace => Kind::NoSpace,
        Reply::Unreadable => Kind::Unreadable,
        Reply::Hashed(_) => Kind::Hashed,
        Reply::Digests { .. } => Kind::DigestList,
        Reply::Inspected(_) => Kind::Inspected,
        Reply::Failed(_) => Kind::Failed,
        Reply::Refused(_) => Kind::Refused,
    }
}

fn check_count(kind: Kind, len: u64) -> Result<(), WireError> {
    if len > MAX_DIGESTS {
        return Err(WireError::TooLong {
            kind,
            what: "digests",
            len,
            max: MAX_DIGESTS,
        });
    }
    Ok(())
}

fn encode_opened(put: &mut Put<'_>, opened: &Opened) {
    put.bytes(&opened.incarnation.to_bytes());
    put.tick(opened.durable);
    put.tick(opened.settled);
    put.bool(opened.whole);
    put.bool(opened.clean);
    put.duration(opened.wait);
}

fn decode_opened(take: &mut Take<'_>) -> Result<Opened, WireError> {
    Ok(Opened {
        incarnation: take.incarnation()?,
        durable: take.tick()?,
        settled: take.tick()?,
        whole: take.bool("flag")?,
        clean: take.bool("flag")?,
        wait: take.duration()?,
    })
}

fn encode_inspected(put: &mut Put<'_>, inspected: &Inspected) {
    put.bytes(&inspected.incarnation.to_bytes());
    put.epoch(inspected.epoch);
    put.tick(inspected.durable);
    put.tick(inspected.settled);
    put.bool(inspected.whole);
    put.bool(inspected.clean);
    put.bool(inspected.failed.is_some());
    if let Some(cause) = inspected.failed {
        put.cause(cause);
    }
    put.u32(inspected.unsettled);
    put.u32(inspected.suspect);
}

fn decode_inspected(take: &mut Take<'_>) -> Result<Inspected, WireError> {
    Ok(Inspected {
        incarnation: take.incarnation()?,
        epoch: take.epoch()?,
        durable: take.tick()?,
        settled: take.tick()?,
        whole: take.bool("flag")?,
        clean: take.bool("flag")?,
        failed: match take.bool("flag")? {
            true => Some(take.cause()?),
            false => None,
        },
        unsettled: take.u32()?,
        suspect: take.u32()?,
    })
}

fn encode_refusal(put: &mut Put<'_>, refusal: Refusal) {
    match refusal {
        Refusal::Epoch(epoch) => {
            put.u8(1);
            put.epoch(epoch);
        }
        Refusal::Session => put.u8(2),
        Refusal::Identity => put.u8(3),
        Refusal::Incarnation(incarnation) => {
            put.u8(4);
            put.bytes(&incarnation.to_bytes());
        }
        Refusal::Malformed => put.u8(5),
    }
}

fn decode_refusal(take: &mut Take<'_>) -> Result<Refusal, WireError> {
    Ok(match take.u8()? {
        1 => Refusal::Epoch(take.epoch()?),
        2 => Refusal::Session,
        3 => Refusal::Identity,
        4 => Refusal::Incarnation(take.incarnation()?),
        5 => Refusal::Malformed,
        _ => return Err(take.value("refusal")),
    })
}
