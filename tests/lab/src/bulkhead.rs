//! The daemon under test on a host.
//!
//! It owns the daemon's process. It must never reach into the daemon's files: what a test wants to know it asks as a user
//! would, through the command line or through Docker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::Cmd;
use crate::host::Host;
use crate::programs;
use crate::service::Service;
use crate::wait;

/// How long the daemon may take until it is ready.
const START: Duration = Duration::from_secs(30);

/// A running `bulkhead daemon`.
#[derive(Debug)]
pub struct Bulkhead {
    host: Arc<Host>,
    program: PathBuf,
    options: Vec<String>,
    service: Service,
    starts: usize,
}

impl Bulkhead {
    /// Starts the daemon with its defaults and waits for its line `bulkhead is ready`.
    pub fn start(host: &Arc<Host>) -> Result<Self> {
        Self::start_with(host, &[])
    }

    /// Starts the daemon with further options.
    pub fn start_with(host: &Arc<Host>, options: &[&str]) -> Result<Self> {
        let program = programs::bulkhead()?;
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let service = Self::launch(host, &program, &options)?;
        let mut daemon = Self {
            host: Arc::clone(host),
            program,
            options,
            service,
            starts: 1,
        };
        daemon.await_ready()?;
        Ok(daemon)
    }

    /// The command line, as a user of this host would run it.
    pub fn cli(&self, line: &str) -> Cmd {
        self.host.cmd(&self.program.to_string_lossy()).words(line)
    }

    /// Runs a command with `--json` and returns its answer.
    pub fn json(&self, line: &str) -> Result<Value> {
        let text = self.cli(line).arg("--json").run()?;
        serde_json::from_str(&text).with_context(|| format!("`bulkhead {line} --json` said {text}"))
    }

    /// Adds a pool: a file on the host's disk behind a loop device.
    pub fn add_pool(&self, file: &str, size: &str) -> Result<()> {
        // The disk below is what this machine has; a fast one is what is played.
        let line = format!("pool add {file} --size {size} --priority high");
        self.cli(&line).within(Duration::from_secs(60)).run().map(drop)
    }

    /// The daemon's process.
    pub fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// Kills it without warning.
    pub fn kill(&mut self) -> Result<()> {
        self.service.kill()
    }

    /// Ends it as an administrator would.
    pub fn terminate(&mut self) -> Result<()> {
        let status = self.service.terminate(Duration::from_secs(30))?;
        anyhow::ensure!(
            status.success(),
            "bulkhead ended with {status} after SIGTERM:\n{}",
            self.service.log_tail(30)
        );
        Ok(())
    }

    /// Starts it again after [`Bulkhead::kill`] or [`Bulkhead::terminate`].
    pub fn restart(&mut self) -> Result<()> {
        self.service = Self::launch(&self.host, &self.program, &self.options)?;
        self.starts += 1;
        self.await_ready()
    }

    fn launch(host: &Host, program: &PathBuf, options: &[String]) -> Result<Service> {
        host.spawn("bulkhead", Cmd::new(program).arg("daemon").args(options))
    }

    fn await_ready(&mut self) -> Result<()> {
        let (log, starts) = (self.host.dir().join("bulkhead.log"), self.starts);
        // Each start appends one such line to the same log.
        self.service.until("bulkhead is ready", START, || {
            let text = std::fs::read(&log).unwrap_or_default();
            let ready = String::from_utf8_lossy(&text)
                .matches("bulkhead is ready")
                .count();
            Ok((ready >= starts).then_some(()))
        })?;
        let ask = self.cli("pool list");
        wait::retry(
            "the daemon answers the command line",
            Duration::from_secs(10),
            || ask.run().map(drop),
        )
    }
}

impl Drop for Bulkhead {
    fn drop(&mut self) {
        let _ = self.service.terminate(Duration::from_secs(20));
    }
}
