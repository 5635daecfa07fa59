//! Labels on Swarm's nodes that follow the replicas: `bulkhead.volume.NAME=true` where the volume has a replica in sync, so that
//! a constraint runs a task next to its data. Every node tells the cluster what Swarm calls it; the one whose dockerd leads the
//! Swarm keeps the labels. Touches no label of another name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::schema::VolumeState;
use bulkhead_engine::ids::NodeId;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::context::Daemon;
use super::docker_api::DockerApi;

/// What the names of our labels begin with; a volume's name follows.
const PREFIX: &str = "bulkhead.volume.";
/// Between looks when nothing changes: somebody may have edited a label, or the Swarm has another leader.
const LOOK: Duration = Duration::from_secs(10);
/// The shortest time between looks: many records change at once.
const PACE: Duration = Duration::from_secs(1);
/// For one answer of dockerd.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    #[serde(default)]
    swarm: InfoSwarm,
}

#[derive(Default, Deserialize)]
struct InfoSwarm {
    #[serde(rename = "NodeID", default)]
    node_id: String,
    #[serde(rename = "ControlAvailable", default)]
    control_available: bool,
}

/// A node as Swarm has it. The spec is kept whole: an update replaces all of it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SwarmNode {
    #[serde(rename = "ID")]
    id: String,
    version: Version,
    spec: Map<String, Value>,
    manager_status: Option<ManagerStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ManagerStatus {
    #[serde(default)]
    leader: bool,
}

/// Keeps the labels in step until `stop` says so, if it is asked for.
pub(super) async fn keep_labels(daemon: Arc<Daemon>, mut stop: watch::Receiver<bool>) {
    let docker = &daemon.config.docker;
    if !docker.swarm_labels.0 || docker.api.as_os_str().is_empty() {
        return;
    }
    let docker = DockerApi::at(&docker.api);
    let work = async {
        let mut changes = daemon.catalogue.changes();
        // Of nodes that are down, what they were called when they lived: their labels follow too.
        let mut known = BTreeMap::new();
        loop {
            changes.mark_unchanged();
            if let Err(error) = look(&daemon, &docker, &mut known).await {
                tracing::debug!("the labels of Swarm's nodes are not looked at: {error:#}");
            }
            sleep(PACE).await;
            let _ = timeout(LOOK, changes.changed()).await;
        }
    };
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

async fn look(
    daemon: &Daemon,
    docker: &DockerApi,
    known: &mut BTreeMap<NodeId, String>,
) -> anyhow::Result<()> {
    let info: Info = docker.get("/info", PATIENCE).await?;
    let own = info.swarm.node_id;
    daemon.membership.tell_swarm_node(&own);
    if !info.swarm.control_available || daemon.catalogue.freshness().from_disk {
        return Ok(());
    }
    let nodes: Vec<SwarmNode> = docker.get("/nodes", PATIENCE).await?;
    let leads = |node: &SwarmNode| node.id == own && node.manager_status.as_ref().is_some_and(|m| m.leader);
    if !nodes.iter().any(leads) {
        return Ok(());
    }
    let wanted = daemon.catalogue.read(|contents| {
        learn(contents, known);
        replicas_by_swarm_node(contents, known)
    });
    for node in nodes {
        let Some(volumes) = wanted.get(&node.id) else {
            continue;
        };
        if let Some(spec) = relabelled(&node.spec, volumes) {
            // Refused if anybody has changed the node since it was read; then the next look does it.
            let path = format!("/nodes/{}/update?version={}", node.id, node.version.index);
            docker.post(&path, &spec, PATIENCE).await?;
            tracing::info!(
                node = node.id,
                volumes = volumes.len(),
                "its labels in Swarm are brought up to date"
            );
        }
    }
    Ok(())
}

/// What the living nodes say that Swarm calls them. One name means one node: the latest that bears it.
fn learn(contents: &Contents, known: &mut BTreeMap<NodeId, String>) {
    for node in contents.nodes() {
        let Some(name) = node
            .live
            .map(|live| live.swarm_node)
            .filter(|name| !name.is_empty())
        else {
            continue;
        };
        known.retain(|_, other| *other != name);
        known.insert(node.record.id, name);
    }
}

/// The volumes with a replica in sync on each of the nodes, by what Swarm calls them.
fn replicas_by_swarm_node(
    contents: &Contents,
    known: &BTreeMap<NodeId, String>,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut wanted: BTreeMap<String, BTreeSet<String>> = known
        .values()
        .map(|name| (name.clone(), BTreeSet::new()))
        .collect();
    for volume in contents
        .named()
        .filter(|volume| volume.state == VolumeState::Ready)
    {
        for replica in volume.replicas.iter().filter(|replica| replica.is_sound()) {
            if let Some(volumes) = known.get(&replica.node).and_then(|name| wanted.get_mut(name)) {
                volumes.insert(volume.name.clone());
            }
        }
    }
    wanted
}

/// A node's spec with our labels as they should be; nothing if they are.
fn relabelled(spec: &Map<String, Value>, volumes: &BTreeSet<String>) -> Option<Map<String, Value>> {
    let mut labels = spec
        .get("Labels")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let before = labels.clone();
    labels.retain(|key, _| {
        key.strip_prefix(PREFIX)
            .is_none_or(|volume| volumes.contains(volume))
    });
    for volume in volumes {
        labels.insert(format!("{PREFIX}{volume}"), json!("true"));
    }
    if labels == before {
        return None;
    }
    let mut spec = spec.clone();
    spec.insert("Labels".to_owned(), Value::Object(labels));
    Some(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(labels: &Value) -> Map<String, Value> {
        let spec = json!({"Labels": labels, "Role": "manager", "Availability": "active"});
        spec.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn only_our_labels_change_and_the_rest_of_the_spec_stays() {
        let volumes = BTreeSet::from(["db".to_owned(), "web".to_owned()]);
        let before =
            spec(&json!({"disk": "nvme", "bulkhead.volume.gone": "true", "bulkhead.volume.db": "no"}));
        let after = relabelled(&before, &volumes).expect("it differs");
        let labels = json!({"disk": "nvme", "bulkhead.volume.db": "true", "bulkhead.volume.web": "true"});
        assert_eq!(after, spec(&labels));
        assert_eq!(relabelled(&after, &volumes), None);
        assert_eq!(
            relabelled(&after, &BTreeSet::new()),
            Some(spec(&json!({"disk": "nvme"})))
        );
    }

    #[test]
    fn a_spec_without_labels_gets_them() {
        let none = json!({"Role": "worker"}).as_object().cloned().expect("an object");
        assert_eq!(relabelled(&none, &BTreeSet::new()), None);
        let with = relabelled(&none, &BTreeSet::from(["a".to_owned()])).expect("it differs");
        assert_eq!(with["Labels"], json!({"bulkhead.volume.a": "true"}));
        assert_eq!(with["Role"], json!("worker"));
    }
}
