//! One command with a deadline, whose failure tells what it printed.
//!
//! It owns the child's process group: when time is up the whole group is killed. It must never wait without a bound, and
//! never lose what a failed command said.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long a command may take when nothing else was said.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long output is awaited after the command ended (a grandchild may keep the pipe open).
const DRAIN: Duration = Duration::from_secs(2);

/// A command line with a deadline.
#[derive(Debug, Clone)]
pub struct Cmd {
    argv: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    stdin: Option<Vec<u8>>,
    deadline: Duration,
}

/// What a command left: its status and all it printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Output {
    /// Standard output and standard error, one after the other.
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl Cmd {
    /// A command without arguments yet.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            argv: vec![program.as_ref().into()],
            envs: Vec::new(),
            stdin: None,
            deadline: DEADLINE,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Self {
        self.argv.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// Adds arguments that are separated by blanks in `line`.
    #[must_use]
    pub fn words(self, line: &str) -> Self {
        self.args(line.split_whitespace())
    }

    /// Sets a variable in the command's environment.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((key.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Gives the command these bytes to read.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets the deadline.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Puts `prefix` before the command, as `nsenter` or `timeout` want it.
    #[must_use]
    pub fn behind<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, prefix: I) -> Self {
        let mut argv: Vec<OsString> = prefix.into_iter().map(|arg| arg.as_ref().into()).collect();
        argv.append(&mut self.argv);
        self.argv = argv;
        self
    }

    /// The command line as a person would write it.
    pub fn line(&self) -> String {
        let words: Vec<_> = self.argv.iter().map(|arg| arg.to_string_lossy()).collect();
        words.join(" ")
    }

    /// The same as a [`Command`] in a process group of its own, for callers that manage the child themselves.
    pub fn to_command(&self) -> Command {
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).process_group(0);
        command.envs(self.envs.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs it and returns what it printed on standard output, without the last line end; any status but 0 is an error.
    pub fn run(&self) -> Result<String> {
        let output = self.output()?;
        if !output.status.success() {
            bail!(
                "`{}`: {}\n{}",
                self.line(),
                output.status,
                said(&output.stdout, &output.stderr)
            );
        }
        Ok(output.stdout.trim_end().to_owned())
    }

    /// Runs it and expects that it fails; returns all it printed.
    pub fn fails(&self) -> Result<String> {
        let output = self.output()?;
        if output.status.success() {
            bail!(
                "`{}` was to fail and did not\n{}",
                self.line(),
                said(&output.stdout, &output.stderr)
            );
        }
        Ok(output.all())
    }

    /// Runs it to its end, whatever the status; an error is that it could not start or took too long.
    pub fn output(&self) -> Result<Output> {
        let begin = Instant::now();
        let mut command = self.to_command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        let mut child = command
            .spawn()
            .with_context(|| format!("`{}` did not start", self.line()))?;
        if let (Some(bytes), Some(mut pipe)) = (self.stdin.clone(), child.stdin.take()) {
            // A command that does not read to the end is no fault of ours.
            thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let stdout = reader(child.stdout.take());
        let stderr = reader(child.stderr.take());
        let ended = wait_child(&mut child, self.deadline)?;
        if ended.is_none() {
            kill_group(&mut child);
        }
        let (stdout, stderr) = (drain(&stdout), drain(&stderr));
        match ended {
            Some(status) => Ok(Output {
                status,
                stdout,
                stderr,
                took: begin.elapsed(),
            }),
            None => bail!(
                "`{}` took longer than {:?}\n{}",
                self.line(),
                self.deadline,
                said(&stdout, &stderr)
            ),
        }
    }
}

/// Waits for a child's end until the deadline; `None` means that it still runs.
pub(crate) fn wait_child(child: &mut Child, deadline: Duration) -> Result<Option<ExitStatus>> {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child process")? {
            return Ok(Some(status));
        }
        if begin.elapsed() >= deadline {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Kills a child with its process group, and collects it.
pub(crate) fn kill_group(child: &mut Child) {
    // The group may be gone already; the wait below tells.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    let _ = child.kill();
    let _ = wait_child(child, Duration::from_secs(10));
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    if let Some(mut pipe) = pipe {
        thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = pipe.read(&mut chunk) {
                if send.send(chunk[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
    }
    receive
}

fn drain(receive: &Receiver<Vec<u8>>) -> String {
    let until = Instant::now() + DRAIN;
    let mut bytes = Vec::new();
    while let Ok(chunk) = receive.recv_timeout(until.saturating_duration_since(Instant::now())) {
        bytes.extend(chunk);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn said(stdout: &str, stderr: &str) -> String {
    format!(
        "--- stdout\n{}\n--- stderr\n{}\n---",
        stdout.trim_end(),
        stderr.trim_end()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_tells_what_was_printed() {
        let error = Cmd::new("sh")
            .args(["-c", "echo out; echo err >&2; exit 3"])
            .run()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("out\n--- stderr\nerr") && error.contains("exit status: 3"),
            "{error}"
        );
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let begin = Instant::now();
        let line = "sleep 61.25 & sleep 61.25";
        let error = Cmd::new("sh")
            .args(["-c", line])
            .within(Duration::from_millis(200))
            .run()
            .unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(5), "{error}");
        assert!(error.to_string().contains("took longer"), "{error}");
        let left = Cmd::new("pgrep").args(["-f", "^sleep 61.25$"]).output().unwrap();
        assert_eq!(left.stdout, "");
    }

    #[test]
    fn input_reaches_the_command() {
        assert_eq!(Cmd::new("cat").stdin("a\nb\n").run().unwrap(), "a\nb");
    }
}
