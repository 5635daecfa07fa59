//! A replica as its files say that it is, for people and for programs.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bulkhead_engine::disk::Inspection;
use bulkhead_engine::format::FailCause;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rfc3339;

/// A replica as its files say that it is. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaDiskView {
    /// Its directory.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// The cluster that it belongs to.
    pub cluster: String,
    /// Its volume.
    pub volume: String,
    /// Its identity.
    pub replica: String,
    /// Size of the volume.
    pub size: u64,
    /// Length of the data file; anything but the size is damage.
    pub data_length: u64,
    /// What data and metadata take up in the pool.
    pub allocated: u64,
    /// The newest epoch that it has accepted.
    pub epoch: u32,
    /// Everything up to this tick is settled and on its disk.
    pub durable: String,
    /// The newest settled tick that it was told of.
    pub settled: String,
    /// The newest tick of which it holds a write.
    pub newest: String,
    /// Whether it holds every write that it acknowledged, also the unflushed.
    pub whole: bool,
    /// Whether it was closed in order.
    pub clean: bool,
    /// What made it fail for good, if it has.
    pub failed: Option<String>,
    /// Bytes of a chunk, the unit of copying.
    pub chunk_size: u64,
    /// Chunks in all.
    pub chunks: u32,
    /// Chunks that were ever written.
    pub chunks_written: u32,
    /// Chunks written after the durable tick: what a takeover compares.
    pub chunks_unsettled: u32,
    /// Chunks of which it is not known what they hold.
    pub chunks_suspect: u32,
    /// Regions that may hold writes which are not settled.
    pub regions_set: u32,
    /// Regions in all.
    pub regions: u32,
    /// Whether both copies of its superblock are sound.
    pub superblocks_sound: bool,
    /// This opening of it, or the last one.
    pub incarnation: String,
    /// When its metadata was last written.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub modified: SystemTime,
}

impl ReplicaDiskView {
    /// What was found in a directory.
    pub fn of(path: &Path, found: &Inspection) -> Self {
        let superblock = &found.superblock;
        let identity = &superblock.identity;
        Self {
            path: path.to_owned(),
            cluster: identity.cluster.to_string(),
            volume: identity.volume.to_string(),
            replica: identity.replica.to_string(),
            size: superblock.geometry.size(),
            data_length: found.data_len,
            allocated: found.allocated,
            epoch: superblock.epoch.0,
            durable: superblock.durable.to_string(),
            settled: superblock.settled.to_string(),
            newest: found.newest_stamp.to_string(),
            whole: superblock.whole,
            clean: superblock.clean,
            failed: superblock.failed.map(|cause| fail_words(cause).to_owned()),
            chunk_size: superblock.geometry.chunk_size(),
            chunks: found.chunks,
            chunks_written: found.chunks_written,
            chunks_unsettled: found.chunks_unsettled,
            chunks_suspect: found.chunks_suspect,
            regions_set: found.regions_set,
            regions: found.regions,
            superblocks_sound: found.both_slots_valid,
            incarnation: superblock.incarnation.to_string(),
            modified: found.modified,
        }
    }

    /// Bytes of so many chunks, at most the volume's size.
    pub fn bytes(&self, chunks: u32) -> u64 {
        self.chunk_size.saturating_mul(u64::from(chunks)).min(self.size)
    }
}

/// What made a replica fail, in words.
pub(crate) fn fail_words(cause: FailCause) -> &'static str {
    match cause {
        FailCause::Write => "a write failed",
        FailCause::Sync => "a sync failed: what the disk holds is not known",
        FailCause::Read => "a read failed",
        FailCause::Checksum => "a checksum did not match",
    }
}
