//! A volume attached on this node: opened, served as a block device, closed.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use super::config::{OnEnded, VolumeConfig};
use super::counters::{Counters, Kind};
use super::drive::{Core, Pending, Turnstile, Waiting};
use super::executor::Lane;
use super::local::{LocalReplica, describe};
use super::permits::Permits;
use super::status::{ReplicaStatus, VolumeState, VolumeStatus};
use super::timer::Alarm;
use super::{CloseError, Node, OpenError, clock};
use crate::disk::{self, ReplicaFiles};
use crate::format::ReplicaIdentity;
use crate::geometry::{ByteRange, Geometry};
use crate::ids::{Epoch, Incarnation, VolumeId};
use crate::io::{BlockDevice, BlockOp, Completion, Data, IoError};
use crate::machine::primary::{EndReason, Event, Op, PrimaryConfig, Revision};
use crate::machine::record::ChangeId;
use crate::machine::replica::ReplicaConfig;
use crate::machine::{MemberState, Primary, Record, RecordReplica};

/// Threads that one volume keeps busy with syncs of its two files at most: the machine has one of each under way.
const SYNCS: usize = 2;
/// Threads that one volume keeps busy at most with requests that wait for the disk: how deep the disk's queue gets.
const WAITING: usize = 16;
/// How much longer than the machine's own deadlines the shell waits before it takes the machine for stuck.
const GRACE: Duration = Duration::from_secs(5);

/// Where the volume is in its life, as the shell has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Opening,
    Serving,
    Ended(EndReason),
}

/// The volume's shares of the node's threads. Syncs have their own: they are what everyone waits for.
pub(super) struct Lanes {
    pub(super) syncs: Lane,
    pub(super) data: Lane,
}

/// An attached volume.
pub struct Volume {
    identity: ReplicaIdentity,
    epoch: Epoch,
    geometry: Geometry,
    incarnation: Incarnation,
    io_timeout: Duration,
    on_ended: Option<OnEnded>,
    life: Mutex<Life>,
    life_changed: Condvar,
    permits: Permits,
    counters: Counters,
    pub(super) core: Mutex<Core>,
    pub(super) local: LocalReplica,
    pub(super) lanes: Lanes,
    pub(super) turnstile: Turnstile,
    pub(super) node: Arc<Node>,
    pub(super) timer_owner: u64,
    pub(super) myself: Weak<Volume>,
}

impl Volume {
    /// Opens the volume's replica and comes to serve it. Blocks until it does, in bounded time.
    pub fn open(node: &Arc<Node>, config: VolumeConfig) -> Result<Arc<Self>, OpenError> {
        let files =
            disk::open(&config.dir, &config.identity, config.caching).map_err(|source| OpenError::Disk {
                volume: config.identity.volume,
                source,
            })?;
        Self::open_on(node, config, files)
    }

    /// As [`open`](Self::open), on files that are open already.
    pub fn open_on(
        node: &Arc<Node>,
        config: VolumeConfig,
        files: ReplicaFiles,
    ) -> Result<Arc<Self>, OpenError> {
        let identity = config.identity;
        let ReplicaIdentity { volume, replica, .. } = identity;
        let superblock = files.image.superblock;
        if let Some(cause) = superblock.failed {
            return Err(OpenError::ReplicaFailed {
                volume,
                replica,
                dir: config.dir,
                reason: describe(cause).to_owned(),
            });
        }
        if !files.image.both_slots_valid {
            tracing::warn!(%volume, %replica, "one superblock slot is torn or damaged; the other one counts");
        }
        let Some(claim) = node.claim(replica) else {
            return Err(OpenError::Duplicate {
                volume,
                replica,
                dir: config.dir,
            });
        };

        let incarnation = Incarnation::from(Uuid::new_v4());
        let replica_config = ReplicaConfig {
            checkpoint_interval: config.checkpoint_interval,
            region_idle: config.region_idle,
            max_set_regions: config.max_set_regions,
            faults: config.faults,
            ..ReplicaConfig::new(node.boot, incarnation)
        };
        let geometry = superblock.geometry;
        let primary_config = PrimaryConfig {
            io_timeout: config.io_timeout,
            tick_interval: config.tick_interval,
            faults: config.faults,
            ..PrimaryConfig::new(
                identity.cluster,
                volume,
                config.node,
                Incarnation::from(Uuid::new_v4()),
                geometry,
            )
        };
        let primary_config = PrimaryConfig {
            beat: primary_config.beat.min(config.tick_interval),
            ..primary_config
        };
        // A primary of this node is gone for sure: it held the lock that is ours now. Its lease has run out, then.
        let loaded_at = if config.foreign_lease {
            clock::now()
        } else {
            clock::now() - replica_config.lease
        };
        let local = LocalReplica::new(&config.dir, files, claim, replica_config, loaded_at);
        let record = Record {
            epoch: config.epoch,
            primary: Some(config.node),
            replicas: vec![RecordReplica {
                id: replica,
                node: config.node,
                state: MemberState::Member,
            }],
            change: ChangeId {
                term: config.epoch,
                count: 0,
            },
        };
        let mut actions = Vec::new();
        let primary = Primary::attach(clock::now(), primary_config, record, Revision(0), &mut actions);
        let this = Arc::new_cyclic(|myself: &Weak<Self>| Self {
            identity,
            epoch: config.epoch,
            geometry,
            incarnation,
            io_timeout: config.io_timeout,
            on_ended: config.on_ended,
            life: Mutex::new(Life::Opening),
            life_changed: Condvar::new(),
            permits: Permits::new(config.max_operations, config.max_bytes),
            counters: Counters::default(),
            core: Mutex::new(Core::new(primary)),
            local,
            lanes: Lanes {
                syncs: node.executor.lane(SYNCS),
                data: node.executor.lane(WAITING),
            },
            node: node.clone(),
            turnstile: Turnstile::default(),
            timer_owner: node.timers.new_owner(),
            myself: myself.clone(),
        });
        this.begin(actions);
        this.wait_until_serving(primary_config.open_timeout + GRACE)?;
        Ok(this)
    }

    fn wait_until_serving(&self, patience: Duration) -> Result<(), OpenError> {
        let volume = self.identity.volume;
        match self.wait_while(Life::Opening, patience) {
            Life::Serving => Ok(()),
            Life::Opening => {
                self.local.close(Duration::ZERO);
                Err(OpenError::Timeout { volume })
            }
            Life::Ended(reason) => {
                self.local.close(GRACE);
                Err(OpenError::Ended { volume, reason })
            }
        }
    }

    /// Detaches the volume in order: a last checkpoint, a clean superblock, and the replica's files closed. Nothing may
    /// use it any more. Whatever comes out, every request from now on fails, and this returns by `deadline` or soon after.
    pub fn close(&self, deadline: Instant) -> Result<(), CloseError> {
        let volume = self.identity.volume;
        let remaining = || deadline.saturating_duration_since(Instant::now());
        self.post(Event::Release);
        let ended = self.wait_while(Life::Serving, remaining());
        // Operations that hang are what the deadline is for; those that do not are done at once.
        let closed = self.local.close(remaining().max(Duration::from_millis(100)));
        match ended {
            _ if !closed => Err(CloseError::Stuck { volume }),
            Life::Ended(EndReason::Released) => Ok(()),
            Life::Ended(reason) => Err(CloseError::Ended { volume, reason }),
            Life::Serving | Life::Opening => Err(CloseError::Timeout { volume }),
        }
    }

    /// Makes every write that was acknowledged durable. Returns in bounded time, also if the disk hangs.
    pub fn flush(&self) -> Result<(), IoError> {
        let permit = self.permits.acquire(0, self.io_timeout).ok_or(IoError::Io)?;
        let (sender, done) = crossbeam_channel::bounded(1);
        let tell = move |result: Result<Option<Data>, IoError>| {
            let _ = sender.send(result.map(drop));
        };
        let pending = Pending::new(Kind::Flush, permit, Box::new(tell));
        self.enter_without_waiting(Op::Flush, pending);
        // The machine's own deadline comes first.
        done.recv_timeout(self.io_timeout + GRACE)
            .unwrap_or(Err(IoError::Io))
    }

    /// What there is to know of it now.
    pub fn status(&self) -> VolumeStatus {
        let superblock = self.local.superblock();
        VolumeStatus {
            volume: self.identity.volume,
            state: match *self.life.lock() {
                Life::Opening => VolumeState::Opening,
                Life::Serving => VolumeState::Serving,
                Life::Ended(reason) => VolumeState::Ended(reason.to_string()),
            },
            epoch: self.epoch,
            tick: self.core.lock().tick(),
            size: self.geometry.size(),
            local: ReplicaStatus {
                replica: self.identity.replica,
                incarnation: self.incarnation,
                failure: self.local.failure(),
                durable: superblock.durable,
                settled: superblock.settled,
                whole: superblock.whole,
                set_regions: self.local.set_regions(),
                allocated: self.local.allocated(),
                pool_full: self.local.is_pool_full(),
            },
            served: self.counters.read(),
            in_flight: self.permits.operations(),
        }
    }

    /// Whether it has ended, and why.
    pub fn ended(&self) -> Option<EndReason> {
        match *self.life.lock() {
            Life::Ended(reason) => Some(reason),
            Life::Opening | Life::Serving => None,
        }
    }

    /// The volume's identity.
    pub fn id(&self) -> VolumeId {
        self.identity.volume
    }

    /// This node's replica of it.
    pub(super) fn identity(&self) -> ReplicaIdentity {
        self.identity
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn serving(&self) {
        let mut life = self.life.lock();
        if *life == Life::Opening {
            *life = Life::Serving;
        }
        drop(life);
        self.life_changed.notify_all();
    }

    pub(super) fn has_ended(&self, reason: EndReason) {
        let before = std::mem::replace(&mut *self.life.lock(), Life::Ended(reason));
        self.life_changed.notify_all();
        let asked_for = reason == EndReason::Released;
        if !asked_for {
            tracing::error!(volume = %self.identity.volume, %reason, "the volume has ended");
        }
        // Whoever opens it learns by the answer.
        if before == Life::Serving
            && !asked_for
            && let Some(on_ended) = &self.on_ended
        {
            on_ended(self.identity.volume, reason);
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

impl BlockDevice for Volume {
    fn size(&self) -> u64 {
        self.geometry.size()
    }

    fn submit(&self, op: BlockOp, done: Completion) {
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
            return;
        }
        let Some(permit) = self.permits.acquire(in_memory as usize, self.io_timeout) else {
            self.counters.failed(false);
            done(Err(IoError::Io));
            return;
        };
        self.enter(op, Pending::new(kind, permit, done));
    }
}

impl Alarm for Volume {
    fn ring(&self, what: u32) {
        self.wake(Waiting::from_alarm(what));
    }
}
