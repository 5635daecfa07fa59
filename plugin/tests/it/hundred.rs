//! 100 volumes created, mounted, written, unmounted and removed, in a row and in parallel, leave nothing behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::client::Docker;
use crate::node::{Node, eventually};
use serde_json::json;

const VOLUMES: usize = 100;
const WORKERS: usize = 8;

fn one_life(docker: &Docker, name: &str) {
    let fs = ["ext4", "ext4", "ext4", "btrfs"][name.len() % 4];
    docker.create(name, json!({"size": "160M", "fs": fs})).ok();
    let answer = docker.mount(name, "a").ok();
    let mountpoint = Path::new(answer["Mountpoint"].as_str().unwrap_or_default());
    fs::write(mountpoint.join("file"), name).expect("written");
    docker.mount(name, "b").ok();
    docker.unmount(name, "a").ok();
    assert_eq!(
        fs::read_to_string(mountpoint.join("file")).expect("still there"),
        name
    );
    docker.unmount(name, "b").ok();
    docker.remove(name).ok();
}

#[test]
fn a_hundred_volumes_leave_nothing_behind() {
    let mut node = Node::new();
    let docker = node.docker();
    one_life(&docker, "warm-up");
    let used = used(&node);
    let (memory, threads, descriptors) = (node.memory(), node.threads(), node.descriptors());

    for index in 0..VOLUMES {
        one_life(&docker, &format!("row{index}"));
    }
    nothing_left(&node);
    let after_row = node.memory();
    assert!(
        after_row < memory + (48 << 10),
        "{memory} KiB became {after_row} KiB"
    );
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let docker = docker.clone();
            scope.spawn(move || {
                for index in (worker..VOLUMES).step_by(WORKERS) {
                    one_life(&docker, &format!("parallel{index}"));
                }
            });
        }
    });
    nothing_left(&node);

    assert!(
        eventually(Duration::from_secs(15), || node.threads() <= threads + 8),
        "{threads}, {}",
        node.threads()
    );
    assert!(
        node.descriptors() <= descriptors + 2,
        "{descriptors} descriptors became {}",
        node.descriptors()
    );
    // Many threads at once make the allocator keep an arena for each.
    assert!(
        node.memory() < memory + (256 << 10),
        "{memory} KiB became {} KiB",
        node.memory()
    );
    assert_eq!(node.children(), 0);
    let now = self::used(&node);
    assert!(
        now < used + (8 << 20),
        "the pool had {used} bytes in use, and now {now}"
    );
    assert_eq!(
        fs::read_to_string(node.path("state/mounts.json"))
            .expect("the table")
            .matches("\"count\"")
            .count(),
        0
    );

    let (code, _) = node.terminate();
    assert_eq!(code, Some(0));
    assert!(node.mounts().is_empty(), "{:?}", node.mounts());
    let keys = keys(&node);
    let of_volumes: Vec<&String> = keys.iter().filter(|key| key.starts_with("volume")).collect();
    assert!(of_volumes.is_empty(), "{of_volumes:?}");
}

fn nothing_left(node: &Node) {
    assert!(node.docker().list().is_empty());
    assert!(node.volume_mounts().is_empty(), "{:?}", node.volume_mounts());
    assert!(
        eventually(Duration::from_secs(5), || node.loops().is_empty()),
        "{:?}",
        node.loops()
    );
    assert!(node.replicas().is_empty());
    assert!(node.entries("mounts").is_empty() && node.entries("run/devices").is_empty());
}

fn used(node: &Node) -> u64 {
    node.json(&["pool", "list"])[0]["used"]
        .as_u64()
        .expect("what the pool uses")
}

fn keys(node: &Node) -> Vec<String> {
    node.in_store(async |store| {
        let (entries, _) = store.list("").await.expect("it lists");
        entries.into_iter().map(|entry| entry.key).collect()
    })
}
