//! `bulkhead upgrade`: another program in the place of the installed one, while volumes are in use.
//!
//! It owns the order: look, replace, restart, look again, and back if that is not well. It must never leave a node with a program
//! that has not shown that it serves all that was served before.

mod candidate;
mod process;
mod swap;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::args::UpgradeArgs;
use super::client::Client;
use super::print::Printer;
use super::progress::waiting;
use super::{CliError, Code};
use crate::service::{NodeView, StatusView};
use crate::versions::Versions;

use process::Running;
use swap::Swap;
pub(super) use swap::previous;

/// A daemon that does not even answer that it is starting for this long is given up: volumes are waiting, and what waits longer
/// than `isolation_timeout` fails.
const SILENCE: Duration = Duration::from_secs(3);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(1);
/// Between looks.
const PAUSE: Duration = Duration::from_millis(50);

/// What was done.
#[derive(Debug, Serialize)]
struct Done {
    node: String,
    from: String,
    to: String,
    program: PathBuf,
    previous: PathBuf,
    /// From the word to restart to the first answer of the new daemon.
    away_ms: u128,
    /// The same until all was healthy.
    healthy_ms: u128,
}

/// How long a daemon was away.
struct Back {
    away: Duration,
    healthy: Duration,
}

pub(super) async fn run(client: &Client, printer: &Printer, args: &UpgradeArgs) -> Result<Code, CliError> {
    let status: StatusView = client.get("/status").await?;
    let mut running = Running::of(&status)?;
    if running.keeper.is_none() && !args.force {
        return Err(CliError::Refused(
            "the daemon runs without a keeper (--no-keeper): the volumes in use on this node would fail when it restarts; stop \
             what uses them first, then --force"
                .to_owned(),
        ));
    }
    let new = match &args.binary {
        Some(path) => path.clone(),
        None => std::env::current_exe()?,
    };
    let swap = stage(&new, &running.program)?;
    let old = candidate::ask(&running.program).await?;
    let versions = candidate::ask(swap.staged()).await?;
    let nodes: Vec<NodeView> = client.get("/nodes").await?;
    fits(&new, &versions, &old, &nodes)?;
    let before = if args.force {
        status
    } else {
        await_well(client, args.timeout).await?
    };

    swap.make().map_err(|error| {
        CliError::Failed(format!(
            "{} cannot be replaced: {error}",
            running.program.display()
        ))
    })?;
    let restarted = waiting(
        "the daemon restarts",
        restart(client, &before, &mut running, &versions.version, args.timeout),
    );
    match restarted.await {
        Ok(back) => {
            let done = Done {
                node: before.node.clone(),
                from: before.version.clone(),
                to: versions.version,
                program: running.program.clone(),
                previous: swap.previous().to_owned(),
                away_ms: back.away.as_millis(),
                healthy_ms: back.healthy.as_millis(),
            };
            printer.value(&done, told)?;
            Ok(Code::Ok)
        }
        Err(why) => Err(go_back(client, &before, running, &swap, args.timeout, &why).await),
    }
}

fn told(done: &Done) -> String {
    let seconds = |millis: u128| format!("{}.{:02}", millis / 1000, millis % 1000 / 10);
    format!(
        "node {} runs version {} now, {} before: the daemon was away for {} s, all is healthy after {} s\n\
         the old program is kept as {}\n",
        done.node,
        done.to,
        done.from,
        seconds(done.away_ms),
        seconds(done.healthy_ms),
        done.previous.display()
    )
}

fn stage(new: &Path, installed: &Path) -> Result<Swap, CliError> {
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if same(new, installed) {
        return Err(CliError::Usage(format!(
            "{} is the installed program itself; name the new one with --binary",
            new.display()
        )));
    }
    if !new.is_file() {
        return Err(CliError::Usage(format!("there is no file {}", new.display())));
    }
    Swap::stage(new, installed)
}

fn fits(new: &Path, versions: &Versions, old: &Versions, nodes: &[NodeView]) -> Result<(), CliError> {
    let others: BTreeMap<String, String> = nodes
        .iter()
        .filter(|node| !node.this)
        .map(|node| (node.name.clone(), node.version.clone()))
        .collect();
    let obstacles = versions.obstacles(old, &others);
    if obstacles.is_empty() {
        return Ok(());
    }
    Err(CliError::Refused(format!(
        "{} does not fit: {}; nothing was changed",
        new.display(),
        obstacles.join("; ")
    )))
}

/// Waits until nothing is wrong in the cluster, as far as this node knows.
async fn await_well(client: &Client, patience: Duration) -> Result<StatusView, CliError> {
    let end = Instant::now() + patience;
    loop {
        let status: StatusView = client.get("/status").await?;
        if status.healthy {
            return Ok(status);
        }
        if Instant::now() >= end {
            return Err(CliError::Refused(format!(
                "nothing was changed: a restart of this node is harmless only while all is healthy, and that is not so: {}. \
                 Mend it first, or say --force",
                status.problems.join("; ")
            )));
        }
        waiting("all is to be healthy first", sleep(PAUSE * 10)).await;
    }
}

/// Restarts the daemon, and waits until another process of this version answers and nothing is wrong that was not before.
async fn restart(
    client: &Client,
    before: &StatusView,
    running: &mut Running,
    version: &str,
    patience: Duration,
) -> Result<Back, String> {
    let begin = Instant::now();
    ask_to_restart(client, running.keeper.is_some())
        .await
        .map_err(|error| error.to_string())?;
    let wanted = Wanted {
        gone: before.pid,
        version,
        begin,
        patience,
        brisk: true,
    };
    await_back(client, before, running, &wanted).await
}

/// What is waited for.
struct Wanted<'a> {
    /// Another process than this one.
    gone: u32,
    /// Of this version.
    version: &'a str,
    /// From here on.
    begin: Instant,
    /// For so long.
    patience: Duration,
    /// Given up as soon as it does not look well: there is another program to go back to.
    brisk: bool,
}

async fn await_back(
    client: &Client,
    before: &StatusView,
    running: &mut Running,
    wanted: &Wanted<'_>,
) -> Result<Back, String> {
    let Wanted {
        gone,
        version,
        begin,
        patience,
        brisk,
    } = *wanted;
    let mut away = None;
    let mut heard = begin;
    loop {
        let why = match timeout(QUESTION, client.get::<StatusView>("/status")).await {
            Ok(Ok(status)) if status.pid != gone => {
                heard = Instant::now();
                if status.version != version {
                    return Err(format!(
                        "what answers is version {}, not {version}",
                        status.version
                    ));
                }
                let away = *away.get_or_insert_with(|| begin.elapsed());
                let new: Vec<&String> = status
                    .problems
                    .iter()
                    .filter(|problem| !before.problems.contains(problem))
                    .collect();
                if new.is_empty() && status.resuming.is_empty() {
                    return Ok(Back {
                        away,
                        healthy: begin.elapsed(),
                    });
                }
                new.into_iter().cloned().collect::<Vec<_>>().join("; ")
            }
            Ok(Ok(_)) => {
                heard = Instant::now();
                "the daemon from before still answers".to_owned()
            }
            Ok(Err(CliError::Daemon(detail))) => {
                heard = Instant::now();
                detail.message
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the daemon does not answer".to_owned(),
        };
        if let Some(keeper) = &mut running.keeper {
            if !keeper.lives() {
                return Err("the keeper has ended".to_owned());
            }
            if brisk && keeper.in_vain() {
                return Err("the daemon ends at once, again and again".to_owned());
            }
        }
        if (brisk && heard.elapsed() >= SILENCE) || begin.elapsed() >= patience {
            return Err(format!("after {:.0} s: {why}", begin.elapsed().as_secs_f64()));
        }
        sleep(PAUSE).await;
    }
}

/// Puts the old program back, and restarts with it. Returns the error to end with.
async fn go_back(
    client: &Client,
    before: &StatusView,
    mut running: Running,
    swap: &Swap,
    patience: Duration,
    why: &str,
) -> CliError {
    let program = running.program.display().to_string();
    if let Err(error) = swap.undo() {
        return CliError::Failed(format!(
            "the new program did not do ({why}), and the old one cannot be put back ({error}): it is at {}; move it to {program} \
             and restart the daemon",
            swap.previous().display()
        ));
    }
    let begin = Instant::now();
    let status = timeout(QUESTION, client.get::<StatusView>("/status")).await;
    if matches!(&status, Ok(Ok(status)) if status.pid == before.pid) {
        return CliError::Failed(format!(
            "the daemon was not restarted: {why}. The old program is back in its place, and goes on"
        ));
    }
    // One that answers ends in order; one that does not is ended.
    let kept = running.keeper.is_some();
    let gone = match status {
        Ok(Ok(status)) if ask_to_restart(client, kept).await.is_ok() => status.pid,
        _ => {
            if let Some(keeper) = &running.keeper {
                keeper.start_anew();
            }
            0
        }
    };
    let wanted = Wanted {
        gone,
        version: &before.version,
        begin,
        patience,
        brisk: false,
    };
    let back = waiting(
        "the old program is back in its place, and restarts",
        await_back(client, before, &mut running, &wanted),
    );
    match back.await {
        Ok(back) => CliError::Failed(format!(
            "the new program did not do: {why}. The old one is back in its place and runs; all is healthy again after {:.2} s",
            back.healthy.as_secs_f64()
        )),
        Err(still) => CliError::Failed(format!(
            "the new program did not do: {why}. The old one is back in its place, but: {still}. `journalctl -u bulkhead` says \
             more; `systemctl restart bulkhead` starts it"
        )),
    }
}

/// Asks the daemon to be started again; `keeper` says whether its keeper becomes the program that lies in its place first, once
/// that has shown that it could.
async fn ask_to_restart(client: &Client, keeper: bool) -> Result<Value, CliError> {
    client.post("/restart", &json!({ "keeper": keeper })).await
}
