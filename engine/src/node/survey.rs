//! Asks a volume's replicas for the newest epoch that each has accepted, before the volume is attached. Changes nothing.
//!
//! Section 6 wants two things of an attachment before the record is swapped. Somebody has to answer, or a volume of which no
//! replica is in reach would raise its epoch with every try. And nobody may know a newer epoch than the record: the
//! store was restored from an older copy then. After the swap it is too late to find out: each try that is refused
//! raises the record's epoch by one, and one day it is the newer one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::status::Surveyed;
use super::{Links, Node};
use crate::format::ReplicaIdentity;
use crate::ids::{Epoch, NodeId, VolumeId};
use crate::io::Data;
use crate::link::{CloseReason, ConnectError, Dial, PrimaryEvents, PrimarySession, dial};
use crate::machine::protocol::{Open, Refusal};
use crate::machine::{Record, Reply, Request, RequestId, Role, SessionId};

const NO_ANSWER: &str = "it did not answer in time";

impl Node {
    /// Asks all replicas of the record at the same time, and waits for their answers at most `patience`. To be called
    /// before the swap that makes this node the primary; the record must not be swapped unless a member has answered, and
    /// nobody has accepted a newer epoch than the record's.
    pub fn survey(self: &Arc<Self>, volume: VolumeId, record: &Record, patience: Duration) -> Vec<Surveyed> {
        let until = Instant::now() + patience;
        let (sender, answers) = crossbeam_channel::unbounded();
        let mut found: Vec<Surveyed> = Vec::with_capacity(record.replicas.len());
        for (at, replica) in record.replicas.iter().enumerate() {
            found.push(Surveyed {
                replica: replica.id,
                node: replica.node,
                epoch: Err(NO_ANSWER.to_owned()),
            });
            let identity = ReplicaIdentity {
                cluster: self.config.cluster,
                volume,
                replica: replica.id,
            };
            let (node, on, sender) = (Arc::clone(self), replica.node, sender.clone());
            self.executor.lane(1).run(move || {
                let answer = if on == node.config.node {
                    node.epoch_here(identity, until)
                } else {
                    node.epoch_there(identity, on, until)
                };
                // Nobody waits any more if this fails.
                let _ = sender.send((at, answer));
            });
        }
        drop(sender);
        while let Ok((at, answer)) = answers.recv_deadline(until) {
            if let Some(surveyed) = found.get_mut(at) {
                surveyed.epoch = answer;
            }
        }
        found
    }

    fn epoch_here(self: &Arc<Self>, identity: ReplicaIdentity, until: Instant) -> Result<Epoch, String> {
        let patience = until.saturating_duration_since(Instant::now());
        let open = self
            .replicas
            .open(self, identity, patience)
            .map_err(|error| error.to_string())?;
        let epoch = open.epoch();
        open.retire();
        Ok(epoch)
    }

    fn epoch_there(&self, identity: ReplicaIdentity, on: NodeId, until: Instant) -> Result<Epoch, String> {
        let links: &Links = self
            .config
            .links
            .as_ref()
            .ok_or("this node is not connected to others")?;
        let dialled = Dial {
            local: self.local(links),
            to: on,
            replica: identity,
            addresses: Arc::clone(&links.addresses),
            transport: Arc::clone(&links.transport),
            config: links.config.clone(),
            sessions: Arc::clone(&self.sessions),
        };
        let (sender, answer) = crossbeam_channel::unbounded();
        let events: Arc<dyn PrimaryEvents> = Arc::new(Question { identity, sender });
        let session = dial(&dialled, &events).map_err(|error| error.to_string())?;
        let answer = answer
            .recv_deadline(until)
            .unwrap_or_else(|_| Err(NO_ANSWER.to_owned()));
        session.close();
        answer
    }
}

/// Asks for the epoch with an Open in none, and passes on what it hears.
struct Question {
    identity: ReplicaIdentity,
    sender: Sender<Result<Epoch, String>>,
}

impl Question {
    fn tell(&self, answer: Result<Epoch, String>) {
        // Nobody waits any more if this fails.
        let _ = self.sender.send(answer);
    }
}

impl PrimaryEvents for Question {
    fn up(&self, session: &Arc<PrimarySession>) {
        let open = Request::Open(Open {
            identity: self.identity,
            epoch: Epoch::ZERO,
            term: Epoch::ZERO,
            attempt: 0,
            role: Role::Rebuild,
            expects: None,
        });
        if let Err(error) = session.request_usual(RequestId(1), &open) {
            self.tell(Err(error.to_string()));
        }
    }

    fn reply(&self, _: SessionId, _: RequestId, reply: Reply<Data>) {
        self.tell(match reply {
            Reply::Refused(Refusal::Epoch(epoch)) => Ok(epoch),
            Reply::Refused(refusal) => Err(format!("it refused ({refusal:?})")),
            other => Err(format!("it answered {other:?} to the question for its epoch")),
        });
    }

    fn down(&self, _: SessionId, reason: &CloseReason) {
        self.tell(Err(reason.to_string()));
    }

    fn failed(&self, error: &ConnectError) {
        self.tell(Err(error.to_string()));
    }
}
