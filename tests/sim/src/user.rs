//! Those who use the volume: where it is wanted, how it is attached there, and what is read and written.

use std::rc::Rc;

use bulkhead_engine::geometry::{ByteRange, Geometry, SECTOR};
use bulkhead_engine::io::IoError;
use bulkhead_engine::machine::Primary;
use bulkhead_engine::machine::primary::{EndReason, Event, Op, OpId, Phase, SwapOutcome};
use bulkhead_engine::machine::record::ChangeId;

use crate::checker::Doing;
use crate::disk::Sectors;
use crate::node::{Attach, IO_TIMEOUT, node_id, node_of, primary_config};
use crate::plan::{MS, Ns, Plan, SEC};
use crate::rng::Rng;
use crate::world::{Answer, Ask, Asker, Ev, NodeEv, World, tell};

/// Sectors in one extent that is used.
const EXTENT: u32 = 16;
/// Operations that one user has under way at most.
const DEPTH: usize = 8;
/// How long an attach waits for the present primary before it goes ahead.
const PATIENCE: Ns = 1500 * MS;

/// An operation that was given to a primary.
#[derive(Clone, Copy, Debug)]
pub struct OpInfo {
    node: usize,
    term: u32,
    at: Ns,
    /// For how long its node had not run by then.
    paused: Ns,
    final_read: bool,
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
    /// Sees to it that the volume is attached where it is wanted.
    pub(crate) fn user(&mut self) {
        self.at(self.now + 50 * MS, Ev::User);
        let wanted = &self.nodes[self.wanted];
        if !wanted.running || wanted.paused_until > self.now + 500 * MS {
            if self.rng.chance(8) {
                self.wanted = self.rng.below(self.nodes.len() as u64) as usize;
                self.wanted_ask = false;
                tell!(self, "user: wants the volume on node {}", self.wanted);
            }
            return;
        }
        let node = self.wanted;
        if self.nodes[node].host.is_some() || self.nodes[node].paused_until > self.now {
            return;
        }
        match self.nodes[node].attach {
            Attach::Idle => self.read_record(node, self.now),
            Attach::Waiting { since, until } if until <= self.now => self.read_record(node, since),
            _ => {}
        }
    }

    fn read_record(&mut self, node: usize, since: Ns) {
        self.nodes[node].attach = Attach::Reading { since };
        self.ask_store(node, Asker::Attach, Ask::Read);
    }

    pub(crate) fn store_answered(&mut self, node: usize, asker: Asker, answer: Answer) {
        match (asker, answer) {
            (Asker::Primary(term), Answer::Record(record, revision)) => {
                let record = *record;
                self.step_primary(node, term, Event::Record { record, revision });
            }
            (Asker::Primary(term), Answer::Swapped(change, outcome)) => {
                tell!(
                    self,
                    "node {node}: swap {change:?} of primary {term}: {outcome:?}"
                );
                self.step_primary(node, term, Event::Swapped { change, outcome });
            }
            (Asker::Primary(term), Answer::Unreachable) => {
                self.step_primary(node, term, Event::RecordUnreachable)
            }
            (Asker::Attach, answer) => self.attach_answered(node, answer),
            (Asker::Nobody, _) => {}
        }
    }

    fn attach_answered(&mut self, node: usize, answer: Answer) {
        let state = std::mem::take(&mut self.nodes[node].attach);
        let now = self.now;
        match (state, answer) {
            (Attach::Reading { since }, Answer::Record(record, revision)) => {
                let holder = record.primary.filter(|&primary| primary != node_id(node));
                let holder = holder.map(|primary| usize::from(primary.to_bytes()[15]));
                let attached = holder.filter(|&holder| self.nodes[holder].host.is_some());
                if let Some(holder) = attached.filter(|_| self.wanted_ask && now - since < PATIENCE) {
                    if self.net.passes(node, holder, now) {
                        self.later(holder, 2 * MS, NodeEv::Release);
                    }
                    let until = now + 200 * MS;
                    self.nodes[node].attach = Attach::Waiting { since, until };
                    return;
                }
                let Some(next) = record.taken_over(node_id(node)) else {
                    return;
                };
                self.nodes[node].attach = Attach::Swapping {
                    since,
                    record: Box::new(next.clone()),
                    expected: revision,
                };
                let ask = Ask::Swap {
                    change: next.change,
                    expected: revision,
                    record: Box::new(next),
                };
                self.ask_store(node, Asker::Attach, ask);
            }
            (Attach::Swapping { record, .. }, Answer::Swapped(_, SwapOutcome::Applied(revision))) => {
                self.attach(node, *record, revision);
            }
            (
                Attach::Swapping {
                    since,
                    record,
                    expected,
                },
                Answer::Swapped(change, SwapOutcome::Unknown),
            ) => {
                // The same change again, until its outcome is known.
                self.nodes[node].attach = Attach::Swapping {
                    since,
                    record: record.clone(),
                    expected,
                };
                let ask = Ask::Swap {
                    change,
                    expected,
                    record,
                };
                self.ask_store(node, Asker::Attach, ask);
            }
            (
                Attach::Swapping {
                    since,
                    record,
                    expected,
                },
                Answer::Swapped(_, SwapOutcome::Conflict),
            ) => {
                self.nodes[node].attach = Attach::Swapping {
                    since,
                    record,
                    expected,
                };
                self.ask_store(node, Asker::Attach, Ask::Read);
            }
            (Attach::Swapping { since, record, .. }, Answer::Record(now_is, revision)) => {
                if now_is.change == record.change
                    && now_is.primary == record.primary
                    && now_is.epoch == record.epoch
                {
                    self.attach(node, *now_is, revision);
                } else {
                    let until = now;
                    self.nodes[node].attach = Attach::Waiting { since, until };
                }
            }
            (state @ Attach::Swapping { .. }, Answer::Unreachable) => {
                self.nodes[node].attach = state;
                self.ask_store(node, Asker::Attach, Ask::Read);
            }
            _ => {}
        }
    }

    fn attach(
        &mut self,
        node: usize,
        record: bulkhead_engine::machine::Record,
        revision: bulkhead_engine::machine::primary::Revision,
    ) {
        let term = record.epoch.0;
        tell!(self, "node {node}: attached as primary of term {term}");
        let config = primary_config(node, &self.plan, self.geometry, self.faults());
        let clock = self.nodes[node].clock(self.now);
        let mut out = Vec::new();
        let machine = Primary::attach(clock, config, record, revision, &mut out);
        self.nodes[node].host = Some(Self::new_host(machine, term));
        for action in out {
            self.primary_action(node, term, action);
        }
        self.step_primary(node, term, Event::Timer);
    }

    /// A primary has said that it serves.
    pub(crate) fn serving(&mut self, node: usize, term: u32) {
        tell!(self, "node {node}: primary {term} serves");
        self.outcome.served += 1;
        let Some(host) = self.nodes[node].host.as_mut() else {
            return;
        };
        host.serving = true;
        let members: Vec<usize> = host
            .machine
            .record()
            .members()
            .map(|member| node_of(member.id))
            .collect();
        let here = |&&member: &&usize| {
            let at = &self.nodes[member];
            let member = self.store.record.is_member(self.rid(member));
            // A primary that is about to learn that it was replaced may count on members that are none.
            at.powered && !at.failed && at.disk.is_some() && member
        };
        let here: Vec<usize> = members.iter().filter(here).copied().collect();
        let strong = members.iter().any(|&member| self.nodes[member].kept);
        let mut wrong = None;
        if let Some((&first, others)) = here.split_first() {
            for &sector in &self.tracked {
                for &other in others {
                    let (one, two) = (self.content(first, sector), self.content(other, sector));
                    if one != two {
                        wrong = Some(format!(
                            "P3: members differ when the primary of term {term} begins to serve: \
                             sector {sector} is {one} on node {first} and {two} on node {other}"
                        ));
                    }
                }
            }
            let content: Vec<u64> = self
                .tracked
                .iter()
                .map(|&sector| self.content(first, sector))
                .collect();
            if let Err(error) = self.checker.serving(term, strong, |index| content[index]) {
                wrong = wrong.or(Some(error));
            }
        }
        for member in members {
            self.nodes[member].kept = here.contains(&member);
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
        self.later(node, MS, NodeEv::Op(term));
    }

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
        let pause = if self.work_rng.chance(2) { 300 * MS } else { 0 };
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

    fn do_something(&mut self, node: usize, term: u32, kind: u64) {
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
        let Some(info) = self.ops.remove(&id) else {
            self.violate(format!("{id:?} was completed twice"));
            return;
        };
        if let Some(host) = self.nodes[node].host.as_mut().filter(|host| host.term == term) {
            host.in_flight -= 1;
        }
        let checked = match result {
            Ok(Some(data)) => self.checker.read(id, |place| data.get(place)),
            Ok(None) => self.checker.acknowledged(id),
            Err(_) => {
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
            self.ops.remove(&id);
            self.checker.forgotten(id);
        }
    }

    /// A primary has ended: the volume is unmounted there.
    pub(crate) fn ended(&mut self, node: usize, term: u32, reason: EndReason) {
        tell!(self, "node {node}: primary {term} has ended: {reason}");
        let left = self
            .ops
            .values()
            .filter(|info| info.node == node && info.term == term)
            .count();
        if left > 0 {
            self.violate(format!(
                "P5: the primary of term {term} ended with {left} operations unanswered"
            ));
        }
        let record = match self.nodes[node].host.take() {
            Some(host) if host.machine.phase() == Phase::Ended => host.machine.record().clone(),
            _ => return,
        };
        if reason == EndReason::Released && self.store.record.epoch == record.epoch {
            // Best effort: the record says that nobody has it.
            let mut free = self.store.record.clone();
            free.primary = None;
            free.change = ChangeId {
                term: free.epoch,
                count: u32::MAX,
            };
            let ask = Ask::Swap {
                change: free.change,
                expected: self.store.revision,
                record: Box::new(free),
            };
            self.ask_store(node, Asker::Nobody, ask);
        }
        if matches!(reason, EndReason::StoreIsOlder { .. }) {
            self.violate(format!("the store was taken for an older one: {reason}"));
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
