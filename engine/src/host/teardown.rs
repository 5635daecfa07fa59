//! The end of an attachment. It always ends, whatever the device, the file system and their users do (P5):
//!
//! 1. unmount what is mounted here; 2. write back and unmount lazily what is in use; 3. let go of the loop device;
//! 4. abort the FUSE connection, after which nothing in the kernel waits any more; 5. take its mount away.
//!
//! While the device answers, nothing that was written is lost: what others still hold is written back before 4.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::bounded::{Deadline, poll_until};
use super::holders::{self, Holder};
use super::loopdev::{self, LoopDevice};
use super::mountinfo::MountInfo;
use super::mounts;
use super::transport::Transport;

/// After an abort everything that waited ends at once; this is patience for a loaded machine.
const AFTER_ABORT: Duration = Duration::from_secs(5);
/// How long letting go of a device may take when nobody else is known to hold it: programs that look at every
/// device that changes (udev) hold it for a moment.
const PASSING_USERS: Duration = Duration::from_secs(2);

/// How long a mount that is in use is tried to be taken away in the normal way, on a device that has failed.
const DEAD: Duration = Duration::from_millis(200);

/// How an attachment ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DetachReport {
    /// Mount points that were in use and had to be taken away from their users.
    pub lazily: Vec<std::path::PathBuf>,
    /// Requests may have been failed: something was still in use, or did not answer in time.
    pub aborted: bool,
    /// Who still holds the dead device, as in another mount namespace. It goes with the last of them.
    pub holders: Vec<Holder>,
    /// The loop device is still bound, because somebody holds it.
    pub loop_lingers: bool,
    /// A thread is stuck in the device, and was left behind.
    pub thread_lingers: bool,
    /// What went wrong on the way without stopping it.
    pub faults: Vec<String>,
}

impl DetachReport {
    /// Whether everything went in the normal way and nothing is left.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    fn note(&mut self, outcome: Result<(), super::HostError>) -> bool {
        match outcome {
            Ok(()) => true,
            Err(error) => {
                self.faults.push(error.to_string());
                false
            }
        }
    }
}

/// What a teardown works on.
pub(crate) struct Remains<'a> {
    pub(crate) transport: &'a dyn Transport,
    pub(crate) device: Option<LoopDevice>,
    /// The directory of the FUSE mount.
    pub(crate) dir: &'a Path,
    /// The usual mount point of the file system.
    pub(crate) target: &'a Path,
}

impl Remains<'_> {
    /// Runs it. The steps before the abort share the limit; what follows an abort has bounds of its own.
    pub(crate) fn tear_down(mut self, limit: Duration) -> DetachReport {
        let deadline = Deadline::within(limit);
        let mut report = DetachReport::default();
        if let Some(device) = self.device.take() {
            self.release(device, deadline, &mut report);
        }
        match self.transport.close(deadline.left().max(AFTER_ABORT)) {
            Ok(ended) => report.thread_lingers = !ended,
            Err(error) => report.faults.push(error.to_string()),
        }
        self.remove(self.dir, &mut report);
        self.remove(self.target, &mut report);
        report
    }

    /// Removes an empty directory: what is not ours to remove stays. Where another namespace still has a copy of a
    /// mount on it, the kernel takes that away too.
    fn remove(&self, dir: &Path, report: &mut DetachReport) {
        if let Err(error) = fs::remove_dir(dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            report.faults.push(format!("removing {}: {error}", dir.display()));
        }
    }

    fn release(&self, device: LoopDevice, deadline: Deadline, report: &mut DetachReport) {
        let (number, path) = (device.number(), device.path().to_path_buf());
        let backing = loopdev::backing_file(number);
        for mount in mounts::of_loop(number, &path).unwrap_or_default() {
            self.unmount(&mount, deadline, report);
        }
        let patience = if self.transport.is_alive() {
            share(deadline, 2)
        } else {
            Duration::ZERO
        };
        let held = holders::who_stays(number, &path, Deadline::within(patience));
        for holder in &held {
            // The last chance for what they wrote; a copy of a mount in another namespace shares its file system.
            report.note(mounts::sync(&holder.reach(), share(deadline, 3)));
        }
        let patience = if !held.is_empty() {
            Duration::from_millis(50)
        } else if self.transport.is_alive() && holders::is_claimed(&path) {
            // A file system that no table of mounts shows: most likely it is being written back, and it shall be.
            deadline.left()
        } else {
            PASSING_USERS
        };
        let in_use = !report.lazily.is_empty() || !held.is_empty();
        let gone = match device.detach(patience.min(deadline.left())) {
            Ok(gone) => gone,
            Err(error) => {
                report.faults.push(error.to_string());
                false
            }
        };
        if gone {
            return;
        }
        self.abort(report);
        let unbound = || loopdev::backing_file(number) != backing;
        report.loop_lingers = !poll_until(
            Deadline::within(if in_use { PASSING_USERS } else { AFTER_ABORT }),
            unbound,
        );
        report.holders = if report.loop_lingers {
            holders::who_keeps(number, &path)
        } else {
            Vec::new()
        };
    }

    /// Half of the time to write back, half of the rest for the normal way, a third of what is left then to write back
    /// again; then by force.
    fn unmount(&self, mount: &MountInfo, deadline: Deadline, report: &mut DetachReport) {
        let patience = if self.transport.is_alive() {
            // Unmounting writes back too, but by then the mount is gone, and a slow one cannot be told from a dead one.
            report.note(mounts::sync(&mount.target, share(deadline, 2)));
            share(deadline, 2)
        } else {
            // What fails already, as that of a fenced volume, need not be waited for.
            DEAD
        };
        match mounts::unmount(&mount.target, patience) {
            Ok(()) => return,
            Err(super::HostError::TimedOut { .. }) => self.abort(report),
            Err(error) => {
                tracing::warn!(%error, "it is taken away from its users");
                if !report.aborted && !report.note(mounts::sync(&mount.target, share(deadline, 3))) {
                    self.abort(report);
                }
            }
        }
        report.lazily.push(mount.target.clone());
        if !report.note(mounts::unmount_lazily(
            &mount.target,
            AFTER_ABORT.min(share(deadline, 2).max(PASSING_USERS)),
        )) {
            self.abort(report);
            report.note(mounts::unmount_lazily(&mount.target, AFTER_ABORT));
        }
    }

    fn abort(&self, report: &mut DetachReport) {
        if !report.aborted {
            report.aborted = true;
            report.note(self.transport.abort());
        }
    }
}

/// This part of the time that is left.
fn share(deadline: Deadline, part: u32) -> Duration {
    deadline.left() / part
}
