//! PostgreSQL on a volume survives the end of anything around it, at rest and under load: no row, no commit and no page is lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result};
use bulkhead_lab::{Dockerd, Host, ManagedPlugin, Node, Postgres, image, node};

/// What a story is played on.
trait Stage {
    fn dockerd(&mut self) -> &mut Dockerd;
    fn host(&self) -> Arc<Host>;
}

/// What is ended, and what a user does about it.
type Blow<S> = (&'static str, fn(&mut S) -> Result<()>);

impl Stage for Node {
    fn dockerd(&mut self) -> &mut Dockerd {
        &mut self.dockerd
    }
    fn host(&self) -> Arc<Host> {
        Arc::clone(&self.host)
    }
}

/// A node where the daemon is a managed plugin.
struct Managed {
    dockerd: Dockerd,
    plugin: ManagedPlugin,
    host: Arc<Host>,
}

impl Stage for Managed {
    fn dockerd(&mut self) -> &mut Dockerd {
        &mut self.dockerd
    }
    fn host(&self) -> Arc<Host> {
        Arc::clone(&self.host)
    }
}

fn container(stage: &mut impl Stage) -> Result<()> {
    stage.dockerd().run("kill -s KILL pg")?;
    stage.dockerd().run("start pg").map(drop)
}

fn dockerd(stage: &mut impl Stage) -> Result<()> {
    stage.dockerd().kill()?;
    stage.dockerd().restart()
}

fn daemon(node: &mut Node) -> Result<()> {
    node.bulkhead.kill()?;
    node.bulkhead.restart()?;
    // The server has lost its files and stops by itself sooner or later; nobody waits for that.
    node.dockerd.run("restart -t 0 pg").map(drop)
}

fn all_at_once(node: &mut Node) -> Result<()> {
    node.dockerd.kill()?;
    node.bulkhead.kill()?;
    node.bulkhead.restart()?;
    node.dockerd.restart()
}

fn plugin(managed: &mut Managed) -> Result<()> {
    managed.plugin.kill()?;
    managed.dockerd.run("restart -t 0 pg").map(drop)
}

fn story<S: Stage>(stage: &mut S, driver: &str, blows: &[Blow<S>]) -> Result<()> {
    let host = stage.host();
    image::postgres(stage.dockerd())?;
    stage
        .dockerd()
        .run(&format!("volume create -d {driver} -o size=2G db"))?;
    let postgres = Postgres::new("pg", "db").restart_always();
    postgres.run(stage.dockerd())?;
    postgres.fill(stage.dockerd())?;

    let mut commits = BTreeSet::new();
    for (what, blow) in blows {
        let calm = || format!("{what}, at rest");
        blow(stage).with_context(calm)?;
        postgres.await_ready(stage.dockerd()).with_context(calm)?;
        postgres.verify(stage.dockerd(), &commits).with_context(calm)?;

        let busy = || format!("{what}, under load");
        let mut load = postgres.load(&host, &what.replace(' ', "-")).with_context(busy)?;
        load.await_commits(50).with_context(busy)?;
        blow(stage).with_context(busy)?;
        commits.extend(load.end()?);
        postgres.await_ready(stage.dockerd()).with_context(busy)?;
        postgres.verify(stage.dockerd(), &commits).with_context(busy)?;
    }
    anyhow::ensure!(
        commits.len() >= blows.len() * 70,
        "only {} commits were noted",
        commits.len()
    );
    stage.dockerd().run("rm -f pg")?;
    stage.dockerd().run("volume rm db").map(drop)
}

#[test]
fn postgres_survives_the_end_of_anything_around_it() {
    let _alone = node::alone().unwrap();
    let mut node = Node::start("pg", "10G").unwrap();
    let blows: [Blow<Node>; 4] = [
        ("container", container),
        ("dockerd", dockerd),
        ("daemon", daemon),
        ("all at once", all_at_once),
    ];
    story(&mut node, "bulkhead", &blows).unwrap();
    node.assert_idle().unwrap();
}

#[test]
fn postgres_survives_the_same_on_a_managed_plugin() {
    let _alone = node::alone().unwrap();
    let host = Host::start("managed").unwrap();
    let dockerd_ = Dockerd::start(&host).unwrap();
    let managed = ManagedPlugin::install(
        &host,
        &dockerd_,
        "lab/bulkhead:dev",
        &["BULKHEAD_LOG_LEVEL=debug"],
    )
    .unwrap();
    managed
        .cli(&format!("pool add {} --size 4G", node::POOL))
        .unwrap()
        .run()
        .unwrap();
    let idle = host.leaks().unwrap();
    let mut stage = Managed {
        dockerd: dockerd_,
        plugin: managed,
        host,
    };
    let blows: [Blow<Managed>; 3] = [("container", container), ("dockerd", dockerd), ("plugin", plugin)];
    story(&mut stage, "lab/bulkhead:dev", &blows).unwrap();

    // Disabled and enabled again, nothing of a mount or device is left between, and the pool is still known.
    idle.await_same(&stage.host, std::time::Duration::from_secs(15))
        .unwrap();
    stage.plugin.disable(&stage.dockerd).unwrap();
    stage.plugin.enable(&stage.dockerd).unwrap();
    let pools = stage.plugin.cli("pool list").unwrap().run().unwrap();
    assert!(pools.contains(node::POOL), "{pools}");
}
