//! From empty machines to a cluster with nothing but what `bulkhead generate` prints, and back to empty machines.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bulkhead_lab::registry::{PLUGIN, Registry};
use bulkhead_lab::store::StoreMember;
use bulkhead_lab::switch::Switch;
use bulkhead_lab::{Cmd, Dockerd, Host, Service, StoreKind, image, node, programs, swarm, wait};
use serde_json::Value;

const BINARY: &str = "/usr/local/bin/bulkhead";
/// How the command line reaches a daemon in the plugin.
const SOCKET: &str = "--socket /var/lib/bulkhead/bulkhead.sock";
const POOL: &str = "/var/lib/bulkhead/pool-0.img";

/// Three machines on one network, with nothing of Bulkhead on them.
fn machines(label: &str) -> Result<(Switch, Vec<Arc<Host>>)> {
    let switch = Switch::start(label)?;
    let hosts = (1..=3)
        .map(|number| {
            let host = Host::start_with(&format!("{label}-n{number}"), Some(&format!("n{number}")), "")?;
            switch.plug_in(&host, number)?;
            Ok(host)
        })
        .collect::<Result<_>>()?;
    Ok((switch, hosts))
}

/// Does the same on all machines at once.
fn at_once<T: Send>(hosts: &[Arc<Host>], act: impl Fn(&Arc<Host>) -> Result<T> + Sync) -> Result<Vec<T>> {
    let act = &act;
    thread::scope(|scope| {
        let workers: Vec<_> = hosts.iter().map(|host| scope.spawn(move || act(host))).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined
            .map(|done| done.map_err(|_| anyhow!("a machine's thread panicked"))?)
            .collect()
    })
}

/// What `bulkhead generate` prints.
fn generate(host: &Host, line: &str) -> Result<String> {
    let program = programs::bulkhead()?.display().to_string();
    host.sh(&format!("{program} generate {line}")).run()
}

/// What the installed program says.
fn json(host: &Host, line: &str) -> Result<Value> {
    let said = host.sh(&format!("{BINARY} {line} --json")).run()?;
    serde_json::from_str(&said).with_context(|| said)
}

/// Waits until this node knows three, and all is well.
fn await_healthy(host: &Host, socket: &str) -> Result<()> {
    wait::until("all nodes are ok", Duration::from_secs(30), || {
        let cluster = json(host, &format!("{socket} cluster status"))?;
        Ok((cluster["nodes"]["ok"] == 3 && cluster["healthy"] == true).then_some(()))
    })
}

#[test]
fn a_generated_script_makes_a_cluster_and_uninstall_leaves_nothing() -> Result<()> {
    let _alone = node::alone()?;
    let program = programs::bulkhead()?.display().to_string();
    let (_switch, hosts) = machines("install")?;
    let mut store = StoreMember::start(&hosts[0], StoreKind::Etcd, 1, 1)?;
    store.await_ready()?;
    let url = StoreKind::Etcd.url(1);
    let script = generate(
        &hosts[0],
        &format!(
            "script --cluster shop --store {url} --data-interface eth0 --binary {program} \
             --pool {POOL}=2G --class 'gold repl=2 size=64M' --default-class gold"
        ),
    )?;
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
    let json = |index: usize, line: &str| json(&hosts[index], line);
    await_healthy(&hosts[2], "")?;
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

#[test]
fn generated_units_start_the_daemon_with_their_configuration() -> Result<()> {
    let host = Host::start("units")?;
    let program = programs::bulkhead()?.display().to_string();
    host.sh(&format!("install -m 0755 {program} {BINARY}")).run()?;
    generate(
        &host,
        "unit --cluster shop --node-name first --log-format json --directory /",
    )?;
    host.sh("systemd-analyze --man=no verify /etc/systemd/system/bulkhead.service /etc/systemd/system/bulkhead.socket")
        .run()?;
    let unit = fs::read_to_string(host.outside("/etc/systemd/system/bulkhead.service"))?;
    let mut start = unit.lines().filter_map(|line| line.strip_prefix("ExecStart="));
    let start = start.next().context("the unit starts nothing")?;
    let (program, arguments) = start.split_once(' ').unwrap_or((start, ""));
    let mut daemon = host.spawn("bulkhead", Cmd::new(program).words(arguments))?;
    daemon.until("the daemon answers", Duration::from_secs(30), || {
        Ok(json(&host, "pool list").ok())
    })?;
    let nodes = json(&host, "node list")?;
    ensure!(nodes[0]["name"] == "first", "{nodes:#}");
    let log = daemon.log_tail(100);
    ensure!(
        log.lines().last().is_some_and(|line| line.starts_with('{')),
        "{log}"
    );
    ensure!(
        daemon.terminate(Duration::from_secs(20))?.success(),
        "{}",
        daemon.log_tail(30)
    );
    Ok(())
}

#[test]
fn generated_plugin_commands_make_a_node() -> Result<()> {
    let _alone = node::alone()?;
    let host = Host::start("plugin")?;
    let registry = Registry::new()?;
    let _served = registry.serve(&host)?;
    let docker = Dockerd::start(&host)?;
    image::busybox(&docker)?;
    let commands = generate(
        &host,
        &format!(
            "plugin --image {PLUGIN} --cluster shop --log-format json --pool {POOL}=2G --class 'small size=64M fs=ext4' \
             --default-class small"
        ),
    )?;
    host.sh(&commands).within(Duration::from_secs(120)).run()?;
    docker.run("volume create -d bulkhead notes")?;
    docker.run("run --rm --network none -v notes:/data busybox touch /data/kept")?;
    let found = docker.run("run --rm --network none -v notes:/data busybox ls /data")?;
    ensure!(found == "kept", "{found}");
    let volume = json(&host, &format!("{SOCKET} volume inspect notes"))?;
    ensure!(
        volume[0]["size"] == 64 << 20,
        "it is not of its class: {volume:#}"
    );
    docker.run("volume rm notes")?;
    docker.run("plugin disable bulkhead").map(drop)
}

#[test]
fn a_generated_stack_makes_a_swarm_a_cluster() -> Result<()> {
    let _alone = node::alone()?;
    let begin = Instant::now();
    let (_switch, hosts) = machines("stack")?;
    let mut store = StoreMember::start(&hosts[0], StoreKind::Etcd, 1, 1)?;
    let registry = Registry::new()?;
    let prepare = |host: &Arc<Host>| {
        let docker = Dockerd::start(host)?;
        image::busybox(&docker)?;
        image::docker(&docker)?;
        Ok((registry.serve(host)?, docker))
    };
    let (_served, dockerds): (Vec<_>, Vec<_>) = at_once(&hosts, prepare)?.into_iter().unzip();
    store.await_ready()?;
    println!("three dockerds: {:?}", begin.elapsed());
    swarm::form_of(&(1..).zip(&dockerds).collect::<Vec<_>>())?;
    let url = StoreKind::Etcd.url(1);
    let stack = generate(
        &hosts[0],
        &format!(
            "stack --image {PLUGIN} --cluster shop --store {url} --data-interface eth0 --labels zone=a,tier=db \
             --pool {POOL}=2G --class 'gold repl=2 size=64M' --default-class gold"
        ),
    )?;
    // What stands in its head is done as it stands there.
    let (deploy, then) = commands(&stack)?;
    fs::write(hosts[0].outside("/root/stack.yml"), format!("{stack}\n"))?;
    hosts[0]
        .sh(&deploy.replace("THIS-FILE", "/root/stack.yml"))
        .within(Duration::from_secs(60))
        .run()?;
    swarm::await_running(
        &dockerds[0],
        "bulkhead_install",
        3,
        Duration::from_secs(60),
        |_| true,
    )?;
    println!("the stack runs: {:?}", begin.elapsed());
    for (host, docker) in hosts.iter().zip(&dockerds) {
        wait::until("the plugin is enabled", Duration::from_secs(60), || {
            let enabled = docker.run("plugin inspect --format {{.Enabled}} bulkhead");
            Ok(enabled.is_ok_and(|enabled| enabled == "true").then_some(()))
        })?;
        host.sh(&then).within(Duration::from_secs(120)).run()?;
    }
    println!("each node has its pool: {:?}", begin.elapsed());
    await_healthy(&hosts[2], SOCKET)?;

    dockerds[0].run("volume create -d bulkhead shop")?;
    dockerds[0].run("run --rm --network none -v shop:/data busybox touch /data/kept")?;
    let found = dockerds[1].run("run --rm --network none -v shop:/data busybox ls /data")?;
    ensure!(found == "kept", "{found}");
    let volume = json(&hosts[1], &format!("{SOCKET} volume inspect shop"))?;
    let replicas = volume[0]["replicas"].as_array().map(Vec::len);
    ensure!(replicas == Some(2) && volume[0]["healthy"] == true, "{volume:#}");
    Ok(())
}

/// The commands in the head of a stack: the one that deploys it, and those for each node.
fn commands(stack: &str) -> Result<(String, String)> {
    let head = stack.lines().filter_map(|line| line.strip_prefix("#   "));
    let mut head = head.map(|line| format!("{line}\n"));
    let deploy = head.next().context("it does not say how it is deployed")?;
    Ok((deploy, head.collect()))
}

#[test]
fn a_wiped_disk_and_an_uninstalled_program_leave_nothing_behind() -> Result<()> {
    let host = Host::start("wiped")?;
    let files = || {
        host.sh("find /etc /usr /var/lib /var/log /run /root -xdev -iname '*bulkhead*' | sort")
            .run()
    };
    let before = (host.leaks()?, files()?);
    let line = format!(
        "cd {}; BIN={} scripts/install.sh install",
        programs::workspace()?.display(),
        programs::bulkhead()?.display()
    );
    host.sh(&line).run()?;
    ensure!(
        files()?.contains("man/man1/bulkhead-volume-create.1"),
        "{}",
        files()?
    );
    let disk = host
        .sh("truncate -s 2G /var/lib/store/disk.img; losetup --find --show /var/lib/store/disk.img")
        .run()?;
    let start = || -> Result<Service> {
        let mut daemon = host.spawn("bulkhead", Cmd::new(BINARY).arg("daemon"))?;
        daemon.until("the daemon answers", Duration::from_secs(30), || {
            Ok(json(&host, "pool list").ok())
        })?;
        // Refused if there were anything on it.
        host.sh(&format!("{BINARY} pool add {disk} --priority high"))
            .run()?;
        Ok(daemon)
    };
    let clean = || -> Result<()> {
        let left = host.sh(&format!("wipefs --noheadings {disk}")).run()?;
        ensure!(left.is_empty(), "the disk still says what it was: {left}");
        Ok(())
    };

    let mut daemon = start()?;
    host.sh(&format!("{BINARY} volume create v1 --size 64M")).run()?;
    let wipe = |flags: &str| host.sh(&format!("{BINARY} node wipe {flags}"));
    let told = wipe("--yes --force").fails()?;
    ensure!(told.contains("the daemon runs"), "{told}");
    ensure!(
        daemon.terminate(Duration::from_secs(30))?.success(),
        "{}",
        daemon.log_tail(30)
    );
    let told = wipe("--yes").fails()?;
    ensure!(told.contains("counts on this node for v1"), "{told}");
    let told = wipe("").run()?;
    ensure!(
        told.contains(&disk) && clean().is_err(),
        "it only says so: {told}"
    );
    wipe("--yes --force").run()?;
    clean()?;
    let told = wipe("--yes").run()?;
    ensure!(told.contains("there is no node"), "{told}");

    let _daemon = start()?;
    host.sh(&format!("{BINARY} uninstall --yes")).run()?;
    clean()?;
    host.sh(&format!("losetup --detach {disk}; rm /var/lib/store/disk.img"))
        .run()?;
    ensure!(files()? == before.1, "{}\ninstead of\n{}", files()?, before.1);
    before.0.await_same(&host, Duration::from_secs(15))
}
