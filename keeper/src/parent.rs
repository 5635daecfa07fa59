//! The loop: one thread that waits for signals, for the daemon's words, and for the next point in time. Everything else
//! that it does ends at once, but for trying out a keeper that is to take its place, which has a bound.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::carry::{self, State};
use crate::clock::now;
use crate::launch::{Program, complain, could, is_zombie};
use crate::pace::Pace;
use crate::protocol::{Key, Notice, Request, VERSION};
use crate::socket::{Received, Socket};
use crate::table::Table;
use crate::{AGAIN, ENV_STATE, ENV_TRY};

/// After being told to stop, the daemon has so long; it has a shorter bound of its own.
const STOP: u64 = 60_000;
/// What was killed is waited for no longer than this.
const LAST: u64 = 5_000;
/// Between looks at whether the daemon is dead but for threads that hang in the kernel, while anything is kept.
const GLANCE: u64 = 1_000;
/// Messages that are taken before anything else has its turn.
const AT_ONCE: usize = 64;

/// Runs the keeper until the daemon has ended for good; with what code.
pub fn run() -> ExitCode {
    let state = std::env::var(ENV_STATE).ok();
    let number = match state.as_deref().map(str::parse).transpose() {
        Ok(number) => number,
        Err(_) => return failed(&format!("{ENV_STATE} is no number")),
    };
    if std::env::var_os(ENV_TRY).is_some() {
        return ExitCode::from(u8::from(!number.is_some_and(carry::is_understood)));
    }
    let taken = number.map_or_else(|| Ok(State::default()), State::take_over);
    let keeper = taken.and_then(|state| Keeper::new(state, number.is_some()));
    match keeper.and_then(Keeper::keep) {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(why: &str) -> ExitCode {
    complain(why);
    ExitCode::FAILURE
}

/// The daemon, and the way to it.
struct Child {
    pid: Pid,
    /// `None` once the daemon has closed its end.
    socket: Option<Socket>,
    since: u64,
    /// What it has not taken yet: bytes, and what goes along.
    unsent: VecDeque<(Vec<u8>, Option<Key>)>,
}

/// How a daemon ended.
#[derive(Clone, Copy)]
enum End {
    Code(i32),
    Signal(&'static str),
    /// It is dead, but threads of it hang in the kernel.
    Hanging,
}

struct Keeper {
    program: Program,
    signals: SignalFd,
    table: Table,
    child: Option<Child>,
    starts: u64,
    pace: Pace,
    /// When the daemon is started again.
    again: Option<u64>,
    /// Since when it is being stopped.
    stopping: Option<u64>,
    /// It was killed because it did not stop.
    killed: bool,
    /// When it is looked at whether it is dead.
    glance: u64,
}

impl Keeper {
    fn new(state: State, is_next: bool) -> io::Result<Self> {
        let mut wanted = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            wanted.add(signal);
        }
        wanted.thread_block()?;
        let mut child = state.child.map(|(pid, socket, since)| Child {
            pid,
            socket: Some(socket),
            since,
            unsent: VecDeque::new(),
        });
        if let Some(child) = child.as_mut().filter(|_| is_next) {
            let done = Notice::Done { number: state.asked };
            child.unsent.push_back((done.encode(), None));
        }
        Ok(Self {
            program: Program::own()?,
            signals: SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            table: state.table,
            again: child.is_none().then_some(0),
            child,
            starts: state.starts,
            pace: Pace { deaths: state.deaths },
            stopping: None,
            killed: false,
            glance: 0,
        })
    }

    fn keep(mut self) -> io::Result<u8> {
        loop {
            if let Some(end) = self.ended()
                && let Some(code) = self.bury(end)
            {
                return Ok(code);
            }
            for key in self.table.expire(now()) {
                complain(&format!(
                    "nobody has served {} for too long: its connection is ended",
                    key.as_str()
                ));
            }
            if let Some(code) = self.press() {
                return Ok(code);
            }
            if self.child.is_none() && self.again.is_some_and(|again| again <= now()) {
                self.start();
            }
            self.tell();
            self.wait()?;
            self.heed()?;
            self.listen();
        }
    }

    /// Waits for whatever comes first.
    fn wait(&self) -> io::Result<()> {
        let glance = (self.child.is_some() && !self.table.is_empty()).then_some(self.glance);
        let pressing = match (self.stopping, self.killed) {
            (Some(since), true) => Some(since + LAST),
            (Some(since), false) => Some(since + STOP),
            (None, _) => None,
        };
        let again = self.again.filter(|_| self.child.is_none());
        let first = [glance, pressing, again, self.table.next_end()]
            .into_iter()
            .flatten()
            .min();
        let timeout = first.map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_sub(now()).min(3_600_000) as i32;
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut wanted = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(child) = &self.child
            && let Some(socket) = &child.socket
        {
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, !child.unsent.is_empty());
            wanted.push(PollFd::new(socket.as_fd(), events));
        }
        match poll(&mut wanted, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Heeds signals that have come.
    fn heed(&mut self) -> io::Result<()> {
        while let Some(signal) = self.signals.read_signal()? {
            let asked = [Signal::SIGTERM, Signal::SIGINT]
                .into_iter()
                .find(|asked| signal.ssi_signo == *asked as u32);
            if let Some(asked) = asked {
                self.stop(asked);
            }
        }
        Ok(())
    }

    /// Somebody wants it to end: the daemon is told the same. Told a second time, it is killed.
    fn stop(&mut self, signal: Signal) {
        let Some(child) = &self.child else {
            self.stopping.get_or_insert_with(now);
            return;
        };
        if self.stopping.is_none() {
            self.stopping = Some(now());
            let _ = kill(child.pid, signal);
        } else if !self.killed {
            self.kill("it was told to stop twice");
        }
    }

    /// Whether stopping is over: because there is nobody to stop, or because it has taken too long.
    fn press(&mut self) -> Option<u8> {
        let since = self.stopping?;
        if self.child.is_none() {
            return Some(1);
        }
        if self.killed {
            return (now() >= since + LAST).then_some(1);
        }
        if now() >= since + STOP {
            self.kill("it does not stop");
        }
        None
    }

    fn kill(&mut self, why: &str) {
        if let Some(child) = &self.child {
            complain(&format!("the daemon (process {}) is killed: {why}", child.pid));
            let _ = kill(child.pid, Signal::SIGKILL);
        }
        self.killed = true;
        self.stopping = Some(now());
    }

    /// Takes leave of processes that have ended, the first one of a container also of those that are not its own; and says
    /// how the daemon did, if it has.
    fn ended(&mut self) -> Option<End> {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Err(Errno::EINTR) => continue,
                Err(_) => break,
                Ok(status) => status,
            };
            if status.pid().is_none() || status.pid() != self.child.as_ref().map(|child| child.pid) {
                continue;
            }
            match status {
                WaitStatus::Exited(_, code) => return Some(End::Code(code)),
                WaitStatus::Signaled(_, signal, _) => return Some(End::Signal(signal.as_str())),
                _ => {}
            }
        }
        let child = self.child.as_ref()?;
        if self.table.is_empty() || now() < self.glance {
            return None;
        }
        self.glance = now() + GLANCE;
        // The kernel reports a process only when its last thread has ended, and one that waits for what the process
        // itself was to serve never does.
        is_zombie(child.pid).then_some(End::Hanging)
    }

    /// What follows from the daemon's end: the keeper's own, with a code, or another start.
    fn bury(&mut self, end: End) -> Option<u8> {
        let child = self.child.take()?;
        let ran = Duration::from_millis(now().saturating_sub(child.since));
        let served = self.table.is_served();
        self.table.orphan(now());
        let code = match end {
            End::Code(code) => u8::try_from(code).unwrap_or(1),
            End::Signal(_) | End::Hanging => 1,
        };
        if self.stopping.is_some() {
            return Some(code);
        }
        let (how, pause) = match end {
            End::Code(AGAIN) => (
                "asked to be started again".to_owned(),
                self.pace.after_request(ran),
            ),
            // In order, or because it cannot run at all: another try would end no better, and nobody waits for it.
            End::Code(0) => return Some(0),
            End::Code(_) if self.table.is_empty() => return Some(code),
            End::Code(code) => (
                format!("ended with code {code}"),
                self.pace.after_death(ran, served),
            ),
            End::Signal(signal) => (
                format!("was killed by {signal}"),
                self.pace.after_death(ran, served),
            ),
            End::Hanging => (
                "is dead but for threads that hang in the kernel".to_owned(),
                self.pace.after_death(ran, served),
            ),
        };
        let when = if pause.is_zero() {
            "at once".to_owned()
        } else {
            format!("in {} ms", pause.as_millis())
        };
        complain(&format!(
            "the daemon (process {}) {how}; it is started again {when}, and {} volumes wait for it",
            child.pid,
            self.table.len()
        ));
        self.again = Some(now() + pause.as_millis() as u64);
        None
    }

    /// Starts the daemon. If that is not possible, later again.
    fn start(&mut self) {
        self.starts += 1;
        let started = Socket::pair().and_then(|(ours, its)| Ok((self.program.start_daemon(&its)?, ours)));
        match started {
            Ok((pid, socket)) => {
                let mut unsent: VecDeque<_> = self
                    .table
                    .iter()
                    .map(|(key, entry)| {
                        let waited = entry
                            .unserved_since
                            .map_or(0, |since| now().saturating_sub(since));
                        let kept = Notice::Kept {
                            key: key.clone(),
                            note: entry.note.clone(),
                            unserved: Duration::from_millis(waited),
                        };
                        (kept.encode(), Some(key.clone()))
                    })
                    .collect();
                let ready = Notice::Ready {
                    version: VERSION,
                    kept: self.table.len() as u32,
                    starts: self.starts,
                };
                unsent.push_back((ready.encode(), None));
                self.glance = now() + GLANCE;
                self.again = None;
                self.child = Some(Child {
                    pid,
                    socket: Some(socket),
                    since: now(),
                    unsent,
                });
            }
            Err(error) => {
                complain(&format!("{} cannot be started: {error}", self.program.name()));
                let pause = self
                    .pace
                    .after_death(Duration::ZERO, false)
                    .max(Duration::from_millis(250));
                self.again = Some(now() + pause.as_millis() as u64);
            }
        }
    }

    /// Sends what the daemon takes.
    fn tell(&mut self) {
        let Some(child) = &mut self.child else { return };
        while let Some((bytes, key)) = child.unsent.front() {
            let Some(socket) = &child.socket else { return };
            let entry = key.as_ref().map(|key| self.table.get(key));
            let along = match entry {
                // It was let go of meanwhile. The daemon counts, so it is told of something that is closed already.
                Some(None) => None,
                Some(Some(entry)) => Some(entry.descriptor.as_fd()),
                None => None,
            };
            match socket.send(bytes, along, false) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => child.socket = None,
                Ok(()) => drop(child.unsent.pop_front()),
            }
        }
    }

    /// Takes what the daemon says.
    fn listen(&mut self) {
        for _ in 0..AT_ONCE {
            let Some(socket) = self.child.as_ref().and_then(|child| child.socket.as_ref()) else {
                return;
            };
            let (number, outcome) = match socket.receive(false) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(Received::End) | Err(_) => {
                    if let Some(child) = &mut self.child {
                        child.socket = None;
                    }
                    return;
                }
                Ok(Received::Cut(bytes)) => (
                    Request::number(&bytes),
                    Err("the message was too long, or its descriptor could not be taken".to_owned()),
                ),
                Ok(Received::Message(bytes, along)) => match Request::decode(&bytes) {
                    Ok((number, request)) => (number, self.carry_out(number, request, along)),
                    Err(nonsense) => (Request::number(&bytes), Err(nonsense.to_string())),
                },
            };
            let answer = match outcome {
                Ok(()) => Notice::Done { number },
                Err(why) => Notice::Refused { number, why },
            };
            if let Some(child) = &mut self.child {
                child.unsent.push_back((answer.encode(), None));
            }
            self.tell();
        }
    }

    fn carry_out(
        &mut self,
        number: u64,
        request: Request,
        along: Option<std::os::fd::OwnedFd>,
    ) -> Result<(), String> {
        match (request, along) {
            (
                Request::Put {
                    key,
                    note,
                    served,
                    patience,
                },
                Some(descriptor),
            ) => self.table.put(key, descriptor, note, served, patience),
            (Request::Put { .. }, None) => Err("nothing came along that could be kept".to_owned()),
            (_, Some(_)) => Err("a descriptor came along that nobody wants".to_owned()),
            (Request::Drop { key }, None) => {
                self.table.forget(&key);
                Ok(())
            }
            (Request::Reexec, None) => self.become_next(number),
        }
    }

    /// Becomes the program that lies in this one's place now; returns only to say why not. That one is tried out first: a
    /// keeper that fails takes the daemon and all connections with it.
    fn become_next(&mut self, number: u64) -> Result<(), String> {
        let Some(child) = self.child.take() else {
            return Err("there is no daemon".to_owned());
        };
        let (pid, since, unsent) = (child.pid, child.since, child.unsent);
        let state = State {
            table: std::mem::take(&mut self.table),
            child: child.socket.map(|socket| (pid, socket, since)),
            starts: self.starts,
            deaths: self.pace.deaths,
            asked: number,
        };
        let why = match self.replace(&state, unsent.is_empty()) {
            Ok(never) => match never {},
            Err(error) => error.to_string(),
        };
        let _ = state.pass_on(false);
        self.table = state.table;
        self.child = Some(Child {
            pid,
            socket: state.child.map(|(_, socket, _)| socket),
            since,
            unsent,
        });
        Err(why)
    }

    fn replace(&self, state: &State, is_quiet: bool) -> io::Result<std::convert::Infallible> {
        if !is_quiet || self.stopping.is_some() {
            return Err(io::Error::other("not now"));
        }
        let written = state.write()?;
        let number = written.as_raw_fd();
        if !could(self.program.start_trial(number)?) {
            return Err(io::Error::other(format!(
                "{} cannot take the keeper's place",
                self.program.name()
            )));
        }
        state.pass_on(true)?;
        Err(self.program.execute(&[(ENV_STATE, number)], Some(number)))
    }
}
