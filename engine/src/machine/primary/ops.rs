//! Operations of the front end, from submission to completion (O1, O2, O5).

use super::api::{Action, Op, OpId};
use super::lock::{LockId, Owner};
use super::peer::{Peers, Purpose, bit, each};
use super::{Phase, Primary};
use crate::geometry::ByteRange;
use crate::ids::Tick;
use crate::io::IoError;
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::{Reply, Request, StampRule};
use crate::machine::time::Time;

/// An operation that has not been completed.
#[derive(Debug)]
pub(super) struct Pending<P> {
    pub(super) id: OpId,
    /// Tells it from an earlier one in the same place.
    pub(super) count: u64,
    pub(super) op: Op<P>,
    pub(super) deadline: Time,
    lock: Option<LockId>,
    /// Set when it is a write that has been started.
    pub(super) tick: Option<Tick>,
    /// Order of starting.
    pub(super) started: Option<u64>,
    /// Who still has to answer.
    pub(super) needs: Peers,
    /// Who answered that there is no space.
    no_space: Peers,
    /// Who answered that it is done.
    done: Peers,
    /// What was read, while it waits for the lease.
    data: Option<P>,
}

impl<P> Pending<P> {
    pub(super) const fn is_read(&self) -> bool {
        matches!(self.op, Op::Read(_))
    }

    /// Everybody who has something to do with it.
    pub(super) const fn peers(&self) -> Peers {
        self.needs | self.no_space | self.done
    }
}

impl<P: Payload> Primary<P> {
    pub(super) fn submit(&mut self, id: OpId, op: Op<P>, out: &mut Vec<Action<P>>) {
        let range = match &op {
            Op::Read(range) | Op::Zero(range) => Some(*range),
            Op::Write { offset, data } => Some(ByteRange::new(*offset, data.size())),
            Op::Flush => None,
        };
        if range.is_some_and(|range| !self.config.geometry.admits(range)) {
            let result = Err(IoError::Invalid);
            out.push(Action::Complete { id, result });
            return;
        }
        if self.phase == Phase::Releasing {
            let result = Err(IoError::Io);
            out.push(Action::Complete { id, result });
            return;
        }
        let place = self.take_in(id, op);
        if self.phase == Phase::Serving {
            self.admit(place, out);
        } else {
            self.early.push(place);
        }
    }

    /// Takes an operation into the books.
    pub(super) fn take_in(&mut self, id: OpId, op: Op<P>) -> u32 {
        self.op_count += 1;
        let count = self.op_count;
        let place = self.ops.insert(Pending {
            id,
            count,
            op,
            deadline: self.now + self.config.io_timeout,
            lock: None,
            tick: None,
            started: None,
            needs: 0,
            no_space: 0,
            done: 0,
            data: None,
        });
        self.op_order.push_back((place, count));
        place
    }

    /// Takes the operation's range; starts it if it is free (O1).
    pub(super) fn admit(&mut self, place: u32, out: &mut Vec<Action<P>>) {
        let Some(pending) = self.ops.get_mut(place) else {
            return;
        };
        let (range, shared) = match &pending.op {
            Op::Read(range) => (*range, true),
            Op::Zero(range) => (*range, false),
            Op::Write { offset, data } => (ByteRange::new(*offset, data.size()), false),
            Op::Flush => return self.start(place, out),
        };
        let faults = self.config.faults;
        let unlocked = faults.has(Fault::NoRangeLock)
            || faults.has(Fault::ReadUnlocked) && shared
            || faults.has(Fault::LongRangeUnlocked) && range.len > 1 << 20;
        if unlocked {
            return self.start(place, out);
        }
        let (lock, held) = self.lock.acquire(range, shared, Owner::Op(place));
        pending.lock = Some(lock);
        if held {
            self.start(place, out);
        }
    }

    /// Sends it to everybody whose acknowledgement counts (O2), a write with the current tick (O3).
    pub(super) fn start(&mut self, place: u32, out: &mut Vec<Action<P>>) {
        let mut receivers = self.receivers;
        let Some(pending) = self.ops.get_mut(place) else {
            return;
        };
        if matches!(pending.op, Op::Zero(_)) && self.config.faults.has(Fault::ZeroNotReplicated) {
            receivers = bit(receivers.trailing_zeros() as usize);
        }
        self.start_count += 1;
        pending.started = Some(self.start_count);
        let request = match &pending.op {
            Op::Read(range) => {
                let range = *range;
                return self.start_read(place, range, out);
            }
            Op::Flush => Request::Flush,
            Op::Write { offset, data } => Request::Write {
                offset: *offset,
                data: data.clone(),
                tick: self.ticks.begin(),
                stamp: StampRule::Raise,
            },
            Op::Zero(range) => Request::Zero {
                range: *range,
                tick: self.ticks.begin(),
                stamp: StampRule::Raise,
            },
        };
        if let Request::Write { tick, .. } | Request::Zero { tick, .. } = request {
            pending.tick = Some(tick);
        }
        pending.needs = receivers;
        if self.config.faults.has(Fault::NoJointPhase) {
            pending.needs &= !self.joint;
        }
        let count = pending.count;
        for peer in each(receivers) {
            self.send(peer, request.clone(), Purpose::Op { place, count }, out);
        }
    }

    /// Reads from the local member, else from a sound one; if there is none, from any: it is sent when it is back.
    fn start_read(&mut self, place: u32, range: ByteRange, out: &mut Vec<Action<P>>) {
        let rank = |peer: &usize| {
            let peer = &self.peers[*peer];
            (peer.is_sound_member(), peer.condemned.is_none(), peer.local)
        };
        let mut peer = each(self.members).max_by_key(rank);
        if self.config.faults.has(Fault::ReadFromAnyone) {
            let up = |peer: &usize| self.peers[*peer].is_up();
            peer = each(self.receivers & !self.members).find(up).or(peer);
        }
        let Some(peer) = peer else {
            return;
        };
        let Some(pending) = self.ops.get_mut(place) else {
            return;
        };
        pending.needs = bit(peer);
        let count = pending.count;
        self.send(peer, Request::Read(range), Purpose::Op { place, count }, out);
    }

    pub(super) fn op_answered(
        &mut self,
        from: usize,
        (place, count): (u32, u64),
        reply: Reply<P>,
        out: &mut Vec<Action<P>>,
    ) {
        let Some(pending) = self.ops.get_mut(place).filter(|pending| pending.count == count) else {
            return;
        };
        match reply {
            Reply::Done => {
                pending.needs &= !bit(from);
                pending.done |= bit(from);
                let by_first = self.config.faults.has(Fault::FlushByFirst) && matches!(pending.op, Op::Flush);
                if by_first || self.config.faults.has(Fault::AckByFirst) {
                    pending.needs = 0;
                }
                if self.config.faults.has(Fault::LockReleasedEarly)
                    && let Some(lock) = pending.lock.take()
                {
                    self.unlock(lock, out);
                }
            }
            Reply::NoSpace if self.config.faults.has(Fault::NoSpaceAcknowledged) => {
                pending.needs &= !bit(from);
            }
            Reply::NoSpace => {
                pending.needs &= !bit(from);
                pending.no_space |= bit(from);
            }
            Reply::Data(data) => {
                pending.needs &= !bit(from);
                pending.data = Some(data);
                self.read_done(place, out);
                return;
            }
            Reply::Unreadable => {
                pending.needs &= !bit(from);
                self.unreadable(from, place, out);
                return;
            }
            // Anything else is no answer to an operation: that member is not to be trusted.
            _ => {
                self.condemn_finally(from, None, out);
                return;
            }
        }
        self.op_advanced(place, out);
    }

    /// Somebody has answered, or does not have to any more.
    pub(super) fn op_advanced(&mut self, place: u32, out: &mut Vec<Action<P>>) {
        let (counted, condemned) = (self.counted(), self.condemned_members());
        let Some(pending) = self.ops.get_mut(place) else {
            return;
        };
        if let Op::Read(range) = pending.op {
            // The member that was asked is gone: ask another one.
            if pending.needs == 0 && pending.data.is_none() && pending.started.is_some() {
                self.start_read(place, range, out);
            }
            return;
        }
        if pending.started.is_none() || pending.needs & !condemned != 0 {
            return;
        }
        let (full, others) = (pending.no_space & counted, pending.no_space & !counted);
        for peer in each(others) {
            self.drop_rebuild(peer, out);
        }
        if full != 0 && self.leave_for_space(place, full, out) {
            return;
        }
        let raising = self.is_raising();
        let Some(pending) = self.ops.get(place) else {
            return;
        };
        // L2: a member that does not know the epoch yet could be taken for one of an older record later.
        if pending.needs != 0 || raising {
            return;
        }
        if pending.no_space & counted == 0 {
            self.acknowledge(place, out);
            return;
        }
        // Replicas under rebuild may have done what the member could not: they have to start again.
        let others = pending.done & !counted;
        self.complete(place, Err(IoError::NoSpace), out);
        for peer in each(others) {
            self.drop_rebuild(peer, out);
        }
    }

    /// O5: replicas whose disk is full leave (failure 20), so that the others agree, and the operation is held until they are
    /// gone; where nobody had space, one stays and says so. Says whether somebody has to leave first.
    fn leave_for_space(&mut self, place: u32, full: Peers, out: &mut Vec<Action<P>>) -> bool {
        let counted = self.counted();
        let Some(pending) = self.ops.get(place) else {
            return false;
        };
        if self.config.faults.has(Fault::FullMemberStays) {
            return false;
        }
        let mut leaving = full;
        if pending.done & counted == 0 {
            let rank = |peer: &usize| (self.peers[*peer].condemned.is_none(), self.peers[*peer].local);
            leaving &= !each(full).max_by_key(rank).map_or(0, bit);
        }
        if let Some(pending) = self.ops.get_mut(place) {
            pending.needs |= leaving;
        }
        for peer in each(leaving) {
            if self.peers[peer].condemned.is_none() {
                self.condemn_finally(peer, None, out);
            }
        }
        leaving != 0
    }

    fn unreadable(&mut self, from: usize, place: u32, out: &mut Vec<Action<P>>) {
        let others = each(self.members & !bit(from)).any(|peer| self.peers[peer].is_sound_member());
        if others {
            let cause = crate::format::FailCause::Read;
            self.spoil(from, cause, out);
            self.op_advanced(place, out);
        } else {
            self.complete(place, Err(IoError::Io), out);
        }
    }

    /// Everybody has done it. What members answered a while ago does not tell that they would still do so: one may have
    /// lost power since, and have been taken over without it (O4).
    fn acknowledge(&mut self, place: u32, out: &mut Vec<Action<P>>) {
        if self.leases_hold() || self.config.faults.has(Fault::AckWithoutLease) {
            self.complete(place, Ok(None), out);
        } else {
            self.lease_waiters.push(place);
            self.ask_for_leases(out);
        }
    }

    /// The data is there; the answer depends on the leases, looked at only now (O4).
    pub(super) fn read_done(&mut self, place: u32, out: &mut Vec<Action<P>>) {
        if !self.leases_hold() && !self.config.faults.has(Fault::LeaseIgnored) {
            self.lease_waiters.push(place);
            self.ask_for_leases(out);
            return;
        }
        let Some(data) = self.ops.get_mut(place).and_then(|pending| pending.data.take()) else {
            return;
        };
        self.complete(place, Ok(Some(data)), out);
    }

    pub(super) fn complete(
        &mut self,
        place: u32,
        result: Result<Option<P>, IoError>,
        out: &mut Vec<Action<P>>,
    ) {
        let Some(pending) = self.ops.remove(place) else {
            return;
        };
        if let Some(tick) = pending.tick {
            self.ticks.end(tick);
        }
        let id = pending.id;
        if id == OpId::OWN {
            self.verify_written(&result, out);
        } else {
            out.push(Action::Complete { id, result });
        }
        if self.ops.is_empty() && (self.verify.is_some() || self.receivers != self.members) {
            // A gap that copies may use.
            self.stirred = true;
        }
        if let Some(lock) = pending.lock {
            self.unlock(lock, out);
        }
        while let Some(&(place, count)) = self.op_order.front() {
            if self.ops.get(place).is_some_and(|pending| pending.count == count) {
                break;
            }
            self.op_order.pop_front();
        }
    }

    /// Gives a range back and lets those go on that waited for it.
    pub(super) fn unlock(&mut self, lock: LockId, out: &mut Vec<Action<P>>) {
        let mut granted = Vec::new();
        self.lock.release(lock, &mut granted);
        for owner in granted {
            match owner {
                Owner::Op(place) => self.start(place, out),
                Owner::Copy(job) => self.copy_piece(job, out),
                Owner::Verify => self.verify_hash(out),
            }
        }
    }

    /// The deadline of the oldest operation.
    pub(super) fn oldest_deadline(&self) -> Option<Time> {
        let &(place, count) = self.op_order.front()?;
        let pending = self.ops.get(place)?;
        (pending.count == count).then_some(pending.deadline)
    }
}
