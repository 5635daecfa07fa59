//! What is looked at from time to time and at the end.

use bulkhead_engine::geometry::{ByteRange, SECTOR};
use bulkhead_engine::machine::MemberState;
use bulkhead_engine::machine::primary::Phase;

use crate::node::{ISOLATION_TIMEOUT, node_of};
use crate::plan::{MS, Ns, SEC};
use crate::world::{Ev, World};

impl World {
    /// What is looked at again and again.
    pub(crate) fn audit(&mut self) {
        self.at(self.now + 100 * MS, Ev::Audit);
        let now = self.now;
        self.look_at_the_restored();
        for node in 0..self.nodes.len() {
            let at = &mut self.nodes[node];
            if at.slow.0 <= now
                && let Some(disk) = &mut at.disk
            {
                disk.full = false;
            }
            let at = &self.nodes[node];
            let is_member = self.store.record.is_member(self.rid(node));
            let in_record = self.store.record.replica(self.rid(node)).is_some();
            if self.restored.must_refuse || !at.running {
                continue;
            }
            if at.failed && in_record && !is_member && (self.calm || self.rng.chance(20)) {
                self.replace_replica(node);
            } else if self.has_lost_one(node) {
                // By a record of an older store there is one that was replaced since: it has to be once more.
                self.replace_replica(node);
            }
        }
        if let Some(id) = self.overdue() {
            self.violate(format!("P5: {id:?} has not been answered in time"));
        }
        self.look_at_the_cut_off();
        self.look_at_the_unserved();
        self.compare_members();
        self.compare_rebuilt();
        // A watch that missed something is told sooner or later.
        self.tell_watches(3);
        if self.calm {
            self.look_for_the_end();
        }
    }

    /// The node whose primary serves in the record's epoch, if that is so.
    pub(crate) fn served_by(&self) -> Option<usize> {
        let serves = |node: &usize| {
            self.nodes[*node].host.as_ref().is_some_and(|host| {
                host.serving
                    && host.machine.phase() == Phase::Serving
                    && host.machine.epoch() == self.store.record.epoch
            })
        };
        (0..self.nodes.len()).find(serves)
    }

    /// L5: a primary that is cut off from every other node and from the store ends by itself.
    fn look_at_the_cut_off(&mut self) {
        let now = self.now;
        let mut wrong = None;
        for node in 0..self.nodes.len() {
            let reaches = |other: usize| {
                let both_ways = self.net.passes(node, other, now) && self.net.passes(other, node, now);
                other != node && both_ways && self.nodes[other].powered
            };
            let store = self.net.store_cut[node] <= now && self.store_down_until <= now;
            let cut_off = !store && !(0..self.nodes.len()).any(reaches);
            let at = &mut self.nodes[node];
            let runs = at.running && at.paused_until <= now;
            if !store || self.store_slow_until > now || !runs {
                at.in_contact_since = now;
            }
            if !cut_off || !runs {
                at.cut_off_since = None;
                continue;
            }
            let since = *at.cut_off_since.get_or_insert(now);
            let Some(host) = at.host.as_ref().filter(|host| host.serving) else {
                continue;
            };
            let elsewhere = host
                .machine
                .record()
                .members()
                .any(|member| node_of(member.id) != node);
            let bound = 2 * ISOLATION_TIMEOUT.as_nanos() as Ns;
            if elsewhere && now - since > bound && host.machine.phase() != Phase::Ended {
                let term = host.term;
                wrong = Some(format!(
                    "L5: the primary of term {term} goes on though its node has been cut off for {:.1} s",
                    (now - since) as f64 / SEC as f64
                ));
            }
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
    }

    /// P3: members are identical wherever no write is in flight.
    pub(crate) fn compare_members(&mut self) {
        if self.served_by().is_none() {
            return;
        }
        let kept = |node: &usize| {
            let at = &self.nodes[*node];
            at.kept && !at.failed && self.store.record.is_member(self.rid(*node))
        };
        let members: Vec<usize> = (0..self.nodes.len()).filter(kept).collect();
        self.check_durable(&members);
        let Some((&first, others)) = members.split_first() else {
            return;
        };
        let mut wrong = None;
        for (index, &sector) in self.tracked.iter().enumerate() {
            if self.checker.is_being_written(index) {
                continue;
            }
            for &other in others {
                let (one, two) = (self.content(first, sector), self.content(other, sector));
                if one != two {
                    wrong = Some(format!(
                        "P3: members differ: sector {sector} is {one} on node {first} and {two} on node {other}"
                    ));
                }
            }
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
    }

    /// With everything repaired, every replica becomes a member again, and all are the same.
    pub(crate) fn look_for_the_end(&mut self) {
        let since = self.now.saturating_sub(self.plan.calm_at);
        let record = &self.store.record;
        let lost = |node: usize| self.nodes[node].failed || self.nodes[node].disk.is_none();
        if record.members().all(|member| lost(node_of(member.id))) {
            if !self.force() {
                self.outcome.dead = true;
                self.finished = true;
            }
            return;
        }
        if self.is_refused_to_the_end() {
            self.outcome.refused = true;
            self.finished = true;
            return;
        }
        if since > 90 * SEC {
            let state = crate::show::show_record(record);
            self.violate(format!(
                "the volume is not healthy again 90 s after the last fault: {state}"
            ));
            return;
        }
        if since < 2 * SEC {
            return;
        }
        if since > 20 * SEC && std::mem::take(&mut self.restored.running) {
            self.wanted = (self.wanted + 1) % self.nodes.len();
            self.wanted_ask = true;
        }
        let healthy = record
            .replicas
            .iter()
            .all(|replica| replica.state == MemberState::Member);
        let Some(node) = self.served_by().filter(|_| healthy) else {
            return;
        };
        if !self.rot.is_mended() && self.store.record.replicas.len() > 1 {
            self.verify_again(node);
            return;
        }
        match self.final_reads {
            None => {
                // The users stop; what they have under way comes to its end.
                self.final_reads = Some(u64::MAX);
            }
            Some(u64::MAX) => {
                if self.ops.is_empty() {
                    self.read_everything(node);
                }
            }
            Some(0) => {
                self.compare_files();
                self.finished = true;
            }
            Some(_) => {
                if self.ops.is_empty() {
                    // The primary went away under the last reads: once more.
                    self.final_reads = Some(u64::MAX);
                }
            }
        }
    }

    pub(crate) fn read_everything(&mut self, node: usize) {
        let Some(term) = self.nodes[node].host.as_ref().map(|host| host.term) else {
            return;
        };
        let starts: Vec<(usize, u32)> = self.tracked.iter().copied().enumerate().step_by(16).collect();
        self.final_reads = Some(starts.len() as u64);
        for (index, sector) in starts {
            let range = ByteRange::new(u64::from(sector) * SECTOR, 16 * SECTOR);
            self.read(node, term, range, index, true);
        }
    }

    pub(crate) fn compare_files(&mut self) {
        let members: Vec<usize> = self
            .store
            .record
            .members()
            .map(|member| node_of(member.id))
            .collect();
        let contents: Vec<_> = members
            .iter()
            .filter_map(|&node| self.disk(node))
            .map(|disk| disk.content().clone())
            .collect();
        if contents.windows(2).any(|pair| pair[0] != pair[1]) {
            self.violate("the members are not byte-identical at the end".to_owned());
        }
        let unanswered = self.checker.unanswered().next();
        if let Some(id) = unanswered {
            self.violate(format!("P5: {id:?} was never answered"));
        }
    }
}
