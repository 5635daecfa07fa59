//! What can go wrong between a volume and its mount point, in sentences for people.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::holders::{Holder, describe};

/// Why the host could not do what it was asked for.
#[derive(Debug, Error)]
pub enum HostError {
    /// A call to the kernel failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done, to what.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A call to the kernel or a program did not come back in time.
    #[error("{what} did not end within {} s", limit.as_secs_f32())]
    TimedOut {
        /// What was being done, to what.
        what: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// No loop device could be had.
    #[error(
        "no free loop device after {tries} tries: others take them at the same time or all are in use; \
         `losetup -a` lists them, and the kernel parameter max_loop or the device limit of this container may be too low"
    )]
    NoLoopDevice {
        /// How often one was tried for.
        tries: u32,
    },
    /// A program that is needed is not there or failed.
    #[error("{program} failed ({status}): {message}")]
    Program {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// What it said, shortened.
        message: String,
    },
    /// A program that is needed is not installed.
    #[error("{program} is not installed on this host: install the package {package}")]
    ProgramMissing {
        /// Its name.
        program: String,
        /// Debian's package that holds it.
        package: &'static str,
    },
    /// The device holds something that formatting would destroy.
    #[error("{device} holds {what}: it is not formatted, because that would destroy it")]
    HoldsData {
        /// The device.
        device: PathBuf,
        /// What was found on it.
        what: String,
    },
    /// The device does not hold the file system that was to be mounted.
    #[error("{device} holds {found}, not {wanted}")]
    WrongFileSystem {
        /// The device.
        device: PathBuf,
        /// What it holds.
        found: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A check of the file system found damage that it does not repair on its own.
    #[error(
        "the file system on {device} is damaged, and e2fsck does not repair it without being asked \
         ({message}): attach the volume without mounting it and run e2fsck by hand"
    )]
    Damaged {
        /// The device.
        device: PathBuf,
        /// What e2fsck said, shortened.
        message: String,
    },
    /// A mount option that is not taken.
    #[error("mount option `{option}` is refused: {reason}")]
    MountOption {
        /// The option as given.
        option: String,
        /// Why.
        reason: String,
    },
    /// The volume is too small for this file system.
    #[error(
        "{fs} needs a volume of at least {minimum} MiB, and this one has {size} MiB: make it larger or take ext4"
    )]
    TooSmall {
        /// The file system.
        fs: &'static str,
        /// What it needs, in MiB.
        minimum: u64,
        /// What there is, in MiB.
        size: u64,
    },
    /// The kernel lets nobody grow a mounted ext4 who may not exceed resource limits.
    #[error(
        "{device}: growing a mounted ext4 needs CAP_SYS_RESOURCE, which this process has not been granted"
    )]
    GrowNotAllowed {
        /// The device.
        device: PathBuf,
    },
    /// Something else is mounted where the volume was to be.
    #[error("{target} is a mount point already, of {source_name}: unmount it first")]
    MountPointTaken {
        /// Where.
        target: PathBuf,
        /// What is mounted there.
        source_name: String,
    },
    /// An option for mkfs that is not taken.
    #[error("mkfs option `{option}` is refused: {reason}")]
    MkfsOption {
        /// The option as given.
        option: String,
        /// Why.
        reason: String,
    },
    /// A mount point outside of the host's own directory.
    #[error(
        "{target} does not lie below {mounts}: volumes are mounted there only, so that a restart finds them"
    )]
    ForeignMountPoint {
        /// What was asked for.
        target: PathBuf,
        /// Where mount points belong.
        mounts: PathBuf,
    },
    /// The volume is attached on this host already.
    #[error("volume {volume} is attached on this host already ({evidence})")]
    AttachedAlready {
        /// The volume.
        volume: String,
        /// What shows it.
        evidence: String,
    },
    /// A connection that was kept has no block device any more.
    #[error("volume {volume} has a connection to the kernel, but no block device on it any more")]
    NoDevice {
        /// The volume.
        volume: String,
    },
    /// Others still use the file system after it was unmounted here.
    #[error("{device} is still in use by {}: stop what runs there", describe(.holders))]
    Held {
        /// The device.
        device: PathBuf,
        /// Who holds it.
        holders: Vec<Holder>,
    },
    /// The kernel speaks a protocol that this transport does not.
    #[error("the kernel's FUSE protocol {major}.{minor} is too old: Linux 5.10 or newer is needed")]
    Protocol {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
    /// The volume has been detached or its connection aborted.
    #[error("volume {volume} is being torn down")]
    TornDown {
        /// The volume.
        volume: String,
    },
}

impl HostError {
    /// Wraps the kernel's answer with what was being done.
    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System {
            what: what.into(),
            source: source.into(),
        }
    }
}

/// `map_err` with the sentence that says what was being done.
pub(crate) trait Doing<T> {
    /// Adds what was being done to an error of the kernel.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, HostError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, HostError> {
        self.map_err(|source| HostError::system(what(), source))
    }
}
