//! The head of a frame, and a frame that is ready to be sent. Knows what a frame may carry, not what it means.

use super::{Kind, WireError};

/// Every frame starts with these four bytes ("bhfr").
pub const MAGIC: u32 = u32::from_le_bytes(*b"bhfr");
/// Length of the head of a frame, in bytes.
pub const HEADER_LEN: usize = 40;

/// The only flag so far: the data's checksum is there.
const FLAG_DATA_CRC: u8 = 1;

/// The head of a frame: what follows it, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type.
    pub kind: Kind,
    /// The request that it makes or answers; the number of a ping; else zero.
    pub id: u64,
    /// Bytes of metadata after the head.
    pub meta_len: u32,
    /// CRC32C of the metadata.
    pub meta_crc: u32,
    /// Bytes of data after the metadata.
    pub data_len: u32,
    /// CRC32C of the data, if that was agreed on and there is data.
    pub data_crc: Option<u32>,
}

impl Header {
    /// The bytes of the head.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = self.kind.number();
        bytes[5] = if self.data_crc.is_some() { FLAG_DATA_CRC } else { 0 };
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.meta_len.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.data_len.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.meta_crc.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.data_crc.unwrap_or(0).to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The head in these bytes. Its lengths are within the bounds of its type: they may be believed.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, WireError> {
        let magic = le32(bytes, 0);
        if magic != MAGIC {
            return Err(WireError::Magic(magic));
        }
        if crc32c::crc32c(&bytes[..36]) != le32(bytes, 36) {
            return Err(WireError::HeaderChecksum);
        }
        let kind = Kind::from_number(bytes[4])?;
        let (flags, data_crc) = (bytes[5], le32(bytes, 28));
        let has_crc = flags & FLAG_DATA_CRC != 0;
        let unused = flags & !FLAG_DATA_CRC != 0 || bytes[6..8] != [0; 2] || bytes[32..36] != [0; 4];
        if unused || (!has_crc && data_crc != 0) {
            return Err(WireError::Reserved);
        }
        let header = Self {
            kind,
            id: u64::from(le32(bytes, 8)) | u64::from(le32(bytes, 12)) << 32,
            meta_len: le32(bytes, 16),
            data_len: le32(bytes, 20),
            meta_crc: le32(bytes, 24),
            data_crc: has_crc.then_some(data_crc),
        };
        header.check_bounds()?;
        Ok(header)
    }

    /// Bytes of the whole frame.
    pub const fn frame_len(&self) -> usize {
        HEADER_LEN + self.meta_len as usize + self.data_len as usize
    }

    /// That its lengths are within the bounds of its type.
    pub(super) fn check_bounds(&self) -> Result<(), WireError> {
        let bounds = [
            ("bytes of metadata", self.meta_len, self.kind.max_meta()),
            ("bytes of data", self.data_len, self.kind.max_data()),
        ];
        for (what, len, max) in bounds {
            if len as usize > max {
                return Err(WireError::TooLong {
                    kind: self.kind,
                    what,
                    len: u64::from(len),
                    max: max as u64,
                });
            }
        }
        if self.data_len == 0 && self.data_crc.is_some() {
            return Err(WireError::DataChecksumPresence(self.kind));
        }
        Ok(())
    }
}

fn le32(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A frame that is ready to be sent: its head and metadata in one piece, its data where the caller has it.
#[derive(Clone, Debug)]
pub struct Frame<P> {
    /// Head and metadata.
    pub head: Vec<u8>,
    /// The data, not copied.
    pub data: Option<P>,
}

impl<P: std::ops::Deref<Target = [u8]>> Frame<P> {
    /// Its length on the wire, in bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.data_bytes().len()
    }

    /// Never: a frame has a head.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The bytes of its data; none if it carries none.
    pub fn data_bytes(&self) -> &[u8] {
        self.data.as_deref().unwrap_or(&[])
    }

    /// All of it in one piece; copies the data, so it is not for the data path.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.clone();
        bytes.extend_from_slice(self.data_bytes());
        bytes
    }
}
