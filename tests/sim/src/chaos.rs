//! What a plan's entries do to the world, and what is looked at from time to time and at the end.

use bulkhead_engine::geometry::{ByteRange, SECTOR};
use bulkhead_engine::machine::MemberState;
use bulkhead_engine::machine::primary::Phase;

use crate::node::node_of;
use crate::plan::{MS, Mischief, SEC};
use crate::world::{Ev, World, tell};

impl World {
    pub(crate) fn mischief(&mut self, what: Mischief) {
        tell!(self, "mischief: {what:?}");
        let now = self.now;
        match what {
            Mischief::Kill { node, down } => self.kill(node, down, false),
            Mischief::PowerCut { node, down } => self.kill(node, down, true),
            Mischief::Blackout { down } => {
                for node in 0..self.nodes.len() {
                    let more = self.rng.below(300) * MS;
                    self.kill(node, down + more, true);
                }
            }
            Mischief::Pause { node, time } => {
                let at = &mut self.nodes[node];
                let until = at.paused_until.max(now + time);
                at.paused += until - at.paused_until.max(now);
                at.paused_until = until;
            }
            Mischief::CutOneWay { from, to, time } => self.net.cut(from, to, now + time),
            Mischief::CutBothWays { one, other, time } => {
                self.net.cut(one, other, now + time);
                self.net.cut(other, one, now + time);
            }
            Mischief::Isolate { node, time } => {
                for other in 0..self.nodes.len() {
                    self.net.cut(node, other, now + time);
                    self.net.cut(other, node, now + time);
                }
                self.net.store_cut[node] = now + time;
                if node == self.wanted && self.nodes.len() > 1 && self.rng.chance(60) {
                    self.wanted = (node + 1) % self.nodes.len();
                    self.wanted_ask = false;
                }
            }
            Mischief::SlowSync { node, time } => {
                for at in 0..self.nodes.len() {
                    if node.is_none_or(|node| node == at) {
                        self.nodes[at].slow_sync = now + time;
                    }
                }
            }
            Mischief::Break { one, other } => self.break_conns(one, other),
            Mischief::SlowNet { time } => self.net.slow_until = now + time,
            Mischief::SlowDisk { node, times, time } => self.nodes[node].slow = (now + time, times),
            Mischief::DiskError { node, mishap, kill } => {
                if self.may_fail(node) {
                    let at = &mut self.nodes[node];
                    at.kill_on_error = kill;
                    if let Some(disk) = &mut at.disk {
                        disk.mishap = Some(mishap);
                    }
                }
            }
            Mischief::DiskFull { node, time } => {
                if let Some(disk) = &mut self.nodes[node].disk {
                    disk.full = true;
                }
                self.nodes[node].slow = (now + time, 1);
            }
            Mischief::StoreDown { time } => self.store_down_until = now + time,
            Mischief::StoreSlow { time } => self.store_slow_until = now + time,
            Mischief::StoreCut { node, time } => self.net.store_cut[node] = now + time,
            Mischief::Move { node, ask } => {
                self.wanted = node;
                self.wanted_ask = ask;
            }
        }
    }

    /// A disk may fail for good as long as another member's does not: of nothing nothing can be restored.
    fn may_fail(&self, node: usize) -> bool {
        let sound = |other: &usize| {
            let at = &self.nodes[*other];
            *other != node
                && !at.failed
                && at.kept
                && self.store.record.is_member(self.rid(*other))
                && at.disk.as_ref().is_some_and(|disk| disk.mishap.is_none())
        };
        (0..self.nodes.len()).any(|other| sound(&other))
    }

    /// Everything works again.
    pub(crate) fn make_calm(&mut self) {
        tell!(self, "calm");
        self.calm = true;
        let now = self.now;
        self.net.heal(now);
        self.store_down_until = now;
        self.store_slow_until = now;
        for node in 0..self.nodes.len() {
            let at = &mut self.nodes[node];
            at.paused_until = at.paused_until.min(now);
            at.slow = (now, 1);
            at.slow_sync = now;
            at.kill_on_error = false;
            if let Some(disk) = &mut at.disk {
                disk.mishap = None;
                disk.full = false;
            }
            self.start(node);
        }
    }

    /// What is looked at again and again.
    pub(crate) fn audit(&mut self) {
        self.at(self.now + 100 * MS, Ev::Audit);
        let now = self.now;
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
            if at.failed && at.running && in_record && !is_member && (self.calm || self.rng.chance(20)) {
                self.replace_replica(node);
            }
        }
        if let Some(id) = self.overdue() {
            self.violate(format!("P5: {id:?} has not been answered in time"));
        }
        self.compare_members();
        // A watch that missed something is told sooner or later.
        self.tell_watches(3);
        if self.calm {
            self.look_for_the_end();
        }
    }

    /// The node whose primary serves in the record's epoch, if that is so.
    fn served_by(&self) -> Option<usize> {
        let serves = |node: &usize| {
            self.nodes[*node].host.as_ref().is_some_and(|host| {
                host.serving
                    && host.machine.phase() == Phase::Serving
                    && host.machine.epoch() == self.store.record.epoch
            })
        };
        (0..self.nodes.len()).find(serves)
    }

    /// P3: members are identical wherever no write is in flight.
    fn compare_members(&mut self) {
        if self.served_by().is_none() {
            return;
        }
        let kept = |node: &usize| {
            let at = &self.nodes[*node];
            at.kept && !at.failed && self.store.record.is_member(self.rid(*node))
        };
        let members: Vec<usize> = (0..self.nodes.len()).filter(kept).collect();
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
    fn look_for_the_end(&mut self) {
        let since = self.now.saturating_sub(self.plan.calm_at);
        let record = &self.store.record;
        let lost = |node: usize| self.nodes[node].failed || self.nodes[node].disk.is_none();
        if record.members().all(|member| lost(node_of(member.id))) {
            self.outcome.dead = true;
            self.finished = true;
            return;
        }
        if since > 90 * SEC {
            let state = crate::world::show_record(record);
            self.violate(format!(
                "the volume is not healthy again 90 s after the last fault: {state}"
            ));
            return;
        }
        if since < 2 * SEC {
            return;
        }
        let healthy = record
            .replicas
            .iter()
            .all(|replica| replica.state == MemberState::Member);
        let Some(node) = self.served_by().filter(|_| healthy) else {
            return;
        };
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

    fn read_everything(&mut self, node: usize) {
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

    fn compare_files(&mut self) {
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
