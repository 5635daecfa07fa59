//! Several daemons on one machine as the nodes of a cluster, with a real etcd: what is made on one is there on all, and
//! what happens when nodes race, die, come back, or lose their store.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_test_servers::{Server, data_dir, free_port};
use parking_lot::MutexGuard;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::node::{Node, alone, eventually, text};

/// A member of etcd, alone.
struct Etcd {
    server: Server,
    port: u16,
    _dir: TempDir,
}

impl Etcd {
    fn start() -> Self {
        let dir = data_dir();
        let (port, peer) = (free_port(), free_port());
        let (client, peer) = (
            format!("http://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let args = [
            ("--name", "m".to_owned()),
            ("--data-dir", dir.path().join("m").display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer.clone()),
            ("--initial-cluster", format!("m={peer}")),
        ];
        let args = args
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]);
        let server = Server::start(Path::new("etcd"), args.collect(), dir.path().join("log"));
        Self {
            server,
            port,
            _dir: dir,
        }
    }

    fn url(&self) -> String {
        format!("etcd://127.0.0.1:{}", self.port)
    }
}

/// Nodes n1, n2, … with a pool each.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    etcd: Etcd,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    pub(crate) fn of(count: usize) -> Self {
        Self::with_flags(count, &[])
    }

    pub(crate) fn with_flags(count: usize, extra: &[&str]) -> Self {
        let right = alone();
        let etcd = Etcd::start();
        let mut cluster = Self {
            nodes: Vec::new(),
            etcd,
            _alone: right,
        };
        for n in 1..=count {
            cluster.join(&format!("n{n}"), extra);
        }
        cluster
    }

    /// Where their store is.
    pub(crate) fn store_url(&self) -> String {
        self.etcd.url()
    }

    fn join(&mut self, name: &str, extra: &[&str]) {
        let address = format!("127.0.0.1:{}", free_port());
        let mut flags = vec![
            "--data-address",
            &address,
            "--lease",
            "3s",
            "--timeout-store",
            "2s",
        ];
        flags.extend(extra);
        let mut node = Node::unstarted(name, Some(&self.etcd.url()), &flags);
        node.start();
        node.add_pool("4G");
        // Before the others know of its pool nothing is placed on it.
        self.nodes.push(node);
    }

    /// Stops the store in its tracks, or lets it go on.
    pub(crate) fn pause_store(&self, paused: bool) {
        if paused {
            self.etcd.server.pause();
        } else {
            self.etcd.server.resume();
        }
    }

    pub(crate) fn docker(&self, node: usize) -> crate::client::Docker {
        self.nodes[node].docker()
    }

    pub(crate) fn volume(&self, node: usize, name: &str) -> Value {
        self.nodes[node].json(&["volume", "inspect", name])[0].clone()
    }

    /// Creates a volume once the nodes know each other's pools.
    #[track_caller]
    pub(crate) fn create(&self, node: usize, name: &str, options: Value) {
        let created = eventually(Duration::from_secs(20), || {
            let reply = self.docker(node).create(name, options.clone());
            assert!(
                reply.error().is_empty() || reply.error().contains("cannot be placed"),
                "{reply:?}"
            );
            reply.error().is_empty()
        });
        assert!(created, "{name} is not created");
    }
}

pub(crate) fn mountpoint(answer: &Value) -> PathBuf {
    answer["Mountpoint"]
        .as_str()
        .map(PathBuf::from)
        .expect("a mount point")
}

pub(crate) fn write(path: &Path, text: &str) {
    let mut file = fs::File::create(path).expect("a file in the volume");
    file.write_all(text.as_bytes()).expect("written");
    file.sync_all().expect("synced");
}

/// Replicas of a volume that are in sync.
pub(crate) fn in_sync(volume: &Value) -> usize {
    let replicas = volume["replicas"].as_array().cloned().unwrap_or_default();
    replicas
        .iter()
        .filter(|replica| replica["state"] == "in sync")
        .count()
}

#[test]
fn what_one_node_makes_is_there_on_all() {
    let cluster = Cluster::of(3);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2"}));
    let start = Instant::now();
    for n in 0..3 {
        assert!(
            eventually(Duration::from_secs(10), || cluster.docker(n).list() == ["v"]),
            "n{n}"
        );
    }
    println!("seen on all after {:?}", start.elapsed());
    let volume = cluster.volume(1, "v");
    assert_eq!(volume["replicas"].as_array().map(Vec::len), Some(2), "{volume}");

    // It is used on one node after the other, also on the one without a replica.
    for (n, text) in ["one", "two", "three"].into_iter().enumerate() {
        let docker = cluster.docker(n);
        let mounted = mountpoint(&docker.mount("v", "a").ok());
        if n > 0 {
            let before = fs::read_to_string(mounted.join("file")).expect("kept");
            assert_eq!(before, ["one", "two", "three"][n - 1]);
        }
        write(&mounted.join("file"), text);
        for other in (0..3).filter(|other| *other != n) {
            assert!(
                eventually(Duration::from_secs(5), || cluster.volume(other, "v")["attached"]
                    ["node"]
                    == format!("n{}", n + 1)),
                "{}",
                cluster.volume(other, "v")
            );
        }
        cluster
            .docker((n + 1) % 3)
            .remove("v")
            .refused(&format!("attached on node n{}", n + 1));
        docker.unmount("v", "a").ok();
    }
    cluster.docker(2).remove("v").ok();
    for n in 0..3 {
        assert!(eventually(Duration::from_secs(10), || cluster
            .docker(n)
            .list()
            .is_empty()));
        assert!(
            eventually(Duration::from_secs(10), || cluster.nodes[n]
                .json(&["pool", "list"])[0]["replicas"]
                == 0),
            "n{n}"
        );
        assert!(cluster.nodes[n].replicas().is_empty());
    }
}

#[test]
fn of_several_who_create_or_mount_one_wins() {
    let cluster = Cluster::with_flags(3, &["--timeout-mount", "6s"]);
    cluster.create(0, "warm", json!({"size": "64M", "repl": "3"}));
    for round in 0..5 {
        let name = format!("r{round}");
        let creators: Vec<_> = (0..3)
            .map(|n| {
                let (docker, name) = (cluster.docker(n), name.clone());
                // The third one wants another volume under the same name.
                let size = if n == 2 { "128M" } else { "64M" };
                std::thread::spawn(move || {
                    docker
                        .create(&name, json!({"size": size, "repl": "2"}))
                        .error()
                        .to_owned()
                })
            })
            .collect();
        let errors: Vec<String> = creators
            .into_iter()
            .map(|creator| creator.join().expect("an answer"))
            .collect();
        let small = errors[0].is_empty() && errors[1].is_empty() && errors[2].contains("size");
        let large = errors[2].is_empty() && errors[0].contains("size") && errors[1].contains("size");
        assert!(small || large, "{errors:?}");
    }
    let ids: Vec<Value> = (0..3).map(|n| cluster.volume(n, "r0")["id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");

    for _ in 0..5 {
        let racers: Vec<_> = (0..3)
            .map(|n| {
                let docker = cluster.docker(n);
                std::thread::spawn(move || docker.mount("r0", "a").error().to_owned())
            })
            .collect();
        let errors: Vec<String> = racers
            .into_iter()
            .map(|racer| racer.join().expect("an answer"))
            .collect();
        let winners: Vec<usize> = (0..3).filter(|n| errors[*n].is_empty()).collect();
        assert_eq!(winners.len(), 1, "{errors:?}");
        let winner = format!("attached on node n{}", winners[0] + 1);
        for error in errors.iter().filter(|error| !error.is_empty()) {
            assert!(error.contains(&winner), "{error}");
        }
        cluster.docker(winners[0]).unmount("r0", "a").ok();
    }
}

#[test]
fn a_volume_is_waited_for_until_its_holder_lets_it_go() {
    let cluster = Cluster::of(2);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2"}));
    let mounted = mountpoint(&cluster.docker(0).mount("v", "a").ok());
    write(&mounted.join("file"), "hello");
    let docker = cluster.docker(1);
    let waiting = std::thread::spawn(move || docker.mount("v", "b").ok());
    assert!(eventually(
        Duration::from_secs(5),
        || cluster.volume(0, "v")["attached"]["node"] == "n1"
    ));
    std::thread::sleep(Duration::from_secs(2));
    assert!(!waiting.is_finished());
    cluster.docker(0).unmount("v", "a").ok();
    let released = Instant::now();
    let mounted = mountpoint(&waiting.join().expect("mounted"));
    println!("moved after {:?}", released.elapsed());
    assert_eq!(fs::read_to_string(mounted.join("file")).expect("kept"), "hello");
    // A late Unmount where it was before touches nothing.
    cluster.docker(0).unmount("v", "a").ok();
    assert_eq!(fs::read_to_string(mounted.join("file")).expect("kept"), "hello");
    cluster.docker(1).unmount("v", "b").ok();
}

#[test]
fn a_store_that_is_away_holds_up_changes_and_nothing_else() {
    let mut cluster = Cluster::of(2);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2"}));
    cluster.create(0, "w", json!({"size": "64M"}));
    let mounted = mountpoint(&cluster.docker(0).mount("v", "a").ok());
    cluster.etcd.server.pause();
    let start = Instant::now();
    let mut writes = 0_u32;
    while start.elapsed() < Duration::from_secs(20) {
        let before = Instant::now();
        write(&mounted.join("file"), &format!("{writes}"));
        assert!(
            before.elapsed() < Duration::from_secs(5),
            "a write waits for the store"
        );
        assert_eq!(cluster.docker(0).list().len(), 2);
        writes += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{writes} writes while the store was away");
    let before = Instant::now();
    cluster
        .docker(0)
        .create("x", json!({"size": "64M"}))
        .refused("cannot be reached since");
    assert!(
        before.elapsed() < Duration::from_secs(20),
        "{:?}",
        before.elapsed()
    );
    let status = cluster.nodes[0].cli(&["status"]);
    assert!(
        text(&status.stdout).contains("cannot be reached since"),
        "{status:?}"
    );
    // A daemon that starts meanwhile serves what it knows.
    cluster.nodes[1].kill();
    cluster.nodes[1].start();
    let listed = cluster.docker(1).list();
    assert_eq!(listed, ["v", "w"], "{}", cluster.nodes[1].log());
    cluster.docker(1).get("v").ok();
    cluster
        .docker(1)
        .mount("w", "b")
        .refused("cannot be reached since");

    cluster.etcd.server.resume();
    assert!(eventually(Duration::from_secs(30), || cluster
        .docker(1)
        .mount("w", "b")
        .error()
        .is_empty()));
    cluster.docker(1).unmount("w", "b").ok();
    write(&mounted.join("file"), "after");
    assert!(eventually(Duration::from_secs(30), || {
        let volume = cluster.volume(0, "v");
        volume["replicas"]
            .as_array()
            .is_some_and(|replicas| replicas.iter().all(|replica| replica["state"] == "in sync"))
    }));
    cluster.docker(0).unmount("v", "a").ok();
    assert!(eventually(Duration::from_secs(30), || cluster.nodes[1]
        .cli(&["status"])
        .status
        .success()));
}

#[test]
fn a_replica_is_made_anew_when_its_node_stays_away() {
    let mut cluster = Cluster::with_flags(3, &["--rebuild-after", "6s"]);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2", "nodes": "n1,n2"}));
    cluster.create(0, "u", json!({"size": "64M", "repl": "2"}));
    let holders: Vec<String> = cluster.volume(0, "u")["replicas"]
        .as_array()
        .expect("replicas")
        .iter()
        .map(|replica| replica["node"].as_str().unwrap_or_default().to_owned())
        .collect();
    let mounted = mountpoint(&cluster.docker(0).mount("u", "a").ok());
    write(&mounted.join("file"), "kept");
    let lost = holders.iter().find(|node| *node != "n1").expect("another node");
    let at = lost.trim_start_matches('n').parse::<usize>().expect("a number") - 1;
    cluster.nodes[at].kill();
    let start = Instant::now();
    let moved = eventually(Duration::from_secs(60), || {
        let volume = cluster.volume(0, "u");
        let replicas = volume["replicas"].as_array().cloned().unwrap_or_default();
        let sound = replicas.iter().filter(|replica| replica["state"] == "in sync");
        sound.filter(|replica| replica["node"] != *lost).count() == 2
    });
    assert!(moved, "{}", cluster.volume(0, "u"));
    println!("rebuilt after {:?}", start.elapsed());
    cluster.nodes[at].start();
    assert!(
        eventually(Duration::from_secs(60), || cluster.volume(0, "u")["replicas"]
            .as_array()
            .map(Vec::len)
            == Some(2)),
        "{}",
        cluster.volume(0, "u")
    );
    assert_eq!(fs::read_to_string(mounted.join("file")).expect("kept"), "kept");
    cluster.docker(0).unmount("u", "a").ok();
}

#[test]
fn a_node_that_does_not_fit_is_told_why() {
    let mut cluster = Cluster::of(1);
    let url = cluster.etcd.url();
    let refused = |name: &str, extra: &[&str]| -> String {
        let mut node = Node::unstarted(name, Some(&url), extra);
        node.launch();
        assert_eq!(node.ended(Duration::from_secs(20)), Some(1), "{}", node.log());
        node.log()
    };
    let port = format!(":{}", free_port());
    let log = refused("n1", &["--data-address", &port]);
    assert!(log.contains("there is a node named `n1` already"), "{log}");
    // The same node, in another cluster.
    let (_, took) = cluster.nodes[0].terminate();
    assert!(took < Duration::from_secs(15));
    cluster.nodes[0].set_flag("--cluster", "other");
    cluster.nodes[0].launch();
    assert_eq!(cluster.nodes[0].ended(Duration::from_secs(20)), Some(1));
    assert!(
        cluster.nodes[0]
            .log()
            .contains("belongs to the cluster \"bulkhead\""),
        "{}",
        cluster.nodes[0].log()
    );
    cluster.nodes[0].set_flag("--cluster", "bulkhead");
    cluster.nodes[0].start();
}

/// P4 and P5: with the store away nobody can say that a member is gone, so writes wait; they go on once the store is back.
#[test]
fn with_the_store_away_the_loss_of_a_member_holds_writes() {
    let mut cluster = Cluster::of(2);
    cluster.create(0, "v", json!({"size": "64M", "repl": "2"}));
    let mounted = mountpoint(&cluster.docker(0).mount("v", "a").ok());
    write(&mounted.join("file"), "before");
    cluster.etcd.server.pause();
    cluster.nodes[1].kill();
    let file = mounted.join("file");
    let writer = std::thread::spawn(move || write(&file, "held"));
    // Longer than the deadline of a member and than the time after which a node that hears of nobody ends its volumes: the
    // other host is still there, and says so by refusing.
    std::thread::sleep(Duration::from_secs(15));
    assert!(
        !writer.is_finished(),
        "acknowledged by one of two members, and nobody can know that it is the only one"
    );
    cluster.etcd.server.resume();
    let back = Instant::now();
    assert!(
        eventually(Duration::from_secs(30), || writer.is_finished()),
        "{}",
        cluster.nodes[0].log()
    );
    writer.join().expect("it goes on");
    println!("went on {:?} after the store was back", back.elapsed());
    assert_eq!(in_sync(&cluster.volume(0, "v")), 1);
    let said = cluster.nodes[0].log();
    let said = said.matches("can be neither read nor changed").count();
    assert!(said <= 2, "said once, not with every try: {said} times");
    cluster.nodes[1].start();
    assert!(
        eventually(Duration::from_secs(30), || in_sync(&cluster.volume(0, "v")) == 2),
        "{}",
        cluster.volume(0, "v")
    );
    assert_eq!(fs::read_to_string(mounted.join("file")).expect("kept"), "held");
    cluster.docker(0).unmount("v", "a").ok();
}
