//! Rules of docs/replication.md that are looked at where they are kept or broken, not where it shows: a rule that another
//! one stands in for today would otherwise be lost unnoticed.

use std::rc::Rc;

use bulkhead_engine::geometry::{ByteRange, Chunk, SECTOR};
use bulkhead_engine::ids::{Epoch, ReplicaId, Tick};
use bulkhead_engine::machine::protocol::StampRule;
use bulkhead_engine::machine::record::ChangeId;
use bulkhead_engine::machine::replica::DiskOp;
use bulkhead_engine::machine::{Payload, Record, Reply, Request, RequestId, SessionId, primary};

use crate::disk::Sectors;
use crate::node::{node_id, node_of};
use crate::world::World;

/// A write or a zero that a replica was asked for and has not answered.
#[derive(Clone, Debug)]
pub struct Asked {
    session: SessionId,
    id: RequestId,
    range: ByteRange,
    /// What it carries; the same for whom it is sent to again. Nothing for a zero.
    values: Option<Rc<Vec<(u32, u64)>>>,
    /// Whether it ends the copy of a chunk.
    is_copy: bool,
}

impl World {
    /// A request reaches a replica: notes which epoch has to be durable before it is answered.
    pub(crate) fn note_request(
        &mut self,
        node: usize,
        session: SessionId,
        id: RequestId,
        request: &Request<Sectors>,
    ) {
        let at = &mut self.nodes[node];
        let epoch = match request {
            Request::Open(open) => {
                at.opened_before = at.opening.replace(session);
                open.epoch
            }
            Request::Raise { epoch, .. } => *epoch,
            Request::Write {
                offset, data, stamp, ..
            } => {
                at.writes.push(Asked {
                    session,
                    id,
                    range: ByteRange::new(*offset, data.size()),
                    values: Some(Rc::clone(&data.values)),
                    is_copy: *stamp == StampRule::Set,
                });
                return;
            }
            Request::Zero { range, stamp, .. } => {
                at.writes.push(Asked {
                    session,
                    id,
                    range: *range,
                    values: None,
                    is_copy: *stamp == StampRule::Set,
                });
                return;
            }
            _ => return,
        };
        self.promised.insert((session, id), epoch);
    }

    /// A replica gives something to its disk. D8: no write of a session that is over. D2: the stamp of a copy does not say that it
    /// was made before it has ended.
    pub(crate) fn check_disk_write(&mut self, node: usize, op: &DiskOp<Sectors>) {
        let (range, values) = match op {
            DiskOp::Write { offset, data } => (ByteRange::new(*offset, data.size()), Some(&data.values)),
            DiskOp::Zero(range) => (*range, None),
            _ => return,
        };
        let at = &self.nodes[node];
        let same = |asked: &&Asked| match (&asked.values, values) {
            (Some(one), Some(other)) => asked.range == range && Rc::ptr_eq(one, other),
            (None, None) => asked.range == range,
            _ => false,
        };
        let asked: Vec<&Asked> = at.writes.iter().filter(same).collect();
        if asked.is_empty() {
            return;
        }
        if !asked.iter().any(|asked| Some(asked.session) == at.opening) {
            let text = format!(
                "D8: a write of {:?} reaches the disk of node {node}, where {:?} was begun since",
                asked[0].session, at.opening
            );
            self.violate(text);
            return;
        }
        let chunk = Chunk(self.geometry.chunks_of(range).start);
        let stamp = at.replica.as_ref().map(|replica| replica.stamp(chunk));
        if asked.iter().all(|asked| asked.is_copy) && stamp.is_some_and(|stamp| stamp != Tick::SUSPECT) {
            self.violate(format!(
                "D2: chunk {} of node {node} carries the stamp {stamp:?} before its copy has ended",
                chunk.0
            ));
        }
    }

    /// D6: a failure is on disk, unless the disk did not take it.
    pub(crate) fn check_failure_noted(&mut self, node: usize) {
        let at = &self.nodes[node];
        let quiet = at.replica.as_ref().is_some_and(|replica| replica.is_quiet());
        if !at.failed || !quiet || at.note_refused {
            return;
        }
        let on_disk = self.disk(node).and_then(|disk| disk.durable_superblock());
        if on_disk.is_none_or(|superblock| superblock.failed.is_none()) {
            self.violate(format!(
                "D6: the replica on node {node} has failed, and its disk does not say so"
            ));
        }
    }

    /// L2: a member that nothing is wrong with is removed only if every other one can be counted on.
    pub(crate) fn check_removal(&mut self, node: usize, change: ChangeId, record: &Record) {
        let Some(host) = &mut self.nodes[node].host else {
            return;
        };
        let again = change.count <= host.newest_change;
        host.newest_change = host.newest_change.max(change.count);
        let Some(host) = &self.nodes[node].host else {
            return;
        };
        let known = host.machine.record();
        let is_up = |id: ReplicaId| {
            host.machine
                .status()
                .any(|peer| peer.replica == id && peer.connected)
        };
        let members = known.members().map(|member| member.id);
        let (stay, go): (Vec<_>, Vec<_>) = members.partition(|&id| record.is_member(id));
        let is_sound = |id: &ReplicaId| is_up(*id) && !self.nodes[node_of(*id)].had_error;
        let dismissed = go.iter().find(|id| is_sound(id)).copied();
        let lacking = stay.iter().chain(&go).find(|&&id| !is_up(id)).copied();
        if let (false, Some(dismissed), Some(lacking)) = (again, dismissed, lacking) {
            self.violate(format!(
                "L2: the member on node {} is removed though nothing is wrong with it, while that on node {} is away",
                node_of(dismissed),
                node_of(lacking)
            ));
        }
    }

    /// R3: once the set is marked, what is not suspect on a replica under rebuild is what the members hold, with their stamp if it is
    /// later than what the replica is durable to.
    pub(crate) fn compare_rebuilt(&mut self) {
        let Some(host) = self.served_by().and_then(|node| self.nodes[node].host.as_ref()) else {
            return;
        };
        if host.machine.verify_progress().is_some() || !self.rot.is_mended() {
            return;
        }
        let up: Vec<usize> = host
            .machine
            .status()
            .filter(|peer| peer.connected && self.rid(node_of(peer.replica)) == peer.replica)
            .filter(|peer| !self.nodes[node_of(peer.replica)].failed)
            .map(|peer| node_of(peer.replica))
            .collect();
        let record = host.machine.record();
        let Some(&source) = up.iter().find(|&&node| record.is_member(self.rid(node))) else {
            return;
        };
        let marked = host.machine.progress().filter(|(_, progress)| progress.marked);
        let targets: Vec<usize> = marked
            .map(|(id, _)| node_of(id))
            .filter(|node| up.contains(node))
            .collect();
        let mut wrong = None;
        for node in targets {
            let (Some(from), Some(to)) = (&self.nodes[source].replica, &self.nodes[node].replica) else {
                continue;
            };
            if !from.is_in_use() || !to.is_in_use() {
                continue;
            }
            for chunk in (0..self.geometry.chunks()).map(Chunk) {
                let (there, here) = (from.stamp(chunk), to.stamp(chunk));
                let range = self.geometry.chunk_range(chunk);
                let inside =
                    |sector: u32| (range.offset..range.end()).contains(&(u64::from(sector) * SECTOR));
                let tracked = || {
                    self.tracked
                        .iter()
                        .enumerate()
                        .filter(|&(_, &sector)| inside(sector))
                };
                if here == Tick::SUSPECT
                    || tracked().next().is_none()
                    || tracked().any(|(index, _)| self.checker.is_being_written(index))
                {
                    continue;
                }
                let durable = to.superblock().durable;
                if there != here && there.max(here) > durable {
                    wrong = Some(format!(
                        "R3: chunk {} has the stamp {here} on node {node}, which is rebuilt, and {there} on node {source}",
                        chunk.0
                    ));
                }
                for (_, &sector) in tracked() {
                    let (one, two) = (self.content(source, sector), self.content(node, sector));
                    if one != two {
                        wrong = Some(format!(
                            "R3: sector {sector} is {two} on node {node}, which is rebuilt, and {one} on node {source}, \
                             and its stamp {here} does not tell"
                        ));
                    }
                }
            }
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
    }

    /// R3: what is copied by a rebuild is suspect on the target's disk. R2: the target is told the settled tick only after that.
    /// What a primary sends that has been replaced does not count, as the target refuses it: the next one may have rebuilt it since.
    fn check_marked(
        &mut self,
        (replica, session): (ReplicaId, SessionId),
        request: &Request<Sectors>,
        marked: Option<bool>,
    ) {
        let node = node_of(replica);
        if self.nodes[node].opening != Some(session) {
            return;
        }
        let chunk = match request {
            Request::Ping { settled } if *settled > Tick::ZERO && marked == Some(false) => {
                self.violate(format!(
                    "R2: the replica on node {node} is told {settled} as settled before its set is marked"
                ));
                return;
            }
            Request::Write {
                offset,
                stamp: StampRule::Set,
                ..
            } => offset / self.geometry.chunk_size(),
            Request::Zero {
                range,
                stamp: StampRule::Set,
                ..
            } => range.offset / self.geometry.chunk_size(),
            Request::Stamp(stamps) => match stamps[..] {
                [(chunk, tick)] if tick < Tick::SUSPECT => u64::from(chunk.0),
                _ => return,
            },
            _ => return,
        };
        if marked.is_none() || self.rid(node) != replica {
            return;
        }
        let chunk = Chunk(chunk as u32);
        let on_disk = self.disk(node).map(|disk| disk.durable_stamp(chunk));
        if on_disk.is_some_and(|stamp| stamp != Tick::SUSPECT) {
            self.violate(format!(
                "R3: chunk {} is copied to node {node}, whose disk says {on_disk:?} of it",
                chunk.0
            ));
        }
    }

    /// D5: an epoch is on disk before anything that depends on it is answered.
    pub(crate) fn check_answer(
        &mut self,
        node: usize,
        session: SessionId,
        id: RequestId,
        reply: &Reply<Sectors>,
    ) {
        let at = &mut self.nodes[node];
        at.writes
            .retain(|asked| (asked.session, asked.id) != (session, id));
        self.check_wait(node, session, reply);
        let at = &mut self.nodes[node];
        let Some(epoch) = self.promised.remove(&(session, id)) else {
            return;
        };
        if matches!(reply, Reply::Refused(_)) && at.opening == Some(session) {
            at.opening = at.opened_before;
        }
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
    pub(crate) fn check_request(
        &mut self,
        node: usize,
        (replica, session): (ReplicaId, SessionId),
        id: RequestId,
        request: &Request<Sectors>,
    ) {
        let Some(host) = &mut self.nodes[node].host else {
            return;
        };
        let again = id <= host.newest_request;
        host.newest_request = host.newest_request.max(id);
        let epoch = host.machine.epoch();
        let rebuild = host.machine.progress().find(|(id, _)| *id == replica);
        let marked = rebuild.map(|(_, progress)| progress.marked);
        if !again {
            self.check_marked((replica, session), request, marked);
        }
        let Some(host) = &self.nodes[node].host else {
            return;
        };
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
