//! What a person does about a replica in trouble, through the command line, on a real daemon.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_engine::disk::{self, META_FILE};
use bulkhead_engine::format::{FailCause, MetaLayout, Superblock};
use serde_json::json;

use crate::node::{Node, eventually, text};

/// Where the replica of a volume lies on this node.
fn replica_dir(node: &Node, volume: &str) -> PathBuf {
    let view = &node.json(&["volume", "inspect", volume])[0];
    let path = view["replicas"][0]["path"].as_str().expect("a path");
    PathBuf::from(path)
}

fn is_closed(dir: &Path) -> bool {
    disk::inspect(dir).is_ok_and(|found| !found.in_use)
}

/// Marks a replica that nobody has open as one whose disk has failed.
fn mark_failed(dir: &Path) {
    let superblock = disk::inspect(dir).expect("readable").superblock;
    let failed = Superblock {
        sequence: superblock.sequence + 1,
        failed: Some(FailCause::Sync),
        whole: false,
        clean: false,
        ..superblock
    };
    let meta = File::options()
        .write(true)
        .open(dir.join(META_FILE))
        .expect("opened");
    meta.write_all_at(&failed.encode(), MetaLayout::slot_offset(failed.sequence))
        .expect("written");
    meta.sync_all().expect("synced");
}

#[test]
fn a_failed_replica_goes_on_when_a_person_says_so() {
    let node = Node::with_pool("1G");
    let docker = node.docker();
    docker.create("v", json!({"size": "64M"})).ok();
    let mounted = docker.mount("v", "a").ok()["Mountpoint"]
        .as_str()
        .expect("a path")
        .to_owned();
    std::fs::write(Path::new(&mounted).join("kept"), "what was written").expect("written");
    let dir = replica_dir(&node, "v");

    // In use: nothing is forced, and its files are left to who has them open.
    let (code, message) = node.fails(&["volume", "force-primary", "v", "--replica", "n1"]);
    assert!(
        code == 6 && message.contains("attached on this node (n1)"),
        "{code} {message}"
    );
    let shown = dir.display().to_string();
    let (code, message) = node.fails(&["replica", "inspect", &shown]);
    assert!(code == 6 && message.contains("is open"), "{code} {message}");
    docker.unmount("v", "a").ok();
    assert!(
        eventually(Duration::from_secs(60), || is_closed(&dir)),
        "a replica that nobody uses is closed"
    );

    // Sound: nothing has to be forced.
    let inspected = node.ok(&["replica", "inspect", &shown]);
    for part in [
        "Failed          no",
        "Clean           yes",
        "Suspect         0 of 1024 chunks",
    ] {
        assert!(inspected.contains(part), "{part}: {inspected}");
    }
    let (code, message) = node.fails(&["volume", "force-primary", "v", "--replica", "n1"]);
    assert!(
        code == 6 && message.contains("nothing has to be forced"),
        "{code} {message}"
    );
    for (replica, code, part) in [("n2", 4, "there are: n1"), ("", 4, "there are: n1")] {
        let (found, message) = node.fails(&["volume", "force-primary", "v", "--replica", replica]);
        assert!(found == code && message.contains(part), "{found} {message}");
    }
    let (code, message) = node.fails(&["volume", "force-primary", "w", "--replica", "n1"]);
    assert_eq!(code, 4, "{message}");

    // Failed: served by nobody, until a person has seen what that may cost, and accepted it.
    mark_failed(&dir);
    let inspected = node.ok(&["replica", "inspect", &shown]);
    assert!(inspected.contains("a sync failed"), "{inspected}");
    docker.mount("v", "b").refused("failed");
    let epoch = |volume: &str| node.json(&["volume", "inspect", volume])[0]["epoch"].as_u64();
    let output = node.cli(&["volume", "force-primary", "v", "--replica", "n1"]);
    let screen = text(&output.stdout);
    assert_eq!(output.status.code(), Some(6), "{screen}");
    for part in [
        "this replica has failed (a sync failed",
        "nothing has been changed",
        "--replica n1 --accept-data-loss",
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    docker.mount("v", "b").refused("failed");
    let before = epoch("v");
    let screen = node.ok(&[
        "volume",
        "force-primary",
        "v",
        "--replica",
        "n1",
        "--accept-data-loss",
    ]);
    assert!(screen.contains("done: the record is at epoch"), "{screen}");
    assert!(epoch("v") > before, "whoever served it before is fenced");
    let mounted = docker.mount("v", "b").ok()["Mountpoint"]
        .as_str()
        .expect("a path")
        .to_owned();
    assert_eq!(
        std::fs::read_to_string(Path::new(&mounted).join("kept")).expect("it is there"),
        "what was written"
    );
    docker.unmount("v", "b").ok();
    assert!(
        node.log().contains("because a person has said so"),
        "it is in the log"
    );
}

#[test]
fn volumes_show_their_replicas() {
    let node = Node::with_pool("1G");
    node.ok(&["volume", "create", "v", "--size", "64M"]);
    let view = &node.json(&["volume", "inspect", "v"])[0];
    let replica = &view["replicas"][0];
    assert_eq!(
        (&replica["state"], &replica["healthy"], &replica["node"]),
        (&json!("in sync"), &json!(true), &json!("n1"))
    );
    assert!(replica["since"].is_string() && view["as_of"].is_null(), "{view}");
    let shown = node.ok(&["volume", "inspect", "v"]);
    for part in [
        "n1: in sync since",
        replica["id"].as_str().expect("an id"),
        replica["path"].as_str().expect("a path"),
        "Epoch ",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let mounted = node.docker().mount("v", "a").ok();
    assert!(mounted["Mountpoint"].is_string());
    let attached = &node.json(&["volume", "inspect", "v"])[0];
    assert_eq!(
        (&attached["state"], &attached["attached"]["node"]),
        (&json!("attached"), &json!("n1"))
    );
    assert!(attached["epoch"].as_u64() > view["epoch"].as_u64());
    node.docker().unmount("v", "a").ok();
}
