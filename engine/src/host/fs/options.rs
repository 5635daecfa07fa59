//! Mount options: those that are known and harmless, taken apart into flags and data for mount(2).

use nix::mount::MsFlags;

use super::FsKind;
use crate::host::error::HostError;

/// Options as a user gives them, `noatime,discard`; checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    pub(crate) flags: MsFlags,
    pub(crate) data: String,
}

/// Options that any file system takes as flags; the second says whether it sets or clears.
const FLAGS: &[(&str, MsFlags, bool)] = &[
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("nodev", MsFlags::MS_NODEV, true),
    ("dev", MsFlags::MS_NODEV, false),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("atime", MsFlags::MS_NOATIME, false),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("lazytime", MsFlags::MS_LAZYTIME, true),
    ("nolazytime", MsFlags::MS_LAZYTIME, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
];

/// Options that would break a promise of the volume.
const REFUSED: &[(&str, &str)] = &[
    (
        "nobarrier",
        "a write that was acknowledged as durable would not be",
    ),
    (
        "barrier=0",
        "a write that was acknowledged as durable would not be",
    ),
    ("noload", "without its journal the file system is not consistent"),
    (
        "norecovery",
        "without its journal the file system is not consistent",
    ),
    ("nologreplay", "without its log the file system is not consistent"),
    ("errors=panic", "one failed volume would stop the whole host"),
    ("degraded", "a volume is a single device"),
    ("remount", "a volume is mounted anew"),
    ("bind", "a volume is mounted as a whole"),
];

/// What each file system takes beyond that; `=` ends those that have a value.
fn known(fs: FsKind) -> &'static [&'static str] {
    match fs {
        FsKind::Ext4 => &[
            "discard",
            "nodiscard",
            "data=",
            "commit=",
            "errors=",
            "barrier",
            "acl",
            "noacl",
            "user_xattr",
            "delalloc",
            "nodelalloc",
            "stripe=",
            "inode_readahead_blks=",
            "max_batch_time=",
            "min_batch_time=",
            "journal_ioprio=",
            "auto_da_alloc",
            "noauto_da_alloc",
            "init_itable=",
            "noinit_itable",
            "dioread_lock",
            "dioread_nolock",
            "quota",
            "usrquota",
            "grpquota",
            "prjquota",
            "journal_checksum",
            "i_version",
        ],
        FsKind::Xfs => &[
            "discard",
            "nodiscard",
            "allocsize=",
            "attr2",
            "inode32",
            "inode64",
            "largeio",
            "nolargeio",
            "logbsize=",
            "logbufs=",
            "noalign",
            "swalloc",
            "sunit=",
            "swidth=",
            "wsync",
            "quota",
            "usrquota",
            "uquota",
            "gquota",
            "grpquota",
            "pquota",
            "prjquota",
            "nouuid",
            "filestreams",
        ],
        FsKind::Btrfs => &[
            "discard",
            "discard=",
            "nodiscard",
            "compress",
            "compress=",
            "compress-force",
            "compress-force=",
            "autodefrag",
            "noautodefrag",
            "commit=",
            "datacow",
            "nodatacow",
            "datasum",
            "nodatasum",
            "ssd",
            "nossd",
            "ssd_spread",
            "space_cache=",
            "thread_pool=",
            "max_inline=",
            "acl",
            "noacl",
            "treelog",
            "notreelog",
            "flushoncommit",
            "noflushoncommit",
            "metadata_ratio=",
            "skip_balance",
            "user_subvol_rm_allowed",
        ],
    }
}

impl MountOptions {
    /// Whether the file system is to take no writes.
    pub const fn is_read_only(&self) -> bool {
        self.flags.contains(MsFlags::MS_RDONLY)
    }

    /// Checks the options for this file system. An empty text is none.
    pub fn parse(fs: FsKind, text: &str) -> Result<Self, HostError> {
        let mut flags = MsFlags::empty();
        let mut data = Vec::new();
        for option in text.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            if matches!(option, "defaults" | "nofail" | "auto" | "_netdev") {
                continue;
            }
            if let Some((_, flag, sets)) = FLAGS.iter().find(|(name, ..)| *name == option) {
                flags.set(*flag, *sets);
                continue;
            }
            check(fs, option)?;
            data.push(option);
        }
        // A volume that is copied keeps its UUID, and so does one whose dead device a container still holds.
        if fs == FsKind::Xfs && !data.contains(&"nouuid") {
            data.push("nouuid");
        }
        // A file system that could not write its metadata must not go on as if it had.
        if fs == FsKind::Ext4 && !data.iter().any(|option| option.starts_with("errors=")) {
            data.push("errors=remount-ro");
        }
        Ok(Self {
            flags,
            data: data.join(","),
        })
    }
}

fn check(fs: FsKind, option: &str) -> Result<(), HostError> {
    let refuse = |reason: String| HostError::MountOption {
        option: option.into(),
        reason,
    };
    if let Some((_, reason)) = REFUSED.iter().find(|(name, _)| *name == option) {
        return Err(refuse((*reason).into()));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.:=+-".contains(c);
    if !option.chars().all(plain) {
        return Err(refuse("it has characters that no option needs".into()));
    }
    let name = option
        .split_once('=')
        .map_or(option.to_owned(), |(name, _)| format!("{name}="));
    if known(fs).contains(&name.as_str()) {
        return Ok(());
    }
    let near = near(&name, fs)
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    Err(refuse(format!("{fs} volumes do not take it{near}")))
}

/// The option that differs from this one by at most two letters.
fn near(name: &str, fs: FsKind) -> Option<&'static str> {
    let all = known(fs)
        .iter()
        .copied()
        .chain(FLAGS.iter().map(|(name, ..)| *name));
    all.map(|option| (distance(name, option), option))
        .filter(|(distance, _)| *distance <= 2)
        .min()
        .map(|(_, option)| option)
}

/// Levenshtein distance; options are short, and so is what is compared of them.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(32).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(32).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn flags_and_data_are_told_apart() -> Result<(), HostError> {
        let options = MountOptions::parse(FsKind::Ext4, "defaults,noatime, discard,commit=30,ro,rw")?;
        assert_eq!(options.flags, MsFlags::MS_NOATIME);
        assert_eq!(options.data, "discard,commit=30,errors=remount-ro");
        assert_eq!(MountOptions::parse(FsKind::Xfs, "")?.data, "nouuid");
        Ok(())
    }

    #[test]
    fn what_breaks_a_promise_is_refused() {
        for bad in [
            "nobarrier",
            "barrier=0",
            "noload",
            "errors=panic",
            "remount",
            "loop",
            "commit=3 0",
            "journal_dev=8",
        ] {
            assert!(
                matches!(
                    MountOptions::parse(FsKind::Ext4, bad),
                    Err(HostError::MountOption { .. })
                ),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_slip_of_the_pen_gets_a_suggestion() {
        let Err(error) = MountOptions::parse(FsKind::Ext4, "noatme") else {
            panic!("`noatme` was taken");
        };
        assert!(error.to_string().contains("`noatime`"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            for fs in FsKind::ALL {
                let _ = MountOptions::parse(fs, &text);
            }
        }
    }
}
