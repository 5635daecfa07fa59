//! Which replicas of this node are open. Opens one when somebody wants a session with it, once for all who want one, and
//! closes it when nobody needs it open any more, or before it is deleted. Knows no volume.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::error::{CloseReplicaError, ReplicaError};
use super::replica::{Caller, HostedReplica};
use super::{Node, clock};
use crate::disk::DiskError;
use crate::format::{FailCause, ReplicaIdentity};
use crate::ids::ReplicaId;
use crate::machine::{SessionId, Time};

/// How often a closing looks whether the last operation is done.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How long a replica that could not be opened is declined without looking at the disk again, with the reason.
const REMEMBERED: Duration = Duration::from_secs(1);
/// How long a lock is waited for that somebody has by accident, and between tries.
const LOCKED: Duration = Duration::from_secs(2);
const LOCK_AGAIN: Duration = Duration::from_millis(10);

/// Those that wait for one opening at most.
const MOST_WAITING: usize = 64;

/// Told how an opening went.
pub(super) type Then = Box<dyn FnOnce(Result<Arc<HostedReplica>, ReplicaError>) + Send>;

enum Slot {
    /// A thread is at it; these wait.
    Opening(Vec<Then>),
    Open(Arc<HostedReplica>),
    /// Nobody needed it; these do by now, and wait until it can be opened again.
    Retiring(Vec<Then>),
    /// It is to stay closed once it is.
    Closing(Arc<HostedReplica>),
}

#[derive(Default)]
struct State {
    slots: HashMap<ReplicaId, Slot>,
    /// What could not be opened when it was last tried, and when that was.
    refused: HashMap<ReplicaId, (Instant, ReplicaError)>,
    /// Replicas that have failed in this process: their disks may not have taken the note of it (D6).
    failed: HashMap<ReplicaId, FailCause>,
    /// Replicas whose failure a person has said to be of no matter; until they are opened.
    pardoned: HashSet<ReplicaId>,
    /// When a replica was last closed that was not in order: leases that it granted are counted from then.
    unclean_close: Option<Time>,
}

/// The open replicas of a node.
#[derive(Default)]
pub(super) struct Replicas {
    state: Mutex<State>,
    changed: Condvar,
}

impl Replicas {
    /// Gives the replica to `then`, open: at once if it is, else from a thread of its own.
    pub(super) fn with(&self, node: &Arc<Node>, identity: ReplicaIdentity, then: Then) {
        let replica = identity.replica;
        let mut state = self.state.lock();
        match state.slots.entry(replica) {
            Entry::Occupied(mut slot) => match slot.get_mut() {
                Slot::Open(open) => {
                    let open = Arc::clone(open);
                    drop(state);
                    then(check(node, &open, &identity).map(|()| open));
                }
                // Whoever asked before may have given up long ago, on a disk that hangs.
                Slot::Opening(waiting) | Slot::Retiring(waiting) if waiting.len() >= MOST_WAITING => {
                    drop(state);
                    let node = node.config.node;
                    then(Err(ReplicaError::Slow { node, replica }));
                }
                // Each is checked when it is open.
                Slot::Opening(waiting) | Slot::Retiring(waiting) => {
                    let node = Arc::downgrade(node);
                    waiting.push(Box::new(move |opened| {
                        then(opened.and_then(|open| match node.upgrade() {
                            Some(node) => check(&node, &open, &identity).map(|()| open),
                            None => Ok(open),
                        }));
                    }));
                }
                Slot::Closing(_) => {
                    drop(state);
                    let node = node.config.node;
                    then(Err(ReplicaError::Closing { node, replica }));
                }
            },
            Entry::Vacant(slot) => {
                slot.insert(Slot::Opening(vec![then]));
                drop(state);
                self.open_elsewhere(node, identity);
            }
        }
    }

    /// Gives the replica to `then`, open and with this session begun. One that is just being closed because nobody needed
    /// it is waited for, and opened again.
    pub(super) fn with_session(
        &self,
        node: &Arc<Node>,
        identity: ReplicaIdentity,
        session: SessionId,
        caller: impl Fn() -> Caller + Send + 'static,
        then: Then,
    ) {
        let (on, again) = (node.config.node, Arc::downgrade(node));
        let begin = move |opened: Result<Arc<HostedReplica>, ReplicaError>| match opened {
            Ok(open) if !open.begin_session(session, caller()) => match again.upgrade() {
                Some(node) => node.replicas.with_session(&node, identity, session, caller, then),
                None => then(Err(ReplicaError::Closing {
                    node: on,
                    replica: identity.replica,
                })),
            },
            other => then(other),
        };
        self.with(node, identity, Box::new(begin));
    }

    /// The replica, open; waits for its disk at most `patience`.
    pub(super) fn open(
        &self,
        node: &Arc<Node>,
        identity: ReplicaIdentity,
        patience: Duration,
    ) -> Result<Arc<HostedReplica>, ReplicaError> {
        let (sender, opened) = crossbeam_channel::bounded(1);
        let then = move |result| {
            // Nobody waits any more if this fails.
            let _ = sender.send(result);
        };
        self.with(node, identity, Box::new(then));
        opened.recv_timeout(patience).unwrap_or_else(|_| {
            Err(ReplicaError::Slow {
                node: node.config.node,
                replica: identity.replica,
            })
        })
    }

    /// Whether a session of another node may begin, as far as that is known without waiting for a disk.
    pub(super) fn admit(&self, node: &Node, identity: &ReplicaIdentity) -> Result<(), ReplicaError> {
        let (here, replica) = (node.config.node, identity.replica);
        node.locate(identity)?;
        let state = self.state.lock();
        if let Some((since, error)) = state.refused.get(&replica)
            && since.elapsed() < REMEMBERED
        {
            return Err(error.clone());
        }
        match state.slots.get(&replica) {
            Some(Slot::Open(open)) => check(node, open, identity),
            Some(Slot::Closing(_)) => Err(ReplicaError::Closing { node: here, replica }),
            Some(Slot::Opening(_) | Slot::Retiring(_)) | None => Ok(()),
        }
    }

    fn open_elsewhere(&self, node: &Arc<Node>, identity: ReplicaIdentity) {
        let opener = Arc::clone(node);
        // A lane of its own: a disk that hangs holds up no other replica.
        node.executor.lane(1).run(move || {
            let opened = opener.open_files(&identity);
            opener.replicas.opened(identity.replica, opened);
        });
    }

    fn opened(&self, replica: ReplicaId, opened: Result<Arc<HostedReplica>, ReplicaError>) {
        let mut state = self.state.lock();
        let slot = match &opened {
            Ok(open) => {
                state.refused.remove(&replica);
                state.slots.insert(replica, Slot::Open(Arc::clone(open)))
            }
            Err(error) => {
                let before = state.refused.insert(replica, (Instant::now(), error.clone()));
                // It is tried over and over; said once.
                if before.is_none_or(|(_, before)| before.to_string() != error.to_string()) {
                    tracing::warn!(%replica, %error, "a replica could not be opened");
                }
                state.slots.remove(&replica)
            }
        };
        drop(state);
        self.changed.notify_all();
        if let Some(Slot::Opening(waiting)) = slot {
            for then in waiting {
                then(opened.clone());
            }
        }
    }

    /// Closes a replica, and forgets at its next opening that it has failed.
    pub(super) fn pardon(&self, replica: ReplicaId, until: Instant) -> Result<(), CloseReplicaError> {
        self.close(replica, until)?;
        self.state.lock().pardoned.insert(replica);
        Ok(())
    }

    /// Whether a replica is to be opened although it has failed.
    fn take_pardon(&self, replica: ReplicaId) -> bool {
        let mut state = self.state.lock();
        let pardoned = state.pardoned.remove(&replica);
        if pardoned {
            state.failed.remove(&replica);
        }
        pardoned
    }

    /// Whether a replica has failed that was open in this process before.
    fn failure(&self, replica: ReplicaId) -> Option<FailCause> {
        self.state.lock().failed.get(&replica).copied()
    }

    /// From when on leases are counted that a replica granted which was not closed in order.
    pub(super) fn unclean_close(&self) -> Option<Time> {
        self.state.lock().unclean_close
    }

    /// Closes a replica that nobody needs open.
    pub(super) fn retire(&self, node: &Arc<Node>, replica: &Arc<HostedReplica>) {
        let id = replica.identity.replica;
        let mut state = self.state.lock();
        let is_meant = |slot: &&mut Slot| matches!(slot, Slot::Open(open) if Arc::ptr_eq(open, replica));
        let Some(slot) = state.slots.get_mut(&id).filter(is_meant) else {
            return;
        };
        if !replica.close_if_done() {
            return;
        }
        *slot = Slot::Retiring(Vec::new());
        drop(state);
        replica.files.close();
        let slot = self.state.lock().slots.remove(&id);
        self.changed.notify_all();
        if let Some(Slot::Retiring(waiting)) = slot {
            for then in waiting {
                self.with(node, replica.identity, then);
            }
        }
    }

    /// Waits until a replica is closed, or is needed open; whether that came about by `until`.
    pub(super) fn wait_settled(&self, replica: ReplicaId, until: Instant) -> bool {
        let mut state = self.state.lock();
        loop {
            match state.slots.get(&replica) {
                None | Some(Slot::Opening(_) | Slot::Closing(_)) => return true,
                Some(Slot::Open(open)) if open.is_quiet() => return true,
                Some(Slot::Open(_) | Slot::Retiring(_)) => {}
            }
            // A replica that comes to rest tells nobody.
            let next = until.min(Instant::now() + LOOK_AGAIN);
            if self.changed.wait_until(&mut state, next).timed_out() && Instant::now() >= until {
                return false;
            }
        }
    }

    /// Ends the sessions of a replica that is open; [`close`](Self::close) has to follow.
    pub(super) fn begin_closing(&self, open: &Arc<HostedReplica>) {
        let mut state = self.state.lock();
        if let Some(slot) = state.slots.get_mut(&open.identity.replica)
            && matches!(slot, Slot::Open(now) if Arc::ptr_eq(now, open))
        {
            *slot = Slot::Closing(Arc::clone(open));
            drop(state);
            open.cut_off();
        }
    }

    /// Ends a replica's sessions and closes it, in order or not.
    pub(super) fn close(&self, replica: ReplicaId, until: Instant) -> Result<(), CloseReplicaError> {
        let stuck = || Err(CloseReplicaError::Stuck { replica });
        let open = loop {
            let mut state = self.state.lock();
            match state.slots.get_mut(&replica) {
                None => return Ok(()),
                Some(slot @ Slot::Open(_)) => {
                    if let Slot::Open(open) = slot {
                        let open = Arc::clone(open);
                        *slot = Slot::Closing(Arc::clone(&open));
                        break open;
                    }
                }
                // Somebody else is at it, or was and gave up.
                Some(Slot::Closing(open)) => break Arc::clone(open),
                Some(Slot::Opening(_) | Slot::Retiring(_)) => {
                    if self.changed.wait_until(&mut state, until).timed_out() {
                        return stuck();
                    }
                }
            }
        };
        open.cut_off();
        let superblock = loop {
            if let Some(superblock) = open.close_if_quiet() {
                break superblock;
            }
            if Instant::now() >= until {
                return stuck();
            }
            thread::sleep(LOOK_AGAIN);
        };
        open.files.close();
        let mut state = self.state.lock();
        if !superblock.clean {
            state.unclean_close = Some(clock::now());
        }
        if let Some(cause) = superblock.failed {
            state.failed.insert(replica, cause);
        }
        // Somebody else who closed it as well may have been faster, and it may be open again.
        if matches!(state.slots.get(&replica), Some(Slot::Closing(closed)) if Arc::ptr_eq(closed, &open)) {
            state.slots.remove(&replica);
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Those that are open now.
    pub(super) fn all(&self) -> Vec<Arc<HostedReplica>> {
        let state = self.state.lock();
        let open = |slot: &Slot| match slot {
            Slot::Open(open) | Slot::Closing(open) => Some(Arc::clone(open)),
            Slot::Opening(_) | Slot::Retiring(_) => None,
        };
        state.slots.values().filter_map(open).collect()
    }
}

/// Whether an open replica is the one that is meant (D7).
fn check(node: &Node, open: &HostedReplica, expected: &ReplicaIdentity) -> Result<(), ReplicaError> {
    if open.identity == *expected {
        return Ok(());
    }
    Err(ReplicaError::OtherVolume {
        node: node.config.node,
        replica: expected.replica,
        found: open.identity.volume,
        expected: expected.volume,
    })
}

impl Node {
    /// Where a replica lies, if it is served.
    pub(super) fn locate(&self, identity: &ReplicaIdentity) -> Result<std::path::PathBuf, ReplicaError> {
        let not_served = |why| ReplicaError::NotServed {
            node: self.config.node,
            replica: identity.replica,
            why,
        };
        if identity.cluster != self.config.cluster {
            return Err(not_served(format!(
                "it is of cluster {}, this node of {}",
                identity.cluster, self.config.cluster
            )));
        }
        self.config.locate.locate(identity).map_err(not_served)
    }

    fn open_files(self: &Arc<Self>, identity: &ReplicaIdentity) -> Result<Arc<HostedReplica>, ReplicaError> {
        let dir = self.locate(identity)?;
        let caching = self.config.replicas.caching;
        let disk = |source: DiskError| ReplicaError::Disk {
            node: self.config.node,
            source: Arc::new(source),
        };
        let end = Instant::now() + LOCKED;
        let mut files = loop {
            match self.config.locate.open(&dir, identity, caching) {
                // A child that was just forked has its parent's locks until it executes its program.
                Err(DiskError::InUse(_)) if Instant::now() < end => thread::sleep(LOCK_AGAIN),
                opened => break opened.map_err(disk)?,
            }
        };
        if !files.image.both_slots_valid {
            tracing::warn!(
                volume = %identity.volume, replica = %identity.replica,
                "one superblock slot is torn or damaged; the other one counts"
            );
        }
        if let Some(cause) = self.replicas.failure(identity.replica) {
            files.image.superblock.failed.get_or_insert(cause);
        }
        let loaded_at = self.leased_since(files.image.superblock.boot);
        let pardon = self.replicas.take_pardon(identity.replica);
        Ok(HostedReplica::new(self, &dir, files, loaded_at, pardon))
    }

    /// When a replica that is being opened may last have granted a lease, if it was not closed in order: not after this
    /// node's start, as its replicas have one owner at a time, unless it was this node that closed it so; not after the
    /// boot of the kernel, if it was last opened before that. Where there are no other nodes, nobody has one whom a new
    /// primary would have to wait for: the one before was this node's own, and is gone.
    fn leased_since(&self, boot: crate::ids::BootId) -> Time {
        let lease = self.config.replicas.lease;
        if self.config.links.is_none() {
            return clock::now() - lease;
        }
        let since = if boot == self.boot {
            self.started
        } else {
            Time::ZERO
        };
        self.replicas
            .unclean_close()
            .map_or(since, |closed| closed.max(since))
    }
}
