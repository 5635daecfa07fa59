//! Reads, writes, zeroes and flushes of one replica, and what rebuild and convergence ask of its stamps.

use super::api::{Action, DiskError, DiskOp};
use super::commit::After;
use super::{DiskJob, Replica, SyncWaiter};
use crate::format::FailCause;
use crate::geometry::{ByteRange, Chunk};
use crate::ids::Tick;
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::{Refusal, Reply, RequestId, SessionId, StampRule, digest_count};

/// Most entries in one answer to `Changed`, whatever is asked for.
const MAX_CHANGED: usize = 8192;

/// What a write puts into its range.
#[derive(Clone, Debug)]
pub(super) enum Content<P> {
    Data { offset: u64, data: P },
    Zero(ByteRange),
}

impl<P: Payload> Content<P> {
    fn range(&self) -> ByteRange {
        match self {
            Self::Data { offset, data } => ByteRange::new(*offset, data.size()),
            Self::Zero(range) => *range,
        }
    }
}

/// A write or a zero that is not answered yet.
#[derive(Debug)]
pub(super) struct WriteJob<P> {
    session: SessionId,
    id: RequestId,
    range: ByteRange,
    tick: Tick,
    stamp: StampRule,
    /// Until the disk has been given it.
    content: Option<Content<P>>,
    /// Its session has been replaced: the disk is not given it any more.
    dropped: bool,
}

impl<P: Payload> Replica<P> {
    pub(super) fn read(
        &mut self,
        session: SessionId,
        id: RequestId,
        range: ByteRange,
        out: &mut Vec<Action<P>>,
    ) {
        if !self.geometry.admits(range) {
            self.respond(session, id, Reply::Refused(Refusal::Malformed), out);
            return;
        }
        let id = self.job(DiskJob::Read { session, id });
        let op = DiskOp::Read(range);
        out.push(Action::Disk { id, op });
    }

    pub(super) fn copy(
        &mut self,
        session: SessionId,
        id: RequestId,
        range: ByteRange,
        out: &mut Vec<Action<P>>,
    ) {
        if !self.geometry.admits(range) {
            self.respond(session, id, Reply::Refused(Refusal::Malformed), out);
            return;
        }
        let stamp = self.stamps.get(Chunk(self.geometry.chunks_of(range).start));
        let id = self.job(DiskJob::Copy { session, id, stamp });
        let op = DiskOp::ReadOrHole(range);
        out.push(Action::Disk { id, op });
    }

    pub(super) fn hash(
        &mut self,
        session: SessionId,
        id: RequestId,
        range: ByteRange,
        out: &mut Vec<Action<P>>,
    ) {
        if !self.geometry.admits(range) {
            self.respond(session, id, Reply::Refused(Refusal::Malformed), out);
            return;
        }
        let id = self.job(DiskJob::Hash { session, id });
        let op = DiskOp::ReadOrHole(range);
        out.push(Action::Disk { id, op });
    }

    /// Digests of the blocks of a range, and the stamp of the chunk in which it lies.
    pub(super) fn digests(
        &mut self,
        session: SessionId,
        id: RequestId,
        range: ByteRange,
        block: u32,
        out: &mut Vec<Action<P>>,
    ) {
        let count = digest_count(range, block).filter(|_| self.geometry.admits(range));
        let Some(count) = count else {
            self.respond(session, id, Reply::Refused(Refusal::Malformed), out);
            return;
        };
        let stamp = self.stamps.get(Chunk(self.geometry.chunks_of(range).start));
        let id = self.job(DiskJob::Digests {
            session,
            id,
            block,
            count,
            stamp,
        });
        let op = DiskOp::ReadOrHole(range);
        out.push(Action::Disk { id, op });
    }

    pub(super) fn write(
        &mut self,
        session: SessionId,
        id: RequestId,
        content: Content<P>,
        tick: Tick,
        stamp: StampRule,
        out: &mut Vec<Action<P>>,
    ) {
        let range = content.range();
        if !self.geometry.admits(range) {
            self.respond(session, id, Reply::Refused(Refusal::Malformed), out);
            return;
        }
        let mut sectors = Vec::new();
        let next = if self.config.faults.has(Fault::WrongCommitAwaited) {
            self.commits.started
        } else {
            self.commits.next_number()
        };
        let wait_for = self
            .regions
            .enter(self.geometry.regions_of(range), next, &mut sectors);
        let write = self.writes.insert(WriteJob {
            session,
            id,
            range,
            tick,
            stamp,
            content: Some(content),
            dropped: false,
        });
        if !sectors.is_empty() {
            self.commits.add_intent(sectors);
        }
        if wait_for <= self.commits.done {
            self.issue_write(write, out);
            return;
        }
        // D1: the bit first. Whoever comes meanwhile shares the sync.
        if self.config.faults.has(Fault::IntentNotSynced) {
            self.commits.wait_for(wait_for, After::Failed);
            self.issue_write(write, out);
        } else {
            self.commits.wait_for(wait_for, After::Write(write));
        }
        if self.regions.set_count() > 2 * self.config.max_set_regions {
            self.checkpoint.want(self.now);
        }
        self.start_commit(out);
    }

    /// Gives a write to the disk; its regions' bits are durable.
    pub(super) fn issue_write(&mut self, write: u32, out: &mut Vec<Action<P>>) {
        let Some(job) = self.writes.get_mut(write) else {
            return;
        };
        let Some(content) = job.content.take() else {
            return;
        };
        let (range, tick, rule) = (job.range, job.tick, job.stamp);
        if job.dropped {
            self.writes.remove(write);
            self.regions.leave(self.geometry.regions_of(range), None);
            return;
        }
        let is_zero = matches!(content, Content::Zero(_));
        for chunk in self.geometry.chunks_of(range) {
            match rule {
                StampRule::Raise if is_zero && self.config.faults.has(Fault::ZeroNotStamped) => {}
                StampRule::Set if self.config.faults.has(Fault::CopyStampEarly) => {
                    self.stamps.set(Chunk(chunk), tick);
                }
                StampRule::Raise if self.config.faults.has(Fault::StampLowered) => {
                    self.stamps.set(Chunk(chunk), tick);
                }
                StampRule::Raise => self.stamps.raise(Chunk(chunk), tick),
                // A copy that fails must look neither like one that was made nor like one that was never begun: its stamp comes
                // when it has ended.
                StampRule::Set => self.stamps.set(Chunk(chunk), Tick::SUSPECT),
            }
        }
        let regions = self.geometry.regions_of(range);
        self.regions.hit(regions, self.checkpoint.round, self.now);
        self.writes_in_flight += 1;
        self.checkpoint.want(self.now + self.config.checkpoint_interval);
        let op = match content {
            Content::Data { offset, data } => DiskOp::Write { offset, data },
            Content::Zero(range) => DiskOp::Zero(range),
        };
        let id = self.job(DiskJob::Write(write));
        out.push(Action::Disk { id, op });
    }

    pub(super) fn write_done(&mut self, write: u32, result: Result<(), DiskError>, out: &mut Vec<Action<P>>) {
        let Some(job) = self.writes.remove(write) else {
            return;
        };
        self.writes_in_flight -= 1;
        let regions = self.geometry.regions_of(job.range);
        self.regions.leave(regions, Some(self.checkpoint.round));
        if result.is_ok() && job.stamp == StampRule::Set {
            for chunk in self.geometry.chunks_of(job.range) {
                self.stamps.set(Chunk(chunk), job.tick);
            }
        }
        let reply = match (result, self.superblock.failed) {
            (_, Some(cause)) => Reply::Failed(cause),
            (Ok(()), None) => Reply::Done,
            (Err(DiskError::NoSpace), None) => Reply::NoSpace,
            (Err(DiskError::Io), None) => {
                self.fail(FailCause::Write, out);
                Reply::Failed(FailCause::Write)
            }
        };
        self.respond(job.session, job.id, reply, out);
        self.advance_opening(out);
    }

    pub(super) fn flush(&mut self, session: SessionId, id: RequestId, out: &mut Vec<Action<P>>) {
        if self.config.faults.has(Fault::FlushNotSynced) {
            self.respond(session, id, Reply::Done, out);
            return;
        }
        self.sync_data(SyncWaiter::Flush { session, id }, out);
    }

    /// Writes that still wait for their intent are not given to the disk any more: their session is over.
    pub(super) fn drop_waiting_writes(&mut self) {
        let faults = self.config.faults;
        if faults.has(Fault::SessionNotDrained) || faults.has(Fault::WaitingWritesKept) {
            return;
        }
        for (_, job) in self.writes.iter_mut() {
            job.dropped = true;
        }
    }

    /// The replica has failed: writes that the disk was not given are answered now, the others when they come back.
    pub(super) fn abandon_writes(&mut self) -> Vec<(SessionId, RequestId)> {
        let waiting: Vec<u32> = self
            .writes
            .iter()
            .filter(|(_, job)| job.content.is_some())
            .map(|(write, _)| write)
            .collect();
        let removed = waiting.into_iter().filter_map(|write| self.writes.remove(write));
        removed.map(|job| (job.session, job.id)).collect()
    }

    pub(super) fn changed(&self, after: Tick, from: Chunk, limit: u32) -> Reply<P> {
        let limit = (limit as usize).clamp(1, MAX_CHANGED);
        let mut chunks = Vec::new();
        for chunk in (from.0..self.stamps.chunks()).map(Chunk) {
            let stamp = self.stamps.get(chunk);
            if stamp > after {
                if chunks.len() == limit {
                    let next = Some(chunk);
                    return Reply::Changed { chunks, next };
                }
                chunks.push((chunk, stamp));
            }
        }
        Reply::Changed { chunks, next: None }
    }

    pub(super) fn restamp(&mut self, after: Tick, tick: Tick) {
        for chunk in (0..self.stamps.chunks()).map(Chunk) {
            if self.stamps.get(chunk) > after {
                self.stamps.set(chunk, tick);
            }
        }
    }
}
