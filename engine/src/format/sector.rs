//! One 512-byte sector of intent or stamps: 496 bytes of payload, and what tells a damaged or misplaced one.
//!
//! 512 bytes are what a disk writes or does not write as a whole, so a torn write leaves every sector either old
//! or new, never half; what fails the check is damage. A sector of zeroes was never written and says "nothing".

use std::fmt;

use crate::ids::ReplicaId;

/// Length of a sector in bytes.
pub const SECTOR_LEN: usize = 512;
/// Bytes of payload in a sector.
pub(super) const PAYLOAD_LEN: usize = 496;
/// Intent bits in a sector.
pub const REGIONS_PER_SECTOR: usize = PAYLOAD_LEN * 8;
/// Stamps in a sector.
pub const STAMPS_PER_SECTOR: usize = PAYLOAD_LEN / 8;

const INDEX_AT: usize = 4;
const PAYLOAD_AT: usize = 12;
const CRC_AT: usize = SECTOR_LEN - 4;

/// The two tables that are kept in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Area {
    /// One bit a region.
    Intent,
    /// One tick a chunk.
    Stamps,
}

impl Area {
    const fn magic(self) -> [u8; 4] {
        match self {
            Self::Intent => *b"BhIn",
            Self::Stamps => *b"BhSt",
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intent => "write intent",
            Self::Stamps => "stamps",
        })
    }
}

/// Failed check of one sector; the caller knows which.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// The checksum covers the replica's identity too: a sector that a firmware or a copy put into another replica's
/// file does not pass there.
fn checksum(replica: ReplicaId, sector: &[u8; SECTOR_LEN]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&replica.to_bytes()), &sector[..CRC_AT])
}

/// A sector with this payload.
pub(super) fn seal(
    replica: ReplicaId,
    area: Area,
    index: u32,
    payload: &[u8; PAYLOAD_LEN],
) -> [u8; SECTOR_LEN] {
    let mut sector = [0; SECTOR_LEN];
    sector[..INDEX_AT].copy_from_slice(&area.magic());
    sector[INDEX_AT..INDEX_AT + 4].copy_from_slice(&index.to_le_bytes());
    sector[PAYLOAD_AT..CRC_AT].copy_from_slice(payload);
    let crc = checksum(replica, &sector);
    sector[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    sector
}

/// The payload of a sector; `None` if it was never written.
pub(super) fn unseal(
    replica: ReplicaId,
    area: Area,
    index: u32,
    sector: &[u8; SECTOR_LEN],
) -> Result<Option<[u8; PAYLOAD_LEN]>, Damaged> {
    if sector.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    let sound = sector[..INDEX_AT] == area.magic()
        && sector[INDEX_AT..INDEX_AT + 4] == index.to_le_bytes()
        && sector[CRC_AT..] == checksum(replica, sector).to_le_bytes();
    if !sound {
        return Err(Damaged);
    }
    let mut payload = [0; PAYLOAD_LEN];
    payload.copy_from_slice(&sector[PAYLOAD_AT..CRC_AT]);
    Ok(Some(payload))
}
