//! `bulkhead node wipe` and `bulkhead uninstall`: what takes Bulkhead off a machine. Both say first what would go, and do it
//! only when told to; neither takes what the cluster counts on, unless somebody insists.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::args::RemovalArgs;
use super::client::Client;
use super::print::Printer;
use super::progress::waiting;
use super::{CliError, Code, upgrade};
use crate::config::{self, Config};
use crate::daemon::wipe::{Going, Wipe, WipeError};
use crate::service::{NodeView, PoolView, StatusView, VolumeView};

/// How long the daemon may take to end, with all that it has mounted.
const STOP: Duration = Duration::from_secs(100);
/// How long systemd may take.
const SYSTEMD: Duration = Duration::from_secs(120);
/// Between looks.
const PAUSE: Duration = Duration::from_millis(200);
/// Where units are that were not put there by a package.
const UNITS: [&str; 2] = ["/etc/systemd/system", "/usr/local/lib/systemd/system"];
/// Where packages put theirs: stopped, and left to them.
const PACKAGED: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
/// The log of a daemon without systemd, as the generated script starts it.
const LOG: &str = "/var/log/bulkhead.log";

pub(super) async fn wipe(client: &Client, printer: &Printer, args: RemovalArgs) -> Result<Code, CliError> {
    if runs(client).await.is_some() {
        return Err(CliError::Refused(
            "the daemon runs; stop it first (systemctl stop bulkhead.service bulkhead.socket)".to_owned(),
        ));
    }
    let Some(wipe) = begin(args.configured(client.socket())?).await? else {
        printer.value(&json!({ "going": [] }), |_| {
            "there is no node on this machine\n".to_owned()
        })?;
        return Ok(Code::Ok);
    };
    let going = wipe.going();
    let obstacle = unneeded(&wipe).await.err().filter(|_| !args.force);
    if !args.yes || obstacle.is_some() {
        close(wipe).await;
        return shown(printer, &args, "wipe this node", &going, obstacle);
    }
    leave(&wipe, args.force).await?;
    let stays = finish(wipe).await?;
    done(
        printer,
        "this node is wiped; its daemon starts as a new one",
        &going,
        &stays,
    )
}

pub(super) async fn uninstall(
    client: &Client,
    printer: &Printer,
    args: RemovalArgs,
) -> Result<Code, CliError> {
    let config = args.configured(client.socket())?;
    let daemon = runs(client).await;
    let (mut wipe, mut going, obstacle) = match &daemon {
        Some(status) => {
            if Wipe::whose(&config).map_err(|error| said(&error))?.as_ref() != Some(&status.node_id) {
                return Err(CliError::Refused(format!(
                    "the daemon at {} is not the one whose state is in {}; name its settings, as --state-dir",
                    client.socket().display(),
                    config.state_dir.display()
                )));
            }
            let going = of_daemon(client, status, &config).await?;
            (None, going, unused(client, status).await.err())
        }
        None => {
            let wipe = begin(config.clone()).await?;
            let going = wipe.as_ref().map(Wipe::going).unwrap_or_default();
            let obstacle = match &wipe {
                Some(wipe) => unneeded(wipe).await.err(),
                None => None,
            };
            (wipe, going, obstacle)
        }
    };
    let installed = installed(&args);
    going.extend(installed.iter().cloned());
    let obstacle = obstacle.filter(|_| !args.force);
    if !args.yes || obstacle.is_some() {
        if let Some(wipe) = wipe {
            close(wipe).await;
        }
        return shown(printer, &args, "take Bulkhead off this machine", &going, obstacle);
    }
    if daemon.is_some() {
        stop(client).await?;
        wipe = begin(config).await?;
    }
    let mut stays = Vec::new();
    if let Some(wipe) = wipe {
        // Once more, by the store's own word: the daemon may have been told of something meanwhile.
        if let Err(error) = unneeded(&wipe).await
            && !args.force
        {
            close(wipe).await;
            return Err(error);
        }
        leave(&wipe, args.force).await?;
        stays = finish(wipe).await?;
    }
    for thing in &installed {
        fs::remove_file(&thing.path)
            .or_else(|error| if thing.path.exists() { Err(error) } else { Ok(()) })
            .map_err(|error| CliError::Failed(format!("{}: {error}", thing.path.display())))?;
    }
    // Only if nothing else is in it.
    let _ = fs::remove_dir("/etc/bulkhead");
    if Path::new("/run/systemd/system").exists() {
        systemctl(&["daemon-reload"]).await?;
    }
    done(printer, "Bulkhead is off this machine", &going, &stays)
}

/// The daemon's own word, if it runs.
async fn runs(client: &Client) -> Option<StatusView> {
    client.get("/status").await.ok()
}

async fn begin(config: Config) -> Result<Option<Wipe>, CliError> {
    blocking(move || Wipe::begin(config)).await
}

async fn finish(wipe: Wipe) -> Result<Vec<String>, CliError> {
    waiting("taking it away", blocking(move || wipe.finish())).await
}

async fn close(wipe: Wipe) {
    let _ = tokio::task::spawn_blocking(move || wipe.give_up()).await;
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WipeError> + Send + 'static,
) -> Result<T, CliError> {
    let worked = tokio::task::spawn_blocking(work).await;
    let worked = worked.map_err(|error| CliError::Failed(error.to_string()))?;
    worked.map_err(|error| said(&error))
}

fn said(error: &WipeError) -> CliError {
    match error {
        WipeError::Failed { .. } => CliError::Failed(error.to_string()),
        WipeError::Running(_) | WipeError::Unknown(_) => CliError::Refused(error.to_string()),
    }
}

/// Refuses while the cluster counts on the node.
async fn unneeded(wipe: &Wipe) -> Result<(), CliError> {
    let needed = wipe.needed_for().await.map_err(|error| said(&error))?;
    if needed.is_empty() {
        return Ok(());
    }
    Err(CliError::Refused(needed_words(&needed)))
}

/// The cluster forgets it; where somebody insists, it has to be given up from another node.
async fn leave(wipe: &Wipe, force: bool) -> Result<(), CliError> {
    match wipe.leave().await {
        Err(error) if !force => Err(said(&error)),
        _ => Ok(()),
    }
}

fn needed_words(volumes: &[String]) -> String {
    format!(
        "the cluster counts on this node for {}: drain it first (`bulkhead node drain`), or delete them; --force goes on all the same, and what only this node has is lost",
        volumes.join(", ")
    )
}

/// The same while the daemon runs, by its own word; and nothing may be in use here.
async fn unused(client: &Client, status: &StatusView) -> Result<(), CliError> {
    let volumes: Vec<VolumeView> = client.get("/volumes").await?;
    let used: Vec<&str> = volumes
        .iter()
        .filter(|volume| volume.attached.as_ref().is_some_and(|at| at.node == status.node))
        .map(|volume| volume.name.as_str())
        .collect();
    if !used.is_empty() {
        return Err(CliError::Refused(format!(
            "volumes are in use on this node: {}; stop the containers that use them first",
            used.join(", ")
        )));
    }
    let node: NodeView = client
        .get(&format!("/nodes/{}", crate::api::encode(&status.node_id)))
        .await?;
    let needed: Vec<String> = node.volumes.into_iter().map(|volume| volume.name).collect();
    if needed.is_empty() || node.state == "decommissioned" {
        return Ok(());
    }
    Err(CliError::Refused(needed_words(&needed)))
}

/// What goes where a daemon runs.
async fn of_daemon(client: &Client, status: &StatusView, config: &Config) -> Result<Vec<Going>, CliError> {
    let pools: Vec<PoolView> = client.get("/pools").await?;
    let pool = |pool: &PoolView| Going {
        what: format!("the pool in it, with {} replicas", pool.replicas),
        path: pool.device.clone(),
    };
    let mut going = vec![Going {
        what: format!("the daemon of node {}", status.node),
        path: client.socket().to_owned(),
    }];
    going.extend(pools.iter().map(pool));
    going.push(Going {
        what: "what its daemon keeps".to_owned(),
        path: config.state_dir.clone(),
    });
    Ok(going)
}

/// What was put in place besides the node itself.
fn installed(args: &RemovalArgs) -> Vec<Going> {
    let thing = |what: &str, path: PathBuf| Going {
        what: what.to_owned(),
        path,
    };
    let file = args.config.clone().unwrap_or_else(|| config::DEFAULT_FILE.into());
    let mut before = file.clone().into_os_string();
    before.push(".before");
    let mut things = vec![
        thing("the configuration", file),
        thing("an earlier configuration", before.into()),
        thing("the log", LOG.into()),
    ];
    for dir in UNITS {
        for name in ["bulkhead.service", "bulkhead.socket"] {
            things.push(thing("a unit of systemd", Path::new(dir).join(name)));
        }
    }
    // Only where it was installed: a build is not.
    let exe = std::env::current_exe().unwrap_or_default();
    let Some(prefix) = exe
        .parent()
        .filter(|dir| dir.ends_with("bin"))
        .and_then(Path::parent)
    else {
        return there(things);
    };
    let share = prefix.join("share");
    for path in [
        "bash-completion/completions/bulkhead",
        "zsh/site-functions/_bulkhead",
        "fish/vendor_completions.d/bulkhead.fish",
    ] {
        things.push(thing("a completion script", share.join(path)));
    }
    for page in fs::read_dir(share.join("man/man1"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = page.file_name().to_string_lossy().into_owned();
        if name == "bulkhead.1" || (name.starts_with("bulkhead-") && name.ends_with(".1")) {
            things.push(thing("a manual page", page.path()));
        }
    }
    let previous = upgrade::previous(&exe);
    things.push(thing("the program", exe));
    things.push(thing("the program before the last upgrade", previous));
    there(things)
}

fn there(mut things: Vec<Going>) -> Vec<Going> {
    things.retain(|thing| thing.path.exists());
    things
}

/// Ends the daemon in order, and keeps it from starting again.
async fn stop(client: &Client) -> Result<(), CliError> {
    let is_unit = |dir: &&str| Path::new(dir).join("bulkhead.service").exists();
    if Path::new("/run/systemd/system").exists() && UNITS.iter().chain(&PACKAGED).any(is_unit) {
        systemctl(&["disable", "--now", "bulkhead.socket", "bulkhead.service"]).await?;
    }
    let stopped = async {
        let end = Instant::now() + STOP;
        let mut told = false;
        while let Ok(stream) = UnixStream::connect(client.socket()).await {
            // Whoever answers there, and nobody else.
            if !told && let Some(pid) = stream.peer_cred().ok().and_then(|peer| peer.pid()) {
                told = kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok();
            }
            if Instant::now() >= end {
                return Err(CliError::Failed(format!(
                    "the daemon did not end within {} s; its log says why",
                    STOP.as_secs()
                )));
            }
            sleep(PAUSE).await;
        }
        Ok(())
    };
    waiting("stopping the daemon", stopped).await
}

async fn systemctl(arguments: &[&str]) -> Result<(), CliError> {
    let run = Command::new("systemctl")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let failed = |why: String| CliError::Failed(format!("systemctl {}: {why}", arguments.join(" ")));
    match timeout(SYSTEMD, run).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("it did not end within {} s", SYSTEMD.as_secs()))),
    }
}

fn lines(going: &[Going]) -> String {
    going
        .iter()
        .map(|thing| format!("  {}  {}\n", thing.path.display(), thing.what))
        .collect()
}

/// Says what would go, and what is in the way; refuses if it was to be done.
fn shown(
    printer: &Printer,
    args: &RemovalArgs,
    what: &str,
    going: &[Going],
    obstacle: Option<CliError>,
) -> Result<Code, CliError> {
    let obstacle = match obstacle {
        Some(error) if args.yes => return Err(error),
        Some(error) => Some(error.to_string()),
        None => None,
    };
    printer.value(&json!({ "going": going, "refused": obstacle }), |_| {
        if going.is_empty() {
            return "there is nothing of Bulkhead on this machine\n".to_owned();
        }
        let then = match &obstacle {
            Some(why) => format!("nothing has been changed, and --yes is refused: {why}"),
            None => "nothing has been changed; --yes does it".to_owned(),
        };
        format!("to {what} would remove:\n{}{then}\n", lines(going))
    })?;
    Ok(Code::Ok)
}

fn done(printer: &Printer, what: &str, going: &[Going], stays: &[String]) -> Result<Code, CliError> {
    printer.value(&json!({ "gone": going, "stays": stays }), |_| {
        let stays: String = stays.iter().map(|left| format!("  stays: {left}\n")).collect();
        format!("{}{what}\n{stays}", lines(going))
    })?;
    Ok(Code::Ok)
}
