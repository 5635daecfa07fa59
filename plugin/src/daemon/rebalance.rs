//! Evens out how full the pools of the cluster are, when a node has joined or an operator wants it: marks in the records which
//! replicas are to be elsewhere, and says whose turn it is. Moves nothing itself: whoever holds a volume makes the new replica
//! and lets the old one go once that is in sync, so it goes on whichever node dies.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::placement::{Move, Spread, balance, may_place};
use bulkhead_cluster::schema::{Placed, Replica, ReplicaState, Severity, VolumeState};
use bulkhead_cluster::volumes::Volume;
use bulkhead_engine::ids::{NodeId, ReplicaId};

use super::alerts::about;
use super::context::{Daemon, volume_failed};
use crate::service::{BalanceService, MoveView, RebalanceRequest, RebalanceView, ServiceError, SpreadView};

/// Replicas on the move at the same time, in the whole cluster: the network and the disks have other work too.
const AT_ONCE: usize = 2;

/// A replica that is to be elsewhere, by its record.
struct Marked<'a> {
    volume: &'a Arc<Volume>,
    replica: &'a Replica,
    to: Placed,
}

impl Marked<'_> {
    fn successor(&self) -> Option<&Replica> {
        let mut replicas = self.volume.replicas.iter();
        replicas.find(|other| other.placed() == self.to)
    }

    /// What keeps it from going on now.
    fn obstacle(&self, contents: &Contents) -> Option<String> {
        let holder = self.volume.primary.as_ref().map(|primary| primary.node);
        if let Some(holder) = holder.filter(|holder| !contents.is_alive(*holder)) {
            let name = contents.node_name(holder);
            return Some(format!(
                "the volume is attached on node {name}, which gives no sign of life"
            ));
        }
        let to = contents.node_name(self.to.node);
        if let Some(successor) = self.successor() {
            if !contents.is_alive(successor.node) || contents.is_pool_down(successor.pool) {
                return Some(format!("node {to} or its pool is away"));
            }
            if successor.state == ReplicaState::Removing {
                return Some(format!("an earlier replica on node {to} is being removed"));
            }
            return successor.trouble.clone();
        }
        if !self.volume.replicas.iter().all(Replica::is_sound) {
            return Some("not all of its replicas are in sync".to_owned());
        }
        let taken: Vec<NodeId> = self.volume.replicas.iter().map(|replica| replica.node).collect();
        let fits = may_place(&self.volume.spec, &taken, self.to, &contents.view());
        fits.err().map(|reason| format!("node {to} {reason}"))
    }
}

fn marked(contents: &Contents) -> impl Iterator<Item = Marked<'_>> {
    let ready = contents
        .volumes()
        .filter(|volume| volume.state == VolumeState::Ready);
    ready.flat_map(|volume| {
        volume.replicas.iter().filter_map(move |replica| {
            let to = replica.moves_to?;
            // A node that is being emptied has its own way.
            (replica.state == ReplicaState::Member).then_some(Marked { volume, replica, to })
        })
    })
}

/// The replicas whose turn it is to be moved: those that have begun, and so many more, in an order that all nodes see alike.
/// What is in the way of one holds up no other.
pub(super) fn turns(contents: &Contents) -> BTreeSet<ReplicaId> {
    let moves_on =
        |marked: &Marked<'_>| !contents.is_leaving(marked.replica) && marked.obstacle(contents).is_none();
    let (begun, waiting): (Vec<Marked<'_>>, Vec<Marked<'_>>) =
        marked(contents).partition(|marked| marked.successor().is_some());
    let begun = begun.into_iter().filter(moves_on);
    let mut turns: BTreeSet<ReplicaId> = begun.map(|marked| marked.replica.id).collect();
    let mut volumes = BTreeSet::new();
    for marked in waiting {
        if turns.len() >= AT_ONCE {
            break;
        }
        // One replica of a volume after the other.
        if !volumes.contains(&marked.volume.id) && moves_on(&marked) {
            volumes.insert(marked.volume.id);
            turns.insert(marked.replica.id);
        }
    }
    turns
}

#[async_trait]
impl BalanceService for Arc<Daemon> {
    async fn rebalancing(&self) -> Result<RebalanceView, ServiceError> {
        Ok(self.under_way())
    }

    async fn rebalance(&self, request: &RebalanceRequest) -> Result<RebalanceView, ServiceError> {
        let left = self.under_way().moves.len();
        if left > 0 && !request.dry_run {
            return Err(ServiceError::Busy(format!(
                "replicas are being moved already, {left} of them; wait, or call off those that have not begun: `bulkhead cluster rebalance --stop`"
            )));
        }
        let plan = self.catalogue.read(|contents| {
            let volumes = contents.volumes().map(|volume| &volume.record);
            balance(volumes, &contents.view(), request.limit)
        });
        if !request.dry_run {
            for one in &plan.moves {
                let marked = self.volumes.move_replica(one.volume, one.replica, one.to).await;
                match marked.map_err(|error| volume_failed(&error))? {
                    Some(volume) => self.catalogue.note(&volume),
                    None => tracing::info!(volume = one.name, "it has changed, and stays as it is"),
                }
            }
            if !plan.moves.is_empty() {
                self.tell_of_balance(
                    "rebalance-begun",
                    format!("{} replicas are to be moved to emptier pools", plan.moves.len()),
                );
            }
        }
        Ok(RebalanceView {
            moves: plan.moves.iter().map(|one| self.planned(one)).collect(),
            before: spread_view(plan.before),
            after: Some(spread_view(plan.after)),
        })
    }

    async fn stop_rebalancing(&self) -> Result<RebalanceView, ServiceError> {
        let volumes: BTreeSet<_> = self
            .catalogue
            .read(|contents| marked(contents).map(|marked| marked.volume.id).collect());
        let any = !volumes.is_empty();
        for id in volumes {
            let stopped = self.volumes.stop_moving(id).await;
            if let Some(volume) = stopped.map_err(|error| volume_failed(&error))? {
                self.catalogue.note(&volume);
            }
        }
        let view = self.under_way();
        if any {
            self.tell_of_balance(
                "rebalance-stopped",
                format!(
                    "no more replicas are moved to emptier pools; {} are under way and go on",
                    view.moves.len()
                ),
            );
        }
        Ok(view)
    }
}

impl Daemon {
    fn tell_of_balance(self: &Arc<Self>, what: &str, cause: String) {
        tracing::info!("{cause}");
        let object = about("cluster", self.cluster, &self.config.cluster);
        self.happened(what, Severity::Info, object, cause);
    }

    /// What is marked in the records.
    fn under_way(&self) -> RebalanceView {
        self.catalogue.read(|contents| {
            let moves = marked(contents).map(|marked| MoveView {
                volume: marked.volume.name.clone(),
                size: marked.volume.spec.size,
                from: contents.node_name(marked.replica.node),
                from_pool: marked.replica.pool.to_string(),
                to: contents.node_name(marked.to.node),
                to_pool: marked.to.pool.to_string(),
                begun: marked.successor().is_some(),
                trouble: marked.obstacle(contents),
            });
            RebalanceView {
                moves: moves.collect(),
                before: spread_view(balance([], &contents.view(), Some(0)).before),
                after: None,
            }
        })
    }

    fn planned(&self, one: &Move) -> MoveView {
        MoveView {
            volume: one.name.clone(),
            size: one.size,
            from: self.name_of(one.from.node),
            from_pool: one.from.pool.to_string(),
            to: self.name_of(one.to.node),
            to_pool: one.to.pool.to_string(),
            begun: false,
            trouble: None,
        }
    }
}

fn spread_view(spread: Spread) -> SpreadView {
    let percent = |permille: u64| (permille as f64) / 10.0;
    SpreadView {
        emptiest: percent(spread.lowest),
        fullest: percent(spread.highest),
    }
}
