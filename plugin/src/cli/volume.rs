//! `bulkhead volume`.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::args::{CreateArgs, VolumeCommand, VolumeListArgs};
use super::client::Client;
use super::delete::delete_all;
use super::print::{Lines, Printer, age, moment, span, table};
use super::progress::waiting;
use super::watch::show;
use super::{CliError, Code, life, verify};
use crate::api::encode;
use crate::options::{InlineSpec, format_size};
use crate::service::{AttachedView, ForceRequest, ForceView, ReplicaView, VerifyRequest, VolumeView};

pub(super) async fn run(
    client: &Client,
    printer: &Printer,
    command: VolumeCommand,
) -> Result<Code, CliError> {
    match command {
        VolumeCommand::Create(args) => create(client, printer, args).await,
        VolumeCommand::List(args) => {
            let look = async || {
                let mut volumes: Vec<VolumeView> = client.get("/volumes").await?;
                let is_empty = volumes.is_empty();
                volumes.retain(|volume| is_shown(volume, &args));
                Ok(Listed { is_empty, volumes })
            };
            show(printer, &args.watch, look, list).await?;
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
        VolumeCommand::Verify {
            name,
            repair,
            source,
            stop,
        } => verify::run(client, printer, &name, &VerifyRequest { repair, source }, stop).await,
        VolumeCommand::Update { name, repl, nodes } => {
            life::update(client, printer, &name, repl, nodes.as_deref()).await
        }
        VolumeCommand::ForcePrimary {
            name,
            replica,
            accept_data_loss,
        } => {
            let request = ForceRequest {
                replica,
                accept_data_loss,
            };
            force(client, printer, &name, &request).await
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

async fn force(
    client: &Client,
    printer: &Printer,
    name: &str,
    request: &ForceRequest,
) -> Result<Code, CliError> {
    let path = format!("/volumes/{}/force-primary", encode(name));
    let forced: ForceView = waiting("looking at the replica", client.post(&path, request)).await?;
    printer.value(&forced, |forced| force_screen(forced, &request.replica))?;
    Ok(if forced.new_epoch.is_some() {
        Code::Ok
    } else {
        Code::Refused
    })
}

fn force_screen(forced: &ForceView, replica: &str) -> String {
    let disk = &forced.disk;
    let mut lines = Lines::default();
    lines.line("Volume", format!("{}, {}", forced.volume, format_size(disk.size)));
    lines.line("Replica", format!("{} on {}", disk.replica, forced.node));
    let since = forced
        .since
        .map(|since| format!(" since {}", moment(since)))
        .unwrap_or_default();
    lines.line(
        "By the record",
        format!("{}{since}, epoch {}", forced.standing, forced.epoch),
    );
    lines.line(
        "On its disk",
        format!(
            "epoch {}, durable up to {}, settled up to {}, newest write {}",
            disk.epoch, disk.durable, disk.settled, disk.newest
        ),
    );
    lines.line("Last written", moment(disk.modified));
    if forced.losses.is_empty() {
        lines.line("May be lost", "nothing, as far as can be known here");
    }
    for (n, loss) in forced.losses.iter().enumerate() {
        lines.line(if n == 0 { "May be lost" } else { "" }, loss);
    }
    for (n, other) in forced.others.iter().enumerate() {
        lines.line(if n == 0 { "Others" } else { "" }, other);
    }
    lines.text("\n");
    lines.text(&match forced.new_epoch {
        Some(epoch) => format!(
            "done: the record is at epoch {epoch}, and this replica is the only one in sync; the volume can be mounted\n"
        ),
        None => format!(
            "nothing has been changed. If what may be lost is accepted: bulkhead volume force-primary {} --replica {replica} --accept-data-loss\n",
            forced.volume
        ),
    });
    lines.finish()
}

/// Volumes of a list.
#[derive(Serialize)]
#[serde(transparent)]
struct Listed {
    /// Whether there is none at all.
    #[serde(skip)]
    is_empty: bool,
    volumes: Vec<VolumeView>,
}

fn is_shown(volume: &VolumeView, args: &VolumeListArgs) -> bool {
    let is_on = |node: &String| {
        let attached = volume.attached.as_ref().is_some_and(|at| at.node == *node);
        attached || volume.replicas.iter().any(|replica| replica.node == *node)
    };
    args.filter.fits(volume.healthy, &volume.state, &volume.labels)
        && args
            .class
            .as_ref()
            .is_none_or(|class| volume.class.as_ref() == Some(class))
        && args.node.as_ref().is_none_or(is_on)
}

fn list(listed: &Listed) -> String {
    let volumes = &listed.volumes;
    if listed.is_empty {
        return "there is no volume yet; `docker volume create -d bulkhead -o size=1G NAME` makes one\n"
            .to_owned();
    }
    if volumes.is_empty() {
        return "no volume is like that; `bulkhead volume list` shows all\n".to_owned();
    }
    let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let rows: Vec<_> = volumes
        .iter()
        .map(|volume| {
            let attached = volume.attached.as_ref().map(|attached| attached.node.clone());
            [
                volume.name.clone(),
                format_size(volume.size),
                volume.fs.clone(),
                repl_word(volume),
                or_dash(&volume.class),
                or_dash(&volume.io_priority),
                or_dash(&attached),
                volume.status.clone(),
            ]
        })
        .collect();
    let headings = [
        "NAME",
        "SIZE",
        "FS",
        "REPL",
        "CLASS",
        "IO_PRIORITY",
        "ATTACHED",
        "STATUS",
    ];
    age(volumes.iter().find_map(|volume| volume.as_of)) + &table(headings, &rows)
}

/// How many replicas are sound, if not as many as there should be: `1/2`.
fn repl_word(volume: &VolumeView) -> String {
    let sound = volume.replicas.iter().filter(|replica| replica.healthy).count();
    if sound == usize::from(volume.repl) {
        volume.repl.to_string()
    } else {
        format!("{sound}/{}", volume.repl)
    }
}

fn details(volume: &VolumeView) -> String {
    let mut lines = Lines::default();
    lines.text(&age(volume.as_of));
    lines.line("Volume", &volume.name);
    lines.line("Id", &volume.id);
    lines.line("Status", &volume.status);
    lines.line("Size", format_size(volume.size));
    lines.some("Used", volume.used.map(format_size));
    let allocated = volume.allocated.map(format_size);
    lines.some("Allocated", allocated.map(|size| format!("{size} in the pool")));
    lines.line("File system", &volume.fs);
    lines.line("Replicas", volume.repl.to_string());
    for replica in &volume.replicas {
        lines.line("", format!("{}: {}", replica.node, replica_words(replica)));
        lines.line("", format!("  {} in pool {}", replica.id, replica.pool));
        if let Some(path) = &replica.path {
            lines.line("", format!("  {}", path.display()));
        }
    }
    let place = |place: &AttachedView, user: &str| {
        let since = place
            .since
            .map(|since| format!(" since {}", moment(since)))
            .unwrap_or_default();
        let by = place
            .user
            .as_ref()
            .map(|by| format!(" {user} {by}"))
            .unwrap_or_default();
        format!("{}{since}{by}", place.node)
    };
    let attached = volume.attached.as_ref();
    lines.some("Attached", attached.map(|at| format!("on {}", place(at, "by"))));
    let wanted = volume.wanted.as_ref();
    lines.some("Wanted", wanted.map(|at| format!("on {}", place(at, "for"))));
    lines.some(
        "Mounted at",
        volume.mountpoint.as_ref().map(|path| path.display().to_string()),
    );
    lines.line("Epoch", volume.epoch.to_string());
    lines.some("Class", volume.class.as_ref());
    lines.some("IO priority", volume.io_priority.as_ref());
    lines.some("Mount options", volume.mount_options.as_ref());
    lines.some("mkfs options", volume.mkfs_options.as_ref());
    if !volume.nodes.is_empty() {
        lines.line("Nodes", volume.nodes.join(", "));
    }
    lines.labels(&volume.labels);
    lines.line(
        "Created",
        humantime::format_rfc3339_seconds(volume.created_at).to_string(),
    );
    lines.finish()
}

fn replica_words(replica: &ReplicaView) -> String {
    let mut words = replica.state.clone();
    if let Some(since) = replica.since {
        words.push_str(&format!(" since {}", moment(since)));
    }
    if let Some(tick) = &replica.tick {
        words.push_str(&format!(", holds all up to tick {tick}"));
    }
    if let Some(rebuild) = &replica.rebuild {
        words.push_str(&if rebuild.total == 0 {
            ", finding out what to copy".to_owned()
        } else {
            format!(
                ", {:.0} % of {} copied, {}/s",
                rebuild.percent,
                format_size(rebuild.total),
                format_size(rebuild.speed)
            )
        });
        if let Some(seconds) = rebuild.remaining_seconds {
            words.push_str(&format!(", {} left", span(Duration::from_secs(seconds))));
        }
    }
    if let Some(trouble) = &replica.trouble {
        words.push_str(&format!(": {trouble}"));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{RebuildView, ReplicaDiskView};
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    fn replica(node: &str, state: &str, healthy: bool) -> ReplicaView {
        ReplicaView {
            id: format!("id-of-{node}"),
            node: node.to_owned(),
            pool: "p1".to_owned(),
            state: state.to_owned(),
            healthy,
            since: None,
            tick: None,
            path: None,
            rebuild: None,
            trouble: None,
        }
    }

    fn volume() -> VolumeView {
        VolumeView {
            name: "v1".to_owned(),
            id: "1d".to_owned(),
            created_at: SystemTime::UNIX_EPOCH,
            mountpoint: None,
            state: "degraded".to_owned(),
            status: "up, attached on n1, degraded".to_owned(),
            healthy: false,
            size: 10 << 30,
            allocated: None,
            used: None,
            fs: "ext4".to_owned(),
            repl: 2,
            io_priority: None,
            class: None,
            nodes: Vec::new(),
            labels: BTreeMap::new(),
            mount_options: None,
            mkfs_options: None,
            replicas: vec![
                ReplicaView {
                    path: Some("/pool/v1".into()),
                    ..replica("n1", "in sync", true)
                },
                ReplicaView {
                    since: Some(SystemTime::now() - Duration::from_secs(70)),
                    tick: Some("5.12".to_owned()),
                    rebuild: Some(RebuildView {
                        copied: 2 << 30,
                        total: 5 << 30,
                        percent: 40.0,
                        speed: 100 << 20,
                        remaining_seconds: Some(31),
                    }),
                    ..replica("n2", "being rebuilt", false)
                },
            ],
            attached: Some(AttachedView {
                node: "n1".to_owned(),
                since: None,
                user: Some("container db".to_owned()),
            }),
            wanted: None,
            epoch: 7,
            as_of: None,
        }
    }

    fn listed(volume: VolumeView) -> Listed {
        Listed {
            is_empty: false,
            volumes: vec![volume],
        }
    }

    #[test]
    fn replicas_are_shown_with_what_is_wrong_and_how_long_it_takes() {
        let text = details(&volume());
        for part in [
            "n1: in sync\n",
            "/pool/v1\n",
            "n2: being rebuilt since",
            "(1m 10s ago), holds all up to tick 5.12, 40 % of 5 GiB copied, 100 MiB/s, 31s left\n",
            "Attached        on n1 by container db\n",
            "Epoch           7\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let row = list(&listed(volume()));
        assert!(row.contains("  1/2  "), "{row}");
        let mut old = volume();
        old.as_of = Some(SystemTime::now());
        old.replicas[1] = replica("n2", "in sync", true);
        let row = list(&listed(old));
        assert!(
            row.starts_with("! the store is away") && row.contains("  2  "),
            "{row}"
        );
    }

    #[test]
    fn what_force_would_lose_is_told_before_anything_is_done() {
        let forced = ForceView {
            volume: "v1".to_owned(),
            node: "n2".to_owned(),
            standing: "out of date".to_owned(),
            since: None,
            disk: ReplicaDiskView {
                path: "/pool/v1".into(),
                cluster: String::new(),
                volume: String::new(),
                replica: "r2".to_owned(),
                size: 1 << 30,
                data_length: 1 << 30,
                allocated: 0,
                epoch: 4,
                durable: "4.7".to_owned(),
                settled: "4.8".to_owned(),
                newest: "4.9".to_owned(),
                whole: true,
                clean: false,
                failed: None,
                chunk_size: 1 << 16,
                chunks: 16384,
                chunks_written: 0,
                chunks_unsettled: 0,
                chunks_suspect: 0,
                regions_set: 0,
                regions: 256,
                superblocks_sound: true,
                incarnation: String::new(),
                modified: SystemTime::now(),
            },
            epoch: 6,
            new_epoch: None,
            losses: vec!["one".to_owned(), "two".to_owned()],
            others: vec!["n1 goes".to_owned()],
        };
        let text = force_screen(&forced, "n2");
        for part in [
            "r2 on n2",
            "out of date, epoch 6",
            "durable up to 4.7",
            "May be lost     one\n                two\n",
            "Others          n1 goes",
            "nothing has been changed",
            "bulkhead volume force-primary v1 --replica n2 --accept-data-loss\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let done = ForceView {
            new_epoch: Some(7),
            ..forced
        };
        assert!(force_screen(&done, "n2").contains("done: the record is at epoch 7"));
    }
}
