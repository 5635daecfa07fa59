//! The shell around the machines: turns their actions into calls on disks, links and the store, and what these answer
//! into events.
//!
//! It decides nothing about replication: every rule is a machine's. What it owns is how things run: which thread does
//! what, how much may be in flight, and that one volume holds up no other.
//!
//! | part | owns |
//! |---|---|
//! | [`Node`], `replicas` | what all volumes share; which replicas of this node are open |
//! | `replica`, `files` | one open replica: its machine, its sessions, its two files |
//! | `serve` | the way in for primaries on other nodes |
//! | [`Volume`], `precheck`, `drive`, `pending` | one attached volume: its primary machine, and who waits for it |
//! | `way` | from a volume to a replica on another node |
//! | [`RecordKeeper`] | from a volume to its record in the store |
//! | `round` | what a thread executes after a step |
//! | `survey` | what a volume's replicas say of themselves, before it is attached |
//! | `verify` | who waits for a comparison of the members |
//!
//! **One block write.** A front end's thread calls [`Volume::submit`](crate::io::BlockDevice::submit): it takes a
//! permit and steps the primary under its lock. What that sends is queued for the replicas elsewhere, and steps the machine of
//! the one here; then the lock is free, the queued requests are written to their sockets, and the local write is done
//! while they are on their way, on the same thread, up to the front end's completion. What waits for the disk (syncs,
//! metadata commits, reads of what the page cache does not hold) runs on the [`Node`]'s threads, and goes on from there in
//! the same way. An answer of another node comes on its session's thread, which never touches a disk; one timer thread
//! wakes machines that asked for it, and does not either. So a disk that hangs holds up the operations that need it, and
//! neither the other members' answers nor the removal of the one that hangs.
//!
//! A step runs under a machine's lock; its actions are executed after unlocking, except those whose order counts: what is
//! sent reaches each replica in the order of sending, and timers are set in the order of asking.

mod changes;
mod clock;
mod config;
mod counters;
mod drive;
mod error;
mod executor;
mod files;
mod pending;
mod permits;
mod precheck;
mod record;
mod replica;
mod replicas;
mod round;
mod serve;
mod status;
mod survey;
mod timer;
mod verify;
mod view;
mod volume;
mod way;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::disk;
use crate::ids::{BootId, Epoch, ReplicaId, VolumeId};
use crate::link::{ListenError, Listener, LocalNode, SessionCounter};
use crate::machine::Time;
use crate::wire::{NodeRun, VersionRange};

pub use config::{Links, Locate, NodeConfig, OnEnded, OnEvent, ReplicaSettings, VolumeConfig};
pub use counters::{LATENCY_BOUNDS, Latencies, Latency, Served};
pub use error::{CloseError, CloseReplicaError, OpenError, ReplicaError, StartError};
pub use record::{RecordKeeper, RecordRead, Swapped};
pub use status::{
    PeerView, Reach, RebuildStatus, ReplicaStatus, Standing, Surveyed, VerifyStatus, VolumeEvent,
    VolumeState, VolumeStatus,
};
pub use verify::Verification;
pub use volume::Volume;

use executor::Executor;
use replicas::Replicas;
use serve::Door;
use timer::Timers;

/// What all volumes and replicas of a process share. There is one for each node; at its start no other process may serve
/// the node's replicas any more.
pub struct Node {
    config: NodeConfig,
    boot: BootId,
    run: NodeRun,
    started: Time,
    executor: Executor,
    timers: Timers,
    sessions: Arc<SessionCounter>,
    replicas: Replicas,
    volumes: Mutex<BTreeMap<VolumeId, (Epoch, Weak<Volume>)>>,
    listener: Mutex<Option<Listener>>,
    myself: Weak<Node>,
}

impl Node {
    /// Starts the timer thread, and reads the kernel's boot id. Serves nobody yet.
    pub fn start(config: NodeConfig) -> Result<Arc<Self>, StartError> {
        if let Some(links) = &config.links {
            links.config.check()?;
        }
        let boot = match config.boot {
            Some(boot) => boot,
            None => disk::boot_id()?,
        };
        let timers = Timers::start().map_err(StartError::Thread)?;
        Ok(Arc::new_cyclic(|myself| Self {
            config,
            boot,
            run: NodeRun(Uuid::new_v4().as_u128()),
            started: clock::now(),
            executor: Executor::default(),
            timers,
            sessions: Arc::default(),
            replicas: Replicas::default(),
            volumes: Mutex::default(),
            listener: Mutex::default(),
            myself: myself.clone(),
        }))
    }

    /// Serves this node's replicas to primaries on other nodes from now on. Answers where: the port is the system's choice
    /// if none is given. Replaces what was listened on before.
    pub fn listen(&self, address: SocketAddr) -> Result<SocketAddr, ListenError> {
        let Some(links) = &self.config.links else {
            let error = std::io::Error::other("this node was set up to have no others");
            return Err(ListenError::Bind { address, error });
        };
        // First, so that the same port can be taken again.
        *self.listener.lock() = None;
        let listener = Listener::bind(
            address,
            self.local(links),
            links.config.clone(),
            Arc::clone(&links.transport),
            Arc::clone(&self.sessions),
            Arc::new(Door {
                node: self.myself.clone(),
            }),
        )?;
        let address = listener.address();
        *self.listener.lock() = Some(listener);
        Ok(address)
    }

    /// Takes no new session of another node any more. Those that are up go on.
    pub fn stop_listening(&self) {
        *self.listener.lock() = None;
    }

    /// Ends the sessions of a replica of this node and closes its files, so that they can be deleted or moved; whoever
    /// asks for a session meanwhile is declined. [`Locate`] has to decline it before, or it may be opened again. Returns by
    /// `deadline` or soon after.
    pub fn close_replica(&self, replica: ReplicaId, deadline: Instant) -> Result<(), CloseReplicaError> {
        self.replicas.close(replica, deadline)
    }

    /// Closes a replica of this node and forgets at its next opening that it has failed: a person has declared that what it
    /// holds is what there is (P6). Nothing is written before a primary opens it.
    pub fn pardon_replica(&self, replica: ReplicaId, deadline: Instant) -> Result<(), CloseReplicaError> {
        self.replicas.pardon(replica, deadline)
    }

    /// An open replica of this node.
    pub fn replica(&self, replica: ReplicaId) -> Option<ReplicaStatus> {
        let open = self.replicas.all();
        let found = open.iter().find(|open| open.identity.replica == replica);
        found.map(|open| open.status())
    }

    /// The open replicas of this node.
    pub fn replicas(&self) -> Vec<ReplicaStatus> {
        self.replicas.all().iter().map(|open| open.status()).collect()
    }

    /// Stops serving: no session of another node is taken or kept, and the replicas are closed. Volumes that are open lose
    /// their replica here; they are closed first. Whether every replica could be closed by `deadline`.
    pub fn stop(&self, deadline: Instant) -> bool {
        self.stop_listening();
        // All of them first: while one is waited for whose disk hangs, the others come to rest.
        let open = self.replicas.all();
        for open in &open {
            self.replicas.begin_closing(open);
        }
        let mut all = true;
        for open in open {
            all &= self.replicas.close(open.identity.replica, deadline).is_ok();
        }
        all
    }

    fn local(&self, links: &Links) -> LocalNode {
        LocalNode {
            cluster: self.config.cluster,
            node: self.config.node,
            run: self.run,
            versions: VersionRange::OURS,
            data_crc: links.data_crc,
        }
    }

    /// Whether a volume may be opened in this epoch.
    fn enter_volume(&self, volume: VolumeId, epoch: Epoch) -> Result<(), OpenError> {
        let mut volumes = self.volumes.lock();
        volumes.retain(|_, (_, open)| open.strong_count() > 0);
        match volumes.get(&volume) {
            Some((at, open)) if *at >= epoch && open.upgrade().is_some_and(|open| open.ended().is_none()) => {
                Err(OpenError::Open { volume, epoch: *at })
            }
            _ => Ok(()),
        }
    }

    fn note_volume(&self, volume: &Arc<Volume>) {
        let at = (volume.term(), Arc::downgrade(volume));
        self.volumes.lock().insert(volume.id(), at);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_listening();
        // Sessions hold on to each other's ends; without this their threads would serve on.
        for open in self.replicas.all() {
            open.cut_off();
        }
    }
}
