//! The round from event to action to event: steps the machines of a volume and executes what they say.
//!
//! Steps happen under the machines' locks, execution outside of them. The primary's lock may be held while the replica's is
//! taken, never the other way round.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

use super::clock;
use super::counters::{Counters, Kind};
use super::local::describe;
use super::permits::Permit;
use super::timer::Alarm;
use super::volume::Volume;
use crate::format::FailCause;
use crate::ids::Tick;
use crate::io::{Completion, Data, IoError};
use crate::machine::primary::{Action, EndReason, Event, Op, OpId, SwapOutcome};
use crate::machine::replica::{self, DiskId, DiskOp};
use crate::machine::{Primary, Reply, RequestId, SessionId, Time};

/// A request of the front end until it is answered. Dropped without an answer, it fails: none is ever forgotten.
pub(super) struct Pending {
    kind: Kind,
    done: Option<Completion>,
    _permit: Permit,
}

impl Pending {
    pub(super) fn new(kind: Kind, permit: Permit, done: Completion) -> Self {
        Self {
            kind,
            done: Some(done),
            _permit: permit,
        }
    }

    fn complete(mut self, result: Result<Option<Data>, IoError>, counters: &Counters) {
        match &result {
            Ok(_) => counters.succeeded(self.kind),
            Err(error) => counters.failed(*error == IoError::NoSpace),
        }
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(Err(IoError::Io));
        }
    }
}

/// Requests by the number that the primary knows them by. A place is used again under another number, so an answer
/// that comes twice finds nothing.
#[derive(Default)]
struct PendingOps {
    places: Vec<(u32, Option<Pending>)>,
    free: Vec<u32>,
}

impl PendingOps {
    fn insert(&mut self, pending: Pending) -> OpId {
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            (self.places.len() - 1) as u32
        });
        let mut generation = 0;
        if let Some(place) = self.places.get_mut(at as usize) {
            place.0 = place.0.wrapping_add(1);
            place.1 = Some(pending);
            generation = place.0;
        }
        OpId(u64::from(generation) << 32 | u64::from(at))
    }

    fn remove(&mut self, id: OpId) -> Option<Pending> {
        let at = id.0 as u32;
        let (generation, place) = self.places.get_mut(at as usize)?;
        if u64::from(*generation) != id.0 >> 32 {
            return None;
        }
        let pending = place.take()?;
        self.free.push(at);
        Some(pending)
    }
}

/// The primary machine, and what the shell keeps beside it under the same lock.
pub(super) struct Core {
    primary: Primary<Data>,
    pending: PendingOps,
    /// Sessions to the local replica so far, and the one that is up.
    sessions: u64,
    session: Option<SessionId>,
    /// Kept for its memory.
    actions: Vec<Action<Data>>,
}

impl Core {
    pub(super) fn new(primary: Primary<Data>) -> Self {
        Self {
            primary,
            pending: PendingOps::default(),
            sessions: 0,
            session: None,
            actions: Vec::new(),
        }
    }
}

impl Core {
    /// What a write that came now would be stamped with.
    pub(super) fn tick(&self) -> Tick {
        self.primary.tick()
    }
}

/// Something to execute, outside of any lock.
enum Todo {
    Complete(Pending, Result<Option<Data>, IoError>),
    Disk(DiskId, DiskOp<Data>),
    Reply(SessionId, RequestId, Reply<Data>),
    Tell(Event<Data>),
    Serving,
    Ended(EndReason),
    ReplicaFailed(FailCause),
}

type Todos = VecDeque<Todo>;

thread_local! {
    /// The queue of this thread's last round, for its memory.
    static SPARE: Cell<Todos> = const { Cell::new(VecDeque::new()) };
}

/// What a round may do on its own thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    /// Wait for the disk, once, if no other front end's thread of this volume does: that saves a hop where there is
    /// one request at a time, and leaves the front end's other threads free where there are many.
    MayWait,
    /// Touch the disk, but not wait for it.
    MayTouch,
    /// Neither.
    Elsewhere,
}

/// The right of one front end's thread to wait for the disk itself.
#[derive(Default)]
pub(super) struct Turnstile(AtomicBool);

impl Turnstile {
    fn enter(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    fn leave(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Whose alarm rang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    Primary,
    Replica,
}

impl Waiting {
    const fn alarm(self) -> u32 {
        match self {
            Self::Primary => 0,
            Self::Replica => 1,
        }
    }

    pub(super) const fn from_alarm(what: u32) -> Self {
        if what == Self::Primary.alarm() {
            Self::Primary
        } else {
            Self::Replica
        }
    }
}

impl Volume {
    /// Executes what the primary said when it was started.
    pub(super) fn begin(&self, actions: Vec<Action<Data>>) {
        self.round(Disk::MayTouch, |todo| {
            let mut core = self.core.lock();
            core.actions = actions;
            self.sort_out(&mut core, todo);
        });
    }

    /// Takes a request of the front end, whose thread may do what comes of it.
    pub(super) fn enter(&self, op: Op<Data>, pending: Pending) {
        self.begin_op(Disk::MayWait, op, pending);
    }

    /// Takes a request, and does not wait for the disk whatever it is.
    pub(super) fn enter_without_waiting(&self, op: Op<Data>, pending: Pending) {
        self.begin_op(Disk::MayTouch, op, pending);
    }

    fn begin_op(&self, disk: Disk, op: Op<Data>, pending: Pending) {
        self.round(disk, |todo| {
            let mut core = self.core.lock();
            let id = core.pending.insert(pending);
            self.step(&mut core, Event::Submit { id, op }, todo);
        });
    }

    /// Tells the primary something.
    pub(super) fn post(&self, event: Event<Data>) {
        self.round(Disk::MayTouch, |todo| {
            self.step(&mut self.core.lock(), event, todo)
        });
    }

    /// An alarm rang. On the timer thread: nothing here may block.
    pub(super) fn wake(&self, waiting: Waiting) {
        self.round(Disk::Elsewhere, |todo| match waiting {
            Waiting::Primary => self.step(&mut self.core.lock(), Event::Timer, todo),
            Waiting::Replica => self.step_replica(replica::Event::Timer, todo),
        });
    }

    fn round(&self, mut disk: Disk, begin: impl FnOnce(&mut Todos)) {
        let mut todo = SPARE.take();
        begin(&mut todo);
        while let Some(next) = todo.pop_front() {
            self.execute(next, &mut disk, &mut todo);
        }
        SPARE.set(todo);
    }

    fn execute(&self, next: Todo, disk: &mut Disk, todo: &mut Todos) {
        match next {
            Todo::Complete(pending, result) => pending.complete(result, self.counters()),
            Todo::Disk(id, op) => self.execute_disk(id, op, disk, todo),
            Todo::Reply(session, id, reply) => {
                let replica = self.identity().replica;
                let event = Event::Reply {
                    replica,
                    session,
                    id,
                    reply,
                };
                self.step(&mut self.core.lock(), event, todo);
            }
            Todo::Tell(event) => self.step(&mut self.core.lock(), event, todo),
            Todo::Serving => self.serving(),
            Todo::Ended(reason) => self.has_ended(reason),
            Todo::ReplicaFailed(cause) => {
                tracing::error!(
                    volume = %self.id(), replica = %self.identity().replica,
                    "the replica has failed: {}", describe(cause)
                );
            }
        }
    }

    fn execute_disk(&self, id: DiskId, op: DiskOp<Data>, disk: &mut Disk, todo: &mut Todos) {
        if *disk == Disk::Elsewhere {
            self.execute_elsewhere(id, op);
            return;
        }
        let result = match self.local.execute_at_once(op) {
            Ok(result) => result,
            // What else there is to do has to be begun first.
            Err(op) if *disk == Disk::MayWait && todo.is_empty() && self.turnstile.enter() => {
                *disk = Disk::MayTouch;
                let result = self.local.execute(op);
                self.turnstile.leave();
                result
            }
            Err(op) => {
                self.execute_elsewhere(id, op);
                return;
            }
        };
        self.step_replica(replica::Event::Disk { id, result }, todo);
    }

    fn execute_elsewhere(&self, id: DiskId, op: DiskOp<Data>) {
        // Nobody holds the volume any more: nobody waits for this either, and what was not synced may stay so.
        let Some(volume) = self.myself.upgrade() else {
            return;
        };
        let lane = match op {
            DiskOp::SyncData | DiskOp::CommitMeta(_) => &self.lanes.syncs,
            DiskOp::Read(_) | DiskOp::ReadOrHole(_) | DiskOp::Write { .. } | DiskOp::Zero(_) => {
                &self.lanes.data
            }
        };
        lane.run(move || {
            let result = volume.local.execute(op);
            volume.round(Disk::MayTouch, |todo| {
                volume.step_replica(replica::Event::Disk { id, result }, todo);
            });
        });
    }

    fn step(&self, core: &mut Core, event: Event<Data>, todo: &mut Todos) {
        core.primary.handle(clock::now(), event, &mut core.actions);
        self.sort_out(core, todo);
    }

    /// Executes the actions whose order counts; the others go to `todo`.
    fn sort_out(&self, core: &mut Core, todo: &mut Todos) {
        let mut actions = std::mem::take(&mut core.actions);
        for action in actions.drain(..) {
            match action {
                Action::Connect { replica, .. } if replica == self.identity().replica => {
                    core.sessions += 1;
                    let session = SessionId(core.sessions);
                    core.session = Some(session);
                    todo.push_back(Todo::Tell(Event::Linked { replica, session }));
                }
                // There are no links to other nodes in this room yet.
                Action::Connect { replica, .. } => {
                    let session = None;
                    todo.push_back(Todo::Tell(Event::Unlinked { replica, session }));
                }
                Action::Disconnect { session, .. } => {
                    if core.session == Some(session) {
                        core.session = None;
                        self.step_replica(replica::Event::Closed { session }, todo);
                    }
                }
                Action::Send {
                    session, id, request, ..
                } => {
                    if core.session == Some(session) {
                        let event = replica::Event::Request { session, id, request };
                        self.step_replica(event, todo);
                    }
                }
                Action::Complete { id, result } => {
                    if let Some(pending) = core.pending.remove(id) {
                        todo.push_back(Todo::Complete(pending, result));
                    }
                }
                Action::Swap { change, .. } => {
                    let outcome = SwapOutcome::Unknown;
                    todo.push_back(Todo::Tell(Event::Swapped { change, outcome }));
                }
                Action::ReadRecord => todo.push_back(Todo::Tell(Event::RecordUnreachable)),
                Action::Serving => todo.push_back(Todo::Serving),
                Action::SetTimer(at) => self.set_timer(Waiting::Primary, at),
                Action::Verified { id, report } => {
                    tracing::info!(id, outcome = ?report.outcome, differing = report.differing, "a verify has ended");
                }
                Action::Ended(reason) => todo.push_back(Todo::Ended(reason)),
            }
        }
        core.actions = actions;
    }

    fn step_replica(&self, event: replica::Event<Data>, todo: &mut Todos) {
        self.local.step(event, |action| match action {
            replica::Action::Disk { id, op } => todo.push_back(Todo::Disk(id, op)),
            replica::Action::Respond { session, id, reply } => {
                todo.push_back(Todo::Reply(session, id, reply));
            }
            replica::Action::SetTimer(at) => self.set_timer(Waiting::Replica, at),
            replica::Action::Failed(cause) => todo.push_back(Todo::ReplicaFailed(cause)),
        });
    }

    fn set_timer(&self, waiting: Waiting, at: Time) {
        let alarm: Weak<dyn Alarm> = self.myself.clone();
        self.node.timers.set(self.timer_owner, waiting.alarm(), at, alarm);
    }
}
