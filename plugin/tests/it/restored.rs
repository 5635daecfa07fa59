//! The store as it was earlier, over replicas that have gone on since: the disks' word counts, and nothing is taken away.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bulkhead_cluster::records;
use bulkhead_cluster::schema::{VOLUMES, VolumeRecord, VolumeState, encode};
use bulkhead_cluster::store::Expect;
use serde_json::json;

use crate::node::{Node, eventually};

/// Puts another state and epoch into the record of the only volume; what they were.
fn rewrite(node: &Node, state: VolumeState, epoch: u32) -> (VolumeState, u32) {
    node.in_store(async |store| {
        let (volumes, _, _) = records::list::<VolumeRecord>(store, VOLUMES)
            .await
            .expect("it lists");
        let volume = volumes.first().expect("a volume");
        let mut record = volume.record.clone();
        let before = (record.state, record.epoch.0);
        record.state = state;
        record.epoch.0 = epoch;
        record.primary = None;
        let key = format!("{VOLUMES}{}", record.id);
        let value = encode(&key, &record).expect("a record");
        store
            .swap(&key, Expect::At(volume.revision), value)
            .await
            .expect("nobody else is there");
        before
    })
}

#[test]
fn a_store_from_the_moment_of_a_creation_deletes_nothing() {
    let mut node = Node::with_pool("1G");
    let docker = node.docker();
    docker.create("kept", json!({"size": "64M"})).ok();
    for round in 0..3 {
        let mounted = docker.mount("kept", "a").ok();
        let mountpoint = mounted["Mountpoint"].as_str().expect("a mount point").to_owned();
        fs::write(Path::new(&mountpoint).join("round"), format!("{round}")).expect("it takes a file");
        docker.unmount("kept", "a").ok();
    }
    let replicas = node.replicas();
    assert_eq!(replicas.len(), 1);

    node.terminate();
    let (state, epoch) = rewrite(&node, VolumeState::Creating, 1);
    assert!(epoch > 2, "{epoch}");
    node.start();
    assert!(
        eventually(Duration::from_secs(60), || node.log().contains("is not undone")),
        "{}",
        node.log()
    );
    assert_eq!(node.replicas(), replicas);

    // Deleted by a person, or by another node that did not look: the files are not given away either.
    node.terminate();
    rewrite(&node, VolumeState::Deleting, 1);
    node.start();
    assert!(
        eventually(Duration::from_secs(60), || node.log().contains("is not removed")),
        "{}",
        node.log()
    );
    assert_eq!(node.replicas(), replicas);

    node.terminate();
    rewrite(&node, state, epoch);
    node.start();
    let mounted = docker.mount("kept", "a").ok();
    let mountpoint = mounted["Mountpoint"].as_str().expect("a mount point").to_owned();
    let round = fs::read_to_string(Path::new(&mountpoint).join("round")).expect("the file is there");
    assert_eq!(round, "2");
    docker.unmount("kept", "a").ok();
}
