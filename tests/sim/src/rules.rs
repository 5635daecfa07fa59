//! Rules of docs/replication.md that are looked at where they are kept or broken, not where it shows: a rule that another
//! one stands in for today would otherwise be lost unnoticed.

use bulkhead_engine::geometry::{Chunk, SECTOR};
use bulkhead_engine::ids::{Epoch, Tick};
use bulkhead_engine::machine::protocol::StampRule;
use bulkhead_engine::machine::{Reply, Request, RequestId, SessionId, primary};

use crate::disk::Sectors;
use crate::node::{node_id, node_of};
use crate::world::World;

impl World {
    /// A request reaches a replica: notes which epoch has to be durable before it is answered.
    pub(crate) fn note_request(&mut self, session: SessionId, id: RequestId, request: &Request<Sectors>) {
        let epoch = match request {
            Request::Open(open) => open.epoch,
            Request::Raise { epoch, .. } => *epoch,
            _ => return,
        };
        self.promised.insert((session, id), epoch);
    }

    /// D5: an epoch is on disk before anything that depends on it is answered.
    pub(crate) fn check_answer(
        &mut self,
        node: usize,
        session: SessionId,
        id: RequestId,
        reply: &Reply<Sectors>,
    ) {
        let Some(epoch) = self.promised.remove(&(session, id)) else {
            return;
        };
        if !matches!(reply, Reply::Done | Reply::Opened(_)) {
            return;
        }
        let on_disk = self.disk(node).and_then(|disk| disk.durable_superblock());
        let on_disk = on_disk.map_or(Epoch::ZERO, |superblock| superblock.epoch);
        if on_disk < epoch {
            self.violate(format!(
                "D5: node {node} answers for epoch {epoch}, but its disk says {on_disk}"
            ));
        }
    }

    /// D2: a write leaves its mark in the stamps. O3: it carries a tick of its primary's epoch. T4: a convergence asks for
    /// everything after the smallest durable tick.
    pub(crate) fn check_request(&mut self, node: usize, id: RequestId, request: &Request<Sectors>) {
        let Some(host) = &mut self.nodes[node].host else {
            return;
        };
        let again = id <= host.newest_request;
        host.newest_request = host.newest_request.max(id);
        let epoch = host.machine.epoch();
        match request {
            Request::Write { tick, stamp, .. } | Request::Zero { tick, stamp, .. }
                if *stamp == StampRule::Raise && !again =>
            {
                if *tick == Tick::ZERO {
                    self.violate(format!(
                        "D2: a write of epoch {epoch} leaves no mark in the stamps"
                    ));
                } else if *tick < Tick::SUSPECT && tick.epoch() != epoch {
                    // A copy's pieces make the chunk suspect until the last one has come.
                    self.violate(format!("O3: a write of epoch {epoch} carries the tick {tick}"));
                }
            }
            Request::Changed { after, .. } if !host.serving => {
                let members: Vec<_> = host.machine.record().members().map(|member| member.id).collect();
                for id in members {
                    let member = node_of(id);
                    if self.rid(member) != id {
                        continue;
                    }
                    let durable = self.durable_of(member);
                    if durable.is_some_and(|durable| durable < *after) {
                        self.violate(format!(
                            "T4: the convergence starts after {after}, but node {member} is durable to {durable:?} only"
                        ));
                    }
                }
            }
            _ => {}
        }
    }

    /// L2: nothing is acknowledged before the epoch in which it is done is on every member's disk: one that does not know it
    /// could pass for a member of an older record later (T3).
    pub(crate) fn check_acknowledged(&mut self, node: usize, term: u32) {
        let Some(host) = self.nodes[node].host.as_ref().filter(|host| host.term == term) else {
            return;
        };
        let epoch = host.machine.epoch();
        let members: Vec<_> = host.machine.record().members().map(|member| member.id).collect();
        for id in members {
            let member = node_of(id);
            if self.rid(member) != id || self.nodes[member].failed {
                continue;
            }
            let on_disk = self.disk(member).and_then(|disk| disk.durable_superblock());
            let on_disk = on_disk.map_or(Epoch::ZERO, |superblock| superblock.epoch);
            if on_disk < epoch {
                self.violate(format!(
                    "L2: the primary of term {term} acknowledges in epoch {epoch}, but the disk of the member on node {member} \
                     says {on_disk}"
                ));
            }
        }
    }

    /// D6: whoever cannot read what it holds is removed, and told to mark itself as failed: else it would come back by its
    /// stamps, which know nothing of that. `out` is what the primary does in answer.
    pub(crate) fn check_unreadable(
        &mut self,
        node: usize,
        event: &primary::Event<Sectors>,
        out: &[primary::Action<Sectors>],
    ) {
        let primary::Event::Reply { replica, reply, .. } = event else {
            return;
        };
        let unreadable = matches!(reply, Reply::Unreadable);
        let was_member = self.nodes[node]
            .host
            .as_ref()
            .is_some_and(|host| host.machine.record().is_member(*replica));
        let removes = |action: &primary::Action<Sectors>| match action {
            primary::Action::Swap { record, .. } => !record.is_member(*replica),
            _ => false,
        };
        let tells = |action: &primary::Action<Sectors>| match action {
            primary::Action::Send {
                replica: to, request, ..
            } => to == replica && matches!(request, Request::Fail(_)),
            _ => false,
        };
        if unreadable && was_member && out.iter().any(removes) && !out.iter().any(tells) {
            self.violate(format!(
                "D6: the replica on node {} cannot read what it holds, and is removed without being told so",
                node_of(*replica)
            ));
        }
    }

    /// What a replica that is in use says that it is durable to; its superblock may be on its way to the disk still.
    fn durable_of(&self, node: usize) -> Option<Tick> {
        let replica = self.nodes[node]
            .replica
            .as_ref()
            .filter(|replica| replica.is_in_use())?;
        let superblock = replica.superblock();
        superblock.failed.is_none().then_some(superblock.durable)
    }

    /// T4: when a primary begins to serve, whatever is not settled and durable on every member has a stamp of its term.
    pub(crate) fn check_stamps(&mut self, term: u32, members: &[usize]) {
        let serves_here = self.nodes.iter().position(|node| {
            let host = node.host.as_ref();
            host.is_some_and(|host| host.term == term)
        });
        if serves_here.map(node_id) != self.store.record.primary
            || self.store.record.change.term > Epoch(term)
        {
            // It has been replaced already, and its members may have been opened by the next one.
            return;
        }
        let Some(least) = members.iter().filter_map(|&node| self.durable_of(node)).min() else {
            return;
        };
        let mut wrong = None;
        for &node in members {
            // One that was restarted just now is not what the primary has converged; it is about to find out.
            let Some(replica) = self.nodes[node]
                .replica
                .as_ref()
                .filter(|replica| replica.is_in_use())
            else {
                continue;
            };
            for chunk in (0..self.geometry.chunks()).map(Chunk) {
                let stamp = replica.stamp(chunk);
                if stamp > least && (stamp == Tick::SUSPECT || stamp.epoch() < Epoch(term)) {
                    wrong = Some(format!(
                        "T4: the primary of term {term} serves while chunk {} of node {node} has the stamp {stamp}, \
                         and {least} is durable",
                        chunk.0
                    ));
                }
            }
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
    }

    /// D3: of what a member's durable tick covers, nothing waits for a sync.
    pub(crate) fn check_durable(&mut self, members: &[usize]) {
        let mut wrong = None;
        for &node in members {
            let at = &self.nodes[node];
            let (Some(disk), Some(replica), Some(durable)) = (&at.disk, &at.replica, self.durable_of(node))
            else {
                continue;
            };
            for sector in disk.unsynced() {
                let chunk = Chunk((u64::from(sector) * SECTOR / self.geometry.chunk_size()) as u32);
                let stamp = replica.stamp(chunk);
                if stamp <= durable {
                    wrong = Some(format!(
                        "D3: node {node} is durable to {durable}, but sector {sector}, stamped {stamp}, is not synced"
                    ));
                }
            }
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
    }
}
