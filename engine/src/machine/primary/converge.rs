//! Making the members identical before anything is served (T4).

use super::Primary;
use super::api::Action;
use super::copy::CopyFor;
use super::peer::{PeerId, Peers, Purpose, bit, each};
use crate::geometry::Chunk;
use crate::ids::Tick;
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::{Reply, Request};

#[derive(Debug)]
enum Stage {
    /// Asking these peers, the last one first, for the chunks that they stamped late.
    Asking(Vec<PeerId>),
    Copying,
    /// Giving the set its new stamp on the source.
    Stamping,
    /// Making it all durable everywhere.
    Checkpointing,
}

/// A convergence under way.
#[derive(Debug)]
pub(super) struct Converge {
    /// Tells its answers from those of one that was given up.
    pub(super) round: u64,
    stage: Stage,
    source: PeerId,
    targets: Peers,
    /// Smallest durable tick.
    after: Tick,
    /// The epoch's first tick.
    stamp: Tick,
    set: Vec<Chunk>,
    next: usize,
    in_flight: usize,
    waiting: Peers,
}

/// How far the opening is. It grows from step to step, and what was there before does not count twice: an opening whose
/// progress stays below what it has reached once does not get on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpeningProgress {
    /// Replicas that were given up.
    given_up: u32,
    /// Which step it is at.
    step: u8,
    /// Members or chunks that are done with in this step.
    done: u64,
}

impl<P: Payload> Primary<P> {
    /// How far the opening is.
    pub fn opening_progress(&self) -> OpeningProgress {
        let sound = each(self.members).filter(|&peer| self.peers[peer].is_sound_member());
        let (step, done) = match &self.converge {
            None if self.converged => (5, 0),
            None => (0, sound.count() as u64),
            Some(at) => match at.stage {
                Stage::Asking(_) => (1, at.set.len() as u64),
                Stage::Copying => (2, at.next.saturating_sub(at.in_flight) as u64),
                Stage::Stamping => (3, at.next as u64),
                Stage::Checkpointing => (4, u64::from((self.members & !at.waiting).count_ones())),
            },
        };
        OpeningProgress {
            given_up: Peers::BITS - self.members.count_ones(),
            step,
            done,
        }
    }

    /// Starts; every member has been opened in this epoch.
    pub(super) fn begin_convergence(&mut self, out: &mut Vec<Action<P>>) {
        let opened = |peer: PeerId| self.peers[peer].opened;
        let members: Vec<PeerId> = each(self.members).collect();
        let durables = members
            .iter()
            .filter_map(|&peer| opened(peer))
            .map(|opened| opened.durable);
        let (Some(least), Some(greatest)) = (durables.clone().min(), durables.max()) else {
            return;
        };
        let in_order = |opened: crate::machine::protocol::Opened| opened.clean && opened.whole;
        let all_clean = members.iter().all(|&peer| opened(peer).is_some_and(in_order));
        let faults = self.config.faults;
        let left_out = faults.has(Fault::NoConvergence)
            || faults.has(Fault::ResumeWithoutConvergence) && self.config.resumes.is_some();
        if (all_clean && least == greatest) || left_out {
            self.converged = true;
            self.stirred = true;
            return;
        }
        // From now on this opening writes to them: if it has to begin again, what they were closed like says nothing any more.
        for &peer in &members {
            if let Some(opened) = &mut self.peers[peer].opened {
                opened.clean = false;
            }
        }
        let opened = |peer: PeerId| self.peers[peer].opened;
        let any = self.config.faults.has(Fault::AnySource);
        let rank = |peer: &PeerId| {
            let opened = opened(*peer);
            let whole = any || opened.is_some_and(|opened| opened.whole);
            let durable = opened.map_or(Tick::ZERO, |opened| if any { Tick::ZERO } else { opened.durable });
            (whole, durable, self.peers[*peer].local)
        };
        let Some(source) = members.iter().copied().max_by_key(rank) else {
            return;
        };
        self.rounds += 1;
        let targets = self.members & !bit(source);
        let ask = if self.config.faults.has(Fault::OthersStampsForgotten) {
            vec![source]
        } else {
            members
        };
        self.converge = Some(Converge {
            round: self.rounds,
            stage: Stage::Asking(ask),
            source,
            targets,
            after: if self.config.faults.has(Fault::GreatestDurable) {
                greatest
            } else {
                least
            },
            stamp: Tick::first_of(self.epoch),
            set: Vec::new(),
            next: 0,
            in_flight: 0,
            waiting: 0,
        });
        if targets == 0 {
            self.restamp_sole(out);
        } else {
            self.ask_changed(Chunk(0), out);
        }
    }

    pub(super) fn abort_convergence(&mut self) {
        self.converge = None;
        self.converged = false;
        self.stirred = true;
    }

    /// With one member there is nothing to copy; only what it cannot account for gets a stamp.
    fn restamp_sole(&mut self, out: &mut Vec<Action<P>>) {
        let Some(at) = &mut self.converge else {
            return;
        };
        at.stage = Stage::Stamping;
        at.next = at.set.len();
        let (source, round) = (at.source, at.round);
        let (after, tick) = (at.after, at.stamp);
        let purpose = Purpose::Converge { round };
        if self.config.faults.has(Fault::SoleNotRestamped) {
            self.stamp_more(out);
            return;
        }
        self.send(source, Request::Restamp { after, tick }, purpose, out);
    }

    fn ask_changed(&mut self, from: Chunk, out: &mut Vec<Action<P>>) {
        let Some(at) = &mut self.converge else {
            return;
        };
        let Stage::Asking(peers) = &at.stage else {
            return;
        };
        let (after, limit) = (at.after, self.config.page);
        let purpose = Purpose::Converge { round: at.round };
        if let Some(&peer) = peers.last() {
            self.send(peer, Request::Changed { after, from, limit }, purpose, out);
        } else {
            at.set.sort_unstable();
            at.set.dedup();
            at.stage = Stage::Copying;
            self.copy_more(out);
        }
    }

    pub(super) fn converge_answered(
        &mut self,
        from: PeerId,
        round: u64,
        reply: Reply<P>,
        out: &mut Vec<Action<P>>,
    ) {
        let Some(at) = self.converge.as_mut().filter(|at| at.round == round) else {
            return;
        };
        match (&mut at.stage, reply) {
            (Stage::Asking(peers), Reply::Changed { chunks, next }) => {
                at.set.extend(chunks.into_iter().map(|(chunk, _)| chunk));
                let next = next.filter(|_| !self.config.faults.has(Fault::FirstPageOnly));
                if next.is_none() {
                    peers.pop();
                }
                self.ask_changed(next.unwrap_or(Chunk(0)), out);
            }
            (Stage::Stamping, Reply::Done) => self.stamp_more(out),
            (Stage::Checkpointing, Reply::Done) => {
                at.waiting &= !bit(from);
                if at.waiting == 0 {
                    self.converge = None;
                    self.converged = true;
                    self.stirred = true;
                }
            }
            _ => self.condemn_finally(from, None, out),
        }
    }

    fn copy_more(&mut self, out: &mut Vec<Action<P>>) {
        while let Some(at) = &mut self.converge {
            if at.in_flight >= self.config.max_copies {
                return;
            }
            let Some(&chunk) = at.set.get(at.next) else {
                if at.in_flight == 0 {
                    at.stage = Stage::Stamping;
                    at.next = 0;
                    self.stamp_more(out);
                }
                return;
            };
            at.next += 1;
            at.in_flight += 1;
            let part_of = CopyFor::Converge { round: at.round };
            let between = (at.source, at.targets);
            let stamp = (!self.config.faults.has(Fault::ConvergedNotStamped)).then_some(at.stamp);
            self.copy_chunk(part_of, between, (chunk, true), stamp, out);
        }
    }

    pub(super) fn converge_copied(&mut self, round: u64, out: &mut Vec<Action<P>>) {
        if let Some(at) = self.converge.as_mut().filter(|at| at.round == round) {
            at.in_flight -= 1;
            self.copy_more(out);
        }
    }

    /// The source's chunks get the new stamp too: a replica that is stale by now must find them changed.
    fn stamp_more(&mut self, out: &mut Vec<Action<P>>) {
        let Some(at) = &mut self.converge else {
            return;
        };
        let rest = match at.set.get(at.next..) {
            Some(rest) if !self.config.faults.has(Fault::ConvergedNotStamped) => rest,
            _ => &[],
        };
        let batch: Vec<_> = rest
            .iter()
            .take(self.config.page as usize)
            .map(|&chunk| (chunk, at.stamp))
            .collect();
        let purpose = Purpose::Converge { round: at.round };
        if batch.is_empty() && self.config.faults.has(Fault::ConvergedNotFlushed) {
            self.converge = None;
            self.converged = true;
            self.stirred = true;
            return;
        }
        if batch.is_empty() {
            at.stage = Stage::Checkpointing;
            at.waiting = at.targets | bit(at.source);
            for peer in each(at.waiting) {
                self.send(peer, Request::Checkpoint { whole: true }, purpose, out);
            }
            return;
        }
        at.next += batch.len();
        let source = at.source;
        self.send(source, Request::Stamp(batch), purpose, out);
    }
}
