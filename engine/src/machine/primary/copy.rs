//! Copying one chunk from a source to others, piece by piece: the work that convergence and rebuild share (R4).

use super::Primary;
use super::api::Action;
use super::lock::{LockId, Owner};
use super::peer::{PeerId, Peers, Purpose, bit, each};
use crate::geometry::{ByteRange, Chunk};
use crate::ids::Tick;
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::{Reply, Request, StampRule};

/// What a copy is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyFor {
    Converge { round: u64 },
    Rebuild { target: PeerId, round: u64 },
}

/// A chunk that is being copied.
#[derive(Debug)]
pub(super) struct CopyJob {
    pub(super) part_of: CopyFor,
    source: PeerId,
    targets: Peers,
    chunk: Chunk,
    /// The stamp that the copies get; the source's, if none is given.
    stamp: Option<Tick>,
    /// First byte that has not been copied.
    at: u64,
    /// First byte of what comes after the piece that is being copied.
    next: u64,
    waiting: Peers,
    lock: Option<LockId>,
}

impl<P: Payload> Primary<P> {
    /// Begins to copy a chunk; a rebuild's under the range lock, as others write at the same time.
    pub(super) fn copy_chunk(
        &mut self,
        part_of: CopyFor,
        (source, targets): (PeerId, Peers),
        chunk: Chunk,
        stamp: Option<Tick>,
        out: &mut Vec<Action<P>>,
    ) {
        let range = self.config.geometry.chunk_range(chunk);
        self.copy_count += 1;
        let job = self.copy_count;
        self.copies.insert(
            job,
            CopyJob {
                part_of,
                source,
                targets,
                chunk,
                stamp,
                at: range.offset,
                next: range.offset,
                waiting: 0,
                lock: None,
            },
        );
        let locked = matches!(part_of, CopyFor::Rebuild { .. });
        if !locked || self.config.faults.has(Fault::CopyWithoutLock) {
            self.copy_read(job, out);
            return;
        }
        let (lock, held) = self.lock.acquire(range, false, Owner::Copy(job));
        if let Some(at) = self.copies.get_mut(&job) {
            at.lock = Some(lock);
        }
        if held {
            self.copy_read(job, out);
        }
    }

    /// Reads the next piece.
    pub(super) fn copy_read(&mut self, job: u64, out: &mut Vec<Action<P>>) {
        if self
            .copies
            .get(&job)
            .is_some_and(|at| !self.is_current(at.part_of))
        {
            self.end_copy(job, out);
            return;
        }
        let Some(at) = self.copies.get_mut(&job) else {
            return;
        };
        let end = self.config.geometry.chunk_range(at.chunk).end();
        at.next = end.min(at.at + self.config.copy_piece);
        if self.config.faults.has(Fault::CopyEndsEarly)
            && at.at > self.config.geometry.chunk_range(at.chunk).offset
        {
            // As if the rest had been copied: only its last sector is, which carries the stamp.
            at.at = end - crate::geometry::SECTOR;
            at.next = end;
        }
        let piece = ByteRange::new(at.at, at.next - at.at);
        let source = at.source;
        self.send(source, Request::Copy(piece), Purpose::CopyRead(job), out);
    }

    pub(super) fn copy_was_read(
        &mut self,
        from: PeerId,
        job: u64,
        reply: Reply<P>,
        out: &mut Vec<Action<P>>,
    ) {
        let Some(at) = self.copies.get_mut(&job) else {
            return;
        };
        let part_of = at.part_of;
        let (content, found) = match reply {
            Reply::Chunk { content, stamp } => (content, stamp),
            _ => {
                self.end_copy(job, out);
                self.source_unreadable(from, part_of, out);
                return;
            }
        };
        let last = at.next == self.config.geometry.chunk_range(at.chunk).end();
        // The stamp comes with the last piece. Until then the chunk is neither what it was nor what it is to be: a copy that goes
        // no further must not leave behind content that no stamp tells of (D2).
        let (tick, stamp) = if last {
            (at.stamp.unwrap_or(found), StampRule::Set)
        } else if self.config.faults.has(Fault::PieceNotMarked) {
            (Tick::ZERO, StampRule::Raise)
        } else {
            (Tick::SUSPECT, StampRule::Raise)
        };
        at.waiting = at.targets;
        let chunk = at.chunk;
        let (targets, range) = (at.targets, ByteRange::new(at.at, at.next - at.at));
        if !self.is_current(part_of) {
            self.end_copy(job, out);
            return;
        }
        if let (CopyFor::Rebuild { target, .. }, Some(data)) = (part_of, &content) {
            self.rebuild_read(target, data.size());
        }
        let request = match content {
            Some(data) => Request::Write {
                offset: range.offset,
                data,
                tick,
                stamp,
            },
            None if self.config.faults.has(Fault::HoleNotCopied) => {
                let stamps = if last { vec![(chunk, tick)] } else { Vec::new() };
                Request::Stamp(stamps)
            }
            None => Request::Zero { range, tick, stamp },
        };
        for target in each(targets) {
            self.send(target, request.clone(), Purpose::CopyWrite(job), out);
        }
    }

    pub(super) fn copy_was_written(
        &mut self,
        from: PeerId,
        job: u64,
        reply: Reply<P>,
        out: &mut Vec<Action<P>>,
    ) {
        let Some(at) = self.copies.get_mut(&job) else {
            return;
        };
        at.waiting &= !bit(from);
        let (part_of, waiting) = (at.part_of, at.waiting);
        if !matches!(reply, Reply::Done) {
            at.targets &= !bit(from);
            if waiting == 0 {
                self.end_copy(job, out);
            }
            self.target_unwritable(from, part_of, out);
            return;
        }
        if waiting == 0 {
            self.piece_done(job, out);
        }
    }

    fn piece_done(&mut self, job: u64, out: &mut Vec<Action<P>>) {
        let Some(at) = self.copies.get_mut(&job) else {
            return;
        };
        at.at = at.next;
        let (part_of, chunk) = (at.part_of, at.chunk);
        if at.at < self.config.geometry.chunk_range(chunk).end() {
            self.copy_read(job, out);
            return;
        }
        self.end_copy(job, out);
        match part_of {
            CopyFor::Converge { round } => self.converge_copied(round, out),
            CopyFor::Rebuild { target, round } => self.rebuild_copied(target, round, out),
        }
    }

    /// A replica that took part is gone. Its own part is over; a write that another one still owes is waited for.
    pub(super) fn copy_aborted(&mut self, gone: PeerId, job: u64, out: &mut Vec<Action<P>>) {
        let Some(at) = self.copies.get_mut(&job) else {
            return;
        };
        at.waiting &= !bit(gone);
        at.targets &= !bit(gone);
        if at.waiting == 0 {
            self.end_copy(job, out);
        }
    }

    fn end_copy(&mut self, job: u64, out: &mut Vec<Action<P>>) {
        if let Some(CopyJob { lock: Some(lock), .. }) = self.copies.remove(&job) {
            self.unlock(lock, out);
        }
        self.stirred = true;
    }

    /// Whether the work that a copy is part of still goes on.
    fn is_current(&self, part_of: CopyFor) -> bool {
        match part_of {
            CopyFor::Converge { round } => self.converge.as_ref().is_some_and(|at| at.round == round),
            CopyFor::Rebuild { target, round } => {
                self.peers[target].rebuild().is_some_and(|at| at.round == round)
            }
        }
    }

    fn source_unreadable(&mut self, source: PeerId, part_of: CopyFor, out: &mut Vec<Action<P>>) {
        let cause = crate::format::FailCause::Read;
        let others = each(self.members & !bit(source)).any(|peer| self.peers[peer].is_sound_member());
        if others || matches!(part_of, CopyFor::Converge { .. }) {
            self.spoil(source, cause, out);
        }
        if let CopyFor::Rebuild { target, .. } = part_of {
            self.drop_rebuild(target, out);
        }
    }

    fn target_unwritable(&mut self, target: PeerId, part_of: CopyFor, out: &mut Vec<Action<P>>) {
        match part_of {
            CopyFor::Converge { .. } => self.condemn_finally(target, None, out),
            CopyFor::Rebuild { .. } => self.drop_rebuild(target, out),
        }
    }
}
