//! The register checker in a container on a volume, its log on the machine, outside of every host.
//!
//! It owns the log's folder. The container belongs to the dockerd that runs it. It must never remove a log.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::history::History;
use crate::dockerd::Dockerd;
use crate::host::Host;
use crate::image;
use crate::wait;

/// A register on a volume, wherever it runs at the moment.
#[derive(Debug)]
pub struct Workload {
    volume: String,
    dir: PathBuf,
    blocks: u64,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The program's status; `None` if the container is gone.
    pub status: Option<i64>,
    /// What it printed.
    pub said: String,
}

impl Workload {
    /// A register for this volume, with its log in the folder of `keeper`, a host that outlives all that is done to others.
    pub fn new(volume: &str, keeper: &Host, blocks: u64) -> Result<Self> {
        let dir = keeper.dir().join(format!("register-{volume}"));
        fs::create_dir_all(&dir)?;
        Ok(Self {
            volume: volume.to_owned(),
            dir,
            blocks,
        })
    }

    /// The name of its container.
    pub fn container(&self) -> String {
        format!("register-{}", self.volume)
    }

    /// Starts it on a node, `options` as the program takes them after `run`, and waits until it writes.
    pub fn start(&self, dockerd: &Dockerd, options: &str) -> Result<()> {
        self.launch(dockerd, &format!("run {options}"))?;
        let outcome = wait::until("the register runs", Duration::from_secs(120), || {
            let said = self.logs(dockerd)?;
            if said.lines().any(|line| line == "running") {
                return Ok(Some(()));
            }
            let running = dockerd.inspect(&self.container(), "/State/Running")? == true;
            anyhow::ensure!(running, "it ended: {said}");
            Ok(None)
        });
        outcome.with_context(|| format!("the register on {}", self.volume))
    }

    /// Holds the file against the log on a node; returns how it ended.
    pub fn check(&self, dockerd: &Dockerd) -> Result<Ended> {
        self.launch(dockerd, "check")?;
        let ended = self.wait(dockerd, Duration::from_secs(120))?;
        self.remove(dockerd)?;
        Ok(ended)
    }

    /// Waits for the program's end.
    pub fn wait(&self, dockerd: &Dockerd, deadline: Duration) -> Result<Ended> {
        wait::until("the register ends", deadline, || {
            let running = dockerd.inspect(&self.container(), "/State/Running")? == true;
            Ok((!running).then_some(()))
        })
        .with_context(|| self.logs(dockerd).unwrap_or_default())?;
        Ok(Ended {
            status: dockerd.inspect(&self.container(), "/State/ExitCode")?.as_i64(),
            said: self.logs(dockerd)?,
        })
    }

    /// Removes the container, whether it runs or not.
    pub fn remove(&self, dockerd: &Dockerd) -> Result<()> {
        dockerd
            .docker(["rm", "-f", &self.container()])
            .within(Duration::from_secs(90))
            .run()
            .map(drop)
    }

    /// Whether its container runs there.
    pub fn runs(&self, dockerd: &Dockerd) -> bool {
        dockerd
            .inspect(&self.container(), "/State/Running")
            .is_ok_and(|running| running == true)
    }

    /// What the log tells so far.
    pub fn history(&self) -> Result<History> {
        Ok(History::replay(&fs::read_to_string(self.log())?))
    }

    /// Notes that every member lost its power at once.
    pub fn note_power_cut(&self) -> Result<()> {
        let mut file = fs::File::options().append(true).open(self.log())?;
        file.write_all(b"p\n").context("cannot write the log")
    }

    /// The lines of the log that tell of violations.
    pub fn violations(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.log())?;
        Ok(text
            .lines()
            .filter(|line| line.starts_with("v "))
            .map(str::to_owned)
            .collect())
    }

    /// What the program printed.
    pub fn logs(&self, dockerd: &Dockerd) -> Result<String> {
        Ok(dockerd.docker(["logs", &self.container()]).output()?.all())
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn launch(&self, dockerd: &Dockerd, command: &str) -> Result<()> {
        // The folder is at the same place on every host.
        let (volume, log) = (
            format!("{}:/data", self.volume),
            format!("{}:/log", self.dir.display()),
        );
        dockerd
            .docker([
                "run",
                "-d",
                "--network=none",
                "--name",
                &self.container(),
                "-v",
                &volume,
                "-v",
                &log,
            ])
            .arg(image::REGISTER)
            .words(&format!(
                "/register --file /data/register --log /log/log --blocks {} {command}",
                self.blocks
            ))
            .within(Duration::from_secs(120))
            .run()
            .map(drop)
    }
}
