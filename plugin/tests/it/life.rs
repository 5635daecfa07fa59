//! The life of nodes and of what is on them, on real daemons with a real etcd: what is wrong is raised and cleared, nodes
//! are drained, worked on and given up, and volumes get more replicas and fewer.

use std::fs;
use std::time::Duration;

use bulkhead_cluster::schema::{LiveRecord, Timestamp, encode, live_key};
use bulkhead_cluster::store::{self, Txn};
use serde_json::{Value, json};

use crate::node::eventually;
use crate::several::{Cluster, in_sync, mountpoint, write};

/// Names of the nodes with a replica of a volume.
fn homes(volume: &Value) -> Vec<String> {
    let replicas = volume["replicas"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<String> = replicas
        .iter()
        .filter_map(|replica| replica["node"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn alerts(cluster: &Cluster, node: usize) -> Vec<(String, String)> {
    let alerts = cluster.nodes[node].json(&["alerts"]);
    alerts
        .as_array()
        .into_iter()
        .flatten()
        .map(|alert| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(&alert["alert"]), text(&alert["object"]["name"]))
        })
        .collect()
}

/// Has a node's sign of life say another time of day, as if its clock were that far ahead, until what is returned is used.
async fn misread_clock(url: &str, node: &str, ahead_ms: u64) -> impl AsyncFnOnce() + use<> {
    let options = store::Options {
        prefix: "bulkhead/bulkhead/".to_owned(),
        ..store::Options::default()
    };
    let store = store::open(url, &options).await.expect("the store");
    let key = live_key(node.parse().expect("a node's id"));
    let found = store.get(&key).await.expect("an answer").expect("a sign of life");
    let truth: LiveRecord = serde_json::from_slice(&found.value).expect("a record");
    let lie = LiveRecord {
        clock: Timestamp(truth.clock.0 + ahead_ms),
        ..truth.clone()
    };
    let lease = store.grant(Duration::from_secs(120)).await.expect("a lease");
    let say = async move |record: LiveRecord| {
        let value = encode(&key, &record).expect("bytes");
        let told = Txn::new().put_leased(&key, value, &lease.id);
        store.commit(told).await.expect("told");
    };
    say(lie).await;
    async move || say(truth).await
}

#[tokio::test]
async fn a_clock_that_is_off_is_told() {
    let cluster = Cluster::of(2);
    let n2 = cluster.nodes[1].json(&["node", "inspect", "n2"])[0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let off = ("clock-off".to_owned(), "n2".to_owned());
    assert!(!alerts(&cluster, 0).contains(&off));
    let right_it = misread_clock(&cluster.store_url(), &n2, 3_600_000).await;
    assert!(
        eventually(Duration::from_secs(30), || alerts(&cluster, 1).contains(&off)),
        "{:?}",
        alerts(&cluster, 1)
    );
    right_it().await;
    assert!(eventually(Duration::from_secs(30), || alerts(&cluster, 0).is_empty()));
}

#[test]
fn what_is_wrong_is_raised_once_and_cleared_once() {
    let mut cluster = Cluster::of(3);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2", "nodes": "n1,n2"}));
    cluster.docker(0).mount("v", "a").ok();
    assert!(alerts(&cluster, 2).is_empty(), "{:?}", alerts(&cluster, 2));
    cluster.nodes[1].kill();
    for (alert, object) in [("node-away", "n2"), ("volume-degraded", "v")] {
        let wanted = (alert.to_owned(), object.to_owned());
        for observer in [0, 2] {
            assert!(
                eventually(Duration::from_secs(30), || alerts(&cluster, observer)
                    .contains(&wanted)),
                "{alert} on n{}: {:?}",
                observer + 1,
                alerts(&cluster, observer)
            );
        }
    }
    assert_eq!(cluster.nodes[2].cli(&["alerts"]).status.code(), Some(5));
    cluster.nodes[1].start();
    assert!(
        eventually(Duration::from_secs(60), || alerts(&cluster, 2).is_empty()),
        "{:?}",
        alerts(&cluster, 2)
    );
    assert_eq!(cluster.nodes[2].cli(&["alerts"]).status.code(), Some(0));
    // All nodes saw it, and it was told once.
    let events = cluster.nodes[2].json(&["events"]);
    for what in ["node-away", "volume-degraded"] {
        for kind in ["raised", "cleared"] {
            let count = events
                .as_array()
                .into_iter()
                .flatten()
                .filter(|event| event["what"] == what && event["kind"] == kind)
                .count();
            assert_eq!(count, 1, "{what} {kind}: {events:#}");
        }
    }
    cluster.docker(0).unmount("v", "a").ok();
}

#[test]
fn a_node_is_drained_and_given_up_while_its_volume_is_used() {
    let mut cluster = Cluster::of(3);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2", "nodes": "n1,n2"}));
    let mounted = mountpoint(&cluster.docker(0).mount("v", "a").ok());
    write(&mounted.join("file"), "before");
    let (code, message) = cluster.nodes[0].fails(&["node", "decommission", "n2"]);
    assert_eq!(code, 6, "{message}");
    assert!(message.contains("drain it first"), "{message}");
    let told = cluster.nodes[0].ok(&["node", "drain", "n2", "--dry-run"]);
    assert!(
        told.contains("volume v: its replica cannot be moved"),
        "it may only be on n1 and n2: {told}"
    );

    cluster.nodes[0].ok(&["volume", "update", "v", "--nodes", ""]);
    let told = cluster.nodes[2].ok(&["node", "drain", "n2"]);
    assert!(told.contains("n2 is empty"), "{told}");
    let volume = cluster.volume(0, "v");
    assert_eq!(
        (homes(&volume), in_sync(&volume)),
        (vec!["n1".to_owned(), "n3".to_owned()], 2),
        "{volume:#}"
    );
    assert_eq!(
        cluster.nodes[0].json(&["node", "inspect", "n2"])[0]["state"],
        "drained"
    );
    write(&mounted.join("file"), "after");
    assert!(
        eventually(Duration::from_secs(20), || cluster.nodes[1].replicas().is_empty()),
        "its files are gone too"
    );

    cluster.nodes[0].ok(&["node", "decommission", "n2"]);
    cluster.nodes[1].terminate();
    let names = || {
        let nodes = cluster.nodes[0].json(&["node", "list"]);
        let nodes = nodes.as_array().cloned().unwrap_or_default();
        nodes.iter().map(|node| node["name"].clone()).collect::<Vec<_>>()
    };
    assert!(
        eventually(Duration::from_secs(20), || names() == ["n1", "n3"]),
        "{:?}",
        names()
    );

    // Its replica there is as good as the one here.
    cluster.docker(0).unmount("v", "a").ok();
    let mounted = mountpoint(&cluster.docker(2).mount("v", "b").ok());
    assert_eq!(fs::read_to_string(mounted.join("file")).expect("kept"), "after");
    cluster.docker(2).unmount("v", "b").ok();
}

#[test]
fn a_pool_goes_once_its_replicas_are_elsewhere_and_so_does_one_whose_disk_is_gone() {
    let mut cluster = Cluster::of(3);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2", "nodes": "n1,n2"}));
    let mounted = mountpoint(&cluster.docker(0).mount("v", "a").ok());
    write(&mounted.join("file"), "before");
    let pool = |cluster: &Cluster, node: usize| cluster.nodes[node].json(&["pool", "list"])[0].clone();
    let id = |cluster: &Cluster, node| pool(cluster, node)["id"].as_str().expect("an id").to_owned();

    let second = id(&cluster, 1);
    let (code, message) = cluster.nodes[1].fails(&["pool", "remove", &second]);
    assert!(code == 6 && message.contains("--move"), "{message}");
    let told = cluster.nodes[1].ok(&["pool", "remove", &second, "--move", "--dry-run"]);
    assert!(
        told.contains("cannot be moved"),
        "it may only be on n1 and n2: {told}"
    );
    assert_eq!(pool(&cluster, 1)["status"], "ok");
    // What is begun holds through a restart, and can be called off.
    cluster.nodes[1].ok(&["pool", "remove", &second, "--move", "--no-wait"]);
    cluster.nodes[1].kill();
    cluster.nodes[1].start();
    assert_eq!(pool(&cluster, 1)["status"], "being emptied");
    let drains = || cluster.nodes[0].json(&["node", "inspect", "n2"])[0]["pools"][0]["state"] == "draining";
    assert!(eventually(Duration::from_secs(20), drains));
    cluster.nodes[1].ok(&["pool", "remove", &second, "--undo"]);
    assert_eq!(pool(&cluster, 1)["status"], "ok");
    assert_eq!(homes(&cluster.volume(0, "v")), ["n1", "n2"]);

    cluster.nodes[0].ok(&["volume", "update", "v", "--nodes", ""]);
    let told = cluster.nodes[1].ok(&["pool", "remove", &second, "--move"]);
    assert!(told.contains("is removed"), "{told}");
    let volume = cluster.volume(0, "v");
    assert_eq!(
        (homes(&volume), in_sync(&volume)),
        (vec!["n1".to_owned(), "n3".to_owned()], 2)
    );
    assert_eq!(cluster.nodes[1].json(&["pool", "list"]), json!([]));

    // A disk breaks for good: its node gives the pool up, and nobody waits for what was on it.
    let spare = cluster.nodes[1].path("spare.img").display().to_string();
    cluster.nodes[1].ok(&["pool", "add", &spare, "--size", "4G"]);
    let third = id(&cluster, 2);
    cluster.nodes[2].terminate();
    fs::remove_file(cluster.nodes[2].path("pool.img")).expect("it is there");
    cluster.nodes[2].start();
    assert_eq!(pool(&cluster, 2)["healthy"], false);
    let told = cluster.nodes[2].ok(&["pool", "remove", &third, "--move"]);
    assert!(told.contains("is removed"), "{told}");
    let volume = cluster.volume(0, "v");
    assert_eq!(
        (homes(&volume), in_sync(&volume)),
        (vec!["n1".to_owned(), "n2".to_owned()], 2)
    );
    assert_eq!(fs::read_to_string(mounted.join("file")).expect("kept"), "before");

    // The last copy is not given up, whatever is asked for.
    cluster.docker(0).unmount("v", "a").ok();
    cluster.nodes[0].ok(&["volume", "update", "v", "--repl", "1", "--nodes", "n2"]);
    let alone = || homes(&cluster.volume(0, "v")).len() == 1;
    assert!(
        eventually(Duration::from_secs(40), alone),
        "{:#}",
        cluster.volume(0, "v")
    );
    let last = homes(&cluster.volume(0, "v"))[0].clone();
    let (node, file) = if last == "n1" {
        (0, "pool.img")
    } else {
        (1, "spare.img")
    };
    let last = id(&cluster, node);
    cluster.nodes[node].terminate();
    fs::remove_file(cluster.nodes[node].path(file)).expect("it is there");
    cluster.nodes[node].start();
    let (code, message) = cluster.nodes[node].fails(&["pool", "remove", &last, "--move"]);
    assert!(code == 6 && message.contains("replica in sync of v"), "{message}");
}

#[test]
fn a_volume_gets_more_replicas_and_fewer_while_it_is_used() {
    let cluster = Cluster::of(3);
    cluster.create(0, "v", json!({"size": "2G", "repl": "1"}));
    let mounted = mountpoint(&cluster.docker(0).mount("v", "a").ok());
    write(&mounted.join("file"), "kept");
    let (code, message) = cluster.nodes[0].fails(&["volume", "update", "v", "--repl", "4"]);
    assert_eq!(code, 6, "{message}");
    assert!(message.contains("3 nodes may hold one"), "{message}");
    let (code, message) = cluster.nodes[0].fails(&["volume", "update", "v", "--repl", "0"]);
    assert_eq!(code, 2, "{message}");
    for wanted in [3, 1, 2] {
        cluster.nodes[1].ok(&["volume", "update", "v", "--repl", &wanted.to_string()]);
        let so = || {
            let volume = cluster.volume(0, "v");
            homes(&volume).len() == wanted && in_sync(&volume) == wanted && volume["healthy"] == json!(true)
        };
        assert!(
            eventually(Duration::from_secs(40), so),
            "{wanted}: {:#}",
            cluster.volume(0, "v")
        );
        assert!(
            homes(&cluster.volume(0, "v")).contains(&"n1".to_owned()),
            "the one here stays"
        );
        assert_eq!(fs::read_to_string(mounted.join("file")).expect("kept"), "kept");
    }

    // The other two nodes come to share what one of them has, though the daemon that was asked dies at once.
    let other = homes(&cluster.volume(0, "v"))[1].clone();
    cluster.create(
        0,
        "w",
        json!({"size": "1G", "repl": "2", "nodes": format!("n1,{other}")}),
    );
    cluster.docker(0).mount("w", "a").ok();
    let told = cluster.nodes[0].ok(&["cluster", "rebalance", "--dry-run", "--limit", "0"]);
    assert!(told.starts_with("nothing is to be moved"), "{told}");
    cluster.nodes[0].ok(&["volume", "update", "w", "--nodes", ""]);
    let plan = || cluster.nodes[1].json(&["cluster", "rebalance", "--dry-run"]);
    let one_move = || plan()["moves"].as_array().is_some_and(|moves| moves.len() == 1);
    assert!(eventually(Duration::from_secs(10), one_move), "{:#}", plan());
    assert_eq!(plan()["moves"][0]["from"], json!(other));
    cluster.nodes[1].ok(&["cluster", "rebalance", "--no-wait"]);
    cluster.nodes[1].kill_daemon();
    let (code, message) = cluster.nodes[0].fails(&["cluster", "rebalance"]);
    assert!(code == 6 && message.contains("being moved already"), "{message}");
    let third = if other == "n2" { "n3" } else { "n2" };
    let shared = || {
        let both = [cluster.volume(0, "v"), cluster.volume(0, "w")];
        let mut homes: Vec<String> = both.iter().flat_map(homes).collect();
        homes.sort();
        homes == ["n1", "n1", "n2", "n3"] && both.iter().all(|volume| in_sync(volume) == 2)
    };
    assert!(
        eventually(Duration::from_secs(40), shared),
        "one of them goes to {third}: {:#} {:#}",
        cluster.volume(0, "v"),
        cluster.volume(0, "w")
    );
    cluster.nodes[1].resumed(1);
    let told = cluster.nodes[1].ok(&["cluster", "rebalance"]);
    assert!(told.starts_with("nothing is to be moved"), "{told}");
    assert_eq!(fs::read_to_string(mounted.join("file")).expect("kept"), "kept");
    cluster.docker(0).unmount("w", "a").ok();
    cluster.docker(0).unmount("v", "a").ok();
}

#[test]
fn a_node_under_maintenance_serves_nothing_and_loses_nothing() {
    let mut cluster = Cluster::with_flags(3, &["--rebuild-after", "5s"]);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2", "nodes": "n1,n2"}));
    cluster.nodes[0].ok(&["volume", "update", "v", "--nodes", ""]);
    cluster.docker(1).mount("v", "a").ok();
    let (code, message) = cluster.nodes[0].fails(&["node", "maintenance", "enter", "n2"]);
    assert_eq!(code, 6, "{message}");
    assert!(message.contains("in use on it (v)"), "{message}");
    cluster.docker(1).unmount("v", "a").ok();
    cluster.docker(0).mount("v", "a").ok();
    cluster.nodes[0].ok(&["node", "maintenance", "enter", "n2"]);
    let (code, message) = cluster.nodes[0].fails(&["node", "maintenance", "enter", "n1"]);
    assert_eq!(code, 6, "{message}");
    cluster.docker(1).mount("v", "b").refused("under maintenance");
    // It is away longer than a replica may be before it is made anew elsewhere, and is not missed.
    cluster.nodes[1].terminate();
    std::thread::sleep(Duration::from_secs(16));
    assert_eq!(
        homes(&cluster.volume(0, "v")),
        ["n1", "n2"],
        "{:#}",
        cluster.volume(0, "v")
    );
    let away = ("node-away".to_owned(), "n2".to_owned());
    assert!(!alerts(&cluster, 0).contains(&away));
    // The other one is the last in reach now.
    let (code, message) = cluster.nodes[2].fails(&["node", "decommission", "n1"]);
    assert_eq!(code, 6, "{message}");
    cluster.nodes[1].start();
    cluster.nodes[0].ok(&["node", "maintenance", "exit", "n2"]);
    assert!(
        eventually(Duration::from_secs(40), || in_sync(&cluster.volume(0, "v")) == 2),
        "{:#}",
        cluster.volume(0, "v")
    );
    cluster.docker(0).unmount("v", "a").ok();
    cluster.docker(1).mount("v", "b").ok();
    cluster.docker(1).unmount("v", "b").ok();
}

#[test]
fn a_node_is_wiped_once_nothing_needs_it_and_joins_as_a_new_one() {
    let mut cluster = Cluster::of(2);
    cluster.create(0, "v", json!({"size": "64M", "repl": "1", "nodes": "n2"}));
    let id = |cluster: &Cluster| cluster.nodes[0].json(&["node", "inspect", "n2"])[0]["id"].clone();
    let before = id(&cluster);
    let (code, message) = cluster.nodes[1].wipe(&["--yes"]);
    assert!(
        code == Some(6) && message.contains("the daemon runs"),
        "{message}"
    );
    cluster.nodes[1].terminate();
    let (code, message) = cluster.nodes[1].wipe(&["--yes"]);
    assert!(
        code == Some(6) && message.contains("counts on this node for v"),
        "{message}"
    );
    let (code, told) = cluster.nodes[1].wipe(&[]);
    assert!(
        code == Some(0) && told.contains("with a replica in it") && told.contains("--yes is refused"),
        "{told}"
    );
    // It is as it was.
    cluster.nodes[1].start();
    cluster.docker(1).mount("v", "a").ok();
    cluster.docker(1).unmount("v", "a").ok();
    cluster.docker(0).remove("v").ok();
    let gone = || cluster.nodes[1].json(&["pool", "list"])[0]["replicas"] == 0;
    assert!(eventually(Duration::from_secs(20), gone), "its files are gone");

    cluster.nodes[1].terminate();
    let (code, told) = cluster.nodes[1].wipe(&[]);
    assert!(
        code == Some(0) && told.contains("nothing has been changed; --yes does it"),
        "{told}"
    );
    let pool = cluster.nodes[1].path("pool.img");
    assert!(pool.exists() && cluster.nodes[1].path("state/node.json").exists());
    let (code, told) = cluster.nodes[1].wipe(&["--yes"]);
    assert!(code == Some(0) && !told.contains("stays"), "{told}");
    assert!(!pool.exists() && !cluster.nodes[1].path("state").exists());
    let (code, told) = cluster.nodes[1].wipe(&[]);
    assert!(code == Some(0) && told.contains("there is no node"), "{told}");
    cluster.nodes[1].start();
    cluster.nodes[1].add_pool("1G");
    assert!(
        eventually(Duration::from_secs(20), || id(&cluster) != before),
        "it is another one of the same name"
    );
}
