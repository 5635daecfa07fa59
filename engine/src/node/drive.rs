//! Steps a volume's primary and executes what it says.
//!
//! What is sent is handed on under the primary's lock, so that it reaches each replica in the order of sending: a replica
//! here is stepped, for one elsewhere it is queued. Everything else is done when the lock is free.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::changes::Changes;
use super::clock;
use super::error::ReplicaError;
use super::pending::{Pending, PendingOps};
use super::record::{ReadAnswer, SwapAnswer};
use super::replica::{Caller, HostedReplica};
use super::round::{Disk, Round, Todo};
use super::status::VolumeEvent;
use super::timer::Alarm;
use super::verify::Verifies;
use super::volume::Volume;
use super::way::Way;
use crate::format::ReplicaIdentity;
use crate::ids::{NodeId, ReplicaId};
use crate::io::{Data, IoError};
use crate::link::Dial;
use crate::machine::primary::{Action, EndReason, Event, Op, Revision};
use crate::machine::record::ChangeId;
use crate::machine::{Primary, Record, Reply, RequestId, SessionId};

/// How a replica is reached.
pub(super) enum To {
    /// It is on this node. The session that the machine deals with, and now and then one that it is about to refuse.
    Here {
        sessions: Vec<(SessionId, Arc<HostedReplica>)>,
        /// Why there is none, in words.
        trouble: Option<String>,
    },
    There(Arc<Way>),
}

/// The primary machine, and what the shell keeps beside it under the same lock.
pub(super) struct Core {
    pub(super) primary: Primary<Data>,
    pub(super) pending: PendingOps,
    /// How each replica is reached that was ever to be.
    pub(super) ways: Vec<(ReplicaId, To)>,
    pub(super) changes: Changes,
    pub(super) verifies: Verifies,
    /// The shell has given the machine up: nothing is done any more.
    pub(super) abandoned: bool,
    /// Kept for its memory.
    actions: Vec<Action<Data>>,
}

impl Core {
    pub(super) fn new(primary: Primary<Data>, actions: Vec<Action<Data>>) -> Self {
        Self {
            primary,
            pending: PendingOps::default(),
            ways: Vec::new(),
            changes: Changes::default(),
            verifies: Verifies::default(),
            abandoned: false,
            actions,
        }
    }

    pub(super) fn way(&self, replica: ReplicaId) -> Option<&To> {
        self.ways.iter().find(|(id, _)| *id == replica).map(|(_, to)| to)
    }

    fn way_mut(&mut self, replica: ReplicaId) -> Option<&mut To> {
        self.ways
            .iter_mut()
            .find(|(id, _)| *id == replica)
            .map(|(_, to)| to)
    }

    /// Why a replica is not there, in words, if that is known.
    pub(super) fn trouble(&self, replica: ReplicaId) -> Option<String> {
        match self.way(replica)? {
            To::Here { trouble, .. } => trouble.clone(),
            To::There(way) => way.trouble(),
        }
    }

    /// Notes a session with a replica here, or why there is none.
    fn note_here(&mut self, replica: ReplicaId, came: Result<(SessionId, Arc<HostedReplica>), String>) {
        let Some(To::Here { sessions, trouble }) = self.way_mut(replica) else {
            return;
        };
        match came {
            Ok(session) => {
                *trouble = None;
                sessions.push(session);
            }
            Err(why) => *trouble = Some(why),
        }
    }

    fn forget_here(&mut self, replica: ReplicaId, session: SessionId) -> Option<Arc<HostedReplica>> {
        let Some(To::Here { sessions, .. }) = self.way_mut(replica) else {
            return None;
        };
        let at = sessions.iter().position(|(id, _)| *id == session)?;
        Some(sessions.swap_remove(at).1)
    }
}

/// Something that a volume has to do, outside of any lock.
pub(super) enum VolumeTodo {
    Complete(Pending, Result<Option<Data>, IoError>),
    /// Of a replica here.
    Reply(ReplicaId, SessionId, RequestId, Reply<Data>),
    /// The same replica has ended a session.
    Unlinked(ReplicaId, Option<SessionId>),
    ConnectHere(ReplicaId),
    ConnectThere(Arc<Way>),
    Swap {
        change: ChangeId,
        expected: Revision,
        record: Record,
    },
    ReadRecord,
    Serving,
    Ended(EndReason),
    Happened(VolumeEvent),
}

impl Volume {
    /// Executes what the primary said when it was started.
    pub(super) fn begin(self: &Arc<Self>) {
        Round::run(Disk::MayTouch, |round| {
            self.sort_out(&mut self.core.lock(), round);
        });
    }

    /// Takes a request of the front end, whose thread may do what comes of it.
    pub(super) fn enter(self: &Arc<Self>, op: Op<Data>, pending: Pending, round: &mut Round) {
        let mut core = self.core.lock();
        if core.abandoned {
            drop(core);
            let failed = VolumeTodo::Complete(pending, Err(IoError::Io));
            round.push(Todo::Volume(Arc::clone(self), failed));
            return;
        }
        let id = core.pending.insert(pending);
        self.step_locked(&mut core, Event::Submit { id, op }, round);
    }

    /// Tells the primary something, from a thread that must not wait for a disk.
    pub(super) fn post(self: &Arc<Self>, event: Event<Data>) {
        Round::run(Disk::Elsewhere, |round| self.step(event, round));
    }

    /// Steps the primary; what comes of it is for the round.
    pub(super) fn step(self: &Arc<Self>, event: Event<Data>, round: &mut Round) {
        self.step_locked(&mut self.core.lock(), event, round);
    }

    fn step_locked(self: &Arc<Self>, core: &mut Core, event: Event<Data>, round: &mut Round) {
        if core.abandoned {
            return;
        }
        let routine = match &event {
            Event::Submit { .. } => true,
            Event::Reply { reply, .. } => {
                !matches!(reply, Reply::Opened(_) | Reply::Failed(_) | Reply::Refused(_))
            }
            _ => false,
        };
        // The time is read under the lock, so that the machine never sees it go back.
        let now = clock::now();
        core.primary.handle(now, event, &mut core.actions);
        self.sort_out(core, round);
        if !routine {
            self.note_changes(core, now, round);
        }
    }

    fn note_changes(self: &Arc<Self>, core: &mut Core, now: crate::machine::Time, round: &mut Round) {
        let others = core
            .primary
            .record()
            .members()
            .any(|member| member.node != self.node.config.node);
        self.has_others.store(others, Ordering::Relaxed);
        let mut changes = std::mem::take(&mut core.changes);
        changes.look(
            now,
            &core.primary,
            |replica| core.trouble(replica),
            |event| {
                let todo = VolumeTodo::Happened(event);
                round.push(Todo::Volume(Arc::clone(self), todo));
            },
        );
        core.changes = changes;
    }

    /// Hands on what is sent; the other actions go to the round.
    fn sort_out(self: &Arc<Self>, core: &mut Core, round: &mut Round) {
        let mut actions = std::mem::take(&mut core.actions);
        for action in actions.drain(..) {
            let todo = match action {
                Action::Connect { replica, node } => self.way_to(core, replica, node),
                Action::Disconnect { replica, session } => {
                    match core.way(replica) {
                        Some(To::There(way)) => way.disconnect(session),
                        _ => {
                            if let Some(hosted) = core.forget_here(replica, session) {
                                hosted.end_session(session, round);
                            }
                        }
                    }
                    continue;
                }
                Action::Send {
                    replica,
                    session,
                    id,
                    request,
                } => {
                    match core.way(replica) {
                        Some(To::There(way)) => {
                            way.queue(session, id, request);
                            round.push_send(way);
                        }
                        Some(To::Here { sessions, .. }) => {
                            if let Some((_, hosted)) = sessions.iter().find(|(known, _)| *known == session) {
                                hosted.request(session, id, request, round);
                            }
                        }
                        None => {}
                    }
                    continue;
                }
                Action::Complete { id, result } => match core.pending.remove(id) {
                    Some(pending) => VolumeTodo::Complete(pending, result),
                    None => continue,
                },
                Action::Swap {
                    change,
                    expected,
                    record,
                } => VolumeTodo::Swap {
                    change,
                    expected,
                    record,
                },
                Action::ReadRecord => VolumeTodo::ReadRecord,
                Action::Verified { id, report } => {
                    core.verifies.ended(id, report);
                    continue;
                }
                Action::Serving => VolumeTodo::Serving,
                Action::SetTimer(at) => {
                    let alarm: Weak<dyn Alarm> = self.myself.clone();
                    self.node.timers.set(self.timer_owner, 0, at, alarm);
                    continue;
                }
                Action::Ended(reason) => VolumeTodo::Ended(reason),
            };
            round.push(Todo::Volume(Arc::clone(self), todo));
        }
        core.actions = actions;
    }

    /// The way to a replica, made if there is none, and what is to be done to connect.
    fn way_to(&self, core: &mut Core, replica: ReplicaId, node: NodeId) -> VolumeTodo {
        if core.way(replica).is_none() {
            let to = if node == self.node.config.node {
                To::Here {
                    sessions: Vec::new(),
                    trouble: None,
                }
            } else {
                To::There(Way::new(replica, node, self.patience()))
            };
            core.ways.push((replica, to));
        }
        match core.way(replica) {
            Some(To::There(way)) => VolumeTodo::ConnectThere(Arc::clone(way)),
            _ => VolumeTodo::ConnectHere(replica),
        }
    }

    /// Does what is to be done outside of any lock.
    pub(super) fn execute(self: &Arc<Self>, todo: VolumeTodo, round: &mut Round) {
        match todo {
            VolumeTodo::Complete(pending, result) => pending.complete(result, self.counters()),
            VolumeTodo::Reply(replica, session, id, reply) => {
                let event = Event::Reply {
                    replica,
                    session,
                    id,
                    reply,
                };
                self.step(event, round);
            }
            VolumeTodo::Unlinked(replica, session) => {
                let mut core = self.core.lock();
                if let Some(session) = session {
                    core.forget_here(replica, session);
                }
                self.step_locked(&mut core, Event::Unlinked { replica, session }, round);
            }
            VolumeTodo::ConnectHere(replica) => {
                let node = &self.node;
                let (myself, session) = (self.myself.clone(), node.sessions.next());
                let caller = {
                    let myself = myself.clone();
                    move || Caller::Local(myself.clone())
                };
                let then = move |opened: Result<Arc<HostedReplica>, ReplicaError>| match myself.upgrade() {
                    Some(volume) => volume.came_here(replica, session, opened),
                    None => {
                        if let Ok(hosted) = opened {
                            Round::run(Disk::Elsewhere, |round| hosted.end_session(session, round));
                        }
                    }
                };
                let identity = self.replica_identity(replica);
                node.replicas
                    .with_session(node, identity, session, caller, Box::new(then));
            }
            VolumeTodo::ConnectThere(way) => self.connect_there(&way, round),
            VolumeTodo::Swap {
                change,
                expected,
                record,
            } => {
                let answer = SwapAnswer::to(self.myself.clone(), change);
                let done = move |outcome| answer.came(outcome);
                self.keeper().swap(change, expected, record, Box::new(done));
            }
            VolumeTodo::ReadRecord => {
                let answer = ReadAnswer::to(self.myself.clone());
                self.keeper().read(Box::new(move |found| answer.came(found)));
            }
            VolumeTodo::Serving => self.serving(),
            VolumeTodo::Ended(reason) => self.has_ended(reason, round),
            VolumeTodo::Happened(event) => self.happened(&event),
        }
    }

    fn connect_there(self: &Arc<Self>, way: &Arc<Way>, round: &mut Round) {
        let asked = match self.dial(way) {
            Some(dial) => way.connect(dial, self).map_err(|error| error.to_string()),
            None => Err("this node is not connected to others".to_owned()),
        };
        if let Err(error) = asked {
            way.note_trouble(error);
            let (replica, session) = (way.replica, None);
            self.step(Event::Unlinked { replica, session }, round);
        }
    }

    fn dial(&self, way: &Way) -> Option<Dial> {
        let links = self.node.config.links.as_ref()?;
        let mut config = links.config.clone();
        // Everything that may be in flight fits, also when it is all sent again at once.
        config.queue_bytes = config.queue_bytes.max(2 * self.max_bytes());
        Some(Dial {
            local: self.node.local(links),
            to: way.node,
            replica: self.replica_identity(way.replica),
            addresses: Arc::clone(&links.addresses),
            transport: Arc::clone(&links.transport),
            config,
            sessions: Arc::clone(&self.node.sessions),
        })
    }

    fn replica_identity(&self, replica: ReplicaId) -> ReplicaIdentity {
        ReplicaIdentity {
            cluster: self.node.config.cluster,
            volume: self.id(),
            replica,
        }
    }

    /// A replica here is open and has this session, or cannot be opened.
    fn came_here(
        self: &Arc<Self>,
        replica: ReplicaId,
        session: SessionId,
        opened: Result<Arc<HostedReplica>, ReplicaError>,
    ) {
        Round::run(Disk::Elsewhere, |round| {
            let came = opened.map_err(|error| error.to_string()).and_then(|hosted| {
                if let Err(error) = self.check_geometry(&hosted) {
                    hosted.end_session(session, round);
                    return Err(error);
                }
                Ok((session, hosted))
            });
            let mut core = self.core.lock();
            if core.abandoned {
                drop(core);
                if let Ok((session, hosted)) = came {
                    hosted.end_session(session, round);
                }
                return;
            }
            let event = match &came {
                Ok(_) => Event::Linked { replica, session },
                Err(_) => Event::Unlinked {
                    replica,
                    session: None,
                },
            };
            core.note_here(replica, came);
            self.step_locked(&mut core, event, round);
            if core.primary.phase() == crate::machine::primary::Phase::Ended
                && let Some(hosted) = core.forget_here(replica, session)
            {
                // It came too late; the machine does not say so any more.
                hosted.end_session(session, round);
            }
        });
    }

    /// Lets go of the machine as a crash of this process would: every request fails, every session ends, and nothing is
    /// done any more.
    pub(super) fn abandon(&self) {
        Round::run(Disk::Elsewhere, |round| {
            let mut core = self.core.lock();
            core.abandoned = true;
            let left = core.pending.take_all();
            let ways = std::mem::take(&mut core.ways);
            core.verifies.give_up();
            drop(core);
            for (_, to) in ways {
                match to {
                    To::There(way) => way.shut(),
                    To::Here { sessions, .. } => {
                        for (session, hosted) in sessions {
                            hosted.end_session(session, round);
                        }
                    }
                }
            }
            drop(left);
        });
    }
}
