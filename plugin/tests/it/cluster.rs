//! Nodes, storage classes, the cluster and its store, through the command line, on a daemon with the embedded store.

use std::time::Duration;

use serde_json::json;

use crate::node::{Node, eventually, text};

#[test]
fn storage_classes_are_made_used_and_deleted() {
    let node = Node::with_pool("2G");
    assert!(
        node.ok(&["class", "list"])
            .contains("`bulkhead class create replicated --repl 2 --default`")
    );
    assert!(node.ok(&["class", "default"]).contains("take none"));
    let made = node.ok(&[
        "class",
        "create",
        "gold",
        "--fs",
        "xfs",
        "--size",
        "320M",
        "--labels",
        "tier=gold",
        "-o",
        "mount_options=noatime",
    ]);
    assert_eq!(
        made,
        "storage class gold is there: size=320 MiB, fs=xfs, mount_options=noatime, label=tier=gold\n"
    );
    // The same again is a success, another one under the same name is not.
    node.ok(&[
        "class",
        "create",
        "gold",
        "--fs",
        "xfs",
        "--size",
        "320M",
        "--labels",
        "tier=gold",
        "-o",
        "mount_options=noatime",
    ]);
    let (code, message) = node.fails(&["class", "create", "gold", "--fs", "ext4"]);
    assert!(
        code == 6 && message.contains("exists already"),
        "{code} {message}"
    );
    node.ok(&["class", "create", "plain", "--size", "64M", "--default"]);

    // A volume takes the class that it names, else the default one, and its own options over both.
    let docker = node.docker();
    docker.create("v1", json!({})).ok();
    docker.create("v2", json!({"class": "gold"})).ok();
    docker.create("v3", json!({"class": "gold", "size": "400M"})).ok();
    let volumes = node.json(&["volume", "inspect", "v1", "v2", "v3"]);
    let seen = |n: usize| {
        let volume = &volumes[n];
        (
            volume["class"].clone(),
            volume["size"].clone(),
            volume["fs"].clone(),
            volume["labels"].clone(),
        )
    };
    assert_eq!(
        seen(0),
        (json!("plain"), json!(64 << 20), json!("ext4"), json!({}))
    );
    assert_eq!(
        seen(1),
        (
            json!("gold"),
            json!(320 << 20),
            json!("xfs"),
            json!({"tier": "gold"})
        )
    );
    assert_eq!(seen(2).1, json!(400 << 20));
    let class = &node.json(&["class", "inspect", "gold"])[0];
    assert_eq!((&class["volumes"], &class["default"]), (&json!(2), &json!(false)));

    // The default one does not go, lest volumes come out differently without a word.
    let (code, message) = node.fails(&["class", "delete", "plain"]);
    assert!(
        code == 6 && message.contains("is the default one") && message.contains("--none"),
        "{code} {message}"
    );
    node.ok(&["class", "default", "gold"]);
    assert_eq!(node.json(&["class", "default"]), json!({"class": "gold"}));
    node.ok(&["class", "rm", "plain"]);
    node.ok(&["class", "default", "--none"]);
    node.ok(&["class", "delete", "gold"]);
    assert_eq!(node.json(&["class", "list"]), json!([]));
    // Its volumes stay as they are.
    docker.mount("v2", "a").ok();
    docker.unmount("v2", "a").ok();
}

#[test]
fn what_there_is_not_is_answered_with_what_there_is() {
    let node = Node::with_pool("1G");
    node.ok(&["class", "create", "replicated", "--repl", "2"]);
    node.ok(&["volume", "create", "database", "--size", "64M"]);
    for (args, code, part) in [
        (
            vec!["class", "inspect", "replicatd"],
            4,
            "did you mean \"replicated\"",
        ),
        (vec!["class", "delete", "gold"], 4, "there are: replicated"),
        (vec!["class", "default", "gold"], 4, "there are: replicated"),
        (
            vec!["volume", "create", "v", "--class", "replcated"],
            2,
            "did you mean \"replicated\"",
        ),
        (
            vec!["class", "create", "x", "--fs", "zfs"],
            2,
            "ext4, xfs or btrfs",
        ),
        (
            vec!["class", "create", "x", "-o", "nodes=n1"],
            2,
            "leave them out",
        ),
        (vec!["class", "create", "a/b"], 2, "a name has letters"),
        (vec!["node", "inspect", "n2"], 4, "there are: n1"),
        (vec!["node", "label", "n2", "zone=a"], 4, "there are: n1"),
        (vec!["node", "label", "n1", "zone"], 2, "neither KEY=VALUE"),
        (
            vec!["volume", "inspect", "databse"],
            4,
            "did you mean \"database\"",
        ),
        (
            vec!["volume", "delete", "databases"],
            4,
            "did you mean \"database\"",
        ),
    ] {
        let (found, message) = node.fails(&args);
        assert_eq!(found, code, "{args:?}: {message}");
        assert!(message.contains(part), "{args:?}: {message}");
    }
}

#[test]
fn nodes_are_listed_inspected_and_labelled() {
    let mut node = Node::with_pool("1G");
    node.ok(&["volume", "create", "v1", "--size", "64M"]);
    node.docker().mount("v1", "a").ok();
    let is_ok = || node.json(&["node", "list"])[0]["state"] == "ok";
    assert!(
        eventually(Duration::from_secs(20), is_ok),
        "{}",
        node.ok(&["node", "list"])
    );
    let has_pool = || {
        let pools = node.json(&["node", "list"])[0]["pools"].clone();
        pools[0]["replicas"] == 1 && pools[0]["promised"] == 64 << 20
    };
    assert!(
        eventually(Duration::from_secs(30), has_pool),
        "{}",
        node.json(&["node", "list"])
    );
    let list = node.ok(&["node", "list"]);
    assert!(list.starts_with("NAME") && list.contains("n1"), "{list}");

    let labelled = node.ok(&["node", "label", "n1", "zone=a", "rack=r1"]);
    assert!(labelled.contains("rack=r1,zone=a"), "{labelled}");
    node.ok(&["node", "label", "n1", "rack-", "zone=b", "never-"]);
    let view = &node.json(&["node", "inspect"])[0];
    assert_eq!(view["labels"], json!({"zone": "b"}));
    assert_eq!(
        (&view["this"], &view["attached"], &view["replicas"]),
        (&json!(true), &json!(1), &json!(1))
    );
    assert_eq!(
        view["volumes"],
        json!([{"name": "v1", "replica": "in sync", "attached": true}])
    );
    let id = view["id"].as_str().expect("an id").to_owned();
    let details = node.ok(&["node", "inspect", &id[..8]]);
    for part in [
        "n1 (this node)",
        "ok: up",
        "Since",
        "v1: replica in sync, attached here",
        "zone=b",
    ] {
        assert!(details.contains(part), "{part}: {details}");
    }
    node.docker().unmount("v1", "a").ok();
    // Labels are the cluster's, not the daemon's.
    node.terminate();
    node.start();
    assert_eq!(
        node.json(&["node", "inspect", "n1"])[0]["labels"],
        json!({"zone": "b"})
    );
}

#[test]
fn the_cluster_and_its_store_at_a_glance() {
    let node = Node::bare();
    let output = node.cli(&["cluster", "status"]);
    let screen = text(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "a pool is a matter of each node: {screen}"
    );
    assert!(screen.starts_with("cluster bulkhead: healthy"), "{screen}");
    assert!(screen.contains("in 0 pools"), "{screen}");
    node.add_pool("1G");
    node.ok(&["volume", "create", "v1", "--size", "64M"]);
    let counted = || {
        let cluster = node.json(&["cluster", "status"]);
        cluster["capacity"]["pools"] == 1 && cluster["nodes"] == json!({"ok": 1})
    };
    assert!(
        eventually(Duration::from_secs(30), counted),
        "{}",
        node.ok(&["cluster", "status"])
    );
    let cluster = node.json(&["cluster", "status"]);
    assert_eq!(cluster["volumes"], json!({"ready": 1}));
    assert_eq!(cluster["capacity"]["promised"], 64 << 20);
    assert_eq!(cluster["as_of"], json!(null));
    assert!(
        cluster["store"]["latency_ms"]
            .as_f64()
            .is_some_and(|latency| latency > 0.0)
    );

    let store = node.json(&["store", "status"]);
    assert_eq!(
        (&store["reachable"], &store["shared"]),
        (&json!(true), &json!(false))
    );
    let screen = node.ok(&["store", "status"]);
    for part in [
        "State           answers",
        "ms for a read",
        "a cluster of several needs etcd or Consul",
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let status = node.json(&["status"]);
    assert_eq!(
        (&status["healthy"], &status["nodes"], &status["state"]),
        (&json!(true), &json!({"ok": 1}), &json!("ok"))
    );
    assert_eq!(status["cluster_id"], cluster["id"]);
    let screen = node.ok(&["status"]);
    assert!(
        screen.contains(": healthy\n") && screen.contains("nodes: 1 ok"),
        "{screen}"
    );
}
