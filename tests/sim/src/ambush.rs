//! Things that go wrong at a chosen moment: when a message of a certain kind is sent, whoever takes part is struck.

use bulkhead_engine::machine::Request;
use bulkhead_engine::machine::protocol::StampRule;

use crate::disk::Sectors;
use crate::plan::{MS, Ns, SEC};
use crate::world::{Ev, World, tell};

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A session is opened.
    Opening,
    /// The next epoch is told.
    Raising,
    /// A chunk is copied.
    Copying,
    /// Stamps are set.
    Stamping,
    /// Everything is to be made durable.
    Checkpointing,
    /// A volume is released.
    Releasing,
    /// The record is swapped.
    Swapping,
    /// The record is swapped to make a replica a member.
    Joining,
    /// A primary begins to serve.
    Serving,
    /// An operation is answered: if the primary is struck, what it answers from now on does not arrive.
    Answering,
    /// The record is swapped to go on for the process before.
    Resuming,
    /// An operation is asked for again.
    Again,
}

/// Every moment.
pub const MOMENTS: &[Moment] = &[
    Moment::Opening,
    Moment::Raising,
    Moment::Copying,
    Moment::Stamping,
    Moment::Checkpointing,
    Moment::Releasing,
    Moment::Swapping,
    Moment::Joining,
    Moment::Serving,
];

/// Moments of a primary whose process dies and comes back.
pub const RESTARTS: &[Moment] = &[
    Moment::Answering,
    Moment::Answering,
    Moment::Answering,
    Moment::Resuming,
    Moment::Again,
    Moment::Opening,
    Moment::Copying,
    Moment::Checkpointing,
    Moment::Swapping,
    Moment::Serving,
];

/// Who is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The primary's node.
    Primary,
    /// The replica's node; the primary's, where no replica takes part.
    Replica,
    /// All nodes.
    All,
    /// Nobody is struck, but the primary's node is cut off from everything, and the volume is wanted elsewhere: on a node
    /// that is restarted, if `power` says so.
    Throne,
    /// The store: it loses its last change.
    Store,
    /// The replica's disk: what it is given in the next moment takes very long.
    Disk,
}

/// An ambush that waits for its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambush {
    /// When.
    pub moment: Moment,
    /// How many such moments are let pass.
    pub skip: u32,
    /// How long after it, at most.
    pub within: Ns,
    /// Who.
    pub victim: Victim,
    /// Whether power is lost; else the process is killed.
    pub power: bool,
    /// For how long.
    pub down: Ns,
}

/// The moment of a request, if it is one.
pub fn moment_of(request: &Request<Sectors>) -> Option<Moment> {
    Some(match request {
        Request::Open(_) => Moment::Opening,
        Request::Raise { .. } => Moment::Raising,
        Request::Write {
            stamp: StampRule::Set,
            ..
        }
        | Request::Zero {
            stamp: StampRule::Set,
            ..
        } => Moment::Copying,
        Request::Stamp(_) | Request::Restamp { .. } => Moment::Stamping,
        Request::Checkpoint { .. } => Moment::Checkpointing,
        Request::Release { .. } => Moment::Releasing,
        _ => return None,
    })
}

impl World {
    /// A node is cut off for a while, and the volume is wanted on another one.
    pub(crate) fn usurp(&mut self, node: usize, restart: bool) {
        let until = self.now + 2 * SEC;
        for other in 0..self.nodes.len() {
            self.net.cut(node, other, until);
            self.net.cut(other, node, until);
        }
        self.net.store_cut[node] = until;
        let others: Vec<usize> = (0..self.nodes.len()).filter(|&other| other != node).collect();
        if others.is_empty() {
            return;
        }
        self.wanted = self.rng.pick(&others);
        self.wanted_ask = false;
        tell!(
            self,
            "node {node} is cut off, the volume is wanted on node {}",
            self.wanted
        );
        if restart {
            let down = self.rng.between(1, 40) * MS;
            self.kill(self.wanted, down, false);
        }
    }

    /// A moment has come: ambushes that waited for it strike a little later.
    pub(crate) fn moment(&mut self, moment: Moment, primary: usize, replica: usize) {
        let Some(index) = self.ambushes.iter().position(|ambush| ambush.moment == moment) else {
            return;
        };
        let ambush = &mut self.ambushes[index];
        if ambush.skip > 0 {
            ambush.skip -= 1;
            return;
        }
        let ambush = self.ambushes.remove(index);
        tell!(self, "ambush: {ambush:?}");
        let victims = match ambush.victim {
            Victim::Primary => vec![primary],
            Victim::Replica => vec![replica],
            Victim::All => (0..self.nodes.len()).collect(),
            Victim::Throne => {
                let delay = self.rng.below(ambush.within);
                self.at(self.now + delay, Ev::Usurp(primary, ambush.power));
                return;
            }
            Victim::Disk => {
                self.nodes[replica].slow = (self.now + 300 * MS, 2000);
                return;
            }
            Victim::Store => {
                let delay = self.rng.below(ambush.within);
                self.at(self.now + delay, Ev::Restore);
                return;
            }
        };
        let delay = self.rng.below(ambush.within);
        if moment == Moment::Answering && ambush.victim == Victim::Primary {
            if let Some(host) = self.nodes[primary].host.as_mut().filter(|host| host.serving) {
                host.mute = true;
                self.at(self.now + delay, Ev::Restart(primary, ambush.down));
            }
            return;
        }
        for node in victims {
            let down = ambush.down + self.rng.below(200) * MS;
            self.at(self.now + delay, Ev::Strike(node, down, ambush.power));
        }
    }
}
