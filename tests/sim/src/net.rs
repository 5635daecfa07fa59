//! The simulated network: which ways are open, and connections that lose nothing while they last, but may break, be
//! known to be broken at one end only, and deliver late what was sent before.

use std::collections::VecDeque;

use bulkhead_engine::ids::ReplicaId;
use bulkhead_engine::machine::{Reply, Request, RequestId};

use crate::disk::Sectors;
use crate::plan::Ns;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the primary to the replica.
    Out,
    /// From the replica to the primary.
    Back,
}

/// One end of a connection: a node, and which of its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The node.
    pub node: usize,
    /// The process, by its number on that node.
    pub process: u64,
}

/// A connection between a primary and a replica.
#[derive(Debug)]
pub struct Conn {
    /// The primary's end.
    pub primary: End,
    /// The primary's term.
    pub term: u32,
    /// The replica's end.
    pub replica: End,
    /// Which replica the primary means.
    pub id: ReplicaId,
    /// Whether the primary's end takes it as open.
    pub open_at_primary: bool,
    /// Whether the replica's end takes it as open.
    pub open_at_replica: bool,
    /// Requests on their way, with the time of their arrival.
    pub requests: VecDeque<(Ns, RequestId, Request<Sectors>)>,
    /// Answers on their way.
    pub replies: VecDeque<(Ns, RequestId, Reply<Sectors>)>,
}

/// The ways between nodes.
#[derive(Debug)]
pub struct Net {
    /// Until when nothing passes, by from and to.
    cut: Vec<Vec<Ns>>,
    /// Until when a node does not reach the store.
    pub store_cut: Vec<Ns>,
    /// Until when everything is slow.
    pub slow_until: Ns,
    /// Until when connections to the first node end up at the second: its address was re-used.
    pub misroute: (Ns, usize, usize),
    /// Connections, by the number of their session.
    pub conns: Vec<Conn>,
}

impl Net {
    /// All ways open between this many nodes.
    pub fn new(nodes: usize) -> Self {
        Self {
            cut: vec![vec![0; nodes]; nodes],
            store_cut: vec![0; nodes],
            slow_until: 0,
            misroute: (0, 0, 0),
            conns: Vec::new(),
        }
    }

    /// Whether messages pass.
    pub fn passes(&self, from: usize, to: usize, now: Ns) -> bool {
        from == to || self.cut[from][to] <= now
    }

    /// Nothing passes until then.
    pub fn cut(&mut self, from: usize, to: usize, until: Ns) {
        if from != to {
            self.cut[from][to] = self.cut[from][to].max(until);
        }
    }

    /// Everything passes again.
    pub fn heal(&mut self, now: Ns) {
        for until in self.cut.iter_mut().flatten().chain(&mut self.store_cut) {
            *until = (*until).min(now);
        }
        self.slow_until = self.slow_until.min(now);
        self.misroute.0 = self.misroute.0.min(now);
    }
}
