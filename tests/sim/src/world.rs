//! One run: the queue of events, and what each of them does. Deterministic: the plan decides everything.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use bulkhead_engine::geometry::Geometry;
use bulkhead_engine::ids::{Epoch, ReplicaId, Tick};
use bulkhead_engine::machine::primary::{self, OpId, Revision};
use bulkhead_engine::machine::record::ChangeId;
use bulkhead_engine::machine::replica::{self, DiskId, DiskOp};
use bulkhead_engine::machine::{FaultSet, MemberState, Record, RecordReplica, Reply, SessionId};

use crate::checker::Checker;
use crate::disk::{Disk, Sectors};
use crate::net::{Conn, End, Net, Way};
use crate::node::{Attach, Host, Node, node_id, node_of, replica_id};
use crate::plan::{MS, Ns, Plan, SEC};
use crate::rng::Rng;
use crate::store::Store;
use crate::user::OpInfo;

/// Who asked the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The primary of this term.
    Primary(u32),
    /// The process that attaches the volume.
    Attach,
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
    },
}

/// What the store answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The record.
    Record(Box<Record>, Revision),
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
}

struct Scheduled {
    at: Ns,
    number: u64,
    event: Ev,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
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
    /// Whether every member was lost for good, so that nothing could be served to the end.
    pub dead: bool,
    /// What happened, if it was to be told.
    pub trace: Vec<String>,
}

/// A run under way.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Ns,
    queue: BinaryHeap<Reverse<Scheduled>>,
    number: u64,
    pub(crate) rng: Rng,
    pub(crate) work_rng: Rng,
    pub(crate) geometry: Geometry,
    pub(crate) nodes: Vec<Node>,
    pub(crate) net: Net,
    pub(crate) store: Store,
    pub(crate) store_down_until: Ns,
    pub(crate) store_slow_until: Ns,
    asks: BTreeMap<u64, ()>,
    ask_count: u64,
    pub(crate) checker: Checker,
    pub(crate) tracked: Vec<u32>,
    pub(crate) ops: BTreeMap<OpId, OpInfo>,
    pub(crate) op_count: u64,
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
            queue: BinaryHeap::new(),
            number: 0,
            rng: Rng::new(plan.seed, 3),
            work_rng: Rng::new(plan.seed, 4),
            geometry,
            nodes,
            net: Net::new(plan.nodes),
            store: Store {
                record,
                revision: Revision(1),
            },
            store_down_until: 0,
            store_slow_until: 0,
            asks: BTreeMap::new(),
            ask_count: 0,
            checker: Checker::new(tracked.len()),
            tracked,
            ops: BTreeMap::new(),
            op_count: 0,
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
        while let Some(Reverse(next)) = self.queue.pop() {
            self.now = self.now.max(next.at);
            self.outcome.events += 1;
            self.step(next.event);
            if self.outcome.events > self.events_limit {
                self.violate("the run does not come to an end".to_owned());
            }
            if self.finished || self.outcome.violation.is_some() {
                break;
            }
        }
        self.outcome.at = self.now;
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
        self.number += 1;
        self.queue.push(Reverse(Scheduled {
            at,
            number: self.number,
            event,
        }));
    }

    pub(crate) fn faults(&self) -> FaultSet {
        #[cfg(feature = "faults")]
        if let Some(fault) = self.plan.fault {
            return FaultSet::of(fault);
        }
        FaultSet::NONE
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
            NodeEv::Release => {
                if let Some(term) = self.nodes[node].host.as_ref().map(|host| host.term) {
                    tell!(self, "node {node}: release asked for");
                    self.step_primary(node, term, primary::Event::Release);
                }
            }
        }
    }

    pub(crate) fn step_replica(&mut self, node: usize, event: replica::Event<Sectors>) {
        let now = self.now;
        let at = &mut self.nodes[node];
        let clock = at.clock(now);
        let Some(machine) = &mut at.replica else {
            return;
        };
        let mut out = Vec::new();
        machine.handle(clock, event, &mut out);
        for action in out {
            self.replica_action(node, action);
        }
    }

    fn replica_action(&mut self, node: usize, action: replica::Action<Sectors>) {
        match action {
            replica::Action::Disk { id, op } => self.disk_begin(node, id, op),
            replica::Action::Respond { session, id, reply } => {
                let conn = session.0 as usize;
                tell!(
                    self,
                    "node {node}: replica answers {id:?} of {session:?}: {}",
                    brief(&reply)
                );
                let Some(at) = self.net.conns.get(conn).filter(|at| at.open_at_replica) else {
                    return;
                };
                let arrival = self.arrival(
                    at.replica.node,
                    at.primary.node,
                    at.replies.back().map(|last| last.0),
                );
                self.net.conns[conn].replies.push_back((arrival, id, reply));
                self.at(arrival, Ev::Pump(conn, Way::Back));
            }
            replica::Action::SetTimer(time) => {
                let at = self.nodes[node].when(time).max(self.now);
                self.later(node, at - self.now, NodeEv::ReplicaTimer);
            }
            replica::Action::Failed(cause) => {
                tell!(self, "node {node}: replica has failed: {cause:?}");
                let now = self.now;
                let at = &mut self.nodes[node];
                at.failed = true;
                at.kept = false;
                at.lost_at = now;
            }
        }
    }

    fn disk_begin(&mut self, node: usize, id: DiskId, op: DiskOp<Sectors>) {
        let now = self.now;
        let typical = match &op {
            DiskOp::SyncData | DiskOp::CommitMeta(_) => MS,
            _ => 150_000,
        };
        let at = &mut self.nodes[node];
        let is_sync = matches!(op, DiskOp::SyncData | DiskOp::CommitMeta(_));
        let slow_sync = is_sync && at.slow_sync > now;
        let times = match at.slow {
            _ if slow_sync => 300,
            (until, times) if until > now => times,
            _ => 1,
        };
        let delay = (self.rng.delay(typical) * times).min(6 * SEC);
        if let Some(disk) = &mut at.disk {
            disk.begin(id, op);
        }
        self.later(node, delay, NodeEv::Disk(id));
    }

    fn disk_done(&mut self, node: usize, id: DiskId) {
        let Some(result) = self.nodes[node]
            .disk
            .as_mut()
            .and_then(|disk| disk.finish(id, &mut self.rng))
        else {
            return;
        };
        if let Err(error) = &result {
            tell!(self, "node {node}: disk operation {id:?} fails: {error:?}");
            if *error == replica::DiskError::Io {
                self.nodes[node].kept = false;
                self.nodes[node].lost_at = self.now;
            }
        }
        // A kill between a failed sync and the note of it is beyond what is promised (docs/replication.md).
        let noted = self.nodes[node].failed && result.is_ok() && self.nodes[node].kill_on_error;
        self.step_replica(node, replica::Event::Disk { id, result });
        if noted
            && self.nodes[node]
                .replica
                .as_ref()
                .is_some_and(|replica| replica.is_quiet())
        {
            let delay = self.rng.below(3 * MS);
            self.kill(node, delay + 200 * MS, false);
        }
    }

    pub(crate) fn step_primary(&mut self, node: usize, term: u32, event: primary::Event<Sectors>) {
        let now = self.now;
        let at = &mut self.nodes[node];
        let clock = at.clock(now);
        let Some(host) = at.host.as_mut().filter(|host| host.term == term) else {
            return;
        };
        let mut out = Vec::new();
        host.machine.handle(clock, event, &mut out);
        for action in out {
            self.primary_action(node, term, action);
        }
    }

    pub(crate) fn primary_action(&mut self, node: usize, term: u32, action: primary::Action<Sectors>) {
        match action {
            primary::Action::Connect { replica, .. } => self.connect(node, term, replica),
            primary::Action::Disconnect { session, .. } => self.disconnect(session.0 as usize),
            primary::Action::Send {
                session, id, request, ..
            } => {
                let conn = session.0 as usize;
                tell!(
                    self,
                    "node {node}: primary {term} sends {id:?} over {session:?}: {}",
                    brief_request(&request)
                );
                let at = &self.net.conns[conn];
                let arrival = self.arrival(
                    at.primary.node,
                    at.replica.node,
                    at.requests.back().map(|last| last.0),
                );
                self.net.conns[conn].requests.push_back((arrival, id, request));
                self.at(arrival, Ev::Pump(conn, Way::Out));
            }
            primary::Action::Complete { id, result } => self.completed(node, term, id, result),
            primary::Action::Swap {
                change,
                expected,
                record,
            } => {
                tell!(
                    self,
                    "node {node}: primary {term} swaps {expected:?} {}",
                    show_record(&record)
                );
                let ask = Ask::Swap {
                    change,
                    expected,
                    record: Box::new(record),
                };
                self.ask_store(node, Asker::Primary(term), ask);
            }
            primary::Action::ReadRecord => self.ask_store(node, Asker::Primary(term), Ask::Read),
            primary::Action::Serving => self.serving(node, term),
            primary::Action::SetTimer(time) => {
                let at = self.nodes[node].when(time).max(self.now);
                self.later(node, at - self.now, NodeEv::PrimaryTimer(term));
            }
            primary::Action::Ended(reason) => self.ended(node, term, reason),
        }
    }

    /// When a message sent now arrives. Sends that are given out together may overtake each other a little.
    fn arrival(&mut self, from: usize, to: usize, last: Option<Ns>) -> Ns {
        let delay = if from == to {
            self.rng.below(40_000)
        } else if self.net.slow_until > self.now {
            self.rng.delay(60 * MS)
        } else {
            self.rng.delay(200_000)
        };
        (self.now + delay).max(last.unwrap_or(0).saturating_sub(50_000))
    }

    fn connect(&mut self, node: usize, term: u32, replica: ReplicaId) {
        let delay = if node_of(replica) == node {
            10_000
        } else {
            self.rng.delay(400_000)
        };
        self.later(node, delay, NodeEv::Connect(term, replica, true));
    }

    fn connected(&mut self, node: usize, term: u32, replica: ReplicaId, first: bool) {
        let other = node_of(replica);
        let reached = self.net.passes(node, other, self.now) && self.net.passes(other, node, self.now);
        let at = &self.nodes[other];
        let serves = at.running && at.replica.is_some() && at.paused_until <= self.now;
        if first && (!reached || !at.powered || at.paused_until > self.now) {
            // Nobody says no; the attempt runs out.
            self.later(node, 200 * MS, NodeEv::Connect(term, replica, false));
            return;
        }
        if !reached || !serves || !first {
            if reached && at.powered && other != node {
                self.step_primary(node, term, primary::Event::Reached);
            }
            let session = None;
            self.step_primary(node, term, primary::Event::Unlinked { replica, session });
            return;
        }
        let session = SessionId(self.net.conns.len() as u64);
        self.net.conns.push(Conn {
            primary: End {
                node,
                process: self.nodes[node].process,
            },
            term,
            replica: End {
                node: other,
                process: at.process,
            },
            id: replica,
            open_at_primary: true,
            open_at_replica: true,
            requests: Default::default(),
            replies: Default::default(),
        });
        tell!(
            self,
            "node {node}: primary {term} is linked to the replica on node {other} by {session:?}"
        );
        self.step_primary(node, term, primary::Event::Linked { replica, session });
    }

    /// The primary has closed a connection: what was sent before may still arrive, late or in part, and the other end may
    /// never learn of it.
    fn disconnect(&mut self, conn: usize) {
        self.net.conns[conn].open_at_primary = false;
        self.net.conns[conn].replies.clear();
        self.leave_remains(conn);
        if self.rng.chance(60) {
            let delay = self.rng.delay(MS);
            self.at(self.now + delay, Ev::Closed(conn, Way::Out));
        }
    }

    fn leave_remains(&mut self, conn: usize) {
        let keep = if self.rng.chance(50) {
            self.rng.below(self.net.conns[conn].requests.len() as u64 + 1) as usize
        } else {
            0
        };
        let late = if self.rng.chance(50) {
            self.rng.between(1, 600) * MS
        } else {
            0
        };
        self.net.conns[conn].requests.truncate(keep);
        let mut last = 0;
        for (arrival, ..) in &mut self.net.conns[conn].requests {
            *arrival += late;
            last = *arrival;
        }
        if last > 0 {
            self.at(last, Ev::Pump(conn, Way::Out));
        }
    }

    /// An end learns that the connection is gone.
    fn closed(&mut self, conn: usize, way: Way) {
        let at = &mut self.net.conns[conn];
        let (primary, replica, term, id) = (at.primary, at.replica, at.term, at.id);
        let (from, to) = match way {
            Way::Out => (primary.node, replica.node),
            Way::Back => (replica.node, primary.node),
        };
        if !self.net.passes(from, to, self.now) {
            return;
        }
        let at = &mut self.net.conns[conn];
        let session = SessionId(conn as u64);
        match way {
            Way::Out if std::mem::take(&mut at.open_at_replica) => {
                let node = &self.nodes[replica.node];
                if node.process == replica.process && node.running {
                    self.step_replica(replica.node, replica::Event::Closed { session });
                }
            }
            Way::Back if std::mem::take(&mut at.open_at_primary) => {
                let node = &self.nodes[primary.node];
                if node.process == primary.process && node.running {
                    let replica = id;
                    let session = Some(session);
                    self.step_primary(primary.node, term, primary::Event::Unlinked { replica, session });
                }
            }
            _ => {}
        }
    }

    fn pump_out(&mut self, conn: usize) {
        loop {
            let at = &self.net.conns[conn];
            let Some(&(arrival, ..)) = at.requests.front() else {
                return;
            };
            if arrival > self.now {
                self.at(arrival, Ev::Pump(conn, Way::Out));
                return;
            }
            let (from, to) = (at.primary.node, at.replica);
            if !self.net.passes(from, to.node, self.now) {
                self.at(self.now + 15 * MS, Ev::Pump(conn, Way::Out));
                return;
            }
            let node = &self.nodes[to.node];
            if node.process != to.process || !node.running || !at.open_at_replica {
                let refused = node.powered;
                self.net.conns[conn].requests.clear();
                if refused {
                    self.at(self.now + MS, Ev::Closed(conn, Way::Back));
                }
                return;
            }
            if node.paused_until > self.now {
                self.at(node.paused_until, Ev::Pump(conn, Way::Out));
                return;
            }
            if let Some((_, id, request)) = self.net.conns[conn].requests.pop_front() {
                let session = SessionId(conn as u64);
                self.step_replica(to.node, replica::Event::Request { session, id, request });
            }
        }
    }

    fn pump_back(&mut self, conn: usize) {
        loop {
            let at = &self.net.conns[conn];
            let Some(&(arrival, ..)) = at.replies.front() else {
                return;
            };
            if arrival > self.now {
                self.at(arrival, Ev::Pump(conn, Way::Back));
                return;
            }
            let (from, to, term, id_of) = (at.replica.node, at.primary, at.term, at.id);
            if !self.net.passes(from, to.node, self.now) {
                self.at(self.now + 15 * MS, Ev::Pump(conn, Way::Back));
                return;
            }
            let node = &self.nodes[to.node];
            if node.process != to.process || !node.running || !at.open_at_primary {
                self.net.conns[conn].replies.clear();
                return;
            }
            if node.paused_until > self.now {
                self.at(node.paused_until, Ev::Pump(conn, Way::Back));
                return;
            }
            if let Some((_, id, reply)) = self.net.conns[conn].replies.pop_front() {
                let event = primary::Event::Reply {
                    replica: id_of,
                    session: SessionId(conn as u64),
                    id,
                    reply,
                };
                self.step_primary(to.node, term, event);
            }
        }
    }

    /// A node asks the store. After 300 ms without an answer it does not know what became of it; the store may still do it.
    pub(crate) fn ask_store(&mut self, node: usize, asker: Asker, ask: Ask) {
        self.ask_count += 1;
        let id = self.ask_count;
        self.asks.insert(id, ());
        let unknown = match &ask {
            Ask::Read => Answer::Unreachable,
            Ask::Swap { change, .. } => Answer::Swapped(*change, primary::SwapOutcome::Unknown),
        };
        self.later(node, 300 * MS, NodeEv::Store(asker, id, unknown));
        if self.net.store_cut[node] > self.now {
            return;
        }
        let delay = self.store_delay();
        let process = self.nodes[node].process;
        self.at(self.now + delay, Ev::StoreDo(node, process, asker, id, ask));
    }

    fn store_delay(&mut self) -> Ns {
        if self.store_slow_until > self.now {
            self.rng.between(50, 1500) * MS
        } else {
            self.rng.delay(2 * MS)
        }
    }

    fn store_do(&mut self, node: usize, process: u64, asker: Asker, id: u64, ask: Ask) {
        if self.store_down_until > self.now {
            return;
        }
        let answer = match ask {
            Ask::Read => Answer::Record(Box::new(self.store.record.clone()), self.store.revision),
            Ask::Swap {
                change,
                expected,
                record,
            } => {
                let before = self.store.record.clone();
                let outcome = match self.store.swap(expected, *record) {
                    Some(revision) => {
                        tell!(self, "store: {revision:?} is {}", show_record(&self.store.record));
                        self.record_changed(&before);
                        primary::SwapOutcome::Applied(revision)
                    }
                    None => primary::SwapOutcome::Conflict,
                };
                Answer::Swapped(change, outcome)
            }
        };
        let lost = self.rng.chance(3) && !self.calm;
        if lost || self.net.store_cut[node] > self.now {
            return;
        }
        let delay = self.store_delay();
        self.at(
            self.now + delay,
            Ev::Node(node, process, NodeEv::Store(asker, id, answer)),
        );
    }

    /// Members that the record has gained or lost; watches are told, late.
    pub(crate) fn record_changed(&mut self, before: &Record) {
        let now = self.now;
        if self.store.record.members().next().is_none() {
            self.violate("the record has no member any more: the last one was removed".to_owned());
        }
        for node in 0..self.nodes.len() {
            let id = self.rid(node);
            let at = &mut self.nodes[node];
            match (before.is_member(id), self.store.record.is_member(id)) {
                (true, false) => at.kept = false,
                // One that has lost power since it flushed may lack what came after.
                (false, true) => at.kept = at.running && now.saturating_sub(at.lost_at) > 5 * SEC,
                _ => {}
            }
        }
        self.tell_watches(90);
    }

    /// Watches show the record as it is now, late, and some do not.
    pub(crate) fn tell_watches(&mut self, percent: u64) {
        for node in 0..self.nodes.len() {
            let reached = self.net.store_cut[node] <= self.now && self.store_down_until <= self.now;
            if self.nodes[node].host.is_some() && reached && self.rng.chance(percent) {
                let lag = self.rng.delay(100 * MS);
                let event = NodeEv::Watch(Box::new(self.store.record.clone()), self.store.revision);
                self.later(node, lag, event);
            }
        }
    }

    /// The process of a node starts, with power if it had none.
    pub(crate) fn start(&mut self, node: usize) {
        let (now, faults, geometry) = (self.now, self.faults(), self.geometry);
        let salt = self.rng.draw() >> 32;
        let at = &mut self.nodes[node];
        if at.running {
            return;
        }
        if !at.powered {
            at.powered = true;
            at.boot += 1;
            at.clock_start = (salt % 500) * SEC;
            // A clock starts anew with every boot; only differences of it mean anything.
            at.clock_start = at.clock_start.max(1);
        }
        at.process += 1;
        at.running = true;
        at.paused_until = 0;
        at.attach = Attach::Idle;
        at.started_at = now;
        let loaded = at.load_replica(node, &self.plan, &geometry, now, faults, salt);
        tell!(self, "node {node}: process {} starts", self.nodes[node].process);
        if let Err(error) = loaded {
            if self.nodes[node].lost_at > 0 {
                self.nodes[node].failed = true;
                self.nodes[node].replica = None;
            } else {
                self.violate(error);
            }
        }
    }

    /// The process of a node dies; without power what its disk had not been told to keep is gone too.
    pub(crate) fn kill(&mut self, node: usize, down: Ns, power: bool) {
        let at = &self.nodes[node];
        if !(at.running || power && at.powered) {
            return;
        }
        tell!(
            self,
            "node {node}: {}",
            if power { "loses power" } else { "is killed" }
        );
        let now = self.now;
        let at = &mut self.nodes[node];
        at.running = false;
        at.process += 1;
        at.replica = None;
        at.kill_on_error = false;
        let lost_host = at.host.take();
        if let Some(disk) = &mut at.disk {
            if power {
                disk.power_cut(&mut self.rng);
            } else {
                disk.abandon(&mut self.rng);
            }
        }
        if power {
            at.powered = false;
            at.kept = false;
            at.lost_at = now;
        }
        if let Some(host) = lost_host {
            self.forget_ops(node, host.term);
        }
        for conn in 0..self.net.conns.len() {
            let at = &self.net.conns[conn];
            if at.replica.node == node && at.open_at_primary && !power {
                let delay = self.rng.delay(MS);
                self.at(now + delay, Ev::Closed(conn, Way::Back));
            }
            if self.net.conns[conn].primary.node == node && self.net.conns[conn].open_at_replica {
                self.net.conns[conn].open_at_primary = false;
                self.leave_remains(conn);
                if !power {
                    let delay = self.rng.delay(MS);
                    self.at(now + delay, Ev::Closed(conn, Way::Out));
                }
            }
        }
        self.at(now + down, Ev::Start(node));
    }

    /// Both ends learn that the connections between two nodes are gone.
    pub(crate) fn break_conns(&mut self, one: usize, other: usize) {
        for conn in 0..self.net.conns.len() {
            let at = &self.net.conns[conn];
            let ends = (at.primary.node, at.replica.node);
            if at.open_at_primary && (ends == (one, other) || ends == (other, one)) {
                self.leave_remains(conn);
                self.net.conns[conn].replies.clear();
                for way in [Way::Out, Way::Back] {
                    let delay = self.rng.delay(MS);
                    self.at(self.now + delay, Ev::Closed(conn, way));
                }
            }
        }
    }

    /// A fresh replica takes the place of one that has failed.
    pub(crate) fn replace_replica(&mut self, node: usize) {
        tell!(
            self,
            "node {node}: a new replica takes the place of the failed one"
        );
        let (now, faults, geometry) = (self.now, self.faults(), self.geometry);
        for conn in 0..self.net.conns.len() {
            if self.net.conns[conn].replica.node == node && self.net.conns[conn].open_at_replica {
                self.net.conns[conn].open_at_replica = false;
                self.at(now + MS, Ev::Closed(conn, Way::Back));
            }
        }
        self.rng.draw();
        let salt = self.rng.draw() >> 32;
        let at = &mut self.nodes[node];
        let old = replica_id(node, at.generation);
        at.generation += 1;
        let id = replica_id(node, at.generation);
        at.create_replica(node, geometry);
        at.lost_at = 0;
        if let Err(error) = at.load_replica(node, &self.plan, &geometry, now, faults, salt) {
            self.violate(error);
        }
        let before = self.store.record.clone();
        let mut record = before.clone();
        for replica in record.replicas.iter_mut().filter(|replica| replica.id == old) {
            replica.id = id;
            replica.state = MemberState::Stale(Tick::ZERO);
            self.store.revision = Revision(self.store.revision.0 + 1);
        }
        self.store.record = record;
        self.record_changed(&before);
    }

    /// The id of the replica that is on a node now.
    pub(crate) fn rid(&self, node: usize) -> ReplicaId {
        replica_id(node, self.nodes[node].generation)
    }

    fn add_replica(&mut self) {
        let Some(node) = (0..self.nodes.len()).find(|&node| self.nodes[node].disk.is_none()) else {
            return;
        };
        if !self.nodes[node].running {
            self.at(self.now + 200 * MS, Ev::AddReplica);
            return;
        }
        tell!(self, "node {node}: a replica is added");
        self.replace_replica(node);
        let before = self.store.record.clone();
        let mut record = before.clone();
        record.replicas.push(RecordReplica {
            id: self.rid(node),
            node: node_id(node),
            state: MemberState::Stale(Tick::ZERO),
        });
        self.store.swap(self.store.revision, record);
        self.record_changed(&before);
    }

    /// The disk of the replica on a node.
    pub(crate) fn disk(&self, node: usize) -> Option<&Disk> {
        self.nodes[node].disk.as_ref()
    }

    pub(crate) fn new_host(machine: bulkhead_engine::machine::Primary<Sectors>, term: u32) -> Host {
        Host {
            machine,
            term,
            serving: false,
            in_flight: 0,
        }
    }
}

/// A record in a line.
pub fn show_record(record: &Record) -> String {
    let replicas: Vec<String> = record
        .replicas
        .iter()
        .map(|replica| format!("{}:{:?}", node_of(replica.id), replica.state))
        .collect();
    let primary = record.primary.map(|node| node.to_bytes()[15]);
    format!(
        "epoch {} primary {primary:?} [{}]",
        record.epoch,
        replicas.join(" ")
    )
}

fn brief(reply: &Reply<Sectors>) -> String {
    match reply {
        Reply::Data(data) => format!("Data({} sectors)", data.count),
        Reply::Chunk { stamp, .. } => format!("Chunk({stamp})"),
        Reply::Changed { chunks, .. } => format!("Changed({chunks:?})"),
        other => format!("{other:?}"),
    }
}

fn brief_request(request: &bulkhead_engine::machine::Request<Sectors>) -> String {
    use bulkhead_engine::machine::Request;
    match request {
        Request::Write {
            offset,
            data,
            tick,
            stamp,
        } => {
            let value = data.values.first().map_or(0, |&(_, value)| value);
            format!(
                "Write({} +{} value {value} tick {tick} {stamp:?})",
                offset / 512,
                data.count
            )
        }
        Request::Open(open) => format!("Open(epoch {} term {} {:?})", open.epoch, open.term, open.role),
        other => format!("{other:?}"),
    }
}
