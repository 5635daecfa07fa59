//! A node that is cut off has to let go of its volumes, also if its daemon is killed and started again meanwhile; and what it
//! acknowledged before is found by the node that takes over.
//!
//! It owns these cases. It must never heal the cut before another node has the volumes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::super::campaign::await_whole;
use super::super::loads::{DB, Loads, VOLUMES, await_nothing_stuck};
use super::super::probe;
use super::{END, LONG, clear, millis};
use crate::lab::Lab;
use crate::postgres::Postgres;
use crate::report::{Figure, figure};
use crate::wait;

/// By then the node has to have let go: its own time limit of 10 s, and the slowness of a loaded machine.
const FENCED: Duration = Duration::from_secs(30);
/// How long another node may take until the database answers there.
const TAKEN: Duration = Duration::from_secs(180);

/// Killed once, as soon as it is cut off.
pub fn killed_once(lab: &mut Lab) -> Result<Vec<Figure>> {
    play(lab, 1)
}

/// Killed every two seconds until it has let go.
pub fn killed_often(lab: &mut Lab) -> Result<Vec<Figure>> {
    play(lab, usize::MAX)
}

fn play(lab: &mut Lab, most: usize) -> Result<Vec<Figure>> {
    let mut loads = Loads::start(lab.node(0), "repl=2", LONG)?;
    for volume in VOLUMES {
        await_whole(lab.node(0), volume, 2)?;
    }
    thread::sleep(Duration::from_secs(2));

    let (at, begin) = (probe::now(), Instant::now());
    lab.host(0).cut_both()?;
    let mut kills = 0;
    let fenced = loop {
        if kills < most {
            lab.members[0].node.bulkhead.kill_daemon()?;
            kills += 1;
        }
        // Less than the pace of the kills: it must not hold up the next one.
        if let Ok(first) = loads.await_error(Duration::from_secs(2)) {
            break first.saturating_sub(at);
        }
        ensure!(
            begin.elapsed() < FENCED,
            "the node that is cut off has not let go after {:.0} s, its daemon killed {kills} times",
            begin.elapsed().as_secs_f64()
        );
    };
    let both = wait::until("both volumes are let go of", FENCED, || {
        let all = VOLUMES
            .iter()
            .all(|volume| !loads.notes(volume).errors.is_empty());
        Ok(all.then(|| begin.elapsed()))
    })?;
    let commits = loads.abandon()?;

    // Elsewhere, while the old node is still cut off.
    let dockerd = &lab.node(1).dockerd;
    let there = Postgres::new("pg-there", DB);
    wait::retry("the database runs on another node", TAKEN, || {
        dockerd.docker(["rm", "-f", "pg-there"]).within(END).output()?;
        there.run(dockerd)
    })?;
    let taken = begin.elapsed();
    let lost = there.lost(dockerd, &commits)?;
    ensure!(
        lost.is_empty(),
        "{} of {} commits are lost: {lost:?}",
        lost.len(),
        commits.len()
    );
    there.verify(dockerd, &commits)?;

    // The old node: its containers can be killed, and nothing hangs.
    let old = lab.node(0);
    clear(old, &loads)?;
    await_nothing_stuck(&old.host, Duration::from_secs(30))?;
    lab.host(0).heal()?;
    await_whole(lab.node(1), DB, 2)?;
    there.verify(&lab.node(1).dockerd, &commits)?;
    lab.node(1).dockerd.run("rm -f pg-there")?;
    for volume in VOLUMES {
        wait::retry("the volume is removed", END, || {
            lab.node(1)
                .dockerd
                .docker(["volume", "rm", volume])
                .run()
                .map(drop)
        })?;
    }
    Ok(vec![
        figure("kills of the daemon while cut off", kills),
        figure("from the cut to the first EIO", millis(fenced)),
        figure("from the cut until both volumes failed", millis(both)),
        figure(
            "from the cut until the database answered elsewhere",
            millis(taken),
        ),
        figure("commits noted / lost", format!("{} / 0", commits.len())),
    ])
}
