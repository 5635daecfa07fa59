//! What a lost replica costs: the rate of pgbench before, during and after a rebuild and the rebuild's speed; and what a
//! node that was away for a while is sent when it comes back, in bytes over its network. Judges nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bulkhead_lab::driver::Driver;
use bulkhead_lab::node::POOL_DIRECTORY;
use bulkhead_lab::store::StoreKind;
use bulkhead_lab::{Host, Lab};
use serde_json::Value;

use super::postgres::Pgbench;
use super::target::{MOUNT, Target};
use super::workload::{Effort, Workload};

const VOLUME: &str = "recovered";
const USER: &str = "bench";
/// What a rebuild and a catching up may take before something is wrong.
const PATIENCE: Duration = Duration::from_secs(900);
/// How long a node stays away before another replica is made, in these runs.
const AWAY: &str = "5s";
/// Between looks at the volume.
const LOOK: Duration = Duration::from_millis(250);

/// What a rebuild was like.
#[derive(Clone, Copy, Debug)]
pub struct Rebuild {
    /// What was copied, in GiB.
    pub gib: f64,
    /// How long it took.
    pub took: Duration,
    /// MiB/s of a copy of what the volume holds to a plain file on the same disk, and a sync.
    pub plain: f64,
    /// What the volume was used for meanwhile, if it was used.
    pub foreground: Option<Foreground>,
}

/// Transactions a second of pgbench.
#[derive(Clone, Copy, Debug)]
pub struct Foreground {
    /// Before the loss.
    pub before: f64,
    /// While the rebuild went on.
    pub during: f64,
    /// Afterwards.
    pub after: f64,
}

/// What a catching up was like.
#[derive(Clone, Copy, Debug)]
pub struct CatchUp {
    /// GiB over which the writes were spread.
    pub spread: u32,
    /// Bytes that were written while the node was away.
    pub written: u64,
    /// Bytes that it was sent until it was in sync.
    pub sent: u64,
    /// How long that took.
    pub took: Duration,
}

/// A volume with two replicas on three hosts, mounted on the first.
struct Scene {
    lab: Lab,
    host: Arc<Host>,
}

impl Target for Scene {
    fn name(&self) -> &'static str {
        "Bulkhead, 2 replicas"
    }

    fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn programs(&self) -> &[&'static str] {
        &["bulkhead"]
    }
}

impl Scene {
    fn start(gib: u32, after: Option<&str>) -> Result<Self> {
        let mut plan = Lab::new(3)
            .label("bench-recovery")
            .store(StoreKind::Etcd)
            .directory_pools();
        if let Some(after) = after {
            plan = plan.option("--rebuild-after", after);
        }
        let lab = plan.start()?;
        let host = lab.host(0).clone();
        let driver = Driver::of(&host);
        let size = format!("{gib}G");
        driver.create(VOLUME, &[("size", &size), ("repl", "2"), ("nodes", "n1,n2,n3")])?;
        let scene = Self { lab, host };
        // Wherever the first two are: the volume is used on one of them, and the other one is lost.
        let at = driver.mount(VOLUME, USER)?;
        scene
            .host
            .sh(&format!("mkdir -p {MOUNT}; mount --bind {at} {MOUNT}"))
            .run()?;
        Ok(scene)
    }

    fn volume(&self) -> Result<Value> {
        let found = self
            .lab
            .node(0)
            .bulkhead
            .json(&format!("volume inspect {VOLUME}"))?;
        found.get(0).cloned().context("the volume is not told of")
    }

    /// Hosts whose replicas are in sync.
    fn in_sync(&self) -> Result<Vec<String>> {
        let volume = self.volume()?;
        let replicas = volume["replicas"].as_array().cloned().unwrap_or_default();
        Ok(replicas
            .iter()
            .filter(|replica| replica["state"] == "in sync")
            .filter_map(|replica| replica["node"].as_str().map(str::to_owned))
            .collect())
    }

    /// The host with the replica that is not on the first one.
    fn other(&self) -> Result<usize> {
        let holders = self.in_sync()?;
        let other = holders.iter().find(|name| *name != "n1");
        self.lab.index_of(other.context("no other node has a replica")?)
    }

    fn until_in_sync(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.in_sync()?.len() < 2 {
            ensure!(Instant::now() < end, "not in sync in time: {}", self.volume()?);
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn until_lost(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.in_sync()?.len() > 1 {
            ensure!(Instant::now() < end, "not lost in time: {}", self.volume()?);
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.host.cmd("umount").arg(MOUNT).run();
        let _ = Driver::of(&self.host).unmount(VOLUME, USER);
    }
}

/// Loses the replica of a volume that holds so much: under pgbench with eight clients, measured for so many seconds each time, or
/// with nothing in the foreground.
pub fn rebuild(gib: u32, seconds: Option<u32>, tell: impl Fn(&str)) -> Result<Rebuild> {
    let mut scene = Scene::start(gib + 3, Some(AWAY))?;
    tell("filling");
    // What it holds is not zeroes: holes are not copied.
    let fill = format!("head -c {gib}G /dev/urandom >{MOUNT}/fill; sync {MOUNT}/fill");
    scene.host.sh(&fill).within(PATIENCE).run()?;
    let plain = scene.plain_copy(gib)?;
    tell(&format!("a plain copy: {plain:.0} MiB/s"));
    let (took, foreground) = match seconds {
        None => {
            scene.lose_the_other()?;
            let begun = scene.until_rebuilding()?;
            scene.until_in_sync()?;
            (begun.elapsed(), None)
        }
        Some(seconds) => {
            pgbench(seconds).prepare(&scene)?;
            let before = pgbench(seconds).run(&scene)?.value;
            tell(&format!("before: {before:.0} tps"));
            scene.lose_the_other()?;
            let (took, during) = scene.rebuild_under_pgbench()?;
            tell(&format!("during: {during:.0} tps"));
            let after = pgbench(seconds).run(&scene)?.value;
            tell(&format!("after: {after:.0} tps"));
            let foreground = Foreground {
                before,
                during,
                after,
            };
            (took, Some(foreground))
        }
    };
    tell(&format!("rebuilt in {:.1} s", took.as_secs_f64()));
    let used = scene
        .host
        .sh(&format!("df --block-size=1 --output=used {MOUNT} | tail -1"))
        .run()?;
    Ok(Rebuild {
        gib: used.trim().parse::<f64>().context("df tells no figure")? / f64::from(1 << 30),
        took,
        plain,
        foreground,
    })
}

fn pgbench(seconds: u32) -> Pgbench {
    Pgbench {
        scale: 50,
        clients: 8,
        select_only: false,
        effort: Effort {
            seconds,
            file: 0,
            scales: &[],
            small: 0,
        },
    }
}

impl Scene {
    /// MiB/s of a copy to a file beside the pool.
    fn plain_copy(&self, gib: u32) -> Result<f64> {
        let copy = format!("{POOL_DIRECTORY}.copy");
        let begun = Instant::now();
        let command = format!("cat {MOUNT}/fill >{copy}; sync {copy}");
        self.host.sh(&command).within(PATIENCE).run()?;
        let took = begun.elapsed();
        self.host.cmd("rm").arg(&copy).run()?;
        Ok(f64::from(gib) * 1024.0 / took.as_secs_f64())
    }

    fn lose_the_other(&mut self) -> Result<()> {
        let other = self.other()?;
        self.lab.destroy(other)?;
        self.until_lost()
    }

    /// How long the rebuild took, and the mean rate of pgbench meanwhile.
    fn rebuild_under_pgbench(&self) -> Result<(Duration, f64)> {
        let over = AtomicBool::new(false);
        let (took, rates) = thread::scope(|scope| -> Result<_> {
            let over = &over;
            let watched = scope.spawn(move || -> Result<Duration> {
                let begun = self.until_rebuilding();
                let done = begun.and_then(|begun| self.until_in_sync().map(|()| begun.elapsed()));
                over.store(true, Ordering::SeqCst);
                done
            });
            let mut rates = Vec::new();
            while !over.load(Ordering::SeqCst) {
                rates.push(pgbench(5).run(self)?.value);
            }
            match watched.join() {
                Ok(took) => Ok((took?, rates)),
                Err(_) => bail!("the watch over the rebuild broke off"),
            }
        })?;
        Ok((took, rates.iter().sum::<f64>() / rates.len().max(1) as f64))
    }

    fn until_rebuilding(&self) -> Result<Instant> {
        let end = Instant::now() + PATIENCE;
        loop {
            let volume = self.volume()?;
            let replicas = volume["replicas"].as_array().cloned().unwrap_or_default();
            if replicas.iter().any(|replica| replica["state"] == "being rebuilt") {
                return Ok(Instant::now());
            }
            ensure!(Instant::now() < end, "no rebuild began in time: {volume}");
            thread::sleep(LOOK);
        }
    }
}

/// Has a node away for so long while 10 MB/s are written at random, 4 KiB each, to a file of `spread` GiB.
pub fn catch_up(spread: u32, absence: u32, tell: impl Fn(&str)) -> Result<CatchUp> {
    let mut scene = Scene::start(spread + 2, None)?;
    let host = scene.host.clone();
    let fio = |arguments: &str| {
        let common = "--name=job --direct=1 --ioengine=libaio --iodepth=4 --output-format=json";
        let file = format!("--filename={MOUNT}/fio.dat --size={spread}g");
        let line = format!("{common} {file} {arguments}");
        host.cmd("fio").words(&line).within(PATIENCE).run()
    };
    tell("filling");
    fio("--rw=write --bs=1m --end_fsync=1")?;
    let other = scene.other()?;
    scene.lab.members[other].node.bulkhead.kill()?;
    scene.until_lost()?;
    let said = fio(&format!(
        "--rw=randwrite --bs=4k --rate=10m --time_based --randrepeat=0 --runtime={absence}"
    ))?;
    let json = said.find('{').map_or("", |begin| &said[begin..]);
    let answer: Value = serde_json::from_str(json)?;
    let written = answer.pointer("/jobs/0/write/io_bytes").and_then(Value::as_u64);
    let written = written.context("fio tells of no job")?;

    let received = |scene: &Scene| -> Result<u64> {
        // All that came from other hosts, whatever for.
        let counted = scene
            .lab
            .host(other)
            .sh("awk '/:/ && !/lo:/ { all += $2 } END { printf \"%.0f\", all }' /proc/net/dev")
            .run()?;
        counted
            .trim()
            .parse()
            .with_context(|| format!("the network's counter says {counted:?}"))
    };
    let before = received(&scene)?;
    let begun = Instant::now();
    scene.lab.members[other].node.bulkhead.restart()?;
    scene.until_in_sync()?;
    let took = begun.elapsed();
    let sent = received(&scene)?.saturating_sub(before);
    tell(&format!("{written} bytes written, {sent} sent"));
    Ok(CatchUp {
        spread,
        written,
        sent,
        took,
    })
}

/// The figures as Markdown.
pub fn markdown(command: &str, machine: &str, rebuilds: &[Rebuild], catch_ups: &[CatchUp]) -> String {
    let mut page = format!("`{command}`. {machine}.\n\n");
    if !rebuilds.is_empty() {
        page.push_str("| rebuild of | in the foreground | took | MiB/s | of a plain copy | pgbench before | during | after |\n|---|---|---|---|---|---|---|---|\n");
    }
    for at in rebuilds {
        let seconds = at.took.as_secs_f64();
        let rate = at.gib * 1024.0 / seconds;
        let (what, [before, during, after]) = match at.foreground {
            None => ("nothing", ["–"; 3].map(str::to_owned)),
            Some(rates) => (
                "pgbench TPC-B, 8 clients",
                [rates.before, rates.during, rates.after].map(|tps| format!("{tps:.0} tps")),
            ),
        };
        page.push_str(&format!(
            "| {:.1} GiB | {what} | {seconds:.1} s | {rate:.0} | {:.2} | {before} | {during} | {after} |\n",
            at.gib,
            rate / at.plain
        ));
    }
    if !catch_ups.is_empty() {
        page.push_str("\n| away while 4 KiB writes were spread over | written, MiB | sent, MiB | times | until in sync again |\n|---|---|---|---|---|\n");
    }
    for at in catch_ups {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        page.push_str(&format!(
            "| {} GiB | {:.0} | {:.0} | {:.2} | {:.1} s |\n",
            at.spread,
            mib(at.written),
            mib(at.sent),
            at.sent as f64 / at.written.max(1) as f64,
            at.took.as_secs_f64()
        ));
    }
    page
}
