//! A cluster whose replicas in sync are lost: what it says, what force-primary makes of it, and what becomes of the node
//! that comes back with a history that was given up. Real daemons, real etcd.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::node::{eventually, text};
use crate::several::{Cluster, in_sync, mountpoint, write};

#[test]
fn a_history_that_was_given_up_is_never_mixed_with_the_one_that_goes_on() {
    let mut cluster = Cluster::of(2);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2"}));
    let mounted = mountpoint(&cluster.docker(0).mount("v", "a").ok());
    write(&mounted.join("both"), "on both");
    assert!(
        eventually(Duration::from_secs(30), || in_sync(&cluster.volume(0, "v")) == 2),
        "{}",
        cluster.volume(0, "v")
    );

    // n2 falls behind, then n1, which has it all, is lost.
    cluster.nodes[1].kill();
    assert!(
        eventually(Duration::from_secs(60), || in_sync(&cluster.volume(0, "v")) == 1),
        "{}",
        cluster.volume(0, "v")
    );
    write(&mounted.join("newer"), "on n1 alone");
    let behind = cluster.volume(0, "v");
    assert_eq!(
        (&behind["state"], &behind["healthy"]),
        (&json!("degraded"), &json!(false))
    );
    let stale = behind["replicas"]
        .as_array()
        .and_then(|replicas| replicas.iter().find(|replica| replica["node"] == "n2"))
        .cloned()
        .expect("the replica of n2");
    assert!(stale["since"].is_string() && stale["tick"].is_string(), "{stale}");
    // In this order, or n2 would have caught up.
    cluster.nodes[0].kill();
    cluster.nodes[1].start();
    let n2 = &cluster.nodes[1];
    let offline = || {
        let nodes = n2.json(&["node", "list"]);
        nodes[0]["state"] == "offline" && nodes[0]["since"].is_string()
    };
    assert!(
        eventually(Duration::from_secs(30), offline),
        "{}",
        n2.ok(&["node", "list"])
    );

    let status = n2.cli(&["status"]);
    let screen = text(&status.stdout);
    assert_eq!(status.status.code(), Some(5), "{screen}");
    for part in [
        "node n1 is offline since",
        "what is in sync lies on n1",
        "force-primary v --replica NODE",
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let servers = n2.ok(&["store", "status"]);
    assert!(
        servers.contains("leader") && servers.contains("SERVER"),
        "{servers}"
    );
    cluster.docker(1).mount("v", "b").refused("in sync");

    let looked = n2.cli(&["volume", "force-primary", "v", "--replica", "n2"]);
    let screen = text(&looked.stdout);
    assert_eq!(looked.status.code(), Some(6), "{screen}");
    for part in [
        "every write acknowledged after tick",
        "at most the whole volume, 64 MiB",
        "on n1: in sync; n1 gives no sign of life",
        "nothing has been changed",
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let (code, message) = n2.fails(&["volume", "force-primary", "v", "--replica", "n1"]);
    assert!(
        code == 2 && message.contains("run the command there"),
        "{code} {message}"
    );
    n2.ok(&[
        "volume",
        "force-primary",
        "v",
        "--replica",
        "n2",
        "--accept-data-loss",
    ]);

    let mounted = mountpoint(&cluster.docker(1).mount("v", "b").ok());
    assert_eq!(fs::read_to_string(mounted.join("both")).expect("kept"), "on both");
    assert!(!mounted.join("newer").exists(), "it was given up");
    write(&mounted.join("after"), "on n2");

    // n1 comes back with the other history: it is made anew from n2, to the last byte.
    cluster.nodes[0].start();
    assert!(
        eventually(Duration::from_secs(90), || in_sync(&cluster.volume(1, "v")) == 2),
        "{}",
        cluster.volume(1, "v")
    );
    let verified = cluster.nodes[1].ok(&["volume", "verify", "v"]);
    assert!(
        verified.contains("64 MiB of 64 MiB on") && verified.contains("all members hold the same"),
        "{verified}"
    );
    let (code, message) = cluster.nodes[0].fails(&["volume", "verify", "v"]);
    assert!(
        code == 6 && message.contains("attached on node n2"),
        "{code} {message}"
    );
    cluster.docker(0).unmount("v", "a").ok();
    cluster.docker(1).unmount("v", "b").ok();
    let mounted = mountpoint(&cluster.docker(0).mount("v", "c").ok());
    assert_eq!(fs::read_to_string(mounted.join("after")).expect("kept"), "on n2");
    assert!(!mounted.join("newer").exists());
    cluster.docker(0).unmount("v", "c").ok();
}
