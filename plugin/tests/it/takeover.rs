//! How long a takeover takes, of what is ours: from the Mount on another node, when the holder is dead by its lease, to the
//! record that names the new one. Holders are frozen: like a node that is cut off, they answer nothing at all.

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
