//! The machines of a node, stepped one event at a time, and what is done with what they want done.

use bulkhead_engine::machine::replica::{self, DiskId, DiskOp};
use bulkhead_engine::machine::{Reply, SessionId, primary};

use crate::ambush::{Moment, moment_of};
use crate::disk::Sectors;
use crate::net::Way;
use crate::plan::{MS, SEC};
use crate::show::{brief, brief_request, show_record};
use crate::world::{Ask, Asker, Ev, NodeEv, World, tell};

fn closes(action: &primary::Action<Sectors>) -> Option<SessionId> {
    match action {
        primary::Action::Disconnect { session, .. } => Some(*session),
        _ => None,
    }
}

impl World {
    pub(crate) fn step_replica(&mut self, node: usize, event: replica::Event<Sectors>) {
        let now = self.now;
        let at = &mut self.nodes[node];
        let clock = at.clock(now);
        let Some(machine) = &mut at.replica else {
            return;
        };
        let mut out = Vec::new();
        machine.handle(clock, event, &mut out);
        for action in out {
            self.replica_action(node, action);
        }
    }

    pub(crate) fn replica_action(&mut self, node: usize, action: replica::Action<Sectors>) {
        match action {
            replica::Action::Disk { id, op } => {
                self.check_disk_write(node, &op);
                self.disk_begin(node, id, op);
            }
            replica::Action::Respond { session, id, reply } => {
                let conn = session.0 as usize;
                tell!(
                    self,
                    "node {node}: replica answers {id:?} of {session:?}: {}",
                    brief(&reply)
                );
                self.check_answer(node, session, id, &reply);
                let Some(at) = self.net.conns.get(conn).filter(|at| at.open_at_replica) else {
                    return;
                };
                let arrival = self.arrival(
                    at.replica.node,
                    at.primary.node,
                    at.replies.back().map(|last| last.0),
                );
                self.net.conns[conn].replies.push_back((arrival, id, reply));
                self.at(arrival, Ev::Pump(conn, Way::Back));
            }
            replica::Action::SetTimer(time) => {
                let at = self.nodes[node].when(time).max(self.now);
                self.later(node, at - self.now, NodeEv::ReplicaTimer);
            }
            replica::Action::Failed(cause) => {
                tell!(self, "node {node}: replica has failed: {cause:?}");
                let now = self.now;
                let at = &mut self.nodes[node];
                at.failed = true;
                at.kept = false;
                at.lost_at = now;
            }
        }
    }

    pub(crate) fn disk_begin(&mut self, node: usize, id: DiskId, op: DiskOp<Sectors>) {
        let now = self.now;
        let typical = match &op {
            DiskOp::SyncData | DiskOp::CommitMeta(_) => MS,
            _ => 150_000,
        };
        let at = &mut self.nodes[node];
        let is_sync = matches!(op, DiskOp::SyncData | DiskOp::CommitMeta(_));
        // Now and then it is the data only that takes long to reach the disk, or the metadata only.
        let of_data = matches!(op, DiskOp::SyncData);
        let spared = match at.slow_sync / MS % 4 {
            0 => of_data,
            1 | 2 => !of_data,
            _ => false,
        };
        let slow_sync = is_sync && at.slow_sync > now && !spared;
        let times = match at.slow {
            _ if slow_sync => 300,
            (until, times) if until > now => times,
            _ => 1,
        };
        let delay = (self.rng.delay(typical) * times).min(6 * SEC);
        if let Some(disk) = &mut at.disk {
            disk.begin(id, op);
        }
        self.later(node, delay, NodeEv::Disk(id));
    }

    pub(crate) fn disk_done(&mut self, node: usize, id: DiskId) {
        let Some(result) = self.nodes[node]
            .disk
            .as_mut()
            .and_then(|disk| disk.finish(id, &mut self.rng))
        else {
            return;
        };
        if let Err(error) = &result {
            self.nodes[node].had_error = true;
            self.nodes[node].note_refused |= self.nodes[node].failed;
            tell!(self, "node {node}: disk operation {id:?} fails: {error:?}");
            if *error == replica::DiskError::Io {
                self.nodes[node].kept = false;
                self.nodes[node].lost_at = self.now;
            }
        }
        self.step_replica(node, replica::Event::Disk { id, result });
        self.check_failure_noted(node);
        // A kill between a failed sync and the note of it is beyond what is promised (docs/replication.md).
        let at = &self.nodes[node];
        let noted =
            at.failed && at.kill_on_error && at.replica.as_ref().is_some_and(|replica| replica.is_quiet());
        if noted {
            let delay = self.rng.below(3 * MS);
            if self.nodes[node].all_on_error {
                self.betray(node);
            }
            self.kill(node, delay + 200 * MS, false);
        }
    }

    pub(crate) fn step_primary(&mut self, node: usize, term: u32, event: primary::Event<Sectors>) {
        let now = self.now;
        let at = &mut self.nodes[node];
        let clock = at.clock(now);
        let Some(host) = at.host.as_mut().filter(|host| host.term == term) else {
            return;
        };
        let mut out = Vec::new();
        let told = matches!(
            &event,
            primary::Event::Reply {
                reply: Reply::Unreadable,
                ..
            }
        )
        .then(|| event.clone());
        host.machine.handle(clock, event, &mut out);
        // Nothing is owed for a connection that is given up: what was sent in the same step does not leave this node.
        let closed: Vec<SessionId> = out.iter().filter_map(closes).collect();
        if !closed.is_empty() {
            let lost = |action: &primary::Action<Sectors>| match action {
                primary::Action::Send { session, .. } => closed.contains(session),
                _ => false,
            };
            out.retain(|action| !lost(action));
        }
        if let Some(event) = told {
            self.check_unreadable(node, &event, &out);
        }
        for action in out {
            self.primary_action(node, term, action);
        }
    }

    pub(crate) fn primary_action(&mut self, node: usize, term: u32, action: primary::Action<Sectors>) {
        match action {
            primary::Action::Connect { replica, .. } => self.connect(node, term, replica),
            primary::Action::Disconnect { session, .. } => self.disconnect(session.0 as usize),
            primary::Action::Send {
                session, id, request, ..
            } => {
                let conn = session.0 as usize;
                self.check_request(node, (self.net.conns[conn].id, session), id, &request);
                if let Some(moment) = moment_of(&request) {
                    self.moment(moment, node, self.net.conns[conn].replica.node);
                }
                tell!(
                    self,
                    "node {node}: primary {term} sends {id:?} over {session:?}: {}",
                    brief_request(&request)
                );
                let at = &self.net.conns[conn];
                let arrival = self.arrival(
                    at.primary.node,
                    at.replica.node,
                    at.requests.back().map(|last| last.0),
                );
                self.net.conns[conn].requests.push_back((arrival, id, request));
                self.at(arrival, Ev::Pump(conn, Way::Out));
            }
            primary::Action::Complete { id, result } => self.completed(node, term, id, result),
            primary::Action::Swap {
                change,
                expected,
                record,
            } => {
                tell!(
                    self,
                    "node {node}: primary {term} swaps {expected:?} {}",
                    show_record(&record)
                );
                self.check_removal(node, change, &record);
                let known = self.nodes[node].host.as_ref().map(|host| host.machine.record());
                let joins = |id| known.is_some_and(|known| !known.is_member(id));
                if record.members().any(|member| joins(member.id)) {
                    self.moment(Moment::Joining, node, node);
                }
                self.moment(Moment::Swapping, node, node);
                let ask = Ask::Swap {
                    change,
                    expected,
                    record: Box::new(record),
                    holder: None,
                };
                self.ask_store(node, Asker::Primary(term), ask);
            }
            primary::Action::ReadRecord => self.ask_store(node, Asker::Primary(term), Ask::Read),
            primary::Action::Serving => {
                self.moment(Moment::Serving, node, node);
                self.serving(node, term);
            }
            primary::Action::SetTimer(time) => {
                let at = self.nodes[node].when(time).max(self.now);
                self.later(node, at - self.now, NodeEv::PrimaryTimer(term));
            }
            primary::Action::Verified { id, report } => self.verified(node, id, &report),
            primary::Action::Ended(reason) => self.ended(node, term, reason),
        }
    }
}
