//! Nodes join, volumes appear everywhere, a node dies and comes back.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bulkhead_lab::report::{Figure, figure, spread};
use bulkhead_lab::{Driver, Lab, wait};
use serde_json::Value;

use crate::Extent;

/// What a node says of all nodes: name and state.
pub(crate) fn states(lab: &Lab, index: usize) -> Result<Vec<(String, String)>> {
    let list = lab.node(index).bulkhead.json("node list")?;
    let nodes = list.as_array().context("node list is no list")?;
    let text = |node: &Value, key: &str| node[key].as_str().unwrap_or_default().to_owned();
    let mut all: Vec<_> = nodes
        .iter()
        .map(|node| (text(node, "name"), text(node, "state")))
        .collect();
    all.sort();
    Ok(all)
}

/// A volume as a node's command line shows it.
pub(crate) fn inspect(lab: &Lab, index: usize, name: &str) -> Result<Value> {
    let answer = lab.node(index).bulkhead.json(&format!("volume inspect {name}"))?;
    Ok(answer
        .as_array()
        .map_or_else(|| answer.clone(), |all| all[0].clone()))
}

/// Waits until a volume has this state on every node that has power.
pub(crate) fn await_everywhere(
    lab: &Lab,
    name: &str,
    what: &str,
    deadline: Duration,
    fits: impl Fn(&Value) -> bool,
) -> Result<()> {
    for index in (0..lab.members.len()).filter(|&index| lab.host(index).is_on()) {
        let mut last = Value::Null;
        wait::until(what, deadline, || {
            if let Ok(view) = inspect(lab, index, name) {
                last = view;
            }
            Ok(fits(&last).then_some(()))
        })
        .with_context(|| format!("{} says of {name}: {last:#}", lab.host(index).hostname()))?;
    }
    Ok(())
}

pub(crate) fn joined(lab: &mut Lab, _: Extent) -> Result<Vec<Figure>> {
    for index in 0..3 {
        let all = wait::until("all nodes are ok", Duration::from_secs(20), || {
            let all = states(lab, index)?;
            Ok((all.len() == 3 && all.iter().all(|(_, state)| state == "ok")).then_some(all))
        })
        .with_context(|| format!("n{} says {:?}", index + 1, states(lab, index).ok()))?;
        let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
        ensure!(names == ["n1", "n2", "n3"], "the nodes are {names:?}");
    }
    // The same name a second time is refused, and so is another cluster's name in the same store's place.
    Ok(vec![figure("nodes", 3)])
}

pub(crate) fn seen(lab: &mut Lab, extent: Extent) -> Result<Vec<Figure>> {
    let drivers: Vec<_> = (0..3).map(|index| Driver::of(lab.host(index))).collect();
    let (mut made, mut seen) = (Vec::new(), Vec::new());
    for round in 0..extent.seen {
        for (index, driver) in drivers.iter().enumerate() {
            let name = format!("seen-{round}-{index}");
            let begin = Instant::now();
            driver.create(&name, &[("size", "64M")])?;
            made.push(begin.elapsed());
            let begin = Instant::now();
            for other in &drivers {
                wait::until("the volume is seen", Duration::from_secs(10), || {
                    Ok(other.get(&name)?.map(drop))
                })
                .with_context(|| name.clone())?;
            }
            seen.push(begin.elapsed());
        }
    }
    let late = seen
        .iter()
        .filter(|&&took| took > bulkhead_lab::lab::SEEN)
        .count();
    // This machine has other things to do; one straggler is its doing, several are ours.
    ensure!(
        late * 10 <= seen.len(),
        "{late} of {} volumes were seen everywhere later than after a second: {seen:?}",
        seen.len()
    );
    let names: Vec<_> = (0..extent.seen)
        .flat_map(|round| (0..3).map(move |index| format!("seen-{round}-{index}")))
        .collect();
    for name in &names {
        drivers[2].remove(name)?;
    }
    wait::until("all are gone everywhere", Duration::from_secs(10), || {
        let gone = |driver: &Driver| Ok::<_, anyhow::Error>(driver.get(&names[0])?.is_none());
        Ok((gone(&drivers[0])? && gone(&drivers[1])?).then_some(()))
    })?;
    Ok(vec![
        spread("create", made),
        spread("from created to seen on all nodes", seen),
    ])
}

pub(crate) fn dies(lab: &mut Lab, _: Extent) -> Result<Vec<Figure>> {
    // One volume that only the dying node has, and one that has a second replica.
    let alone = "only-here";
    let shared = "elsewhere-too";
    lab.node(0).create(alone, "size=128M nodes=n1")?;
    lab.node(0).create(shared, "size=128M repl=2 nodes=n1,n2")?;
    for volume in [alone, shared] {
        let line = format!("run -d --name {volume} --network none -v {volume}:/data busybox sleep 3600");
        lab.node(0).dockerd.run(&line)?;
        lab.node(0)
            .dockerd
            .exec(volume, "echo kept >/data/note; sync")
            .run()?;
    }
    await_everywhere(
        lab,
        shared,
        "it is attached on n1",
        Duration::from_secs(10),
        |view| view["attached"]["node"] == "n1",
    )?;

    let begin = Instant::now();
    lab.power_off(0)?;
    for index in [1, 2] {
        wait::until("the others know of its death", Duration::from_secs(60), || {
            let all = states(lab, index)?;
            Ok(all
                .contains(&("n1".to_owned(), "offline".to_owned()))
                .then_some(()))
        })
        .with_context(|| format!("n{} says {:?}", index + 1, states(lab, index).ok()))?;
    }
    let noticed = begin.elapsed();

    // The one with a second replica can be had on n2, with what was synced; the other one is refused with the reason.
    let took = Instant::now();
    lab.node(1).dockerd.run(&format!(
        "run -d --name {shared} --network none -v {shared}:/data busybox sleep 3600"
    ))?;
    let note = lab.node(1).dockerd.exec(shared, "cat /data/note").run()?;
    let taken = took.elapsed();
    ensure!(note == "kept", "{shared} holds {note:?}");
    let told = lab
        .node(2)
        .with(alone, bulkhead_lab::image::BUSYBOX, "cat /data/note")
        .within(Duration::from_secs(120))
        .fails()?;
    ensure!(
        told.contains("n1"),
        "the refusal does not name the node that is needed: {told}"
    );
    for index in [1, 2] {
        let view = inspect(lab, index, alone)?;
        ensure!(
            view["healthy"] == false,
            "n{} calls {alone} healthy: {view:#}",
            index + 1
        );
    }

    let begin = Instant::now();
    lab.power_on(0)?;
    await_everywhere(
        lab,
        shared,
        "it is whole again",
        Duration::from_secs(90),
        |view| {
            view["healthy"] == true
                && view["replicas"].as_array().is_some_and(|all| {
                    all.len() == 2 && all.iter().all(|replica| replica["state"] == "in sync")
                })
        },
    )?;
    let whole = begin.elapsed();
    thread::sleep(Duration::from_millis(100));
    ensure!(lab.node(0).sh(alone, "cat /data/note")? == "kept");
    lab.node(1).dockerd.run(&format!("rm -f {shared}"))?;
    for volume in [alone, shared] {
        lab.node(0).dockerd.run(&format!("rm -f {volume}"))?;
        wait::retry("it can be removed", Duration::from_secs(30), || {
            lab.node(0).dockerd.run(&format!("volume rm {volume}"))
        })?;
    }
    let seconds = |took: Duration| format!("{:.1} s", took.as_secs_f64());
    let balanced = balanced(lab)?;
    Ok(vec![
        figure(
            "from four volumes on one node to all pools alike",
            seconds(balanced),
        ),
        figure("from the power cut to offline on the others", seconds(noticed)),
        figure("then a container with the volume on another node", seconds(taken)),
        figure("from power on to two replicas in sync", seconds(whole)),
    ])
}

/// Four volumes that are all on one node come to be spread over three, though the node that was asked loses its power.
fn balanced(lab: &mut Lab) -> Result<Duration> {
    let pool = lab.node(0).bulkhead.json("node inspect n1")?[0]["pools"][0].clone();
    let size = pool["promisable"].as_u64().context("a pool has no size")? >> 23;
    let names: Vec<String> = (0..4).map(|n| format!("balanced-{n}")).collect();
    for name in &names {
        lab.node(0).create(name, &format!("size={size}M nodes=n1"))?;
        let line = format!("volume update {name} --nodes n1,n2,n3");
        lab.node(0).bulkhead.cli(&line).run()?;
    }
    let begin = Instant::now();
    let line = "cluster rebalance --no-wait --limit 1";
    lab.node(2).bulkhead.cli(line).run()?;
    lab.power_off(2)?;
    lab.power_on(2)?;
    // Refused while replicas are on the move.
    wait::retry("the pools are alike", Duration::from_secs(180), || {
        let plan = lab.node(1).bulkhead.json("cluster rebalance --no-wait")?;
        ensure!(plan["moves"].as_array().is_some_and(Vec::is_empty), "{plan:#}");
        Ok(())
    })?;
    let took = begin.elapsed();
    let mut homes = Vec::new();
    for name in &names {
        let view = inspect(lab, 0, name)?;
        homes.push(view["replicas"][0]["node"].clone());
        ensure!(view["healthy"] == true, "{name}: {view:#}");
    }
    let moved = homes.iter().filter(|home| *home != "n1").count();
    ensure!((2..=3).contains(&moved), "the volumes are on {homes:?}");
    for name in &names {
        lab.node(0).dockerd.run(&format!("volume rm {name}"))?;
    }
    Ok(took)
}
