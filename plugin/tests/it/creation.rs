//! Creations on several nodes of which one dies or has no room: they are undone everywhere, or done without it.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::node::eventually;
use crate::several::{Cluster, mountpoint, write};

#[test]
fn a_creation_whose_creator_dies_is_undone_by_others() {
    let mut cluster = Cluster::of(3);
    cluster.create(0, "warm", json!({"size": "64M", "repl": "3"}));
    for delay in [5, 40, 120] {
        let docker = cluster.docker(0);
        let creator = std::thread::spawn(move || {
            let body = json!({"Name": "v", "Opts": {"size": "64M", "repl": "3"}}).to_string();
            let _ = docker.raw((crate::client::head("VolumeDriver.Create", body.len()) + &body).as_bytes());
        });
        std::thread::sleep(Duration::from_millis(delay));
        cluster.nodes[0].kill();
        // Whoever wants one of that name gets it, on the nodes that live.
        let reply = cluster.docker(1).create("v", json!({"size": "64M", "repl": "2"}));
        if !reply.error().is_empty() {
            let is_another = reply.error().contains("is another one: repl");
            assert!(is_another, "it was not ready before: {reply:?}");
        }
        let mounted = mountpoint(&cluster.docker(1).mount("v", "a").ok());
        write(&mounted.join("file"), "x");
        cluster.docker(1).unmount("v", "a").ok();
        cluster.nodes[0].start();
        creator.join().expect("it only loses its connection");
        cluster.docker(0).remove("v").ok();
        for node in &cluster.nodes {
            assert!(
                eventually(
                    Duration::from_secs(40),
                    || node.json(&["pool", "list"])[0]["replicas"] == 1
                ),
                "{}",
                node.json(&["pool", "list"])
            );
            assert!(
                eventually(Duration::from_secs(40), || node.replicas().len() == 1),
                "only that of the other volume stays"
            );
        }
    }
}

#[test]
fn a_failure_on_one_node_is_named_and_undone_everywhere() {
    let cluster = Cluster::of(2);
    cluster.create(0, "warm", json!({"size": "64M", "repl": "2"}));
    // The pool of the second node takes nothing more, though its record says otherwise.
    let pool = fs::read_to_string("/proc/self/mountinfo")
        .expect("mounts")
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .find(|target| target.starts_with(cluster.nodes[1].path("state")) && target.join("replicas").is_dir())
        .expect("its pool is mounted");
    let filler = pool.join("filler");
    let full = std::process::Command::new("fallocate")
        .args(["-l", "3900M"])
        .arg(&filler)
        .status()
        .expect("fallocate runs");
    let mut rest = fs::File::create(pool.join("rest")).expect("a file");
    while rest.write_all(&[1; 4096]).is_ok() {}
    println!("filled: {full}");
    let error = cluster
        .docker(0)
        .create("v", json!({"size": "1G", "repl": "2"}))
        .refused("n2");
    println!("{error}");
    assert!(
        cluster.docker(0).list() == ["warm"]
            && eventually(Duration::from_secs(5), || cluster.docker(1).list() == ["warm"])
    );
    assert!(eventually(Duration::from_secs(10), || cluster.nodes[0]
        .json(&["pool", "list"])[0]["replicas"]
        == 1));
    let _ = (fs::remove_file(filler), fs::remove_file(pool.join("rest")));
    assert_eq!(cluster.nodes[0].replicas().len(), 1);
}

/// That a node is dead is known when its lease has run out; until then it is given replicas, which it never makes.
#[test]
fn a_creation_goes_on_without_a_node_that_has_just_died() {
    let mut cluster = Cluster::of(3);
    // The node that is killed has the most room, so that it is taken for the second replica.
    cluster.create(0, "filler", json!({"size": "1G", "nodes": "n3"}));
    cluster.create(0, "warm", json!({"size": "64M", "repl": "3"}));
    cluster.nodes[0].kill();
    cluster
        .docker(1)
        .create("v", json!({"size": "64M", "repl": "2"}))
        .ok();
    let volume = cluster.volume(1, "v");
    let mut nodes: Vec<&str> = volume["replicas"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|replica| replica["node"].as_str())
        .collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["n2", "n3"], "{volume}");
    let mounted = mountpoint(&cluster.docker(1).mount("v", "a").ok());
    write(&mounted.join("file"), "x");
    cluster.docker(1).unmount("v", "a").ok();
    // Of the first try nothing is left, also where its node is back.
    cluster.nodes[0].start();
    for (node, replicas) in cluster.nodes.iter().zip([1, 2, 3]) {
        assert!(
            eventually(
                Duration::from_secs(40),
                || node.json(&["pool", "list"])[0]["replicas"] == replicas
            ),
            "{}",
            node.json(&["pool", "list"])
        );
    }
    // Nowhere else may it be: what is asked for cannot be had, and the node is named.
    cluster.nodes[0].kill();
    let refusal = cluster
        .docker(1)
        .create("w", json!({"size": "64M", "repl": "2", "nodes": "n1,n2"}))
        .refused("n1");
    assert!(
        refusal.contains("offline") || refusal.contains("went away"),
        "{refusal}"
    );
    assert!(!cluster.docker(1).list().contains(&"w".to_owned()));
}
