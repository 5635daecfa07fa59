//! The explicit last resort: a replica that has failed is taken as it is, because a person has said so. Changes the
//! superblock and nothing else; what the replica holds stays what a broken disk left of it.

use std::path::Path;

use super::replica_dir::open;
use super::{BlockFile, Caching, DiskError};
use crate::format::{FailCause, MetaLayout, ReplicaIdentity, Superblock};

/// Clears the mark of a failure (rule D6) from the replica in `dir`, which nobody may have open, and says what had made it
/// fail; `None` if it had not. It stays marked as not whole and not closed in order, so every later step takes it for a
/// replica that may lack writes. To be called only after a person has accepted the loss.
///
/// One slot of the superblock is written and synced: after a crash it is either accepted or as it was.
pub fn accept_failed(dir: &Path, expected: &ReplicaIdentity) -> Result<Option<FailCause>, DiskError> {
    let files = open(dir, expected, Caching::PageCache)?;
    let superblock = files.image.superblock;
    let Some(cause) = superblock.failed else {
        return Ok(None);
    };
    let accepted = Superblock {
        sequence: superblock.sequence + 1,
        failed: None,
        whole: false,
        clean: false,
        ..superblock
    };
    let failed = || DiskError::io("cannot write the superblock of", dir);
    let meta: &dyn BlockFile = files.meta.as_ref();
    // The newest superblock may be in the page cache only, and the other slot, which is written now, the only one on disk.
    meta.sync().map_err(failed())?;
    meta.write_at(&accepted.encode(), MetaLayout::slot_offset(accepted.sequence))
        .map_err(failed())?;
    meta.sync().map_err(failed())?;
    Ok(Some(cause))
}
