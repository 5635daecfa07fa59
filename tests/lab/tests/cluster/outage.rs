//! The store is away while a workload runs on a mounted volume: the workload notices nothing, and afterwards all converges.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bulkhead_lab::register::Workload;
use bulkhead_lab::report::{Figure, figure};
use bulkhead_lab::{Lab, image};

use crate::Extent;
use crate::life::await_everywhere;

/// How long an operation may take on this machine, which has other things to do, before it counts as stalled.
const STALL: Duration = Duration::from_secs(4);

/// Runs fio and the register on a volume of two replicas on n1 while `outage` goes on; then all has to be whole.
fn under_load(
    lab: &mut Lab,
    name: &str,
    length: Duration,
    outage: impl FnOnce(&mut Lab) -> Result<Vec<Figure>>,
) -> Result<Vec<Figure>> {
    lab.node(0).create(name, "size=256M repl=2 nodes=n1,n2")?;
    let seconds = length.as_secs();
    let register = Workload::new(name, lab.switch.host(), 1024)?;
    register.start(&lab.node(0).dockerd, &format!("--seconds {seconds}"))?;
    let fio = format!("fio-{name}");
    let volume = format!("{name}:/data");
    lab.node(0)
        .dockerd
        .docker(["run", "-d", "--network=none", "--name", &fio, "-v", &volume, image::REGISTER, "fio", "--name=v"])
        .words(&format!(
            "--filename=/data/fio --size=32M --rw=randwrite --bs=4k --ioengine=libaio --direct=1 --iodepth=4 \
             --rate_iops=100 --verify=crc32c --verify_backlog=64 --verify_fatal=1 --time_based --runtime={seconds}"
        ))
        .run()?;
    let mut figures = outage(lab)?;
    let dockerd = &lab.node(0).dockerd;
    let ended = register.wait(dockerd, length + Duration::from_secs(60))?;
    ensure!(ended.status == Some(0), "the register ended with {ended:?}");
    let longest: u64 = ended
        .said
        .rsplit_once("the longest operation took ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
        .with_context(|| format!("the register said {}", ended.said))?;
    ensure!(
        u128::from(longest) < STALL.as_millis(),
        "an operation took {longest} ms: {}",
        ended.said
    );
    let status = dockerd
        .docker(["wait", &fio])
        .within(Duration::from_secs(60))
        .run()?;
    ensure!(
        status == "0",
        "fio ended with {status}: {}",
        dockerd.docker(["logs", &fio]).output()?.all()
    );
    let tally = register.history()?.tally;
    ensure!(tally.violations == 0, "{:?}", register.violations()?);
    figures.push(figure(
        "writes / flushes acknowledged meanwhile",
        format!("{} / {}", tally.writes, tally.flushes),
    ));
    figures.push(figure("longest operation", format!("{longest} ms")));

    // Another node finds what was written.
    register.remove(dockerd)?;
    dockerd.run(&format!("rm {fio}"))?;
    let begin = Instant::now();
    await_everywhere(
        lab,
        name,
        "it is healthy and free",
        Duration::from_secs(60),
        |view| view["healthy"] == true && view["attached"].is_null(),
    )?;
    figures.push(figure(
        "from the end of the workload to healthy everywhere",
        format!("{:.1} s", begin.elapsed().as_secs_f64()),
    ));
    let checked = register.check(&lab.node(1).dockerd)?;
    ensure!(checked.status == Some(0), "on n2: {checked:?}");
    lab.node(2).dockerd.run(&format!("volume rm {name}"))?;
    Ok(figures)
}

/// What must work, and what must say why it does not, while the store is away.
fn away(lab: &Lab, length: Duration) -> Result<Vec<Figure>> {
    let begin = Instant::now();
    thread::sleep(Duration::from_secs(3));
    let asked = Instant::now();
    let list = lab.node(0).dockerd.run("volume ls --quiet")?;
    let listed = asked.elapsed();
    ensure!(
        !list.is_empty(),
        "docker volume ls shows nothing while the store is away"
    );
    ensure!(
        listed < Duration::from_secs(3),
        "docker volume ls took {listed:?}"
    );
    let asked = Instant::now();
    let told = lab
        .node(1)
        .dockerd
        .docker([
            "volume",
            "create",
            "-d",
            "bulkhead",
            "-o",
            "size=64M",
            "too-early",
        ])
        .within(Duration::from_secs(115))
        .output()?;
    // It may wait until the store is back; refused, it names the store.
    let waited = asked.elapsed();
    if !told.status.success() {
        ensure!(
            told.all().contains("store"),
            "the refusal does not name the store: {}",
            told.all()
        );
    }
    thread::sleep(length.saturating_sub(begin.elapsed()));
    Ok(vec![
        figure("docker volume ls meanwhile", format!("{} ms", listed.as_millis())),
        figure(
            if told.status.success() {
                "docker volume create meanwhile was done after"
            } else {
                "docker volume create meanwhile was refused after"
            },
            format!("{:.1} s", waited.as_secs_f64()),
        ),
    ])
}

/// Waits until volumes can be made again, and takes away what the outage left.
fn back(lab: &Lab) -> Result<Figure> {
    let begin = Instant::now();
    bulkhead_lab::wait::retry("the store serves again", Duration::from_secs(90), || {
        lab.node(2).create("again", "size=64M")
    })?;
    let took = begin.elapsed();
    lab.node(1).dockerd.run("volume rm again")?;
    lab.node(1)
        .dockerd
        .docker(["volume", "rm", "-f", "too-early"])
        .output()?;
    Ok(figure(
        "from the store's return to the next volume",
        format!("{:.1} s", took.as_secs_f64()),
    ))
}

/// Twice the outage, for what comes before and after it.
fn around(away: u64) -> Duration {
    Duration::from_secs(away + away / 2 + 15)
}

pub(crate) fn killed(lab: &mut Lab, extent: Extent) -> Result<Vec<Figure>> {
    let length = Duration::from_secs(extent.away);
    under_load(lab, "killed", around(extent.away), |lab| {
        lab.stores(|store| store.kill())?;
        let mut figures = away(lab, length)?;
        lab.stores(|store| store.restart())?;
        figures.push(back(lab)?);
        Ok(figures)
    })
}

pub(crate) fn paused(lab: &mut Lab, extent: Extent) -> Result<Vec<Figure>> {
    let length = Duration::from_secs(extent.away);
    under_load(lab, "paused", around(extent.away), |lab| {
        lab.stores(|store| store.pause(true))?;
        let figures = away(lab, length);
        lab.stores(|store| store.pause(false))?;
        let mut figures = figures?;
        figures.push(back(lab)?);
        Ok(figures)
    })
}

/// The nodes of the volume reach each other, but no member of the store.
pub(crate) fn cut_off(lab: &mut Lab, extent: Extent) -> Result<Vec<Figure>> {
    let length = Duration::from_secs(extent.away);
    under_load(lab, "cutoff", around(extent.away), |lab| {
        let ports = "-p tcp -m multiport --dports 2379,2380,8300,8301,8500";
        for index in 0..3 {
            lab.host(index)
                .sh(&format!(
                    "iptables -I OUTPUT {ports} -j DROP; iptables -I INPUT {ports} -j DROP"
                ))
                .run()?;
        }
        let figures = away(lab, length);
        for index in 0..3 {
            lab.host(index)
                .sh(&format!(
                    "iptables -D OUTPUT {ports} -j DROP; iptables -D INPUT {ports} -j DROP"
                ))
                .run()?;
        }
        let mut figures = figures?;
        figures.push(back(lab)?);
        Ok(figures)
    })
}

pub(crate) fn members_killed(lab: &mut Lab, _: Extent) -> Result<Vec<Figure>> {
    under_load(lab, "rolling", Duration::from_secs(60), |lab| {
        let mut worst = Duration::ZERO;
        for index in 0..3 {
            lab.members[index].store.as_mut().context("no store")?.kill()?;
            let begin = Instant::now();
            // The other two agree on a leader, and the daemons find it.
            bulkhead_lab::wait::retry(
                "volumes can be made without one member",
                Duration::from_secs(60),
                || lab.node(index).create(&format!("without-{index}"), "size=64M"),
            )?;
            worst = worst.max(begin.elapsed());
            lab.node(index)
                .dockerd
                .run(&format!("volume rm without-{index}"))?;
            let store = lab.members[index].store.as_mut().context("no store")?;
            store.restart()?;
            store.await_ready()?;
        }
        Ok(vec![figure(
            "greatest time from a member's death to the next volume",
            format!("{:.1} s", worst.as_secs_f64()),
        )])
    })
}
