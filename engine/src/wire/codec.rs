//! Numbers and identities as little-endian bytes and back. Knows no message; every take is bounded by what is there.

use super::{Kind, WireError};
use crate::format::{FailCause, ReplicaIdentity};
use crate::geometry::{ByteRange, Chunk};
use crate::ids::{ClusterId, Epoch, Incarnation, ReplicaId, Tick, VolumeId};
use crate::machine::protocol::{MAX_DIGESTS, Role, StampRule};
use std::time::Duration;

/// Bytes of one entry of a list: chunk and stamp.
const ENTRY_LEN: usize = 12;

/// Appends to the metadata of a frame.
pub(super) struct Put<'a>(pub(super) &'a mut Vec<u8>);

impl Put<'_> {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(super) fn epoch(&mut self, value: Epoch) {
        self.u32(value.0);
    }

    pub(super) fn tick(&mut self, value: Tick) {
        self.u64(value.to_bits());
    }

    pub(super) fn range(&mut self, value: ByteRange) {
        self.u64(value.offset);
        self.u64(value.len);
    }

    pub(super) fn role(&mut self, value: Role) {
        self.u8(match value {
            Role::Member => 1,
            Role::Rebuild => 2,
        });
    }

    pub(super) fn stamp_rule(&mut self, value: StampRule) {
        self.u8(match value {
            StampRule::Raise => 1,
            StampRule::Set => 2,
        });
    }

    pub(super) fn cause(&mut self, value: FailCause) {
        self.u8(match value {
            FailCause::Write => 1,
            FailCause::Sync => 2,
            FailCause::Read => 3,
            FailCause::Checksum => 4,
        });
    }

    pub(super) fn identity(&mut self, value: &ReplicaIdentity) {
        self.bytes(&value.cluster.to_bytes());
        self.bytes(&value.volume.to_bytes());
        self.bytes(&value.replica.to_bytes());
    }

    /// Nanoseconds; a longer time than 584 years becomes that.
    pub(super) fn duration(&mut self, value: Duration) {
        self.u64(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX));
    }

    /// A list of at most [`super::MAX_LIST`] entries, which the caller has checked.
    pub(super) fn entries(&mut self, entries: &[(Chunk, Tick)]) {
        self.u32(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        self.0.reserve(entries.len() * ENTRY_LEN);
        for (chunk, tick) in entries {
            self.u32(chunk.0);
            self.tick(*tick);
        }
    }

    /// A list of at most [`MAX_DIGESTS`], which the caller has checked.
    pub(super) fn digests(&mut self, digests: &[u128]) {
        self.u32(u32::try_from(digests.len()).unwrap_or(u32::MAX));
        for digest in digests {
            self.bytes(&digest.to_le_bytes());
        }
    }
}

/// Takes from the metadata of a frame, front to back.
pub(super) struct Take<'a> {
    kind: Kind,
    rest: &'a [u8],
}

impl<'a> Take<'a> {
    pub(super) fn new(kind: Kind, rest: &'a [u8]) -> Self {
        Self { kind, rest }
    }

    /// The error that names what is impossible here.
    pub(super) fn value(&self, what: &'static str) -> WireError {
        WireError::Value {
            kind: self.kind,
            what,
        }
    }

    /// Every byte must have been taken.
    pub(super) fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(WireError::Trailing {
            kind: self.kind,
            extra: self.rest.len(),
        })
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(WireError::Short(self.kind))?;
        self.rest = rest;
        Ok(taken)
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(WireError::Short(self.kind))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn bool(&mut self, what: &'static str) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.value(what)),
        }
    }

    pub(super) fn epoch(&mut self) -> Result<Epoch, WireError> {
        self.u32().map(Epoch)
    }

    pub(super) fn tick(&mut self) -> Result<Tick, WireError> {
        self.u64().map(Tick::from_bits)
    }

    pub(super) fn chunk(&mut self) -> Result<Chunk, WireError> {
        self.u32().map(Chunk)
    }

    /// Where a range lies in the volume is the replica's to judge; that it ends within 64 bits is judged here.
    pub(super) fn range(&mut self) -> Result<ByteRange, WireError> {
        let (offset, len) = (self.u64()?, self.u64()?);
        if offset.checked_add(len).is_none() {
            return Err(self.value("range"));
        }
        Ok(ByteRange::new(offset, len))
    }

    pub(super) fn incarnation(&mut self) -> Result<Incarnation, WireError> {
        self.array().map(Incarnation::from_bytes)
    }

    pub(super) fn digest(&mut self) -> Result<u128, WireError> {
        self.array().map(u128::from_le_bytes)
    }

    pub(super) fn identity(&mut self) -> Result<ReplicaIdentity, WireError> {
        Ok(ReplicaIdentity {
            cluster: ClusterId::from_bytes(self.array()?),
            volume: VolumeId::from_bytes(self.array()?),
            replica: ReplicaId::from_bytes(self.array()?),
        })
    }

    pub(super) fn role(&mut self) -> Result<Role, WireError> {
        match self.u8()? {
            1 => Ok(Role::Member),
            2 => Ok(Role::Rebuild),
            _ => Err(self.value("role")),
        }
    }

    pub(super) fn stamp_rule(&mut self) -> Result<StampRule, WireError> {
        match self.u8()? {
            1 => Ok(StampRule::Raise),
            2 => Ok(StampRule::Set),
            _ => Err(self.value("rule for stamps")),
        }
    }

    pub(super) fn cause(&mut self) -> Result<FailCause, WireError> {
        match self.u8()? {
            1 => Ok(FailCause::Write),
            2 => Ok(FailCause::Sync),
            3 => Ok(FailCause::Read),
            4 => Ok(FailCause::Checksum),
            _ => Err(self.value("cause of failure")),
        }
    }

    pub(super) fn duration(&mut self) -> Result<Duration, WireError> {
        self.u64().map(Duration::from_nanos)
    }

    /// The number of entries is checked against the bytes that are there before any memory is asked for.
    /// How many entries follow, `max` at most.
    fn count(&mut self, what: &'static str, max: u64) -> Result<usize, WireError> {
        let count = self.u32()?;
        if u64::from(count) > max {
            return Err(WireError::TooLong {
                kind: self.kind,
                what,
                len: u64::from(count),
                max,
            });
        }
        Ok(count as usize)
    }

    pub(super) fn entries(&mut self) -> Result<Vec<(Chunk, Tick)>, WireError> {
        let count = self.count("entries", super::MAX_LIST as u64)?;
        let bytes = self.bytes(count * ENTRY_LEN)?;
        let mut entries = Vec::with_capacity(count);
        let mut taker = Take::new(self.kind, bytes);
        for _ in 0..count {
            entries.push((taker.chunk()?, taker.tick()?));
        }
        Ok(entries)
    }

    pub(super) fn digests(&mut self) -> Result<Vec<u128>, WireError> {
        let count = self.count("digests", MAX_DIGESTS)?;
        let bytes = self.bytes(count * 16)?;
        let digests = bytes.as_chunks::<16>().0.iter();
        Ok(digests.map(|digest| u128::from_le_bytes(*digest)).collect())
    }
}

/// A text of a peer as it may be shown: cut to [`super::MAX_TEXT`] bytes, without control characters.
pub(super) fn presentable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(super::MAX_TEXT));
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if shown.len() + c.len_utf8() > super::MAX_TEXT {
            break;
        }
        shown.push(c);
    }
    shown
}
