//! Connections between primaries and replicas as they are made, carry messages, and break.

use bulkhead_engine::ids::ReplicaId;
use bulkhead_engine::machine::{SessionId, primary, replica};

use crate::net::{Conn, End, Way};
use crate::node::node_of;
use crate::plan::{MS, Ns};
use crate::world::{Ev, NodeEv, World, tell};

impl World {
    /// When a message sent now arrives. Sends that are given out together may overtake each other a little.
    pub(crate) fn arrival(&mut self, from: usize, to: usize, last: Option<Ns>) -> Ns {
        let delay = if from == to {
            self.rng.below(40_000)
        } else if self.net.slow_until > self.now {
            self.rng.delay(60 * MS)
        } else {
            self.rng.delay(200_000)
        };
        (self.now + delay).max(last.unwrap_or(0).saturating_sub(50_000))
    }

    pub(crate) fn connect(&mut self, node: usize, term: u32, replica: ReplicaId) {
        let delay = if node_of(replica) == node {
            10_000
        } else {
            self.rng.delay(400_000)
        };
        self.later(node, delay, NodeEv::Connect(term, replica, true));
    }

    pub(crate) fn connected(&mut self, node: usize, term: u32, replica: ReplicaId, first: bool) {
        let mut other = node_of(replica);
        if let (until, from, to) = self.net.misroute
            && until > self.now
            && from == other
        {
            other = to;
        }
        let reached = self.net.passes(node, other, self.now) && self.net.passes(other, node, self.now);
        let at = &self.nodes[other];
        let serves = at.running && at.replica.is_some() && at.paused_until <= self.now;
        if first && (!reached || !at.powered || at.paused_until > self.now) {
            // Nobody says no; the attempt runs out.
            self.later(node, 200 * MS, NodeEv::Connect(term, replica, false));
            return;
        }
        if !reached || !serves || !first {
            if reached && at.powered && other != node {
                self.step_primary(node, term, primary::Event::Reached);
            }
            let session = None;
            self.step_primary(node, term, primary::Event::Unlinked { replica, session });
            return;
        }
        let session = SessionId(self.net.conns.len() as u64);
        self.net.conns.push(Conn {
            primary: End {
                node,
                process: self.nodes[node].process,
            },
            term,
            replica: End {
                node: other,
                process: at.process,
            },
            id: replica,
            open_at_primary: true,
            open_at_replica: true,
            requests: Default::default(),
            replies: Default::default(),
        });
        tell!(
            self,
            "node {node}: primary {term} is linked to the replica on node {other} by {session:?}"
        );
        self.step_primary(node, term, primary::Event::Linked { replica, session });
    }

    /// The primary has closed a connection: what was sent before may still arrive, late or in part, and the other end may
    /// never learn of it.
    pub(crate) fn disconnect(&mut self, conn: usize) {
        self.net.conns[conn].open_at_primary = false;
        self.net.conns[conn].replies.clear();
        self.leave_remains(conn);
        if self.rng.chance(60) {
            let delay = self.rng.delay(MS);
            self.at(self.now + delay, Ev::Closed(conn, Way::Out));
        }
    }

    pub(crate) fn leave_remains(&mut self, conn: usize) {
        let keep = if self.rng.chance(50) {
            self.rng.below(self.net.conns[conn].requests.len() as u64 + 1) as usize
        } else {
            0
        };
        let late = if self.rng.chance(50) {
            self.rng.between(1, 600) * MS
        } else {
            0
        };
        self.net.conns[conn].requests.truncate(keep);
        let mut last = 0;
        for (arrival, ..) in &mut self.net.conns[conn].requests {
            *arrival += late;
            last = *arrival;
        }
        if last > 0 {
            self.at(last, Ev::Pump(conn, Way::Out));
        }
    }

    /// An end learns that the connection is gone.
    pub(crate) fn closed(&mut self, conn: usize, way: Way) {
        let at = &mut self.net.conns[conn];
        let (primary, replica, term, id) = (at.primary, at.replica, at.term, at.id);
        let (from, to) = match way {
            Way::Out => (primary.node, replica.node),
            Way::Back => (replica.node, primary.node),
        };
        if !self.net.passes(from, to, self.now) {
            return;
        }
        let at = &mut self.net.conns[conn];
        let session = SessionId(conn as u64);
        match way {
            Way::Out if std::mem::take(&mut at.open_at_replica) => {
                let node = &self.nodes[replica.node];
                if node.process == replica.process && node.running {
                    self.step_replica(replica.node, replica::Event::Closed { session });
                }
            }
            Way::Back if std::mem::take(&mut at.open_at_primary) => {
                let node = &self.nodes[primary.node];
                if node.process == primary.process && node.running {
                    let replica = id;
                    let session = Some(session);
                    self.step_primary(primary.node, term, primary::Event::Unlinked { replica, session });
                }
            }
            _ => {}
        }
    }

    pub(crate) fn pump_out(&mut self, conn: usize) {
        loop {
            let at = &self.net.conns[conn];
            let Some(&(arrival, ..)) = at.requests.front() else {
                return;
            };
            if arrival > self.now {
                self.at(arrival, Ev::Pump(conn, Way::Out));
                return;
            }
            let (from, to) = (at.primary.node, at.replica);
            if !self.net.passes(from, to.node, self.now) {
                self.at(self.now + 15 * MS, Ev::Pump(conn, Way::Out));
                return;
            }
            let node = &self.nodes[to.node];
            if node.process != to.process || !node.running || !at.open_at_replica {
                let refused = node.powered;
                self.net.conns[conn].requests.clear();
                if refused {
                    self.at(self.now + MS, Ev::Closed(conn, Way::Back));
                }
                return;
            }
            if node.paused_until > self.now {
                self.at(node.paused_until, Ev::Pump(conn, Way::Out));
                return;
            }
            if let Some((_, id, request)) = self.net.conns[conn].requests.pop_front() {
                let session = SessionId(conn as u64);
                self.note_request(to.node, session, id, &request);
                self.step_replica(to.node, replica::Event::Request { session, id, request });
            }
        }
    }

    pub(crate) fn pump_back(&mut self, conn: usize) {
        loop {
            let at = &self.net.conns[conn];
            let Some(&(arrival, ..)) = at.replies.front() else {
                return;
            };
            if arrival > self.now {
                self.at(arrival, Ev::Pump(conn, Way::Back));
                return;
            }
            let (from, to, term, id_of) = (at.replica.node, at.primary, at.term, at.id);
            if !self.net.passes(from, to.node, self.now) {
                self.at(self.now + 15 * MS, Ev::Pump(conn, Way::Back));
                return;
            }
            let node = &self.nodes[to.node];
            if node.process != to.process || !node.running || !at.open_at_primary {
                self.net.conns[conn].replies.clear();
                return;
            }
            if node.paused_until > self.now {
                self.at(node.paused_until, Ev::Pump(conn, Way::Back));
                return;
            }
            if let Some((_, id, reply)) = self.net.conns[conn].replies.pop_front() {
                let event = primary::Event::Reply {
                    replica: id_of,
                    session: SessionId(conn as u64),
                    id,
                    reply,
                };
                self.step_primary(to.node, term, event);
            }
        }
    }

    /// Both ends learn that the connections between two nodes are gone.
    pub(crate) fn break_conns(&mut self, one: usize, other: usize) {
        for conn in 0..self.net.conns.len() {
            let at = &self.net.conns[conn];
            let ends = (at.primary.node, at.replica.node);
            if at.open_at_primary && (ends == (one, other) || ends == (other, one)) {
                self.leave_remains(conn);
                self.net.conns[conn].replies.clear();
                for way in [Way::Out, Way::Back] {
                    let delay = self.rng.delay(MS);
                    self.at(self.now + delay, Ev::Closed(conn, way));
                }
            }
        }
    }
}
