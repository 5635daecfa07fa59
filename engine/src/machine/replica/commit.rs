//! Commits of the metadata file: one at a time, each a set of sectors and one sync, shared by all who wait for it.

use super::api::{Action, DiskOp, MetaWrite};
use super::{DiskJob, Replica};
use crate::format::MetaLayout;
use crate::ids::Epoch;
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::{RequestId, SessionId};

/// What goes on when a commit is durable.
#[derive(Debug)]
pub(super) enum After {
    /// A write whose region's bit is set now.
    Write(u32),
    /// The session that is being opened, by its epoch and attempt.
    Opened { attempt: (Epoch, u64) },
    /// A newer epoch is on disk.
    Raised { session: SessionId, id: RequestId },
    /// The checkpoint's stamps are on disk.
    Stamps,
    /// The checkpoint's superblock is on disk.
    Checkpoint,
    /// The failure is on disk.
    Failed,
}

/// The metadata file as it was found. An earlier process may have been killed before it had synced what it wrote: a read
/// shows that, but a power cut takes it. The newest superblock has to be durable before the slot of the older one, the
/// only durable one maybe, is written over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Found {
    #[default]
    AsRead,
    BeingSynced,
    Durable,
}

/// The commit under way and the one that gathers.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// Number of the last commit that was started.
    pub(super) started: u64,
    pub(super) done: u64,
    current: Vec<After>,
    next: Vec<After>,
    intent_sectors: Vec<u32>,
    stamps: bool,
    superblock: bool,
    found: Found,
}

impl Commits {
    pub(super) fn is_under_way(&self) -> bool {
        self.started != self.done || self.found == Found::BeingSynced
    }

    /// What was found has been synced.
    pub(super) fn found_is_durable(&mut self) {
        self.found = Found::Durable;
    }

    /// Number of the commit that gathers.
    pub(super) fn next_number(&self) -> u64 {
        self.started + 1
    }

    pub(super) fn add_intent(&mut self, sectors: Vec<u32>) {
        self.intent_sectors.extend(sectors);
    }

    pub(super) fn add_stamps(&mut self, after: After) {
        self.stamps = true;
        self.next.push(after);
    }

    pub(super) fn add_superblock(&mut self, after: After) {
        self.superblock = true;
        self.next.push(after);
    }

    /// Has `after` wait for commit `number`, which is the one under way or the one that gathers.
    pub(super) fn wait_for(&mut self, number: u64, after: After) {
        if number <= self.started {
            self.current.push(after);
        } else {
            self.next.push(after);
        }
    }

    /// Forgets what gathers, and who waits for what is under way: the replica has failed.
    pub(super) fn abandon(&mut self) {
        self.current.clear();
        self.next.clear();
        self.intent_sectors.clear();
        self.stamps = false;
        self.superblock = false;
    }
}

impl<P: Payload> Replica<P> {
    /// Starts the commit that has gathered, if there is one and none is under way.
    pub(super) fn start_commit(&mut self, out: &mut Vec<Action<P>>) {
        if self.commits.is_under_way() || self.commits.next.is_empty() {
            return;
        }
        if self.commits.found == Found::AsRead && !self.config.faults.has(Fault::FoundNotSynced) {
            self.commits.found = Found::BeingSynced;
            let id = self.job(DiskJob::SyncFound);
            let op = DiskOp::CommitMeta(Vec::new());
            out.push(Action::Disk { id, op });
            return;
        }
        self.commits.started += 1;
        self.commits.current = std::mem::take(&mut self.commits.next);
        let replica = self.superblock.identity.replica;
        let mut writes = Vec::new();

        let mut sectors = std::mem::take(&mut self.commits.intent_sectors);
        sectors.sort_unstable();
        sectors.dedup();
        for sector in sectors {
            writes.push(MetaWrite {
                offset: MetaLayout::intent_offset(sector),
                bytes: self.regions.bits().encode_sector(replica, sector).to_vec(),
            });
        }
        if std::mem::take(&mut self.commits.stamps) {
            self.gather_stamps(&mut writes);
        }
        if std::mem::take(&mut self.commits.superblock) {
            // The slots alternate, and the next one is only written once this commit is durable.
            self.superblock.sequence += 1;
            writes.push(MetaWrite {
                offset: MetaLayout::slot_offset(self.superblock.sequence),
                bytes: self.superblock.encode().to_vec(),
            });
        }
        let id = self.job(DiskJob::Commit);
        out.push(Action::Disk {
            id,
            op: DiskOp::CommitMeta(writes),
        });
    }

    /// Adds the changed stamps, neighbouring sectors in one write.
    fn gather_stamps(&mut self, writes: &mut Vec<MetaWrite>) {
        let replica = self.superblock.identity.replica;
        let dirty = self.stamps.take_dirty();
        if self.config.faults.has(Fault::StampsNotWritten) {
            return;
        }
        let mut previous = None;
        for sector in dirty {
            let bytes = self.stamps.table().encode_sector(replica, sector);
            match writes.last_mut() {
                Some(write) if previous.is_some_and(|before: u32| before + 1 == sector) => {
                    write.bytes.extend_from_slice(&bytes);
                }
                _ => writes.push(MetaWrite {
                    offset: MetaLayout::stamps_offset(sector),
                    bytes: bytes.to_vec(),
                }),
            }
            previous = Some(sector);
        }
    }

    /// A commit is durable: everyone who waited for it goes on.
    pub(super) fn commit_done(&mut self, out: &mut Vec<Action<P>>) {
        self.commits.done = self.commits.started;
        for after in std::mem::take(&mut self.commits.current) {
            match after {
                After::Write(op) => self.issue_write(op, out),
                After::Opened { attempt } => self.session_opened(attempt, out),
                After::Raised { session, id } => self.raised(session, id, out),
                After::Stamps => self.checkpoint_superblock(),
                After::Checkpoint => self.checkpoint_done(out),
                After::Failed => {}
            }
        }
        self.start_commit(out);
    }
}
