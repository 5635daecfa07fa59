//! Docker Swarm over the hosts of a lab: managers, services, tasks.
//!
//! It owns no process; Swarm is the dockerds'. What it tells is what a manager says at that moment. It must never ask a
//! manager that the caller did not choose, for one that is cut off has its own idea of the world.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::dockerd::Dockerd;
use crate::lab::Lab;
use crate::switch::address;
use crate::wait;

/// One task of a service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Task {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// `service.slot`.
    pub name: String,
    /// The host it was given to; empty before.
    pub node: String,
    /// Where Swarm wants it to go: `Running`, `Shutdown`…
    pub desired_state: String,
    /// Where it is, and since when: `Running 5 seconds ago`.
    pub current_state: String,
    /// Why it failed.
    pub error: String,
}

impl Task {
    /// Whether Swarm wants it to run and it does.
    pub fn runs(&self) -> bool {
        self.desired_state == "Running" && self.current_state.starts_with("Running")
    }
}

/// Makes one Swarm of all dockerds of a lab; each is a manager.
pub fn form(lab: &Lab) -> Result<()> {
    let members = lab.members.iter();
    form_of(
        &members
            .map(|member| (member.number, &member.node.dockerd))
            .collect::<Vec<_>>(),
    )
}

/// Makes one Swarm of dockerds on hosts of these numbers, of which the first is 1; each is a manager.
pub fn form_of(dockerds: &[(u8, &Dockerd)]) -> Result<()> {
    let (_, first) = dockerds.first().context("a Swarm of nobody")?;
    let join = |number: u8| {
        let at = address(number);
        format!("--advertise-addr {at} --listen-addr {at}:2377")
    };
    first
        .run(&format!("swarm init {}", join(1)))
        .context("cannot begin the Swarm")?;
    let token = first.run("swarm join-token --quiet manager")?;
    for (number, dockerd) in &dockerds[1..] {
        let line = format!("swarm join --token {token} {} {}:2377", join(*number), address(1));
        wait::retry("the manager joins", Duration::from_secs(30), || {
            dockerd.run(&line)
        })?;
    }
    wait::until("all managers are reachable", Duration::from_secs(30), || {
        let list = first.run("node ls --format {{.Status}}/{{.ManagerStatus}}")?;
        let good = list
            .lines()
            .filter(|line| *line == "Ready/Leader" || *line == "Ready/Reachable")
            .count();
        Ok((good == dockerds.len()).then_some(()))
    })
}

/// The name of the host whose manager leads, as this manager sees it.
pub fn leader(manager: &Dockerd) -> Result<String> {
    wait::until("Swarm has a leader", Duration::from_secs(60), || {
        let Ok(list) = manager.run("node ls --format {{.Hostname}}/{{.ManagerStatus}}") else {
            return Ok(None);
        };
        Ok(list
            .lines()
            .find_map(|line| line.strip_suffix("/Leader"))
            .map(str::to_owned))
    })
}

/// The tasks of a service, the newest of each slot first.
pub fn tasks(manager: &Dockerd, service: &str) -> Result<Vec<Task>> {
    let text = manager
        .docker(["service", "ps", "--no-trunc", "--format", "{{json .}}", service])
        .within(Duration::from_secs(15))
        .run()?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("a task is {line}")))
        .collect()
}

/// Waits until a service has `count` running tasks on hosts that `fits`, and returns them.
pub fn await_running(
    manager: &Dockerd,
    service: &str,
    count: usize,
    deadline: Duration,
    fits: impl Fn(&str) -> bool,
) -> Result<Vec<Task>> {
    let mut last = Vec::new();
    let outcome = wait::until("the service runs", deadline, || {
        // A manager without a majority answers nothing for a while.
        if let Ok(tasks) = tasks(manager, service) {
            last = tasks;
        }
        let running: Vec<_> = last
            .iter()
            .filter(|task| task.runs() && fits(&task.node))
            .cloned()
            .collect();
        Ok((running.len() == count).then_some(running))
    });
    outcome.with_context(|| format!("service {service}: {last:#?}"))
}

/// The container of a service's running task, on the host where this dockerd is.
pub fn container(dockerd: &Dockerd, service: &str) -> Result<Option<String>> {
    let filter = format!("label=com.docker.swarm.service.name={service}");
    let text = dockerd
        .docker(["ps", "--quiet", "--no-trunc", "--filter", &filter])
        .run()?;
    Ok(text.lines().next().map(str::to_owned))
}
