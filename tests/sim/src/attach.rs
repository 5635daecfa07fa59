//! How the volume is attached where it is wanted, and what is checked when a primary begins and ends.

use bulkhead_engine::ids::Epoch;
use bulkhead_engine::machine::primary::{EndReason, Event, Phase, PrimaryConfig, SwapOutcome};
use bulkhead_engine::machine::record::ChangeId;
use bulkhead_engine::machine::{Fault, Primary};

use crate::node::{Attach, ISOLATION_TIMEOUT, node_id, node_of, primary_config};
use crate::plan::{MS, Ns};
use crate::world::{Answer, Ask, Asker, Ev, NodeEv, World, tell};

/// How long an attach waits for the present primary before it goes ahead.
const PATIENCE: Ns = 1500 * MS;

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
        let at = &self.nodes[node];
        if at.host.is_some() || at.connection.is_some() || at.paused_until > self.now {
            return;
        }
        match self.nodes[node].attach {
            Attach::Idle => self.read_record(node, self.now),
            Attach::Waiting { since, until } if until <= self.now => self.read_record(node, since),
            _ => {}
        }
    }

    pub(crate) fn read_record(&mut self, node: usize, since: Ns) {
        self.nodes[node].attach = Attach::Reading { since };
        self.ask_store(node, Asker::Attach, Ask::Read);
    }

    pub(crate) fn store_answered(&mut self, node: usize, asker: Asker, answer: Answer) {
        match (asker, answer) {
            (Asker::Primary(term), Answer::Record(record, revision, _)) => {
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
            (Asker::Resume, answer) => self.resume_answered(node, answer),
            (Asker::Nobody, _) => {}
        }
    }

    pub(crate) fn attach_answered(&mut self, node: usize, answer: Answer) {
        let state = std::mem::take(&mut self.nodes[node].attach);
        let now = self.now;
        match (state, answer) {
            (Attach::Reading { since }, Answer::Record(record, revision, _)) => {
                if self.is_store_behind(node, &record) {
                    tell!(
                        self,
                        "node {node}: the store is an older copy, nothing is attached"
                    );
                    let until = now + 200 * MS;
                    self.nodes[node].attach = Attach::Waiting { since, until };
                    return;
                }
                self.nodes[node].surveyed_at = now;
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
                let Some(mut next) = record.taken_over(node_id(node)) else {
                    return;
                };
                if self.rng.chance(50) {
                    // Whoever attaches may leave the last primary's change there.
                    next.change = record.change;
                }
                let attaching = self.new_attaching();
                let claims =
                    record.primary == Some(node_id(node)) && self.has_fault(Fault::ResumeFromUnserved);
                self.nodes[node].attach = Attach::Swapping {
                    since,
                    record: Box::new(next.clone()),
                    expected: revision,
                    attaching,
                    resumes: claims.then_some(record.epoch),
                };
                let ask = Ask::Swap {
                    change: next.change,
                    expected: revision,
                    record: Box::new(next),
                    holder: Some(attaching),
                };
                self.ask_store(node, Asker::Attach, ask);
            }
            (
                Attach::Swapping {
                    record,
                    attaching,
                    resumes,
                    ..
                },
                Answer::Swapped(_, SwapOutcome::Applied(revision)),
            ) => self.attach(node, *record, revision, attaching, resumes),
            (state @ Attach::Swapping { .. }, Answer::Swapped(change, SwapOutcome::Unknown)) => {
                // The same change again, until its outcome is known.
                if let Attach::Swapping {
                    record,
                    expected,
                    attaching,
                    ..
                } = &state
                {
                    let ask = Ask::Swap {
                        change,
                        expected: *expected,
                        record: record.clone(),
                        holder: Some(*attaching),
                    };
                    self.ask_store(node, Asker::Attach, ask);
                }
                self.nodes[node].attach = state;
            }
            (state @ Attach::Swapping { .. }, Answer::Swapped(_, SwapOutcome::Conflict)) => {
                self.nodes[node].attach = state;
                self.ask_store(node, Asker::Attach, Ask::Read);
            }
            (
                Attach::Swapping {
                    since,
                    record,
                    attaching,
                    resumes,
                    ..
                },
                Answer::Record(now_is, revision, _),
            ) => {
                if now_is.change == record.change
                    && now_is.primary == record.primary
                    && now_is.epoch == record.epoch
                {
                    self.attach(node, *now_is, revision, attaching, resumes);
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

    pub(crate) fn attach(
        &mut self,
        node: usize,
        record: bulkhead_engine::machine::Record,
        revision: bulkhead_engine::machine::primary::Revision,
        attaching: u64,
        resumes: Option<Epoch>,
    ) {
        let term = record.epoch.0;
        tell!(self, "node {node}: attached as primary of term {term}");
        self.op_count += 1;
        let config = PrimaryConfig {
            resumes: resumes.filter(|resumes| resumes.0 < term),
            ..primary_config(node, attaching, &self.plan, self.geometry, self.faults())
        };
        self.nodes[node].attached_at = self.now;
        let clock = self.nodes[node].clock(self.now);
        let mut out = Vec::new();
        let machine = Primary::attach(clock, config, record, revision, &mut out);
        self.nodes[node].host = Some(Self::new_host(machine, term, attaching, resumes.is_some()));
        for action in out {
            self.primary_action(node, term, action);
        }
        self.tell_the_dead(node, term);
        self.step_primary(node, term, Event::Timer);
    }

    /// Which nodes the store takes for dead: often those that are, and now and then one that is not.
    pub(crate) fn tell_the_dead(&mut self, node: usize, term: u32) {
        let mut dead = Vec::new();
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            let at = &self.nodes[other];
            let silent = !at.running || at.paused_until > self.now || self.net.store_cut[other] > self.now;
            let said = self.rng.chance(if silent { 70 } else { 10 });
            if said {
                dead.push(node_id(other));
            }
        }
        if dead.is_empty() {
            return;
        }
        tell!(self, "node {node}: the store takes {dead:?} for dead");
        self.step_primary(node, term, Event::Dead(dead));
    }

    /// A primary has said that it serves.
    pub(crate) fn serving(&mut self, node: usize, term: u32) {
        tell!(self, "node {node}: primary {term} serves");
        self.outcome.served += 1;
        if self.restored.must_refuse && !self.was_before_the_restored(node) {
            self.check_restored(node, term);
            return;
        }
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
            let by_store = self.store.record.is_member(self.rid(member));
            let member = by_store || self.restored.at.is_some();
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
            self.check_stamps(term, &here);
            self.check_gone_on(node, term);
            let waiting = self.waiting(node);
            let served = self
                .checker
                .serving(term, strong, &waiting, |index| content[index]);
            if let Err(error) = served {
                wrong = wrong.or(Some(error));
            }
        }
        for member in members {
            self.nodes[member].kept = here.contains(&member);
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
        self.gone_on(node, term);
        self.later(node, MS, NodeEv::Op(term));
    }

    /// A primary has ended: the volume is unmounted there.
    pub(crate) fn ended(&mut self, node: usize, term: u32, reason: EndReason) {
        tell!(self, "node {node}: primary {term} has ended: {reason}");
        let left = self
            .ops
            .values()
            .filter(|info| info.node == node && info.term == term && !info.waits)
            .count();
        if left > 0 {
            self.violate(format!(
                "P5: the primary of term {term} ended with {left} operations unanswered"
            ));
        }
        let (record, served, attaching) = match self.nodes[node].host.take() {
            Some(host) if host.machine.phase() == Phase::Ended => {
                (host.machine.record().clone(), host.serving, host.attaching)
            }
            _ => return,
        };
        if served {
            self.cut_connection(node);
        } else {
            self.resume_failed(node);
        }
        // By an older copy of the store somebody else may have it, in the same epoch.
        let has_it = self.store.record.primary == Some(node_id(node)) && self.store.holder == attaching;
        if reason == EndReason::Released && has_it {
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
                holder: None,
            };
            self.ask_store(node, Asker::Nobody, ask);
        }
        let contact = self.now.saturating_sub(self.nodes[node].in_contact_since);
        if reason == EndReason::Isolated && contact > 2 * ISOLATION_TIMEOUT.as_nanos() as Ns {
            self.violate(format!(
                "L5: the primary of term {term} gave up as cut off, though it could reach the store all the time"
            ));
        }
        let still =
            self.store.record.primary == Some(node_id(node)) && self.store.record.epoch == record.epoch;
        let restored = self.restored.at.is_some();
        if matches!(reason, EndReason::Superseded(_))
            && still
            && !restored
            && self.store.record.change.term.0 <= term
        {
            self.violate(format!(
                "L4: the primary of term {term} gave up as replaced, though the record still names it"
            ));
        }
        self.verify_lost();
        self.outcome.ended.push(reason);
        if matches!(reason, EndReason::StoreIsOlder { .. }) && self.restored.at.is_some() {
            self.restored.noted = true;
        } else if matches!(reason, EndReason::StoreIsOlder { .. }) {
            self.violate(format!("the store was taken for an older one: {reason}"));
        }
    }
}
