//! One attached volume: orders its operations, keeps its members in agreement, loses and regains them, and steps down
//! when it is not the volume's primary any more. The rules O, L, T, R and V of docs/replication.md; knows no store, link or kernel.
//!
//! | file | owns |
//! |---|---|
//! | `api` | events, actions, configuration |
//! | `ops`, `lock`, `ticks` | operations in flight, their order, the volume's clock |
//! | `peer`, `link` | a replica as seen from here, the connection to it |
//! | `lease` | the read lease |
//! | `store` | changes of the record |
//! | `loss` | members that go |
//! | `ending` | the primary's own end |
//! | `converge` | members made identical before serving |
//! | `copy`, `rebuild`, `pace` | replicas that come |
//! | `verify` | members compared and mended while the volume is used |

mod api;
mod converge;
mod copy;
mod ending;
mod lease;
mod link;
mod lock;
mod loss;
mod ops;
mod pace;
mod peer;
mod rebuild;
mod store;
mod ticks;
mod verify;

use std::collections::{BTreeMap, VecDeque};

use crate::ids::{Epoch, NodeId, Tick};
use crate::io::IoError;
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::{Request, RequestId};
use crate::machine::record::{MemberState, Record};
use crate::machine::slab::Slab;
use crate::machine::time::Time;

pub use api::{Action, EndReason, Event, Op, OpId, PrimaryConfig, Revision, SwapOutcome};
pub use converge::OpeningProgress;
pub use rebuild::RebuildProgress;
pub use verify::{Difference, Repair, VerifyOutcome, VerifyProgress, VerifyReport};

use converge::Converge;
use copy::CopyJob;
use lock::RangeLock;
use loss::Raising;
use ops::Pending;
use pace::Pace;
use peer::{Link, MAX_PEERS, Peer, PeerId, Peers, Purpose, Standing, bit, each};
use store::Lane;
use ticks::Ticks;
use verify::Verify;

/// How far a primary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Opening the members and making them identical.
    Opening,
    /// Serving operations.
    Serving,
    /// Detaching in order.
    Releasing,
    /// Over.
    Ended,
}

/// A replica as [`Primary::status`] shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The replica.
    pub replica: crate::ids::ReplicaId,
    /// Whether it is in sync.
    pub member: bool,
    /// Whether it can be reached.
    pub connected: bool,
    /// How far its rebuild is, if there is one.
    pub rebuild: Option<RebuildProgress>,
}

/// The machine of one attached volume.
#[derive(Debug)]
pub struct Primary<P> {
    config: PrimaryConfig,
    now: Time,
    timer: Option<Time>,
    phase: Phase,
    /// The epoch in which this primary was attached, and the one that it is in.
    term: Epoch,
    epoch: Epoch,
    lane: Lane,
    peers: Vec<Peer<P>>,
    members: Peers,
    /// Who is sent every write: the members, and replicas under rebuild.
    receivers: Peers,
    /// Replicas in the joint phase.
    joint: Peers,
    request_count: u64,
    attempts: u64,

    lock: RangeLock,
    ticks: Ticks,
    tick_raised: Time,
    settled: Tick,
    ops: Slab<Pending<P>>,
    op_count: u64,
    op_order: VecDeque<(u32, u64)>,
    start_count: u64,
    /// Operations that came before the volume was served.
    early: Vec<u32>,
    lease_waiters: Vec<u32>,

    raising: Option<Raising>,
    serve_after: Time,
    converge: Option<Converge>,
    converged: bool,
    copies: BTreeMap<u64, CopyJob>,
    copy_count: u64,
    rounds: u64,
    pace: Pace,
    verify: Option<Box<Verify>>,
    /// A replica has refused this primary for an epoch that it does not know: which, and since when.
    doubt: Option<(Epoch, Time)>,
    /// Nodes that are said to be dead.
    dead: Vec<NodeId>,
    /// Since when there is no member to be counted on.
    alone_since: Option<Time>,
    /// When another node or the store was last heard of, and when the store was last asked for that purpose.
    last_contact: Time,
    contact_sought: Time,
    /// Until then nobody is given up: this process itself did not run for a while.
    grace_until: Time,
    releasing: Peers,
    release_since: Option<Time>,
    release_told: bool,
    /// Something has changed that more than the hot path has to look at.
    stirred: bool,
}

impl<P: Payload> Primary<P> {
    /// The primary of a volume whose record names this node as such, in an epoch that no other primary has had. Opens the
    /// members, makes them identical, and then serves.
    pub fn attach(
        now: Time,
        config: PrimaryConfig,
        record: Record,
        revision: Revision,
        out: &mut Vec<Action<P>>,
    ) -> Self {
        let epoch = record.epoch;
        let mut primary = Self {
            config,
            now,
            timer: None,
            phase: Phase::Opening,
            term: epoch,
            epoch,
            lane: Lane::new(record, revision),
            peers: Vec::new(),
            members: 0,
            receivers: 0,
            joint: 0,
            request_count: 0,
            attempts: 0,
            lock: RangeLock::default(),
            ticks: Ticks::of(epoch),
            tick_raised: now,
            settled: Tick::ZERO,
            ops: Slab::new(),
            op_count: 0,
            op_order: VecDeque::new(),
            start_count: 0,
            early: Vec::new(),
            lease_waiters: Vec::new(),
            raising: None,
            serve_after: now,
            converge: None,
            converged: false,
            copies: BTreeMap::new(),
            copy_count: 0,
            rounds: 0,
            pace: Pace::new(now, config.copy_floor, config.geometry.chunk_size()),
            verify: None,
            doubt: None,
            dead: Vec::new(),
            alone_since: None,
            last_contact: now,
            contact_sought: now,
            grace_until: Time::ZERO,
            releasing: 0,
            release_since: None,
            release_told: false,
            stirred: true,
        };
        primary.add_peers();
        primary.follow_up(out);
        primary
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The epoch that it is in.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The tick that a write which came now would be stamped with.
    pub fn tick(&self) -> Tick {
        self.ticks.current()
    }

    /// The newest tick all of whose writes are done.
    pub fn settled(&self) -> Tick {
        self.settled
    }

    /// Operations that have not been completed.
    pub fn in_flight(&self) -> usize {
        self.ops.len()
    }

    /// The record as it is known here.
    pub fn record(&self) -> &Record {
        &self.lane.record
    }

    /// The replicas, as they are seen from here.
    pub fn status(&self) -> impl Iterator<Item = PeerStatus> + '_ {
        self.peers.iter().map(|peer| PeerStatus {
            replica: peer.id,
            member: peer.is_member(),
            connected: peer.is_up(),
            rebuild: peer.rebuild().map(rebuild::Rebuild::progress),
        })
    }

    /// Takes an event, and adds what is to be done to `out`.
    pub fn handle(&mut self, now: Time, event: Event<P>, out: &mut Vec<Action<P>>) {
        self.now = self.now.max(now);
        if self
            .timer
            .is_some_and(|timer| self.now.since(timer) >= self.config.member_deadline / 2)
        {
            // It was this process that was frozen; the others have to be given the time to be heard.
            self.grace_until = self.now + self.config.member_deadline / 2;
        }
        if self.phase == Phase::Ended {
            match event {
                Event::Submit { id, .. } => {
                    let result = Err(IoError::Io);
                    out.push(Action::Complete { id, result });
                }
                Event::Verify { id, repair } => self.verify(id, repair, out),
                _ => {}
            }
            return;
        }
        match event {
            Event::Submit { id, op } => self.submit(id, op, out),
            Event::Reply {
                replica,
                session,
                id,
                reply,
            } => self.replied(replica, session, id, reply, out),
            Event::Linked { replica, session } => self.linked(replica, session, out),
            Event::Unlinked { replica, session } => self.unlinked(replica, session),
            Event::Swapped { change, outcome } => {
                if outcome != SwapOutcome::Unknown {
                    self.last_contact = self.now;
                }
                self.swapped(change, outcome, out);
                self.stirred = true;
            }
            Event::Record { record, revision } => {
                let epoch = record.epoch;
                self.last_contact = self.now;
                self.record_read(record, revision, out);
                self.resolve_doubt(Some(epoch), out);
                self.stirred = true;
            }
            Event::Watched { record, revision } => {
                self.last_contact = self.now;
                self.record_seen(record, revision, out);
                self.stirred = true;
            }
            Event::RecordUnreachable => self.resolve_doubt(None, out),
            Event::Reached => self.last_contact = self.now,
            Event::Dead(nodes) => {
                self.dead = nodes;
                self.condemn_late(out);
            }
            Event::Verify { id, repair } => self.verify(id, repair, out),
            Event::StopVerify => self.stop_verify(),
            Event::Dismiss { replica } => self.dismiss(replica),
            Event::Release => self.release(out),
            Event::Timer => {
                self.timer = self.timer.filter(|&timer| timer > self.now);
                self.look_around(out);
            }
        }
        if self.stirred {
            self.follow_up(out);
        }
        if self.timer.is_none() && self.has_to_look_around() {
            let at = self.now + self.config.beat;
            self.timer = Some(at);
            out.push(Action::SetTimer(at));
        }
    }

    fn next_id(&mut self) -> RequestId {
        self.request_count += 1;
        RequestId(self.request_count)
    }

    fn send(&mut self, peer: PeerId, request: Request<P>, purpose: Purpose, out: &mut Vec<Action<P>>) {
        let id = self.next_id();
        self.peers[peer].send(self.now, id, request, purpose, out);
    }

    /// Takes up the replicas of the record that are not known yet.
    fn add_peers(&mut self) {
        for replica in self.lane.record.replicas.clone() {
            if self.peers.iter().any(|peer| peer.id == replica.id) {
                continue;
            }
            let most = self.config.max_peers.min(MAX_PEERS);
            let place = match (0..self.peers.len()).find(|&peer| self.is_forgotten(peer)) {
                _ if self.peers.len() < most => self.peers.len(),
                Some(place) => place,
                // There is room as soon as one that has gone is not waited for any more.
                None => continue,
            };
            // Members are those of the record at the start; later only this primary makes one.
            let member = replica.state == MemberState::Member && self.phase == Phase::Opening;
            let standing = if member {
                Standing::Member
            } else {
                Standing::Outside
            };
            if member {
                self.members |= bit(place);
            }
            let local = replica.node == self.config.node;
            let peer = Peer::new(replica.id, replica.node, local, standing);
            match self.peers.get_mut(place) {
                Some(at) => *at = peer,
                None => self.peers.push(peer),
            }
        }
        self.receivers |= self.members;
    }

    /// Whether nothing here refers to this peer any more, so that another replica may take its place.
    fn is_forgotten(&self, peer: PeerId) -> bool {
        let at = &self.peers[peer];
        let outside = matches!((&at.standing, at.link), (Standing::Outside, Link::Down { .. }));
        let in_record = self.lane.record.replica(at.id).is_some();
        if !outside || in_record || !at.outstanding.is_empty() || at.condemned.is_some() {
            return false;
        }
        let mut used = self.members | self.receivers | self.joint | self.releasing;
        used |= self.raising.as_ref().map_or(0, Raising::peers);
        used |= self.ops.iter().fold(0, |all, (_, pending)| all | pending.peers());
        used & bit(peer) == 0
            && self.copies.is_empty()
            && self.converge.is_none()
            && self.verify.is_none()
            && self.lane.pending.is_none()
    }

    /// Whether anything has a deadline, or waits to be told.
    fn has_to_look_around(&self) -> bool {
        let restless = |peer: &Peer<P>| {
            !peer.local || !peer.is_up() || !peer.outstanding.is_empty() || peer.told < self.settled
        };
        match self.phase {
            Phase::Ended => false,
            Phase::Opening | Phase::Releasing => true,
            Phase::Serving => {
                !self.ops.is_empty()
                    || self.ticks.is_used()
                    || self.lane.pending.is_some()
                    || self.raising.is_some()
                    || self.verify.is_some()
                    || self.peers.iter().any(restless)
            }
        }
    }

    /// What is done at every beat: deadlines, connections, ticks.
    fn look_around(&mut self, out: &mut Vec<Action<P>>) {
        if self.now.since(self.tick_raised) >= self.config.tick_interval {
            self.tick_raised = self.now;
            self.ticks.raise();
        }
        self.refresh_settled();
        if self.is_over_time(out) {
            return;
        }
        for peer in 0..self.peers.len() {
            self.look_at_link(peer, out);
        }
        self.condemn_late(out);
        self.ping_where_due(out);
        self.serve_lease_waiters(out);
        self.retry_change(out);
        self.stirred = true;
    }

    fn refresh_settled(&mut self) {
        if self.phase == Phase::Serving || self.phase == Phase::Releasing {
            let settled = if self.config.faults.has(Fault::SettledTooNew) {
                self.ticks.settled_too_new()
            } else if self.config.faults.has(Fault::SettledIgnoresOpen) {
                Tick::from_bits(self.ticks.current().to_bits() - 1)
            } else {
                self.ticks.settled()
            };
            self.settled = self.settled.max(settled);
        }
    }

    /// Connects, and gives up a connection that does not come to anything.
    fn look_at_link(&mut self, peer: PeerId, out: &mut Vec<Action<P>>) {
        let patience = self.config.member_deadline;
        let at = &self.peers[peer];
        let wanted = !matches!(at.standing, Standing::Outside)
            && !matches!(at.condemned, Some(peer::Condemned::Final(_)))
            && !self.is_released(peer);
        match at.link {
            Link::Down { retry_at } if retry_at <= self.now && wanted => self.connect(peer, out),
            Link::Connecting { since } if self.now.since(since) >= patience => self.link_lost(peer),
            // A replica may have to wait for its disk before it answers; a member of which there is no other has time.
            Link::Opening { since, .. } if self.now.since(since) >= patience * 2 => self.hang_up(peer, out),
            _ => {}
        }
    }

    /// Goes on with everything that is not operations, until nothing moves any more.
    fn follow_up(&mut self, out: &mut Vec<Action<P>>) {
        while std::mem::take(&mut self.stirred) && self.phase != Phase::Ended {
            self.remove_condemned(out);
            self.finish_raising(out);
            match self.phase {
                Phase::Opening => self.advance_opening(out),
                Phase::Serving => {
                    self.begin_rebuilds(out);
                    self.advance_rebuilds(out);
                    self.advance_verify(out);
                }
                Phase::Releasing => {
                    self.advance_verify(out);
                    self.advance_release(out);
                }
                Phase::Ended => {}
            }
        }
    }

    fn advance_opening(&mut self, out: &mut Vec<Action<P>>) {
        for peer in each(self.members) {
            if matches!(self.peers[peer].link, Link::Down { retry_at } if retry_at <= self.now)
                && self.peers[peer].condemned.is_none()
            {
                self.connect(peer, out);
            }
        }
        let mut all_sound = each(self.members).all(|peer| self.peers[peer].is_sound_member());
        if self.config.faults.has(Fault::ServeBeforeAllOpen) {
            all_sound = each(self.members).any(|peer| self.peers[peer].is_sound_member());
        }
        if !all_sound || self.doubt.is_some() || self.raising.is_some() || self.lane.pending.is_some() {
            return;
        }
        if self.converged {
            if self.now < self.serve_after && !self.config.faults.has(Fault::WaitIgnored) {
                return;
            }
            // A process that was frozen meanwhile may have been replaced: the same check as for a read.
            let faults = self.config.faults;
            let ignored = faults.has(Fault::LeaseIgnored) || faults.has(Fault::FirstLeaseIgnored);
            if self.leases_hold() || ignored {
                self.serve(out);
            } else {
                self.ask_for_leases(out);
            }
        } else if self.converge.is_none() && self.copies.is_empty() {
            self.begin_convergence(out);
        }
    }

    fn serve(&mut self, out: &mut Vec<Action<P>>) {
        self.phase = Phase::Serving;
        self.ticks = Ticks::of(self.epoch);
        self.refresh_settled();
        out.push(Action::Serving);
        for place in std::mem::take(&mut self.early) {
            self.admit(place, out);
        }
        self.stirred = true;
    }
}
