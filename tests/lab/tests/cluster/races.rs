//! Several nodes want the same at the same moment.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bulkhead_lab::report::{Figure, figure, spread};
use bulkhead_lab::{Driver, Lab};

use crate::Extent;
use crate::life::inspect;

/// Lets every driver do the same at the same moment.
fn together<T: Send>(drivers: &[Driver], act: impl Fn(usize, &Driver) -> T + Sync) -> Result<Vec<T>> {
    let (barrier, act) = (&Barrier::new(drivers.len()), &act);
    thread::scope(|scope| {
        let workers: Vec<_> = drivers
            .iter()
            .enumerate()
            .map(|(index, driver)| {
                scope.spawn(move || {
                    barrier.wait();
                    act(index, driver)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| anyhow!("a racer panicked")))
            .collect()
    })
}

pub(crate) fn create(lab: &mut Lab, extent: Extent) -> Result<Vec<Figure>> {
    let drivers: Vec<_> = (0..3).map(|index| Driver::of(lab.host(index))).collect();
    let mut took = Vec::new();
    for round in 0..extent.creates {
        // The same spec: all succeed, and there is one volume.
        let name = format!("same-{round}");
        let begin = Instant::now();
        for outcome in together(&drivers, |_, driver| driver.create(&name, &[("size", "64M")]))? {
            outcome.with_context(|| name.clone())?;
        }
        took.push(begin.elapsed());
        let ids: BTreeSet<String> = (0..3)
            .map(|index| Ok(inspect(lab, index, &name)?["id"].to_string()))
            .collect::<Result<_>>()?;
        ensure!(ids.len() == 1, "{name} is {} volumes: {ids:?}", ids.len());

        // Different specs: one of them, and the others are told in what it differs.
        let name = format!("different-{round}");
        let sizes = ["64M", "80M", "96M"];
        let outcomes = together(&drivers, |index, driver| {
            driver.create(&name, &[("size", sizes[index])])
        })?;
        let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        ensure!(
            won == 1,
            "{won} of three different volumes {name} were created: {outcomes:?}"
        );
        for error in outcomes.into_iter().filter_map(Result::err) {
            ensure!(
                error.to_string().contains("size"),
                "the refusal does not tell the difference: {error:#}"
            );
        }
        for name in [name, format!("same-{round}")] {
            drivers[round % 3].remove(&name)?;
        }
    }
    Ok(vec![spread("three creates of one name", took)])
}

pub(crate) fn refused(lab: &mut Lab, _: Extent) -> Result<Vec<Figure>> {
    lab.node(0).create("taken", "size=64M")?;
    let run = "run -d --name holder --network none -v taken:/data busybox sleep 3600";
    lab.node(0).dockerd.run(run)?;
    let begin = Instant::now();
    let told = lab
        .node(1)
        .with("taken", bulkhead_lab::image::BUSYBOX, "true")
        .within(Duration::from_secs(100))
        .fails()?;
    let waited = begin.elapsed();
    ensure!(told.contains("n1"), "the refusal does not name the node: {told}");
    ensure!(
        told.contains("holder") || told.contains("process") || told.contains("container"),
        "the refusal does not name the user: {told}"
    );
    ensure!(
        waited < Duration::from_secs(60),
        "it was refused after {waited:?} only"
    );
    // Idle, it is handed over at once.
    lab.node(0).dockerd.run("rm -f holder")?;
    let begin = Instant::now();
    lab.node(1).sh("taken", "true")?;
    let handed = begin.elapsed();
    lab.node(1).dockerd.run("volume rm taken")?;
    Ok(vec![
        figure(
            "a mount of a volume in use is refused after",
            format!("{:.1} s", waited.as_secs_f64()),
        ),
        figure(
            "a container with it once it is free",
            format!("{:.1} s", handed.as_secs_f64()),
        ),
    ])
}

pub(crate) fn mount(lab: &mut Lab, extent: Extent) -> Result<Vec<Figure>> {
    let name = "raced";
    let drivers = [Driver::of(lab.host(0)), Driver::of(lab.host(1))];
    drivers[0].create(name, &[("size", "64M"), ("nodes", "n1,n2,n3")])?;
    let (mut rounds, mut wins) = (Vec::new(), [0_usize; 2]);
    for round in 0..extent.mounts {
        let begin = Instant::now();
        // Each that gets it leaves its name, looks whether the other is there too, and lets go. The one that comes second
        // waits in its mount until then: it must find the first one's name, and no trace of a second owner at any time.
        let finds = together(&drivers, |index, driver| -> Result<(Instant, Option<String>)> {
            let point = driver.mount(name, &format!("racer-{round}"))?;
            let at = Instant::now();
            let outside = lab.host(index).outside(&point);
            let found = (|| {
                let owner = outside.join("owner");
                let before = fs::read_to_string(&owner).ok();
                fs::write(&owner, format!("{round}/n{}", index + 1))?;
                thread::sleep(Duration::from_millis(2));
                let after = fs::read_to_string(&owner)?;
                ensure!(
                    after == format!("{round}/n{}", index + 1),
                    "two owners at once: {after}"
                );
                let mounts = fs::read_to_string(format!("/proc/{}/mounts", lab.host(1 - index).pid()))?;
                let there = mounts.lines().any(|line| {
                    line.split(' ')
                        .nth(1)
                        .is_some_and(|at| point.starts_with(at) && at.len() > 1 && at.contains(name))
                });
                ensure!(!there, "it is mounted on both nodes in round {round}");
                Ok(before)
            })();
            driver.unmount(name, &format!("racer-{round}"))?;
            Ok((at, found?))
        })?;
        let finds = finds
            .into_iter()
            .collect::<Result<Vec<_>>>()
            .with_context(|| format!("round {round}"))?;
        let first = usize::from(finds[1].0 < finds[0].0);
        wins[first] += 1;
        let found = finds[1 - first].1.as_deref();
        let expected = format!("{round}/n{}", first + 1);
        ensure!(
            found == Some(&expected),
            "round {round}: the second one found {found:?}, not {expected:?}"
        );
        rounds.push(begin.elapsed());
    }
    drivers[0].remove(name)?;
    Ok(vec![
        figure(
            "rounds with exactly one owner at a time",
            format!("{} of {}", rounds.len(), extent.mounts),
        ),
        figure("won by n1 / by n2", format!("{} / {}", wins[0], wins[1])),
        spread("two mounts and unmounts", rounds),
    ])
}
