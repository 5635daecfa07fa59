//! Starting the daemon: the same executable with the same arguments, and the way to the keeper in its environment.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;
use std::{fs, thread};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execve, fork, getpid, getppid};

use crate::clock::now;
use crate::socket::Socket;
use crate::{ENV_SOCKET, ENV_STATE, ENV_TRY};

/// systemd's word for whom the sockets are that it has opened.
const LISTEN_PID: &str = "LISTEN_PID";
/// How long a keeper may take to say whether it could take over.
const TRIAL: Duration = Duration::from_secs(5);

/// What is started, and how.
#[derive(Debug)]
pub(crate) struct Program {
    path: CString,
    arguments: Vec<CString>,
}

impl Program {
    /// This very program, as it was started: by the path of its file, so that a newer one in its place is what is started
    /// next.
    pub(crate) fn own() -> io::Result<Self> {
        Self::new(&std::env::current_exe()?, std::env::args_os())
    }

    fn new(path: &Path, arguments: impl Iterator<Item = OsString>) -> io::Result<Self> {
        let arguments: Result<Vec<CString>, _> = arguments.map(|word| text(&word)).collect();
        Ok(Self {
            path: text(path.as_os_str())?,
            arguments: arguments?,
        })
    }

    /// Its file, for people.
    pub(crate) fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// Starts it as the daemon at the other end of this socket. It dies with this process, whatever becomes of it.
    pub(crate) fn start_daemon(&self, socket: &Socket) -> io::Result<Pid> {
        let number = socket.as_fd().as_raw_fd();
        self.start(&[(ENV_SOCKET, number)], Some(number))
    }

    /// Starts it only to ask whether it could go on with the state behind this descriptor.
    pub(crate) fn start_trial(&self, state: RawFd) -> io::Result<Pid> {
        self.start(&[(ENV_STATE, state), (ENV_TRY, 1)], Some(state))
    }

    fn start(&self, said: &[(&str, RawFd)], passed: Option<RawFd>) -> io::Result<Pid> {
        let parent = getpid();
        // SAFETY: this process has one thread only, so that its child may do whatever it could do itself.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => {
                let why = self.become_child(parent, said, passed);
                complain(&format!("{} cannot be started: {why}", self.name()));
                // SAFETY: ends the process; nothing that belongs to the parent is undone.
                unsafe { libc::_exit(1) }
            }
        }
    }

    fn become_child(&self, parent: Pid, said: &[(&str, RawFd)], passed: Option<RawFd>) -> io::Error {
        let prepared = set_pdeathsig(Signal::SIGKILL)
            .and_then(|()| sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None));
        if let Err(errno) = prepared {
            return errno.into();
        }
        if getppid() != parent {
            return io::Error::other("its keeper has ended");
        }
        self.execute(said, passed)
    }

    /// Becomes it, in the place of this process; returns only to say why not.
    pub(crate) fn execute(&self, said: &[(&str, RawFd)], passed: Option<RawFd>) -> io::Error {
        let outcome = || -> io::Result<()> {
            if let Some(passed) = passed {
                set_inherited(passed, true)?;
            }
            execve(&self.path, &self.arguments, &environment(said)?)?;
            Ok(())
        };
        match outcome() {
            Ok(()) => io::Error::other("it did not start"),
            Err(error) => error,
        }
    }
}

/// Says whether a descriptor goes over to the next program.
pub(crate) fn set_inherited(number: RawFd, inherited: bool) -> io::Result<()> {
    let flag = if inherited {
        FdFlag::empty()
    } else {
        FdFlag::FD_CLOEXEC
    };
    // SAFETY: the caller owns this descriptor for the time of the call.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(flag))?;
    Ok(())
}

/// This process's environment, with ours in the place of what was ours before. What systemd has passed to this process
/// is for the one that is started: the same process when a keeper becomes another one.
fn environment(said: &[(&str, RawFd)]) -> io::Result<Vec<CString>> {
    let ours = |name: &OsStr| {
        [ENV_SOCKET, ENV_STATE, ENV_TRY]
            .iter()
            .any(|known| name == *known)
    };
    let mut all = Vec::new();
    for (name, value) in std::env::vars_os().filter(|(name, _)| !ours(name)) {
        let value = if name == LISTEN_PID {
            getpid().to_string().into()
        } else {
            value
        };
        all.push(assignment(&name, &value)?);
    }
    for (name, value) in said {
        all.push(assignment(OsStr::new(name), OsStr::new(&value.to_string()))?);
    }
    Ok(all)
}

fn assignment(name: &OsStr, value: &OsStr) -> io::Result<CString> {
    let mut both = name.to_os_string();
    both.push("=");
    both.push(value);
    text(&both)
}

fn text(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

/// Tells people. Where nobody listens any more, nothing is said.
pub(crate) fn complain(what: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "bulkhead keeper: {what}");
}

/// Whether one that is tried out says that it could. Ends within a bound.
pub(crate) fn could(trial: Pid) -> bool {
    let end = now() + TRIAL.as_millis() as u64;
    loop {
        match waitpid(trial, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, code)) => return code == 0,
            _ => return false,
        }
        if now() >= end {
            let _ = kill(trial, Signal::SIGKILL);
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process is dead, but has threads that live or nobody who has taken leave of it.
pub(crate) fn is_zombie(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| state.starts_with(['Z', 'X']))
}
