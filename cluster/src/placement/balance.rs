//! How replicas would have to move so that all pools are about as full: a pure function from what there is to a plan. Puts
//! nothing where placement would not put it, never two replicas of a volume on one node, and spreads no volume over fewer
//! zones, racks or members of its group than before. Moves nothing itself.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_engine::ids::{NodeId, PoolId, ReplicaId, VolumeId};

use super::{PoolView, View, distance, may_hold, pool_fits};
use crate::schema::{NodeDuty, Placed, Replica, VolumeRecord, VolumeState};

/// Two pools that differ by less than this are left as they are, in billionths of what may be promised: to copy costs too.
const TOLERANCE: u64 = 50_000_000;

/// A replica that is to be elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Its volume.
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
    /// The replica.
    pub replica: ReplicaId,
    /// Bytes that are copied at most.
    pub size: u64,
    /// Where it is.
    pub from: Placed,
    /// Where another one is to take its place.
    pub to: Placed,
}

/// How full the emptiest and the fullest pool are, in thousandths of what may be promised of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// The emptiest.
    pub lowest: u64,
    /// The fullest.
    pub highest: u64,
}

/// What would be moved, and what comes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The moves, the one that brings most first.
    pub moves: Vec<Move>,
    /// As it is.
    pub before: Spread,
    /// As it is after all moves.
    pub after: Spread,
}

/// Plans at most `limit` moves. A second plan for what comes of an unlimited one is empty, but where a pool of a node that a
/// volume has just left would do for it.
pub fn balance<'a>(
    volumes: impl IntoIterator<Item = &'a VolumeRecord>,
    view: &View,
    limit: Option<usize>,
) -> Plan {
    let mut table = Table::new(volumes, view);
    let before = table.spread();
    // Each step takes a replica to a pool that stays emptier than the one it comes from was, so they come to an end.
    let mut steps = table.volumes.iter().map(|volume| volume.at.len()).sum::<usize>() * 4;
    while steps > 0 && limit.is_none_or(|limit| table.moves().len() < limit) && table.step() {
        steps -= 1;
    }
    Plan {
        moves: table.moves(),
        before,
        after: table.spread(),
    }
}

/// A volume whose replicas may move.
struct Movable<'a> {
    record: &'a VolumeRecord,
    /// Where its replicas are by the moves so far, in the order of the record.
    at: Vec<Placed>,
}

/// All that may move, and where it would be by the moves so far.
struct Table<'a> {
    view: View,
    volumes: Vec<Movable<'a>>,
    /// Number of volumes of a group with a replica on a node.
    groups: BTreeMap<(&'a str, NodeId), usize>,
}

/// How full a pool is with so many bytes promised, in billionths.
fn fill(pool: &PoolView, allocated: u64) -> u64 {
    let billionths = u128::from(allocated) * 1_000_000_000 / u128::from(pool.promisable().max(1));
    u64::try_from(billionths).unwrap_or(u64::MAX)
}

impl<'a> Table<'a> {
    fn new(volumes: impl IntoIterator<Item = &'a VolumeRecord>, view: &View) -> Self {
        let mut table = Self {
            view: view.clone(),
            volumes: Vec::new(),
            groups: BTreeMap::new(),
        };
        for record in volumes {
            for replica in &record.replicas {
                if let Some(group) = &record.spec.group {
                    *table.groups.entry((group, replica.node)).or_default() += 1;
                }
            }
            if table.is_settled(record) {
                table.volumes.push(Movable {
                    record,
                    at: record.replicas.iter().map(Replica::placed).collect(),
                });
            }
        }
        table
    }

    /// Whether all is well with a volume, and none of its replicas is on the move.
    fn is_settled(&self, volume: &VolumeRecord) -> bool {
        let settled = |replica: &Replica| {
            replica.is_sound() && replica.moves_to.is_none() && self.counts(replica.pool).is_some()
        };
        volume.state == VolumeState::Ready
            && volume.replicas.len() == usize::from(volume.spec.repl)
            && volume.replicas.iter().all(settled)
    }

    /// A pool between which and others replicas are moved: one that can be used, of a node in full service.
    fn counts(&self, pool: PoolId) -> Option<&PoolView> {
        let pool = self.view.pools.get(&pool)?;
        let node = self.view.nodes.get(&pool.node)?;
        (pool.usable && node.alive && node.duty == NodeDuty::Full).then_some(pool)
    }

    /// The pools that count, from the emptiest to the fullest.
    fn pools(&self) -> Vec<(u64, Placed)> {
        let counting = self.view.pools.keys().filter_map(|pool| self.counts(*pool));
        let mut pools: Vec<(u64, Placed)> = counting
            .map(|pool| {
                let placed = Placed {
                    node: pool.node,
                    pool: pool.id,
                };
                (fill(pool, pool.allocated), placed)
            })
            .collect();
        pools.sort_by_key(|(fill, placed)| (*fill, placed.pool));
        pools
    }

    fn spread(&self) -> Spread {
        let pools = self.pools();
        let at = |pool: Option<&(u64, Placed)>| pool.map_or(0, |(fill, _)| fill / 1_000_000);
        Spread {
            lowest: at(pools.first()),
            highest: at(pools.last()),
        }
    }

    /// Makes the next move, from the fullest pool to the emptiest between which there is one.
    fn step(&mut self) -> bool {
        let pools = self.pools();
        for (high, from) in pools.iter().rev() {
            for (low, to) in pools
                .iter()
                .filter(|(low, _)| low.saturating_add(TOLERANCE) <= *high)
            {
                if let Some((volume, replica)) = self.best((*high, *from), (*low, *to)) {
                    self.carry(volume, replica, *to);
                    return true;
                }
            }
        }
        false
    }

    /// The replica that brings two pools nearest to each other.
    fn best(&self, from: (u64, Placed), to: (u64, Placed)) -> Option<(usize, usize)> {
        let ((high, from), (low, to)) = (from, to);
        let (source, target) = (self.counts(from.pool)?, self.counts(to.pool)?);
        let mut best: Option<(u64, (usize, usize))> = None;
        for (index, volume) in self.volumes.iter().enumerate() {
            let Some(replica) = volume.at.iter().position(|at| *at == from) else {
                continue;
            };
            let size = volume.record.spec.size;
            let source_after = fill(source, source.allocated.saturating_sub(size));
            let target_after = fill(target, target.allocated.saturating_add(size));
            let apart = source_after.abs_diff(target_after);
            // Not to have the same the other way round, nor to copy for next to nothing.
            let helps = target_after < high && (target_after <= source_after || apart <= (high - low) / 2);
            if helps
                && best.is_none_or(|(known, _)| apart < known)
                && self.may_move(volume, replica, to, target)
            {
                best = Some((apart, (index, replica)));
            }
        }
        best.map(|(_, found)| found)
    }

    /// Whether placement could have put a replica there in the first place, and nothing is worse for it.
    fn may_move(&self, volume: &Movable<'_>, replica: usize, to: Placed, target: &PoolView) -> bool {
        let spec = &volume.record.spec;
        let (Some(node), Some(from)) = (self.view.nodes.get(&to.node), volume.at.get(replica)) else {
            return false;
        };
        let taken = volume.at.iter().any(|at| at.node == to.node);
        // Where one of them is until it has moved another one has no place: but it may stay after all.
        let was_there = volume.record.replicas.iter().any(|old| old.node == to.node);
        let stays_there = volume.record.replicas.iter().any(|old| old.placed() == to);
        // Who uses a volume reads from its own node.
        let used_here = volume.record.user_node() == Some(from.node);
        if taken || (was_there && !stays_there) || used_here || may_hold(spec, node).is_err() {
            return false;
        }
        let is_slower = |pool: &PoolView| distance(spec, target) > distance(spec, pool);
        if spec.io_priority.is_some() && self.counts(from.pool).is_some_and(is_slower) {
            return false;
        }
        pool_fits(spec, target).is_ok()
            && self.group_allows(volume, from.node, to.node)
            && self.spreads_as_well(volume, replica, to.node)
    }

    fn group_allows(&self, volume: &Movable<'_>, from: NodeId, to: NodeId) -> bool {
        let Some(group) = &volume.record.spec.group else {
            return true;
        };
        let on = |node| self.groups.get(&(group.as_str(), node)).copied().unwrap_or(0);
        let there = on(to);
        there == 0 || (!volume.record.spec.fg && there < on(from))
    }

    fn spreads_as_well(&self, volume: &Movable<'_>, replica: usize, to: NodeId) -> bool {
        let places = |moved: bool| {
            let (mut zones, mut racks) = (BTreeSet::new(), BTreeSet::new());
            for (index, at) in volume.at.iter().enumerate() {
                let node = if moved && index == replica { to } else { at.node };
                if let Some(node) = self.view.nodes.get(&node) {
                    zones.insert(node.zone());
                    racks.insert((node.zone(), node.rack()));
                }
            }
            (zones.len(), racks.len())
        };
        let ((zones, racks), (zones_after, racks_after)) = (places(false), places(true));
        zones_after >= zones && racks_after >= racks
    }

    fn carry(&mut self, volume: usize, replica: usize, to: Placed) {
        let Some(volume) = self.volumes.get_mut(volume) else {
            return;
        };
        let size = volume.record.spec.size;
        let Some(at) = volume.at.get_mut(replica) else {
            return;
        };
        let from = std::mem::replace(at, to);
        if let Some(pool) = self.view.pools.get_mut(&from.pool) {
            pool.allocated = pool.allocated.saturating_sub(size);
            pool.free = pool.free.saturating_add(size).min(pool.capacity);
        }
        if let Some(pool) = self.view.pools.get_mut(&to.pool) {
            pool.allocated = pool.allocated.saturating_add(size);
            // It may take less, but who knows.
            pool.free = pool.free.saturating_sub(size);
        }
        if let Some(group) = &volume.record.spec.group {
            let leaves = self.groups.entry((group, from.node)).or_default();
            *leaves = leaves.saturating_sub(1);
            *self.groups.entry((group, to.node)).or_default() += 1;
        }
    }

    /// What has moved in the end. The replicas of a volume are the same: one that would take the place of another stays.
    fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for volume in &self.volumes {
            let old = &volume.record.replicas;
            let mut new = volume
                .at
                .iter()
                .filter(|at| !old.iter().any(|replica| replica.placed() == **at));
            let leaving = old
                .iter()
                .filter(|replica| !volume.at.contains(&replica.placed()));
            for replica in leaving {
                if let Some(to) = new.next() {
                    moves.push(Move {
                        volume: volume.record.id,
                        name: volume.record.name.clone(),
                        replica: replica.id,
                        size: volume.record.spec.size,
                        from: replica.placed(),
                        to: *to,
                    });
                }
            }
        }
        moves
    }
}

#[cfg(test)]
mod tests;
