//! Processes and replicas as they come and go.

use bulkhead_engine::ids::Tick;
use bulkhead_engine::machine::primary::Revision;
use bulkhead_engine::machine::{MemberState, RecordReplica};

use crate::net::Way;
use crate::node::{Attach, node_id, replica_id};
use crate::plan::{MS, Ns, SEC};
use crate::world::{Ev, World, tell};

impl World {
    /// The process of a node starts, with power if it had none.
    pub(crate) fn start(&mut self, node: usize) {
        let (now, faults, geometry) = (self.now, self.faults(), self.geometry);
        let salt = self.rng.draw() >> 32;
        let at = &mut self.nodes[node];
        if at.running {
            return;
        }
        if !at.powered {
            at.powered = true;
            at.boot += 1;
            at.clock_start = (salt % 500) * SEC;
            // A clock starts anew with every boot; only differences of it mean anything.
            at.clock_start = at.clock_start.max(1);
        }
        at.process += 1;
        at.running = true;
        at.paused_until = 0;
        at.attach = Attach::Idle;
        at.started_at = now;
        let loaded = at.load_replica(node, &self.plan, &geometry, now, faults, salt);
        tell!(self, "node {node}: process {} starts", self.nodes[node].process);
        if let Err(error) = loaded {
            // A power cut does not make a metadata file unreadable; a failed commit may.
            if self.nodes[node].had_error {
                self.nodes[node].failed = true;
                self.nodes[node].replica = None;
            } else {
                self.violate(error);
            }
        }
        self.found(node);
    }

    /// The process of a node dies; without power what its disk had not been told to keep is gone too.
    pub(crate) fn kill(&mut self, node: usize, down: Ns, power: bool) {
        let at = &self.nodes[node];
        if !(at.running || power && at.powered) {
            return;
        }
        tell!(
            self,
            "node {node}: {}",
            if power { "loses power" } else { "is killed" }
        );
        let now = self.now;
        let at = &mut self.nodes[node];
        at.running = false;
        at.process += 1;
        at.replica = None;
        at.forget_requests();
        at.kill_on_error = false;
        at.all_on_error = false;
        let lost_host = at.host.take();
        let lost_verify = lost_host.is_some();
        if let Some(disk) = &mut at.disk {
            if power {
                disk.power_cut(&mut self.rng);
            } else {
                disk.abandon(&mut self.rng);
            }
        }
        if power {
            at.powered = false;
            at.kept = false;
            at.lost_at = now;
        }
        if lost_verify {
            self.verify_lost();
        }
        // Now and then the keeper dies too.
        let keeps = self.nodes[node].connection.is_some() && !power && !self.rng.chance(5);
        if keeps {
            self.left_behind(node);
        } else {
            self.cut_connection(node);
            if let Some(host) = lost_host {
                self.forget_ops(node, host.term);
            }
        }
        for conn in 0..self.net.conns.len() {
            let at = &self.net.conns[conn];
            if at.replica.node == node && at.open_at_primary && !power {
                let delay = self.rng.delay(MS);
                self.at(now + delay, Ev::Closed(conn, Way::Back));
            }
            if self.net.conns[conn].primary.node == node && self.net.conns[conn].open_at_replica {
                self.net.conns[conn].open_at_primary = false;
                self.leave_remains(conn);
                if !power {
                    let delay = self.rng.delay(MS);
                    self.at(now + delay, Ev::Closed(conn, Way::Out));
                }
            }
        }
        self.at(now + down, Ev::Start(node));
    }

    /// Whether the record has a replica on this node, out of sync, that does not exist any more.
    pub(crate) fn has_lost_one(&self, node: usize) -> bool {
        let (id, generation) = (self.rid(node), self.nodes[node].generation);
        let record = &self.store.record;
        let older = |number: u64| record.replica(replica_id(node, number));
        let lost = (0..generation).filter_map(older).next();
        record.replica(id).is_none() && lost.is_some_and(|lost| lost.state != MemberState::Member)
    }

    /// A fresh replica takes the place of one that has failed.
    pub(crate) fn replace_replica(&mut self, node: usize) {
        tell!(
            self,
            "node {node}: a new replica takes the place of the failed one"
        );
        let (now, faults, geometry) = (self.now, self.faults(), self.geometry);
        for conn in 0..self.net.conns.len() {
            if self.net.conns[conn].replica.node == node && self.net.conns[conn].open_at_replica {
                self.net.conns[conn].open_at_replica = false;
                self.at(now + MS, Ev::Closed(conn, Way::Back));
            }
        }
        self.rng.draw();
        let salt = self.rng.draw() >> 32;
        let at = &mut self.nodes[node];
        let earlier = 0..=at.generation;
        at.generation += 1;
        let id = replica_id(node, at.generation);
        at.create_replica(node, geometry);
        at.lost_at = 0;
        if let Err(error) = at.load_replica(node, &self.plan, &geometry, now, faults, salt) {
            self.violate(error);
        }
        let before = self.store.record.clone();
        let mut record = before.clone();
        let is_old = |id| earlier.clone().any(|number| replica_id(node, number) == id);
        for replica in record.replicas.iter_mut().filter(|replica| is_old(replica.id)) {
            replica.id = id;
            replica.state = MemberState::Stale(Tick::ZERO);
            self.store.revision = Revision(self.store.revision.0 + 1);
        }
        self.store.record = record;
        self.record_changed(&before);
    }

    pub(crate) fn add_replica(&mut self) {
        let Some(node) = (0..self.nodes.len()).find(|&node| self.nodes[node].disk.is_none()) else {
            return;
        };
        if !self.nodes[node].running {
            self.at(self.now + 200 * MS, Ev::AddReplica);
            return;
        }
        tell!(self, "node {node}: a replica is added");
        self.replace_replica(node);
        let before = self.store.record.clone();
        let mut record = before.clone();
        record.replicas.push(RecordReplica {
            id: self.rid(node),
            node: node_id(node),
            state: MemberState::Stale(Tick::ZERO),
        });
        self.store.swap(self.store.revision, record);
        self.record_changed(&before);
    }
}
