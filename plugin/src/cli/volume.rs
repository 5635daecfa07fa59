//! `bulkhead volume`.

use std::fmt::Write;

use serde_json::json;

use super::args::{CreateArgs, VolumeCommand};
use super::client::Client;
use super::delete::delete_all;
use super::print::{Printer, table};
use super::progress::waiting;
use super::{CliError, Code};
use crate::api::encode;
use crate::options::{InlineSpec, format_size};
use crate::service::VolumeView;

pub(super) async fn run(
    client: &Client,
    printer: &Printer,
    command: VolumeCommand,
) -> Result<Code, CliError> {
    match command {
        VolumeCommand::Create(args) => create(client, printer, args).await,
        VolumeCommand::List => {
            let volumes: Vec<VolumeView> = client.get("/volumes").await?;
            printer.value(&volumes, |volumes| list(volumes))?;
            Ok(Code::Ok)
        }
        VolumeCommand::Inspect { names } => {
            let mut volumes: Vec<VolumeView> = Vec::new();
            for name in &names {
                volumes.push(client.get(&format!("/volumes/{}", encode(name))).await?);
            }
            printer.value(&volumes, |volumes| {
                volumes.iter().map(details).collect::<Vec<_>>().join("\n")
            })?;
            Ok(Code::Ok)
        }
        VolumeCommand::Delete { names } => delete_all(client, printer, "volume", "/volumes", &names).await,
    }
}

async fn create(client: &Client, printer: &Printer, args: CreateArgs) -> Result<Code, CliError> {
    let more = [("class", args.class), ("nodes", args.nodes)];
    let options = args.spec.options(more).map_err(CliError::Usage)?;
    // Checked here too: what is not understood needs no daemon to be refused.
    let further = options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    InlineSpec::parse(&args.name)?.request_with(further)?;
    let body = json!({ "name": args.name, "options": options });
    let what = format!("creating volume {}", args.name);
    let volume: VolumeView = waiting(&what, client.post("/volumes", &body)).await?;
    printer.value(&volume, |volume| {
        format!(
            "volume {} is ready: {}, {}, {} replica{}\n",
            volume.name,
            format_size(volume.size),
            volume.fs,
            volume.repl,
            if volume.repl == 1 { "" } else { "s" }
        )
    })?;
    Ok(Code::Ok)
}

fn list(volumes: &[VolumeView]) -> String {
    if volumes.is_empty() {
        return "there is no volume yet; `docker volume create -d bulkhead -o size=1G NAME` makes one\n"
            .to_owned();
    }
    let rows: Vec<_> = volumes
        .iter()
        .map(|volume| {
            [
                volume.name.clone(),
                format_size(volume.size),
                volume.fs.clone(),
                volume.repl.to_string(),
                volume.class.clone().unwrap_or_else(|| "-".to_owned()),
                volume.io_priority.clone().unwrap_or_else(|| "-".to_owned()),
                volume
                    .attached
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |attached| attached.node.clone()),
                volume.status.clone(),
            ]
        })
        .collect();
    table(
        [
            "NAME",
            "SIZE",
            "FS",
            "REPL",
            "CLASS",
            "IO_PRIORITY",
            "ATTACHED",
            "STATUS",
        ],
        &rows,
    )
}

fn details(volume: &VolumeView) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<14}{value}");
    };
    line("Volume", volume.name.clone());
    line("Id", volume.id.clone());
    line("Status", volume.status.clone());
    line("Size", format_size(volume.size));
    if let Some(used) = volume.used {
        line("Used", format_size(used));
    }
    if let Some(allocated) = volume.allocated {
        line("Allocated", format!("{} in the pool", format_size(allocated)));
    }
    line("File system", volume.fs.clone());
    line("Replicas", volume.repl.to_string());
    for replica in &volume.replicas {
        line(
            "",
            format!("{} on {}, pool {}", replica.state, replica.node, replica.pool),
        );
    }
    if let Some(attached) = &volume.attached {
        let since = attached
            .since
            .map(|since| format!(" since {}", humantime::format_rfc3339_seconds(since)))
            .unwrap_or_default();
        line("Attached", format!("on {}{since}", attached.node));
    }
    if let Some(mountpoint) = &volume.mountpoint {
        line("Mounted at", mountpoint.display().to_string());
    }
    for (key, value) in [
        ("Class", &volume.class),
        ("IO priority", &volume.io_priority),
        ("Mount options", &volume.mount_options),
        ("mkfs options", &volume.mkfs_options),
    ] {
        if let Some(value) = value {
            line(key, value.clone());
        }
    }
    if !volume.nodes.is_empty() {
        line("Nodes", volume.nodes.join(", "));
    }
    for (label, value) in &volume.labels {
        line("Label", format!("{label}={value}"));
    }
    line(
        "Created",
        humantime::format_rfc3339_seconds(volume.created_at).to_string(),
    );
    text
}
