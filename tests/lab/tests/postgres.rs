//! PostgreSQL on a volume survives the end of anything around it, at rest and under load: no row, no commit and no page is lost.

use std::collections::BTreeSet;

use bulkhead_lab::{Node, Postgres, image, node};

/// What is ended, and what a user does about it.
type Blow = fn(&mut Node) -> anyhow::Result<()>;

fn container(node: &mut Node) -> anyhow::Result<()> {
    node.dockerd.run("kill -s KILL pg")?;
    node.dockerd.run("start pg").map(drop)
}

fn dockerd(node: &mut Node) -> anyhow::Result<()> {
    node.dockerd.kill()?;
    node.dockerd.restart()
}

fn daemon(node: &mut Node) -> anyhow::Result<()> {
    node.bulkhead.kill()?;
    node.bulkhead.restart()?;
    // The server has lost its files and stops by itself sooner or later; nobody waits for that.
    node.dockerd.run("restart -t 0 pg").map(drop)
}

fn all_at_once(node: &mut Node) -> anyhow::Result<()> {
    node.dockerd.kill()?;
    node.bulkhead.kill()?;
    node.bulkhead.restart()?;
    node.dockerd.restart()
}

#[test]
fn postgres_survives_the_end_of_anything_around_it() {
    let _alone = node::alone().unwrap();
    let mut node = Node::start("pg", "10G").unwrap();
    image::postgres(&node.dockerd).unwrap();
    node.create("db", "size=2G").unwrap();
    let postgres = Postgres::new("pg", "db").restart_always();
    postgres.run(&node.dockerd).unwrap();
    postgres.fill(&node.dockerd).unwrap();

    let mut commits = BTreeSet::new();
    let blows: [(&str, Blow); 4] = [
        ("container", container),
        ("dockerd", dockerd),
        ("daemon", daemon),
        ("all at once", all_at_once),
    ];
    for (what, blow) in blows {
        blow(&mut node).unwrap_or_else(|error| panic!("{what}, at rest: {error:#}"));
        postgres.await_ready(&node.dockerd).unwrap();
        postgres
            .verify(&node.dockerd, &commits)
            .unwrap_or_else(|error| panic!("{what}, at rest: {error:#}"));

        let mut load = postgres.load(&node.host, &what.replace(' ', "-")).unwrap();
        load.await_commits(50).unwrap();
        blow(&mut node).unwrap_or_else(|error| panic!("{what}, under load: {error:#}"));
        commits.extend(load.end().unwrap());
        postgres.await_ready(&node.dockerd).unwrap();
        postgres
            .verify(&node.dockerd, &commits)
            .unwrap_or_else(|error| panic!("{what}, under load: {error:#}"));
    }
    assert!(
        commits.len() >= 4 * 70,
        "only {} commits were noted",
        commits.len()
    );

    node.dockerd.run("rm -f pg").unwrap();
    node.dockerd.run("volume rm db").unwrap();
    node.assert_idle().unwrap();
}
