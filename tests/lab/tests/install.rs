//! From empty machines to a cluster with nothing but what `bulkhead generate` prints, and back to empty machines.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bulkhead_lab::store::StoreMember;
use bulkhead_lab::switch::Switch;
use bulkhead_lab::{Dockerd, Host, StoreKind, image, node, programs, wait};
use serde_json::Value;

const BINARY: &str = "/usr/local/bin/bulkhead";
const POOL: &str = "/var/lib/bulkhead/pool-0.img";

#[test]
fn a_generated_script_makes_a_cluster_and_uninstall_leaves_nothing() -> Result<()> {
    let _alone = node::alone()?;
    let program = programs::bulkhead()?.display().to_string();
    let switch = Switch::start("install")?;
    let hosts = (1..=3)
        .map(|number| {
            let host = Host::start_with(&format!("install-n{number}"), Some(&format!("n{number}")), "")?;
            switch.plug_in(&host, number)?;
            Ok(host)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut store = StoreMember::start(&hosts[0], StoreKind::Etcd, 1, 1)?;
    store.await_ready()?;
    let url = StoreKind::Etcd.url(1);
    let script = hosts[0]
        .sh(&format!(
            "{program} generate script --cluster shop --store {url} --data-interface eth0 --binary {program} \
             --pool {POOL}=2G --class 'gold repl=2 size=64M' --default-class gold"
        ))
        .run()?;
    let before: Vec<_> = (0..3).map(|index| hosts[index].leaks()).collect::<Result<_>>()?;
    for host in &hosts {
        fs::write(host.outside("/root/node.sh"), format!("{script}\n"))?;
        host.sh("sh /root/node.sh")
            .within(Duration::from_secs(120))
            .run()?;
        // Once more changes nothing.
        let again = host
            .sh("sh /root/node.sh")
            .within(Duration::from_secs(60))
            .run()?;
        ensure!(!again.contains("replaced"), "{again}");
        let config = host.sh("stat -c %a /etc/bulkhead/bulkhead.toml").run()?;
        ensure!(
            config == "600",
            "the configuration may be read by others: {config}"
        );
    }
    let json = |index: usize, line: &str| -> Result<Value> {
        let said = hosts[index].sh(&format!("{BINARY} {line} --json")).run()?;
        serde_json::from_str(&said).with_context(|| said)
    };
    wait::until("all nodes are ok", Duration::from_secs(30), || {
        let cluster = json(2, "cluster status")?;
        Ok((cluster["nodes"]["ok"] == 3 && cluster["healthy"] == true).then_some(()))
    })?;
    ensure!(json(1, "class default")?["class"] == "gold");

    // It does what it is there for.
    let docker = Dockerd::start(&hosts[0])?;
    image::busybox(&docker)?;
    docker.run("volume create -d bulkhead shop")?;
    docker.run("run --rm -v shop:/data busybox touch /data/kept")?;
    let volume = json(0, "volume inspect shop")?;
    let replicas = volume[0]["replicas"].as_array().map(Vec::len);
    ensure!(
        replicas == Some(2),
        "by the class it has two replicas: {volume:#}"
    );
    let home = volume[0]["replicas"][1]["node"]
        .as_str()
        .context("where it lies")?;
    let home = hosts
        .iter()
        .find(|host| host.hostname() == home)
        .context("a node")?;
    let told = home.sh(&format!("{BINARY} uninstall --yes")).fails()?;
    ensure!(told.contains("counts on this node for shop"), "{told}");
    docker.run("volume rm shop")?;
    drop(docker);
    wait::until("its replicas are gone", Duration::from_secs(30), || {
        let nodes = json(0, "node list")?;
        let none = |node: &Value| node["replicas"] == 0;
        Ok(nodes
            .as_array()
            .is_some_and(|nodes| nodes.iter().all(none))
            .then_some(()))
    })?;

    for (host, before) in hosts.iter().zip(&before) {
        let told = host.sh(&format!("{BINARY} uninstall")).run()?;
        for going in [
            POOL,
            "/etc/bulkhead/bulkhead.toml",
            BINARY,
            "nothing has been changed",
        ] {
            ensure!(told.contains(going), "{going} is not told of: {told}");
        }
        ensure!(
            host.outside(POOL).exists() && host.outside(BINARY).exists(),
            "it only says so"
        );
        let told = host
            .sh(&format!("{BINARY} uninstall --yes"))
            .within(Duration::from_secs(120))
            .run()?;
        // A mount point of the lab's.
        let stays = told
            .lines()
            .filter(|line| line.contains("stays"))
            .collect::<Vec<_>>();
        let ours = stays
            .iter()
            .all(|line| line.contains("/var/lib/bulkhead: Device or resource busy"));
        ensure!(ours, "{told}");
        let left = host
            .sh("ls -A /var/lib/bulkhead; ls -Ad /etc/bulkhead /run/bulkhead /run/docker/plugins/bulkhead.sock /etc/systemd/system/bulkhead* /usr/local/bin/bulkhead /var/log/bulkhead.log 2>/dev/null || true")
            .run()?;
        ensure!(left.is_empty(), "this is left: {left}");
        before.await_same(host, Duration::from_secs(15))?;
    }
    Ok(())
}
