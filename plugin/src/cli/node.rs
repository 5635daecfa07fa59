//! `bulkhead node`.

use std::collections::{BTreeMap, BTreeSet};

use super::args::NodeCommand;
use super::client::Client;
use super::print::{Lines, Printer, age, moment, table};
use super::progress::waiting;
use super::watch::show;
use super::{CliError, Code, life, removal};
use crate::api::encode;
use crate::options::{check_label, format_size};
use crate::service::{LabelChange, NodeView};

pub(super) async fn run(client: &Client, printer: &Printer, command: NodeCommand) -> Result<Code, CliError> {
    match command {
        NodeCommand::List(args) => {
            let look = async || {
                let mut nodes: Vec<NodeView> = client.get("/nodes").await?;
                nodes.retain(|node| args.filter.fits(node.healthy, &node.state, &node.labels));
                Ok(nodes)
            };
            show(printer, &args.watch, look, |nodes| list(nodes)).await?;
        }
        NodeCommand::Inspect { names } => {
            let mut nodes: Vec<NodeView> = Vec::new();
            for name in meant(client, names).await? {
                nodes.push(client.get(&format!("/nodes/{}", encode(&name))).await?);
            }
            printer.value(&nodes, |nodes| {
                nodes.iter().map(details).collect::<Vec<_>>().join("\n")
            })?;
        }
        NodeCommand::Drain {
            name,
            undo,
            dry_run,
            no_wait,
        } => {
            let wish = life::Drain {
                undo,
                dry_run,
                wait: !no_wait,
            };
            return life::drain(client, printer, &name, &wish).await;
        }
        NodeCommand::Maintenance(command) => return life::maintenance(client, printer, &command).await,
        NodeCommand::Decommission { name, dry_run } => {
            return life::decommission(client, printer, &name, dry_run).await;
        }
        NodeCommand::Wipe(args) => return removal::wipe(client, printer, args).await,
        NodeCommand::Label { name, labels } => {
            let change = changes(&labels)?;
            let path = format!("/nodes/{}/labels", encode(&name));
            let node: NodeView = waiting("changing the labels", client.post(&path, &change)).await?;
            printer.value(&node, |node| {
                format!(
                    "node {} has the labels {}\n",
                    node.name,
                    labels_word(&node.labels)
                )
            })?;
        }
    }
    Ok(Code::Ok)
}

/// The nodes that are named, or the one that is asked.
async fn meant(client: &Client, names: Vec<String>) -> Result<Vec<String>, CliError> {
    if !names.is_empty() {
        return Ok(names);
    }
    let nodes: Vec<NodeView> = client.get("/nodes").await?;
    Ok(nodes
        .into_iter()
        .filter(|node| node.this)
        .map(|node| node.id)
        .collect())
}

/// What `k=v` and `k-` mean.
fn changes(labels: &[String]) -> Result<LabelChange, CliError> {
    let (mut set, mut remove) = (BTreeMap::new(), BTreeSet::new());
    for label in labels {
        let fail = |why: &str| CliError::Usage(format!("label {label:?} {why}"));
        if let Some((name, value)) = label.split_once('=') {
            check_label(name, value).map_err(fail)?;
            let earlier = set.insert(name.to_owned(), value.to_owned());
            if earlier.is_some_and(|earlier| earlier != value) {
                return Err(fail("is given twice, with different values"));
            }
        } else if let Some(name) = label.strip_suffix('-').filter(|name| !name.is_empty()) {
            remove.insert(name.to_owned());
        } else {
            return Err(fail(
                "is neither KEY=VALUE, which sets one, nor KEY-, which removes one",
            ));
        }
    }
    if let Some(both) = remove.iter().find(|name| set.contains_key(*name)) {
        return Err(CliError::Usage(format!(
            "label {both:?} is to be set and removed at once; say one of the two"
        )));
    }
    Ok(LabelChange { set, remove })
}

fn labels_word(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return "-".to_owned();
    }
    let labels: Vec<String> = labels
        .iter()
        .map(|(label, value)| format!("{label}={value}"))
        .collect();
    labels.join(",")
}

fn list(nodes: &[NodeView]) -> String {
    let rows: Vec<_> = nodes
        .iter()
        .map(|node| {
            let sum =
                |of: fn(&crate::service::NodePoolView) -> u64| format_size(node.pools.iter().map(of).sum());
            [
                node.name.clone(),
                node.state.clone(),
                node.data_address.clone().unwrap_or_else(|| "-".to_owned()),
                node.version.clone(),
                node.pools.len().to_string(),
                sum(|pool| pool.capacity),
                sum(|pool| pool.promised),
                sum(|pool| pool.free),
                node.replicas.to_string(),
                node.attached.to_string(),
                labels_word(&node.labels),
            ]
        })
        .collect();
    let headings = [
        "NAME", "STATE", "ADDRESS", "VERSION", "POOLS", "CAPACITY", "PROMISED", "FREE", "REPLICAS",
        "ATTACHED", "LABELS",
    ];
    let as_of = nodes.iter().find_map(|node| node.as_of);
    age(as_of) + &table(headings, &rows)
}

fn details(node: &NodeView) -> String {
    let mut lines = Lines::default();
    lines.text(&age(node.as_of));
    let this = if node.this { " (this node)" } else { "" };
    lines.line("Node", format!("{}{this}", node.name));
    lines.line("Id", &node.id);
    lines.line("State", format!("{}: {}", node.state, node.status));
    lines.some("Since", node.since.map(moment));
    lines.line("Version", &node.version);
    lines.some("Data address", node.data_address.as_ref());
    lines.some("API address", node.management_address.as_ref());
    lines.labels(&node.labels);
    lines.line("Joined", moment(node.joined_at));
    if node.pools.is_empty() {
        lines.line("Pools", "none");
    }
    for pool in &node.pools {
        lines.line("Pool", format!("{} is {}", pool.id, pool.state));
        lines.line(
            "",
            format!(
                "{}, priority {}, {} of {} free, {} of {} promised to {} replica{}",
                pool.medium,
                pool.priority,
                format_size(pool.free),
                format_size(pool.capacity),
                format_size(pool.promised),
                format_size(pool.promisable),
                pool.replicas,
                if pool.replicas == 1 { "" } else { "s" },
            ),
        );
    }
    lines.line(
        "Volumes",
        format!("{} replicas, {} attached", node.replicas, node.attached),
    );
    for volume in &node.volumes {
        let replica = volume.replica.as_deref().map(|state| format!("replica {state}"));
        let attached = volume.attached.then(|| "attached here".to_owned());
        let parts: Vec<String> = replica.into_iter().chain(attached).collect();
        lines.line("", format!("{}: {}", volume.name, parts.join(", ")));
    }
    lines.finish()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::service::{NodePoolView, NodeVolumeView};
    use std::time::{Duration, SystemTime};

    fn node() -> NodeView {
        NodeView {
            name: "n1".to_owned(),
            id: "1d".to_owned(),
            this: true,
            state: "storage degraded".to_owned(),
            status: "up, but not all of its pools are there".to_owned(),
            healthy: false,
            since: Some(SystemTime::now() - Duration::from_secs(30)),
            version: "0.1.0".to_owned(),
            data_address: Some("10.0.0.1:7481".to_owned()),
            management_address: None,
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            joined_at: SystemTime::UNIX_EPOCH,
            pools: vec![NodePoolView {
                id: "p1".to_owned(),
                medium: "solid".to_owned(),
                priority: "high".to_owned(),
                capacity: 10 << 30,
                free: 4 << 30,
                promised: 15 << 30,
                promisable: 20 << 30,
                replicas: 1,
                state: "down".to_owned(),
            }],
            replicas: 1,
            attached: 1,
            volumes: vec![NodeVolumeView {
                name: "v1".to_owned(),
                replica: Some("in sync".to_owned()),
                attached: true,
            }],
            as_of: None,
        }
    }

    #[test]
    fn a_node_in_a_row_and_in_full() {
        let row = list(&[node()]);
        assert!(row.starts_with("NAME"), "{row}");
        for part in [
            "storage degraded",
            "10.0.0.1:7481",
            "10 GiB",
            "15 GiB",
            "4 GiB",
            "zone=a",
        ] {
            assert!(row.contains(part), "{part}: {row}");
        }
        let text = details(&node());
        for part in [
            "n1 (this node)",
            "storage degraded: up, but",
            "(30s ago)",
            "p1 is down",
            "solid, priority high, 4 GiB of 10 GiB free, 15 GiB of 20 GiB promised to 1 replica\n",
            "v1: replica in sync, attached here",
            "Label           zone=a",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let old = NodeView {
            as_of: Some(SystemTime::now()),
            ..node()
        };
        assert!(details(&old).starts_with("! the store is away"));
        assert!(list(&[old]).starts_with("! the store is away"));
    }

    #[test]
    fn labels_are_set_and_removed() {
        let given = |labels: &[&str]| {
            let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
            changes(&labels)
        };
        let change = given(&["zone=a", "rack-", "note=a-", "zone=a"]).expect("sound");
        assert_eq!(change.set.len(), 2);
        assert_eq!(change.set["note"], "a-");
        assert!(change.remove.contains("rack"));
        for (labels, part) in [
            (vec!["zone"], "neither"),
            (vec!["-"], "neither"),
            (vec!["=a"], "too short"),
            (vec!["zone=a", "zone=b"], "twice"),
            (vec!["zone=a", "zone-"], "at once"),
            (vec!["zone=a,b"], "comma"),
        ] {
            let refused = given(&labels).err().map(|error| error.to_string());
            assert!(
                refused.as_ref().is_some_and(|text| text.contains(part)),
                "{labels:?}: {refused:?}"
            );
        }
    }
}
