//! A round: what one thread has to execute after it stepped a machine, and what follows from that, until nothing is left.
//!
//! Steps happen under the machines' locks, execution outside of them. A volume's lock may be held while a replica's is
//! taken, never the other way round. What goes to other nodes, and every answer, goes before anything is done to a disk here.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::drive::VolumeTodo;
use super::files::Outcome;
use super::replica::HostedReplica;
use super::volume::Volume;
use super::way::Way;
use crate::io::Data;
use crate::link::ReplicaSession;
use crate::machine::replica::{self, DiskId, DiskOp};
use crate::machine::{Reply, RequestId};

/// Something to execute, outside of any lock.
pub(super) enum Todo {
    Volume(Arc<Volume>, VolumeTodo),
    Answer(Arc<ReplicaSession>, RequestId, Reply<Data>),
    /// Nobody uses the replica any more, and it is in order.
    Retire(Arc<HostedReplica>),
}

/// Something to do to the disk of a replica here.
type DiskTodo = (Arc<HostedReplica>, DiskId, DiskOp<Data>);

thread_local! {
    /// The queues of this thread's last round, for their memory.
    static SPARE: Cell<(VecDeque<Todo>, VecDeque<DiskTodo>)> = const { Cell::new((VecDeque::new(), VecDeque::new())) };
}

/// What a round may do on its own thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Disk {
    /// Wait for the disk, once, if no other front end's thread of this replica does: that saves a hop where there is
    /// one request at a time, and leaves the front end's other threads free where there are many.
    MayWait,
    /// Touch the disk, but not wait for it.
    MayTouch,
    /// Touch the disk if no other front end's thread of this replica does; a volume with other members goes on without
    /// this one when its disk hangs, and so must not lose all its front end's threads to it.
    MayTouchAlone,
    /// Neither.
    Elsewhere,
}

/// The right of one front end's thread to be at the disk itself.
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

/// What is left to do in a round.
pub(super) struct Round {
    disk: Disk,
    todo: VecDeque<Todo>,
    /// After everything else, because it may take its time: an answer must not wait for a disk that hangs.
    disks: VecDeque<DiskTodo>,
    /// Ways to other nodes on which something waits to be sent.
    sends: Vec<Arc<Way>>,
}

impl Round {
    /// Begins with what `begin` finds to be done, and goes on until all is done.
    pub(super) fn run(disk: Disk, begin: impl FnOnce(&mut Self)) {
        let (todo, disks) = SPARE.take();
        let mut round = Self {
            disk,
            todo,
            disks,
            sends: Vec::new(),
        };
        begin(&mut round);
        round.finish();
        SPARE.set((round.todo, round.disks));
    }

    /// Does what there is to do, without waiting for a disk, and goes on.
    pub(super) fn clear(&mut self) {
        let disk = std::mem::replace(&mut self.disk, Disk::Elsewhere);
        self.finish();
        self.disk = disk;
    }

    /// What may be done on this thread from now on.
    pub(super) const fn allow(&mut self, disk: Disk) {
        self.disk = disk;
    }

    fn finish(&mut self) {
        loop {
            for way in std::mem::take(&mut self.sends) {
                way.send_queued();
            }
            if let Some(next) = self.todo.pop_front() {
                self.execute(next);
            } else if let Some((replica, id, op)) = self.disks.pop_front() {
                self.execute_disk(&replica, id, op);
            } else {
                break;
            }
        }
    }

    pub(super) fn push(&mut self, todo: Todo) {
        self.todo.push_back(todo);
    }

    pub(super) fn push_disk(&mut self, replica: Arc<HostedReplica>, id: DiskId, op: DiskOp<Data>) {
        self.disks.push_back((replica, id, op));
    }

    /// Something has been queued on this way.
    pub(super) fn push_send(&mut self, way: &Arc<Way>) {
        if !self.sends.iter().any(|known| Arc::ptr_eq(known, way)) {
            self.sends.push(Arc::clone(way));
        }
    }

    fn execute(&mut self, next: Todo) {
        match next {
            Todo::Volume(volume, todo) => volume.execute(todo, self),
            Todo::Answer(session, id, reply) => answer(&session, id, &reply),
            Todo::Retire(replica) if self.disk == Disk::Elsewhere => {
                let lane = replica.lanes.data.clone();
                lane.run(move || replica.retire());
            }
            Todo::Retire(replica) => replica.retire(),
        }
    }

    fn execute_disk(&mut self, replica: &Arc<HostedReplica>, id: DiskId, op: DiskOp<Data>) {
        if self.disk == Disk::Elsewhere {
            execute_elsewhere(replica, id, op);
            return;
        }
        if self.disk == Disk::MayTouchAlone {
            if !replica.turnstile.enter() {
                execute_elsewhere(replica, id, op);
                return;
            }
            let result = replica.files.execute_at_once(op);
            replica.turnstile.leave();
            match result {
                Ok(result) => self.disk_done(replica, id, result),
                Err(op) => execute_elsewhere(replica, id, op),
            }
            return;
        }
        let result = match replica.files.execute_at_once(op) {
            Ok(result) => result,
            // What else there is to do has to be begun first.
            Err(op) if self.disk == Disk::MayWait && self.disks.is_empty() && replica.turnstile.enter() => {
                self.disk = Disk::MayTouch;
                let result = replica.files.execute(op);
                replica.turnstile.leave();
                result
            }
            Err(op) => {
                execute_elsewhere(replica, id, op);
                return;
            }
        };
        self.disk_done(replica, id, result);
    }

    fn disk_done(&mut self, replica: &Arc<HostedReplica>, id: DiskId, result: Outcome) {
        replica.step(replica::Event::Disk { id, result }, self);
    }
}

fn execute_elsewhere(replica: &Arc<HostedReplica>, id: DiskId, op: DiskOp<Data>) {
    let lane = match op {
        DiskOp::SyncData | DiskOp::CommitMeta(_) => &replica.lanes.syncs,
        DiskOp::Read(_) | DiskOp::ReadOrHole(_) | DiskOp::Write { .. } | DiskOp::Zero(_) => {
            &replica.lanes.data
        }
    };
    let replica = Arc::clone(replica);
    lane.run(move || {
        let result = replica.files.execute(op);
        Round::run(Disk::MayTouch, |round| round.disk_done(&replica, id, result));
    });
}

/// Answers a primary on another node.
pub(super) fn answer(session: &ReplicaSession, id: RequestId, reply: &Reply<Data>) {
    if let Err(error) = session.reply(id, reply)
        && session.ended().is_none()
    {
        // It waits for this answer for ever otherwise.
        tracing::warn!(node = %session.peer().node, %error, "an answer could not be sent; the session is closed");
        session.close();
    }
}
