//! What a replica's metadata file holds: superblock, write intent and stamps as bytes and back.
//!
//! Pure: it opens no file and decides nothing. Whatever bytes it is given, it answers with a value or with a
//! [`FormatError`]; it never panics on them. The layout is described in docs/on-disk-format.md.
//!
//! | part | where | protected by |
//! |---|---|---|
//! | [`Superblock`] | two slots of 4 KiB at 0 and 4096, written alternately | a CRC32C over the slot; the newest valid one counts |
//! | [`Intent`] | sectors from [`INTENT_OFFSET`] | each sector has its index and a CRC32C |
//! | [`Stamps`] | sectors from [`STAMPS_OFFSET`] | as above |

mod image;
mod layout;
mod maps;
mod sector;
mod superblock;
#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::geometry::GeometryError;

pub use image::MetaImage;
pub use layout::{INTENT_OFFSET, MetaLayout, SLOT_LEN, STAMPS_OFFSET, SUPERBLOCKS_LEN};
pub use maps::{Intent, Stamps};
pub use sector::{Area, REGIONS_PER_SECTOR, SECTOR_LEN, STAMPS_PER_SECTOR};
pub use superblock::{FORMAT_VERSION, FailCause, ReplicaIdentity, Slots, Superblock};

/// Why the bytes of a metadata file cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FormatError {
    /// The file ends too early.
    #[error("the metadata file has {found} bytes but needs {needed}: it was truncated")]
    Short {
        /// Bytes there are.
        found: u64,
        /// Bytes that the layout needs.
        needed: u64,
    },
    /// Neither slot carries the magic number.
    #[error("this is not a metadata file of a Bulkhead replica (no superblock in either slot)")]
    NoSuperblock,
    /// Slots are there, but none passes its checksum.
    #[error("both superblock slots are damaged (checksum); this replica has to be rebuilt from another one")]
    DamagedSuperblock,
    /// Both slots are valid, but of different replicas.
    #[error("the two superblock slots belong to different replicas; the file has been mixed from two others")]
    MixedSuperblocks,
    /// A sound superblock of a format that this program does not know.
    #[error(
        "the replica has on-disk format {found}, this program knows formats up to {known}; use a newer version of it"
    )]
    Version {
        /// Version on disk.
        found: u32,
        /// Newest version that is understood.
        known: u32,
    },
    /// A sound superblock of this version with a value that cannot be.
    #[error("the superblock holds an impossible {0}; this replica has to be rebuilt from another one")]
    Value(&'static str),
    /// The superblock's geometry is refused.
    #[error("the superblock's geometry is impossible: {0}")]
    Geometry(#[from] GeometryError),
    /// More regions than the intent area has room for.
    #[error(
        "a volume of {size} bytes with regions of {region_size} bytes does not fit the metadata layout: \
         at most {max_regions} regions"
    )]
    TooManyRegions {
        /// Size of the volume in bytes.
        size: u64,
        /// Size of a region in bytes.
        region_size: u64,
        /// Regions that fit.
        max_regions: u32,
    },
    /// A sector of intent or stamps fails its check.
    #[error(
        "sector {sector} of the {area} is damaged (checksum or place); this replica has to be rebuilt from another one"
    )]
    DamagedSector {
        /// Which table.
        area: Area,
        /// Index of the sector within it.
        sector: u32,
    },
}
