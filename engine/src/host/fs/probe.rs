//! What a device holds, by blkid's low-level probe: signatures of file systems, RAID, LVM, encryption, and partition
//! tables. A device that cannot be read holds nothing that is known, which is not the same as nothing.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::host::bounded::bounded;
use crate::host::command::Program;
use crate::host::error::{Doing, HostError};
use crate::host::ioctl;

const BLKID: Program = Program {
    name: "blkid",
    package: "util-linux",
};
const LIMIT: Duration = Duration::from_secs(20);

/// What was found on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// No signature of anything.
    Nothing,
    /// A file system.
    FileSystem {
        /// Its type, as blkid names it.
        kind: String,
        /// Its label, if it has one.
        label: Option<String>,
    },
    /// Something else: a partition table, a member of a RAID or volume group, encryption, or several at once.
    Other(String),
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::FileSystem { kind, label: None } => write!(f, "a file system ({kind})"),
            Self::FileSystem {
                kind,
                label: Some(label),
            } => write!(f, "a file system ({kind}, label {label:?})"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// Looks at a device.
pub(crate) fn probe(device: &Path) -> Result<Contents, HostError> {
    // blkid's exit code for "nothing found" is also that for "could not be read", hence first this.
    let path = device.to_path_buf();
    let what = || format!("reading {}", device.display());
    bounded(what(), LIMIT, move || read_ends(&path))?.doing(what)?;
    let ended = BLKID.run(
        &[
            "-p".as_ref(),
            "-o".as_ref(),
            "export".as_ref(),
            device.as_os_str(),
        ],
        LIMIT,
    )?;
    match ended.status.code() {
        Some(0) => Ok(interpret(&ended.stdout)),
        Some(2) => Ok(Contents::Nothing),
        Some(8) => Ok(Contents::Other("signatures of several things at once".into())),
        _ => Err(BLKID.failed(&ended)),
    }
}

fn read_ends(path: &Path) -> std::io::Result<()> {
    let device = File::open(path)?;
    let size = ioctl::device_size(&device)?;
    let mut buf = vec![0; 64 << 10];
    let len = buf.len().min(size as usize);
    device.read_exact_at(&mut buf[..len], 0)?;
    device.read_exact_at(&mut buf[..len], size - len as u64)
}

fn interpret(export: &str) -> Contents {
    let found: HashMap<_, _> = export.lines().filter_map(|line| line.split_once('=')).collect();
    let label = found.get("LABEL").map(|label| (*label).to_owned());
    match (found.get("TYPE"), found.get("USAGE"), found.get("PTTYPE")) {
        (Some(kind), Some(&"filesystem"), None) => Contents::FileSystem {
            kind: (*kind).to_owned(),
            label,
        },
        (Some(kind), usage, None) => {
            Contents::Other(format!("{kind} ({})", usage.copied().unwrap_or("of unknown use")))
        }
        (kind, _, Some(table)) => {
            let beside = kind.map(|kind| format!(" and {kind}")).unwrap_or_default();
            Contents::Other(format!("a partition table ({table}){beside}"))
        }
        (None, _, None) => Contents::Other(format!("something that blkid describes as {:?}", export.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blkid_says_is_told_apart() {
        let fs = interpret("DEVNAME=/dev/loop0\nLABEL=a b\nUUID=x\nTYPE=xfs\nUSAGE=filesystem\n");
        assert_eq!(
            fs,
            Contents::FileSystem {
                kind: "xfs".into(),
                label: Some("a b".into())
            }
        );
        assert!(interpret("PTUUID=1\nPTTYPE=gpt\n").to_string().contains("gpt"));
        assert!(
            interpret("TYPE=LVM2_member\nUSAGE=raid\n")
                .to_string()
                .contains("LVM2_member")
        );
        assert_ne!(
            interpret(""),
            Contents::Nothing,
            "an empty answer is not a clean bill"
        );
    }
}
