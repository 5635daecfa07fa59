//! The checkpoint (D3): data, then stamps, then the superblock with the tick that was noted before.

use std::mem;

use super::api::Action;
use super::commit::After;
use super::intent::ClearRule;
use super::{DiskJob, Replica, SyncWaiter};
use crate::ids::Tick;
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::{Reply, RequestId, SessionId};
use crate::machine::replica::api::DiskOp;
use crate::machine::time::Time;
use std::time::Duration;

/// How far the checkpoint under way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Syncing,
    Stamps,
    Superblock,
}

/// Who asked for a checkpoint.
#[derive(Clone, Copy, Debug)]
struct Asked {
    session: SessionId,
    id: RequestId,
    whole: bool,
    release: bool,
}

/// The checkpoint under way, and the next.
#[derive(Debug)]
pub(super) struct Checkpoint {
    phase: Phase,
    /// Counts checkpoints; a write belongs to the round in which it hits the disk.
    pub(super) round: u64,
    noted: Tick,
    due: Option<Time>,
    /// Who waits for the checkpoint under way, and who for the next.
    current: Vec<Asked>,
    next: Vec<Asked>,
}

impl Checkpoint {
    pub(super) const fn new() -> Self {
        Self {
            phase: Phase::Idle,
            round: 1,
            noted: Tick::ZERO,
            due: None,
            current: Vec::new(),
            next: Vec::new(),
        }
    }

    pub(super) const fn due(&self) -> Option<Time> {
        self.due
    }

    pub(super) fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// A checkpoint is wanted at this time, unless one is wanted earlier.
    pub(super) fn want(&mut self, at: Time) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

impl<P: Payload> Replica<P> {
    pub(super) fn ask_checkpoint(
        &mut self,
        session: SessionId,
        id: RequestId,
        whole: bool,
        release: bool,
        out: &mut Vec<Action<P>>,
    ) {
        self.checkpoint.next.push(Asked {
            session,
            id,
            whole,
            release,
        });
        if release && self.config.faults.has(Fault::CleanEarly) {
            self.superblock.clean = true;
            self.commits.add_superblock(After::Failed);
            self.start_commit(out);
        }
        self.begin_checkpoint(out);
    }

    /// Begins a checkpoint if none is under way: notes the settled tick, then syncs the data.
    pub(super) fn begin_checkpoint(&mut self, out: &mut Vec<Action<P>>) {
        if !self.checkpoint.is_idle() || self.superblock.failed.is_some() {
            return;
        }
        self.checkpoint.due = None;
        self.checkpoint.round += 1;
        self.checkpoint.noted = self.told;
        self.checkpoint.current = mem::take(&mut self.checkpoint.next);
        self.checkpoint.phase = Phase::Syncing;
        if self.config.faults.has(Fault::IntentClearedEarly) {
            let sectors = self.clear_intent();
            self.commits.add_intent(sectors);
            self.commits.add_superblock(After::Failed);
        }
        if self.config.faults.has(Fault::DurableWithoutSync) {
            self.checkpoint_synced(out);
            return;
        }
        self.sync_data(SyncWaiter::Checkpoint, out);
    }

    /// Takes part in a sync that begins now or later, never in one that has begun.
    pub(super) fn sync_data(&mut self, waiter: SyncWaiter, out: &mut Vec<Action<P>>) {
        if self.syncing && self.config.faults.has(Fault::FlushSharesOldSync) {
            self.sync_current.push(waiter);
            return;
        }
        self.sync_next.push(waiter);
        self.start_sync(out);
    }

    pub(super) fn start_sync(&mut self, out: &mut Vec<Action<P>>) {
        if self.syncing || self.sync_next.is_empty() {
            return;
        }
        self.syncing = true;
        self.sync_current = mem::take(&mut self.sync_next);
        let id = self.job(DiskJob::Sync);
        out.push(Action::Disk {
            id,
            op: DiskOp::SyncData,
        });
    }

    pub(super) fn sync_done(&mut self, out: &mut Vec<Action<P>>) {
        self.syncing = false;
        for waiter in mem::take(&mut self.sync_current) {
            match waiter {
                SyncWaiter::Flush { session, id } => self.respond(session, id, Reply::Done, out),
                SyncWaiter::Checkpoint => self.checkpoint_synced(out),
            }
        }
        self.start_sync(out);
    }

    fn checkpoint_synced(&mut self, out: &mut Vec<Action<P>>) {
        self.checkpoint.phase = Phase::Stamps;
        if self.config.faults.has(Fault::CheckpointStampsLast) {
            self.checkpoint_superblock();
            self.start_commit(out);
            self.commits.add_stamps(After::Failed);
            return;
        }
        self.commits.add_stamps(After::Stamps);
        self.start_commit(out);
    }

    /// Data and stamps are on disk: now the superblock may say so, and bits may go.
    pub(super) fn checkpoint_superblock(&mut self) {
        self.checkpoint.phase = Phase::Superblock;
        let noted = if self.config.faults.has(Fault::DurableNotNoted) {
            self.told
        } else {
            self.checkpoint.noted
        };
        self.superblock.durable = self.superblock.durable.max(noted);
        if self.checkpoint.current.iter().any(|asked| asked.whole) {
            self.superblock.whole = true;
        }
        if self.checkpoint.current.iter().any(|asked| asked.release) && self.writes_in_flight == 0 {
            self.superblock.clean = true;
        }
        let sectors = self.clear_intent();
        self.commits.add_intent(sectors);
        self.commits.add_superblock(After::Checkpoint);
    }

    /// A new session is being opened: what older ones asked a checkpoint for beside its durability does not hold any more
    /// (D10). Their release would otherwise call clean what the new session writes.
    pub(super) fn forget_wishes(&mut self) {
        if self.config.faults.has(Fault::LateRelease) {
            return;
        }
        let checkpoint = &mut self.checkpoint;
        for asked in checkpoint.current.iter_mut().chain(&mut checkpoint.next) {
            asked.release = false;
            asked.whole = false;
        }
    }

    fn clear_intent(&mut self) -> Vec<u32> {
        let all = self.checkpoint.current.iter().any(|asked| asked.release);
        let rule = ClearRule {
            round: self.checkpoint.round,
            idle: if all {
                Duration::ZERO
            } else {
                self.config.region_idle
            },
            keep: self.config.max_set_regions,
            under_writes: self.config.faults.has(Fault::IntentClearedUnderWrites)
                || self.config.faults.has(Fault::IntentClearedEarly),
        };
        self.regions.clear(rule, self.now)
    }

    pub(super) fn checkpoint_done(&mut self, out: &mut Vec<Action<P>>) {
        self.checkpoint.phase = Phase::Idle;
        for asked in mem::take(&mut self.checkpoint.current) {
            if asked.release {
                self.released(asked.session, asked.id, out);
            } else {
                self.respond(asked.session, asked.id, Reply::Done, out);
            }
        }
        if !self.checkpoint.next.is_empty() {
            self.begin_checkpoint(out);
        } else if self.has_something_to_checkpoint() {
            self.checkpoint.want(self.now + self.config.checkpoint_interval);
        }
    }

    /// The replica has failed: whoever waits is told so.
    pub(super) fn abandon_checkpoint(&mut self) -> Vec<(SessionId, RequestId)> {
        self.checkpoint.phase = Phase::Idle;
        self.checkpoint.due = None;
        let current = mem::take(&mut self.checkpoint.current);
        let next = mem::take(&mut self.checkpoint.next);
        let asked = current.into_iter().chain(next);
        asked.map(|asked| (asked.session, asked.id)).collect()
    }

    fn has_something_to_checkpoint(&self) -> bool {
        self.regions.set_count() > 0 || self.stamps.is_dirty() || self.told > self.superblock.durable
    }
}
