//! A replica's daemon killed under load: the volume goes on, and the replica is in sync again.
//!
//! It owns that case. It must never take a replica for back that was not seen to be served by another process.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::super::campaign::{await_whole, in_sync, inspect};
use super::super::loads::{DB, Loads, VOLUMES};
use super::super::pauses::{Kill, Pauses, Whose, longest, median};
use super::super::probe;
use super::{LONG, clear};
use crate::lab::Lab;
use crate::report::{Figure, figure, spread};

/// How often it is killed.
const KILLS: usize = 5;
/// After a kill the members are watched for so long.
const WATCHED: Duration = Duration::from_secs(8);

/// Plays it.
pub fn killed(lab: &mut Lab) -> Result<Vec<Figure>> {
    let mut loads = Loads::start(lab.node(0), "repl=2", LONG)?;
    for volume in VOLUMES {
        await_whole(lab.node(0), volume, 2)?;
    }
    let view = inspect(lab.node(0), DB)?;
    let home = lab.host(0).hostname().to_owned();
    let name = in_sync(&view).into_iter().find(|name| *name != home);
    let holder = lab.index_of(name.context("the volume has no replica elsewhere")?)?;

    let (mut kills, mut back) = (Vec::new(), Vec::new());
    let mut seen = 0;
    for _ in 0..KILLS {
        let (at, begin) = (probe::now(), Instant::now());
        let killed = lab.members[holder].node.bulkhead.kill_daemon()?;
        kills.push(Kill {
            at,
            whose: Whose::Replica,
        });
        let mut out = None;
        while begin.elapsed() < WATCHED {
            let asked = begin.elapsed();
            if in_sync(&inspect(lab.node(0), DB)?).len() < 2 {
                out = Some(asked);
            }
            thread::sleep(Duration::from_millis(20));
        }
        await_whole(lab.node(0), DB, 2)?;
        let now = lab.members[holder].node.bulkhead.daemon()?;
        ensure!(
            now.is_some_and(|pid| pid != killed),
            "the same process serves the replica"
        );
        // In sync again by the time of the next look at the latest.
        seen += usize::from(out.is_some());
        back.push(out.unwrap_or_default());
    }
    ensure!(!loads.in_trouble(), "a container has met an error");
    let commits = loads.abandon()?;
    let node = lab.node(0);
    loads.postgres().verify(&node.dockerd, &commits)?;
    let notes = VOLUMES.map(|volume| loads.notes(volume));
    clear(node, &loads)?;
    let pauses = Pauses::attribute(&kills, &notes).replica;
    Ok(vec![
        figure("kills / seen out of sync", format!("{KILLS} / {seen}")),
        spread("out of sync until, after the kill", back),
        figure(
            "pauses of the containers, median / longest",
            format!(
                "{} / {} ms",
                median(&pauses).as_millis(),
                longest(&pauses).as_millis()
            ),
        ),
        figure("commits noted / lost", format!("{} / 0", commits.len())),
    ])
}
