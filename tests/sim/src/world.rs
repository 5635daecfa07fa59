//! One run: its events, and what each of them does. Deterministic: the plan decides everything.

use std::collections::BTreeMap;

use bulkhead_engine::geometry::Geometry;
use bulkhead_engine::ids::{Epoch, ReplicaId};
use bulkhead_engine::machine::primary::{self, OpId, Revision};
use bulkhead_engine::machine::record::ChangeId;
use bulkhead_engine::machine::replica::{self, DiskId};
use bulkhead_engine::machine::{Fault, FaultSet, MemberState, Record, RecordReplica, RequestId, SessionId};

use crate::ambush::Ambush;
use crate::checker::Checker;
use crate::disk::{Disk, Sectors};
use crate::last_resort::Restored;
use crate::net::{Net, Way};
use crate::node::{Host, Node, node_id, replica_id};
use crate::plan::{MS, Ns, Plan, SEC};
use crate::queue::Queue;
use crate::rng::Rng;
use crate::rot::Rot;
use crate::store::Store;
use crate::user::OpInfo;

/// Who asked the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The primary of this term.
    Primary(u32),
    /// The process that attaches the volume.
    Attach,
    /// The process that goes on for the one before.
    Resume,
    /// Nobody waits for the answer.
    Nobody,
}

/// What the store was asked.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Read the record.
    Read,
    /// Swap it.
    Swap {
        /// The change.
        change: ChangeId,
        /// The revision that it replaces.
        expected: Revision,
        /// The new record.
        record: Box<Record>,
        /// Which attaching makes its primary, if it is another one.
        holder: Option<u64>,
    },
}

/// What the store answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The record, and which attaching made its primary.
    Record(Box<Record>, Revision, u64),
    /// The outcome of a swap.
    Swapped(ChangeId, primary::SwapOutcome),
    /// Not reached.
    Unreachable,
}

/// Something that happens at a time.
#[derive(Clone, Debug)]
pub enum Ev {
    /// A process of a node is to handle this.
    Node(usize, u64, NodeEv),
    /// Messages of a connection may have arrived.
    Pump(usize, Way),
    /// An end learns that a connection is gone.
    Closed(usize, Way),
    /// The store handles a question.
    StoreDo(usize, u64, Asker, u64, Ask),
    /// An entry of the plan.
    Mischief(usize),
    /// A node comes back.
    Start(usize),
    /// A node is killed, or loses power, for so long.
    Strike(usize, Ns, bool),
    /// The process of a node is killed and comes back; one that is mute also where nothing else goes wrong any more.
    Restart(usize, Ns),
    /// A node is cut off, and the volume is wanted elsewhere.
    Usurp(usize, bool),
    /// The store loses its last change.
    Restore,
    /// The user looks whether the volume is where it is wanted.
    User,
    /// Everything is looked at.
    Audit,
    /// From now on nothing goes wrong any more.
    Calm,
    /// A replica is added to the record.
    AddReplica,
}

/// Something that a process handles.
#[derive(Clone, Debug)]
pub enum NodeEv {
    /// The replica's timer.
    ReplicaTimer,
    /// The primary's timer.
    PrimaryTimer(u32),
    /// A disk operation is done.
    Disk(DiskId),
    /// A connection is up or could not be made.
    Connect(u32, ReplicaId, bool),
    /// The store has answered.
    Store(Asker, u64, Answer),
    /// The watch shows a record.
    Watch(Box<Record>, Revision),
    /// The user does something with the volume.
    Op(u32),
    /// The volume is to be released.
    Release,
    /// The process goes on for the one before.
    Resume,
    /// What the one before has left is not gone on with later than now; it was left then.
    GiveUp(Ns),
    /// An operation is asked for again.
    Again(u32, OpId),
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What was wrong.
    pub violation: Option<String>,
    /// When.
    pub at: Ns,
    /// Events handled.
    pub events: u64,
    /// Writes acknowledged, flushes acknowledged, reads answered.
    pub counts: (u64, u64, u64),
    /// Times that a primary began to serve.
    pub served: u64,
    /// Operations that the next process was asked for again.
    pub asked_again: u64,
    /// Operations that failed, or whose outcome nobody learned.
    pub failed: u64,
    /// The longest time that a connection was without anybody who served it, and served again in the end.
    pub longest_pause: Ns,
    /// Whether every member was lost for good, so that nothing could be served to the end.
    pub dead: bool,
    /// Whether a person had to declare another replica the volume.
    pub forced: bool,
    /// Whether the volume was refused to the end, the store being an older copy.
    pub refused: bool,
    /// The store was restored, and nobody who knows better could be reached in time.
    pub overlooked: bool,
    /// Why primaries ended, in order.
    pub ended: Vec<primary::EndReason>,
    /// What happened, if it was to be told.
    pub trace: Vec<String>,
}

/// A run under way.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Ns,
    pub(crate) queue: Queue<Ev>,
    pub(crate) rng: Rng,
    pub(crate) work_rng: Rng,
    pub(crate) geometry: Geometry,
    pub(crate) nodes: Vec<Node>,
    pub(crate) net: Net,
    pub(crate) store: Store,
    pub(crate) store_down_until: Ns,
    pub(crate) store_slow_until: Ns,
    pub(crate) asks: BTreeMap<u64, ()>,
    pub(crate) ask_count: u64,
    pub(crate) ambushes: Vec<Ambush>,
    pub(crate) rot: Rot,
    pub(crate) restored: Restored,
    pub(crate) forced: bool,
    /// Epochs that have to be durable before these requests are answered.
    pub(crate) promised: BTreeMap<(SessionId, RequestId), Epoch>,
    pub(crate) checker: Checker,
    pub(crate) tracked: Vec<u32>,
    pub(crate) ops: BTreeMap<OpId, OpInfo>,
    pub(crate) op_count: u64,
    pub(crate) attachings: u64,
    pub(crate) wanted: usize,
    pub(crate) wanted_ask: bool,
    pub(crate) calm: bool,
    pub(crate) final_reads: Option<u64>,
    pub(crate) outcome: Outcome,
    pub(crate) finished: bool,
    pub(crate) tracing: bool,
    events_limit: u64,
}

macro_rules! tell {
    ($world:expr, $($what:tt)*) => {
        if $world.is_tracing() {
            let line = format!($($what)*);
            $world.note(line);
        }
    };
}
pub(crate) use tell;

impl World {
    /// The run of a plan.
    pub fn new(plan: Plan, tracing: bool) -> Self {
        let mut clocks = Rng::new(plan.seed, 2);
        let geometry = plan.geometry;
        let nodes = (0..plan.nodes)
            .map(|_| {
                Node::new(
                    1000 + clocks.below(2 * plan.drift + 1) - plan.drift,
                    clocks.below(1000) * SEC,
                )
            })
            .collect();
        let replicas = (0..plan.replicas)
            .map(|node| RecordReplica {
                id: replica_id(node, 0),
                node: node_id(node),
                state: MemberState::Member,
            })
            .collect();
        let record = Record {
            epoch: Epoch::ZERO,
            primary: None,
            replicas,
            change: ChangeId::default(),
        };
        let tracked = crate::user::extents(&plan, &geometry);
        let mut world = Self {
            now: 0,
            queue: Queue::new(),
            rng: Rng::new(plan.seed, 3),
            work_rng: Rng::new(plan.seed, 4),
            geometry,
            nodes,
            net: Net::new(plan.nodes),
            store: Store {
                record,
                holder: 0,
                // High enough for an older copy to have a smaller one that is not given out twice.
                revision: Revision(1 << 32),
                history: Vec::new(),
            },
            rot: Rot::default(),
            restored: Restored::default(),
            forced: false,
            promised: BTreeMap::new(),
            store_down_until: 0,
            store_slow_until: 0,
            asks: BTreeMap::new(),
            ask_count: 0,
            ambushes: Vec::new(),
            checker: Checker::new(tracked.len()),
            tracked,
            ops: BTreeMap::new(),
            op_count: 0,
            attachings: 0,
            wanted: 0,
            wanted_ask: false,
            calm: false,
            final_reads: None,
            outcome: Outcome::default(),
            finished: false,
            tracing,
            events_limit: 3_000_000,
            plan,
        };
        world.prepare();
        world
    }

    fn prepare(&mut self) {
        for node in 0..self.nodes.len() {
            if node < self.plan.replicas {
                let geometry = self.geometry;
                self.nodes[node].create_replica(node, geometry);
            }
            self.start(node);
        }
        for index in 0..self.plan.entries.len() {
            self.at(self.plan.entries[index].at, Ev::Mischief(index));
        }
        self.at(self.plan.calm_at, Ev::Calm);
        if let Some(at) = self.plan.added_at {
            self.at(at, Ev::AddReplica);
        }
        self.at(0, Ev::User);
        self.at(100 * MS, Ev::Audit);
    }

    /// Runs to the end.
    pub fn run(mut self) -> Outcome {
        while let Some((at, event)) = self.queue.pop() {
            self.now = self.now.max(at);
            self.outcome.events += 1;
            self.step(event);
            if self.outcome.events > self.events_limit {
                self.violate("the run does not come to an end".to_owned());
            }
            if self.finished || self.outcome.violation.is_some() {
                break;
            }
        }
        self.outcome.at = self.now;
        self.outcome.forced = self.forced;
        self.outcome.counts = (
            self.checker.acknowledged,
            self.checker.flushes,
            self.checker.reads,
        );
        self.outcome
    }

    pub(crate) fn is_tracing(&self) -> bool {
        self.tracing
    }

    pub(crate) fn note(&mut self, line: String) {
        let at = self.now as f64 / SEC as f64;
        self.outcome.trace.push(format!("{at:>11.6} {line}"));
    }

    pub(crate) fn violate(&mut self, what: String) {
        tell!(self, "VIOLATION {what}");
        if self.outcome.violation.is_none() {
            self.outcome.violation = Some(what);
        }
    }

    pub(crate) fn at(&mut self, at: Ns, event: Ev) {
        self.queue.push(at, event);
    }

    pub(crate) fn faults(&self) -> FaultSet {
        #[cfg(feature = "faults")]
        if let Some(fault) = self.plan.fault {
            return FaultSet::of(fault);
        }
        FaultSet::NONE
    }

    /// Whether the machines have this fault; some are the shell's.
    pub(crate) fn has_fault(&self, fault: Fault) -> bool {
        self.faults().has(fault)
    }

    /// The process of a node handles something after `delay`.
    pub(crate) fn later(&mut self, node: usize, delay: Ns, event: NodeEv) {
        let process = self.nodes[node].process;
        self.at(self.now + delay, Ev::Node(node, process, event));
    }

    fn step(&mut self, event: Ev) {
        match event {
            Ev::Node(node, process, event) => {
                let at = &self.nodes[node];
                if at.process != process || !at.running {
                    return;
                }
                if at.paused_until > self.now {
                    self.at(at.paused_until, Ev::Node(node, process, event));
                    return;
                }
                self.node_event(node, event);
            }
            Ev::Pump(conn, Way::Out) => self.pump_out(conn),
            Ev::Pump(conn, Way::Back) => self.pump_back(conn),
            Ev::Closed(conn, way) => self.closed(conn, way),
            Ev::StoreDo(node, process, asker, ask, what) => self.store_do(node, process, asker, ask, what),
            Ev::Mischief(index) => {
                if !self.calm {
                    self.mischief(self.plan.entries[index].what);
                }
            }
            Ev::Start(node) => self.start(node),
            Ev::Strike(node, down, power) => {
                if !self.calm {
                    self.kill(node, down, power);
                }
            }
            Ev::Restart(node, down) => self.restart(node, down),
            Ev::Usurp(node, restart) => {
                if !self.calm {
                    self.usurp(node, restart);
                }
            }
            Ev::Restore => {
                if !self.calm {
                    self.restore_store(1);
                }
            }
            Ev::User => self.user(),
            Ev::Audit => self.audit(),
            Ev::Calm => self.make_calm(),
            Ev::AddReplica => self.add_replica(),
        }
    }

    fn node_event(&mut self, node: usize, event: NodeEv) {
        match event {
            NodeEv::ReplicaTimer => self.step_replica(node, replica::Event::Timer),
            NodeEv::PrimaryTimer(term) => self.step_primary(node, term, primary::Event::Timer),
            NodeEv::Disk(id) => self.disk_done(node, id),
            NodeEv::Connect(term, replica, answered) => self.connected(node, term, replica, answered),
            NodeEv::Store(asker, ask, answer) => {
                if self.asks.remove(&ask).is_some() {
                    self.store_answered(node, asker, answer);
                }
            }
            NodeEv::Watch(record, revision) => {
                if let Some(term) = self.nodes[node].host.as_ref().map(|host| host.term) {
                    let record = *record;
                    self.step_primary(node, term, primary::Event::Watched { record, revision });
                }
            }
            NodeEv::Op(term) => self.work(node, term),
            NodeEv::Resume => self.resume(node),
            NodeEv::GiveUp(since) => self.give_up(node, since),
            NodeEv::Again(term, id) => self.ask_again(node, term, id),
            NodeEv::Release => {
                // What the kernel has yet to be answered uses the volume.
                let host = self.nodes[node]
                    .host
                    .as_ref()
                    .filter(|_| self.waiting(node).is_empty());
                if let Some(term) = host.map(|host| host.term) {
                    tell!(self, "node {node}: release asked for");
                    self.step_primary(node, term, primary::Event::Release);
                }
            }
        }
    }

    /// The id of the replica that is on a node now.
    pub(crate) fn rid(&self, node: usize) -> ReplicaId {
        replica_id(node, self.nodes[node].generation)
    }

    /// The disk of the replica on a node.
    pub(crate) fn disk(&self, node: usize) -> Option<&Disk> {
        self.nodes[node].disk.as_ref()
    }

    pub(crate) fn new_host(
        machine: bulkhead_engine::machine::Primary<Sectors>,
        term: u32,
        attaching: u64,
        resumes: bool,
    ) -> Host {
        Host {
            machine,
            term,
            attaching,
            resumes,
            mute: false,
            serving: false,
            in_flight: 0,
            newest_request: RequestId(0),
            newest_change: 0,
        }
    }
}
