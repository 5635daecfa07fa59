//! The processes of the installed program: the daemon, the keeper that has started it, and what that starts next.
//!
//! It owns what is read of them in `/proc`. It must never end a process but one that the daemon's own keeper has started.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bulkhead_keeper::ENV_SOCKET;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::CliError;
use crate::proc::stat;
use crate::service::StatusView;

/// What the kernel adds to the path of a program that is no longer there.
const DELETED: &str = " (deleted)";
/// A keeper starts the daemon again at once; one that waits for so long has seen it die twice in a row.
const HESITATES: Duration = Duration::from_millis(200);

/// A daemon that runs on this machine.
pub(super) struct Running {
    /// The program that it was started from.
    pub(super) program: PathBuf,
    /// Its keeper, if it has one.
    pub(super) keeper: Option<Keeper>,
}

impl Running {
    /// The daemon that answered.
    pub(super) fn of(status: &StatusView) -> Result<Self, CliError> {
        let pid = status.pid;
        let elsewhere = || {
            CliError::Refused(
                "the daemon does not run on this machine as this command sees it, but in a container or as a managed plugin; \
                 upgrade that instead (docker plugin upgrade)"
                    .to_owned(),
            )
        };
        let same_root = identity("/").is_some() && identity(&format!("/proc/{pid}/root")) == identity("/");
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_daemon = line.split(|&byte| byte == 0).any(|word| word == b"daemon");
        let program = fs::read_link(format!("/proc/{pid}/exe"));
        let (true, true, Ok(program)) = (same_root, is_daemon, program) else {
            return Err(elsewhere());
        };
        let text = program.to_string_lossy();
        let program = PathBuf::from(text.strip_suffix(DELETED).unwrap_or(&text));
        Ok(Self {
            program,
            keeper: Keeper::of(pid),
        })
    }
}

/// A keeper, which starts the daemon again and again.
pub(super) struct Keeper {
    pid: u32,
    /// When it was started: another process that has its number later was not.
    since: String,
    /// Since when it has no child.
    alone: Option<Instant>,
}

impl Keeper {
    fn of(daemon: u32) -> Option<Self> {
        let variables = fs::read(format!("/proc/{daemon}/environ")).ok()?;
        let is_mark = |one: &[u8]| {
            one.strip_prefix(ENV_SOCKET.as_bytes())
                .is_some_and(|rest| rest.starts_with(b"="))
        };
        if !variables.split(|&byte| byte == 0).any(is_mark) {
            return None;
        }
        let pid = stat(daemon, 1)?.parse().ok()?;
        Some(Self {
            pid,
            since: stat(pid, 19)?,
            alone: None,
        })
    }

    /// Whether it is still the same process.
    pub(super) fn lives(&self) -> bool {
        stat(self.pid, 19).as_ref() == Some(&self.since)
    }

    /// Whether what it starts ends at once, again and again; to be asked often.
    pub(super) fn in_vain(&mut self) -> bool {
        if !self.children().is_empty() {
            self.alone = None;
            return false;
        }
        self.alone.get_or_insert_with(Instant::now).elapsed() >= HESITATES
    }

    /// Kills what it has started, so that it starts it anew.
    pub(super) fn start_anew(&self) {
        for child in self.children() {
            let _ = kill(Pid::from_raw(child.cast_signed()), Signal::SIGKILL);
        }
    }

    fn children(&self) -> Vec<u32> {
        if !self.lives() {
            return Vec::new();
        }
        let pid = self.pid;
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect()
    }
}

fn identity(path: &str) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let me = std::process::id();
        assert_eq!(
            stat(me, 1).and_then(|pid| pid.parse().ok()),
            Some(std::os::unix::process::parent_id())
        );
        let keeper = |since: String| Keeper {
            pid: me,
            since,
            alone: None,
        };
        assert!(keeper(stat(me, 19).unwrap()).lives());
        let other = keeper("1".to_owned());
        assert!(!other.lives() && other.children().is_empty());
        assert!(Keeper::of(me).is_none(), "nobody keeps this test");
    }
}
