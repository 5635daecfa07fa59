//! The loads under which a daemon is killed: fio that verifies, a database with clients, and a probe on the volume of each.
//!
//! It owns the containers, and a folder on the machine with what they tell. It must never take silence for health: a load that
//! ended, or did nothing, is an error.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::probe::{self, Notes};
use crate::dockerd::Dockerd;
use crate::host::Host;
use crate::node::Node;
use crate::postgres::{Done, Load, Postgres};
use crate::{image, wait};

/// The volume that fio writes to.
pub const WORK: &str = "work";
/// The volume of the database.
pub const DB: &str = "db";
/// The container of fio.
const FIO: &str = "fio";
/// Both volumes.
pub const VOLUMES: [&str; 2] = [WORK, DB];

/// Each pass writes every block of three files once, in random order, and then reads all back: past the page cache, through
/// it with syncs, and through it without, so that writeback alone meets what happens.
const PASS: &str = "fio --directory=/data --verify=crc32c --verify_fatal=0 --verify_dump=0 --rw=randwrite --thread \
     --name=direct --direct=1 --ioengine=libaio --iodepth=8 --bs=4k --size=24M --rate_iops=800 \
     --name=synced --ioengine=psync --bs=4k --size=4M --fsync=16 --rate_iops=300 \
     --name=cached --ioengine=psync --bs=16k --size=32M --rate_iops=400 --end_fsync=1";

/// What went wrong in the containers.
#[derive(Debug, Default, Clone)]
pub struct Troubles {
    /// Requests that failed, as fio, the probes and the database tell it.
    pub io: Vec<String>,
    /// Data that was not what had been written.
    pub verify: Vec<String>,
    /// Passes of fio that were verified to their end.
    pub passes: u64,
}

/// The loads, from their start to their end.
#[derive(Debug)]
pub struct Loads {
    postgres: Postgres,
    clients: Option<Load>,
    dir: PathBuf,
}

impl Loads {
    /// Starts all of it on a node; `options` are those of the volumes, beside their sizes. The clients of the database end by
    /// themselves after `length`.
    pub fn start(node: &Node, options: &str, length: Duration) -> Result<Self> {
        node.create(WORK, &format!("size=512M fs=xfs {options}"))?;
        node.create(DB, &format!("size=2G {options}"))?;
        // Loads may be started on the same host again, and must not read what earlier ones were told.
        let name = format!("loads-{}", probe::now().as_millis());
        let dir = node.host.dir().join(&name);
        fs::create_dir_all(&dir)?;
        let dockerd = &node.dockerd;
        let postgres = Postgres::new("pg", DB);
        postgres.run(dockerd)?;
        postgres.fill(dockerd)?;
        let mut loads = Self {
            postgres,
            clients: None,
            dir,
        };
        loads.run_fio(
            dockerd,
            &format!(
                "n=0; while [ ! -e /log/stop ]; do n=$((n + 1)); \
                 if {PASS} --randseed=$n >>/log/fio 2>&1; then echo \"ok $n\"; else echo \"failed $n\"; sleep 1; fi >>/log/passes; done"
            ),
        )?;
        for volume in VOLUMES {
            loads.run_probe(dockerd, volume)?;
        }
        loads.clients = Some(loads.postgres.load_for(&node.host, &name, length)?);
        wait::until("every load runs", Duration::from_secs(60), || {
            let all = VOLUMES.iter().all(|volume| loads.notes(volume).writes > 0);
            Ok((all && loads.text("fio").contains("Starting")).then_some(()))
        })
        .with_context(|| format!("fio says:\n{}", loads.text("fio")))?;
        Ok(loads)
    }

    /// The database.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// What the probe of a volume has noted so far.
    pub fn notes(&self, volume: &str) -> Notes {
        Notes::parse(&self.text(&format!("probe-{volume}")))
    }

    /// Whether anything has gone wrong so far that a container can see.
    pub fn in_trouble(&self) -> bool {
        VOLUMES.iter().any(|volume| !self.notes(volume).errors.is_empty())
            || self.text("passes").contains("failed")
    }

    /// The devices of both volumes, such as `loop7`, as the containers see them.
    pub fn devices(&self, dockerd: &Dockerd) -> Result<Vec<String>> {
        let of = |container: &str| -> Result<String> {
            let line = dockerd.exec(container, "df /data | tail -n 1").run()?;
            let device = line.split_whitespace().next().unwrap_or_default();
            let name = Path::new(device).file_name().and_then(|name| name.to_str());
            name.filter(|name| name.starts_with("loop"))
                .map(str::to_owned)
                .with_context(|| format!("{container} has its data on {line:?}"))
        };
        Ok(vec![of(FIO)?, of(self.postgres.container())?])
    }

    /// Ends the clients while they are at work, and then fio and the probes as [`Loads::finish`] does.
    pub fn interrupt(&mut self, dockerd: &Dockerd) -> Result<Done> {
        let clients = self.clients.take().context("the clients were ended before")?;
        let done = clients.interrupt()?;
        self.end_containers(dockerd)?;
        Ok(done)
    }

    /// Ends the clients, wherever they are; returns what they were told, and leaves the containers as they are.
    pub fn abandon(&mut self) -> Result<BTreeSet<u64>> {
        let clients = self.clients.take().context("the clients were ended before")?;
        fs::write(self.dir.join("stop"), "")?;
        clients.end()
    }

    /// Every container of the loads.
    pub fn containers(&self) -> Vec<String> {
        let probes = VOLUMES.iter().map(|volume| probe_of(volume));
        let others = [FIO, self.postgres.container()].map(str::to_owned);
        probes.chain(others).collect()
    }

    /// Waits until a probe meets an error; tells when the first of all did, since 1970.
    pub fn await_error(&self, patience: Duration) -> Result<Duration> {
        wait::until("a container meets an error", patience, || {
            let notes = VOLUMES.map(|volume| self.notes(volume));
            let errors = notes.iter().flat_map(|notes| notes.errors.first());
            let times = errors.filter_map(|error| error.split(' ').next()?.parse().ok());
            Ok(times.min().map(Duration::from_millis))
        })
    }

    /// Waits until the clients and the last pass of fio have ended, and ends the probes.
    pub fn finish(&mut self, dockerd: &Dockerd, patience: Duration) -> Result<Done> {
        let clients = self.clients.take().context("the clients were ended before")?;
        let done = clients.finish(patience)?;
        self.end_containers(dockerd)?;
        Ok(done)
    }

    fn end_containers(&self, dockerd: &Dockerd) -> Result<()> {
        fs::write(self.dir.join("stop"), "")?;
        let ended = wait::until("fio ends its pass", Duration::from_secs(120), || {
            Ok((dockerd.inspect(FIO, "/State/Running")? == false).then_some(()))
        });
        for volume in VOLUMES {
            dockerd.docker(["rm", "-f", &probe_of(volume)]).run()?;
        }
        dockerd.docker(["rm", "-f", FIO]).run()?;
        ended
    }

    /// Reads every block of the last pass once more, in a container of its own: the volume was detached before.
    pub fn verify_all(&self, dockerd: &Dockerd) -> Result<()> {
        let passes = self.text("passes");
        let last = passes.lines().last().and_then(|line| line.strip_prefix("ok "));
        let last = last.context("the last pass of fio failed, so that nobody knows what is to be there")?;
        self.run_fio(
            dockerd,
            &format!("{PASS} --verify_only --randseed={last} >>/log/fio 2>&1"),
        )?;
        wait::until("fio has verified all", Duration::from_secs(120), || {
            Ok((dockerd.inspect(FIO, "/State/Running")? == false).then_some(()))
        })?;
        let status = dockerd.inspect(FIO, "/State/ExitCode")?;
        dockerd.docker(["rm", "-f", FIO]).run()?;
        ensure!(
            status == 0,
            "the last verification ended with {status}: {}",
            self.text("fio")
        );
        Ok(())
    }

    /// All that went wrong as the containers tell it.
    pub fn troubles(&self, dockerd: &Dockerd) -> Result<Troubles> {
        let mut troubles = Troubles::of_fio(&self.text("fio"), &self.text("passes"));
        for volume in VOLUMES {
            let notes = self.notes(volume);
            ensure!(notes.writes > 0, "the probe on {volume} has written nothing");
            let errors = notes.errors.into_iter();
            troubles
                .io
                .extend(errors.map(|error| format!("probe on {volume}: {error}")));
        }
        let said = dockerd
            .docker(["logs", self.postgres.container()])
            .output()?
            .all();
        troubles.io.extend(
            said.lines()
                .filter(|line| line.contains("PANIC") || line.contains("Input/output error"))
                .map(|line| format!("PostgreSQL: {line}")),
        );
        Ok(troubles)
    }

    fn run_fio(&self, dockerd: &Dockerd, line: &str) -> Result<()> {
        self.run(dockerd, FIO, WORK, &["sh", "-uc", line])
    }

    fn run_probe(&self, dockerd: &Dockerd, volume: &str) -> Result<()> {
        let name = probe_of(volume);
        let log = format!("/log/{name}");
        self.run(
            dockerd,
            &name,
            volume,
            &["/register", "--file", "/data/probe", "--log", &log, "probe"],
        )
    }

    fn run(&self, dockerd: &Dockerd, name: &str, volume: &str, command: &[&str]) -> Result<()> {
        let (volume, log) = (format!("{volume}:/data"), format!("{}:/log", self.dir.display()));
        dockerd
            .docker([
                "run",
                "-d",
                "--init",
                "--network=none",
                "--name",
                name,
                "-v",
                &volume,
                "-v",
                &log,
            ])
            .arg(image::REGISTER)
            .args(command)
            .within(Duration::from_secs(120))
            .run()
            .map(drop)
    }

    fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.dir.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Waits until no process of the host hangs in the kernel.
pub fn await_nothing_stuck(host: &Host, patience: Duration) -> Result<()> {
    let look = "ps -eo stat=,pid=,args= | grep '^D' || :";
    let mut last = String::new();
    wait::until("nothing hangs in the kernel", patience, || {
        last = host.sh(look).run()?;
        Ok(last.is_empty().then_some(()))
    })
    .with_context(|| last.clone())
}

impl Troubles {
    fn of_fio(said: &str, passes: &str) -> Self {
        let mut troubles = Self::default();
        for line in said.lines() {
            if line.contains("verify:") || line.contains("verify failed") {
                troubles.verify.push(format!("fio: {line}"));
            } else if line.contains("io_u error") || line.contains("Input/output error") {
                troubles.io.push(format!("fio: {line}"));
            }
        }
        let (good, bad): (Vec<&str>, Vec<&str>) = passes.lines().partition(|line| line.starts_with("ok "));
        troubles.passes = good.len() as u64;
        if troubles.io.is_empty() && troubles.verify.is_empty() {
            let bad = bad.iter().map(|line| format!("fio: pass {line}"));
            troubles.io.extend(bad);
        }
        troubles
    }
}

fn probe_of(volume: &str) -> String {
    format!("probe-{volume}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fio_prints_is_told_apart() {
        let said = "fio: io_u error on file /data/direct.0.0: Input/output error: write offset=4096, buflen=4096\n\
            crc32c: verify failed at file /data/cached.0.0 offset 0, length 16384\n\
            verify: bad magic header 0, wanted acca at file /data/cached.0.0 offset 0\n\
            direct: (g=0): rw=randwrite, bs=(R) 4096B-4096B, ioengine=libaio, iodepth=8\n";
        let troubles = Troubles::of_fio(said, "ok 1\nok 2\nfailed 3\n");
        assert_eq!(
            (troubles.io.len(), troubles.verify.len(), troubles.passes),
            (1, 2, 2)
        );
        let quiet = Troubles::of_fio("", "ok 1\nfailed 2\n");
        assert_eq!((quiet.io.len(), quiet.passes), (1, 1), "a failed pass counts");
        assert!(Troubles::of_fio("", "ok 1\n").io.is_empty());
    }
}
