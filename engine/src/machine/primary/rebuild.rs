//! Bringing a replica back, or a new one in (R1 to R6).

use std::collections::BTreeMap;

use super::api::Action;
use super::copy::CopyFor;
use super::peer::{Link, PeerId, Purpose, Standing, bit, each};
use super::store::Change;
use super::{Phase, Primary};
use crate::geometry::Chunk;
use crate::ids::{ReplicaId, Tick};
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::{Reply, Request};
use crate::machine::record::MemberState;
use crate::machine::time::Time;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Until it has been opened.
    Opening,
    /// Until the record says that it is being rebuilt.
    Recording,
    /// It receives every write from now on; until those that it was not sent have ended.
    Barrier,
    /// Asking the source, then the target, for the chunks stamped after the target's durable tick.
    AskSource,
    AskTarget,
    /// Marking the set as suspect on the target, and making that durable.
    Marking,
    MarkFlush,
    Copying,
    /// The joint phase: flush, then the swap.
    JoinFlush,
    JoinReady,
    JoinSwap,
}

/// A rebuild under way.
#[derive(Debug)]
pub(super) struct Rebuild {
    /// Tells its answers from those of one that was given up.
    pub(super) round: u64,
    pub(super) source: PeerId,
    step: Step,
    /// The target's durable tick.
    durable: Tick,
    /// The target has acknowledged every write up to this tick, unless it is suspect.
    known: Tick,
    barrier: u64,
    stamps: BTreeMap<Chunk, (Tick, Tick)>,
    /// The set, and of each chunk whether the target may hold some of it already.
    queue: Vec<(Chunk, bool)>,
    next: usize,
    in_flight: usize,
    marked: bool,
    since: Time,
    bytes: u64,
}

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Chunks that have been copied.
    pub copied: u64,
    /// Chunks to copy; zero while that is not known.
    pub total: u64,
    /// Bytes that have been copied; holes are none.
    pub bytes: u64,
    /// Since when it has been under way. A rebuild that was given up and begun again counts anew.
    pub since: Time,
    /// Whether what the replica may lack is suspect there, durably (R3).
    pub marked: bool,
    /// Whether everything is copied, and the replica is about to join.
    pub joining: bool,
}

impl RebuildProgress {
    /// Chunks that are left.
    pub const fn left(&self) -> u64 {
        self.total.saturating_sub(self.copied)
    }
}

impl Rebuild {
    const fn new(round: u64, since: Time) -> Self {
        Self {
            round,
            source: 0,
            step: Step::Opening,
            durable: Tick::ZERO,
            known: Tick::ZERO,
            barrier: 0,
            stamps: BTreeMap::new(),
            queue: Vec::new(),
            next: 0,
            in_flight: 0,
            marked: false,
            since,
            bytes: 0,
        }
    }

    /// Whether what is not accounted for on the target is marked there, so that it may be told the settled tick.
    pub(super) const fn is_marked(&self) -> bool {
        self.marked
    }

    pub(super) fn progress(&self) -> RebuildProgress {
        let copying = matches!(self.step, Step::Copying);
        let joining = matches!(self.step, Step::JoinFlush | Step::JoinReady | Step::JoinSwap);
        RebuildProgress {
            // While the set is marked, `next` counts marks.
            copied: if copying || joining {
                (self.next - self.in_flight) as u64
            } else {
                0
            },
            total: self.queue.len() as u64,
            bytes: self.bytes,
            since: self.since,
            marked: self.marked,
            joining,
        }
    }
}

impl<P: Payload> Primary<P> {
    /// The rebuilds that are under way, and how far they are.
    pub fn progress(&self) -> impl Iterator<Item = (ReplicaId, RebuildProgress)> + '_ {
        let progress = |peer: &'_ super::peer::Peer<P>| Some((peer.id, peer.rebuild()?.progress()));
        self.peers.iter().filter_map(progress)
    }

    /// Whether the swap that makes this replica a member is under way: it may be one already.
    pub(super) fn is_joining(&self, peer: PeerId) -> bool {
        let dropped = self.config.faults.has(Fault::JoiningDropped);
        self.lane.pending_change() == Some(Change::Join(peer)) && !dropped
    }

    /// Starts the rebuild of replicas that are not members.
    pub(super) fn begin_rebuilds(&mut self, out: &mut Vec<Action<P>>) {
        if self.phase != Phase::Serving || self.raising.is_some() {
            return;
        }
        if self.peers.len() < self.lane.record.replicas.len() || self.peers.len() >= self.config.max_peers {
            // A place may have become free.
            self.add_peers();
        }
        for peer in 0..self.peers.len() {
            let at = &self.peers[peer];
            let due = matches!(at.link, Link::Down { retry_at } if retry_at <= self.now);
            let known = self.lane.record.replica(at.id).is_some();
            if !matches!(at.standing, Standing::Outside) || !due || !known || !at.outstanding.is_empty() {
                continue;
            }
            self.rounds += 1;
            let at = &mut self.peers[peer];
            at.standing = Standing::Rebuild(Box::new(Rebuild::new(self.rounds, self.now)));
            at.incarnation = None;
            at.opened = None;
            at.down_since = None;
            at.condemned = None;
            self.connect(peer, out);
        }
    }

    /// Gives a rebuild up; it starts again later, from the target's durable tick.
    pub(super) fn drop_rebuild(&mut self, peer: PeerId, out: &mut Vec<Action<P>>) {
        if self.peers[peer].is_member() || self.is_joining(peer) {
            return;
        }
        self.hang_up(peer, out);
        self.peers[peer].standing = Standing::Outside;
        self.peers[peer].incarnation = None;
        self.peers[peer].condemned = None;
        self.receivers &= !bit(peer);
        self.joint &= !bit(peer);
        self.let_go(peer, out);
        self.serve_lease_waiters(out);
    }

    /// The target has been opened, for the first time or again.
    pub(super) fn rebuild_opened(&mut self, peer: PeerId, out: &mut Vec<Action<P>>) {
        let opened = self.peers[peer].opened;
        let (Some(rebuild), Some(opened)) = (self.peers[peer].rebuild_mut(), opened) else {
            return;
        };
        if rebuild.step != Step::Opening {
            return;
        }
        rebuild.durable = opened.durable;
        rebuild.known = opened.settled;
        rebuild.step = Step::Recording;
        let id = self.peers[peer].id;
        if self
            .lane
            .record
            .replica(id)
            .is_some_and(|replica| replica.state == MemberState::Rebuilding)
        {
            self.rebuild_recorded(peer, out);
        }
    }

    /// R1: the record says `rebuilding`: from now on the target receives every write.
    pub(super) fn rebuild_recorded(&mut self, peer: PeerId, _out: &mut Vec<Action<P>>) {
        let started = self.start_count;
        let Some(rebuild) = self.peers[peer]
            .rebuild_mut()
            .filter(|at| at.step == Step::Recording)
        else {
            return;
        };
        rebuild.step = Step::Barrier;
        rebuild.barrier = started;
        if !self.config.faults.has(Fault::RebuildMissesWrites) {
            self.receivers |= bit(peer);
        }
        self.stirred = true;
    }

    /// Takes the steps that wait for something else than an answer of a replica.
    pub(super) fn advance_rebuilds(&mut self, out: &mut Vec<Action<P>>) {
        for peer in 0..self.peers.len() {
            let Some((step, barrier)) = self.peers[peer].rebuild().map(|at| (at.step, at.barrier)) else {
                continue;
            };
            let lane_is_free = self.lane.pending.is_none() && self.condemned_members() == 0;
            match step {
                Step::Recording if lane_is_free => self.change(Change::BeginRebuild(peer), out),
                Step::Barrier if self.is_past(barrier) => self.ask_source(peer, out),
                Step::Copying => self.rebuild_more(peer, out),
                Step::JoinReady if lane_is_free && self.raising.is_none() => {
                    if let Some(rebuild) = self.peers[peer].rebuild_mut() {
                        rebuild.step = Step::JoinSwap;
                    }
                    if self.config.faults.has(Fault::JoinUnrecorded) {
                        self.joined(peer, out);
                        continue;
                    }
                    self.change(Change::Join(peer), out);
                }
                _ => {}
            }
        }
    }

    /// R1: whether every write that was started up to then has ended.
    fn is_past(&self, barrier: u64) -> bool {
        if self.config.faults.has(Fault::RebuildWithoutBarrier) {
            return true;
        }
        let before = |started: Option<u64>| started.is_some_and(|started| started <= barrier);
        !self
            .ops
            .iter()
            .any(|(_, pending)| pending.tick.is_some() && before(pending.started))
    }

    fn ask_source(&mut self, target: PeerId, out: &mut Vec<Action<P>>) {
        let sound = each(self.members).filter(|&peer| self.peers[peer].is_sound_member());
        let mut source = sound.max_by_key(|&peer| self.peers[peer].local);
        if self.config.faults.has(Fault::RebuildFromAnyone) {
            let up = |&peer: &PeerId| peer != target && self.peers[peer].is_up();
            source = (0..self.peers.len())
                .filter(up)
                .min_by_key(|&peer| self.peers[peer].is_member());
        }
        let Some(source) = source else {
            return;
        };
        if let Some(rebuild) = self.peers[target].rebuild_mut() {
            rebuild.source = source;
            rebuild.step = Step::AskSource;
        }
        self.rebuild_ask(target, Chunk(0), out);
    }

    fn rebuild_ask(&mut self, target: PeerId, from: Chunk, out: &mut Vec<Action<P>>) {
        let Some(rebuild) = self.peers[target].rebuild() else {
            return;
        };
        let of = if rebuild.step == Step::AskSource {
            rebuild.source
        } else {
            target
        };
        let request = Request::Changed {
            after: rebuild.durable,
            from,
            limit: self.config.page,
        };
        let purpose = Purpose::Rebuild {
            target,
            round: rebuild.round,
        };
        self.send(of, request, purpose, out);
    }

    pub(super) fn rebuild_answered(
        &mut self,
        target: PeerId,
        round: u64,
        reply: Reply<P>,
        out: &mut Vec<Action<P>>,
    ) {
        let forget_target = self.config.faults.has(Fault::TargetsStampsForgotten);
        let first_only = self.config.faults.has(Fault::FirstPageOnly);
        let Some(rebuild) = self.peers[target].rebuild_mut().filter(|at| at.round == round) else {
            return;
        };
        match (rebuild.step, reply) {
            (Step::AskSource, Reply::Changed { chunks, next }) => {
                let stamps = chunks
                    .into_iter()
                    .map(|(chunk, stamp)| (chunk, (stamp, Tick::ZERO)));
                rebuild.stamps.extend(stamps);
                let next = next.filter(|_| !first_only);
                if next.is_none() {
                    rebuild.step = Step::AskTarget;
                }
                if next.is_none() && forget_target {
                    self.choose_set(target, out);
                } else {
                    self.rebuild_ask(target, next.unwrap_or(Chunk(0)), out);
                }
            }
            (Step::AskTarget, Reply::Changed { chunks, next }) => {
                for (chunk, stamp) in chunks {
                    rebuild.stamps.entry(chunk).or_default().1 = stamp;
                }
                match next {
                    Some(next) => self.rebuild_ask(target, next, out),
                    None => self.choose_set(target, out),
                }
            }
            (Step::Marking, Reply::Done) => self.mark_more(target, out),
            (Step::MarkFlush, Reply::Done) => {
                rebuild.step = Step::Copying;
                rebuild.marked = true;
                self.stirred = true;
            }
            (Step::JoinFlush, Reply::Done) => {
                rebuild.step = Step::JoinReady;
                self.stirred = true;
            }
            _ => self.drop_rebuild(target, out),
        }
    }

    /// R2, the set to copy: every chunk that either side stamped late, but for those that are known to have been copied
    /// before: with equal stamps, not suspect, of a tick of which the target has acknowledged every write.
    fn choose_set(&mut self, target: PeerId, out: &mut Vec<Action<P>>) {
        let skip_equal = self.config.faults.has(Fault::SkipEqualStamps);
        let forget_suspects = self.config.faults.has(Fault::RebuildForgetsSuspects);
        let Some(rebuild) = self.peers[target].rebuild_mut() else {
            return;
        };
        let known = rebuild.known;
        let was_copied = |source: Tick, target: Tick| {
            source == target && (target <= known || (skip_equal && target != Tick::SUSPECT))
        };
        let durable = rebuild.durable;
        let is_forgotten =
            |source: Tick, target: Tick| forget_suspects && target == Tick::SUSPECT && source <= durable;
        rebuild.queue = std::mem::take(&mut rebuild.stamps)
            .into_iter()
            .filter(|&(_, (source, target))| !was_copied(source, target) && !is_forgotten(source, target))
            // What a new replica has never been sent is not compared: it is a hole there.
            .map(|(chunk, (_, target))| (chunk, durable > Tick::ZERO || target > Tick::ZERO))
            .collect();
        rebuild.next = if skip_equal { rebuild.queue.len() } else { 0 };
        rebuild.step = Step::Marking;
        self.mark_more(target, out);
    }

    /// R3: equal stamps alone do not show that a chunk was copied, as one tick covers many writes: so all of the set is
    /// suspect on the target until its copy has arrived.
    fn mark_more(&mut self, target: PeerId, out: &mut Vec<Action<P>>) {
        let Some(rebuild) = self.peers[target].rebuild_mut() else {
            return;
        };
        let rest = rebuild.queue.get(rebuild.next..).unwrap_or_default();
        let batch: Vec<_> = rest
            .iter()
            .take(self.config.page as usize)
            .map(|&(chunk, _)| (chunk, Tick::SUSPECT))
            .collect();
        let purpose = Purpose::Rebuild {
            target,
            round: rebuild.round,
        };
        let request = if batch.is_empty() {
            rebuild.step = Step::MarkFlush;
            rebuild.next = 0;
            if self.config.faults.has(Fault::MarksNotFlushed) {
                Request::Ping { settled: Tick::ZERO }
            } else {
                Request::Checkpoint { whole: false }
            }
        } else {
            rebuild.next += batch.len();
            Request::Stamp(batch)
        };
        self.send(target, request, purpose, out);
    }

    /// Copies on, with less at a time while the volume is in use, but never nothing.
    fn rebuild_more(&mut self, target: PeerId, out: &mut Vec<Action<P>>) {
        let (now, busy) = (self.now, !self.ops.is_empty());
        let window = self.pace.window(now, busy, self.config.max_copies);
        let chunk_size = self.config.geometry.chunk_size();
        let starves = self.config.faults.has(Fault::RebuildStarves);
        while let Some(rebuild) = self.peers[target]
            .rebuild_mut()
            .filter(|at| at.step == Step::Copying)
        {
            if rebuild.in_flight >= window {
                return;
            }
            let purpose = Purpose::Rebuild {
                target,
                round: rebuild.round,
            };
            let Some(&next) = rebuild.queue.get(rebuild.next) else {
                if rebuild.in_flight == 0 {
                    rebuild.step = Step::JoinFlush;
                    // From here on the joint rule holds: reads, too, depend on this replica.
                    self.joint |= bit(target);
                    if self.config.faults.has(Fault::JoinWithoutFlush) {
                        self.rebuild_answered_flush(target);
                    } else {
                        self.send(target, Request::Checkpoint { whole: true }, purpose, out);
                    }
                }
                return;
            };
            if (starves && busy) || !self.pace.admit(now, busy, chunk_size) {
                return;
            }
            rebuild.next += 1;
            rebuild.in_flight += 1;
            let part_of = CopyFor::Rebuild {
                target,
                round: rebuild.round,
            };
            let between = (rebuild.source, bit(target));
            self.copy_chunk(part_of, between, next, None, out);
        }
    }

    /// Deliberate fault: as if it had flushed.
    fn rebuild_answered_flush(&mut self, target: PeerId) {
        if let Some(rebuild) = self.peers[target].rebuild_mut() {
            rebuild.step = Step::JoinReady;
        }
        self.stirred = true;
    }

    /// So many bytes have been read for a rebuild.
    pub(super) fn rebuild_read(&mut self, target: PeerId, bytes: u64) {
        if let Some(rebuild) = self.peers[target].rebuild_mut() {
            rebuild.bytes += bytes;
        }
    }

    pub(super) fn rebuild_copied(&mut self, target: PeerId, round: u64, out: &mut Vec<Action<P>>) {
        if let Some(rebuild) = self.peers[target].rebuild_mut().filter(|at| at.round == round) {
            rebuild.in_flight -= 1;
            self.rebuild_more(target, out);
        }
    }

    /// R5: the swap is done: the replica is a member, and its durable tick may move.
    pub(super) fn joined(&mut self, peer: PeerId, out: &mut Vec<Action<P>>) {
        self.peers[peer].standing = Standing::Member;
        self.members |= bit(peer);
        self.receivers |= bit(peer);
        self.joint &= !bit(peer);
        self.raise_epoch(0, out);
        // At once: until its durable tick has moved, a takeover would copy everything that it holds.
        let settled = self.settled;
        self.peers[peer].told = settled;
        self.send(peer, Request::Ping { settled }, Purpose::Nothing, out);
        self.send(peer, Request::Checkpoint { whole: false }, Purpose::Nothing, out);
    }
}
