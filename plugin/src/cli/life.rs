//! The life of nodes and volumes: `node drain`, `maintenance`, `decommission`, and `volume update`.

use std::time::Duration;

use tokio::time::sleep;

use super::args::MaintenanceCommand;
use super::client::Client;
use super::print::Printer;
use super::progress::{Progress, waiting};
use super::{CliError, Code};
use crate::api::encode;
use crate::service::{Duty, DutyRequest, DutyView, VolumeUpdate, VolumeView};

/// Between looks at how far it is.
const PAUSE: Duration = Duration::from_secs(1);

/// What is wanted of `node drain`.
pub(super) struct Drain {
    pub(super) undo: bool,
    pub(super) dry_run: bool,
    pub(super) wait: bool,
}

fn path(name: &str) -> String {
    format!("/nodes/{}/duty", encode(name))
}

async fn set(client: &Client, name: &str, duty: Duty, dry_run: bool) -> Result<DutyView, CliError> {
    let request = DutyRequest { duty, dry_run };
    waiting(
        &format!("changing node {name}"),
        client.put(&path(name), &request),
    )
    .await
}

pub(super) async fn drain(
    client: &Client,
    printer: &Printer,
    name: &str,
    wish: &Drain,
) -> Result<Code, CliError> {
    if wish.undo {
        let view = set(client, name, Duty::Full, false).await?;
        printer.value(&view, |view| {
            format!("node {} is in full service\n", view.node.name)
        })?;
        return Ok(Code::Ok);
    }
    let mut view = set(client, name, Duty::Drained, wish.dry_run).await?;
    if wish.wait && !wish.dry_run {
        let mut progress = Progress::new();
        // What waits for somebody is not waited for: it is said, and the rest goes on by itself.
        while view.moving > 0 {
            progress.show(&format!("draining node {name}: {} left", view.left.len()));
            sleep(PAUSE).await;
            view = client.get(&path(name)).await?;
        }
    }
    printer.value(&view, |view| drained(view, wish.dry_run))?;
    Ok(if view.left.is_empty() || wish.dry_run || !wish.wait {
        Code::Ok
    } else {
        Code::Unhealthy
    })
}

fn drained(view: &DutyView, dry_run: bool) -> String {
    let name = &view.node.name;
    let left: String = view.left.iter().map(|left| format!("  {left}\n")).collect();
    match (dry_run, view.left.len()) {
        (true, 0) => format!("node {name} has nothing that would have to be moved\n"),
        (true, count) => format!("node {name} has {count} things that would have to be moved:\n{left}"),
        (false, 0) => {
            format!(
                "node {name} is empty; `bulkhead node decommission {name}` gives it up, once its daemon is stopped\n"
            )
        }
        (false, count) => format!("node {name} gets nothing new; {count} things are left on it:\n{left}"),
    }
}

pub(super) async fn maintenance(
    client: &Client,
    printer: &Printer,
    command: &MaintenanceCommand,
) -> Result<Code, CliError> {
    let (name, duty) = match command {
        MaintenanceCommand::Enter { name } => (name, Duty::Maintenance),
        MaintenanceCommand::Exit { name } => (name, Duty::Full),
    };
    let view = set(client, name, duty, false).await?;
    printer.value(&view, |view| match duty {
        Duty::Maintenance => format!(
            "node {0} is under maintenance; `bulkhead node maintenance exit {0}` ends that\n",
            view.node.name
        ),
        _ => format!(
            "node {} is in full service; its replicas catch up\n",
            view.node.name
        ),
    })?;
    Ok(Code::Ok)
}

pub(super) async fn decommission(
    client: &Client,
    printer: &Printer,
    name: &str,
    dry_run: bool,
) -> Result<Code, CliError> {
    let view = set(client, name, Duty::Decommissioned, dry_run).await?;
    printer.value(&view, |view| {
        let name = &view.node.name;
        let left: String = view.left.iter().map(|left| format!("  {left}\n")).collect();
        if dry_run {
            format!("node {name} can be given up\n{left}")
        } else if view.left.is_empty() {
            format!("node {name} is given up; it is forgotten as soon as its daemon gives no sign of life\n")
        } else {
            format!("node {name} is given up; its replicas are made anew elsewhere:\n{left}")
        }
    })?;
    Ok(Code::Ok)
}

pub(super) async fn update(
    client: &Client,
    printer: &Printer,
    name: &str,
    repl: Option<u8>,
    nodes: Option<&str>,
) -> Result<Code, CliError> {
    if repl.is_none() && nodes.is_none() {
        return Err(CliError::Usage(
            "say what is to be different: --repl or --nodes".to_owned(),
        ));
    }
    let split = |nodes: &str| {
        let names = nodes
            .split([',', ';'])
            .map(str::trim)
            .filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    };
    let update = VolumeUpdate {
        repl,
        nodes: nodes.map(split),
    };
    let what = format!("changing volume {name}");
    let view: VolumeView = waiting(
        &what,
        client.patch(&format!("/volumes/{}", encode(name)), &update),
    )
    .await?;
    printer.value(&view, updated)?;
    Ok(Code::Ok)
}

fn updated(view: &VolumeView) -> String {
    let sound = view.replicas.iter().filter(|replica| replica.healthy).count();
    let when = if view.attached.is_some() {
        "they are made and removed while it is used"
    } else {
        "they are made and removed after a while, or as soon as it is mounted"
    };
    if sound == usize::from(view.repl) {
        return format!("volume {} has {sound} replicas in sync, as wanted\n", view.name);
    }
    format!(
        "volume {} is to have {} replicas, and has {sound} in sync; {when}\n",
        view.name, view.repl
    )
}
