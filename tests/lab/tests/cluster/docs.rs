//! The commands of the documentation, typed on a node of this cluster. Each page begins with nothing on it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bulkhead_lab::docs::{self, Page};
use bulkhead_lab::report::{Figure, figure};
use bulkhead_lab::swarm::await_running;
use bulkhead_lab::{Lab, wait};

use crate::Extent;

/// Images that the pages name; here each is a program that waits for its end.
const STAND_INS: [&str; 1] = ["postgres"];

pub(crate) fn run(lab: &mut Lab, _: Extent) -> Result<Vec<Figure>> {
    for member in &lab.members {
        let docker = &member.node.dockerd;
        docker.run("tag busybox debian")?;
        for name in STAND_INS {
            let build = format!(
                "printf 'FROM busybox\\nENTRYPOINT [\"sh\", \"-c\", \"trap exit TERM; sleep 3600 & wait\"]\\n' | \
                 DOCKER_BUILDKIT=0 docker -H unix:///run/docker.sock build --quiet --tag {name} -"
            );
            member.node.host.sh(&build).run()?;
        }
    }
    let here = &lab.node(0).host;
    here.sh("mkdir -p /root/typed /etc/prometheus").run()?;
    let (mut run, mut left) = (0, 0);
    for page in docs::pages()? {
        left += page.blocks.iter().filter(|block| block.not_run.is_some()).count();
        let typed = type_page(lab, &page)?;
        if typed > 0 {
            clear(lab).with_context(|| format!("after {}", page.name))?;
        }
        run += typed;
    }
    ensure!(run > 5, "only {run} blocks were run");
    Ok(vec![
        figure("blocks of commands run", run),
        figure("blocks that cannot be run here", left),
    ])
}

/// Types what a page says is to be run; returns how many blocks that were.
fn type_page(lab: &Lab, page: &Page) -> Result<usize> {
    let (here, docker) = (&lab.node(0).host, &lab.node(0).dockerd);
    let blocks: Vec<_> = page
        .blocks
        .iter()
        .filter(|block| block.not_run.is_none())
        .collect();
    for block in &blocks {
        let lines: Vec<String> = block.lines.iter().map(|line| typed(line)).collect();
        here.sh(&format!("cd /root/typed\n{}", lines.join("\n")))
            .env("DOCKER_HOST", "unix:///run/docker.sock")
            .within(Duration::from_secs(90))
            .run()
            .with_context(|| block.at.clone())?;
    }
    for service in docker.run("service ls --format {{.Name}}")?.lines() {
        await_running(docker, service, 1, Duration::from_secs(60), |_| true)
            .with_context(|| page.name.clone())?;
    }
    Ok(blocks.len())
}

/// A line as it is typed: what goes on until ctrl-C gets one, and a service is waited for afterwards.
fn typed(line: &str) -> String {
    let command = line.split(" #").next().unwrap_or(line).trim_end();
    if command.starts_with("bulkhead ") && (command.ends_with(" -f") || command.ends_with(" --watch")) {
        return format!("timeout 1 {command} || [ $? -eq 124 ]");
    }
    line.replace(
        "docker service create ",
        "docker service create --detach --restart-delay 0s ",
    )
}

/// Takes away what a page has made.
fn clear(lab: &Lab) -> Result<()> {
    let node = lab.node(0);
    let services = node.dockerd.run("service ls --quiet")?;
    if !services.is_empty() {
        node.dockerd
            .run(&format!("service rm {}", services.replace('\n', " ")))?;
    }
    wait::until("no volume is left", Duration::from_secs(60), || {
        // A name that holds options is another one for a volume: both go with it.
        let list = || node.dockerd.run("volume ls --quiet --filter driver=bulkhead");
        for volume in list()?.lines() {
            node.dockerd.docker(["volume", "rm", volume]).output()?;
        }
        Ok(list()?.is_empty().then_some(()))
    })?;
    node.bulkhead.cli("class default --none").run()?;
    let classes = node.bulkhead.json("class list")?;
    for class in classes.as_array().into_iter().flatten() {
        let name = class["name"].as_str().context("a class has a name")?;
        node.bulkhead.cli(&format!("class delete {name}")).run()?;
    }
    node.bulkhead.cli("token delete grafana").output().map(drop)
}
