//! Where a volume's replicas go: a pure function from what the cluster has and what the user asked for. Reads no
//! store, clock or chance, so the same question has the same answer everywhere; when the answer is "nowhere", it
//! names every node that was considered and why it was not taken.

mod balance;
mod refusal;
mod view;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use bulkhead_engine::ids::NodeId;

pub use self::balance::{Move, Plan, Spread, balance};
pub use self::refusal::{Reason, Refusal, Verdict};
pub use self::view::{NodeView, PoolView, View};

use crate::schema::{IoPriority, NodeDuty, VolumeSpec};
use crate::volumes::Placed;

/// A pool with less free than this share of its capacity gets nothing new: a full disk costs replicas.
pub const MIN_FREE_PERCENT: u64 = 5;

/// Places for all replicas of a new volume: on distinct nodes, of distinct zones and racks as far as there are,
/// the node that asks before others.
pub fn place(spec: &VolumeSpec, asking: NodeId, view: &View) -> Result<Vec<Placed>, Refusal> {
    choose(spec, usize::from(spec.repl), asking, &[], view)
}

/// Places for one more replica of a volume that has some already, on nodes that have none.
pub fn place_another(
    spec: &VolumeSpec,
    asking: NodeId,
    existing: &[NodeId],
    view: &View,
) -> Result<Placed, Refusal> {
    let mut places = choose(spec, 1, asking, existing, view)?;
    places.pop().ok_or_else(|| Refusal::new(spec, 1, Vec::new()))
}

/// Whether one more replica of a volume that has some already may be in just this place.
pub fn may_place(spec: &VolumeSpec, existing: &[NodeId], place: Placed, view: &View) -> Result<(), Reason> {
    let node = view.nodes.get(&place.node).ok_or(Reason::Unknown)?;
    let pool = view.pools.get(&place.pool).ok_or(Reason::NoPool)?;
    consider(spec, existing, node, view)?;
    pool_fits(spec, pool)
}

/// A node that could take a replica, and the best of its pools.
struct Candidate<'a> {
    node: &'a NodeView,
    pool: &'a PoolView,
}

fn choose(
    spec: &VolumeSpec,
    wanted: usize,
    asking: NodeId,
    existing: &[NodeId],
    view: &View,
) -> Result<Vec<Placed>, Refusal> {
    let mut verdicts = Vec::new();
    let mut candidates = Vec::new();
    for node in view.nodes.values() {
        match consider(spec, existing, node, view) {
            Ok(pool) => candidates.push(Candidate { node, pool }),
            Err(reason) => verdicts.push(Verdict {
                node: node.name.clone(),
                reason,
            }),
        }
    }
    let known = |name: &&String| view.nodes.values().any(|node| node.is_called(name));
    verdicts.extend(spec.nodes.iter().filter(|name| !known(name)).map(|name| Verdict {
        node: name.clone(),
        reason: Reason::Unknown,
    }));
    if candidates.len() < wanted || wanted == 0 {
        verdicts.extend(candidates.iter().map(|candidate| Verdict {
            node: candidate.node.name.clone(),
            reason: Reason::Fits,
        }));
        return Err(Refusal::new(spec, wanted, verdicts));
    }
    let mut taken: Vec<&NodeView> = existing.iter().filter_map(|node| view.nodes.get(node)).collect();
    let mut places = Vec::with_capacity(wanted);
    while places.len() < wanted {
        let best = (0..candidates.len()).min_by_key(|index| {
            candidates
                .get(*index)
                .map(|candidate| rank(spec, asking, &taken, candidate, view))
        });
        let Some(best) = best else {
            return Err(Refusal::new(spec, wanted, verdicts));
        };
        let Candidate { node, pool } = candidates.swap_remove(best);
        places.push(Placed {
            node: node.id,
            pool: pool.id,
        });
        taken.push(node);
    }
    Ok(places)
}

/// The pool of a node that would take a replica, or why there is none.
fn consider<'a>(
    spec: &VolumeSpec,
    existing: &[NodeId],
    node: &NodeView,
    view: &'a View,
) -> Result<&'a PoolView, Reason> {
    may_hold(spec, node)?;
    if existing.contains(&node.id) {
        return Err(Reason::HasOne);
    }
    if let Some(group) = spec.group.as_ref().filter(|_| spec.fg)
        && let Some(volume) = view.group_on(group, node.id)
    {
        return Err(Reason::Group {
            group: group.clone(),
            volume: volume.to_owned(),
        });
    }
    best_pool(spec, node, view)
}

/// Whether a node may have a replica at all, whatever is on it already.
fn may_hold(spec: &VolumeSpec, node: &NodeView) -> Result<(), Reason> {
    if !spec.nodes.is_empty() && !spec.nodes.iter().any(|name| node.is_called(name)) {
        return Err(Reason::NotNamed);
    }
    if !node.alive {
        return Err(Reason::Offline);
    }
    match node.duty {
        NodeDuty::Full => {}
        duty => return Err(Reason::Duty(duty)),
    }
    let outside = |wanted: &[String], label: &str| {
        let has = node.labels.get(label);
        !wanted.is_empty() && !has.is_some_and(|has| wanted.contains(has))
    };
    for (wanted, label) in [(&spec.zones, "zone"), (&spec.racks, "rack")] {
        if outside(wanted, label) {
            return Err(Reason::Label {
                label: if label == "zone" { "zone" } else { "rack" },
                has: node.labels.get(label).cloned(),
                wanted: wanted.clone(),
            });
        }
    }
    Ok(())
}

fn best_pool<'a>(spec: &VolumeSpec, node: &NodeView, view: &'a View) -> Result<&'a PoolView, Reason> {
    let mut nearest: Option<Reason> = None;
    let mut best: Option<&PoolView> = None;
    for pool in view.pools.values().filter(|pool| pool.node == node.id) {
        match pool_fits(spec, pool) {
            Ok(()) => {
                let key = |pool: &PoolView| (distance(spec, pool), Reverse(pool.room()), pool.id);
                if best.is_none_or(|best| key(pool) < key(best)) {
                    best = Some(pool);
                }
            }
            // Of several pools the one that came nearest says most.
            Err(reason) => {
                if nearest
                    .as_ref()
                    .is_none_or(|nearest| reason.nearness() > nearest.nearness())
                {
                    nearest = Some(reason);
                }
            }
        }
    }
    best.ok_or_else(|| nearest.unwrap_or(Reason::NoPool))
}

fn pool_fits(spec: &VolumeSpec, pool: &PoolView) -> Result<(), Reason> {
    if !pool.usable {
        return Err(Reason::PoolState);
    }
    if let Some(wanted) = spec.io_priority
        && pool.priority < wanted
    {
        return Err(Reason::Priority {
            has: pool.priority,
            wanted,
        });
    }
    if pool.room() < spec.size {
        return Err(Reason::Room {
            room: pool.room(),
            wanted: spec.size,
            capacity: pool.capacity,
            overcommit_percent: pool.overcommit_percent,
        });
    }
    if u128::from(pool.free) * 100 < u128::from(pool.capacity) * u128::from(MIN_FREE_PERCENT) {
        return Err(Reason::NearlyFull {
            free: pool.free,
            capacity: pool.capacity,
        });
    }
    Ok(())
}

/// How much faster a pool is than asked for: fast pools are kept for those who want them.
fn distance(spec: &VolumeSpec, pool: &PoolView) -> u8 {
    (pool.priority as u8).saturating_sub(spec.io_priority.unwrap_or(IoPriority::Low) as u8)
}

/// What makes one candidate better than another; smaller is better.
fn rank(
    spec: &VolumeSpec,
    asking: NodeId,
    taken: &[&NodeView],
    candidate: &Candidate<'_>,
    view: &View,
) -> impl Ord + use<> {
    let node = candidate.node;
    let zones: BTreeSet<_> = taken.iter().map(|other| other.zone()).collect();
    let racks: BTreeSet<_> = taken.iter().map(|other| (other.zone(), other.rack())).collect();
    let beside_group = spec
        .group
        .as_ref()
        .is_some_and(|group| view.group_on(group, node.id).is_some());
    (
        beside_group,
        zones.contains(&node.zone()),
        racks.contains(&(node.zone(), node.rack())),
        node.id != asking,
        spec.io_priority.is_some().then(|| distance(spec, candidate.pool)),
        candidate.pool.fill_permille(spec.size),
        node.id,
    )
}

#[cfg(test)]
mod tests;
