//! One copy of a volume: decides what is written to its two files and when, whom it serves, and when it has failed.
//! Rules D1 to D7, epochs, sessions and the read lease. Touches no file itself.
//!
//! | file | owns |
//! |---|---|
//! | `api` | events and actions |
//! | `io` | reads, writes, zeroes, flushes; changed chunks and stamps |
//! | `intent` | which regions' bits are set, and may be cleared |
//! | `stamps` | the stamps, and which differ from the disk |
//! | `commit` | one metadata commit at a time, shared |
//! | `checkpoint` | D3 |
//! | `session` | D5, D7, the lease |

mod api;
mod checkpoint;
mod commit;
mod intent;
mod io;
mod session;
mod stamps;
#[cfg(test)]
mod tests;

use crate::format::{FailCause, MetaImage, Superblock};
use crate::geometry::Geometry;
use crate::ids::{Epoch, Tick};
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::{Refusal, Reply, Request, RequestId, Role, SessionId};
use crate::machine::slab::Slab;
use crate::machine::time::Time;

pub use api::{Action, DiskDone, DiskError, DiskId, DiskOp, Event, MetaWrite, ReplicaConfig};

use checkpoint::Checkpoint;
use commit::{After, Commits};
use intent::Regions;
use io::WriteJob;
use session::{Lease, Opening, Session};
use stamps::StampTable;

/// What a disk operation under way is for.
#[derive(Debug)]
enum DiskJob {
    /// What was found in the metadata file is made durable, before the first commit.
    SyncFound,
    Commit,
    Sync,
    Read {
        session: SessionId,
        id: RequestId,
    },
    Copy {
        session: SessionId,
        id: RequestId,
        stamp: Tick,
    },
    Hash {
        session: SessionId,
        id: RequestId,
    },
    Digests {
        session: SessionId,
        id: RequestId,
        /// Bytes in a block, and how many blocks there are.
        block: u32,
        count: u64,
        stamp: Tick,
    },
    /// A write or a zero, by its place in `writes`.
    Write(u32),
}

/// Who takes part in a sync of the data file.
#[derive(Clone, Copy, Debug)]
enum SyncWaiter {
    Flush { session: SessionId, id: RequestId },
    Checkpoint,
}

/// The machine of one replica.
#[derive(Debug)]
pub struct Replica<P> {
    config: ReplicaConfig,
    geometry: Geometry,
    now: Time,
    timer: Option<Time>,
    /// As it is to be; what is on disk is what the last commit wrote.
    superblock: Superblock,
    regions: Regions,
    stamps: StampTable,
    commits: Commits,
    checkpoint: Checkpoint,
    /// The newest settled tick that this opening was told as a member. Not taken from disk (D9): what a power cut took may
    /// be older than the settled tick that was noted there.
    told: Tick,
    session: Option<Session>,
    opening: Option<Opening>,
    opened_clean: bool,
    /// The newest attempt to open a session.
    attempt: (Epoch, u64),
    lease: Lease,
    jobs: Slab<DiskJob>,
    writes: Slab<WriteJob<P>>,
    /// Writes and zeroes that the disk has been given.
    writes_in_flight: usize,
    syncing: bool,
    sync_current: Vec<SyncWaiter>,
    sync_next: Vec<SyncWaiter>,
}

impl<P: Payload> Replica<P> {
    /// The replica that a metadata file describes. Nothing is written before the first session is opened. A replica that
    /// is marked as failed is opened too, and answers every request with that.
    pub fn load(now: Time, mut config: ReplicaConfig, image: MetaImage) -> Self {
        let MetaImage {
            mut superblock,
            intent,
            stamps,
            ..
        } = image;
        let opened_before = superblock.epoch > Epoch::ZERO;
        if opened_before && config.faults.has(Fault::IncarnationKept) {
            config.incarnation = superblock.incarnation;
        }
        if config.pardon {
            // On disk once the first session is opened. What it acknowledged may be lost, whatever its disk says: it may
            // not even have taken the note that the replica has failed.
            superblock.failed = None;
            superblock.whole = false;
            superblock.clean = false;
        }
        let mut stamps = StampTable::loaded(stamps);
        let mut intent = intent;
        if superblock.clean {
            // Bits that a torn last commit left behind say nothing: the clean superblock was written after all was durable.
            for region in intent.clone().iter_set() {
                intent.set(region, false);
            }
        } else {
            if superblock.boot != config.boot && !config.faults.has(Fault::AlwaysWhole) {
                superblock.whole = false;
            }
            if !config.faults.has(Fault::NoSuspects) {
                // D4.
                for region in intent.iter_set() {
                    let first_only = config.faults.has(Fault::FirstChunkSuspect);
                    let chunks = superblock.geometry.chunks_of_region(region);
                    for chunk in chunks.take(if first_only { 1 } else { usize::MAX }) {
                        stamps.set(crate::geometry::Chunk(chunk), Tick::SUSPECT);
                    }
                }
            }
        }
        let lease_until = if superblock.clean || config.faults.has(Fault::LeaseForgotten) {
            Time::ZERO
        } else {
            now + config.lease
        };
        Self {
            geometry: superblock.geometry,
            now,
            timer: None,
            regions: Regions::loaded(intent, now),
            stamps,
            commits: Commits::default(),
            checkpoint: Checkpoint::new(),
            told: Tick::ZERO,
            session: None,
            opening: None,
            opened_clean: false,
            attempt: (Epoch::ZERO, 0),
            lease: Lease::after_restart(lease_until, &superblock),
            jobs: Slab::new(),
            writes: Slab::new(),
            writes_in_flight: 0,
            syncing: false,
            sync_current: Vec::new(),
            sync_next: Vec::new(),
            superblock,
            config,
        }
    }

    /// The superblock as it is to be written next.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The stamp of a chunk.
    pub fn stamp(&self, chunk: crate::geometry::Chunk) -> Tick {
        self.stamps.get(chunk)
    }

    /// Number of regions whose intent bit is set.
    pub fn set_regions(&self) -> usize {
        self.regions.set_count()
    }

    /// Whether a session is being served or opened.
    pub fn is_in_use(&self) -> bool {
        self.session.is_some() || self.opening.is_some()
    }

    /// Whether nothing is under way on its files.
    pub fn is_quiet(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Takes an event, and adds what is to be done to `out`.
    pub fn handle(&mut self, now: Time, event: Event<P>, out: &mut Vec<Action<P>>) {
        self.now = self.now.max(now);
        match event {
            Event::Request { session, id, request } => self.request(session, id, request, out),
            Event::Closed { session } => self.session_closed(session),
            Event::Disk { id, result } => self.disk_done(id, result, out),
            Event::Timer => {
                self.timer = self.timer.filter(|&timer| timer > self.now);
            }
        }
        if self.checkpoint.due().is_some_and(|due| due <= self.now) {
            self.begin_checkpoint(out);
        }
        if let Some(due) = self.checkpoint.due().filter(|_| self.checkpoint.is_idle())
            && self.timer.is_none_or(|timer| due < timer)
        {
            self.timer = Some(due);
            out.push(Action::SetTimer(due));
        }
    }

    fn request(&mut self, session: SessionId, id: RequestId, request: Request<P>, out: &mut Vec<Action<P>>) {
        if let Request::Inspect(identity) = request {
            let reply = self.inspected(identity);
            self.respond(session, id, reply, out);
            return;
        }
        if let Some(cause) = self.superblock.failed {
            self.respond(session, id, Reply::Failed(cause), out);
            return;
        }
        if let Request::Open(open) = request {
            self.open(session, id, open, out);
            return;
        }
        let Some(current) = self.admit(session) else {
            self.respond(session, id, Reply::Refused(Refusal::Session), out);
            return;
        };
        match request {
            Request::Open(_) | Request::Inspect(_) => {}
            Request::Hash(range) => self.hash(session, id, range, out),
            Request::Digests { range, block } => self.digests(session, id, range, block, out),
            Request::Raise { epoch, role } => self.raise(session, id, epoch, role, out),
            Request::Read(range) => self.read(session, id, range, out),
            Request::Copy(range) => self.copy(session, id, range, out),
            Request::Write {
                offset,
                data,
                tick,
                stamp,
            } => self.write(session, id, io::Content::Data { offset, data }, tick, stamp, out),
            Request::Zero { range, tick, stamp } => {
                self.write(session, id, io::Content::Zero(range), tick, stamp, out);
            }
            Request::Flush => self.flush(session, id, out),
            Request::Ping { settled } => {
                self.tell(current.role, settled);
                self.respond(session, id, Reply::Done, out);
            }
            Request::Changed { after, from, limit } => {
                let reply = self.changed(after, from, limit);
                self.respond(session, id, reply, out);
            }
            Request::Stamp(stamps) => {
                for (chunk, tick) in stamps {
                    self.stamps.set(chunk, tick);
                }
                self.respond(session, id, Reply::Done, out);
            }
            Request::Restamp { after, tick } => {
                self.restamp(after, tick);
                self.respond(session, id, Reply::Done, out);
            }
            Request::Checkpoint { whole } => self.ask_checkpoint(session, id, whole, false, out),
            Request::Release { settled } => {
                self.tell(current.role, settled);
                self.ask_checkpoint(session, id, false, true, out);
            }
            Request::Fail(cause) => {
                self.fail(cause, out);
                self.respond(session, id, Reply::Failed(cause), out);
            }
        }
    }

    /// Notes the settled tick. A replica under rebuild keeps it as the tick up to which it has received every write, but
    /// its durable tick does not follow.
    fn tell(&mut self, role: Role, settled: Tick) {
        if role == Role::Member || self.config.faults.has(Fault::DurableDuringRebuild) {
            self.told = self.told.max(settled);
        }
        self.superblock.settled = self.superblock.settled.max(settled);
        if self.told > self.superblock.durable {
            self.checkpoint.want(self.now + self.config.checkpoint_interval);
        }
    }

    fn respond(&self, session: SessionId, id: RequestId, reply: Reply<P>, out: &mut Vec<Action<P>>) {
        out.push(Action::Respond { session, id, reply });
    }

    fn job(&mut self, job: DiskJob) -> DiskId {
        DiskId(self.jobs.insert(job))
    }

    fn disk_done(&mut self, id: DiskId, result: Result<DiskDone<P>, DiskError>, out: &mut Vec<Action<P>>) {
        let Some(job) = self.jobs.remove(id.0) else {
            return;
        };
        match job {
            DiskJob::Write(write) => self.write_done(write, result.map(drop), out),
            DiskJob::Read { session, id } => {
                let reply = match result {
                    Ok(DiskDone::Data(data)) => Reply::Data(data),
                    _ => Reply::Unreadable,
                };
                self.respond(session, id, reply, out);
            }
            DiskJob::Copy { session, id, stamp } => {
                let reply = match result {
                    Ok(DiskDone::Data(data)) => Reply::Chunk {
                        content: Some(data),
                        stamp,
                    },
                    Ok(DiskDone::Hole) => Reply::Chunk { content: None, stamp },
                    _ => Reply::Unreadable,
                };
                self.respond(session, id, reply, out);
            }
            DiskJob::Hash { session, id } => {
                let reply = match result {
                    Ok(DiskDone::Data(data)) => Reply::Hashed(data.digest()),
                    Ok(DiskDone::Hole) => Reply::Hashed(0),
                    _ => Reply::Unreadable,
                };
                self.respond(session, id, reply, out);
            }
            DiskJob::Digests {
                session,
                id,
                block,
                count,
                stamp,
            } => {
                let blocks = match result {
                    Ok(DiskDone::Data(data)) => Some(data.digests(block)),
                    Ok(DiskDone::Hole) => Some(vec![0; count as usize]),
                    _ => None,
                };
                let reply = match blocks {
                    Some(blocks) => Reply::Digests { blocks, stamp },
                    None => Reply::Unreadable,
                };
                self.respond(session, id, reply, out);
            }
            DiskJob::Sync => match result {
                Err(_) if self.config.faults.has(Fault::FailedSyncRetried) => {
                    let id = self.job(DiskJob::Sync);
                    let op = DiskOp::SyncData;
                    out.push(Action::Disk { id, op });
                }
                Err(_) if !self.config.faults.has(Fault::FailedSyncIgnored) => {
                    self.syncing = false;
                    self.fail(FailCause::Sync, out);
                }
                _ => self.sync_done(out),
            },
            DiskJob::SyncFound => {
                self.commits.found_is_durable();
                if result.is_err() {
                    self.fail(FailCause::Sync, out);
                }
                self.start_commit(out);
            }
            DiskJob::Commit => match result {
                Ok(_) => self.commit_done(out),
                Err(_) => {
                    self.commits.done = self.commits.started;
                    self.fail(FailCause::Sync, out);
                    self.start_commit(out);
                }
            },
        }
    }

    /// D6: final. Everyone who waits is told; the failure itself goes to disk as far as the disk still takes it, so that a
    /// restart does not hide it.
    fn fail(&mut self, cause: FailCause, out: &mut Vec<Action<P>>) {
        if self.superblock.failed.is_some() {
            return;
        }
        self.superblock.failed = Some(cause);
        self.superblock.whole = false;
        self.superblock.clean = false;
        out.push(Action::Failed(cause));
        let mut waiting = self.abandon_checkpoint();
        for waiter in self.sync_current.drain(..).chain(self.sync_next.drain(..)) {
            if let SyncWaiter::Flush { session, id } = waiter {
                waiting.push((session, id));
            }
        }
        waiting.extend(self.abandon_writes());
        waiting.extend(self.opening.take().map(|opening| opening.asked_by()));
        for (session, id) in waiting {
            self.respond(session, id, Reply::Failed(cause), out);
        }
        self.commits.abandon();
        if self.config.faults.has(Fault::FailureNotNoted) {
            return;
        }
        self.commits.add_superblock(After::Failed);
        self.start_commit(out);
    }
}
