//! A whole metadata file: what an open reads, and what a create writes.

use super::FormatError;
use super::layout::{MetaLayout, SLOT_LEN};
use super::maps::{Intent, Stamps};
use super::superblock::{Slots, Superblock};

/// Everything that a metadata file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaImage {
    /// The newest valid superblock.
    pub superblock: Superblock,
    /// Whether both slots are valid; see [`Slots::both_valid`].
    pub both_slots_valid: bool,
    /// The intent bitmap.
    pub intent: Intent,
    /// The stamps.
    pub stamps: Stamps,
}

impl MetaImage {
    /// What a new replica starts with.
    pub fn fresh(superblock: Superblock) -> Self {
        Self {
            superblock,
            both_slots_valid: true,
            intent: Intent::none(&superblock.geometry),
            stamps: Stamps::none(&superblock.geometry),
        }
    }

    /// Reads a file's bytes. Every sector of a table is checked; the first damaged one is the answer.
    pub fn decode(file: &[u8]) -> Result<Self, FormatError> {
        let Slots { newest, both_valid } = Slots::decode(file)?;
        let layout = MetaLayout::new(&newest.geometry)?;
        if (file.len() as u64) < layout.file_len() {
            return Err(FormatError::Short {
                found: file.len() as u64,
                needed: layout.file_len(),
            });
        }
        let replica = newest.identity.replica;
        Ok(Self {
            superblock: newest,
            both_slots_valid: both_valid,
            intent: Intent::decode(file, &newest.geometry, replica)?,
            stamps: Stamps::decode(file, &newest.geometry, replica)?,
        })
    }

    /// The file's bytes: the superblock in both slots (the second with the next sequence number, so that a damaged
    /// slot can be told from one that was never written), and every sector that says something.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let layout = MetaLayout::new(&self.superblock.geometry)?;
        let mut file = vec![0; layout.file_len() as usize];
        let replica = self.superblock.identity.replica;
        for sequence in [self.superblock.sequence, self.superblock.sequence + 1] {
            let superblock = Superblock {
                sequence,
                ..self.superblock
            };
            put(&mut file, MetaLayout::slot_offset(sequence), &superblock.encode());
        }
        for sector in 0..layout.intent_sectors() {
            let bytes = self.intent.encode_sector(replica, sector);
            put(&mut file, MetaLayout::intent_offset(sector), &bytes);
        }
        for sector in 0..layout.stamp_sectors() {
            let bytes = self.stamps.encode_sector(replica, sector);
            put(&mut file, MetaLayout::stamps_offset(sector), &bytes);
        }
        Ok(file)
    }
}

/// `file` is long enough by its layout; a slot is the largest part.
fn put(file: &mut [u8], offset: u64, bytes: &[u8]) {
    debug_assert!(bytes.len() <= SLOT_LEN);
    let start = offset as usize;
    if let Some(part) = file.get_mut(start..start + bytes.len()) {
        part.copy_from_slice(bytes);
    }
}
