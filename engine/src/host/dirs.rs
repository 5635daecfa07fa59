//! The directories that this host's volumes use, and the mark by which their loop devices are known again.
//!
//! Never removes anything but empty directories of its own.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::{Doing, HostError};
use crate::ids::VolumeId;

/// Ending of the name of a volume's file. The volume's id stands before it, so that a loop device is known by its
/// backing file even when the mount that the file lies in has been detached.
const FILE_SUFFIX: &str = ".bulkhead";
/// File in the run directory that tells this host's loop devices from those of other hosts that share the kernel.
const INSTANCE: &str = "instance";

/// Where a host keeps what belongs to its attached volumes. No two daemons may share either directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDirs {
    /// For the FUSE mounts; gone after a reboot, as `/run/bulkhead`.
    pub run: PathBuf,
    /// For the mount points of the file systems. In a managed plugin below its `propagatedMount`.
    pub mounts: PathBuf,
}

impl HostDirs {
    /// Makes what is missing of both directories.
    pub fn create(&self) -> Result<(), HostError> {
        for dir in [self.devices(), self.mounts.clone()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .doing(|| format!("making the directory {}", dir.display()))?;
        }
        Ok(())
    }

    /// The usual mount point of a volume.
    pub fn mount_point(&self, volume: VolumeId) -> PathBuf {
        self.mounts.join(volume.to_string())
    }

    pub(crate) fn devices(&self) -> PathBuf {
        self.run.join("devices")
    }

    pub(crate) fn device_dir(&self, volume: VolumeId) -> PathBuf {
        self.devices().join(volume.to_string())
    }

    /// The mark on this host's loop devices, made once for each run directory. Hosts that share a kernel, as
    /// containers do, may have the same paths, hence a random mark.
    pub(crate) fn mark(&self) -> Result<Mark, HostError> {
        let path = self.run.join(INSTANCE);
        let what = || format!("making the instance mark {}", path.display());
        loop {
            match fs::read_to_string(&path) {
                Ok(text) => match Mark::parse(text.trim()) {
                    Some(mark) => return Ok(mark),
                    // Torn by a power cut on a run directory that survives it; no loop device survived.
                    None => fs::remove_file(&path).doing(what)?,
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).doing(what),
            }
            self.create()?;
            let draft = Mark(uuid::Uuid::new_v4().as_u64_pair().0);
            let draft_path = self.run.join(format!("{INSTANCE}.{:016x}", draft.0));
            fs::write(&draft_path, format!("{:016x}\n", draft.0)).doing(what)?;
            // Of several threads that come here at the same time one links first; all read what it wrote.
            let linked = fs::hard_link(&draft_path, &path);
            fs::remove_file(&draft_path).doing(what)?;
            match linked {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).doing(what),
                _ => {}
            }
        }
    }

    /// Whether a path lies strictly below the directory of mount points. Both are taken as they are, without
    /// following links: `..` is refused.
    pub(crate) fn admits_mount_point(&self, target: &Path) -> bool {
        let tame =
            |component: std::path::Component<'_>| !matches!(component, std::path::Component::ParentDir);
        target != self.mounts && target.starts_with(&self.mounts) && target.components().all(tame)
    }
}

/// See [`HostDirs::mark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Mark {
    fn parse(text: &str) -> Option<Self> {
        (text.len() == 16)
            .then(|| u64::from_str_radix(text, 16).ok())
            .flatten()
            .map(Self)
    }

    /// What stands in the loop device's name field (63 bytes at most) of a volume.
    pub(crate) fn tag(self, volume: VolumeId) -> String {
        format!("bulkhead:{:016x}:{volume}", self.0)
    }
}

/// Name of the volume's file in its FUSE mount.
pub(crate) fn file_name(volume: VolumeId) -> String {
    format!("{volume}{FILE_SUFFIX}")
}

/// The volume whose file this is; `None` if it is no volume's file. Takes paths as the kernel shows them, also of
/// detached mounts and with its remark for deleted files.
pub(crate) fn volume_of_file(path: &str) -> Option<VolumeId> {
    let path = path.trim_end().trim_end_matches(" (deleted)");
    let name = path.rsplit('/').next()?;
    name.strip_suffix(FILE_SUFFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_fits_into_the_name_field_of_a_loop_device() {
        let tag = Mark(u64::MAX).tag(VolumeId::from_u128(u128::MAX));
        assert!(tag.len() < 64, "{} bytes", tag.len());
    }

    #[test]
    fn a_volume_is_known_by_its_file() {
        let volume = VolumeId::from_u128(7);
        let name = file_name(volume);
        for shown in [
            format!("/run/x/{name}\n"),
            format!("/{name}"),
            format!("/{name} (deleted)\n"),
        ] {
            assert_eq!(volume_of_file(&shown), Some(volume), "{shown:?}");
        }
        assert_eq!(volume_of_file("/var/disk.img"), None);
        assert_eq!(volume_of_file(".bulkhead"), None);
    }

    #[test]
    fn mount_points_stay_below_their_directory() {
        let dirs = HostDirs {
            run: "/run/b".into(),
            mounts: "/var/lib/b/mnt".into(),
        };
        assert!(dirs.admits_mount_point(Path::new("/var/lib/b/mnt/v")));
        for bad in [
            "/var/lib/b/mnt",
            "/var/lib/b/mnt/../x",
            "/etc",
            "/var/lib/b/mntx/v",
        ] {
            assert!(!dirs.admits_mount_point(Path::new(bad)), "{bad}");
        }
    }

    #[test]
    fn threads_that_make_the_mark_at_the_same_time_agree() -> Result<(), Box<dyn std::error::Error>> {
        let tmp = tempfile::tempdir()?;
        let dirs = HostDirs {
            run: tmp.path().join("run"),
            mounts: tmp.path().join("mnt"),
        };
        let marks: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..16).map(|_| scope.spawn(|| dirs.mark())).collect();
            makers
                .into_iter()
                .map(|maker| maker.join().expect("no panic"))
                .collect()
        });
        let first = dirs.mark()?;
        for mark in marks {
            assert_eq!(mark?, first);
        }
        Ok(())
    }

    #[test]
    fn the_mark_is_made_once_and_kept() -> Result<(), Box<dyn std::error::Error>> {
        let tmp = tempfile::tempdir()?;
        let dirs = HostDirs {
            run: tmp.path().join("run"),
            mounts: tmp.path().join("mnt"),
        };
        let first = dirs.mark()?;
        assert_eq!(dirs.mark()?, first);
        fs::write(dirs.run.join(INSTANCE), "torn")?;
        assert_ne!(dirs.mark()?, first, "a torn mark is replaced");
        Ok(())
    }
}
