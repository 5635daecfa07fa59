//! Programs of the system (mkfs, blkid, e2fsck), run as children with a deadline.
//!
//! Never passes anything through a shell, and never waits for a child longer than it was told to.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use super::bounded::{Deadline, Pending};
use super::error::HostError;

/// How much of a program's output is kept.
const KEEP: u64 = 64 << 10;
/// How much of what it said is shown in an error.
const SHOW: usize = 600;

/// A program and Debian's package that brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    /// Its name, looked up in the usual directories.
    pub(crate) name: &'static str,
    /// Where to get it.
    pub(crate) package: &'static str,
}

/// How a program ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The end of what it said, on one line, for an error.
    pub(crate) fn message(&self) -> String {
        let said = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let skip = line.chars().count().saturating_sub(SHOW);
        line.chars().skip(skip).collect()
    }
}

impl Program {
    /// Runs it to its end and returns how it ended, whatever its exit code. It is killed at the deadline; a child
    /// that cannot die yet, because it hangs in the kernel, is reaped later by the thread that waits for it.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(
        self,
        args: &[S],
        limit: Duration,
    ) -> Result<Ended, HostError> {
        let mut child = self.spawn(args)?;
        let deadline = Deadline::within(limit);
        let stdout = collect(child.stdout.take(), self.name)?;
        let stderr = collect(child.stderr.take(), self.name)?;
        let (pid, reaper) = reap(child, self.name)?;
        let status = match reaper.wait(deadline.left()) {
            Ok(status) => {
                status.map_err(|source| HostError::system(format!("waiting for {}", self.name), source))?
            }
            Err(timed_out) => {
                // The reaper has not reaped it, so the id is still this child's.
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                return Err(timed_out);
            }
        };
        let patience = Duration::from_secs(1);
        Ok(Ended {
            status,
            stdout: stdout.wait(patience).unwrap_or_default(),
            stderr: stderr.wait(patience).unwrap_or_default(),
        })
    }

    /// Runs it, and takes any exit code but 0 for a failure.
    pub(crate) fn run_ok<S: AsRef<std::ffi::OsStr>>(
        self,
        args: &[S],
        limit: Duration,
    ) -> Result<Ended, HostError> {
        let ended = self.run(args, limit)?;
        if ended.status.success() {
            Ok(ended)
        } else {
            Err(self.failed(&ended))
        }
    }

    /// The error for a program that ended badly.
    pub(crate) fn failed(self, ended: &Ended) -> HostError {
        HostError::Program {
            program: self.name.into(),
            status: ended.status.to_string(),
            message: ended.message(),
        }
    }

    fn spawn<S: AsRef<std::ffi::OsStr>>(self, args: &[S]) -> Result<Child, HostError> {
        Command::new(self.name)
            .args(args)
            .env("LC_ALL", "C")
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => HostError::ProgramMissing {
                    program: self.name.into(),
                    package: self.package,
                },
                _ => HostError::system(format!("starting {}", self.name), source),
            })
    }
}

fn reap(
    mut child: Child,
    name: &str,
) -> Result<(nix::unistd::Pid, Pending<io::Result<ExitStatus>>), HostError> {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let reaper = Pending::start(name, move || child.wait())?;
    Ok((pid, reaper))
}

/// Reads a pipe to its end on a thread of its own, so that a child that says a lot does not block.
fn collect(pipe: Option<impl Read + Send + 'static>, name: &str) -> Result<Pending<String>, HostError> {
    Pending::start(format!("reading the output of {name}"), move || {
        let Some(mut pipe) = pipe else {
            return String::new();
        };
        let mut kept = Vec::new();
        let _ = pipe.by_ref().take(KEEP).read_to_end(&mut kept);
        let _ = io::copy(&mut pipe, &mut io::sink());
        String::from_utf8_lossy(&kept).into_owned()
    })
}

/// Waits a moment; for tries that follow each other.
pub(crate) fn pause(millis: u64) {
    thread::sleep(Duration::from_millis(millis));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLEEP: Program = Program {
        name: "sleep",
        package: "coreutils",
    };

    #[test]
    fn a_child_that_takes_too_long_is_killed() {
        let start = std::time::Instant::now();
        let outcome = SLEEP.run(&["30"], Duration::from_millis(50));
        assert!(matches!(outcome, Err(HostError::TimedOut { .. })));
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_missing_program_says_where_to_get_it() {
        let program = Program {
            name: "mkfs.no-such",
            package: "no-such-progs",
        };
        let Err(error) = program.run_ok::<&str>(&[], Duration::from_secs(1)) else {
            panic!("a program that does not exist ran");
        };
        assert!(error.to_string().contains("no-such-progs"), "{error}");
    }

    #[test]
    fn a_failure_carries_what_the_program_said() {
        let sh = Program {
            name: "sh",
            package: "dash",
        };
        let Err(error) = sh.run_ok(&["-c", "echo 'the reason' >&2; exit 3"], Duration::from_secs(5)) else {
            panic!("exit code 3 passed for success");
        };
        assert!(
            error.to_string().contains("the reason") && error.to_string().contains('3'),
            "{error}"
        );
    }
}
