//! A volume attached on this node: opened, served as a block device, closed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use super::config::{OnEnded, OnEvent, VolumeConfig};
use super::counters::{Counters, Kind, Latencies};
use super::drive::{Core, To};
use super::error::{CloseError, OpenError};
use super::pending::Pending;
use super::permits::Permits;
use super::precheck::{check_record, look_at_sole_member, other_geometry};
use super::record::RecordKeeper;
use super::replica::HostedReplica;
use super::round::{Disk, Round};
use super::status::VolumeEvent;
use super::timer::Alarm;
use super::{Node, clock};
use crate::geometry::{ByteRange, Geometry};
use crate::ids::{Epoch, Incarnation, ReplicaId, VolumeId};
use crate::io::{BlockDevice, BlockOp, Completion, Data, IoError};
use crate::machine::primary::{EndReason, Event, Op, PrimaryConfig, Revision};
use crate::machine::{Primary, Record};

/// How much longer than the machine's own deadlines the shell waits before it takes the machine for stuck.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How often an opening is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// What a closing may take in any case: operations that do not hang are done at once.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Where the volume is in its life, as the shell has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Opening,
    Serving,
    Ended(EndReason),
}

/// An attached volume.
pub struct Volume {
    id: VolumeId,
    term: Epoch,
    pub(super) geometry: Geometry,
    io_timeout: Duration,
    isolation_timeout: Duration,
    open_stall: Duration,
    max_bytes: usize,
    keeper: Arc<dyn RecordKeeper>,
    on_ended: Option<OnEnded>,
    on_event: Option<OnEvent>,
    pub(super) life: Mutex<Life>,
    life_changed: Condvar,
    pub(super) permits: Permits,
    counters: Counters,
    pub(super) core: Mutex<Core>,
    /// Whether there are members elsewhere, which go on if the one here does not.
    pub(super) has_others: AtomicBool,
    pub(super) node: Arc<Node>,
    pub(super) timer_owner: u64,
    pub(super) myself: Weak<Volume>,
}

impl Volume {
    /// Opens the volume's replicas and comes to serve it. Blocks until it does: as long as it takes to make the members
    /// identical, but not for long without getting on with it.
    pub fn open(node: &Arc<Node>, config: VolumeConfig) -> Result<Arc<Self>, OpenError> {
        check_record(node, &config)?;
        node.enter_volume(config.volume, config.record.epoch)?;
        let sole = look_at_sole_member(node, &config)?;
        let dead = config.dead.clone();
        let this = Self::attach(node, config);
        node.note_volume(&this);
        this.begin();
        this.post(Event::Dead(dead));
        drop(sole);
        this.wait_until_serving()?;
        Ok(this)
    }

    fn attach(node: &Arc<Node>, config: VolumeConfig) -> Arc<Self> {
        let machine = PrimaryConfig {
            member_deadline: config.member_deadline,
            open_patience: config.open_patience,
            open_timeout: config.open_timeout,
            io_timeout: config.io_timeout,
            isolation_timeout: config.isolation_timeout,
            tick_interval: config.tick_interval,
            lease: node.config.replicas.lease,
            retry: config.retry,
            resumes: config.resumes,
            faults: config.faults,
            ..PrimaryConfig::new(
                node.config.cluster,
                config.volume,
                node.config.node,
                Incarnation::from(Uuid::new_v4()),
                config.geometry,
            )
        };
        let machine = PrimaryConfig {
            beat: machine.beat.min(config.tick_interval),
            ..machine
        };
        let term = config.record.epoch;
        let isolation_timeout = config.isolation_timeout;
        let mut actions = Vec::new();
        let primary = Primary::attach(
            clock::now(),
            machine,
            config.record,
            config.revision,
            &mut actions,
        );
        Arc::new_cyclic(|myself: &Weak<Self>| Self {
            id: config.volume,
            term,
            geometry: config.geometry,
            io_timeout: config.io_timeout,
            isolation_timeout,
            open_stall: config.open_stall,
            max_bytes: config.max_bytes,
            keeper: config.keeper,
            on_ended: config.on_ended,
            on_event: config.on_event,
            life: Mutex::new(Life::Opening),
            life_changed: Condvar::new(),
            permits: Permits::new(config.max_operations, config.max_bytes),
            counters: Counters::default(),
            core: Mutex::new(Core::new(primary, actions)),
            has_others: AtomicBool::new(true),
            node: node.clone(),
            timer_owner: node.timers.new_owner(),
            myself: myself.clone(),
        })
    }

    fn wait_until_serving(&self) -> Result<(), OpenError> {
        let volume = self.id;
        match self.wait_while_it_gets_on() {
            Life::Serving => Ok(()),
            Life::Opening => {
                let seen = self.troubles();
                self.give_up(EndReason::IoTimeout);
                Err(OpenError::Timeout { volume, seen })
            }
            Life::Ended(reason) => {
                let seen = self.troubles();
                self.give_up(reason);
                Err(OpenError::Ended { volume, reason, seen })
            }
        }
    }

    /// Waits until it is served or has ended, as long as the opening gets on: beyond what it has reached before, so that one
    /// which starts over and over ends as well.
    fn wait_while_it_gets_on(&self) -> Life {
        let (mut reached, mut since) = (None, Instant::now());
        loop {
            let life = self.wait_while(Life::Opening, LOOK.min(self.open_stall));
            if life != Life::Opening {
                return life;
            }
            let progress = Some(self.core.lock().primary.opening_progress());
            if progress > reached {
                (reached, since) = (progress, Instant::now());
            } else if since.elapsed() >= self.open_stall {
                return life;
            }
        }
    }

    /// What is wrong with its replicas, in words.
    fn troubles(&self) -> Vec<String> {
        let core = self.core.lock();
        let replicas = &core.primary.record().replicas;
        replicas
            .iter()
            .filter_map(|replica| core.trouble(replica.id))
            .collect()
    }

    fn give_up(&self, reason: EndReason) {
        let mut life = self.life.lock();
        if !matches!(*life, Life::Ended(_)) {
            *life = Life::Ended(reason);
        }
        drop(life);
        self.life_changed.notify_all();
        self.abandon();
    }

    /// Detaches the volume in order: a last checkpoint on every member, and clean superblocks. Nothing may use it any more.
    /// Whatever comes out, every request from now on fails, and this returns by `deadline` or soon after.
    pub fn close(&self, deadline: Instant) -> Result<(), CloseError> {
        let volume = self.id;
        let remaining = || deadline.saturating_duration_since(Instant::now());
        let here = self.replicas_here();
        if let Some(this) = self.myself.upgrade() {
            this.post(Event::Release);
        }
        let ended = self.wait_while(Life::Serving, remaining());
        let reason = match ended {
            Life::Ended(reason) => reason,
            Life::Opening | Life::Serving => EndReason::IoTimeout,
        };
        self.give_up(reason);
        let until = Instant::now() + remaining().max(AT_ONCE);
        let settled = here
            .iter()
            .all(|&replica| self.node.replicas.wait_settled(replica, until));
        match ended {
            _ if !settled => Err(CloseError::Stuck { volume }),
            Life::Ended(EndReason::Released) => Ok(()),
            Life::Ended(reason) => Err(CloseError::Ended { volume, reason }),
            Life::Serving | Life::Opening => Err(CloseError::Timeout { volume }),
        }
    }

    fn replicas_here(&self) -> Vec<ReplicaId> {
        let core = self.core.lock();
        let here = |(replica, to): &(ReplicaId, To)| matches!(to, To::Here { .. }).then_some(*replica);
        core.ways.iter().filter_map(here).collect()
    }

    /// Makes every write that was acknowledged durable. Returns in bounded time, also if a disk hangs.
    pub fn flush(&self) -> Result<(), IoError> {
        let permit = self.permits.acquire(0, self.io_timeout).ok_or(IoError::Io)?;
        let (sender, done) = crossbeam_channel::bounded(1);
        let tell = move |result: Result<Option<Data>, IoError>| {
            let _ = sender.send(result.map(drop));
        };
        let pending = Pending::new(Kind::Flush, Instant::now(), permit, Box::new(tell));
        let this = self.myself.upgrade().ok_or(IoError::Io)?;
        Round::run(self.front(Disk::MayTouch), |round| {
            this.enter(Op::Flush, pending, round);
        });
        // The machine's own deadline comes first.
        done.recv_timeout(self.io_timeout + GRACE)
            .unwrap_or(Err(IoError::Io))
    }

    /// A member is not wanted any more: it leaves the record while the volume is served, if another one is sound. Whether it
    /// has left the record tells.
    pub fn dismiss(&self, replica: ReplicaId) {
        if let Some(this) = self.myself.upgrade() {
            this.post(Event::Dismiss { replica });
        }
    }

    /// What a watch of the store has shown of the volume's record. It may be old.
    pub fn record_seen(&self, record: Record, revision: Revision) {
        if let Some(this) = self.myself.upgrade() {
            this.post(Event::Watched { record, revision });
        }
    }

    /// For how long it may be cut off from everybody before it ends (rule L5).
    pub fn isolation_timeout(&self) -> Duration {
        self.isolation_timeout
    }

    /// Whether it has ended, and why.
    pub fn ended(&self) -> Option<EndReason> {
        match *self.life.lock() {
            Life::Ended(reason) => Some(reason),
            Life::Opening | Life::Serving => None,
        }
    }

    /// How long requests took since it was opened.
    pub fn latencies(&self) -> Latencies {
        self.counters.latencies()
    }

    /// The volume's identity.
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// The epoch in which it was attached.
    pub fn term(&self) -> Epoch {
        self.term
    }

    /// How long an answer of another node is waited for before its session is given up: longer than the machine's own
    /// deadlines, which come first.
    pub(super) fn patience(&self) -> Duration {
        self.io_timeout + GRACE
    }

    pub(super) const fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    pub(super) fn keeper(&self) -> &dyn RecordKeeper {
        &*self.keeper
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether a replica is of this volume's size, in words if not.
    pub(super) fn check_geometry(&self, replica: &HostedReplica) -> Result<(), String> {
        if replica.geometry == self.geometry {
            return Ok(());
        }
        Err(other_geometry(replica, &self.geometry))
    }

    pub(super) fn serving(&self) {
        let mut life = self.life.lock();
        if *life == Life::Opening {
            *life = Life::Serving;
        }
        drop(life);
        self.life_changed.notify_all();
        let epoch = self.term;
        self.happened(&VolumeEvent::Serving { epoch });
    }

    pub(super) fn happened(&self, event: &VolumeEvent) {
        match event {
            VolumeEvent::Lost { replica, reason } => {
                tracing::warn!(volume = %self.id, %replica, reason, "a replica cannot be reached");
            }
            other => tracing::info!(volume = %self.id, event = ?other, "a volume has changed"),
        }
        if let Some(on_event) = &self.on_event {
            on_event(self.id, event);
        }
    }

    pub(super) fn has_ended(&self, reason: EndReason, round: &mut Round) {
        let before = {
            let mut life = self.life.lock();
            match *life {
                Life::Ended(_) => return,
                before => {
                    *life = Life::Ended(reason);
                    before
                }
            }
        };
        self.life_changed.notify_all();
        self.let_go(round);
        let asked_for = reason == EndReason::Released;
        if !asked_for {
            tracing::error!(volume = %self.id, %reason, "the volume has ended");
        }
        // Whoever opens it learns by the answer.
        if before == Life::Serving
            && !asked_for
            && let Some(on_ended) = &self.on_ended
        {
            on_ended(self.id, reason);
        }
    }

    /// Ends what is left of its sessions.
    fn let_go(&self, round: &mut Round) {
        let mut core = self.core.lock();
        let mut ended = Vec::new();
        for (_, to) in &mut core.ways {
            match to {
                To::There(way) => way.shut(),
                To::Here { sessions, .. } => ended.append(sessions),
            }
        }
        drop(core);
        for (session, hosted) in ended {
            hosted.end_session(session, round);
        }
    }

    /// What a front end's thread may do to the disk of the replica here.
    fn front(&self, alone: Disk) -> Disk {
        if self.has_others.load(Ordering::Relaxed) {
            Disk::MayTouchAlone
        } else {
            alone
        }
    }

    /// Waits while the volume is in this state; answers the state then.
    fn wait_while(&self, state: Life, patience: Duration) -> Life {
        let mut life = self.life.lock();
        let until = Instant::now() + patience;
        while *life == state && !self.life_changed.wait_until(&mut life, until).timed_out() {}
        *life
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl BlockDevice for Volume {
    fn size(&self) -> u64 {
        self.geometry.size()
    }

    fn submit(&self, op: BlockOp, done: Completion) {
        let mut one = Some((op, done));
        self.submit_all(&mut || one.take());
    }

    fn submit_all(&self, next: &mut dyn FnMut() -> Option<(BlockOp, Completion)>) {
        let Some(this) = self.myself.upgrade() else {
            while let Some((_, done)) = next() {
                done(Err(IoError::Io));
            }
            return;
        };
        Round::run(self.front(Disk::MayTouch), |round| {
            let mut entered = 0;
            while let Some((op, done)) = next() {
                if let Some((op, pending)) = self.admit(op, done, round) {
                    this.enter(op, pending, round);
                    entered += 1;
                }
            }
            if entered == 1 {
                round.allow(self.front(Disk::MayWait));
            }
        });
    }
}

impl Volume {
    /// Takes a permit for a request; one that is not admitted is answered.
    fn admit(&self, op: BlockOp, done: Completion, round: &mut Round) -> Option<(Op<Data>, Pending)> {
        let (kind, op, in_memory) = match op {
            BlockOp::Read(range) => (Kind::Read(range.len), Op::Read(range), range.len),
            BlockOp::Write { offset, data } => {
                let len = data.len() as u64;
                (Kind::Write(len), Op::Write { offset, data }, len)
            }
            BlockOp::Zero(range) => (Kind::Zero(range.len), Op::Zero(range), 0),
            BlockOp::Flush => (Kind::Flush, Op::Flush, 0),
        };
        let range = match (&kind, &op) {
            (_, Op::Read(range) | Op::Zero(range)) => Some(*range),
            (Kind::Write(len), Op::Write { offset, .. }) => Some(ByteRange::new(*offset, *len)),
            _ => None,
        };
        let sound = range.is_none_or(|range| self.geometry.admits(range));
        if !sound {
            self.counters.failed(false);
            done(Err(IoError::Invalid));
            return None;
        }
        let since = Instant::now();
        let permit = self.permits.try_acquire(in_memory as usize).or_else(|| {
            // What it waits for may be what this round is about to do.
            round.clear();
            self.permits.acquire(in_memory as usize, self.io_timeout)
        });
        let Some(permit) = permit else {
            self.counters.failed(false);
            done(Err(IoError::Io));
            return None;
        };
        Some((op, Pending::new(kind, since, permit, done)))
    }
}

impl Alarm for Volume {
    fn ring(&self, _: u32) {
        if let Some(this) = self.myself.upgrade() {
            this.post(Event::Timer);
        }
    }
}
