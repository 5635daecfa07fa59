//! Asks a volume's replicas what they say of themselves, before the volume is attached, or when no member is left. Changes
//! nothing.
//!
//! Section 6 wants two things of an attachment before the record is swapped. Somebody has to answer, or a volume of which no
//! replica is in reach would raise its epoch with every try. And nobody may know a newer epoch than the record
//! ([`Record::is_behind`]): the store was restored from an older copy then. After the swap it is too late to find out: each
//! try that is refused raises the record's epoch by one, and one day it is the newer one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender};

use super::error::ReplicaError;
use super::replica::{Caller, HostedReplica};
use super::status::Surveyed;
use super::{Links, Node};
use crate::format::ReplicaIdentity;
use crate::ids::{NodeId, VolumeId};
use crate::io::Data;
use crate::link::{CloseReason, ConnectError, Dial, PrimaryEvents, PrimarySession, dial};
use crate::machine::protocol::Inspected;
use crate::machine::{Record, Reply, Request, RequestId, SessionId};

const NO_ANSWER: &str = "it did not answer in time";

impl Node {
    /// Asks all replicas of the record at the same time, members or not, and waits for their answers at most `patience`. To
    /// be called before the swap that makes this node the primary; the record must not be swapped unless a member has
    /// answered, nor where [`Record::is_behind`] what was answered.
    pub fn survey(self: &Arc<Self>, volume: VolumeId, record: &Record, patience: Duration) -> Vec<Surveyed> {
        let until = Instant::now() + patience;
        let (sender, answers) = crossbeam_channel::unbounded();
        let mut found: Vec<Surveyed> = Vec::with_capacity(record.replicas.len());
        for (at, replica) in record.replicas.iter().enumerate() {
            found.push(Surveyed {
                replica: replica.id,
                node: replica.node,
                found: Err(NO_ANSWER.to_owned()),
            });
            let identity = ReplicaIdentity {
                cluster: self.config.cluster,
                volume,
                replica: replica.id,
            };
            let (node, on, sender) = (Arc::clone(self), replica.node, sender.clone());
            self.executor.lane(1).run(move || {
                let answer = if on == node.config.node {
                    node.inspect_here(identity, until)
                } else {
                    node.inspect_there(identity, on, until)
                };
                // Nobody waits any more if this fails.
                let _ = sender.send((at, answer));
            });
        }
        drop(sender);
        while let Ok((at, answer)) = answers.recv_deadline(until) {
            if let Some(surveyed) = found.get_mut(at) {
                surveyed.found = answer;
            }
        }
        found
    }

    fn inspect_here(
        self: &Arc<Self>,
        identity: ReplicaIdentity,
        until: Instant,
    ) -> Result<Inspected, String> {
        let (sender, answer) = crossbeam_channel::unbounded();
        let (session, caller) = (self.sessions.next(), sender.clone());
        let then = move |opened: Result<Arc<HostedReplica>, ReplicaError>| match opened {
            Ok(open) => open.ask(session),
            Err(error) => drop(sender.send(Err(error.to_string()))),
        };
        let asker = move || {
            let caller = caller.clone();
            Caller::Asker(Box::new(move |reply| drop(caller.send(inspected(reply)))))
        };
        self.replicas
            .with_session(self, identity, session, asker, Box::new(then));
        answer.recv_deadline(until).unwrap_or_else(|error| {
            Err(match error {
                RecvTimeoutError::Timeout => NO_ANSWER.to_owned(),
                RecvTimeoutError::Disconnected => "it was just being closed".to_owned(),
            })
        })
    }

    fn inspect_there(
        &self,
        identity: ReplicaIdentity,
        on: NodeId,
        until: Instant,
    ) -> Result<Inspected, String> {
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

fn inspected(reply: Reply<Data>) -> Result<Inspected, String> {
    match reply {
        Reply::Inspected(found) => Ok(found),
        other => Err(format!("it answered {other:?} to the question what it is")),
    }
}

/// Asks, and passes on what it hears.
struct Question {
    identity: ReplicaIdentity,
    sender: Sender<Result<Inspected, String>>,
}

impl Question {
    fn tell(&self, answer: Result<Inspected, String>) {
        // Nobody waits any more if this fails.
        let _ = self.sender.send(answer);
    }
}

impl PrimaryEvents for Question {
    fn up(&self, session: &Arc<PrimarySession>) {
        let question = Request::Inspect(self.identity);
        if let Err(error) = session.request_usual(RequestId(1), &question) {
            self.tell(Err(error.to_string()));
        }
    }

    fn reply(&self, _: SessionId, _: RequestId, reply: Reply<Data>) {
        self.tell(inspected(reply));
    }

    fn down(&self, _: SessionId, reason: &CloseReason) {
        self.tell(Err(reason.to_string()));
    }

    fn failed(&self, error: &ConnectError) {
        self.tell(Err(error.to_string()));
    }
}
