//! Volumes that nobody has mounted: their replicas are brought up to date all the same, and that is in nobody's way.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::node::eventually;
use crate::several::{Cluster, in_sync, mountpoint, write};

#[test]
fn a_replica_that_comes_back_is_brought_up_to_date_though_nobody_mounts_the_volume() {
    let mut cluster = Cluster::of(3);
    cluster.create(0, "v", json!({"size": "1G", "repl": "2", "nodes": "n1,n2"}));
    let mounted = mountpoint(&cluster.docker(0).mount("v", "a").ok());
    write(&mounted.join("before"), "on both");
    cluster.nodes[1].kill();
    // Enough that its rebuild takes a moment.
    fs::write(mounted.join("large"), vec![7; 300 << 20]).expect("it takes a file");
    write(&mounted.join("after"), "on n1");
    assert!(
        eventually(Duration::from_secs(60), || in_sync(&cluster.volume(0, "v")) == 1),
        "{}",
        cluster.volume(0, "v")
    );
    cluster.docker(0).unmount("v", "a").ok();
    let degraded = cluster.volume(0, "v");
    let status = degraded["status"].as_str().unwrap_or_default();
    assert!(
        status.contains("detached") && !status.contains("new"),
        "it is out of date, not new: {degraded}"
    );

    cluster.nodes[1].start();
    let tended = |cluster: &Cluster| {
        let volume = cluster.volume(2, "v");
        let status = volume["status"].as_str().unwrap_or_default().to_owned();
        status
            .contains("node n1 brings its replicas up to date")
            .then_some(volume)
    };
    let seen = std::cell::RefCell::new(None);
    assert!(
        eventually(Duration::from_secs(60), || {
            *seen.borrow_mut() = tended(&cluster);
            seen.borrow().is_some()
        }),
        "{}",
        cluster.volume(2, "v")
    );
    let seen = seen.into_inner().expect("it was seen");
    assert_eq!(seen["attached"], json!(null), "nobody uses it: {seen}");
    // Another node asks for it meanwhile, and gets it.
    let start = Instant::now();
    let mounted = mountpoint(&cluster.docker(2).mount("v", "b").ok());
    println!("let go within {:?}", start.elapsed());
    assert_eq!(fs::read_to_string(mounted.join("after")).expect("kept"), "on n1");
    cluster.docker(2).unmount("v", "b").ok();

    let is_whole = || {
        let volume = cluster.volume(2, "v");
        in_sync(&volume) == 2 && volume["state"] == "ready" && volume["healthy"] == true
    };
    assert!(
        eventually(Duration::from_secs(120), is_whole),
        "{}",
        cluster.volume(2, "v")
    );
    // What was brought up to date is enough to go on alone, and it is let go for a deletion, too.
    cluster.nodes[0].kill();
    let mounted = mountpoint(&cluster.docker(1).mount("v", "c").ok());
    assert_eq!(fs::read_to_string(mounted.join("after")).expect("kept"), "on n1");
    cluster.docker(1).unmount("v", "c").ok();
    cluster.nodes[0].start();
    let _ = eventually(Duration::from_secs(15), || tended(&cluster).is_some());
    cluster.docker(2).remove("v").ok();
}
