//! Programs of the lab that a person starts in a terminal: whatever ends them, they return when nothing is left.
//!
//! It owns a process that does the work and one that waits for it, and for the guardians of its hosts. It must never return
//! while a host of the work still exists, unless a minute has passed.

use std::env;
use std::fs;
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

use crate::{programs, wait};

/// Marks the process that does the work.
const WORKER: &str = "LAB_WORKER";

static CHILD: AtomicI32 = AtomicI32::new(0);

extern "C" fn pass_on(signal: i32) {
    let child = CHILD.load(Ordering::Relaxed);
    if let (Ok(signal), 1..) = (Signal::try_from(signal), child) {
        let _ = kill(Pid::from_raw(child), signal);
    }
}

/// Runs `work` so that ctrl-C, `kill` and a panic end its hosts before this program returns.
pub fn supervised(work: impl FnOnce() -> Result<()>) -> ExitCode {
    if env::var_os(WORKER).is_some() {
        let outcome = set_pdeathsig(Signal::SIGKILL)
            .map_err(Into::into)
            .and_then(|()| work());
        return match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("\nerror: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    match supervise() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn supervise() -> Result<ExitCode> {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let action = SigAction::new(SigHandler::Handler(pass_on), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler calls nothing but kill(2) and reads an atomic, both allowed in a signal handler.
        unsafe { sigaction(signal, &action) }.context("cannot handle signals")?;
    }
    let mut child = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(WORKER, "1")
        .spawn()
        .context("cannot start the work")?;
    CHILD.store(child.id().cast_signed(), Ordering::Relaxed);
    let status = child.wait()?;
    CHILD.store(0, Ordering::Relaxed);
    await_gone(&child)?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Waits until the guardians have taken away every host of that process.
fn await_gone(child: &Child) -> Result<()> {
    let dir = programs::target_dir()?.join("lab");
    let mark = format!("-{}-", child.id());
    wait::until("every host is gone", Duration::from_secs(60), || {
        let left = fs::read_dir(&dir)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().contains(&mark));
        Ok((!left).then_some(()))
    })
}
