//! Making a file system on a volume: never on one that holds something, without waiting for discards or inode tables.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::{Contents, FsKind, probe};
use crate::host::bounded::{Deadline, bounded};
use crate::host::command::Program;
use crate::host::error::{Doing, HostError};
use crate::host::ioctl;

/// The smallest XFS that xfsprogs still makes, in bytes.
pub(crate) const XFS_MINIMUM: u64 = 300 << 20;

/// What to make.
#[derive(Clone, Debug, Default)]
pub struct MkfsSpec {
    /// Which file system.
    pub fs: FsKind,
    /// Options for its mkfs, as `-i 8192 -O ^has_journal`; those that name other devices or files are refused.
    pub options: String,
    /// Nothing was ever written to the volume, so all of it reads as zero. Else it is made zero first: mkfs then
    /// need not write inode tables, now or later, and old data does not stay allocated.
    pub pristine: bool,
    /// Format even what holds something. Only for a volume that nobody has ever had, as after a creation that was
    /// interrupted.
    pub overwrite: bool,
}

impl MkfsSpec {
    fn program(&self) -> Program {
        match self.fs {
            FsKind::Ext4 => Program {
                name: "mkfs.ext4",
                package: "e2fsprogs",
            },
            FsKind::Xfs => Program {
                name: "mkfs.xfs",
                package: "xfsprogs",
            },
            FsKind::Btrfs => Program {
                name: "mkfs.btrfs",
                package: "btrfs-progs",
            },
        }
    }

    /// Whether its options can be taken; to be asked before a volume is made for them.
    pub fn validate(&self) -> Result<(), HostError> {
        self.arguments().map(drop)
    }

    /// Everything but the device.
    fn arguments(&self) -> Result<Vec<String>, HostError> {
        let given = parse(self.fs, &self.options)?;
        let mut args: Vec<String> = match self.fs {
            // All of the volume is zero: no discard, no inode tables to write. 4 KiB blocks also where mke2fs.conf
            // prefers 1 KiB (small volumes), because no smaller block fits onto 4096-byte sectors. Nothing reserved
            // for root: that protects systems, not data volumes.
            FsKind::Ext4 => vec![
                "-E",
                "nodiscard,assume_storage_prezeroed=1",
                "-b",
                "4096",
                "-m",
                "0",
            ],
            FsKind::Xfs | FsKind::Btrfs => vec!["-K"],
        }
        .into_iter()
        .map(str::to_owned)
        .collect();
        if self.overwrite && self.fs != FsKind::Ext4 {
            args.push("-f".into());
        }
        // Later ones win over those before.
        for (option, value) in given {
            args.extend([option, value]);
        }
        Ok(args)
    }
}

/// Makes the file system and makes it durable.
pub(crate) fn mkfs(device: &Path, spec: &MkfsSpec, limit: Duration) -> Result<(), HostError> {
    let deadline = Deadline::within(limit);
    let mut args: Vec<_> = spec
        .arguments()?
        .into_iter()
        .map(std::ffi::OsString::from)
        .collect();
    let what = || format!("preparing {} for {}", device.display(), spec.fs);
    let file = File::options().read(true).write(true).open(device).doing(what)?;
    let size = ioctl::device_size(&file).doing(what)?;
    if spec.fs == FsKind::Xfs && size < XFS_MINIMUM {
        return Err(HostError::TooSmall {
            fs: spec.fs.name(),
            minimum: XFS_MINIMUM >> 20,
            size: size >> 20,
        });
    }
    let contents = probe(device)?;
    if contents != Contents::Nothing && !spec.overwrite {
        return Err(HostError::HoldsData {
            device: device.into(),
            what: contents.to_string(),
        });
    }
    if !spec.pristine {
        let target = file.try_clone().doing(what)?;
        bounded(what(), deadline.left(), move || ioctl::zero_out(&target, 0, size))?.doing(what)?;
    }
    args.push(device.into());
    spec.program().run_ok(&args, deadline.left())?;
    let what = || format!("making the new file system on {} durable", device.display());
    bounded(what(), deadline.left(), move || file.sync_all())?.doing(what)
}

/// Which options a mkfs takes; each has a value. Not those that name files or other devices, or only pretend.
fn known(fs: FsKind) -> &'static [&'static str] {
    match fs {
        FsKind::Ext4 => &[
            "-b", "-C", "-E", "-g", "-G", "-i", "-I", "-J", "-L", "-m", "-N", "-O", "-T", "-U",
        ],
        FsKind::Xfs => &["-b", "-d", "-i", "-l", "-L", "-m", "-n", "-s"],
        FsKind::Btrfs => &["-d", "-L", "-m", "-n", "-O", "-R", "-s", "-U", "--csum"],
    }
}

/// Parts of a value that would reach beyond the volume.
const FOREIGN: &[&str] = &["device=", "logdev=", "rtdev=", "file=", "name=", "offset="];

fn parse(fs: FsKind, options: &str) -> Result<Vec<(String, String)>, HostError> {
    let refuse = |option: &str, reason: String| HostError::MkfsOption {
        option: option.into(),
        reason,
    };
    let mut words = options.split_whitespace();
    let mut pairs = Vec::new();
    while let Some(word) = words.next() {
        // `-b4096`, `-b 4096`, `--csum=x` or `--csum x`.
        let (option, attached) = match word.strip_prefix("--") {
            Some(long) => match long.split_once('=') {
                Some((name, value)) => (format!("--{name}"), Some(value)),
                None => (word.to_owned(), None),
            },
            None => match word.char_indices().nth(2) {
                Some((at, _)) => (word[..at].to_owned(), Some(&word[at..])),
                None => (word.to_owned(), None),
            },
        };
        if !known(fs).contains(&option.as_str()) {
            return Err(refuse(
                word,
                format!("for {fs} these can be given: {}", known(fs).join(" ")),
            ));
        }
        let value = attached
            .or_else(|| words.next())
            .ok_or_else(|| refuse(word, "its value is missing".into()))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.,=^:+-".contains(c);
        if value.starts_with('-') || !value.chars().all(plain) {
            return Err(refuse(
                &format!("{option} {value}"),
                "its value has characters that no value needs".into(),
            ));
        }
        if FOREIGN.iter().any(|part| value.contains(part)) {
            return Err(refuse(
                &format!("{option} {value}"),
                "it reaches beyond the volume".into(),
            ));
        }
        pairs.push((option, value.to_owned()));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn options_are_taken_apart() -> Result<(), HostError> {
        let pairs = parse(FsKind::Ext4, "-i 8192  -O ^has_journal -m1")?;
        let expected = [("-i", "8192"), ("-O", "^has_journal"), ("-m", "1")];
        assert_eq!(pairs, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(parse(FsKind::Btrfs, "--csum=sha256")?[0].1, "sha256");
        Ok(())
    }

    #[test]
    fn what_could_reach_another_device_is_refused() {
        for (fs, bad) in [
            (FsKind::Ext4, "/dev/sda"),
            (FsKind::Ext4, "-J device=UUID=1"),
            (FsKind::Ext4, "-d /etc"),
            (FsKind::Ext4, "-i"),
            (FsKind::Ext4, "-L -F"),
            (FsKind::Ext4, "-F"),
            (FsKind::Xfs, "-l logdev=/dev/sda"),
            (FsKind::Xfs, "-d name=x"),
            (FsKind::Btrfs, "--rootdir /etc"),
            (FsKind::Btrfs, "-L $(reboot)"),
        ] {
            assert!(
                matches!(parse(fs, bad), Err(HostError::MkfsOption { .. })),
                "{fs} {bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            for fs in FsKind::ALL {
                let _ = parse(fs, &text);
            }
        }
    }
}
