//! A replica of this node while it is open: its machine behind a lock, its files, and the sessions that it serves, of
//! this node's primary and of others' alike. Decides nothing: whom it serves and what it writes is the machine's.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

use super::drive::VolumeTodo;
use super::executor::Lane;
use super::files::{Files, describe};
use super::round::{Disk, Round, Todo, Turnstile};
use super::status::ReplicaStatus;
use super::timer::{Alarm, Waker};
use super::volume::Volume;
use super::{Node, clock};
use crate::disk::ReplicaFiles;
use crate::format::{ReplicaIdentity, Superblock};
use crate::geometry::Geometry;
use crate::ids::Incarnation;
use crate::io::Data;
use crate::link::ReplicaSession;
use crate::machine::replica::{Action, Event, ReplicaConfig};
use crate::machine::{Replica, Reply, Request, RequestId, SessionId, Time};

/// Threads that one replica keeps busy with syncs of its two files at most: the machine has one of each under way.
const SYNCS: usize = 2;
/// Threads that one replica keeps busy at most with requests that wait for the disk: how deep the disk's queue gets.
const WAITING: usize = 16;

/// The alarm of the machine, and that of a replica that may be closed by then.
const MACHINE: u32 = 0;
const LINGER: u32 = 1;

/// The replica's shares of the node's threads. Syncs have their own: they are what everyone waits for.
pub(super) struct Lanes {
    pub(super) syncs: Lane,
    pub(super) data: Lane,
}

/// Who is at the other end of a session.
pub(super) enum Caller {
    /// The primary on this node.
    Local(Weak<Volume>),
    /// One on another node.
    Remote(Arc<ReplicaSession>),
    /// Somebody here who asks one question.
    Asker(Box<dyn Fn(Reply<Data>) + Send>),
}

struct Machine {
    replica: Replica<Data>,
    sessions: HashMap<SessionId, Caller>,
    /// No session is taken any more, but what is under way is waited for.
    closing: bool,
    /// Nothing is done any more at all.
    closed: bool,
    /// A primary elsewhere that has lost its connection may come back for this opening of it until then.
    lingers_until: Time,
    /// Kept for its memory.
    actions: Vec<Action<Data>>,
}

impl Machine {
    /// Whether nobody needs it to stay open: whoever comes next finds the same in its files. One that has failed stays
    /// open, because its disk may not have taken the note of that (D6).
    fn is_done(&self, now: Time) -> bool {
        self.is_idle() && now >= self.lingers_until
    }

    fn is_idle(&self) -> bool {
        self.sessions.is_empty()
            && !self.closed
            && !self.replica.is_in_use()
            && self.replica.is_quiet()
            && self.replica.superblock().clean
    }
}

/// One replica of this node, open.
pub(super) struct HostedReplica {
    pub(super) identity: ReplicaIdentity,
    pub(super) geometry: Geometry,
    pub(super) incarnation: Incarnation,
    pub(super) files: Files,
    pub(super) lanes: Lanes,
    pub(super) turnstile: Turnstile,
    machine: Mutex<Machine>,
    linger: Duration,
    /// For a closing only: whoever has a lock of this must not be the last to let go of the node.
    node: Weak<Node>,
    timers: Waker,
    timer_owner: u64,
    myself: Weak<HostedReplica>,
}

impl HostedReplica {
    /// The replica of these files. `loaded_at` is when the machine takes itself to be loaded: a lease that was granted
    /// before is counted from then. `pardon`: a person has said that its failure is of no matter.
    pub(super) fn new(
        node: &Arc<Node>,
        dir: &Path,
        files: ReplicaFiles,
        loaded_at: Time,
        pardon: bool,
    ) -> Arc<Self> {
        let ReplicaFiles { data, meta, image } = files;
        let superblock = image.superblock;
        let incarnation = Incarnation::from(Uuid::new_v4());
        let settings = &node.config.replicas;
        let config = ReplicaConfig {
            checkpoint_interval: settings.checkpoint_interval,
            region_idle: settings.region_idle,
            max_set_regions: settings.max_set_regions,
            lease: settings.lease,
            pardon,
            faults: settings.faults,
            ..ReplicaConfig::new(node.boot, incarnation)
        };
        Arc::new_cyclic(|myself| Self {
            identity: superblock.identity,
            geometry: superblock.geometry,
            incarnation,
            files: Files::new(dir, data, meta),
            lanes: Lanes {
                syncs: node.executor.lane(SYNCS),
                data: node.executor.lane(WAITING),
            },
            turnstile: Turnstile::default(),
            machine: Mutex::new(Machine {
                replica: Replica::load(loaded_at, config, image),
                sessions: HashMap::new(),
                closing: false,
                closed: false,
                lingers_until: Time::ZERO,
                actions: Vec::new(),
            }),
            linger: settings.linger,
            node: Arc::downgrade(node),
            timers: node.timers.waker(),
            timer_owner: node.timers.new_owner(),
            myself: myself.clone(),
        })
    }

    /// Takes a session; not any more once it is being closed.
    #[must_use]
    pub(super) fn begin_session(&self, session: SessionId, caller: Caller) -> bool {
        let mut machine = self.machine.lock();
        let open = !machine.closing && !machine.closed;
        if open {
            machine.sessions.insert(session, caller);
        }
        open
    }

    /// A request over a session. One that comes after the session's end is nobody's any more.
    pub(super) fn request(
        self: &Arc<Self>,
        session: SessionId,
        id: RequestId,
        request: Request<Data>,
        round: &mut Round,
    ) {
        let mut machine = self.machine.lock();
        if machine.sessions.contains_key(&session) {
            let event = Event::Request { session, id, request };
            self.step_locked(&mut machine, event, round);
        }
    }

    /// Asks it over a session of an asker what it says of itself, and ends the session. Changes nothing; it is closed again
    /// if nobody needs it open.
    pub(super) fn ask(self: &Arc<Self>, session: SessionId) {
        Round::run(Disk::MayTouch, |round| {
            let request = Request::Inspect(self.identity);
            self.request(session, RequestId(1), request, round);
            self.end_session(session, round);
        });
    }

    /// A session is over.
    pub(super) fn end_session(self: &Arc<Self>, session: SessionId, round: &mut Round) {
        let mut machine = self.machine.lock();
        if let Some(caller) = machine.sessions.remove(&session) {
            if matches!(caller, Caller::Remote(_)) {
                machine.lingers_until = clock::now() + self.linger;
            }
            self.step_locked(&mut machine, Event::Closed { session }, round);
        }
    }

    /// Steps the machine; what comes of it is for the round.
    pub(super) fn step(self: &Arc<Self>, event: Event<Data>, round: &mut Round) {
        self.step_locked(&mut self.machine.lock(), event, round);
    }

    fn step_locked(self: &Arc<Self>, machine: &mut Machine, event: Event<Data>, round: &mut Round) {
        if machine.closed {
            return;
        }
        let mut actions = std::mem::take(&mut machine.actions);
        // The time is read under the lock, so that the machine never sees it go back.
        machine.replica.handle(clock::now(), event, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Disk { id, op } => round.push_disk(Arc::clone(self), id, op),
                Action::Respond { session, id, reply } => match machine.sessions.get(&session) {
                    Some(Caller::Local(volume)) => {
                        if let Some(volume) = volume.upgrade() {
                            let replica = self.identity.replica;
                            round.push(Todo::Volume(
                                volume,
                                VolumeTodo::Reply(replica, session, id, reply),
                            ));
                        }
                    }
                    Some(Caller::Remote(session)) => {
                        round.push(Todo::Answer(Arc::clone(session), id, reply));
                    }
                    Some(Caller::Asker(answered)) => answered(reply),
                    None => {}
                },
                Action::SetTimer(at) => {
                    let alarm: Weak<dyn Alarm> = self.myself.clone();
                    self.timers.set(self.timer_owner, MACHINE, at, alarm);
                }
                Action::Failed(cause) => {
                    tracing::error!(
                        volume = %self.identity.volume, replica = %self.identity.replica,
                        dir = %self.files.dir().display(), "the replica has failed: {}", describe(cause)
                    );
                }
            }
        }
        machine.actions = actions;
        if machine.closing || !machine.is_idle() {
            return;
        }
        if machine.is_done(clock::now()) {
            round.push(Todo::Retire(Arc::clone(self)));
        } else {
            let alarm: Weak<dyn Alarm> = self.myself.clone();
            self.timers
                .set(self.timer_owner, LINGER, machine.lingers_until, alarm);
        }
    }

    /// Closes it if nobody needs it open.
    pub(super) fn retire(self: &Arc<Self>) {
        if let Some(node) = self.node.upgrade() {
            node.replicas.retire(&node, self);
        }
    }

    /// Ends all that is done to it, if it is done. Its files may be closed then.
    pub(super) fn close_if_done(&self) -> bool {
        let mut machine = self.machine.lock();
        let done = machine.is_done(clock::now());
        machine.closed |= done;
        done
    }

    /// Takes no session any more, and ends those that it has.
    pub(super) fn cut_off(self: &Arc<Self>) {
        Round::run(Disk::Elsewhere, |round| {
            let mut machine = self.machine.lock();
            machine.closing = true;
            for (session, caller) in std::mem::take(&mut machine.sessions) {
                self.step_locked(&mut machine, Event::Closed { session }, round);
                match caller {
                    Caller::Remote(session) => session.close(),
                    Caller::Local(volume) => {
                        if let Some(volume) = volume.upgrade() {
                            let replica = self.identity.replica;
                            round.push(Todo::Volume(volume, VolumeTodo::Unlinked(replica, Some(session))));
                        }
                    }
                    Caller::Asker(_) => {}
                }
            }
        });
    }

    /// Ends all that is done to it, if nothing is under way; after [`cut_off`](Self::cut_off). Gives what it was then.
    pub(super) fn close_if_quiet(&self) -> Option<Superblock> {
        let mut machine = self.machine.lock();
        if !machine.closed && !machine.replica.is_quiet() {
            return None;
        }
        machine.closed = true;
        Some(*machine.replica.superblock())
    }

    /// Whether nothing is under way on its files.
    pub(super) fn is_quiet(&self) -> bool {
        self.machine.lock().replica.is_quiet()
    }

    /// The superblock as the machine has it.
    pub(super) fn superblock(&self) -> Superblock {
        *self.machine.lock().replica.superblock()
    }

    /// Why it has failed, in words, if it has.
    pub(super) fn failure(&self) -> Option<String> {
        let cause = self.superblock().failed?;
        Some(
            self.files
                .first_error()
                .unwrap_or_else(|| describe(cause).to_owned()),
        )
    }

    /// What there is to know of it now.
    pub(super) fn status(&self) -> ReplicaStatus {
        let failure = self.failure();
        let machine = self.machine.lock();
        let superblock = *machine.replica.superblock();
        let (set_regions, sessions) = (machine.replica.set_regions(), machine.sessions.len());
        drop(machine);
        ReplicaStatus {
            volume: self.identity.volume,
            replica: self.identity.replica,
            incarnation: self.incarnation,
            failure,
            epoch: superblock.epoch,
            durable: superblock.durable,
            settled: superblock.settled,
            whole: superblock.whole,
            clean: superblock.clean,
            set_regions,
            sessions,
            allocated: self.files.allocated(),
            pool_full: self.files.is_pool_full(),
        }
    }
}

impl Alarm for HostedReplica {
    fn ring(&self, what: u32) {
        let Some(replica) = self.myself.upgrade() else {
            return;
        };
        Round::run(Disk::Elsewhere, |round| {
            if what == LINGER {
                round.push(Todo::Retire(replica));
            } else {
                replica.step(Event::Timer, round);
            }
        });
    }
}
