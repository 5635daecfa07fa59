//! The kernel's table of mounts, read and taken apart. Never asks a mount itself: it may not answer.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountInfo {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) target: PathBuf,
    pub(crate) fs_type: String,
    pub(crate) source: PathBuf,
}

impl MountInfo {
    /// The mounts of this process's namespace, in the order in which they were made.
    pub(crate) fn own() -> io::Result<Vec<Self>> {
        Self::read(Path::new("/proc/self/mountinfo"))
    }

    /// The mounts that this file of a process lists.
    pub(crate) fn read(path: &Path) -> io::Result<Vec<Self>> {
        Ok(Self::parse(&fs::read(path)?))
    }

    fn parse(table: &[u8]) -> Vec<Self> {
        table
            .split(|byte| *byte == b'\n')
            .filter_map(Self::parse_line)
            .collect()
    }

    fn parse_line(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = std::str::from_utf8(fields.nth(2)?).ok()?;
        let (major, minor) = device.split_once(':')?;
        let target = fields.nth(1)?;
        // Optional fields end with a lone dash.
        fields.find(|field| *field == b"-")?;
        let fs_type = fields.next()?;
        let source = fields.next()?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            target: unescape(target),
            fs_type: String::from_utf8_lossy(fs_type).into_owned(),
            source: unescape(source),
        })
    }

    /// Whether this is a mount of that block device. Btrfs shows a number of its own, hence the name too.
    pub(crate) fn is_of(&self, major: u32, minor: u32, device: &Path) -> bool {
        (self.major, self.minor) == (major, minor) || self.source == device
    }
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let octal = (byte == b'\\')
            .then(|| std::str::from_utf8(tail.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(meant) = octal {
            bytes.push(meant);
            rest = tail.get(3..).unwrap_or_default();
        } else {
            bytes.push(byte);
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_with_and_without_optional_fields() {
        let table = b"36 35 7:12 / /mnt/a\\040b rw,noatime shared:1 master:2 - ext4 /dev/loop12 rw\n\
            40 35 0:55 / /run/x rw - fuse.bulkhead bulkhead rw,user_id=0\nnonsense\n";
        let mounts = MountInfo::parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].target, Path::new("/mnt/a b"));
        assert!(mounts[0].is_of(7, 12, Path::new("/dev/other")));
        assert_eq!(
            (mounts[1].minor, mounts[1].fs_type.as_str()),
            (55, "fuse.bulkhead")
        );
    }

    proptest! {
        #[test]
        fn no_table_panics(table in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = MountInfo::parse(&table);
        }
    }
}
