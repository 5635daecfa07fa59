//! Sessions, epochs and the lease: whom the replica serves (D5, D7, D8, T1, T5).

use std::time::Duration;

use super::Replica;
use super::api::Action;
use super::commit::After;
use crate::format::{ReplicaIdentity, Superblock};
use crate::geometry::Chunk;
use crate::ids::{Epoch, Incarnation, Tick};
use crate::machine::faults::Fault;
use crate::machine::payload::Payload;
use crate::machine::protocol::{Inspected, Open, Opened, Refusal, Reply, RequestId, Role, SessionId};
use crate::machine::time::Time;

/// The session that is served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) term: Epoch,
    pub(super) role: Role,
}

/// A session that is being opened: older operations have to leave the disk, and the epoch has to reach it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    session: SessionId,
    id: RequestId,
    open: Open,
    committing: bool,
}

impl Opening {
    /// Who waits for the answer.
    pub(super) const fn asked_by(&self) -> (SessionId, RequestId) {
        (self.session, self.id)
    }
}

/// How long other primaries than the current one may still answer reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    /// The current primary's.
    term: Epoch,
    until: Time,
    /// The latest end of any other's, and the latest term of them.
    others_until: Time,
    others_term: Epoch,
    /// Until when one may run that was granted before the replica was restarted.
    unknown_until: Time,
    /// What that one can have been: of no later term than this epoch, and to this attaching or an older one.
    unknown_epoch: Epoch,
    unknown_to: Incarnation,
}

impl Lease {
    /// After a restart it is not known what was granted before: as much as can be, to whoever was served last, and to those before.
    pub(super) fn after_restart(until: Time, found: &Superblock) -> Self {
        Self {
            term: Epoch::ZERO,
            until: Time::ZERO,
            others_until: Time::ZERO,
            others_term: Epoch::ZERO,
            unknown_until: until,
            unknown_epoch: found.epoch,
            unknown_to: found.attached_by,
        }
    }

    fn turn_to(&mut self, term: Epoch) {
        if self.term != term {
            self.others_until = self.others_until.max(self.until);
            self.others_term = self.others_term.max(self.term);
            self.term = term;
            self.until = Time::ZERO;
        }
    }

    /// T5: the primary goes on for one that has ended, and no lease of a term up to `resumes` lets anybody answer any more. What
    /// was granted before a restart is of such a term if the epoch found on disk is not beyond it, or if whoever was served last is
    /// this very primary.
    fn resumed(&mut self, resumes: Epoch, attached_by: Incarnation) {
        if self.others_term <= resumes {
            self.others_until = Time::ZERO;
        }
        if self.unknown_epoch <= resumes || self.unknown_to == attached_by {
            self.unknown_until = Time::ZERO;
        }
    }

    /// How long others may still answer.
    fn wait(&self, now: Time) -> Duration {
        self.others_until.max(self.unknown_until).since(now)
    }
}

impl<P: Payload> Replica<P> {
    /// T1: the session that a request came over, if it is the one that is served. Renews its lease.
    pub(super) fn admit(&mut self, session: SessionId) -> Option<Session> {
        let current = self.session.filter(|current| {
            current.id == session || (self.config.faults.has(Fault::OldSessionServed) && session < current.id)
        })?;
        self.lease.until = self.lease.until.max(self.now + self.config.lease);
        Some(current)
    }

    /// What the replica says of itself; changes nothing.
    pub(super) fn inspected(&self, identity: ReplicaIdentity) -> Reply<P> {
        let superblock = &self.superblock;
        if identity != superblock.identity {
            return Reply::Refused(Refusal::Identity);
        }
        let stamps = (0..self.stamps.chunks()).map(|chunk| self.stamps.get(Chunk(chunk)));
        let unsettled = stamps.clone().filter(|&stamp| stamp > superblock.durable).count();
        let suspect = stamps.filter(|&stamp| stamp == Tick::SUSPECT).count();
        Reply::Inspected(Inspected {
            incarnation: self.config.incarnation,
            epoch: superblock.epoch,
            durable: superblock.durable,
            settled: superblock.settled,
            whole: superblock.whole,
            clean: superblock.clean,
            failed: superblock.failed,
            unsettled: unsettled as u32,
            suspect: suspect as u32,
        })
    }

    pub(super) fn open(&mut self, session: SessionId, id: RequestId, open: Open, out: &mut Vec<Action<P>>) {
        if let Some(refusal) = self.refusal(&open) {
            self.respond(session, id, Reply::Refused(refusal), out);
            return;
        }
        self.session = None;
        if let Some(earlier) = self.opening.take() {
            self.respond(earlier.session, earlier.id, Reply::Refused(Refusal::Session), out);
        }
        self.attempt = (open.epoch, open.attempt);
        self.drop_waiting_writes();
        self.forget_wishes();
        self.opening = Some(Opening {
            session,
            id,
            open,
            committing: false,
        });
        self.advance_opening(out);
    }

    fn refusal(&self, open: &Open) -> Option<Refusal> {
        if open.identity != self.superblock.identity && !self.config.faults.has(Fault::IdentityIgnored) {
            return Some(Refusal::Identity);
        }
        let newest = self.superblock.epoch;
        if open.epoch < newest && !self.config.faults.has(Fault::OldEpochAccepted) {
            return Some(Refusal::Epoch(newest));
        }
        // No two primaries share an epoch: the record has given it out twice, so it is an older copy (T3). Said before attempts are
        // compared: the other primary's count is no measure for this one, which would ask in vain until it is given up.
        let given_out_twice = open.epoch == newest && open.attached_by != self.superblock.attached_by;
        if given_out_twice && newest > Epoch::ZERO && !self.config.faults.has(Fault::EpochSharedByTerms) {
            return Some(Refusal::Epoch(newest));
        }
        if (open.epoch, open.attempt) < self.attempt && !self.config.faults.has(Fault::OldEpochAccepted) {
            return Some(Refusal::Session);
        }
        match open.expects {
            Some(expected)
                if expected != self.config.incarnation
                    && !self.config.faults.has(Fault::UnknownIncarnation) =>
            {
                Some(Refusal::Incarnation(self.config.incarnation))
            }
            _ => None,
        }
    }

    /// D8: goes on with the session that is being opened as soon as no write of an older one is on its way to the disk: it
    /// could otherwise land after a newer one.
    pub(super) fn advance_opening(&mut self, out: &mut Vec<Action<P>>) {
        let drained = self.writes_in_flight == 0 || self.config.faults.has(Fault::SessionNotDrained);
        let Some(opening) = self
            .opening
            .as_mut()
            .filter(|opening| !opening.committing && drained)
        else {
            return;
        };
        opening.committing = true;
        let open = opening.open;
        let superblock = &mut self.superblock;
        let on_disk = superblock.epoch >= open.epoch
            && superblock.incarnation == self.config.incarnation
            && (!superblock.clean || self.config.faults.has(Fault::CleanNotCleared));
        self.opened_clean = superblock.clean;
        if on_disk && !self.commits.is_under_way() {
            self.session_opened((open.epoch, open.attempt), out);
            return;
        }
        superblock.epoch = superblock.epoch.max(open.epoch);
        superblock.attached_by = open.attached_by;
        superblock.incarnation = self.config.incarnation;
        superblock.boot = self.config.boot;
        superblock.clean = superblock.clean && self.config.faults.has(Fault::CleanNotCleared);
        // Persist, then answer (D5).
        if self.config.faults.has(Fault::EpochNotPersisted) {
            self.session_opened((open.epoch, open.attempt), out);
            return;
        }
        self.commits.add_superblock(After::Opened {
            attempt: (open.epoch, open.attempt),
        });
        self.start_commit(out);
    }

    /// Everything that the answer depends on is durable.
    pub(super) fn session_opened(&mut self, attempt: (Epoch, u64), out: &mut Vec<Action<P>>) {
        // A newer Open may have taken the place of the one that this commit was for; it waits for its own.
        let is_meant =
            |opening: &Opening| opening.committing && (opening.open.epoch, opening.open.attempt) == attempt;
        let Some(opening) = self.opening.filter(is_meant) else {
            return;
        };
        self.opening = None;
        let Opening {
            session, id, open, ..
        } = opening;
        self.lease.turn_to(open.term);
        let resumes = open
            .resumes
            .filter(|_| !self.config.faults.has(Fault::ResumeWaits));
        if let Some(resumes) = resumes {
            self.lease.resumed(resumes, open.attached_by);
        }
        self.session = Some(Session {
            id: session,
            term: open.term,
            role: open.role,
        });
        self.lease.until = self.now + self.config.lease;
        let wait = if self.config.faults.has(Fault::WaitIgnored) {
            Duration::ZERO
        } else {
            self.lease.wait(self.now)
        };
        let opened = Opened {
            incarnation: self.config.incarnation,
            durable: self.superblock.durable,
            settled: self.superblock.settled,
            whole: self.superblock.whole,
            clean: self.opened_clean,
            wait,
        };
        self.respond(session, id, Reply::Opened(opened), out);
    }

    pub(super) fn raise(
        &mut self,
        session: SessionId,
        id: RequestId,
        epoch: Epoch,
        role: Role,
        out: &mut Vec<Action<P>>,
    ) {
        if epoch < self.superblock.epoch {
            // Of the same primary, overtaken by its own next one.
            self.respond(session, id, Reply::Done, out);
            return;
        }
        if let Some(current) = &mut self.session {
            current.role = role;
        }
        if self.config.faults.has(Fault::RaiseNotNoted) {
            self.raised(session, id, out);
            return;
        }
        self.superblock.epoch = epoch;
        self.attempt.0 = self.attempt.0.max(epoch);
        if self.config.faults.has(Fault::EpochNotPersisted) {
            self.raised(session, id, out);
            return;
        }
        self.commits.add_superblock(After::Raised { session, id });
        self.start_commit(out);
    }

    pub(super) fn raised(&mut self, session: SessionId, id: RequestId, out: &mut Vec<Action<P>>) {
        self.respond(session, id, Reply::Done, out);
    }

    /// The final checkpoint is on disk: nobody is served any more, and nobody holds a lease by this primary's term.
    pub(super) fn released(&mut self, session: SessionId, id: RequestId, out: &mut Vec<Action<P>>) {
        if let Some(current) = self.session.filter(|current| current.id == session) {
            if self.lease.term == current.term {
                self.lease.until = Time::ZERO;
            }
            self.respond(session, id, Reply::Done, out);
            self.session = None;
        }
    }

    pub(super) fn session_closed(&mut self, session: SessionId) {
        self.session = self.session.filter(|current| current.id != session);
        self.opening = self.opening.filter(|opening| opening.session != session);
        if self.session.is_none() && self.opening.is_none() {
            self.drop_waiting_writes();
        }
    }
}
