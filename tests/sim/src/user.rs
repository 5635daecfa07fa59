//! Those who use the volume: what is read and written, and what is checked of the answers.

use std::rc::Rc;

use bulkhead_engine::geometry::{ByteRange, Geometry, SECTOR};
use bulkhead_engine::io::IoError;
use bulkhead_engine::machine::primary::{Event, Op, OpId};

use crate::ambush::Moment;
use crate::checker::Doing;
use crate::disk::Sectors;
use crate::node::IO_TIMEOUT;
use crate::plan::{MS, Ns, Plan, SEC};
use crate::rng::Rng;
use crate::world::{NodeEv, World, tell};

/// Sectors in one extent that is used.
const EXTENT: u32 = 16;
/// Operations that one user has under way at most.
const DEPTH: usize = 8;

/// An operation that was given to a primary.
#[derive(Clone, Debug)]
pub struct OpInfo {
    pub(crate) node: usize,
    pub(crate) term: u32,
    pub(crate) at: Ns,
    /// For how long its node had not run by then.
    pub(crate) paused: Ns,
    final_read: bool,
    pub(crate) op: Op<Sectors>,
    /// The kernel holds it, and no process has it.
    pub(crate) waits: bool,
}

/// The sectors that are used: some extents, spread over chunks and regions.
pub fn extents(plan: &Plan, geometry: &Geometry) -> Vec<u32> {
    let mut rng = Rng::new(plan.seed, 5);
    let places = geometry.size() / SECTOR / u64::from(EXTENT);
    let mut starts: Vec<u32> = (0..rng.between(2, 9))
        .map(|_| rng.below(places) as u32 * EXTENT)
        .collect();
    starts.sort_unstable();
    starts.dedup();
    starts.iter().flat_map(|&start| start..start + EXTENT).collect()
}

impl World {
    pub(crate) fn content(&self, node: usize, sector: u32) -> u64 {
        self.disk(node).map_or(0, |disk| disk.data.get(sector))
    }

    /// A user of the volume on this node does something, if it may have more under way.
    pub(crate) fn work(&mut self, node: usize, term: u32) {
        let Some(host) = self.nodes[node].host.as_ref().filter(|host| host.term == term) else {
            return;
        };
        if self.final_reads.is_some() {
            return;
        }
        let gap = self.plan.op_gap;
        let restless = gap < MS;
        let pause = if self.work_rng.chance(2) && !restless {
            300 * MS
        } else {
            0
        };
        let delay = 1 + self.work_rng.below(2 * gap) + pause;
        let in_flight = host.in_flight;
        self.later(node, delay, NodeEv::Op(term));
        // Reads go on where writes are held: that is where a primary that was replaced could be caught.
        let kind = self.work_rng.below(100);
        if in_flight < DEPTH {
            self.do_something(node, term, kind);
        } else if in_flight < 4 * DEPTH && kind < 30 {
            self.do_something(node, term, 12);
        }
    }

    pub(crate) fn do_something(&mut self, node: usize, term: u32, kind: u64) {
        if kind < 12 {
            self.submit(node, term, Op::Flush, Doing::Flush, false);
            return;
        }
        let extents = self.tracked.len() as u32 / EXTENT;
        // Half of the work hits one extent, so that operations overlap.
        let extent = if self.work_rng.chance(50) {
            0
        } else {
            self.work_rng.below(extents.into()) as u32
        };
        let first = self.work_rng.below(EXTENT.into()) as u32;
        let count = self.work_rng.between(1, (EXTENT - first).into()) as u32;
        let start = self.tracked[(extent * EXTENT) as usize] + first;
        let range = ByteRange::new(u64::from(start) * SECTOR, u64::from(count) * SECTOR);
        let index = (extent * EXTENT + first) as usize;
        match kind {
            12..45 => self.read(node, term, range, index, false),
            45..92 => {
                let value = self.op_count + 1;
                let data = Sectors::filled(count, value);
                let offset = range.offset;
                let sectors = (index..index + count as usize).collect();
                self.submit(
                    node,
                    term,
                    Op::Write { offset, data },
                    Doing::Write { sectors, value },
                    false,
                );
            }
            _ if self.work_rng.chance(20) => {
                // A discard of a whole region.
                let region = self.geometry.region_size();
                let start = range.offset / region * region;
                let wide = ByteRange::new(start, region.min(self.geometry.size() - start));
                let (first, end) = (wide.offset / SECTOR, wide.end() / SECTOR);
                let inside = |sector: u32| (first..end).contains(&sector.into());
                let tracked = self.tracked.iter().enumerate();
                let sectors = tracked
                    .filter(|&(_, &sector)| inside(sector))
                    .map(|(index, _)| index)
                    .collect();
                self.submit(
                    node,
                    term,
                    Op::Zero(wide),
                    Doing::Write { sectors, value: 0 },
                    false,
                );
            }
            _ => {
                let sectors = (index..index + count as usize).collect();
                self.submit(
                    node,
                    term,
                    Op::Zero(range),
                    Doing::Write { sectors, value: 0 },
                    false,
                );
            }
        }
    }

    pub(crate) fn read(&mut self, node: usize, term: u32, range: ByteRange, index: usize, last: bool) {
        let count = (range.len / SECTOR) as usize;
        let sectors = (0..count).map(|place| (index + place, place as u32)).collect();
        self.submit(node, term, Op::Read(range), Doing::Read { sectors }, last);
    }

    fn submit(&mut self, node: usize, term: u32, op: Op<Sectors>, doing: Doing, final_read: bool) {
        self.op_count += 1;
        let id = OpId(self.op_count);
        tell!(self, "node {node}: {id:?} to primary {term}: {}", show_op(&op));
        self.checker.submitted(id, term, doing);
        let info = OpInfo {
            node,
            term,
            at: self.now,
            paused: self.nodes[node].paused,
            final_read,
            op: op.clone(),
            waits: self.nodes[node].host.is_none(),
        };
        self.ops.insert(id, info);
        if let Some(host) = self.nodes[node].host.as_mut() {
            host.in_flight += 1;
        }
        self.step_primary(node, term, Event::Submit { id, op });
    }

    pub(crate) fn completed(
        &mut self,
        node: usize,
        term: u32,
        id: OpId,
        result: Result<Option<Sectors>, IoError>,
    ) {
        if self.tracing {
            let shown = match &result {
                Ok(Some(data)) => format!("{:?}", runs(data)),
                Ok(None) => "done".to_owned(),
                Err(error) => format!("{error}"),
            };
            tell!(self, "node {node}: {id:?} of primary {term}: {shown}");
        }
        let Some(mut info) = self.ops.remove(&id) else {
            self.violate(format!("{id:?} was completed twice"));
            return;
        };
        if self.plan.keeper && !self.calm {
            self.moment(Moment::Answering, node, node);
        }
        if let Some(host) = self.nodes[node].host.as_mut().filter(|host| host.term == term) {
            host.in_flight -= 1;
            if host.mute {
                tell!(self, "node {node}: {id:?} is done, and its answer is lost");
                info.waits = true;
                self.ops.insert(id, info);
                return;
            }
        }
        if matches!(result, Ok(None)) {
            self.check_acknowledged(node, term);
        }
        let checked = match result {
            Ok(Some(data)) => self.checker.read(id, |place| data.get(place)),
            Ok(None) => self.checker.acknowledged(id),
            Err(_) => {
                self.outcome.failed += 1;
                self.checker.failed(id);
                Ok(())
            }
        };
        if let Err(error) = checked {
            self.violate(error);
        }
        if info.final_read
            && let Some(left) = &mut self.final_reads
        {
            *left -= 1;
        }
    }

    /// Nobody is left to whom the operations of this primary could be answered.
    pub(crate) fn forget_ops(&mut self, node: usize, term: u32) {
        let gone = |info: &OpInfo| info.node == node && info.term == term;
        let ids: Vec<OpId> = self
            .ops
            .iter()
            .filter(|(_, info)| gone(info))
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            self.outcome.failed += 1;
            self.ops.remove(&id);
            self.checker.forgotten(id);
        }
    }

    /// Whether an operation has waited for longer than any may (P5).
    pub(crate) fn overdue(&self) -> Option<OpId> {
        let bound = IO_TIMEOUT.as_nanos() as Ns + 3 * SEC;
        let late = |info: &OpInfo| {
            let at = &self.nodes[info.node];
            at.running
                && at.paused_until <= self.now
                && self.now.saturating_sub(info.at) > bound + 2 * (at.paused - info.paused)
        };
        self.ops.iter().find(|(_, info)| late(info)).map(|(&id, _)| id)
    }
}

fn show_op(op: &Op<Sectors>) -> String {
    match op {
        Op::Write { offset, data } => format!(
            "write {} +{} value {}",
            offset / SECTOR,
            data.count,
            data.values.first().map_or(0, |&(_, value)| value)
        ),
        Op::Read(range) => format!("read {} +{}", range.offset / SECTOR, range.len / SECTOR),
        Op::Zero(range) => format!("zero {} +{}", range.offset / SECTOR, range.len / SECTOR),
        Op::Flush => "flush".to_owned(),
    }
}

/// Values with how often they follow each other.
fn runs(data: &Sectors) -> Rc<Vec<(u64, u32)>> {
    let mut runs: Vec<(u64, u32)> = Vec::new();
    for place in 0..data.count {
        let value = data.get(place);
        match runs.last_mut() {
            Some((last, count)) if *last == value => *count += 1,
            _ => runs.push((value, 1)),
        }
    }
    Rc::new(runs)
}
