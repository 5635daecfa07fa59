//! The keeper killed with -9 under load: nobody holds the connections any more, so all fails, cleanly and at once.
//!
//! It owns that case. It must never leave a container that cannot be killed unnoticed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::super::loads::{Loads, VOLUMES, await_nothing_stuck};
use super::super::probe;
use super::{END, LONG, clear, millis};
use crate::lab::Lab;
use crate::report::{Figure, figure};
use crate::wait;

/// How long the daemon may outlive its keeper.
const ORPHAN: Duration = Duration::from_secs(10);
/// How long it may take until a write that is under way fails.
const FAIL: Duration = Duration::from_secs(20);

/// Plays it.
pub fn killed(lab: &mut Lab) -> Result<Vec<Figure>> {
    let node = &mut lab.members[0].node;
    let mut loads = Loads::start(node, "repl=1", LONG)?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(node.bulkhead.is_kept()?, "there is no keeper to kill");
    let Some(daemon) = node.bulkhead.daemon()? else {
        anyhow::bail!("there is no daemon")
    };

    let begin = probe::now();
    node.bulkhead.kill()?;
    wait::until("the daemon has ended with its keeper", ORPHAN, || {
        Ok((!std::path::Path::new(&format!("/proc/{daemon}/exe")).exists()).then_some(()))
    })?;
    let orphan = probe::now().saturating_sub(begin);
    let failed = loads.await_error(FAIL)?.saturating_sub(begin);
    let commits = loads.abandon()?;

    let clock = Instant::now();
    for container in loads.containers() {
        let running = node.dockerd.inspect(&container, "/State/Running")? == true;
        if running {
            node.dockerd.docker(["kill", &container]).within(END).run()?;
        }
        wait::until("the container has ended", END, || {
            Ok((node.dockerd.inspect(&container, "/State/Running")? == false).then_some(()))
        })?;
    }
    let ended = clock.elapsed();
    await_nothing_stuck(&node.host, FAIL)?;

    let clock = Instant::now();
    node.bulkhead.restart()?;
    let restarted = clock.elapsed();
    let postgres = loads.postgres();
    let start = node.dockerd.docker(["start", postgres.container()]).within(END);
    start.run()?;
    postgres.await_ready(&node.dockerd)?;
    let answers = clock.elapsed();
    let lost = postgres.lost(&node.dockerd, &commits)?;
    ensure!(
        lost.is_empty(),
        "{} of {} commits are lost: {lost:?}",
        lost.len(),
        commits.len()
    );
    postgres.verify(&node.dockerd, &commits)?;

    clear(node, &loads)?;
    for volume in VOLUMES {
        wait::retry("the volume is removed", END, || {
            node.dockerd.docker(["volume", "rm", volume]).run().map(drop)
        })?;
    }
    node.assert_idle()?;
    Ok(vec![
        figure("the daemon ended after", millis(orphan)),
        figure("first EIO in a container after", millis(failed)),
        figure("every container was killed within", millis(ended)),
        figure("the daemon was ready again within", millis(restarted)),
        figure("the database answered after", millis(answers)),
        figure("commits noted / lost", format!("{} / 0", commits.len())),
    ])
}
