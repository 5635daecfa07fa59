//! Comparing the members while the volume is used, and mending those that differ (failure cases 21 and 32).
//!
//! Piece by piece: V1 under the range lock, so that no write is in flight, every member is asked for a digest. V2 Where
//! they differ, what more than half of the members hold counts, else what the member holds that a person has named;
//! where neither decides, it is only told (P6). V3 A piece is mended by an ordinary write of what counts to everybody who
//! is sent writes: stamps, ticks and the loss of a member are then what they are for any write.

use super::api::{Action, Op, OpId};
use super::lock::{LockId, Owner};
use super::peer::{PeerId, Peers, Purpose, bit, each};
use super::{Phase, Primary};
use crate::geometry::ByteRange;
use crate::ids::ReplicaId;
use crate::io::IoError;
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::{Reply, Request};
use crate::machine::time::Time;

/// Most differences that are told one by one.
const MAX_TOLD: usize = 1000;

/// What is done where members differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It is told.
    No,
    /// What more than half of the members hold is written to all; without a majority it is told.
    Majority,
    /// The same, but without a majority what this replica holds is written to all.
    From(ReplicaId),
}

/// How a verify ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyOutcome {
    /// The whole volume was compared.
    Complete,
    /// It was stopped, or fewer than two members are left.
    Interrupted,
    /// Another one is under way, or the volume is not being served.
    Refused,
}

/// A piece in which members differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub range: ByteRange,
    /// Who holds something else than what counts; everybody, if nothing counts.
    pub differing: Vec<ReplicaId>,
    /// Who could not read it.
    pub unreadable: Vec<ReplicaId>,
    /// Whether all hold the same now.
    pub mended: bool,
}

/// What a verify has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// How it ended.
    pub outcome: VerifyOutcome,
    /// Who was compared from the beginning to the end.
    pub members: Vec<ReplicaId>,
    /// Bytes of the volume that were compared.
    pub compared: u64,
    /// Pieces in which members differ, and how many of them were mended.
    pub differing: u64,
    /// How many of them were mended.
    pub mended: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
}

/// How far a verify is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes of the volume that have been compared.
    pub compared: u64,
    /// Bytes of the volume.
    pub size: u64,
    /// Since when.
    pub since: Time,
    /// Pieces in which members differ.
    pub differing: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until it is the next piece's turn.
    Pausing,
    Locking,
    Hashing,
    Reading(PeerId),
    Writing,
}

/// A verify under way.
#[derive(Debug)]
pub(super) struct Verify {
    id: u64,
    pub(super) round: u64,
    repair: Repair,
    since: Time,
    /// Who has been compared from the beginning.
    members: Peers,
    piece: ByteRange,
    lock: Option<LockId>,
    stage: Stage,
    waiting: Peers,
    /// What the members answered for the piece; nothing where they could not read.
    answers: Vec<(PeerId, Option<u128>)>,
    stopped: bool,
    report: VerifyReport,
}

impl Verify {
    /// It ends here, whatever is under way.
    pub(super) fn interrupt(&mut self) {
        self.report.outcome = VerifyOutcome::Interrupted;
    }
}

impl<P: Payload> Primary<P> {
    pub(super) fn verify(&mut self, id: u64, repair: Repair, out: &mut Vec<Action<P>>) {
        let mut report = VerifyReport {
            outcome: VerifyOutcome::Refused,
            members: Vec::new(),
            compared: 0,
            differing: 0,
            mended: 0,
            differences: Vec::new(),
        };
        if self.verify.is_some() || self.phase != Phase::Serving {
            out.push(Action::Verified { id, report });
            return;
        }
        report.outcome = VerifyOutcome::Complete;
        self.rounds += 1;
        self.verify = Some(Box::new(Verify {
            id,
            round: self.rounds,
            repair,
            since: self.now,
            members: self.members,
            piece: ByteRange::new(0, 0),
            lock: None,
            stage: Stage::Pausing,
            waiting: 0,
            answers: Vec::new(),
            stopped: false,
            report,
        }));
        self.stirred = true;
    }

    /// How far a verify is, if one is under way.
    pub fn verify_progress(&self) -> Option<VerifyProgress> {
        self.verify.as_ref().map(|at| VerifyProgress {
            compared: at.report.compared,
            size: self.config.geometry.size(),
            since: at.since,
            differing: at.report.differing,
        })
    }

    /// Ends a verify as soon as the piece under way is done.
    pub(super) fn stop_verify(&mut self) {
        if let Some(at) = &mut self.verify {
            at.stopped = true;
            self.stirred = true;
        }
    }

    /// Takes the next piece if it may be taken now.
    pub(super) fn advance_verify(&mut self, out: &mut Vec<Action<P>>) {
        let members = self.members;
        let Some(at) = self.verify.as_mut().filter(|at| at.stage == Stage::Pausing) else {
            return;
        };
        at.members &= members;
        let (from, size) = (at.piece.end(), self.config.geometry.size());
        let alone = at.members.count_ones() < 2;
        if at.stopped || alone || from >= size {
            if from < size || alone {
                at.report.outcome = VerifyOutcome::Interrupted;
            }
            self.end_verify(out);
            return;
        }
        let chunk = self.config.geometry.chunk_size();
        let end = size
            .min(from - from % chunk + chunk)
            .min(from + self.config.copy_piece);
        let piece = ByteRange::new(from, end - from);
        if !self.pace.admit(self.now, !self.ops.is_empty(), piece.len) {
            return;
        }
        at.piece = piece;
        at.stage = Stage::Locking;
        at.answers.clear();
        if self.config.faults.has(Fault::VerifyWithoutLock) {
            self.verify_hash(out);
            return;
        }
        let (lock, held) = self.lock.acquire(piece, false, Owner::Verify);
        at.lock = Some(lock);
        if held {
            self.verify_hash(out);
        }
    }

    /// Nothing is in flight in the piece any more: asks every member for its digest.
    pub(super) fn verify_hash(&mut self, out: &mut Vec<Action<P>>) {
        let members = self.members;
        let Some(at) = &mut self.verify else {
            return;
        };
        at.members &= members;
        at.stage = Stage::Hashing;
        at.waiting = at.members;
        let (asked, piece) = (at.members, at.piece);
        let purpose = Purpose::Verify { round: at.round };
        if asked == 0 {
            self.verify_next(out);
        }
        for peer in each(asked) {
            self.send(peer, Request::Hash(piece), purpose, out);
        }
    }

    pub(super) fn verify_answered(
        &mut self,
        from: PeerId,
        round: u64,
        reply: Reply<P>,
        out: &mut Vec<Action<P>>,
    ) {
        let Some(at) = self.verify.as_mut().filter(|at| at.round == round) else {
            return;
        };
        match (at.stage, reply) {
            (Stage::Hashing, Reply::Hashed(digest)) => at.answers.push((from, Some(digest))),
            (Stage::Hashing, Reply::Unreadable) => at.answers.push((from, None)),
            (Stage::Reading(source), Reply::Chunk { content, .. }) if source == from => {
                self.verify_write(content, out);
                return;
            }
            (Stage::Reading(source), Reply::Unreadable) if source == from => {
                for (peer, answer) in &mut at.answers {
                    if *peer == from {
                        *answer = None;
                    }
                }
                self.verify_judge(out);
                return;
            }
            _ => {
                self.condemn_finally(from, None, out);
                return;
            }
        }
        at.waiting &= !bit(from);
        if at.waiting == 0 {
            self.verify_judge(out);
        }
    }

    /// A member is gone: it is not waited for.
    pub(super) fn verify_without(&mut self, gone: PeerId, out: &mut Vec<Action<P>>) {
        let Some(at) = &mut self.verify else {
            return;
        };
        at.members &= !bit(gone);
        at.waiting &= !bit(gone);
        at.answers.retain(|&(peer, _)| peer != gone);
        match at.stage {
            Stage::Hashing if at.waiting == 0 => self.verify_judge(out),
            Stage::Reading(source) if source == gone => self.verify_judge(out),
            _ => {}
        }
    }

    /// Everybody has answered: is it the same, and if not, what counts?
    fn verify_judge(&mut self, out: &mut Vec<Action<P>>) {
        let Some(at) = &self.verify else {
            return;
        };
        let Some(&(_, first)) = at.answers.first() else {
            self.verify_next(out);
            return;
        };
        if first.is_some() && at.answers.iter().all(|&(_, answer)| answer == first) {
            self.verify_next(out);
            return;
        }
        let counts = self.what_counts(at);
        let name = |peer: PeerId| self.peers[peer].id;
        let differs = |answer: Option<u128>| answer.is_some() && (counts.is_none() || answer != counts);
        let differing = at.answers.iter().filter(|&&(_, answer)| differs(answer));
        let unreadable = at.answers.iter().filter(|&&(_, answer)| answer.is_none());
        let difference = Difference {
            range: at.piece,
            differing: differing.map(|&(peer, _)| name(peer)).collect(),
            unreadable: unreadable.map(|&(peer, _)| name(peer)).collect(),
            mended: false,
        };
        let holds = |peer: &PeerId| {
            at.answers
                .iter()
                .any(|&(other, answer)| other == *peer && answer == counts)
        };
        let holders = each(at.members).filter(|peer| counts.is_some() && holds(peer));
        let source = holders.max_by_key(|&peer| (self.peers[peer].is_up(), self.peers[peer].local));
        let repairs = at.repair != Repair::No && !at.stopped && self.phase == Phase::Serving;
        let (round, piece) = (at.round, at.piece);
        if let Some(at) = &mut self.verify {
            at.report.differing += 1;
            at.report.differences.push(difference);
            if let Some(source) = source.filter(|_| repairs) {
                at.stage = Stage::Reading(source);
                self.send(source, Request::Copy(piece), Purpose::Verify { round }, out);
                return;
            }
        }
        self.verify_next(out);
    }

    /// V2: what more than half hold, or all who can read; else what the named one holds.
    fn what_counts(&self, at: &Verify) -> Option<u128> {
        let readable: Vec<u128> = at.answers.iter().filter_map(|&(_, answer)| answer).collect();
        let votes = |digest: u128| readable.iter().filter(|&&other| other == digest).count();
        let elected = if self.config.faults.has(Fault::RepairByMinority) {
            readable.iter().copied().min_by_key(|&digest| votes(digest))
        } else {
            readable
                .iter()
                .copied()
                .find(|&digest| 2 * votes(digest) > readable.len())
        };
        let named = match at.repair {
            Repair::From(replica) => {
                let named = |&&(peer, _): &&(PeerId, Option<u128>)| self.peers[peer].id == replica;
                at.answers.iter().find(named).and_then(|&(_, answer)| answer)
            }
            _ => None,
        };
        elected.or(named)
    }

    /// V3: writes what counts, in the range that is locked already.
    fn verify_write(&mut self, content: Option<P>, out: &mut Vec<Action<P>>) {
        let Some(at) = &mut self.verify else {
            return;
        };
        at.stage = Stage::Writing;
        let op = match content {
            Some(data) => Op::Write {
                offset: at.piece.offset,
                data,
            },
            None => Op::Zero(at.piece),
        };
        let place = self.take_in(OpId::OWN, op);
        self.start(place, out);
    }

    /// The write has ended.
    pub(super) fn verify_written(&mut self, result: &Result<Option<P>, IoError>, out: &mut Vec<Action<P>>) {
        if let Some(at) = &mut self.verify
            && result.is_ok()
        {
            at.report.mended += 1;
            if let Some(last) = at.report.differences.last_mut() {
                last.mended = true;
            }
        }
        self.verify_next(out);
    }

    /// The piece is done.
    fn verify_next(&mut self, out: &mut Vec<Action<P>>) {
        let Some(at) = &mut self.verify else {
            return;
        };
        at.stage = Stage::Pausing;
        at.report.compared += at.piece.len;
        at.report.differences.truncate(MAX_TOLD);
        if let Some(lock) = at.lock.take() {
            self.unlock(lock, out);
        }
        self.stirred = true;
    }

    /// Tells what was found.
    pub(super) fn end_verify(&mut self, out: &mut Vec<Action<P>>) {
        if let Some(at) = self.verify.take() {
            let Verify {
                id,
                members,
                mut report,
                ..
            } = *at;
            report.members = each(members).map(|peer| self.peers[peer].id).collect();
            out.push(Action::Verified { id, report });
        }
    }
}
