//! What is checked before a file system is mounted.
//!
//! After an unclean stop nothing but the replay of its journal, which the mount does by itself: the volume keeps the
//! order of flushes, so a journal that was durable is there, and a full check of every volume after a power cut would
//! take longer than Docker waits for a mount. The exception is an ext4 that has recorded an error in its superblock:
//! e2fsck repairs what is safe to repair (`-p`), else the mount is refused. XFS and btrfs check as they go and have no
//! repair that is safe without a person.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::{Contents, FsKind, probe};
use crate::host::bounded::{Deadline, bounded};
use crate::host::command::Program;
use crate::host::error::{Doing, HostError};

const E2FSCK: Program = Program {
    name: "e2fsck",
    package: "e2fsprogs",
};
/// Where ext4's superblock keeps its state, and the bit for "errors were found".
const EXT4_STATE: u64 = 1024 + 0x3a;
const EXT4_ERRORS: u16 = 2;

/// Makes sure that the device holds this file system, and that it is fit to be mounted.
pub(crate) fn check_before_mount(device: &Path, fs: FsKind, limit: Duration) -> Result<(), HostError> {
    let deadline = Deadline::within(limit);
    match probe(device)? {
        Contents::FileSystem { kind, .. } if kind == fs.name() => {}
        other => {
            return Err(HostError::WrongFileSystem {
                device: device.into(),
                found: other.to_string(),
                wanted: fs.name(),
            });
        }
    }
    if fs == FsKind::Ext4 && has_recorded_errors(device, deadline.left())? {
        tracing::warn!(device = %device.display(), "ext4 has recorded errors: e2fsck -p runs before the mount");
        repair(device, deadline.left())?;
    }
    Ok(())
}

fn has_recorded_errors(device: &Path, limit: Duration) -> Result<bool, HostError> {
    let path = device.to_path_buf();
    let what = || format!("reading the superblock of {}", device.display());
    let state = bounded(what(), limit, move || {
        let mut state = [0; 2];
        File::open(path)?.read_exact_at(&mut state, EXT4_STATE)?;
        std::io::Result::Ok(u16::from_le_bytes(state))
    })?;
    Ok(state.doing(what)? & EXT4_ERRORS != 0)
}

fn repair(device: &Path, limit: Duration) -> Result<(), HostError> {
    let ended = E2FSCK.run(&["-p".as_ref(), device.as_os_str()], limit)?;
    match ended.status.code() {
        // 0: sound. 1: repaired.
        Some(0 | 1) => Ok(()),
        _ => Err(HostError::Damaged {
            device: device.into(),
            message: ended.message(),
        }),
    }
}
