//! Growing a mounted file system to the size of its device.

use std::path::Path;
use std::time::Duration;

use super::FsKind;
use crate::host::command::Program;
use crate::host::error::HostError;

/// Grows the file system of `device`, which is mounted on `target`.
pub(crate) fn grow(fs: FsKind, device: &Path, target: &Path, limit: Duration) -> Result<(), HostError> {
    let (program, args): (Program, Vec<&std::ffi::OsStr>) = match fs {
        FsKind::Ext4 => (
            Program {
                name: "resize2fs",
                package: "e2fsprogs",
            },
            vec![device.as_os_str()],
        ),
        FsKind::Xfs => (
            Program {
                name: "xfs_growfs",
                package: "xfsprogs",
            },
            vec![target.as_os_str()],
        ),
        FsKind::Btrfs => (
            Program {
                name: "btrfs",
                package: "btrfs-progs",
            },
            vec![
                "filesystem".as_ref(),
                "resize".as_ref(),
                "max".as_ref(),
                target.as_os_str(),
            ],
        ),
    };
    let ended = program.run(&args, limit)?;
    if ended.status.success() {
        return Ok(());
    }
    if fs == FsKind::Ext4 && ended.stderr.contains("Permission denied") {
        return Err(HostError::GrowNotAllowed {
            device: device.into(),
        });
    }
    Err(program.failed(&ended))
}
