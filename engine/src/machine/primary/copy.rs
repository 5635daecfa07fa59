//! Copying one chunk from a source to others, piece by piece: the work that convergence and rebuild share (R4).
//!
//! What a target may hold already is compared first, in blocks, by digests of the source and of every target; then only the runs of
//! blocks that differ somewhere are read and written, and where none does only the stamp is set. Source and targets are asked
//! while nobody writes: a convergence comes before everything else, a rebuild holds the chunk's range.

use std::collections::VecDeque;

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
    /// Whether a target may hold something of it already.
    compare: bool,
    /// The stamp that the copies get; the source's, if none is given.
    stamp: Option<Tick>,
    /// The source's stamp, once it has told it.
    found: Tick,
    /// What is being compared and copied now; empty before the first piece.
    piece: ByteRange,
    /// What the peers hold of it, as far as they have answered; nothing where a target cannot read it.
    digests: Vec<(PeerId, Vec<u128>)>,
    /// What is left to be copied of it, and what is being copied.
    runs: VecDeque<ByteRange>,
    run: ByteRange,
    /// Whether the stamp has been sent.
    stamped: bool,
    waiting: Peers,
    lock: Option<LockId>,
}

/// Most runs that a piece is copied in. Each costs two exchanges under the chunk's lock, so where there are more, which only
/// large chunks have, the equal blocks between them are copied too.
const MOST_RUNS: usize = 32;

impl CopyJob {
    /// The runs of blocks in which some target differs from the source.
    fn differing(&self, block: u64) -> VecDeque<ByteRange> {
        let mut gap = 0;
        loop {
            let runs = self.differing_but_for(block, gap);
            if runs.len() <= MOST_RUNS {
                return runs;
            }
            gap = 2 * gap + 1;
        }
    }

    /// The same, where up to `gap` equal blocks between two runs belong to them.
    fn differing_but_for(&self, block: u64, gap: u64) -> VecDeque<ByteRange> {
        let of_source = self.digests.iter().find(|(peer, _)| *peer == self.source);
        let wanted = of_source
            .map(|(_, digests)| digests.as_slice())
            .unwrap_or_default();
        let mut runs: VecDeque<ByteRange> = VecDeque::new();
        for at in 0..self.piece.len.div_ceil(block) {
            let index = at as usize;
            let differs = |(_, held): &(PeerId, Vec<u128>)| {
                held.get(index).is_none() || held.get(index) != wanted.get(index)
            };
            if !self.digests.iter().any(differs) {
                continue;
            }
            let offset = self.piece.offset + at * block;
            let len = block.min(self.piece.end() - offset);
            match runs.back_mut() {
                Some(run) if offset - run.end() <= gap * block => run.len = offset + len - run.offset,
                _ => runs.push_back(ByteRange::new(offset, len)),
            }
        }
        runs
    }
}

impl<P: Payload> Primary<P> {
    /// Begins to copy a chunk, comparing first if the targets may hold something of it; a rebuild's under the range lock, as
    /// others write at the same time.
    pub(super) fn copy_chunk(
        &mut self,
        part_of: CopyFor,
        (source, targets): (PeerId, Peers),
        (chunk, compare): (Chunk, bool),
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
                compare,
                stamp,
                found: Tick::ZERO,
                piece: ByteRange::new(range.offset, 0),
                digests: Vec::new(),
                runs: VecDeque::new(),
                run: ByteRange::new(range.offset, 0),
                stamped: false,
                waiting: 0,
                lock: None,
            },
        );
        let faults = self.config.faults;
        let locked = matches!(part_of, CopyFor::Rebuild { .. }) && !faults.has(Fault::CopyWithoutLock);
        if !locked || (compare && faults.has(Fault::CompareWithoutLock)) {
            self.copy_piece(job, out);
            return;
        }
        self.copy_lock(job, out);
    }

    /// Goes on under the lock of the chunk's range.
    fn copy_lock(&mut self, job: u64, out: &mut Vec<Action<P>>) {
        let Some(at) = self.copies.get_mut(&job) else {
            return;
        };
        let range = self.config.geometry.chunk_range(at.chunk);
        let (lock, held) = self.lock.acquire(range, false, Owner::Copy(job));
        at.lock = Some(lock);
        if held {
            self.copy_piece(job, out);
        }
    }

    /// Takes the next piece: compares it, or copies it as a whole. The chunk is done after the last one.
    pub(super) fn copy_piece(&mut self, job: u64, out: &mut Vec<Action<P>>) {
        let faults = self.config.faults;
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
        if !at.digests.is_empty() {
            // Deliberate fault: it was compared before it was locked.
            at.digests.clear();
            self.copy_run(job, out);
            return;
        }
        let whole = self.config.geometry.chunk_range(at.chunk);
        let mut from = at.piece.end();
        if from >= whole.end() {
            self.chunk_copied(job, out);
            return;
        }
        let mut compare = at.compare;
        if faults.has(Fault::CopyEndsEarly) && from > whole.offset {
            // As if the rest had been copied: only its last sector is, which carries the stamp.
            from = whole.end() - crate::geometry::SECTOR;
            compare = false;
        }
        at.piece = ByteRange::new(from, self.config.copy_piece.min(whole.end() - from));
        if !compare {
            at.runs.push_back(at.piece);
            self.copy_run(job, out);
            return;
        }
        at.waiting = at.targets | bit(at.source);
        let (asked, range) = (at.waiting, at.piece);
        let block = self.config.compare_block;
        for peer in each(asked) {
            let request = Request::Digests { range, block };
            self.send(peer, request, Purpose::CopyCompare(job), out);
        }
    }

    pub(super) fn copy_was_compared(
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
        match reply {
            Reply::Digests { blocks, stamp } => {
                if from == at.source {
                    at.found = stamp;
                }
                at.digests.push((from, blocks));
            }
            _ if from == at.source => {
                self.end_copy(job, out);
                self.source_unreadable(from, part_of, out);
                return;
            }
            // What it cannot read is written over.
            Reply::Unreadable => at.digests.push((from, Vec::new())),
            _ => {
                self.end_copy(job, out);
                self.target_unwritable(from, part_of, out);
                return;
            }
        }
        at.waiting &= !bit(from);
        if at.waiting != 0 {
            return;
        }
        let faults = self.config.faults;
        at.runs = at.differing(u64::from(self.config.compare_block));
        if faults.has(Fault::BlocksLeftOut) {
            at.runs.pop_back();
        }
        let is_rebuild = matches!(part_of, CopyFor::Rebuild { .. });
        if faults.has(Fault::CompareWithoutLock) && at.lock.is_none() && is_rebuild {
            self.copy_lock(job, out);
            return;
        }
        at.digests.clear();
        self.copy_run(job, out);
    }

    /// A replica that was asked for digests is gone, and with it the work that they were for. Nothing has been written that is not
    /// answered.
    pub(super) fn compare_aborted(&mut self, job: u64, out: &mut Vec<Action<P>>) {
        self.end_copy(job, out);
    }

    /// Reads the next run of what differs; at the end of the piece goes on with the next one.
    fn copy_run(&mut self, job: u64, out: &mut Vec<Action<P>>) {
        if self
            .copies
            .get(&job)
            .is_some_and(|at| !self.is_current(at.part_of))
        {
            self.end_copy(job, out);
            return;
        }
        let faults = self.config.faults;
        let Some(at) = self.copies.get_mut(&job) else {
            return;
        };
        let early = faults.has(Fault::StampedBeforeBlocks) && at.compare && !at.runs.is_empty();
        let is_last_piece = at.piece.end() == self.config.geometry.chunk_range(at.chunk).end();
        if !at.stamped && is_last_piece && (early || at.runs.is_empty()) {
            // Nothing of it differs, or not of its last piece: the stamp comes by itself, after all that was written (D2).
            at.stamped = true;
            at.waiting = at.targets;
            let stamps = vec![(at.chunk, at.stamp.unwrap_or(at.found))];
            for target in each(at.targets) {
                let request = Request::Stamp(stamps.clone());
                self.send(target, request, Purpose::CopyWrite(job), out);
            }
            return;
        }
        let Some(run) = at.runs.pop_front() else {
            self.copy_piece(job, out);
            return;
        };
        at.run = run;
        let source = at.source;
        self.send(source, Request::Copy(run), Purpose::CopyRead(job), out);
    }

    pub(super) fn copy_was_read(
        &mut self,
        from: PeerId,
        job: u64,
        reply: Reply<P>,
        out: &mut Vec<Action<P>>,
    ) {
        let faults = self.config.faults;
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
        let chunk_end = self.config.geometry.chunk_range(at.chunk).end();
        let last = at.runs.is_empty() && at.piece.end() == chunk_end;
        // The stamp comes with the last of what is written. Until then the chunk is neither what it was nor what it is to be: a copy
        // that goes no further must not leave behind content that no stamp tells of (D2).
        let (tick, stamp) = if at.stamped {
            (at.stamp.unwrap_or(at.found), StampRule::Raise)
        } else if last {
            (at.stamp.unwrap_or(found), StampRule::Set)
        } else if faults.has(Fault::PieceNotMarked) {
            (Tick::ZERO, StampRule::Raise)
        } else {
            (Tick::SUSPECT, StampRule::Raise)
        };
        at.stamped |= last;
        at.found = found;
        at.waiting = at.targets;
        let (targets, chunk, range) = (at.targets, at.chunk, at.run);
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
            None if faults.has(Fault::HoleNotCopied) => {
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
            self.copy_run(job, out);
        }
    }

    fn chunk_copied(&mut self, job: u64, out: &mut Vec<Action<P>>) {
        let Some(part_of) = self.copies.get(&job).map(|at| at.part_of) else {
            return;
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn job(blocks: usize, differ: impl Fn(usize) -> bool) -> CopyJob {
        let held = (0..blocks).map(|at| u128::from(differ(at))).collect();
        CopyJob {
            part_of: CopyFor::Converge { round: 1 },
            source: 0,
            targets: bit(1),
            chunk: Chunk(0),
            compare: true,
            stamp: None,
            found: Tick::ZERO,
            piece: ByteRange::new(0, blocks as u64 * 4096),
            digests: vec![(0, vec![0; blocks]), (1, held)],
            runs: VecDeque::new(),
            run: ByteRange::new(0, 0),
            stamped: false,
            waiting: 0,
            lock: None,
        }
    }

    #[test]
    fn only_what_differs_is_copied() {
        let runs = job(16, |at| matches!(at, 0 | 3 | 4 | 15)).differing(4096);
        let expected = [(0, 1), (3, 2), (15, 1)];
        let expected = expected.map(|(at, len)| ByteRange::new(at * 4096, len * 4096));
        assert_eq!(runs, expected);
        assert!(job(16, |_| false).differing(4096).is_empty());
    }

    #[test]
    fn a_large_chunk_is_copied_in_few_runs() {
        let differ = |at: usize| at.is_multiple_of(2) || at.is_multiple_of(7);
        let runs = job(256, differ).differing(4096);
        assert!(runs.len() <= MOST_RUNS, "{runs:?}");
        for at in (0..256).filter(|at| differ(*at)) {
            let offset = at as u64 * 4096;
            assert!(
                runs.iter()
                    .any(|run| run.offset <= offset && offset + 4096 <= run.end()),
                "block {at} is left out"
            );
        }
    }
}
