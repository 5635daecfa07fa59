//! What a plan's entries do to the world.

use bulkhead_engine::machine::primary::{Event, Repair};

use crate::plan::{MS, Mischief};
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
            Mischief::DiskError {
                node,
                mishap,
                kill,
                all,
            } => {
                if self.may_fail(node) {
                    let at = &mut self.nodes[node];
                    at.kill_on_error = kill || all;
                    at.all_on_error = all;
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
            Mischief::Rot { node } => self.rot(node),
            Mischief::Verify { repair } => {
                if let Some(node) = self.served_by() {
                    let repair = if repair { Repair::Majority } else { Repair::No };
                    self.verify(node, repair);
                }
            }
            Mischief::Dismiss { node } => {
                let replica = self.rid(node);
                let served_by = self
                    .served_by()
                    .and_then(|at| Some((at, self.nodes[at].host.as_ref()?.term)));
                if let Some((at, term)) = served_by {
                    self.step_primary(at, term, Event::Dismiss { replica });
                }
            }
            Mischief::StoreRestored { back } => self.restore_store(back),
            Mischief::Ambush(ambush) => self.ambushes.push(ambush),
            Mischief::Misroute { node, time } => {
                let other = (node + 1) % self.nodes.len();
                self.net.misroute = (now + time, node, other);
            }
            Mischief::Haste { node, after, down } => {
                // The volume is released while syncs take long, and wanted by somebody else before that has ended.
                for at in 0..self.nodes.len() {
                    self.nodes[at].slow_sync = (now + 1200 * MS) / (4 * MS) * (4 * MS) + 3 * MS;
                }
                let holder = self.served_by();
                self.wanted = node;
                self.wanted_ask = true;
                if let Some(holder) = holder {
                    self.at(now + after, Ev::Usurp(holder, false));
                }
                for at in 0..self.nodes.len() {
                    let cut = now + after + 800 * MS + self.rng.below(2500) * MS;
                    if self.rng.chance(60) {
                        self.at(cut, Ev::Strike(at, down, true));
                    }
                }
            }
            Mischief::Restart { down, times, gap } => self.restart_at_work(down, times, gap),
            Mischief::Move { node, ask } => {
                self.wanted = node;
                self.wanted_ask = ask;
            }
        }
    }

    /// The disk of this node has failed, and so has every process; whatever comes back first is asked for the volume, and a little later
    /// power is lost. A failure that was not noted on the disk would make a source of one that lacks something.
    pub(crate) fn betray(&mut self, node: usize) {
        tell!(self, "every process is killed with the disk of node {node}");
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            let down = self.rng.between(200, 400) * MS;
            self.kill(other, down, false);
        }
        self.wanted = node;
        self.wanted_ask = false;
        let cut = self.now + self.rng.between(1200, 2800) * MS;
        for other in 0..self.nodes.len() {
            self.at(cut, Ev::Strike(other, 200 * MS, true));
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
        self.rot_is_over();
        let now = self.now;
        self.ambushes.clear();
        self.net.heal(now);
        self.store_down_until = now;
        self.store_slow_until = now;
        self.end_pauses();
        for node in 0..self.nodes.len() {
            let at = &mut self.nodes[node];
            at.slow = (now, 1);
            at.slow_sync = now;
            at.kill_on_error = false;
            at.all_on_error = false;
            if let Some(disk) = &mut at.disk {
                disk.mishap = None;
                disk.full = false;
            }
            self.start(node);
        }
    }

    /// Every paused process goes on, with what has come for it meanwhile.
    fn end_pauses(&mut self) {
        let now = self.now;
        for at in self.nodes.iter_mut().filter(|at| at.paused_until > now) {
            self.queue.move_to(at.paused_until, now);
            at.paused_until = now;
        }
    }
}
