//! The requests of a primary as metadata and back. Says nothing of whether a replica will serve them.

use super::codec::{Put, Take};
use super::{Kind, MAX_DATA, MAX_LIST, Version, WireError};
use crate::geometry::{ByteRange, Chunk};
use crate::ids::{Epoch, Tick};
use crate::machine::protocol::{Open, Request, digest_count};

/// Appends the metadata; hands back the type and the data.
pub(super) fn encode<'a, P>(
    version: Version,
    put: &mut Put<'_>,
    request: &'a Request<P>,
) -> Result<(Kind, Option<&'a P>), WireError> {
    let kind = kind_of(request);
    match request {
        Request::Open(open) => encode_open(version, put, open)?,
        Request::Raise { epoch, role } => {
            put.epoch(*epoch);
            put.role(*role);
        }
        Request::Read(range) | Request::Copy(range) | Request::Hash(range) => {
            check_answerable(kind, *range)?;
            put.range(*range);
        }
        Request::Digests { range, block } => {
            check_digests(kind, *range, *block)?;
            put.range(*range);
            put.u32(*block);
        }
        Request::Write {
            offset,
            data,
            tick,
            stamp,
        } => {
            put.u64(*offset);
            put.tick(*tick);
            put.stamp_rule(*stamp);
            return Ok((kind, Some(data)));
        }
        Request::Zero { range, tick, stamp } => {
            put.range(*range);
            put.tick(*tick);
            put.stamp_rule(*stamp);
        }
        Request::Flush => {}
        Request::Ping { settled } | Request::Release { settled } => put.tick(*settled),
        Request::Changed { after, from, limit } => {
            put.tick(*after);
            put.u32(from.0);
            put.u32(*limit);
        }
        Request::Stamp(entries) => {
            check_list(kind, entries)?;
            put.entries(entries);
        }
        Request::Restamp { after, tick } => {
            put.tick(*after);
            put.tick(*tick);
        }
        Request::Checkpoint { whole } => put.bool(*whole),
        Request::Fail(cause) => put.cause(*cause),
        Request::Inspect(identity) => put.identity(identity),
    }
    Ok((kind, None))
}

/// The request of a frame of type `kind`, which is a request's.
pub(super) fn decode<P>(
    version: Version,
    kind: Kind,
    take: &mut Take<'_>,
    data: Option<P>,
) -> Result<Request<P>, WireError> {
    Ok(match kind {
        Kind::Open => Request::Open(decode_open(version, take)?),
        Kind::Raise => Request::Raise {
            epoch: take.epoch()?,
            role: take.role()?,
        },
        Kind::Read => Request::Read(take_answerable(kind, take)?),
        Kind::Copy => Request::Copy(take_answerable(kind, take)?),
        Kind::Write => {
            let data = data.ok_or(WireError::NoData(kind))?;
            Request::Write {
                offset: take.u64()?,
                data,
                tick: take.tick()?,
                stamp: take.stamp_rule()?,
            }
        }
        Kind::Zero => Request::Zero {
            range: take.range()?,
            tick: take.tick()?,
            stamp: take.stamp_rule()?,
        },
        Kind::Flush => Request::Flush,
        Kind::Renew => Request::Ping {
            settled: take.tick()?,
        },
        Kind::Changed => Request::Changed {
            after: take.tick()?,
            from: take.chunk()?,
            limit: take.u32()?,
        },
        Kind::Stamp => Request::Stamp(take.entries()?),
        Kind::Restamp => Request::Restamp {
            after: take.tick()?,
            tick: take.tick()?,
        },
        Kind::Checkpoint => Request::Checkpoint {
            whole: take.bool("flag")?,
        },
        Kind::Release => Request::Release {
            settled: take.tick()?,
        },
        Kind::Fail => Request::Fail(take.cause()?),
        Kind::Hash => Request::Hash(take_answerable(kind, take)?),
        Kind::Digests => {
            let (range, block) = (take_answerable(kind, take)?, take.u32()?);
            check_digests(kind, range, block)?;
            Request::Digests { range, block }
        }
        Kind::Inspect => Request::Inspect(take.identity()?),
        other => return Err(WireError::UnknownKind(other.number())),
    })
}

/// The type of frame that carries a request.
pub(super) const fn kind_of<P>(request: &Request<P>) -> Kind {
    match request {
        Request::Open(_) => Kind::Open,
        Request::Raise { .. } => Kind::Raise,
        Request::Read(_) => Kind::Read,
        Request::Copy(_) => Kind::Copy,
        Request::Write { .. } => Kind::Write,
        Request::Zero { .. } => Kind::Zero,
        Request::Flush => Kind::Flush,
        Request::Ping { .. } => Kind::Renew,
        Request::Changed { .. } => Kind::Changed,
        Request::Stamp(_) => Kind::Stamp,
        Request::Restamp { .. } => Kind::Restamp,
        Request::Checkpoint { .. } => Kind::Checkpoint,
        Request::Release { .. } => Kind::Release,
        Request::Fail(_) => Kind::Fail,
        Request::Hash(_) => Kind::Hash,
        Request::Digests { .. } => Kind::Digests,
        Request::Inspect(_) => Kind::Inspect,
    }
}

/// Version 1 does not say whether the primary goes on for one that has ended: the replica has it wait then, as any other.
fn encode_open(version: Version, put: &mut Put<'_>, open: &Open) -> Result<(), WireError> {
    put.identity(&open.identity);
    put.epoch(open.epoch);
    put.epoch(open.term);
    put.bytes(&open.attached_by.to_bytes());
    put.u64(open.attempt);
    put.role(open.role);
    put.bool(open.expects.is_some());
    if let Some(incarnation) = open.expects {
        put.bytes(&incarnation.to_bytes());
    }
    if version >= Version::V2 {
        put.bool(open.resumes.is_some());
        if let Some(resumes) = open.resumes {
            check_resumes(resumes, open.term)?;
            put.epoch(resumes);
        }
    }
    Ok(())
}

/// Only what was before the own term can be gone on for (T5).
fn check_resumes(resumes: Epoch, term: Epoch) -> Result<(), WireError> {
    if resumes < term {
        return Ok(());
    }
    let kind = Kind::Open;
    Err(WireError::Value {
        kind,
        what: "epoch to go on for",
    })
}

fn decode_open(version: Version, take: &mut Take<'_>) -> Result<Open, WireError> {
    let mut open = Open {
        identity: take.identity()?,
        epoch: take.epoch()?,
        term: take.epoch()?,
        attached_by: take.incarnation()?,
        attempt: take.u64()?,
        role: take.role()?,
        expects: match take.bool("flag")? {
            true => Some(take.incarnation()?),
            false => None,
        },
        resumes: None,
    };
    if version >= Version::V2 && take.bool("flag")? {
        let resumes = take.epoch()?;
        check_resumes(resumes, open.term)?;
        open.resumes = Some(resumes);
    }
    Ok(open)
}

/// A read whose answer would not fit a frame is refused before it is made.
fn check_answerable(kind: Kind, range: ByteRange) -> Result<(), WireError> {
    if range.len > MAX_DATA as u64 {
        return Err(WireError::TooLong {
            kind,
            what: "bytes to read",
            len: range.len,
            max: MAX_DATA as u64,
        });
    }
    if range.offset.checked_add(range.len).is_none() {
        return Err(WireError::Value { kind, what: "range" });
    }
    Ok(())
}

/// A list of digests that would be too long is refused before it is made.
fn check_digests(kind: Kind, range: ByteRange, block: u32) -> Result<(), WireError> {
    check_answerable(kind, range)?;
    match digest_count(range, block) {
        Some(_) => Ok(()),
        None => Err(WireError::Value { kind, what: "block" }),
    }
}

fn take_answerable(kind: Kind, take: &mut Take<'_>) -> Result<ByteRange, WireError> {
    let range = take.range()?;
    check_answerable(kind, range)?;
    Ok(range)
}

pub(super) fn check_list(kind: Kind, entries: &[(Chunk, Tick)]) -> Result<(), WireError> {
    if entries.len() > MAX_LIST {
        return Err(WireError::TooLong {
            kind,
            what: "entries",
            len: entries.len() as u64,
            max: MAX_LIST as u64,
        });
    }
    Ok(())
}
