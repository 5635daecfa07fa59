//! Swarm: a service, a stack with a volume for each task, a service that moves.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bulkhead_lab::report::{Figure, figure};
use bulkhead_lab::swarm::{await_running, container};
use bulkhead_lab::{Dockerd, Lab, wait};

use crate::Extent;

const START: Duration = Duration::from_secs(60);

const STACK: &str = "version: '3.8'
services:
  app:
    image: busybox
    init: true
    environment: ['SLOT=slot-{{.Task.Slot}}']
    command: sh -c 'echo $$SLOT >>/data/slots; sleep 3600'
    volumes: ['data:/data']
    networks: [host]
    deploy:
      replicas: 3
      update_config: {order: stop-first}
networks:
  host: {external: true, name: host}
volumes:
  data:
    driver: bulkhead
    name: 'stacked-{{.Task.Slot}}'
    driver_opts: {size: 64M, repl: '2'}
";

pub(crate) fn services(lab: &mut Lab, _: Extent) -> Result<Vec<Figure>> {
    let manager = &lab.node(0).dockerd;
    let begin = Instant::now();
    manager
        .docker(
            "service create -d --no-resolve-image --init --name db --restart-delay 0s \
             --mount type=volume,source=db,target=/data,volume-driver=bulkhead,volume-opt=size=64M,volume-opt=repl=3 busybox sh -c"
                .split_whitespace(),
        )
        .arg("cat /data/told 2>/dev/null; hostname >>/data/told; sleep 3600")
        .run()?;
    let first = await_running(manager, "db", 1, START, |_| true)?.remove(0);
    let started = begin.elapsed();

    // It is told to go elsewhere: its node is drained.
    let begin = Instant::now();
    manager.run(&format!("node update --availability drain {}", first.node))?;
    let second = await_running(manager, "db", 1, START, |node| node != first.node)?.remove(0);
    let moved = begin.elapsed();
    manager.run(&format!("node update --availability active {}", first.node))?;
    let there = &lab.node(lab.index_of(&second.node)?).dockerd;
    let id = wait::until("its container runs", Duration::from_secs(10), || {
        container(there, "db")
    })?;
    let told = there.exec(&id, "cat /data/told").run()?;
    ensure!(
        told.lines().count() == 2,
        "the task on {} found {told:?} on its volume",
        second.node
    );

    let file = lab.host(0).dir().join("stack.yml");
    fs::write(&file, STACK)?;
    manager
        .docker([
            "stack",
            "deploy",
            "--resolve-image=never",
            "-c",
            &file.display().to_string(),
            "shop",
        ])
        .run()?;
    let tasks = await_running(manager, "shop_app", 3, START, |_| true)?;
    let volumes: BTreeSet<String> = manager
        .run("volume ls --quiet")?
        .lines()
        .map(str::to_owned)
        .collect();
    for slot in 1..=3 {
        ensure!(
            volumes.contains(&format!("stacked-{slot}")),
            "there is no volume for slot {slot}: {volumes:?}"
        );
    }
    for task in &tasks {
        let slot = task.name.rsplit('.').next().unwrap_or_default();
        let dockerd = &lab.node(lab.index_of(&task.node)?).dockerd;
        // The volume's own container is asked, for one node may run several tasks.
        let id = dockerd.run(&format!("ps --quiet --filter volume=stacked-{slot}"))?;
        let told = dockerd.exec(id.trim(), "cat /data/slots").run()?;
        ensure!(told == format!("slot-{slot}"), "slot {slot} found {told:?}");
    }

    manager.run("service rm db shop_app")?;
    manager.docker(["stack", "rm", "shop"]).output()?;
    for name in ["db", "stacked-1", "stacked-2", "stacked-3"] {
        wait::retry("the volume can be removed", Duration::from_secs(40), || {
            manager.run(&format!("volume rm {name}"))
        })?;
    }
    let seconds = |took: Duration| format!("{:.1} s", took.as_secs_f64());
    Ok(vec![
        figure("service create to running", seconds(started)),
        figure("drain to running elsewhere with its data", seconds(moved)),
    ])
}

/// The hosts that have the label of a volume, as this manager sees it.
fn labelled(manager: &Dockerd, volume: &str) -> Result<BTreeSet<String>> {
    let filter = format!("node.label=bulkhead.volume.{volume}=true");
    let list = manager.run(&format!("node ls --filter {filter} --format {{{{.Hostname}}}}"))?;
    Ok(list.lines().map(str::to_owned).collect())
}

pub(crate) fn near_its_data(lab: &mut Lab, _: Extent) -> Result<Vec<Figure>> {
    let manager = &lab.node(0).dockerd;
    let begin = Instant::now();
    manager.run("volume create -d bulkhead -o size=64M -o repl=2 near")?;
    let holders = wait::until("two nodes have the volume's label", START, || {
        let nodes = labelled(manager, "near")?;
        Ok((nodes.len() == 2).then_some(nodes))
    })?;
    let told = begin.elapsed();
    let view = lab.node(0).bulkhead.json("volume inspect near")?.to_string();
    for holder in &holders {
        ensure!(
            view.contains(&format!("{holder:?}")),
            "{holder} has a label, and no replica: {view}"
        );
    }

    manager
        .docker(
            "service create -d --no-resolve-image --init --name near --restart-delay 0s \
             --constraint node.labels.bulkhead.volume.near==true \
             --mount type=volume,source=near,target=/data,volume-driver=bulkhead busybox sleep 3600"
                .split_whitespace(),
        )
        .run()?;
    let first = await_running(manager, "near", 1, START, |node| holders.contains(node))?.remove(0);
    manager.run(&format!("node update --availability drain {}", first.node))?;
    let elsewhere = |node: &str| node != first.node && holders.contains(node);
    await_running(manager, "near", 1, START, elsewhere)?;
    manager.run(&format!("node update --availability active {}", first.node))?;

    manager.run("service rm near")?;
    wait::retry("the volume can be removed", Duration::from_secs(40), || {
        manager.run("volume rm near")
    })?;
    wait::until("the label of a volume that is gone goes too", START, || {
        Ok(labelled(manager, "near")?.is_empty().then_some(()))
    })?;
    Ok(vec![figure(
        "volume create to labels",
        format!("{:.1} s", told.as_secs_f64()),
    )])
}
