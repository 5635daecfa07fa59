//! The superblock: who a replica is and up to where it is known to be good.
//!
//! Owns its fields and its two-slot encoding; never decides when one is written.

use serde::{Deserialize, Serialize};

use super::FormatError;
use super::layout::{SLOT_LEN, SUPERBLOCKS_LEN};
use crate::geometry::Geometry;
use crate::ids::{BootId, ClusterId, Epoch, Incarnation, ReplicaId, Tick, VolumeId};

/// The on-disk format that is written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"BULKHEAD";
const CRC_AT: usize = SLOT_LEN - 4;
/// Bytes of a slot that carry fields; zeroes follow.
const FIELDS_LEN: usize = 168;

const FLAG_WHOLE: u32 = 1;
const FLAG_CLEAN: u32 = 2;
const FLAG_FAILED: u32 = 4;
const KNOWN_FLAGS: u32 = FLAG_WHOLE | FLAG_CLEAN | FLAG_FAILED;

/// Whose copy of what a directory holds. Checked at every open and every handshake (rule D7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReplicaIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The volume.
    pub volume: VolumeId,
    /// This copy of it.
    pub replica: ReplicaId,
}

/// What made a replica fail for good (rule D6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailCause {
    /// A write to its data or metadata failed.
    Write,
    /// A sync failed: what the disk holds is not known.
    Sync,
    /// A read failed.
    Read,
    /// A checksum did not match.
    Checksum,
}

impl FailCause {
    const fn code(self) -> u32 {
        match self {
            Self::Write => 1,
            Self::Sync => 2,
            Self::Read => 3,
            Self::Checksum => 4,
        }
    }

    fn from_code(code: u32) -> Result<Self, FormatError> {
        Ok(match code {
            1 => Self::Write,
            2 => Self::Sync,
            3 => Self::Read,
            4 => Self::Checksum,
            _ => return Err(FormatError::Value("cause of failure")),
        })
    }
}

/// The superblock of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Cluster, volume and replica.
    pub identity: ReplicaIdentity,
    /// Size of the volume, and how it is divided.
    pub geometry: Geometry,
    /// Raised by one with every superblock written; its parity names the slot.
    pub sequence: u64,
    /// Drawn afresh at every open.
    pub incarnation: Incarnation,
    /// The boot of the kernel under which it was opened last.
    pub boot: BootId,
    /// Whether this replica holds every write that it acknowledged, also the unflushed.
    pub whole: bool,
    /// Whether it was closed in order: nothing is in flight, everything up to the settled tick is durable.
    pub clean: bool,
    /// Set once it has failed (rule D6); only a rebuild clears it.
    pub failed: Option<FailCause>,
    /// The highest epoch that it has accepted (rule D5).
    pub epoch: Epoch,
    /// The attaching of the volume from which it has that epoch: no two of them share an epoch.
    pub attached_by: Incarnation,
    /// Everything up to it is settled and on this replica's disk.
    pub durable: Tick,
    /// The newest settled tick that it has been told of.
    pub settled: Tick,
}

impl Superblock {
    /// The superblock of a replica that has just been created: empty, closed in order, and whole.
    pub fn fresh(identity: ReplicaIdentity, geometry: Geometry, boot: BootId) -> Self {
        Self {
            identity,
            geometry,
            sequence: 0,
            incarnation: Incarnation::from_bytes([0; 16]),
            boot,
            whole: true,
            clean: true,
            failed: None,
            epoch: Epoch::ZERO,
            attached_by: Incarnation::from_bytes([0; 16]),
            durable: Tick::ZERO,
            settled: Tick::ZERO,
        }
    }

    /// The bytes of its slot. They belong at [`super::MetaLayout::slot_offset`] of its sequence number.
    pub fn encode(&self) -> [u8; SLOT_LEN] {
        let mut flags = 0;
        if self.whole {
            flags |= FLAG_WHOLE;
        }
        if self.clean {
            flags |= FLAG_CLEAN;
        }
        if self.failed.is_some() {
            flags |= FLAG_FAILED;
        }
        let mut fields = Vec::with_capacity(FIELDS_LEN);
        fields.extend_from_slice(&MAGIC);
        fields.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        fields.extend_from_slice(&flags.to_le_bytes());
        fields.extend_from_slice(&self.sequence.to_le_bytes());
        fields.extend_from_slice(&self.identity.cluster.to_bytes());
        fields.extend_from_slice(&self.identity.volume.to_bytes());
        fields.extend_from_slice(&self.identity.replica.to_bytes());
        fields.extend_from_slice(&self.incarnation.to_bytes());
        fields.extend_from_slice(&self.boot.to_bytes());
        fields.extend_from_slice(&self.geometry.size().to_le_bytes());
        fields.extend_from_slice(&self.geometry.chunk_size().to_le_bytes());
        fields.extend_from_slice(&self.geometry.region_size().to_le_bytes());
        fields.extend_from_slice(&self.epoch.0.to_le_bytes());
        fields.extend_from_slice(&self.failed.map_or(0, FailCause::code).to_le_bytes());
        fields.extend_from_slice(&self.durable.to_bits().to_le_bytes());
        fields.extend_from_slice(&self.settled.to_bits().to_le_bytes());
        fields.extend_from_slice(&self.attached_by.to_bytes());
        debug_assert_eq!(fields.len(), FIELDS_LEN);

        let mut slot = [0; SLOT_LEN];
        slot[..fields.len()].copy_from_slice(&fields);
        let crc = crc32c::crc32c(&slot[..CRC_AT]);
        slot[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    fn decode(slot: &[u8; SLOT_LEN]) -> Result<Self, FormatError> {
        let mut fields = Fields {
            rest: &slot[..FIELDS_LEN],
        };
        let _magic: [u8; 8] = fields.take();
        let version = fields.u32();
        // Nothing after the version is looked at before the version is known (failure 24).
        if version != FORMAT_VERSION {
            return Err(FormatError::Version {
                found: version,
                known: FORMAT_VERSION,
            });
        }
        let flags = fields.u32();
        if flags & !KNOWN_FLAGS != 0 {
            return Err(FormatError::Value("flag"));
        }
        let sequence = fields.u64();
        let identity = ReplicaIdentity {
            cluster: ClusterId::from_bytes(fields.take()),
            volume: VolumeId::from_bytes(fields.take()),
            replica: ReplicaId::from_bytes(fields.take()),
        };
        let incarnation = Incarnation::from_bytes(fields.take());
        let boot = BootId::from_bytes(fields.take());
        let geometry = Geometry::new(fields.u64(), fields.u64(), fields.u64())?;
        let epoch = Epoch(fields.u32());
        let cause = fields.u32();
        let failed = match (flags & FLAG_FAILED != 0, cause) {
            (false, 0) => None,
            (false, _) => return Err(FormatError::Value("cause of failure")),
            (true, code) => Some(FailCause::from_code(code)?),
        };
        let durable = Tick::from_bits(fields.u64());
        let settled = Tick::from_bits(fields.u64());
        let attached_by = Incarnation::from_bytes(fields.take());
        if durable == Tick::SUSPECT || settled == Tick::SUSPECT {
            return Err(FormatError::Value("tick"));
        }
        Ok(Self {
            identity,
            geometry,
            sequence,
            incarnation,
            boot,
            whole: flags & FLAG_WHOLE != 0,
            clean: flags & FLAG_CLEAN != 0,
            failed,
            epoch,
            attached_by,
            durable,
            settled,
        })
    }
}

/// The superblock that counts, and how the other slot was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// The newest valid superblock.
    pub newest: Superblock,
    /// Whether the other slot is valid too. After a torn write it is not, which is in order; anywhere else it is
    /// a sign of a bad disk.
    pub both_valid: bool,
}

impl Slots {
    /// Reads both slots, which are the first [`SUPERBLOCKS_LEN`] bytes of the file.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let Some((pair, _)) = bytes.split_first_chunk::<SUPERBLOCKS_LEN>() else {
            return Err(FormatError::Short {
                found: bytes.len() as u64,
                needed: SUPERBLOCKS_LEN as u64,
            });
        };
        let (slots, _) = pair.as_chunks::<SLOT_LEN>();
        let mut valid = Vec::with_capacity(2);
        let mut damaged = false;
        for (place, slot) in slots.iter().enumerate() {
            if !slot.starts_with(&MAGIC) {
                continue;
            }
            if !slot_is_sealed(slot) {
                damaged = true;
                continue;
            }
            let superblock = Superblock::decode(slot)?;
            if superblock.sequence % 2 == place as u64 {
                valid.push(superblock);
            } else {
                // Sound, but in the other's place: a misdirected write.
                damaged = true;
            }
        }
        match valid[..] {
            [] if damaged => Err(FormatError::DamagedSuperblock),
            [] => Err(FormatError::NoSuperblock),
            [newest] => Ok(Self {
                newest,
                both_valid: false,
            }),
            [first, second, ..] if first.identity != second.identity => Err(FormatError::MixedSuperblocks),
            [first, second, ..] => Ok(Self {
                newest: if first.sequence > second.sequence {
                    first
                } else {
                    second
                },
                both_valid: true,
            }),
        }
    }
}

fn slot_is_sealed(slot: &[u8; SLOT_LEN]) -> bool {
    slot[CRC_AT..] == crc32c::crc32c(&slot[..CRC_AT]).to_le_bytes()
}

/// Little-endian fields one after the other. Gives zeroes beyond the end, which cannot be reached: the fields of
/// a version have a fixed length.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.rest = rest;
                *field
            }
            None => [0; N],
        }
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}
