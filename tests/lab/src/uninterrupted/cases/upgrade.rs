//! `bulkhead upgrade` under load: three nodes one after the other, and programs that must not stay.
//!
//! It owns the programs that it makes. It must never call an upgrade done whose new program is not the one that runs.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::super::loads::{Loads, VOLUMES};
use super::super::probe;
use super::{LONG, clear};
use crate::command::{Cmd, Output};
use crate::lab::Lab;
use crate::node::Node;
use crate::report::{Figure, figure};
use crate::wait;

/// How long one upgrade may take, the command's own patience included.
const PATIENCE: Duration = Duration::from_secs(200);
/// Where the new program lies on a host.
const NEW: &str = "/var/lib/store/new";
/// What the daemon's lock is called in its program.
const LOCK: &[u8] = b"daemon.lock";
/// Of the same length, and never there: a program with it ends as soon as it starts.
const NO_LOCK: &[u8] = b"no/such/dir";
/// What the command ends with.
const REFUSED: i32 = 6;
const FAILED: i32 = 1;

/// Node after node under load, as an operator's loop does it.
pub fn rolling(lab: &mut Lab) -> Result<Vec<Figure>> {
    let mut loads = Loads::start(lab.node(0), "repl=2", LONG)?;
    let mut figures = Vec::new();
    for index in 0..lab.members.len() {
        let node = &mut lab.members[index].node;
        let name = node.host.hostname().to_owned();
        stage(node, |_| Ok(()))?;
        let begin = probe::now();
        let told = upgrade(node, "--timeout 90s --json")?;
        ensure!(
            told.status.success(),
            "the upgrade of {name} ended with {}: {}",
            told.status,
            told.all()
        );
        let end = probe::now();
        runs_the_new_one(node)?;
        let told: Value = serde_json::from_str(&told.stdout)?;
        figures.push(figure(
            format!("{name}: pause / daemon away / all healthy"),
            format!(
                "{} / {} / {} ms",
                pause(&loads, begin, end).as_millis(),
                told["away_ms"],
                told["healthy_ms"]
            ),
        ));
        unhurt(&loads)?;
    }
    figures.push(end(lab.node(0), &mut loads)?);

    // A cluster that is not whole refuses, and says why.
    lab.members[2].node.bulkhead.terminate()?;
    stage(&lab.members[0].node, |_| Ok(()))?;
    let told = upgrade(&lab.members[0].node, "--timeout 20s")?;
    ensure!(
        told.status.code() == Some(REFUSED) && told.stderr.contains("n3"),
        "with n3 away it ended with {}: {}",
        told.status,
        told.all()
    );
    lab.members[2].node.bulkhead.restart()?;
    Ok(figures)
}

/// Programs that are none, that end at once, and that hang: the old one stays or comes back, and no container notices.
pub fn refused(lab: &mut Lab) -> Result<Vec<Figure>> {
    let node = &mut lab.members[0].node;
    let mut loads = Loads::start(node, "repl=1", LONG)?;
    let mut figures = Vec::new();
    let path = node.host.outside(&node.bulkhead.program().to_string_lossy());
    let installed = || fs::read(&path).context("there is no installed program");
    let before = installed()?;

    for script in [
        "#!/bin/sh\nexit 1\n",
        "#!/bin/sh\necho bulkhead 9.9.9\n",
        "nonsense",
    ] {
        stage(node, |path| {
            fs::write(path, script).context("cannot write a script")
        })?;
        let told = upgrade(node, "")?;
        ensure!(
            told.status.code() == Some(REFUSED),
            "{script:?} ended with {}: {}",
            told.status,
            told.all()
        );
    }
    let daemon = node.bulkhead.daemon()?;
    unhurt(&loads)?;
    ensure!(installed()? == before, "the installed program has changed");

    stage(node, |path| patch(path, LOCK, NO_LOCK))?;
    figures.push(rolled_back(node, &loads, "ends at once")?);
    ensure!(installed()? == before, "the old program is not back");
    ensure!(
        node.bulkhead.daemon()? != daemon,
        "the daemon was never restarted, so nothing was tried"
    );

    // One that never becomes ready: stopped in its tracks as soon as it is there.
    stage(node, |_| Ok(()))?;
    let old = node.bulkhead.daemon()?;
    let keeper = node.bulkhead.service()?.pid();
    let stopped = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            wait::until("the new daemon is there to be stopped", PATIENCE, || {
                let children =
                    fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
                let next = children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse().ok())
                    .map(nix::unistd::Pid::from_raw)
                    .find(|&pid| {
                        let line = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                        // Not the one that is only tried as a keeper.
                        let is_trial = line.windows(21).any(|part| part == b"\0BULKHEAD_KEEPER_TRY=");
                        Some(pid) != old && !is_trial && !line.is_empty()
                    });
                let Some(next) = next else { return Ok(None) };
                kill(next, Signal::SIGSTOP).context("cannot stop it")?;
                Ok(Some(()))
            })
        });
        let figure = rolled_back(node, &loads, "does not answer");
        let _ = watch.join();
        figure
    });
    figures.push(stopped?);
    ensure!(installed()? == before, "the old program is not back");
    figures.push(end(&lab.members[0].node, &mut loads)?);
    Ok(figures)
}

/// Lets an upgrade fail, and takes the pause of the containers.
fn rolled_back(node: &Node, loads: &Loads, what: &str) -> Result<Figure> {
    let begin = probe::now();
    let told = upgrade(node, "--timeout 60s")?;
    ensure!(
        told.status.code() == Some(FAILED) && told.stderr.contains("all is healthy again"),
        "a program that {what}: {}: {}",
        told.status,
        told.all()
    );
    unhurt(loads)?;
    let end = probe::now();
    println!("{}", told.stderr.trim_end());
    Ok(figure(
        format!("a program that {what}, rolled back: pause"),
        format!("{} ms", pause(loads, begin, end).as_millis()),
    ))
}

/// Puts a copy of the program under test on a host as a new one, and changes it.
fn stage(node: &Node, change: impl FnOnce(&std::path::Path) -> Result<()>) -> Result<()> {
    let path = node.host.outside(NEW);
    let installed = node.host.outside(&node.bulkhead.program().to_string_lossy());
    let _ = fs::remove_file(&path);
    fs::copy(&installed, &path).with_context(|| format!("cannot copy {}", installed.display()))?;
    // Another file to whoever compares, the same program to the kernel.
    File::options().append(true).open(&path)?.write_all(b"new")?;
    change(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("cannot set its mode")
}

fn upgrade(node: &Node, options: &str) -> Result<Output> {
    let program = node.bulkhead.program().to_string_lossy().into_owned();
    let cmd: Cmd = node.host.cmd(&program).words("upgrade --binary");
    cmd.arg(NEW).words(options).within(PATIENCE).output()
}

fn runs_the_new_one(node: &mut Node) -> Result<()> {
    let keeper = node.bulkhead.service()?.pid();
    let daemon = node.bulkhead.daemon()?.context("there is no daemon")?;
    let new = fs::metadata(node.host.outside(NEW))?.len();
    for (who, pid) in [("the keeper", keeper), ("the daemon", daemon)] {
        let size = fs::metadata(format!("/proc/{pid}/exe"))?.len();
        ensure!(
            size == new,
            "{who} on {} still is the old program",
            node.host.hostname()
        );
    }
    Ok(())
}

/// Replaces some bytes of a program by others of the same length.
fn patch(path: &std::path::Path, from: &[u8], to: &[u8]) -> Result<()> {
    let bytes = fs::read(path)?;
    let mut file = File::options().write(true).open(path)?;
    let mut found = 0;
    for (at, _) in bytes
        .windows(from.len())
        .enumerate()
        .filter(|(_, part)| *part == from)
    {
        file.seek(SeekFrom::Start(at as u64))?;
        file.write_all(to)?;
        found += 1;
    }
    if found == 0 {
        bail!("{} has nothing that could be patched", path.display());
    }
    Ok(())
}

fn unhurt(loads: &Loads) -> Result<()> {
    ensure!(!loads.in_trouble(), "a container has met an error");
    Ok(())
}

/// The longest write that was under way between two moments.
fn pause(loads: &Loads, begin: Duration, end: Duration) -> Duration {
    // A write that is under way is noted when it is over.
    thread::sleep(Duration::from_millis(500));
    let notes = VOLUMES.map(|volume| loads.notes(volume));
    let gaps = notes.iter().flat_map(|notes| &notes.gaps);
    gaps.filter(|gap| gap.begin <= end && gap.end() >= begin)
        .map(|gap| gap.length)
        .max()
        .unwrap_or_default()
}

/// Ends the loads: no client failed, and every commit is there.
fn end(node: &Node, loads: &mut Loads) -> Result<Figure> {
    let begin = Instant::now();
    let done = loads.interrupt(&node.dockerd)?;
    ensure!(
        done.failures.is_empty(),
        "clients of the database failed: {:?}",
        done.failures
    );
    let troubles = loads.troubles(&node.dockerd)?;
    ensure!(
        troubles.io.is_empty() && troubles.verify.is_empty(),
        "{troubles:?}"
    );
    loads.postgres().verify(&node.dockerd, &done.commits)?;
    clear(node, loads)?;
    println!("verified within {:.0} s", begin.elapsed().as_secs_f64());
    Ok(figure(
        "commits noted / lost, failed transactions",
        format!("{} / 0, 0", done.commits.len()),
    ))
}
