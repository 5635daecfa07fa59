//! Where only a person can go on: the store was restored from an older copy (T3), or every member is lost (P6).

use bulkhead_engine::format::MetaImage;
use bulkhead_engine::ids::{Epoch, Tick};
use bulkhead_engine::machine::primary::Revision;
use bulkhead_engine::machine::replica::{Action, Event};
use bulkhead_engine::machine::{
    Fault, MemberState, Record, RecordReplica, Reply, Request, RequestId, SessionId,
};

use crate::node::{Attach, Node, node_id, node_of, replica_identity};
use crate::plan::{MS, Ns, SEC};
use crate::resume::Connection;
use crate::world::{World, tell};

/// How long a run goes on after the store was restored.
const REFUSED_FOR: Ns = 12 * SEC;

/// What became of the store.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// When it was restored from an older copy, if it was.
    pub(crate) at: Option<Ns>,
    /// Whether the replicas know better, so that nothing may be served.
    pub(crate) must_refuse: bool,
    /// The nodes whose replicas know better, and those of them whose replicas are members that say so when they are opened.
    knowing: Vec<usize>,
    telling: Vec<usize>,
    /// Whether who attaches asks the replicas first; else their refusal has to do.
    pub(crate) asks_first: bool,
    /// It was restored under running primaries; the volume has to be attached anew before its record can be changed.
    pub(crate) running: bool,
    /// What the shell notes when a primary has found out.
    pub(crate) noted: bool,
}

impl World {
    /// The store comes back as it was some changes ago, under running primaries or after everything has gone down.
    pub(crate) fn restore_store(&mut self, back: usize) {
        let Some(index) = self.store.history.len().checked_sub(back + 1) else {
            return;
        };
        let (older, holder) = self.store.history[index].clone();
        let known = |member: &RecordReplica| {
            older.replica(member.id).is_some() && !self.nodes[node_of(member.id)].failed
        };
        if self.restored.at.is_some() || !self.store.record.members().any(known) {
            return;
        }
        self.make_calm();
        // What is being attached right now could not be told from what is attached after it.
        let goes_on = |node: &Node| node.connection.as_ref().is_some_and(Connection::is_swapping);
        let attaching = |node: &Node| matches!(node.attach, Attach::Swapping { .. }) || goes_on(node);
        let running = self.rng.chance(50) && !self.nodes.iter().any(attaching);
        if running {
            self.store.revision = Revision(self.store.revision.0 - (1 << 31));
        } else {
            for node in 0..self.nodes.len() {
                self.kill(node, 200 * MS, false);
            }
            self.store.revision = Revision(self.store.revision.0 + 1);
        }
        self.store.record = older;
        self.store.holder = holder;
        let record = &self.store.record;
        // One that has failed says its epoch too, to whoever asks what it is.
        let knows_better = |node: &usize| {
            let epoch = self.image(*node).map(|image| image.superblock.epoch);
            record.replica(self.rid(*node)).is_some() && record.is_behind(epoch).is_some()
        };
        let knowing: Vec<usize> = (0..self.nodes.len()).filter(knows_better).collect();
        // By itself a primary asks the members only, and of one that has failed it learns nothing but that.
        let tells = |&node: &usize| record.is_member(self.rid(node)) && !self.nodes[node].failed;
        let telling: Vec<usize> = knowing.iter().copied().filter(tells).collect();
        self.restored = Restored {
            at: Some(self.now),
            must_refuse: !knowing.is_empty(),
            asks_first: self.rng.chance(50) || telling.is_empty(),
            knowing,
            telling,
            running,
            noted: false,
        };
        tell!(
            self,
            "store: restored from an older copy: {}, {:?}",
            crate::show::show_record(&self.store.record),
            self.restored
        );
    }

    fn image(&self, node: usize) -> Option<MetaImage> {
        let file = self.disk(node)?.read_meta(&self.geometry);
        MetaImage::decode(&file).ok()
    }

    /// Whether the replicas that can be reached know an epoch that the record does not.
    pub(crate) fn is_store_behind(&mut self, node: usize, record: &Record) -> bool {
        if self.has_fault(Fault::OlderStoreAccepted) {
            return false;
        }
        if self.restored.noted {
            return true;
        }
        if self.restored.at.is_some() && !self.restored.asks_first {
            return false;
        }
        self.replicas_know_better(node, record)
    }

    /// The same, asked for certain.
    pub(crate) fn replicas_know_better(&mut self, node: usize, record: &Record) -> bool {
        let mut seen: Vec<Epoch> = Vec::new();
        for replica in &record.replicas {
            let other = node_of(replica.id);
            let at = &self.nodes[other];
            let reached = self.net.passes(node, other, self.now) && self.net.passes(other, node, self.now);
            if !reached || !at.running || at.paused_until > self.now || self.rid(other) != replica.id {
                continue;
            }
            let (clock, generation) = (at.clock(self.now), at.generation);
            let Some(machine) = &mut self.nodes[other].replica else {
                continue;
            };
            let mut out = Vec::new();
            let request = Event::Request {
                session: SessionId(u64::MAX),
                id: RequestId(0),
                request: Request::Inspect(replica_identity(other, generation)),
            };
            machine.handle(clock, request, &mut out);
            for action in out {
                match action {
                    Action::Respond {
                        reply: Reply::Inspected(inspected),
                        ..
                    } => seen.push(inspected.epoch),
                    action => self.replica_action(other, action),
                }
            }
        }
        record.is_behind(seen).is_some()
    }

    /// A primary that the restored store does not know goes on, by an epoch that its members know, or will: nobody else may serve.
    pub(crate) fn look_at_the_restored(&mut self) {
        let epoch = self.store.record.epoch;
        let newer = self.nodes.iter().any(|node| {
            let of_host = node.host.as_ref().map(|host| host.machine.epoch());
            let of_replica = node.replica.as_ref().map(|replica| replica.superblock().epoch);
            of_host.max(of_replica) > Some(epoch)
        });
        self.restored.must_refuse |= self.restored.at.is_some() && newer && !self.forced;
    }

    /// Whether the primary on this node was attached before the store was restored: nobody newer is left out by it.
    pub(crate) fn was_before_the_restored(&self, node: usize) -> bool {
        self.restored
            .at
            .is_some_and(|restored| self.nodes[node].attached_at < restored)
    }

    /// T3: a primary serves by a store that was restored, though replicas know better. None of those may have been there when they
    /// were asked, or when the members were opened. One that comes later is beyond what is promised (docs/replication.md, known
    /// limits): what came since that copy is gone, and the run is over.
    pub(crate) fn check_restored(&mut self, node: usize, term: u32) {
        let Node {
            surveyed_at,
            attached_at,
            ..
        } = self.nodes[node];
        let there = |other: &usize, at: Ns| self.nodes[*other].running && self.nodes[*other].started_at < at;
        let restored = &self.restored;
        let asked = restored.asks_first && restored.knowing.iter().any(|other| there(other, surveyed_at));
        if asked || restored.telling.iter().any(|other| there(other, attached_at)) {
            self.violate(format!(
                "T3: the primary of term {term} serves though the replicas know epochs that the restored store does not"
            ));
            return;
        }
        tell!(self, "nobody who knows better could be reached");
        self.outcome.overlooked = true;
        self.finished = true;
    }

    /// Whether the run is over, since nothing more can happen.
    pub(crate) fn is_refused_to_the_end(&self) -> bool {
        let over = |at| self.now.saturating_sub(at) > REFUSED_FOR;
        self.restored.must_refuse && self.restored.at.is_some_and(over)
    }

    /// Every member is lost: a person declares another replica the volume, with what it holds. Says whether there is one.
    pub(crate) fn force(&mut self) -> bool {
        if self.forced {
            return false;
        }
        let rank = |&node: &usize| {
            let image = self.image(node)?;
            self.store.record.replica(self.rid(node))?;
            let superblock = image.superblock;
            Some((superblock.failed.is_none(), superblock.durable, node))
        };
        let best = (0..self.nodes.len()).filter_map(|node| rank(&node)).max();
        let Some((_, _, chosen)) = best else {
            return false;
        };
        tell!(self, "a person declares the replica on node {chosen} the volume");
        let seen: Vec<Epoch> = (0..self.nodes.len())
            .filter_map(|node| self.image(node))
            .map(|image| image.superblock.epoch)
            .collect();
        let Some(mut record) = self.store.record.forced(self.rid(chosen), seen) else {
            return false;
        };
        self.forced = true;
        self.restored.must_refuse = false;
        self.restored.noted = false;
        self.nodes[chosen].pardon = true;
        for node in 0..self.nodes.len() {
            // No old primary is left that might still serve on its own.
            self.kill(node, 100 * MS, false);
        }
        for node in 0..self.nodes.len() {
            if node == chosen || self.nodes[node].disk.is_none() {
                continue;
            }
            self.nodes[node].generation += 1;
            let geometry = self.geometry;
            self.nodes[node].create_replica(node, geometry);
            self.nodes[node].lost_at = 0;
            record.replicas.push(RecordReplica {
                id: self.rid(node),
                node: node_id(node),
                state: MemberState::Stale(Tick::ZERO),
            });
        }
        self.nodes[chosen].failed = false;
        self.checker.forced();
        let before = self.store.record.clone();
        self.store.swap(self.store.revision, record);
        self.record_changed(&before);
        true
    }
}
