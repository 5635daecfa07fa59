//! Tells the cluster of replicas of this node that have failed: such a replica comes back by itself on no account, and its
//! volume's primary, on whichever node, has it replaced. Decides nothing; says also when a person has accepted one again.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_cluster::schema::Replica;
use bulkhead_cluster::volumes::Volume as Stored;
use bulkhead_engine::node::ReplicaStatus;
use tokio::time::timeout;

use super::context::Daemon;

/// How long the engine may take to say how its replicas are: it may have to ask a disk.
const PATIENCE: Duration = Duration::from_secs(5);
/// With this begins what is said of one.
const FAILED: &str = "it has failed: ";

impl Daemon {
    /// Says in the records what the engine says of this node's replicas.
    pub(super) async fn tell_of_failed_replicas(&self) {
        // One that hangs is enough.
        let Ok(turn) = self.asking.clone().try_lock_owned() else {
            return;
        };
        let engine = self.engine.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            engine.replicas()
        });
        let Ok(Ok(statuses)) = timeout(PATIENCE, asked).await else {
            return;
        };
        for status in &statuses {
            let known = self
                .catalogue
                .read(|contents| contents.by_id(status.volume).cloned());
            if let Some((volume, replica, said)) = known.and_then(|volume| news(&volume, status)) {
                self.report_trouble(&volume, &replica, said.as_deref()).await;
            }
        }
    }
}

/// What is to be said of a replica that is not in the record yet.
fn news(volume: &Arc<Stored>, status: &ReplicaStatus) -> Option<(Arc<Stored>, Replica, Option<String>)> {
    let replica = volume
        .replica(status.replica)
        .filter(|replica| replica.made)?
        .clone();
    let says_failed = replica
        .trouble
        .as_ref()
        .is_some_and(|trouble| trouble.starts_with(FAILED));
    let said = match &status.failure {
        Some(failure) if replica.trouble.is_none() => Some(format!("{FAILED}{failure}")),
        None if says_failed => None,
        _ => return None,
    };
    Some((volume.clone(), replica, said))
}
