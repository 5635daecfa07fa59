//! What an operator wants of a node, and what is in the way: drained, under maintenance, gone for good. And what is wanted of a
//! volume once it is there. Writes wishes; those who have the volumes attached move the replicas.

use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::nodes::{Node, NodeError};
use bulkhead_cluster::placement::{View, place_another};
use bulkhead_cluster::schema::{NodeDuty, Replica, ReplicaState, Severity, VolumeRecord, VolumeState};
use bulkhead_cluster::volumes::{Update, Volume};
use bulkhead_engine::ids::{NodeId, ReplicaId, VolumeId};

use super::alerts::about;
use super::context::{Daemon, volume_failed};
use super::members::{find, node_failed};
use crate::options::MAX_REPL;
use crate::service::{Duty, DutyRequest, DutyView, LifeService, ServiceError, VolumeUpdate, VolumeView};

/// Things in the way that are named one by one.
const NAMED: usize = 5;

/// What is left on a node that is to go.
#[derive(Default)]
struct Left {
    /// All of it, one sentence each.
    all: Vec<String>,
    /// How many of these go by themselves.
    moving: usize,
}

#[async_trait]
impl LifeService for Arc<Daemon> {
    async fn duty(&self, name: &str) -> Result<DutyView, ServiceError> {
        let node = self.catalogue.read(|contents| find(contents, name))?;
        self.duty_view(&node, node.record.duty)
    }

    async fn set_duty(&self, name: &str, request: &DutyRequest) -> Result<DutyView, ServiceError> {
        let node = self.catalogue.read(|contents| find(contents, name))?;
        let (id, wanted) = (node.record.id, stored(request.duty));
        if node.record.duty == NodeDuty::Decommissioned && wanted != NodeDuty::Decommissioned {
            return Err(ServiceError::Conflict(format!(
                "node {} is decommissioned, and gone for good; wipe it to let it join as a new node",
                node.record.name
            )));
        }
        self.catalogue
            .read(|contents| self.refuse_duty(contents, &node, wanted))?;
        if request.dry_run || node.record.duty == wanted {
            return self.duty_view(&node, wanted);
        }
        let changed = self.nodes.update(id, |record| record.duty = wanted).await;
        let changed = changed.map_err(|error: NodeError| node_failed(&error))?;
        tracing::info!(node = changed.name, duty = ?wanted, "an operator wants something else of this node");
        self.happened(
            "node-duty",
            Severity::Info,
            about("node", id, &changed.name),
            format!("node {} is {} now", changed.name, duty_words(wanted)),
        );
        self.until_known(|contents| {
            let mut nodes = contents.nodes();
            nodes.any(|node| node.record.id == id && node.record.duty == wanted)
        })
        .await;
        let node = self.catalogue.read(|contents| find(contents, &id.to_string()))?;
        self.duty_view(&node, wanted)
    }

    async fn update_volume(&self, name: &str, update: &VolumeUpdate) -> Result<VolumeView, ServiceError> {
        if let Some(repl) = update.repl
            && !(1..=MAX_REPL).contains(&repl)
        {
            return Err(ServiceError::Invalid(format!(
                "volume {name:?}: the number of replicas is 1 to {MAX_REPL}"
            )));
        }
        let volume = self.find(name).await?;
        let repl = update.repl.unwrap_or(volume.spec.repl);
        let nodes = update.nodes.as_ref().unwrap_or(&volume.spec.nodes);
        self.catalogue
            .read(|contents| enough_nodes(contents, &volume, repl, nodes))?;
        let update = Update {
            repl: update.repl,
            nodes: update.nodes.clone(),
        };
        let changed = self.volumes.update(volume.id, &update).await;
        let changed = changed.map_err(|error| volume_failed(&error))?;
        self.catalogue.note(&changed);
        tracing::info!(volume = name, repl = changed.spec.repl, nodes = ?changed.spec.nodes, "changed");
        self.happened(
            "volume-updated",
            Severity::Info,
            about("volume", changed.id, &changed.name),
            format!("volume {name} is to have {} replicas", changed.spec.repl),
        );
        Ok(self.view_with_usage(&changed).await)
    }
}

impl Daemon {
    /// Whether this node serves nothing at present, in words for who wants something of it.
    pub(super) fn refuse_in_maintenance(&self, name: &str) -> Result<(), ServiceError> {
        let duty = self.catalogue.read(|contents| {
            let ours = contents.nodes().find(|node| node.record.id == self.node);
            ours.map(|node| node.record.duty)
        });
        if duty != Some(NodeDuty::Maintenance) {
            return Ok(());
        }
        Err(ServiceError::Busy(format!(
            "volume {name:?} is not mounted on node {0}, which is under maintenance; `bulkhead node maintenance exit {0}` ends that",
            self.node_name
        )))
    }

    fn duty_view(&self, node: &Node, wanted: NodeDuty) -> Result<DutyView, ServiceError> {
        let left = self
            .catalogue
            .read(|contents| self.left(contents, node.record.id, wanted));
        Ok(DutyView {
            duty: match wanted {
                NodeDuty::Full => Duty::Full,
                NodeDuty::Drained => Duty::Drained,
                NodeDuty::Maintenance => Duty::Maintenance,
                NodeDuty::Decommissioned => Duty::Decommissioned,
            },
            node: self.node_named(&node.record.id.to_string())?,
            left: left.all,
            moving: left.moving,
        })
    }

    /// Refuses what would take away something that is used, or the last of something.
    fn refuse_duty(&self, contents: &Contents, node: &Node, wanted: NodeDuty) -> Result<(), ServiceError> {
        let (id, name) = (node.record.id, &node.record.name);
        match wanted {
            NodeDuty::Full | NodeDuty::Drained => Ok(()),
            NodeDuty::Maintenance => {
                let used = volumes(contents, |volume| is_attached_on(volume, id));
                refuse(&used, |names| {
                    format!(
                        "node {name} cannot be taken under maintenance while volumes are in use on it ({names}); stop what uses them, or move it away (in a Swarm: `docker node update --availability drain {name}`)"
                    )
                })?;
                let needed = volumes(contents, |volume| {
                    volume.primary.is_some() && is_last_in_reach(contents, volume, id)
                });
                refuse(&needed, |names| {
                    format!(
                        "node {name} cannot be taken under maintenance: it has the only replica in sync that can be reached of volumes in use elsewhere ({names}); bring back the nodes of the others, or wait for their rebuild"
                    )
                })
            }
            NodeDuty::Decommissioned if node.live.is_some() => {
                let there = volumes(contents, |volume| {
                    is_attached_on(volume, id) || volume.replicas_on(id).next().is_some()
                });
                refuse(&there, |names| {
                    format!(
                        "node {name} lives and has volumes ({names}); drain it first: `bulkhead node drain {name}`"
                    )
                })
            }
            NodeDuty::Decommissioned => {
                let lost = volumes(contents, |volume| is_last_in_reach(contents, volume, id));
                refuse(&lost, |names| {
                    format!(
                        "node {name} cannot be given up: nobody else who lives has a replica in sync of {names}, and their data would be lost. Bring it back; or delete those volumes, or let an older replica go on alone (`bulkhead volume force-primary`), first"
                    )
                })
            }
        }
    }

    /// What is on a node that is not to be there.
    fn left(&self, contents: &Contents, id: NodeId, wanted: NodeDuty) -> Left {
        let mut left = Left::default();
        if !wanted.is_leaving() {
            return left;
        }
        let mut view = contents.view();
        for volume in contents
            .volumes()
            .filter(|volume| volume.state != VolumeState::Deleting)
        {
            let name = &volume.name;
            if is_attached_on(volume, id) {
                left.all.push(format!(
                    "volume {name} is in use there; move what uses it (in a Swarm: `docker node update --availability drain {}`)",
                    contents.node_name(id)
                ));
            }
            for replica in volume.replicas_on(id) {
                let (sentence, moves) = fate(contents, volume, replica, &mut view);
                left.all.push(sentence);
                left.moving += usize::from(moves);
            }
        }
        left
    }

    /// What a node that is gone for good was to remove counts as removed: nobody waits for its disks.
    async fn forget_replicas(&self) {
        let left: Vec<(VolumeId, NodeId, Option<ReplicaId>)> = self.catalogue.read(|contents| {
            let gone: Vec<NodeId> = contents
                .nodes()
                .filter(|node| node.record.duty == NodeDuty::Decommissioned && node.live.is_none())
                .map(|node| node.record.id)
                .collect();
            let of_it = |volume: &Arc<Volume>| {
                let (id, deleting) = (volume.id, volume.state == VolumeState::Deleting);
                let on_it = |replica: &&Replica| gone.contains(&replica.node);
                let going = |replica: &Replica| {
                    let removed = replica.state == ReplicaState::Removing;
                    (deleting || removed).then_some((id, replica.node, (!deleting).then_some(replica.id)))
                };
                volume
                    .replicas
                    .iter()
                    .filter(on_it)
                    .filter_map(going)
                    .collect::<Vec<_>>()
            };
            contents.volumes().flat_map(of_it).collect()
        });
        for (id, node, replica) in left {
            let done = match replica {
                Some(replica) => self.volumes.replica_removed(id, node, replica).await,
                None => self.volumes.finish_delete(id, node).await,
            };
            match done {
                Ok(Some(volume)) => self.catalogue.note(&volume),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(volume = %id, %error, "a replica that is gone for good is still in its record")
                }
            }
        }
    }

    /// Nodes that are gone for good and of which nothing is left are forgotten, so that another one can take their name.
    pub(super) async fn forget_nodes(&self) {
        self.forget_replicas().await;
        let gone: Vec<(NodeId, String)> = self.catalogue.read(|contents| {
            let is_empty = |id: NodeId| {
                let mut volumes = contents.volumes();
                !volumes.any(|volume| is_attached_on(volume, id) || volume.replicas_on(id).next().is_some())
            };
            let nodes = contents.nodes();
            nodes
                .filter(|node| node.record.duty == NodeDuty::Decommissioned && node.live.is_none())
                .filter(|node| is_empty(node.record.id))
                .map(|node| (node.record.id, node.record.name))
                .collect()
        });
        for (id, name) in gone {
            match self.nodes.remove(id).await {
                Ok(()) => tracing::info!(node = name, "it is gone for good, and forgotten"),
                Err(error) => {
                    tracing::warn!(node = name, %error, "it is gone for good, and could not be forgotten yet")
                }
            }
        }
    }
}

/// What becomes of a replica that is not to stay where it is, in words, and whether that goes by itself. What it takes
/// elsewhere is counted, so that the next one is not promised the same room.
pub(super) fn fate(
    contents: &Contents,
    volume: &VolumeRecord,
    replica: &Replica,
    view: &mut View,
) -> (String, bool) {
    let name = &volume.name;
    if replica.state == ReplicaState::Removing {
        return (format!("volume {name}: its replica is being removed"), true);
    }
    let stays = |other: &&Replica| {
        other.state != ReplicaState::Removing && other.id != replica.id && !contents.is_leaving(other)
    };
    if volume.replicas.iter().filter(stays).count() >= usize::from(volume.spec.repl) {
        return (
            format!("volume {name}: its replica is being replaced by another one"),
            true,
        );
    }
    let taken: Vec<NodeId> = volume.replicas.iter().map(|replica| replica.node).collect();
    match place_another(&volume.spec, replica.node, &taken, view) {
        Ok(place) => {
            if let Some(pool) = view.pools.get_mut(&place.pool) {
                pool.allocated = pool.allocated.saturating_add(volume.spec.size);
            }
            let to = contents.node_name(place.node);
            (
                format!("volume {name}: its replica is to be moved to node {to}"),
                true,
            )
        }
        Err(refusal) => (
            format!("volume {name}: its replica cannot be moved: {refusal}"),
            false,
        ),
    }
}

/// Whether somebody uses a volume on a node, other than to bring its replicas up to date.
fn is_attached_on(volume: &VolumeRecord, node: NodeId) -> bool {
    volume
        .primary
        .as_ref()
        .is_some_and(|primary| primary.node == node && !primary.upkeep)
}

/// Whether a node has a replica in sync of a volume, and nobody else who lives has one that can be read.
pub(super) fn is_last_in_reach(contents: &Contents, volume: &VolumeRecord, node: NodeId) -> bool {
    let can_be_read = |replica: &&Replica| replica.is_sound() && !contents.is_pool_down(replica.pool);
    let mut members = volume.replicas.iter().filter(can_be_read);
    let has = volume.members().any(|replica| replica.node == node);
    has && !members.any(|replica| replica.node != node && contents.is_alive(replica.node))
}

fn volumes(contents: &Contents, is: impl Fn(&VolumeRecord) -> bool) -> Vec<String> {
    let all = contents
        .volumes()
        .filter(|volume| volume.state != VolumeState::Deleting);
    all.filter(|volume| is(volume))
        .map(|volume| volume.name.clone())
        .collect()
}

pub(super) fn refuse(names: &[String], message: impl FnOnce(&str) -> String) -> Result<(), ServiceError> {
    if names.is_empty() {
        return Ok(());
    }
    let mut shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        shown.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    Err(ServiceError::Busy(message(&shown)))
}

/// Whether a volume can have so many replicas at all.
fn enough_nodes(
    contents: &Contents,
    volume: &VolumeRecord,
    repl: u8,
    nodes: &[String],
) -> Result<(), ServiceError> {
    let all: Vec<Node> = contents.nodes().collect();
    let is_called =
        |node: &Node, name: &String| node.record.name == *name || node.record.id.to_string() == *name;
    if let Some(unknown) = nodes
        .iter()
        .find(|name| !all.iter().any(|node| is_called(node, name)))
    {
        return Err(ServiceError::NoSuch(format!(
            "there is no node {unknown:?} for volume {:?}; `bulkhead node list` shows those that exist",
            volume.name
        )));
    }
    let may = |node: &&Node| {
        let named = nodes.is_empty() || nodes.iter().any(|name| is_called(node, name));
        let has_pool = contents.pools().any(|pool| pool.node == node.record.id);
        named && has_pool && node.record.duty == NodeDuty::Full
    };
    let count = all.iter().filter(may).count();
    if count >= usize::from(repl) {
        return Ok(());
    }
    Err(ServiceError::NoSpace(format!(
        "volume {:?} cannot have {repl} replicas: {count} node{} may hold one (with a pool, neither drained nor under maintenance{}); `bulkhead node list` shows them",
        volume.name,
        if count == 1 { "" } else { "s" },
        if nodes.is_empty() {
            ""
        } else {
            ", and named by the volume"
        }
    )))
}

const fn stored(duty: Duty) -> NodeDuty {
    match duty {
        Duty::Full => NodeDuty::Full,
        Duty::Drained => NodeDuty::Drained,
        Duty::Maintenance => NodeDuty::Maintenance,
        Duty::Decommissioned => NodeDuty::Decommissioned,
    }
}

const fn duty_words(duty: NodeDuty) -> &'static str {
    match duty {
        NodeDuty::Full => "in full service",
        NodeDuty::Drained => "being drained",
        NodeDuty::Maintenance => "under maintenance",
        NodeDuty::Decommissioned => "decommissioned",
    }
}
