//! What a process that dies leaves behind in the kernel, and how the next one of its node goes on with it (T5).
//!
//! The keeper holds the connection: what was asked over it and not answered is there still, asked again of whoever serves the
//! volume next on this node. Nobody else may have served it in between, and it does not wait for ever.

use std::time::Duration;

use bulkhead_engine::ids::Epoch;
use bulkhead_engine::machine::primary::{Event, Op, OpId, Revision, SwapOutcome};
use bulkhead_engine::machine::{Fault, Record, Reply, SessionId};

use crate::ambush::Moment;
use crate::disk::Sectors;
use crate::node::{ISOLATION_TIMEOUT, node_id};
use crate::plan::{MS, Ns, SEC};
use crate::world::{Answer, Ask, Asker, Ev, NodeEv, World, tell};

/// A connection to the kernel of a node, over which the volume is or was served.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Attachings by which the record may name this node: the one that is served, and those that were to go on for it.
    attachings: Vec<u64>,
    /// The last term that was served over it.
    served: u32,
    /// Since when nobody serves it, if that is so. Goes on over further deaths.
    pub(crate) unserved: Option<Ns>,
    step: Step,
}

/// How far the process is with it.
#[derive(Clone, Debug, Default)]
enum Step {
    #[default]
    Idle,
    Reading,
    Swapping {
        record: Box<Record>,
        expected: Revision,
        attaching: u64,
        /// The epoch of the record that it replaces.
        resumes: Epoch,
    },
}

impl Connection {
    /// Whether the next process is being attached right now.
    pub(crate) fn is_swapping(&self) -> bool {
        matches!(self.step, Step::Swapping { .. })
    }
}

/// How long a connection may be without anybody who serves it.
const PATIENCE: Ns = ISOLATION_TIMEOUT.as_nanos() as Ns;

impl World {
    /// The process that served it is dead; the kernel goes on asking.
    pub(crate) fn left_behind(&mut self, node: usize) {
        let now = self.now;
        let Some(connection) = &mut self.nodes[node].connection else {
            return;
        };
        let newly = connection.unserved.is_none();
        connection.unserved.get_or_insert(now);
        connection.step = Step::Idle;
        let term = connection.served;
        for info in self.ops.values_mut().filter(|info| info.node == node) {
            info.waits = true;
        }
        if newly && self.final_reads.is_none() {
            // What is asked now is read by nobody before the next process.
            for _ in 0..self.work_rng.below(8) {
                let kind = self.work_rng.below(100);
                self.do_something(node, term, kind);
            }
        }
    }

    /// A process has started, and finds what the keeper holds.
    pub(crate) fn found(&mut self, node: usize) {
        let Some(since) = self.nodes[node].connection.as_ref().and_then(|at| at.unserved) else {
            return;
        };
        let left = (since + PATIENCE).saturating_sub(self.now);
        self.later(node, left, NodeEv::GiveUp(since));
        if left > 0 || self.has_fault(Fault::ResumeNeverEnds) {
            self.later(node, MS, NodeEv::Resume);
        }
    }

    /// Reads the record, if it is not at it already.
    pub(crate) fn resume(&mut self, node: usize) {
        let serves = self.nodes[node].host.is_some();
        let Some(connection) = self.nodes[node].connection.as_mut() else {
            return;
        };
        if serves || connection.unserved.is_none() || !matches!(connection.step, Step::Idle) {
            return;
        }
        connection.step = Step::Reading;
        self.ask_store(node, Asker::Resume, Ask::Read);
    }

    fn resume_later(&mut self, node: usize) {
        if let Some(connection) = &mut self.nodes[node].connection {
            connection.step = Step::Idle;
        }
        self.later(node, 50 * MS, NodeEv::Resume);
    }

    pub(crate) fn resume_answered(&mut self, node: usize, answer: Answer) {
        if self.nodes[node].host.is_some() {
            return;
        }
        let Some(connection) = self.nodes[node].connection.as_mut() else {
            return;
        };
        match (std::mem::take(&mut connection.step), answer) {
            (Step::Reading, Answer::Record(record, revision, holder)) => {
                self.resume_by(node, &record, revision, holder);
            }
            (
                Step::Swapping {
                    record,
                    attaching,
                    resumes,
                    ..
                },
                Answer::Swapped(_, SwapOutcome::Applied(revision)),
            ) => self.attach(node, *record, revision, attaching, Some(resumes)),
            (
                step @ Step::Swapping { .. },
                Answer::Swapped(_, SwapOutcome::Unknown) | Answer::Unreachable,
            ) => {
                // Found out before anything else is done (L3).
                connection.step = step;
                self.ask_store(node, Asker::Resume, Ask::Read);
            }
            (step @ Step::Swapping { .. }, Answer::Swapped(_, SwapOutcome::Conflict)) => {
                connection.step = step;
                self.ask_store(node, Asker::Resume, Ask::Read);
            }
            (
                Step::Swapping {
                    attaching, resumes, ..
                },
                Answer::Record(now_is, revision, holder),
            ) if holder == attaching && now_is.primary == Some(node_id(node)) => {
                let term = resumes.next().unwrap_or(resumes);
                if now_is.epoch == term {
                    self.attach(node, *now_is, revision, attaching, Some(resumes));
                } else {
                    self.resume_by(node, &now_is, revision, holder);
                }
            }
            (Step::Swapping { expected, .. }, Answer::Record(now_is, revision, holder)) => {
                // Still on its way, or not done because somebody was faster: whoever that was is looked at as at first.
                let _ = expected;
                self.resume_by(node, &now_is, revision, holder);
            }
            (Step::Reading, _) => self.resume_later(node),
            _ => {}
        }
    }

    /// Attaches the volume in the place of the one that was served over the connection, if that is whom the record names.
    fn resume_by(&mut self, node: usize, record: &Record, revision: Revision, holder: u64) {
        let Some(connection) = self.nodes[node].connection.as_ref() else {
            return;
        };
        let named = record.primary == Some(node_id(node)) && connection.attachings.contains(&holder);
        if !named && !self.has_fault(Fault::ResumeUnconditional) {
            tell!(
                self,
                "node {node}: the record names somebody else, nothing is gone on with"
            );
            self.cut_connection(node);
            return;
        }
        if self.replicas_know_better(node, record) {
            tell!(
                self,
                "node {node}: the store is an older copy, nothing is gone on with"
            );
            self.cut_connection(node);
            return;
        }
        self.nodes[node].surveyed_at = self.now;
        if self.has_fault(Fault::ResumeWithoutEpoch) {
            let attaching = holder;
            self.attach(node, record.clone(), revision, attaching, Some(record.epoch));
            return;
        }
        let Some(mut next) = record.taken_over(node_id(node)) else {
            self.cut_connection(node);
            return;
        };
        if self.rng.chance(50) {
            next.change = record.change;
        }
        let attaching = self.new_attaching();
        let resumes = record.epoch;
        let Some(connection) = self.nodes[node].connection.as_mut() else {
            return;
        };
        // Noted before the swap is sent: it may be done, and nobody of this process learn of it.
        connection.attachings.push(attaching);
        connection.step = Step::Swapping {
            record: Box::new(next.clone()),
            expected: revision,
            attaching,
            resumes,
        };
        tell!(self, "node {node}: goes on, by a swap of epoch {resumes}");
        self.moment(Moment::Resuming, node, node);
        let ask = Ask::Swap {
            change: next.change,
            expected: revision,
            record: Box::new(next),
            holder: Some(attaching),
        };
        self.ask_store(node, Asker::Resume, ask);
    }

    /// The primary that was to go on ended before it served: as long as there is time it is tried again.
    pub(crate) fn resume_failed(&mut self, node: usize) {
        let unserved = self.nodes[node].connection.as_ref().and_then(|at| at.unserved);
        if unserved.is_some_and(|since| self.now < since + PATIENCE) {
            self.resume_later(node);
        } else {
            self.cut_connection(node);
        }
    }

    /// The time in which it had to be served again is over.
    pub(crate) fn give_up(&mut self, node: usize, since: Ns) {
        let unserved = self.nodes[node].connection.as_ref().and_then(|at| at.unserved);
        if unserved != Some(since) || self.has_fault(Fault::ResumeNeverEnds) {
            return;
        }
        tell!(
            self,
            "node {node}: nobody has come to serve the connection in time"
        );
        self.nodes[node].host = None;
        for conn in 0..self.net.conns.len() {
            let at = &self.net.conns[conn];
            if at.primary.node == node && at.open_at_primary {
                self.disconnect(conn);
            }
        }
        self.cut_connection(node);
    }

    /// The connection is ended: whatever was asked over it has failed.
    pub(crate) fn cut_connection(&mut self, node: usize) {
        self.nodes[node].connection = None;
        let gone: Vec<OpId> = self.waiting(node);
        for id in gone {
            self.outcome.failed += 1;
            self.ops.remove(&id);
            self.checker.forgotten(id);
        }
    }

    /// What the kernel of a node has asked and no process has at hand.
    pub(crate) fn waiting(&self, node: usize) -> Vec<OpId> {
        let waits = self
            .ops
            .iter()
            .filter(|(_, info)| info.node == node && info.waits);
        waits.map(|(&id, _)| id).collect()
    }

    /// A primary begins to serve the volume over this node's connection. P2, T5: nobody has in between.
    pub(crate) fn check_gone_on(&mut self, node: usize, term: u32) {
        let resumed = self.nodes[node]
            .connection
            .as_ref()
            .filter(|at| at.unserved.is_some());
        let last = self.checker.serving_term();
        if let Some(before) = resumed.map(|at| at.served).filter(|&before| before < last) {
            self.violate(format!(
                "T5: the primary of term {term} goes on for that of term {before}, though that of term {last} has served since"
            ));
        }
    }

    /// T5: whoever goes on for the process before is not kept waiting for it.
    pub(crate) fn check_wait(&mut self, node: usize, session: SessionId, reply: &Reply<Sectors>) {
        let (Reply::Opened(opened), Some(conn)) = (reply, self.net.conns.get(session.0 as usize)) else {
            return;
        };
        let (primary, term) = (conn.primary, conn.term);
        let host = self.nodes[primary.node].host.as_ref();
        let goes_on = host.is_some_and(|host| host.term == term && host.resumes);
        let here = self.nodes[primary.node].process == primary.process;
        if goes_on && here && opened.wait > Duration::ZERO && self.restored.at.is_none() {
            self.violate(format!(
                "T5: the replica on node {node} has the primary of term {term}, which goes on, wait for {:?}",
                opened.wait
            ));
        }
    }

    /// It serves: the kernel has asked again for everything that was not answered, and is heard in any order.
    pub(crate) fn gone_on(&mut self, node: usize, term: u32) {
        if !self.plan.keeper {
            return;
        }
        let Some(attaching) = self.nodes[node].host.as_ref().map(|host| host.attaching) else {
            return;
        };
        let since = self.nodes[node].connection.as_ref().and_then(|at| at.unserved);
        let pause = self.now - since.unwrap_or(self.now);
        self.outcome.longest_pause = self.outcome.longest_pause.max(pause);
        self.nodes[node].connection = Some(Connection {
            attachings: vec![attaching],
            served: term,
            unserved: None,
            step: Step::Idle,
        });
        let waiting = self.waiting(node);
        if waiting.is_empty() || self.has_fault(Fault::ResumeDrops) {
            return;
        }
        tell!(
            self,
            "node {node}: {} operations are asked for again",
            waiting.len()
        );
        self.outcome.asked_again += waiting.len() as u64;
        let spread = self.rng.pick(&[1, MS, 10 * MS, 60 * MS]);
        for id in waiting {
            let delay = self.rng.below(spread);
            self.later(node, delay, NodeEv::Again(term, id));
        }
    }

    /// An operation reaches the process for another time.
    pub(crate) fn ask_again(&mut self, node: usize, term: u32, id: OpId) {
        let (now, paused) = (self.now, self.nodes[node].paused);
        let Some(host) = self.nodes[node].host.as_mut().filter(|host| host.term == term) else {
            return;
        };
        let Some(info) = self.ops.get_mut(&id).filter(|info| info.waits) else {
            return;
        };
        host.in_flight += 1;
        info.waits = false;
        info.term = term;
        (info.at, info.paused) = (now, paused);
        let op = info.op.clone();
        tell!(self, "node {node}: {id:?} again, to primary {term}");
        self.checker.asked_again(id, term);
        self.moment(Moment::Again, node, node);
        if self.has_fault(Fault::ResumeForgets) && !matches!(op, Op::Read(_)) {
            self.completed(node, term, id, Ok(None));
            return;
        }
        self.step_primary(node, term, Event::Submit { id, op });
    }

    /// Kills the process of a node, which is back soon: also when nothing else goes wrong any more.
    pub(crate) fn restart(&mut self, node: usize, down: Ns) {
        if self.nodes[node].running {
            self.kill(node, down, false);
        }
    }

    /// Which node's process is at the volume: serves it, or is about to.
    pub(crate) fn at_work(&self) -> Option<usize> {
        let opens = |node: &usize| {
            let at = &self.nodes[*node];
            at.running && (at.host.is_some() || at.connection.is_some())
        };
        self.served_by().or_else(|| (0..self.nodes.len()).find(opens))
    }

    /// L5: what is asked over a connection that nobody serves fails in time, also if processes come and go.
    pub(crate) fn look_at_the_unserved(&mut self) {
        let mut wrong = None;
        for (node, at) in self.nodes.iter().enumerate() {
            let Some(since) = at.connection.as_ref().and_then(|at| at.unserved) else {
                continue;
            };
            let runs = at.running && at.started_at + SEC < self.now && at.paused_until + SEC < self.now;
            if runs && self.now - since > 2 * PATIENCE {
                wrong = Some(format!(
                    "L5: nobody has served the connection of node {node} for {:.1} s, and it is not ended",
                    (self.now - since) as f64 / SEC as f64
                ));
            }
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
    }

    pub(crate) fn restart_at_work(&mut self, down: Ns, times: u32, gap: Ns) {
        let Some(node) = self.at_work() else {
            return;
        };
        let mut at = self.now;
        for _ in 0..times {
            self.at(at, Ev::Restart(node, down));
            at += down + 1 + self.rng.below(gap);
        }
    }

    /// An attaching that nobody had before.
    pub(crate) fn new_attaching(&mut self) -> u64 {
        self.attachings += 1;
        self.attachings
    }
}
