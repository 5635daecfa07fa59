//! A volume whose holder is dead by its lease is taken over: nothing that was acknowledged is lost, the old holder ends when it
//! is back, and what is ours of the time is short. Holders that are frozen, like a node that is cut off, answer nothing at all.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::node::eventually;
use crate::several::{Cluster, in_sync, mountpoint, write};

#[test]
fn a_dead_holder_is_not_waited_for_again_after_its_lease() {
    let cluster = Cluster::of(2);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2"}));
    let mut took = Vec::new();
    // A machine that is busy may be late once.
    for _ in 0..3 {
        let mounted = mountpoint(&cluster.docker(0).mount("v", "a").ok());
        write(&mounted.join("file"), "before");
        cluster.nodes[0].signal(Signal::SIGSTOP);
        assert!(
            eventually(Duration::from_secs(30), || {
                let nodes = cluster.nodes[1].json(&["node", "list"]);
                let nodes = nodes.as_array().cloned().unwrap_or_default();
                nodes
                    .iter()
                    .any(|node| node["name"] == "n1" && node["state"] == "offline")
            }),
            "{}",
            cluster.nodes[1].json(&["node", "list"])
        );
        let docker = cluster.docker(1);
        let start = Instant::now();
        let mounting = std::thread::spawn(move || {
            docker.mount("v", "b").ok();
            start.elapsed()
        });
        let holder = || cluster.volume(1, "v")["attached"]["node"].clone();
        assert!(eventually(Duration::from_secs(30), || holder() == "n2"));
        took.push(start.elapsed());
        let mounted = mounting.join().expect("mounted");
        println!("its record after {:?}, mounted after {mounted:?}", took.last());
        let log = cluster.nodes[1].log();
        let told = log
            .lines()
            .rfind(|line| line.contains("taken over: "))
            .unwrap_or_default();
        println!("{told}");
        for phase in ["survey", "attach", "opening", "device", "file system", "in all"] {
            assert!(told.contains(&format!("{phase} ")), "{phase}: {told}");
        }
        cluster.nodes[0].signal(Signal::SIGCONT);
        let is_healed =
            || cluster.nodes[0].volume_mounts().is_empty() && in_sync(&cluster.volume(1, "v")) == 2;
        assert!(
            eventually(Duration::from_secs(60), is_healed),
            "{}",
            cluster.volume(1, "v")
        );
        cluster.docker(0).unmount("v", "a").ok();
        cluster.docker(1).unmount("v", "b").ok();
        if took.last().is_some_and(|took| *took < Duration::from_secs(3)) {
            return;
        }
    }
    panic!("the replica of the dead node is waited for as if it were alive: {took:?}");
}

/// A member that is away is waited for: four seconds by default. One whose node is dead by the store is not.
#[test]
fn a_takeover_does_not_wait_for_the_dead() {
    const DEADLINE: Duration = Duration::from_secs(4);
    let mut cluster = Cluster::of(2);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2"}));
    let mounted = mountpoint(&cluster.docker(0).mount("v", "a").ok());
    write(&mounted.join("file"), "acknowledged");
    cluster.nodes[0].kill();
    // From here on it is known to be dead, as it is when Swarm has moved the task.
    let is_known = || {
        let nodes = cluster.nodes[1].json(&["node", "list"]);
        let mut nodes = nodes.as_array().cloned().unwrap_or_default().into_iter();
        nodes.any(|node| node["name"] == "n1" && node["state"] != "ok")
    };
    assert!(
        eventually(Duration::from_secs(30), is_known),
        "{}",
        cluster.nodes[1].json(&["node", "list"])
    );
    let start = Instant::now();
    let mounted = mountpoint(&cluster.docker(1).mount("v", "b").ok());
    let took = start.elapsed();
    println!(
        "mounted after {took:?}: {:.2} of the deadline of a member",
        took.as_secs_f64() / DEADLINE.as_secs_f64()
    );
    assert!(took < DEADLINE, "{took:?}");
    assert_eq!(
        fs::read_to_string(mounted.join("file")).expect("kept"),
        "acknowledged"
    );
    cluster.docker(1).unmount("v", "b").ok();
    cluster.nodes[0].start();
    cluster.docker(0).unmount("v", "a").ok();
}

#[test]
fn a_dead_holder_is_replaced_and_comes_back_as_a_replica() {
    let mut cluster = Cluster::of(3);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2", "nodes": "n1,n2"}));
    cluster.create(
        0,
        "deleted",
        json!({"size": "64M", "repl": "2", "nodes": "n1,n2"}),
    );
    let mounted = mountpoint(&cluster.docker(0).mount("v", "a").ok());
    write(&mounted.join("file"), "acknowledged");
    cluster.nodes[0].kill();
    let start = Instant::now();
    // Without the copy on the dead node; on the node that has none itself.
    let mounted = mountpoint(&cluster.docker(2).mount("v", "b").ok());
    println!("taken over after {:?}", start.elapsed());
    assert_eq!(
        fs::read_to_string(mounted.join("file")).expect("kept"),
        "acknowledged"
    );
    write(&mounted.join("file"), "newer");
    assert!(
        eventually(Duration::from_secs(20), || in_sync(&cluster.volume(1, "v")) == 1),
        "{}",
        cluster.volume(1, "v")
    );
    cluster.docker(1).remove("deleted").ok();

    cluster.nodes[0].start();
    assert!(
        eventually(Duration::from_secs(30), || {
            let volume = cluster.volume(1, "v");
            volume["replicas"]
                .as_array()
                .is_some_and(|replicas| replicas.iter().all(|replica| replica["state"] == "in sync"))
        }),
        "{}",
        cluster.volume(1, "v")
    );
    assert!(
        eventually(Duration::from_secs(20), || cluster.nodes[0]
            .json(&["pool", "list"])[0]["replicas"]
            == 1),
        "what was deleted meanwhile goes here too"
    );
    assert_eq!(cluster.nodes[0].replicas().len(), 1);
    cluster.docker(0).unmount("v", "a").ok();
    assert_eq!(fs::read_to_string(mounted.join("file")).expect("kept"), "newer");
    cluster.docker(2).unmount("v", "b").ok();
    let mounted = mountpoint(&cluster.docker(0).mount("v", "c").ok());
    assert_eq!(fs::read_to_string(mounted.join("file")).expect("kept"), "newer");
    cluster.docker(0).unmount("v", "c").ok();
}

#[test]
fn a_holder_that_was_frozen_ends_when_it_wakes() {
    let cluster = Cluster::of(2);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2"}));
    let mounted = mountpoint(&cluster.docker(0).mount("v", "a").ok());
    write(&mounted.join("file"), "before");
    cluster.nodes[0].signal(Signal::SIGSTOP);
    let taken = mountpoint(&cluster.docker(1).mount("v", "b").ok());
    assert_eq!(fs::read_to_string(taken.join("file")).expect("kept"), "before");
    write(&taken.join("file"), "after");
    cluster.nodes[0].signal(Signal::SIGCONT);
    assert!(
        eventually(Duration::from_secs(60), || cluster.nodes[0]
            .volume_mounts()
            .is_empty()),
        "{:?}",
        cluster.nodes[0].volume_mounts()
    );
    // Its late words take nothing from the new owner.
    cluster.docker(0).unmount("v", "a").ok();
    let holder = || cluster.volume(1, "v")["attached"]["node"].clone();
    assert_eq!(holder(), "n2");
    assert!(
        eventually(Duration::from_secs(60), || in_sync(&cluster.volume(1, "v")) == 2),
        "{}",
        cluster.volume(1, "v")
    );
    assert_eq!(
        (holder(), fs::read_to_string(taken.join("file")).expect("kept")),
        (json!("n2"), "after".to_owned())
    );
    cluster.docker(1).unmount("v", "b").ok();
}
